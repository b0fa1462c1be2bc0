//! Workloads that demand mutual TLS, as under STRICT: are they checked with the
//! operator's own certificate, by nobody else's name, and with one that was
//! replaced meanwhile; and is a check without one no ground to take them out?

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::patients::{bind, rest};
use crate::scene::{PROGRAM, Scene};
use crate::support::operator::{ACCOUNT, NAMESPACE, USER};
use crate::support::rig::Rig;
use crate::support::sidecar::Sidecar;
use crate::support::stack::{self, OPERATOR, PATIENCE, Stack};
use crate::support::wait;
use crate::support::workload::{Workload, ZONES};

crate::tests![
    ; alone:
    a_plain_check_of_a_strict_workload_says_why_and_takes_nobody_out(20),
    a_strict_workload_is_checked_with_the_certificate_of_the_moment(30),
    whoever_answers_by_another_name_is_not_asked_and_leaves
];

const DAY: Duration = Duration::from_secs(86_400);

/// An operator with a certificate that is valid for so long, and its folder.
async fn scene<'a>(
    rig: &'a Rig,
    name: &str,
    valid: Option<Duration>,
) -> Result<(Scene<'a>, PathBuf)> {
    let folder = rig.folder().join(format!("certificates-of-{name}"));
    std::fs::create_dir_all(&folder)?;
    if let Some(valid) = valid {
        write(rig, &folder, valid)?;
    }
    let path = folder.to_str().context("a path of the rig")?;
    let flags = ["--mesh-cert-dir", path];
    let stack = Arc::new(Stack::start_with(rig, Path::new(PROGRAM), &flags).await?);
    Ok((Scene::beside(rig, stack, name).await?, folder))
}

/// Puts another certificate of the operator's into its folder.
fn write(rig: &Rig, folder: &Path, valid: Duration) -> Result<()> {
    let identity = rig.pki.workload(&us(), valid)?;
    rig.pki.workload_files(folder, &identity)
}

fn us() -> String {
    format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{ACCOUNT}")
}

fn check(scheme: &str) -> Value {
    json!({"endpoint": "/health", "interval": "500ms", "timeout": "400ms", "scheme": scheme})
}

/// A Service whose Pods have sidecars with certificates of these names.
async fn strict(scene: &Scene<'_>, name: &str, ids: &[&str]) -> Result<(Workload, Vec<Sidecar>)> {
    let rig = scene.rig;
    let zones = vec![ZONES[0]; ids.len()];
    let workload = rig.workload(&scene.namespace, name, &zones).await?;
    let mut sidecars = Vec::new();
    for (pod, id) in workload.pods.iter().zip(ids) {
        pod.backend.stop();
        let folder = rig
            .folder()
            .join(format!("certificates-of-{}", pod.address()));
        rig.pki
            .workload_files(&folder, &rig.pki.workload(id, DAY)?)?;
        let behind = rig.addresses.next()?;
        sidecars.push(Sidecar::start(rig.folder(), pod.address(), &folder, behind).await?);
    }
    Ok((workload, sidecars))
}

/// Writes to Pods that the operator asked for so far.
async fn writes_to_pods(scene: &Scene<'_>) -> Result<Vec<String>> {
    let all =
        scene
            .rig
            .api
            .audit
            .writes_by(USER, crate::support::audit::Mark::START, &scene.rig.client);
    let here = all.await?.into_iter().filter(|entry| {
        let object = entry.object_ref.clone().unwrap_or_default();
        object.resource == "pods" && object.namespace == scene.namespace
    });
    Ok(here.map(|entry| crate::scene::line(&entry)).collect())
}

async fn a_plain_check_of_a_strict_workload_says_why_and_takes_nobody_out(rig: &Rig) -> Result<()> {
    let (scene, _) = scene(rig, "plain", Some(DAY)).await?;
    let own = format!("spiffe://cluster.local/ns/{}/sa/web", scene.namespace);
    let (_web, sidecars) = strict(&scene, "web", &[&own, &own]).await?;
    bind(&scene, "web", &check("HTTP")).await?;
    let binding = scene.says("web", "Healthy", "Unknown MTLSRequired").await?;
    let message = crate::scene::message(&binding, "Healthy");
    ensure!(message.contains("healthCheck.scheme"), "{message}");
    let status = binding.status.context("no status")?;
    ensure!(status.health_status.is_none(), "{:?}", status.health_status);
    rest(3).await;
    let writes = writes_to_pods(&scene).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    // Whoever starts anew has to find it out by itself, and takes nobody out either.
    let operator = &scene.stack.operator;
    operator.process.kill().await?;
    operator.start_again().await?;
    wait::until("checks of the next one", PATIENCE, async || {
        let samples = operator
            .metrics(&format!("http://{OPERATOR}/metrics"))
            .await?;
        let unknown = "catalog_mesh_health_answers_set_aside_total";
        let unknown = samples.sum(unknown, &["reason=\"unknown\""]);
        ensure!(unknown >= Some(12.0), "{unknown:?} are set aside");
        Ok(())
    })
    .await?;
    stack::leads(operator).await?;
    rest(1).await;
    let binding = scene.says("web", "Healthy", "Unknown MTLSRequired").await?;
    let status = binding.status.context("no status")?;
    ensure!(status.health_status.is_none(), "{:?}", status.health_status);
    let writes = writes_to_pods(&scene).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    for sidecar in &sidecars {
        ensure!(sidecar.backend.total() == 0, "it let a plain check in");
    }
    // What the message says helps.
    let mut record = scene.record("web");
    record["healthCheck"] = check("MTLS");
    scene.put(&record).await?;
    scene.says("web", "Healthy", "True Healthy").await?;
    scene.stack.stop().await
}

async fn a_strict_workload_is_checked_with_the_certificate_of_the_moment(rig: &Rig) -> Result<()> {
    let (scene, folder) = scene(rig, "rotated", None).await?;
    let own = format!("spiffe://cluster.local/ns/{}/sa/web", scene.namespace);
    let (_web, sidecars) = strict(&scene, "web", &[&own, &own]).await?;
    bind(&scene, "web", &check("MTLS")).await?;
    // There is none yet: nothing can be said.
    scene
        .says("web", "Healthy", "Unknown NoMeshCertificate")
        .await?;
    // One that is valid for no more than a few seconds, as its successors.
    let pid = scene.stack.operator.process.pid().await;
    let renewed = async {
        loop {
            if let Err(error) = write(rig, &folder, Duration::from_secs(6)) {
                return error;
            }
            rest(2).await;
        }
    };
    let looked_at = async {
        scene.says("web", "Healthy", "True Healthy").await?;
        let mut serials = Vec::new();
        while serials.len() < 3 {
            let new = wait::until("a check with a new certificate", PATIENCE, async || {
                let last = sidecars[0].admitted()?.pop().context("nobody came")?;
                ensure!(!serials.contains(&last.serial), "the old one: {serials:?}");
                ensure!(last.id == us() && last.protocol == "HTTP/1.1", "{last:?}");
                Ok(last.serial)
            });
            let new = new.await?;
            serials.push(new);
        }
        // None of these is valid any more, and all is well.
        rest(6).await;
        scene.says("web", "Healthy", "True Healthy").await?;
        anyhow::Ok(())
    };
    tokio::select! {
        failed = renewed => return Err(failed),
        done = looked_at => done?,
    }
    ensure!(
        scene.stack.operator.process.pid().await == pid,
        "another process"
    );
    for sidecar in &sidecars {
        let asked = sidecar.backend.count("/health");
        ensure!(asked > 10 && sidecar.backend.total() == asked, "{asked}");
    }
    // The last one runs out: that says nothing about the workload.
    scene
        .says("web", "Healthy", "Unknown NoMeshCertificate")
        .await?;
    let writes = writes_to_pods(&scene).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    scene.stack.stop().await
}

async fn whoever_answers_by_another_name_is_not_asked_and_leaves(rig: &Rig) -> Result<()> {
    let (scene, _) = scene(rig, "names", Some(DAY)).await?;
    let namespace = &scene.namespace;
    let own = format!("spiffe://cluster.local/ns/{namespace}/sa/web");
    let elsewhere = format!("spiffe://elsewhere/ns/{namespace}/sa/web");
    let other = "spiffe://cluster.local/ns/other/sa/web".to_owned();
    let ids = [&own, &own, &own, &own, &elsewhere, &other];
    let (web, sidecars) = strict(&scene, "web", &ids.map(String::as_str)).await?;
    bind(&scene, "web", &check("MTLS")).await?;
    let binding = scene.says("web", "Healthy", "False Degraded").await?;
    let counts = serde_json::to_value(&binding.status.context("no status")?.endpoints)?;
    ensure!(counts["healthy"] == 4 && counts["total"] == 6, "{counts}");
    wait::until("the end of both", PATIENCE, async || {
        for (place, pod) in web.pods.iter().enumerate() {
            let pod = web.pods_api().get(&pod.name).await?;
            let labels = pod.metadata.labels.unwrap_or_default();
            let is_out = labels.contains_key("istio.io/draining");
            ensure!(is_out == (place >= 4), "{place}: {labels:?}");
        }
        Ok(())
    })
    .await?;
    for (place, sidecar) in sidecars.iter().enumerate() {
        let asked = sidecar.backend.total();
        ensure!(
            (asked > 0) == (place < 4),
            "{place} was asked {asked} times"
        );
    }
    let log = std::fs::read_to_string(scene.stack.operator.process.log())?;
    ensure!(log.contains("another workload answers there"), "not a word");
    scene.stack.stop().await
}
