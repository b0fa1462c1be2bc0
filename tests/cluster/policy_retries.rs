//! How often does a request reach the backend, by the retries of catalog and
//! binding?

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::support::backend::Behaviour;
use crate::support::policy::{Given, Mesh};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::wait;

crate::tests![
    a_503_is_tried_again_where_retry_on_says_so,
    a_try_ends_at_its_own_timeout_and_the_request_at_the_whole_one,
    a_number_of_attempts_alone_bridges_a_dead_endpoint,
    attempts_0_turns_the_meshs_own_retries_off,
];

/// How long it is seen that nothing more comes.
const A_WHILE: Duration = Duration::from_millis(300);

async fn a_503_is_tried_again_where_retry_on_says_so(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "retries").await?;
    let retries = |retries: Value| Given::catalog(json!({ "retries": retries }));
    let cases = [
        (
            "asked",
            retries(json!({ "attempts": 2, "retryOn": "503" })),
            3,
        ),
        (
            "other",
            retries(json!({ "attempts": 2, "retryOn": "502,504" })),
            1,
        ),
        ("istios-own", retries(json!({ "attempts": 2 })), 1),
        ("number", retries(json!(2)), 1),
        (
            "both-givers",
            retries(json!({ "retryOn": "gateway-error" }))
                .binding(json!({ "trafficPolicy": { "retries": 1 } })),
            2,
        ),
        (
            "binding",
            Given::catalog(json!({})).binding(json!({ "trafficPolicy": { "retries": 2 } })),
            1,
        ),
        (
            "off",
            retries(json!({ "attempts": 0, "retryOn": "503" })),
            1,
        ),
    ];
    for (name, given, hits) in cases {
        let service = mesh.service(name, 1, &given).await?;
        let backend = &service.pods[0].backend;
        backend.behave(Behaviour::Status(503));

        let answer = mesh.envoy.get(&service.host(), "/").await?;

        ensure!(answer.status == 503, "{name}: {answer:?}");
        ensure!(backend.total() == hits, "{name}: {:?}", backend.hits());
    }
    mesh.expect_accepted().await
}

async fn a_try_ends_at_its_own_timeout_and_the_request_at_the_whole_one(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "tries").await?;
    let all = Given::catalog(json!({
        "retries": { "attempts": 2, "perTryTimeout": "500ms", "retryOn": "reset" },
    }));
    // Envoy then takes the try's timeout for the request's end (and we say so).
    let none = Given::catalog(json!({
        "retries": { "attempts": 2, "perTryTimeout": "500ms", "retryOn": "503" },
    }));
    let bounded = Given::catalog(json!({
        "timeout": "1200ms",
        "retries": { "attempts": 100, "perTryTimeout": "500ms", "retryOn": "5xx" },
    }));
    for (name, given, most) in [("all", all, 3), ("none", none, 1), ("bounded", bounded, 3)] {
        let service = rig.workload(&mesh.namespace, name, &["zone-a"]).await?;
        let valid = mesh.program(&service, &given).await?;
        let backend = &service.pods[0].backend;
        backend.behave(Behaviour::Hang);

        let answer = mesh.envoy.get(&service.host(), "/").await?;

        ensure!(answer.status == 504, "{name}: {answer:?}");
        // At 0, 0.5 and 1 s and some pauses, of 1.2.
        let least = if name == "bounded" { 2 } else { most };
        // The last one may still be on its way, and no more come.
        wait::until("the tries", PATIENCE, async || {
            let hits = backend.total();
            ensure!(hits >= least, "{name}: {hits} hits");
            Ok(())
        })
        .await?;
        wait::throughout("no more tries", A_WHILE, async || {
            let hits = backend.total();
            ensure!(hits <= most, "{name}: {hits} hits");
            Ok(())
        })
        .await?;
        let noted = valid
            .notes
            .iter()
            .any(|note| note.contains("instead of starting another attempt"));
        ensure!(noted == (name == "none"), "{name}: {:?}", valid.notes);
    }
    mesh.expect_accepted().await
}

async fn a_number_of_attempts_alone_bridges_a_dead_endpoint(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "bridged").await?;
    let given =
        Given::catalog(json!({ "retries": 2, "loadBalancing": { "simple": "ROUND_ROBIN" } }));
    let web = mesh.service("web", 2, &given).await?;
    web.pods[0].backend.stop();

    let tally = mesh.envoy.tally(&web.host(), "/", 20).await?;

    let alive = format!("200 {}", web.pods[1].address());
    ensure!(tally.get(&alive) == Some(&20), "{tally:?}");
    mesh.expect_accepted().await
}

async fn attempts_0_turns_the_meshs_own_retries_off(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "unbridged").await?;
    let given =
        Given::catalog(json!({ "retries": 0, "loadBalancing": { "simple": "ROUND_ROBIN" } }));
    let web = mesh.service("web", 2, &given).await?;
    web.pods[0].backend.stop();

    let tally = mesh.envoy.tally(&web.host(), "/", 20).await?;

    let alive = format!("200 {}", web.pods[1].address());
    ensure!(tally.get(&alive) == Some(&10), "{tally:?}");
    ensure!(
        tally.keys().any(|answer| answer.starts_with("503 ")),
        "{tally:?}"
    );
    mesh.expect_accepted().await
}
