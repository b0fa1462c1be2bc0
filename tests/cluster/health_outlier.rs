//! Does Envoy's own outlier detection help while an unhealthy endpoint has to
//! stay, and is it left alone otherwise? Each change of it makes Envoy forget
//! whom it took out.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::checked::{Checked, quicker, with};
use crate::diff::{diff, viewer};
use crate::scene::{DR, Scene};
use crate::support::audit::Mark;
use crate::support::endpoint::{Endpoint, Trouble};
use crate::support::envoy::{Envoy, Options};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::traffic::Traffic;
use crate::support::wait;
use crate::support::workload::SERVICE_PORT;

crate::tests![
    ; alone:
    outlier_detection_is_tightened_once_while_somebody_bad_stays_and_restored_once(35)
];

/// Long enough for some periods of the operator.
const A_WHILE: Duration = Duration::from_secs(5);

/// What Envoy's outlier detection is by the policy, and while it helps.
const LOOSE: [u64; 2] = [7, 50];
const TIGHT: [u64; 2] = [1, 50];

async fn outlier_detection_is_tightened_once_while_somebody_bad_stays_and_restored_once(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "outlier").await?;
    let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
    tokio::try_join!(
        left_to_envoy(&scene, &envoy),
        over_the_floor(&scene, &envoy),
        taken_out(&scene, &envoy),
    )?;
    envoy.expect_all_accepted().await?;
    scene.unbind().await
}

/// A service whose policy says when Envoy takes an endpoint out.
async fn service<'a>(scene: &'a Scene<'a>, name: &str, more: Value) -> Result<Checked<'a>> {
    let checked = Checked::unbound(scene, name, 3).await?;
    let record = json!({
        "healthCheck": with(quicker(), more),
        "circuitBreaker": {"consecutiveErrors": 7, "baseEjectionTime": "60s"},
    });
    checked.bind(record, json!({})).await?;
    checked.is_healthy().await?;
    Ok(checked)
}

/// Only Envoy takes anybody out.
async fn left_to_envoy(scene: &Scene<'_>, envoy: &Envoy) -> Result<()> {
    let web = service(scene, "left-to-envoy", json!({"ejection": "outlier-only"})).await?;
    is(envoy, &web, LOOSE).await?;
    let before = spec(&web).await?;
    let (start, mark) = (generation(&web).await?, scene.rig.audit_mark().await?);
    let traffic = Traffic::start(envoy, &web.host(), Duration::from_millis(50))?;

    web.endpoints[0].fail(Trouble::Status(500)).await?;
    is(envoy, &web, TIGHT).await?;
    // One bad answer is enough then.
    wait::until("Envoy's own ejection", PATIENCE, async || {
        let known = envoy.endpoints(&web.host(), SERVICE_PORT).await?;
        let out: Vec<_> = known
            .iter()
            .filter(|known| known.health != "healthy")
            .collect();
        ensure!(
            out.len() == 1 && out[0].address.starts_with(&web.address(0)),
            "{known:?}"
        );
        Ok(())
    })
    .await?;
    web.counts(3, 2, 0).await?;
    tokio::time::sleep(A_WHILE).await;
    ensure!(
        writes(&web, mark).await? == 1,
        "it was written more than once"
    );
    let tight = spec(&web).await?;
    ensure!(
        tight["outlierDetection"]["interval"] == "1s"
            && tight["outlierDetection"]["baseEjectionTime"] == "60s"
            && tight["loadBalancer"] == before["loadBalancer"],
        "{tight}"
    );
    // The operator means it so, and a sync would change nothing.
    let (kubeconfig, _) = viewer(scene).await?;
    let answer = diff(scene, &kubeconfig, &[&web.name]).await?.json(0)?;
    let notes = answer["bindings"][0]["notes"].to_string();
    ensure!(notes.contains("tightened"), "{answer:#}");

    web.endpoints[0].recover().await?;
    is(envoy, &web, LOOSE).await?;
    web.is_healthy().await?;
    tokio::time::sleep(A_WHILE).await;
    ensure!(
        writes(&web, mark).await? == 2,
        "it was written more than twice"
    );
    ensure!(
        generation(&web).await? == start + 2,
        "its spec changed more than twice"
    );
    ensure!(
        spec(&web).await? == before,
        "{} is not {before}",
        spec(&web).await?
    );
    let pods = web.pod_writes(mark).await?;
    ensure!(pods.is_empty(), "{pods:?}");
    traffic.stop().await?;
    Ok(())
}

/// One is taken out, and another one has to stay.
async fn over_the_floor(scene: &Scene<'_>, envoy: &Envoy) -> Result<()> {
    let web = service(scene, "over-the-floor", json!({})).await?;
    let before = spec(&web).await?;
    let mark = scene.rig.audit_mark().await?;
    web.endpoints[0].fail(Trouble::Status(500)).await?;
    web.are_out(&[0]).await?;
    web.counts(3, 2, 1).await?;
    ensure!(writes(&web, mark).await? == 0, "nobody had to stay");
    web.endpoints[1].fail(Trouble::Status(500)).await?;
    web.counts(3, 1, 1).await?;
    is(envoy, &web, TIGHT).await?;
    tokio::time::sleep(A_WHILE).await;
    ensure!(
        writes(&web, mark).await? == 1,
        "it was written more than once"
    );
    let recovers = web.endpoints.iter().map(Endpoint::recover);
    futures::future::try_join_all(recovers).await?;
    web.is_healthy().await?;
    is(envoy, &web, LOOSE).await?;
    tokio::time::sleep(A_WHILE).await;
    ensure!(
        writes(&web, mark).await? == 2,
        "it was written more than twice"
    );
    ensure!(
        spec(&web).await? == before,
        "{} is not {before}",
        spec(&web).await?
    );
    Ok(())
}

/// Nobody has to stay.
async fn taken_out(scene: &Scene<'_>, envoy: &Envoy) -> Result<()> {
    let web = service(scene, "taken-out", json!({})).await?;
    let mark = scene.rig.audit_mark().await?;
    for _ in 0..3 {
        web.endpoints[0].fail(Trouble::Status(500)).await?;
        web.are_out(&[0]).await?;
        web.endpoints[0].recover().await?;
        web.are_out(&[]).await?;
    }
    web.is_healthy().await?;
    is(envoy, &web, LOOSE).await?;
    ensure!(writes(&web, mark).await? == 0, "it was written");
    Ok(())
}

async fn rule(web: &Checked<'_>) -> Result<kube::api::DynamicObject> {
    web.scene.rule(DR, &web.name).await
}

async fn spec(web: &Checked<'_>) -> Result<Value> {
    Ok(rule(web).await?.data["spec"]["trafficPolicy"].clone())
}

async fn generation(web: &Checked<'_>) -> Result<i64> {
    rule(web)
        .await?
        .metadata
        .generation
        .context("no generation")
}

/// Writes to its DestinationRule, whatever came of them.
async fn writes(web: &Checked<'_>, since: Mark) -> Result<usize> {
    let writes = web.scene.writes(since).await?;
    let own = format!("patch destinationrules {} ", web.name);
    Ok(writes.iter().filter(|line| line.starts_with(&own)).count())
}

/// Waits until Envoy takes an endpoint out after so many errors, and so many
/// percent of them at most.
async fn is(envoy: &Envoy, web: &Checked<'_>, expected: [u64; 2]) -> Result<()> {
    wait::until(&format!("{expected:?} in Envoy"), PATIENCE, async || {
        let cluster = envoy.cluster(&web.host(), SERVICE_PORT).await?;
        let cluster = cluster.context("it does not know the Service")?;
        let detection = &cluster["outlier_detection"];
        let found = ["consecutive_5xx", "max_ejection_percent"].map(|field| &detection[field]);
        ensure!(
            found == [&json!(expected[0]), &json!(expected[1])],
            "{detection}"
        );
        Ok(())
    })
    .await
}
