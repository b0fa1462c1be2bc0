//! What happens in a cluster that has no Istio yet, or an old one?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use tokio::time::{Instant, sleep};

use crate::support::audit::Mark;
use crate::support::catalog::Catalog;
use crate::support::fleet::{Fleet, PATIENCE, Writes};
use crate::support::operator::{ACCOUNT, NAMESPACE};
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::way::Way;

crate::tests![
    ; alone:
    bindings_say_what_is_missing_and_are_programmed_once_it_is_installed(35)
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_catalog-mesh-controller");
const WAY: &str = "127.0.0.1:9443";
const KINDS: [&str; 2] = [
    "virtualservices.networking.istio.io",
    "destinationrules.networking.istio.io",
];

async fn bindings_say_what_is_missing_and_are_programmed_once_it_is_installed(
    rig: &Rig,
) -> Result<()> {
    let crds = Api::<CustomResourceDefinition>::all(rig.client.clone());
    let removed = remove(&crds).await?;
    let outcome = without(rig, &crds, &removed).await;
    // The other tests need them, whatever became of this one, and an istiod
    // that has seen nothing of it.
    for crd in &removed {
        let _ = crds.create(&PostParams::default(), crd).await;
    }
    serve_v1(&crds, true).await?;
    rig.istiod.stop().await?;
    rig.istiod.start_again().await?;
    outcome
}

async fn without(
    rig: &Rig,
    crds: &Api<CustomResourceDefinition>,
    removed: &[CustomResourceDefinition],
) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "no-istio", CATALOG).await?;
    let program = Path::new(PROGRAM);
    let way = Way::open(rig, WAY)?;
    let kubeconfig = way.kubeconfig(rig, NAMESPACE, ACCOUNT).await?;
    let flags = ["--kubeconfig", kubeconfig.to_str().context("path")?];
    let url = &catalog.url;
    let _operator = stack::operator(rig, "operator-no-istio", program, url, &flags).await?;
    let fleet = Fleet::prepare(rig, "no-istio", 20).await?;
    fleet.put_records(&catalog, "5s").await?;
    let (mark, begun) = (rig.audit_mark().await?, Instant::now());
    fleet.bind(rig).await?;
    fleet
        .wait_for(rig, "MeshProgrammed", "False MeshApiMissing")
        .await?;
    sleep(Duration::from_secs(6)).await;
    let writes = fleet.writes(rig, mark).await?;
    writes.expect_none_of_rules()?;
    writes.expect_statuses(1)?;

    // As Istio had them before 1.22.
    serve_v1(crds, false).await?;
    let mut old = removed.to_vec();
    old.iter_mut().for_each(|crd| set_v1(crd, false));
    install(rig, crds, &old, &fleet, "installed").await?;
    let well = Instant::now();
    let writes = settled(rig, &fleet, mark).await?;
    stored_by(&writes, "v1beta1")?;
    // Each word is said once: that the kinds are missing, that nothing can be
    // written while istiod has yet to hear of them, and that all is in force. The
    // one between is so where there is a look at it.
    expect_minimal(&writes, fleet.size, 1, 3)?;
    way.expect_calm(begun, well, "installed")?;

    // They go, and all objects with them, under a running operator; those that
    // come then have the version of today.
    let (mark, begun) = (rig.audit_mark().await?, Instant::now());
    remove(crds).await?;
    serve_v1(crds, true).await?;
    fleet
        .wait_for(rig, "MeshProgrammed", "False MeshApiMissing")
        .await?;
    sleep(Duration::from_secs(3)).await;
    install(rig, crds, removed, &fleet, "installed again").await?;
    let well = Instant::now();
    let writes = settled(rig, &fleet, mark).await?;
    stored_by(&writes, "v1")?;
    // Each is said once: that the kinds take no writes while they go, that they
    // are gone, that they take none yet while they come, and that all is in force.
    expect_minimal(&writes, fleet.size, 0, 4)?;
    way.expect_calm(begun, well, "removed and installed again")?;
    fleet.clear(rig).await
}

/// Hardly more was written than had to be: of each binding both objects, so many
/// finalizers, and so many statuses, each with an Event. Who finds out that
/// nothing can be written is refused for all of them.
fn expect_minimal(
    writes: &Writes,
    bindings: usize,
    finalizers: usize,
    statuses: usize,
) -> Result<()> {
    let kinds = writes.by_kind();
    eprintln!("{kinds:?}");
    let rules = writes.of_rules().into_iter();
    let rules = rules.filter(|entry| entry.response_status.code < 300);
    let (rules, needed) = (rules.count(), 2 * bindings);
    ensure!(rules * 10 <= needed * 11, "{rules} objects: {kinds:?}");
    let (stored, needed) = (writes.stored(), (2 + finalizers + statuses) * bindings);
    ensure!(stored * 10 <= needed * 11, "{stored} writes: {kinds:?}");
    writes.expect_statuses(statuses)?;
    writes.expect_no_more_events_than_statuses()?;
    let refused = writes.refused();
    ensure!(refused <= bindings, "{refused} refused: {kinds:?}");
    Ok(())
}

/// The writes since the mark, once there are no more of them.
async fn settled(rig: &Rig, fleet: &Fleet, mark: Mark) -> Result<Writes> {
    sleep(Duration::from_secs(3)).await;
    fleet.writes(rig, mark).await
}

/// Turns the version on or off that is used where it is served.
fn set_v1(crd: &mut CustomResourceDefinition, served: bool) {
    let mut versions = crd.spec.versions.iter_mut();
    if let Some(version) = versions.find(|version| version.name == "v1") {
        version.served = served;
    }
}

/// The same for all kinds of the group that are there: it is the group that is
/// asked for its versions.
async fn serve_v1(crds: &Api<CustomResourceDefinition>, served: bool) -> Result<()> {
    for mut crd in crds.list(&ListParams::default()).await? {
        if crd.spec.group == "networking.istio.io" {
            set_v1(&mut crd, served);
            crds.replace(&crd.name_any(), &PostParams::default(), &crd)
                .await?;
        }
    }
    Ok(())
}

/// Whether every object that was stored was written by this version.
fn stored_by(writes: &Writes, version: &str) -> Result<()> {
    let rules = writes.of_rules();
    let stored: Vec<_> = rules
        .iter()
        .filter(|entry| entry.response_status.code < 300)
        .collect();
    ensure!(!stored.is_empty(), "nothing was stored");
    let path = format!("/apis/networking.istio.io/{version}/");
    let other = stored
        .iter()
        .find(|entry| !entry.request_uri.starts_with(&path));
    ensure!(other.is_none(), "{other:?}");
    Ok(())
}

/// Installs them again, and waits until every binding is programmed.
async fn install(
    rig: &Rig,
    crds: &Api<CustomResourceDefinition>,
    removed: &[CustomResourceDefinition],
    fleet: &Fleet,
    what: &str,
) -> Result<()> {
    for crd in removed {
        crds.create(&PostParams::default(), crd).await?;
    }
    let installed = Instant::now();
    fleet.wait_for(rig, "Ready", "True Synced").await?;
    let took = installed.elapsed();
    eprintln!(
        "Istio's definitions {what}: {} bindings programmed {:.1} s later",
        fleet.size,
        took.as_secs_f64()
    );
    ensure!(took <= Duration::from_secs(30), "{what}: {took:?}");
    Ok(())
}

/// Removes them, and waits until they are gone; hands back what they were.
async fn remove(crds: &Api<CustomResourceDefinition>) -> Result<Vec<CustomResourceDefinition>> {
    let mut removed = Vec::new();
    for kind in KINDS {
        let mut crd = crds.get(kind).await?;
        crd.metadata.resource_version = None;
        crd.metadata.uid = None;
        crd.status = None;
        removed.push(crd);
        crds.delete(kind, &DeleteParams::default()).await?;
    }
    wait::until("their end", PATIENCE, async || {
        for kind in KINDS {
            ensure!(crds.get_opt(kind).await?.is_none(), "{kind} is still there");
        }
        Ok(())
    })
    .await?;
    Ok(removed)
}
