//! Does what others wrote survive that an endpoint leaves and comes back: their
//! labels and conditions, other bindings, the API server's peace?

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::checked::{Checked, DRAINING, EJECTED, OURS, quick, quicker, with};
use crate::scene::Scene;
use crate::support::audit::Mark;
use crate::support::endpoint::Trouble;
use crate::support::rig::Rig;
use crate::support::stack;

crate::tests![
    a_label_of_somebody_else_stays_and_counts_as_out,
    whatever_stands_on_a_pod_is_there_after_it_left_and_came_back,
    of_two_bindings_for_a_service_only_the_older_one_takes_pods_out
    ; alone:
    endpoints_that_flap_cost_no_more_than_a_write_a_second(60)
];

/// How long it is watched that nothing happens.
const A_WHILE: Duration = Duration::from_secs(4);

async fn a_label_of_somebody_else_stays_and_counts_as_out(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "somebody-else").await?;
    let web = Checked::start(&scene, "web", 4, quicker()).await?;
    // One is drained by hand, one bears our value without our annotation.
    web.edit(0, json!({"labels": {DRAINING: "maintenance"}}))
        .await?;
    web.edit(1, json!({"labels": {DRAINING: OURS}})).await?;
    let mark = rig.audit_mark().await?;
    let before = metadata(&web).await?;
    for place in 0..3 {
        web.endpoints[place].fail(Trouble::Status(500)).await?;
    }
    // Two of four may be out, and are.
    web.counts(4, 1, 0).await?;
    sleep(A_WHILE).await;
    let writes = web.pod_writes(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    // The label goes, and with it what it counted for.
    web.edit(0, json!({"labels": {DRAINING: null}})).await?;
    wait_for_ours(&web, 1).await?;
    for place in 0..3 {
        web.endpoints[place].recover().await?;
    }
    web.counts(4, 4, 0).await?;
    let mut after = metadata(&web).await?;
    let drained = after.get_mut(&web.pod(0)).context("no such Pod")?;
    drained["labels"][DRAINING] = json!("maintenance");
    ensure!(before == after, "{before:?} {after:?}");
    scene.unbind().await
}

/// Waits until so many are out because of us.
async fn wait_for_ours(web: &Checked<'_>, count: usize) -> Result<()> {
    crate::support::wait::until("Pods of ours", stack::PATIENCE, async || {
        let marks = web.marks().await?;
        let ours = marks.values().filter(|(_, note)| note.is_some()).count();
        ensure!(ours == count, "{marks:?}");
        Ok(())
    })
    .await
}

/// Labels and annotations of all its Pods.
async fn metadata(web: &Checked<'_>) -> Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    for place in 0..web.endpoints.len() {
        let pod = web.pods().get(&web.pod(place)).await?;
        let read = json!({"labels": pod.labels(), "annotations": pod.annotations()});
        all.insert(pod.name_any(), read);
    }
    Ok(all)
}

async fn whatever_stands_on_a_pod_is_there_after_it_left_and_came_back(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "stands").await?;
    let web = Checked::start(&scene, "web", 2, quicker()).await?;
    let theirs = json!({
        "labels": {"team": "shop", "istio.io/rev": "stable"},
        "annotations": {"example.org/note": "keep"},
        "finalizers": ["example.org/theirs"],
    });
    web.edit(0, theirs).await?;
    let gate = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True"}, {"type": "example.org/gate", "status": "True"},
    ]}});
    let (params, gate) = (PatchParams::default(), Patch::Merge(gate));
    web.pods().patch_status(&web.pod(0), &params, &gate).await?;
    let before = web.pods().get(&web.pod(0)).await?;

    web.endpoints[0].fail(Trouble::Status(500)).await?;
    web.are_out(&[0]).await?;
    let mut out = web.pods().get(&web.pod(0)).await?;
    ensure!(out.status == before.status, "its status was touched");
    out.labels_mut().remove(DRAINING);
    out.annotations_mut().remove(EJECTED);
    ensure!(bare(out)? == bare(before.clone())?, "more was written");
    // Somebody writes while it is out.
    web.edit(0, json!({"labels": {"team": "cart"}})).await?;
    web.endpoints[0].recover().await?;
    web.are_out(&[]).await?;
    let after = web.pods().get(&web.pod(0)).await?;
    let mut expected = before;
    expected
        .labels_mut()
        .insert("team".to_owned(), "cart".to_owned());
    ensure!(
        bare(after.clone())? == bare(expected.clone())?,
        "{after:?} {expected:?}"
    );
    web.edit(0, json!({"finalizers": null})).await?;
    scene.unbind().await
}

/// A Pod without what every write changes.
fn bare(mut pod: Pod) -> Result<Value> {
    pod.metadata.managed_fields = None;
    pod.metadata.resource_version = None;
    if pod.annotations().is_empty() {
        pod.metadata.annotations = None;
    }
    Ok(serde_json::to_value(pod)?)
}

async fn of_two_bindings_for_a_service_only_the_older_one_takes_pods_out(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "two-bindings").await?;
    let web = Checked::start(&scene, "web", 3, quicker()).await?;
    let mut younger = scene.binding("web");
    younger["metadata"]["name"] = json!("younger");
    younger["spec"]["healthCheck"] = with(quick(), json!({"endpoint": "/nowhere"}));
    // Of two that were made in one second neither is younger.
    sleep(Duration::from_millis(1_100)).await;
    scene.create(&younger).await?;
    scene
        .says("younger", "Conflict", "True AnotherBinding")
        .await?;
    let mark = rig.audit_mark().await?;
    web.endpoints[0].fail(Trouble::Status(500)).await?;
    web.are_out(&[0]).await?;
    let marks = web.marks().await?;
    let (_, note) = marks.get(&web.pod(0)).context("no mark")?;
    let note: Value = serde_json::from_str(note.as_deref().context("no note")?)?;
    ensure!(
        note["bindings"] == json!([format!("{}/web", scene.namespace)]),
        "{note}"
    );
    web.counts(3, 2, 1).await?;
    sleep(A_WHILE).await;
    web.endpoints[0].recover().await?;
    web.are_out(&[]).await?;
    web.is_healthy().await?;
    sleep(A_WHILE).await;
    let writes = web.pod_writes(mark).await?;
    ensure!(
        writes == ["patch pods web-0 200", "patch pods web-0 200"],
        "{writes:?}"
    );
    let events = scene.events("younger").await?;
    let told = events.iter().any(|event| event.contains("Endpoint"));
    ensure!(!told, "{events:?}");
    scene.unbind().await
}

async fn endpoints_that_flap_cost_no_more_than_a_write_a_second(rig: &Rig) -> Result<()> {
    // Each Pod and each Event goes a few times without waiting for its turn.
    const WARM: Duration = Duration::from_secs(10);
    const SPAN: Duration = Duration::from_secs(30);
    let scene = Scene::alone(rig, "flap").await?;
    // Every answer is a verdict.
    let check = with(
        quicker(),
        json!({"interval": "250ms", "timeout": "250ms", "failureThreshold": 1}),
    );
    let services = [("few", 3), ("many", 12), ("outlier-only", 3)];
    let services = services.map(|(name, size)| {
        let mode = if name == "outlier-only" {
            name
        } else {
            "draining"
        };
        let check = with(check.clone(), json!({"ejection": mode}));
        Checked::start(&scene, name, size, check)
    });
    let services = try_join_all(services).await?;
    flap(&services, WARM).await?;
    let before = try_join_all(services.iter().map(events)).await?;
    let (started, mark) = (Instant::now(), rig.audit_mark().await?);
    flap(&services, SPAN).await?;
    for (web, before) in services.iter().zip(before) {
        let mut wrote = wrote(web, mark).await?;
        wrote.insert("events".to_owned(), events(web).await? - before);
        // It went on until here.
        let seconds = usize::try_from(started.elapsed().as_secs())?;
        let all: usize = wrote.values().sum();
        eprintln!(
            "{} flapped for {seconds} s: {wrote:?}, {all} writes",
            web.name
        );
        ensure!(all > 0, "it does not flap");
        ensure!(all <= seconds + 1, "{}: {wrote:?} in {seconds} s", web.name);
    }
    // The last word counts.
    for web in &services {
        try_join_all(web.endpoints.iter().map(|endpoint| endpoint.recover())).await?;
        web.is_healthy().await?;
        web.are_out(&[]).await?;
    }
    scene.unbind().await
}

/// For this long all but one endpoint of each service fail and recover by turns.
async fn flap(services: &[Checked<'_>], span: Duration) -> Result<()> {
    let end = Instant::now() + span;
    for turn in 0.. {
        let flaps = services.iter().flat_map(|web| web.endpoints.iter().skip(1));
        try_join_all(flaps.enumerate().map(async |(place, endpoint)| {
            if (turn + place) % 2 == 0 {
                endpoint.fail(Trouble::Status(500)).await
            } else {
                endpoint.recover().await
            }
        }))
        .await?;
        if Instant::now() >= end {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// How many Events there are about the binding.
async fn events(web: &Checked<'_>) -> Result<usize> {
    Ok(web.scene.events(&web.name).await?.len())
}

/// How often the operator wrote what of this service, Events aside.
async fn wrote(web: &Checked<'_>, since: Mark) -> Result<BTreeMap<String, usize>> {
    let mut wrote = BTreeMap::new();
    for line in web.scene.writes(since).await? {
        let words: Vec<_> = line.split(' ').collect();
        let [_, kind, name, _] = words[..] else {
            continue;
        };
        let own = name == web.name || (0..web.endpoints.len()).any(|n| web.pod(n) == name);
        if own {
            *wrote.entry(kind.to_owned()).or_default() += 1;
        }
    }
    Ok(wrote)
}
