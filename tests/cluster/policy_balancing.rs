//! Who answers, by the load balancing of catalog and binding?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use http::Method;
use http::header::{COOKIE, HOST, SET_COOKIE};
use serde_json::{Value, json};

use crate::support::backend::Behaviour;
use crate::support::envoy::{Envoy, read};
use crate::support::policy::{Given, Mesh};
use crate::support::rig::Rig;
use crate::support::workload::{SERVICE_PORT, Workload};

crate::tests![
    round_robin_gives_each_the_same,
    random_gives_each_about_the_same_and_in_no_order,
    least_request_avoids_a_busy_endpoint,
    a_header_sticks_to_an_endpoint,
    a_query_parameter_sticks_to_an_endpoint,
    a_source_address_sticks_to_an_endpoint,
    a_cookie_that_envoy_sets_sticks_to_an_endpoint,
    slow_start_and_ring_size_reach_envoy,
];

fn balancing(fields: Value) -> Given {
    Given::catalog(json!({ "loadBalancing": fields }))
}

fn hash(key: Value) -> Given {
    balancing(json!({ "consistentHash": key }))
}

/// Who answered, one request after the other.
async fn sequence(mesh: &Mesh<'_>, service: &Workload, requests: usize) -> Result<Vec<String>> {
    let mut answers = Vec::new();
    for _ in 0..requests {
        answers.push(mesh.envoy.get(&service.host(), "/").await?.body);
    }
    Ok(answers)
}

fn counts(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.as_str()).or_default() += 1;
    }
    counts
}

async fn round_robin_gives_each_the_same(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "turns").await?;
    let given = balancing(json!({ "simple": "ROUND_ROBIN" }));
    let web = mesh.service("web", 3, &given).await?;

    let answers = sequence(&mesh, &web, 60).await?;

    let counts = counts(&answers);
    ensure!(counts.values().eq([&20, &20, &20]), "{counts:?}");
    mesh.expect_accepted().await
}

async fn random_gives_each_about_the_same_and_in_no_order(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "random").await?;
    let web = mesh
        .service("web", 3, &balancing(json!({ "simple": "RANDOM" })))
        .await?;

    let answers = sequence(&mesh, &web, 300).await?;

    // Five standard deviations around 100.
    let counts = counts(&answers);
    ensure!(counts.len() == 3, "{counts:?}");
    ensure!(
        counts.values().all(|count| (59..=141).contains(count)),
        "{counts:?}"
    );
    let repeats = answers.windows(2).filter(|pair| pair[0] == pair[1]).count();
    ensure!(repeats > 40, "only {repeats} answered twice in a row");
    mesh.expect_accepted().await
}

async fn least_request_avoids_a_busy_endpoint(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "least").await?;
    let given = balancing(json!({ "simple": "LEAST_REQUEST" }));
    let web = mesh.service("web", 3, &given).await?;
    let busy = &web.pods[0].backend;
    busy.behave_on("/hold", Behaviour::Hang);
    let mut held = tokio::task::JoinSet::new();
    while busy.count("/hold") < 2 {
        let request = mesh
            .envoy
            .request(Method::GET, &web.host(), SERVICE_PORT, "/hold");
        held.spawn(read(request));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let answers = sequence(&mesh, &web, 270).await?;

    // It is asked only where both of the two that Envoy draws are it: 30 times
    // of 270, give or take 5. At random it would be 90.
    let asked = busy.count("/");
    ensure!(
        asked < 60,
        "the busy one was asked {asked} times of {}",
        answers.len()
    );
    ensure!(counts(&answers).len() >= 2, "{:?}", counts(&answers));
    held.abort_all();
    mesh.expect_accepted().await
}

/// Asks three times for each of many users, who must each find the same
/// endpoint, and all endpoints among them.
async fn expect_sticky(web: &Workload, ask: impl AsyncFn(usize) -> Result<String>) -> Result<()> {
    let mut places = BTreeMap::<String, usize>::new();
    for user in 0..60 {
        let first = ask(user).await?;
        for _ in 0..2 {
            let again = ask(user).await?;
            ensure!(
                again == first,
                "user {user} strayed from {first} to {again}"
            );
        }
        *places.entry(first).or_default() += 1;
    }
    let pods: BTreeSet<String> = web
        .pods
        .iter()
        .map(|pod| pod.address().to_string())
        .collect();
    ensure!(places.keys().eq(&pods), "the users are at {places:?}");
    Ok(())
}

async fn a_header_sticks_to_an_endpoint(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "by-header").await?;
    let web = mesh
        .service("web", 3, &hash(json!({ "httpHeaderName": "x-user" })))
        .await?;
    expect_sticky(&web, async |user| {
        let request = mesh
            .envoy
            .request(Method::GET, &web.host(), SERVICE_PORT, "/");
        Ok(read(request.header("x-user", user.to_string())).await?.body)
    })
    .await?;
    mesh.expect_accepted().await
}

async fn a_query_parameter_sticks_to_an_endpoint(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "by-query").await?;
    let given = hash(json!({ "httpQueryParameterName": "user" }));
    let web = mesh.service("web", 3, &given).await?;
    expect_sticky(&web, async |user| {
        Ok(mesh
            .envoy
            .get(&web.host(), &format!("/?user={user}"))
            .await?
            .body)
    })
    .await?;
    mesh.expect_accepted().await
}

async fn a_source_address_sticks_to_an_endpoint(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "by-source").await?;
    let web = mesh
        .service("web", 3, &hash(json!({ "useSourceIp": true })))
        .await?;
    let clients = (0..60)
        .map(|_| Envoy::client_at(rig.addresses.next()?))
        .collect::<Result<Vec<_>>>()?;
    expect_sticky(&web, async |user| {
        let url = mesh.envoy.url(SERVICE_PORT);
        Ok(read(clients[user].get(url).header(HOST, web.host()))
            .await?
            .body)
    })
    .await?;
    mesh.expect_accepted().await
}

async fn a_cookie_that_envoy_sets_sticks_to_an_endpoint(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "by-cookie").await?;
    let cookie =
        |ttl: &str| hash(json!({ "httpCookie": { "name": "user", "path": "/shop", "ttl": ttl } }));
    let (lasting, passing) = (cookie("1h"), cookie("0s"));
    let brought = hash(json!({ "httpCookie": { "name": "user" } }));
    let (web, session, without) = tokio::try_join!(
        mesh.service("web", 3, &lasting),
        mesh.service("session", 1, &passing),
        mesh.service("without", 1, &brought),
    )?;
    let first = async |service: &Workload| {
        let answer = mesh.envoy.get(&service.host(), "/").await?;
        let cookie = answer
            .headers
            .get(SET_COOKIE)
            .context("no cookie was set")?;
        anyhow::Ok((answer.body, cookie.to_str()?.to_owned()))
    };

    let visitors: Vec<(String, String)> = try_join_all((0..60).map(|_| first(&web))).await?;

    expect_sticky(&web, async |user| {
        let (place, cookie) = &visitors[user];
        let value = cookie.split(';').next().unwrap_or_default();
        let request = mesh
            .envoy
            .request(Method::GET, &web.host(), SERVICE_PORT, "/");
        let answer = read(request.header(COOKIE, value)).await?;
        ensure!(
            answer.body == *place,
            "{cookie} was set by {place}: {answer:?}"
        );
        ensure!(!answer.headers.contains_key(SET_COOKIE), "{answer:?}");
        Ok(answer.body)
    })
    .await?;
    let (_, lasting) = &visitors[0];
    ensure!(
        lasting.starts_with("user=") && lasting.contains("Max-Age=3600"),
        "{lasting}"
    );
    ensure!(lasting.contains("Path=/shop"), "{lasting}");
    let (_, passing) = first(&session).await?;
    ensure!(
        passing.starts_with("user=") && !passing.contains("Max-Age"),
        "{passing}"
    );
    // Without a ttl it is the application's to set.
    let unset = mesh.envoy.get(&without.host(), "/").await?;
    ensure!(!unset.headers.contains_key(SET_COOKIE), "{unset:?}");
    mesh.expect_accepted().await
}

async fn slow_start_and_ring_size_reach_envoy(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "dumped").await?;
    let warmup = json!({ "duration": "90s", "minimumPercent": 20, "aggression": 2 });
    let slow = balancing(json!({ "simple": "ROUND_ROBIN", "warmup": warmup }));
    let default = balancing(json!({ "warmup": { "duration": "1m" } }));
    let ring = hash(json!({ "httpHeaderName": "x-user", "minimumRingSize": 4096 }));
    for (name, given, parts) in [
        (
            "slow",
            slow,
            vec!["\"90s\"", "round_robin_lb_config", "min_weight_percent"],
        ),
        ("default", default, vec!["\"60s\"", "slow_start_config"]),
        ("ring", ring, vec!["4096", "\"RING_HASH\""]),
    ] {
        let service = mesh.service(name, 1, &given).await?;
        let cluster = mesh.cluster(&service).await?.to_string();
        for part in parts {
            ensure!(cluster.contains(part), "{name}: no {part} in {cluster}");
        }
    }
    mesh.expect_accepted().await
}
