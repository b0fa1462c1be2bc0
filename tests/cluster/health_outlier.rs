//! Does Envoy's own outlier detection help while an unhealthy endpoint has to
//! stay, and is it left alone otherwise? Each change of it makes Envoy forget
//! whom it took out.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::checked::{Checked, quicker, with};
use crate::diff::{diff, viewer};
use crate::health_taken_over::checks;
use crate::scene::{DR, Scene};
use crate::support::audit::Mark;
use crate::support::endpoint::{Endpoint, Trouble};
use crate::support::envoy::{Envoy, Options};
use crate::support::rig::Rig;
use crate::support::stack::{OPERATOR, PATIENCE};
use crate::support::traffic::Traffic;
use crate::support::wait;
use crate::support::workload::SERVICE_PORT;

crate::tests![
    ; alone:
    outlier_detection_is_tightened_once_while_somebody_bad_stays_and_restored_once(80)
];

/// Long enough for some periods of the operator.
const A_WHILE: Duration = Duration::from_secs(5);

/// What Envoy's outlier detection is by the policy, and while it helps.
const LOOSE: [u64; 2] = [7, 50];
const TIGHT: [u64; 2] = [1, 50];
/// While more than half are bad.
const TIGHTEST: [u64; 2] = [1, 99];

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
    // The operator starts anew in this one.
    one_by_one(&scene, &envoy).await?;
    envoy.expect_all_accepted().await?;
    scene.unbind().await
}

/// A service whose policy says when Envoy takes an endpoint out.
async fn service<'a>(
    scene: &'a Scene<'a>,
    name: &str,
    size: usize,
    more: Value,
) -> Result<Checked<'a>> {
    let checked = Checked::unbound(scene, name, size).await?;
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
    let web = service(
        scene,
        "left-to-envoy",
        3,
        json!({"ejection": "outlier-only"}),
    )
    .await?;
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
    let web = service(scene, "over-the-floor", 3, json!({})).await?;
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
    let web = service(scene, "taken-out", 3, json!({})).await?;
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

/// One after the other fails until one is left, while the operator starts anew:
/// that changes nothing, neither at once nor when it has judged them all.
async fn one_by_one(scene: &Scene<'_>, envoy: &Envoy) -> Result<()> {
    let mode = json!({"ejection": "outlier-only"});
    let web = service(scene, "one-by-one", 4, mode).await?;
    is(envoy, &web, LOOSE).await?;
    let before = spec(&web).await?;
    let (start, mark) = (generation(&web).await?, scene.rig.audit_mark().await?);
    for (bad, expected, changes) in [(0, TIGHT, 1), (1, TIGHT, 1), (2, TIGHTEST, 2)] {
        web.endpoints[bad].fail(Trouble::Status(500)).await?;
        web.counts(4, 3 - bad, 0).await?;
        is(envoy, &web, expected).await?;
        if bad > 0 {
            start_anew(&web).await?;
            tokio::time::sleep(A_WHILE).await;
        }
        let wrote = writes(&web, mark).await?;
        ensure!(wrote == changes, "{wrote} writes with {bad} besides bad");
        is(envoy, &web, expected).await?;
    }
    // It is over, and somebody else has to find that out.
    scene.stack.operator.process.kill().await?;
    let recovers = web.endpoints.iter().map(Endpoint::recover);
    futures::future::try_join_all(recovers).await?;
    scene.stack.operator.start_again().await?;
    web.is_healthy().await?;
    is(envoy, &web, LOOSE).await?;
    tokio::time::sleep(A_WHILE).await;
    ensure!(
        writes(&web, mark).await? == 3 && generation(&web).await? == start + 3,
        "its spec changed more than three times"
    );
    let after = spec(&web).await?;
    ensure!(after == before, "{after} is not {before}");
    Ok(())
}

/// Kills the operator, and waits until the next one has judged the endpoints.
async fn start_anew(web: &Checked<'_>) -> Result<()> {
    let operator = &web.scene.stack.operator;
    operator.process.kill().await?;
    operator.start_again().await?;
    let service = format!("{}/{}", web.scene.namespace, web.name);
    checks(operator, OPERATOR, &service).await
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
