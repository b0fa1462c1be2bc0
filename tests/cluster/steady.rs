//! Does the operator write what differs, and nothing else?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::scene::{DR, Scene, VS, version};
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, OPERATOR, PATIENCE, condition};
use crate::support::wait;

crate::tests![
    a_new_binding_costs_four_writes_in_their_order,
    a_change_of_the_catalog_writes_only_what_differs,
    a_record_that_changes_in_no_way_that_counts_is_not_written,
    ten_periods_after_two_applies_write_nothing
    ; alone:
    a_restart_writes_nothing(20),
    an_operator_killed_half_way_goes_on_where_it_was,
    a_restart_of_the_api_server_is_not_taken_for_a_mesh_without_istio(35)
];

async fn a_new_binding_costs_four_writes_in_their_order(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "four").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    let mark = scene.mark().await?;
    scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;
    let writes = scene.wrote(mark, 4).await?;
    ensure!(
        writes
            == [
                "patch servicebindings web 200",
                "patch destinationrules web 201",
                "patch virtualservices web 201",
                "patch servicebindings/status web 200",
            ],
        "{writes:?}"
    );
    Ok(())
}

async fn a_change_of_the_catalog_writes_only_what_differs(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "differs").await?;
    scene.bound("web").await?;
    let mut record = scene.record("web");

    let untouched = version(&scene.rule(DR, "web").await?)?;
    let mark = scene.mark().await?;
    record["timeout"] = json!("7s");
    scene.put(&record).await?;
    let writes = scene.wrote(mark, 2).await?;
    ensure!(
        writes
            == [
                "patch virtualservices web 200",
                "patch servicebindings/status web 200",
            ],
        "{writes:?}"
    );
    let vs = scene.rule(VS, "web").await?;
    ensure!(vs.data["spec"]["http"][0]["timeout"] == "7s", "{vs:?}");
    ensure!(
        version(&scene.rule(DR, "web").await?)? == untouched,
        "the DestinationRule was touched"
    );

    let untouched = version(&vs)?;
    let mark = scene.mark().await?;
    record["circuitBreaker"]["consecutiveErrors"] = json!(9);
    scene.put(&record).await?;
    let writes = scene.wrote(mark, 2).await?;
    ensure!(
        writes
            == [
                "patch destinationrules web 200",
                "patch servicebindings/status web 200",
            ],
        "{writes:?}"
    );
    ensure!(
        version(&scene.rule(VS, "web").await?)? == untouched,
        "the VirtualService was touched"
    );
    Ok(())
}

async fn a_record_that_changes_in_no_way_that_counts_is_not_written(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "nothing").await?;
    scene.bound("web").await?;
    let mut record = scene.record("web");
    let mark = scene.mark().await?;
    record["labels"] = json!({"team": "a"});
    scene.put(&record).await?;
    periods(2).await;
    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    Ok(())
}

// trap 27
async fn ten_periods_after_two_applies_write_nothing(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "steady").await?;
    for name in ["plain", "full", "retained"] {
        scene.service(name).await?;
    }
    scene
        .put(&crate::support::stack::record(
            &scene.id("plain"),
            &scene.namespace,
            "plain",
        ))
        .await?;
    scene.put(&full_record(&scene)).await?;
    scene.put(&scene.record("retained")).await?;
    let mut retained = scene.binding("retained");
    retained["spec"]["deletionPolicy"] = json!("Retain");
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [scene.binding("plain"), scene.binding("full"), retained],
    });
    let file = rig.folder().join("steady.json");
    std::fs::write(&file, manifest.to_string())?;
    let apply = async || {
        let file = file.to_str().context("path")?;
        rig.kubectl(&["apply", "-f", file]).await
    };

    apply().await?;
    let names = ["plain", "full", "retained"];
    for name in names {
        scene.synced(name).await?;
    }
    // Of a check it is said only now that there is no endpoint.
    let mark = scene.mark().await?;
    let before = versions(&scene, &names).await?;
    let again = apply().await?;
    ensure!(again.matches("unchanged").count() == 3, "{again}");

    let looked = looks(&scene.stack.operator).await?;
    periods(10).await;
    let looked = looks(&scene.stack.operator).await? - looked;
    ensure!(looked >= 10.0 * names.len() as f64, "{looked} looks");

    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    let after = versions(&scene, &names).await?;
    ensure!(before == after, "{before:?} {after:?}");
    Ok(())
}

/// A record that uses every row of the mapping.
fn full_record(scene: &Scene<'_>) -> Value {
    let mut record = scene.record("full");
    record["retries"] = json!({"attempts": 2, "perTryTimeout": "1s", "retryOn": "5xx"});
    record["circuitBreaker"] = json!({
        "consecutiveErrors": 5, "interval": "10s", "baseEjectionTime": "15s", "maxEjectionPercent": 40,
    });
    record["loadBalancing"] = json!({
        "consistentHash": {"httpCookie": {"name": "session", "path": "/", "ttl": "0s"}},
    });
    record["connectionPool"] = json!({
        "tcp": {"maxConnections": 10, "connectTimeout": "1s"},
        "http": {"http1MaxPendingRequests": 5, "maxRetries": 3},
    });
    record["healthCheck"] = json!({"endpoint": "/health", "interval": "10s"});
    record
}

/// Resource versions of both objects and the binding, by name.
async fn versions(scene: &Scene<'_>, names: &[&str]) -> Result<Vec<String>> {
    let mut versions = Vec::new();
    for name in names {
        versions.push(version(&scene.rule(VS, name).await?)?);
        versions.push(version(&scene.rule(DR, name).await?)?);
        let binding = scene.bindings().get(name).await?;
        versions.push(binding.metadata.resource_version.context("version")?);
    }
    Ok(versions)
}

/// How often the operator has looked at a binding.
async fn looks(operator: &Operator) -> Result<f64> {
    let page = format!("http://{OPERATOR}/metrics");
    let samples = operator.metrics(&page).await?;
    Ok(samples
        .sum("controller_runtime_reconcile_total", &[])
        .unwrap_or_default())
}

/// Lets that many of the operator's periods of two seconds go by, each of
/// which may be a tenth longer. Nothing else tells that nothing happens.
async fn periods(count: u64) {
    tokio::time::sleep(Duration::from_millis(2_250 * count)).await;
}

async fn a_restart_writes_nothing(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "restart").await?;
    scene.bound("web").await?;
    scene.bound("other").await?;
    let operator = &scene.stack.operator;
    let before = versions(&scene, &["web", "other"]).await?;
    let mark = scene.mark().await?;
    ensure!(operator.process.terminate(PATIENCE).await?, "a bad end");
    for round in ["terminated", "killed"] {
        operator.start_again().await?;
        operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
        stack::leads(operator).await?;
        periods(3).await;
        let looked = looks(operator).await?;
        ensure!(looked >= 3.0 * 2.0, "{round}: {looked} looks");
        let writes = scene.writes_and_events(mark).await?;
        ensure!(writes.is_empty(), "{round}: {writes:?}");
        operator.process.kill().await?;
    }
    let after = versions(&scene, &["web", "other"]).await?;
    ensure!(before == after, "{before:?} {after:?}");
    Ok(())
}

async fn a_restart_of_the_api_server_is_not_taken_for_a_mesh_without_istio(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "blip").await?;
    scene.bound("web").await?;
    let before = scene.bindings().get("web").await?;
    let mark = scene.mark().await?;

    rig.api.server.kill().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    rig.api.start_again().await?;
    wait::until("the API server", PATIENCE, async || {
        scene.bindings().get("web").await?;
        Ok(())
    })
    .await?;
    periods(10).await;

    let after = scene.bindings().get("web").await?;
    ensure!(before.status == after.status, "{:?}", after.status);
    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    // And the watches go on.
    scene.delete_rule(VS, "web").await?;
    scene
        .until(VS, "web", "the VirtualService again", |_| true)
        .await?;
    Ok(())
}

async fn an_operator_killed_half_way_goes_on_where_it_was(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "half-way").await?;
    let names: Vec<_> = (0..30).map(|n| format!("web-{n}")).collect();
    for name in &names {
        scene.service(name).await?;
        scene.put(&scene.record(name)).await?;
    }
    let operator = &scene.stack.operator;
    for (n, name) in names.iter().enumerate() {
        scene.create(&scene.binding(name)).await?;
        if n % 10 == 5 {
            operator.process.kill().await?;
            operator.start_again().await?;
        }
    }
    let mut uids = Vec::new();
    for name in &names {
        let binding = scene.synced(name).await?;
        let children = binding.status.context("status")?.children;
        for kind in [DR, VS] {
            let rule = scene.rule(kind, name).await?;
            ensure!(
                children
                    .iter()
                    .any(|c| c.kind == kind && Some(&c.uid) == rule.metadata.uid.as_ref()),
                "{children:?} {rule:?}"
            );
            uids.push(rule.metadata.uid);
        }
    }
    ensure!(uids.len() == 60, "{uids:?}");
    ensure!(
        condition(&scene.bindings().get("web-0").await?, "Conflict").as_deref()
            == Some("False NoConflict"),
        "a kill looks like a conflict"
    );
    Ok(())
}
