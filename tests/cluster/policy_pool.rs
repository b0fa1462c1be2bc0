//! What is refused, closed or held back, by the connection pool of catalog and
//! binding?

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::backend::Behaviour;
use crate::support::envoy::{Answer, read};
use crate::support::policy::{Given, Mesh};
use crate::support::rig::Rig;
use crate::support::wait;
use crate::support::workload::{SERVICE_PORT, Workload};

crate::tests![
    what_exceeds_connections_and_queue_is_refused,
    what_exceeds_the_requests_is_refused,
    a_connection_is_closed_after_the_set_number_of_requests,
    retries_at_once_are_limited_to_the_attempts_of_one_request,
    times_of_the_pool_reach_envoy,
];

const PATIENCE: Duration = Duration::from_secs(60);

fn pool(fields: Value) -> Given {
    Given::catalog(json!({ "connectionPool": fields }))
}

/// Sends a request that the backend never answers, once it has arrived there.
/// How long it is seen that nothing more comes.
const A_WHILE: Duration = Duration::from_millis(300);

async fn hold(
    mesh: &Mesh<'_>,
    service: &Workload,
    held: &mut JoinSet<Result<Answer>>,
) -> Result<()> {
    let backend = &service.pods[0].backend;
    backend.behave_on("/hold", Behaviour::Hang);
    let request = mesh
        .envoy
        .request(Method::GET, &service.host(), SERVICE_PORT, "/hold");
    held.spawn(read(request));
    wait::until("the request that is held", PATIENCE, async || {
        ensure!(backend.count("/hold") == 1, "it is not there");
        Ok(())
    })
    .await
}

fn is_overflow(answer: &Answer) -> bool {
    answer.status == 503 && answer.headers.contains_key("x-envoy-overloaded")
}

async fn what_exceeds_connections_and_queue_is_refused(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "overflow").await?;
    let given = pool(json!({
        "tcp": { "maxConnections": 1 },
        "http": { "http1MaxPendingRequests": 1 },
    }));
    let web = mesh.service("web", 1, &given).await?;
    let mut held = JoinSet::new();
    hold(&mesh, &web, &mut held).await?;

    // One of them waits for the connection; it would do so for ever.
    let mut asked = JoinSet::new();
    for _ in 0..4 {
        asked.spawn(read(mesh.envoy.request(
            Method::GET,
            &web.host(),
            SERVICE_PORT,
            "/",
        )));
    }
    let mut refused = Vec::new();
    while refused.len() < 3
        && let Some(answer) = asked.join_next().await
    {
        refused.push(answer??);
    }

    ensure!(refused.iter().all(is_overflow), "{refused:?}");
    ensure!(
        asked.len() == 1 && web.pods[0].backend.total() == 1,
        "{refused:?}"
    );
    held.abort_all();
    // Envoy drops the connection of the held request, and the next is served.
    let served = asked.join_next().await.transpose()?.transpose()?;
    ensure!(
        served.as_ref().is_some_and(|answer| answer.status == 200),
        "{served:?}"
    );
    mesh.expect_accepted().await
}

async fn what_exceeds_the_requests_is_refused(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "requests").await?;
    let web = mesh
        .service(
            "web",
            1,
            &pool(json!({ "http": { "http2MaxRequests": 1 } })),
        )
        .await?;
    let mut held = JoinSet::new();
    hold(&mesh, &web, &mut held).await?;

    let refused = mesh.envoy.get(&web.host(), "/").await?;
    held.shutdown().await;
    let served = wait::until("the end of the held request", PATIENCE, async || {
        let answer = mesh.envoy.get(&web.host(), "/").await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer)
    })
    .await?;

    ensure!(is_overflow(&refused), "{refused:?}");
    ensure!(
        served.body == web.pods[0].address().to_string(),
        "{served:?}"
    );
    mesh.expect_accepted().await
}

async fn a_connection_is_closed_after_the_set_number_of_requests(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "closed").await?;
    for (name, requests, connections) in [("each", 1, 6), ("third", 3, 2), ("none", 1000, 1)] {
        let given = pool(json!({ "http": { "maxRequestsPerConnection": requests } }));
        let service = mesh.service(name, 1, &given).await?;
        mesh.envoy.tally(&service.host(), "/", 6).await?;
        let hits = service.pods[0].backend.hits();
        let peers: BTreeSet<_> = hits.iter().map(|hit| hit.peer).collect();
        ensure!(peers.len() == connections, "{name}: {hits:?}");
    }
    mesh.expect_accepted().await
}

async fn retries_at_once_are_limited_to_the_attempts_of_one_request(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "at-once").await?;
    let retries = json!({ "attempts": 1, "perTryTimeout": "1s", "retryOn": "reset" });
    let fallback = Given::catalog(json!({ "retries": retries }));
    let given = Given::catalog(json!({
        "retries": retries,
        "connectionPool": { "http": { "maxRetries": 8 } },
    }));
    let cases = [("fallback", fallback, 4), ("given", given, 6)];
    try_join_all(cases.into_iter().map(async |(name, given, hits)| {
        let service = mesh.service(name, 1, &given).await?;
        let backend = &service.pods[0].backend;
        backend.behave(Behaviour::Hang);
        let host = service.host();

        // All three tries end together, and all three want to be repeated.
        let answers = try_join_all((0..3).map(|_| mesh.envoy.get(&host, "/"))).await?;

        ensure!(
            answers.iter().all(|answer| answer.status >= 503),
            "{name}: {answers:?}"
        );
        // The last ones may still be on their way, and no more come.
        wait::until("the tries", PATIENCE, async || {
            ensure!(backend.total() >= hits, "{name}: {} hits", backend.total());
            Ok(())
        })
        .await?;
        wait::throughout("no more tries", A_WHILE, async || {
            ensure!(backend.total() == hits, "{name}: {} hits", backend.total());
            Ok(())
        })
        .await?;
        anyhow::Ok(())
    }))
    .await?;
    mesh.expect_accepted().await
}

async fn times_of_the_pool_reach_envoy(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "times").await?;
    let given = pool(json!({
        "tcp": { "connectTimeout": "1.5s", "idleTimeout": "33s" },
        "http": { "idleTimeout": "1m30s" },
    }));
    let web = mesh.service("web", 1, &given).await?;

    let cluster = mesh.cluster(&web).await?;

    ensure!(cluster["connect_timeout"] == "1.500s", "{cluster}");
    // HTTP's idle time is the one that counts for HTTP.
    let idle = cluster.to_string().contains("\"idle_timeout\":\"90s\"");
    ensure!(idle, "{cluster}");
    mesh.expect_accepted().await
}
