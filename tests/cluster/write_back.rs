//! Is the catalog told who serves behind a bound Service, and nothing of
//! others'?

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DynamicObject;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, Scene, VS, cluster_id, foreign_route, message};
use crate::support::backend;
use crate::support::operator::{LEASE, NAMESPACE};
use crate::support::rig::Rig;
use crate::support::stack::{self, PATIENCE};
use crate::support::wait;

crate::tests![
    the_catalogs_list_follows_who_serves,
    a_binding_that_goes_takes_its_endpoints_along_and_a_frozen_one_does_not,
    the_record_of_another_service_is_told_nothing,
    two_clusters_keep_each_others_endpoints
    ; alone:
    a_restart_tells_each_list_once_and_then_nothing_until_the_service_comes_anew(20),
    another_writer_as_this_cluster_is_told_of_and_not_fought,
    the_next_leader_speaks_for_who_is_shut_out_by_somebody_elses_rule,
    a_replica_that_is_told_to_end_leaves_its_withdrawals_in_the_lease
];

/// Where leaders note for each other what is yet to be withdrawn.
const WITHDRAWALS: &str = "catalog-mesh.aikernel.io/withdrawals";

/// How long the catalog may take to follow: ten times what is promised.
const SOON: Duration = Duration::from_secs(10);

/// The endpoints that the catalog has from this cluster, as `10.1.0.1 true`.
async fn listed(scene: &Scene<'_>, name: &str) -> Result<BTreeSet<String>> {
    let own = cluster_id(scene.rig).await?;
    let record = scene.stack.catalog.get(&scene.id(name)).await?;
    let endpoints = record["endpoints"].as_array().context("no endpoints")?;
    let line = |endpoint: &Value| {
        let address = endpoint["address"].as_str().unwrap_or_default();
        format!("{address} {}", endpoint["ready"])
    };
    Ok(endpoints
        .iter()
        .filter(|endpoint| endpoint["cluster"] == own.as_str())
        .map(line)
        .collect())
}

/// Waits until the catalog lists these; says how long it took.
pub(crate) async fn lists(
    scene: &Scene<'_>,
    name: &str,
    expected: &BTreeSet<String>,
) -> Result<Duration> {
    let since = Instant::now();
    wait::until("the catalog's endpoints", PATIENCE, async || {
        let listed = listed(scene, name).await?;
        ensure!(listed == *expected, "{listed:?}, not {expected:?}");
        Ok(())
    })
    .await?;
    Ok(since.elapsed())
}

/// Reports one endpoint as this writer.
pub(crate) async fn report(scene: &Scene<'_>, name: &str, writer: Value) -> Result<()> {
    let (url, id) = (&scene.stack.catalog.url, scene.id(name));
    let endpoint = json!({"address": "192.0.2.1", "port": 80, "ready": true});
    let body = json!({"writer": writer, "endpoints": [endpoint]});
    let http = reqwest::Client::builder().no_proxy().build()?;
    let request = http.put(format!("{url}/api/v1/services/{id}/endpoints"));
    request.json(&body).send().await?.error_for_status()?;
    Ok(())
}

pub(crate) async fn bind(scene: &Scene<'_>, name: &str) -> Result<()> {
    scene.put(&scene.record(name)).await?;
    scene.create(&scene.binding(name)).await?;
    scene.synced(name).await?;
    Ok(())
}

async fn the_catalogs_list_follows_who_serves(rig: &Rig) -> Result<()> {
    follows_who_serves(Scene::shared(rig, "follows").await?).await
}

/// The catalog's list does.
pub(crate) async fn follows_who_serves(scene: Scene<'_>) -> Result<()> {
    let rig = scene.rig;
    let mut web = rig
        .workload(&scene.namespace, "web", &["zone-a", "zone-b"])
        .await?;
    bind(&scene, "web").await?;
    let line = |address, ready| format!("{address} {ready}");
    let addresses: Vec<_> = web.pods.iter().map(|pod| pod.address()).collect();
    let mut expected: BTreeSet<_> = addresses.iter().map(|a| line(a, true)).collect();
    lists(&scene, "web", &expected).await?;

    let record = scene.stack.catalog.get(&scene.id("web")).await?;
    let first = &record["endpoints"][0];
    ensure!(first["port"] == backend::PORT, "{first}");
    ensure!(
        ["zone-a", "zone-b"]
            .iter()
            .any(|zone| first["zone"] == *zone),
        "{first}"
    );
    let revision = record["revision"].clone();

    let place = web.add_pod(&rig.addresses, "zone-a").await?;
    let third = web.pods[place].address();
    web.wait_for_endpoints(3).await?;
    expected.insert(line(&third, true));
    let added = lists(&scene, "web", &expected).await?;
    ensure!(added < SOON, "{added:?}");

    web.set_ready(0, false).await?;
    web.wait_for_endpoints(2).await?;
    expected.remove(&line(&addresses[0], true));
    expected.insert(line(&addresses[0], false));
    let unready = lists(&scene, "web", &expected).await?;
    ensure!(unready < SOON, "{unready:?}");

    web.delete_pod(1).await?;
    web.wait_for_endpoints(1).await?;
    expected.remove(&line(&addresses[1], true));
    let removed = lists(&scene, "web", &expected).await?;
    ensure!(removed < SOON, "{removed:?}");
    eprintln!(
        "the catalog followed an endpoint added in {added:?}, unready in {unready:?}, removed in {removed:?}"
    );

    let record = scene.stack.catalog.get(&scene.id("web")).await?;
    ensure!(
        record["revision"] == revision,
        "a report moved the revision"
    );
    scene.services().delete("web", &Default::default()).await?;
    lists(&scene, "web", &BTreeSet::new()).await?;
    Ok(())
}

async fn a_binding_that_goes_takes_its_endpoints_along_and_a_frozen_one_does_not(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::shared(rig, "withdrawn").await?;
    let mut lines = Vec::new();
    let mut workloads = Vec::new();
    for name in ["web", "retained", "frozen"] {
        let workload = rig.workload(&scene.namespace, name, &["zone-a"]).await?;
        bind(&scene, name).await?;
        let expected = BTreeSet::from([format!("{} true", workload.pods[0].address())]);
        lists(&scene, name, &expected).await?;
        lines.push(expected);
        workloads.push(workload);
    }
    let retain = json!({"spec": {"deletionPolicy": "Retain"}});
    scene.change("retained", retain).await?;
    let suspend = json!({"spec": {"suspend": true}});
    scene.change("frozen", suspend).await?;
    scene
        .says("frozen", "Suspended", "True SuspendedByBinding")
        .await?;
    workloads[2].add_pod(&rig.addresses, "zone-b").await?;
    workloads[2].wait_for_endpoints(2).await?;
    for name in ["web", "retained"] {
        scene.delete_binding(name).await?;
        scene.gone(name).await?;
        lists(&scene, name, &BTreeSet::new()).await?;
    }
    ensure!(
        listed(&scene, "frozen").await? == lines[2],
        "a frozen one spoke"
    );
    scene.delete_binding("frozen").await?;
    scene.gone("frozen").await?;
    sleep(Duration::from_secs(3)).await;
    ensure!(
        listed(&scene, "frozen").await? == lines[2],
        "a frozen one withdrew"
    );
    Ok(())
}

async fn the_record_of_another_service_is_told_nothing(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "mismatch").await?;
    let other = rig.workload(&scene.namespace, "other", &["zone-a"]).await?;
    let mut record = scene.record("other");
    record["name"] = json!("somebody-elses");
    scene.put(&record).await?;
    scene.create(&scene.binding("other")).await?;
    scene
        .says("other", "CatalogSynced", "True RecordMismatch")
        .await?;
    // One that is told shows that the reporter is at work.
    let web = rig.workload(&scene.namespace, "web", &["zone-a"]).await?;
    bind(&scene, "web").await?;
    let expected = BTreeSet::from([format!("{} true", web.pods[0].address())]);
    lists(&scene, "web", &expected).await?;
    sleep(Duration::from_secs(3)).await;
    ensure!(listed(&scene, "other").await?.is_empty());

    // The owner corrects the record, and takes it back.
    record["name"] = json!("other");
    scene.put(&record).await?;
    scene.says("other", "CatalogSynced", "True Synced").await?;
    let expected = BTreeSet::from([format!("{} true", other.pods[0].address())]);
    lists(&scene, "other", &expected).await?;
    record["name"] = json!("somebody-elses");
    scene.put(&record).await?;
    lists(&scene, "other", &BTreeSet::new()).await?;
    Ok(())
}

async fn two_clusters_keep_each_others_endpoints(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "clusters").await?;
    scene.put(&scene.record("web")).await?;
    let elsewhere = json!({"cluster": "elsewhere", "epoch": 1_000_000, "sequence": 1});
    report(&scene, "web", elsewhere).await?;

    let web = rig.workload(&scene.namespace, "web", &["zone-a"]).await?;
    scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;
    let expected = BTreeSet::from([format!("{} true", web.pods[0].address())]);
    lists(&scene, "web", &expected).await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    lists(&scene, "web", &BTreeSet::new()).await?;
    let record = scene.stack.catalog.get(&scene.id("web")).await?;
    let endpoints = record["endpoints"].as_array().context("no endpoints")?;
    ensure!(
        endpoints.len() == 1 && endpoints[0]["cluster"] == "elsewhere",
        "{endpoints:?}"
    );
    Ok(())
}

async fn a_restart_tells_each_list_once_and_then_nothing_until_the_service_comes_anew(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "restart").await?;
    let web = rig.workload(&scene.namespace, "web", &["zone-a"]).await?;
    bind(&scene, "web").await?;
    let expected = BTreeSet::from([format!("{} true", web.pods[0].address())]);
    lists(&scene, "web", &expected).await?;
    scene.stack.operator.process.kill().await?;

    let url = &scene.stack.catalog.url;
    let operator = stack::operator(rig, "restarted", Path::new(PROGRAM), url, &[]).await?;
    let metrics = format!("http://{}/metrics", stack::OPERATOR);
    let accepted = async || -> Result<f64> {
        let samples = operator.metrics(&metrics).await?;
        let labels = ["kind=\"endpoints\"", "outcome=\"accepted\""];
        samples
            .sum("catalog_mesh_reports_total", &labels)
            .context("the metric")
    };
    wait::until("the first report", PATIENCE, async || {
        ensure!(accepted().await? >= 1.0);
        Ok(())
    })
    .await?;
    // Several looks at each binding, and some time for a late one.
    sleep(Duration::from_secs(8)).await;
    let all = accepted().await?;
    sleep(Duration::from_secs(8)).await;
    ensure!(accepted().await? == all, "reports at rest");
    lists(&scene, "web", &expected).await?;

    // What its owner writes takes nothing away of what was reported.
    let mut record = scene.record("web");
    record["timeout"] = json!("7s");
    scene.put(&record).await?;
    let seven = |vs: &DynamicObject| vs.data["spec"]["http"][0]["timeout"] == "7s";
    scene.until(VS, "web", "the update", seven).await?;
    sleep(Duration::from_secs(2)).await;
    ensure!(accepted().await? == all, "a report because of an update");
    lists(&scene, "web", &expected).await?;
    // Its end does.
    scene.stack.catalog.delete(&scene.id("web")).await?;
    scene.put(&record).await?;
    lists(&scene, "web", &expected).await?;
    scene.synced("web").await?;
    let binding = scene.bindings().get("web").await?;
    let said = stack::condition(&binding, "CatalogSynced");
    ensure!(said.as_deref() == Some("True Synced"), "{said:?}");
    operator.process.kill().await
}

async fn another_writer_as_this_cluster_is_told_of_and_not_fought(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "rival").await?;
    let mut web = rig.workload(&scene.namespace, "web", &["zone-a"]).await?;
    bind(&scene, "web").await?;
    let expected = BTreeSet::from([format!("{} true", web.pods[0].address())]);
    lists(&scene, "web", &expected).await?;

    let writer = json!({"cluster": cluster_id(rig).await?, "epoch": 1_000_000, "sequence": 1});
    report(&scene, "web", writer).await?;
    web.add_pod(&rig.addresses, "zone-b").await?;
    let binding = scene
        .says("web", "CatalogSynced", "True DuplicateWriter")
        .await?;
    let said = message(&binding, "CatalogSynced");
    ensure!(said.contains("--cluster-id"), "{said}");
    let ready = stack::condition(&binding, "Ready");
    ensure!(ready.as_deref() == Some("True Synced"), "{ready:?}");
    wait::until("the Event", PATIENCE, async || {
        let events = scene.events("web").await?;
        let told = events
            .iter()
            .any(|event| event == "Warning DuplicateWriter");
        ensure!(told, "{events:?}");
        Ok(())
    })
    .await?;
    // Policies are followed as before.
    let mut record = scene.record("web");
    record["timeout"] = json!("7s");
    scene.put(&record).await?;
    scene
        .until(VS, "web", "the new timeout", |vs| {
            vs.data["spec"]["http"][0]["timeout"] == "7s"
        })
        .await?;
    let theirs = BTreeSet::from(["192.0.2.1 true".to_owned()]);
    ensure!(listed(&scene, "web").await? == theirs, "it fights");
    Ok(())
}

async fn the_next_leader_speaks_for_who_is_shut_out_by_somebody_elses_rule(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "shut-out").await?;
    let mut web = rig.workload(&scene.namespace, "web", &["zone-a"]).await?;
    bind(&scene, "web").await?;
    let mut expected = BTreeSet::from([format!("{} true", web.pods[0].address())]);
    lists(&scene, "web", &expected).await?;
    let route = foreign_route(&scene.host("web"));
    scene.foreign(VS, "theirs", route).await?;
    let binding = scene.says("web", "Conflict", "True ForeignRule").await?;
    scene.stack.operator.process.kill().await?;
    let place = web.add_pod(&rig.addresses, "zone-b").await?;
    web.wait_for_endpoints(2).await?;
    expected.insert(format!("{} true", web.pods[place].address()));
    scene.stack.operator.start_again().await?;
    lists(&scene, "web", &expected).await?;
    let now = scene.bindings().get("web").await?;
    ensure!(now.status == binding.status, "{:?}", now.status);
    Ok(())
}

async fn a_replica_that_is_told_to_end_leaves_its_withdrawals_in_the_lease(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "bequeathed").await?;
    let web = rig.workload(&scene.namespace, "web", &["zone-a"]).await?;
    bind(&scene, "web").await?;
    let expected = BTreeSet::from([format!("{} true", web.pods[0].address())]);
    lists(&scene, "web", &expected).await?;
    scene.stack.catalog.process.kill().await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    let well = scene.stack.operator.process.terminate(PATIENCE).await?;
    ensure!(well, "it ended with a failure");
    let leases = Api::<Lease>::namespaced(rig.client.clone(), NAMESPACE);
    let lease = leases.get(LEASE).await?;
    let noted = lease.annotations().get(WITHDRAWALS);
    ensure!(noted == Some(&scene.id("web")), "{noted:?}");
    Ok(())
}
