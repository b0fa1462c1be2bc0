//! Does a request end at the timeout of catalog or binding?

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::Instant;

use crate::support::backend::Behaviour;
use crate::support::policy::{Given, Mesh};
use crate::support::rig::Rig;
use crate::support::workload::SERVICE_PORT;

crate::tests![
    a_request_that_outlasts_the_timeout_gets_504,
    without_a_timeout_a_request_may_take_any_time,
];

async fn a_request_that_outlasts_the_timeout_gets_504(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "timeout").await?;
    let given = Given::catalog(json!({ "timeout": "3s" }))
        .binding(json!({ "trafficPolicy": { "timeout": "40s" } }));
    let web = mesh.service("web", 1, &given).await?;
    let backend = &web.pods[0].backend;
    backend.behave_on("/hang", Behaviour::Hang);
    backend.behave_on("/slow", Behaviour::Delay(Duration::from_millis(200)));

    let slow = mesh.envoy.get(&web.host(), "/slow").await?;
    let start = Instant::now();
    let hung = mesh.envoy.get(&web.host(), "/hang").await?;
    let took = start.elapsed();

    ensure!(slow.status == 200, "{slow:?}");
    ensure!(hung.status == 504, "{hung:?}");
    // The binding's 40 s would be far above this. Envoy's clock may be a
    // little early; what it counts to is in its configuration.
    let about = Duration::from_millis(2_900)..Duration::from_secs(30);
    ensure!(about.contains(&took), "it took {took:?}");
    let routes = mesh.envoy.routes(&web.host(), SERVICE_PORT).await?;
    let timeouts: Vec<_> = routes
        .iter()
        .flatten()
        .map(|route| &route["route"]["timeout"])
        .collect();
    ensure!(timeouts == [&json!("3s")], "{routes:?}");
    ensure!(backend.count("/hang") == 1, "{:?}", backend.hits());
    mesh.expect_accepted().await
}

async fn without_a_timeout_a_request_may_take_any_time(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "endless").await?;
    let web = mesh
        .service("web", 1, &Given::catalog(json!({ "retries": 1 })))
        .await?;

    let routes = mesh.envoy.routes(&web.host(), SERVICE_PORT).await?;

    // Envoy's own default, where nothing is said, is 15 s; 0 s is "never".
    let timeouts: Vec<_> = routes
        .iter()
        .flatten()
        .map(|route| &route["route"]["timeout"])
        .collect();
    ensure!(timeouts == [&json!("0s")], "{routes:?}");
    mesh.expect_accepted().await
}
