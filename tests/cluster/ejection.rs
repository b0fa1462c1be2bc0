//! Does a Pod leave the mesh by what is written on it, and come back when that
//! is taken back, by the operator and by `release-all`; and does what others
//! wrote stay?

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::controller::error::WriteError;
use catalog_mesh_controller::domain::health::mark::{Change, Note, OURS};
use catalog_mesh_controller::domain::names::BindingKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::scene::{FINALIZER, PROGRAM, Scene};
use crate::support::envoy::Options;
use crate::support::operator;
use crate::support::rig::Rig;
use crate::support::rights::may_list_bindings;
use crate::support::stack::{self, PATIENCE};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::workload::Workload;

crate::tests![
    ; alone:
    release_all_gives_back_what_is_ours_and_nothing_else,
    the_operator_takes_back_what_is_out_for_a_binding_that_is_gone
];

const DRAINING: &str = "istio.io/draining";
const EJECTED: &str = "catalog-mesh.aikernel.io/ejected";
const ZONES: [&str; 4] = ["zone-a", "zone-b", "zone-a", "zone-b"];

/// What a run of `release-all` gave.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn release_all_gives_back_what_is_ours_and_nothing_else(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("release").await?;
    let allowed = rights(rig, &namespace).await?;
    // What other tests left is none of the counts below.
    let cleared = release_all(&allowed, &[]).await?;
    ensure!(cleared.code == Some(0), "{cleared:?}");
    let web = rig.workload(&namespace, "web", &ZONES).await?;
    let envoy = rig.envoy(&Options::in_namespace(&namespace)).await?;
    envoy.wait_for_endpoints(&web.host(), 4).await?;
    eject(&web, 0).await?;
    // Somebody drains a Pod himself; another one has taken ours over.
    edit(&web, 1, json!({"labels": {DRAINING: "maintenance"}})).await?;
    eject(&web, 2).await?;
    edit(&web, 2, json!({"labels": {DRAINING: "maintenance"}})).await?;
    envoy.wait_for_endpoints(&web.host(), 1).await?;
    let mut binding = stack::binding(&namespace, "web", "none");
    binding["metadata"]["finalizers"] = json!([FINALIZER, "example.org/theirs"]);
    stack::create(rig, &binding).await?;

    let before = pod(&web, 0).await?;
    let dry = release_all(&allowed, &["--dry-run"]).await?;
    let sum = "would release 2 of Pods, 1 of ServiceBindings; left 1 of Pods whose label is somebody else's; failed 0";
    ensure!(
        dry.code == Some(0) && dry.stdout.ends_with(&format!("{sum}\n")),
        "{dry:?}"
    );
    ensure!(pod(&web, 0).await? == before, "a dry run wrote");

    let ran = release_all(&allowed, &[]).await?;
    ensure!(ran.code == Some(0) && ran.stderr.is_empty(), "{ran:?}");
    for line in [
        format!("Pod {namespace}/web-0: back in the mesh; it was out since"),
        format!("Pod {namespace}/web-2: our annotation is off; the label"),
        format!("ServiceBinding {namespace}/web: the finalizer is off"),
        sum.replace("would release", "released"),
    ] {
        ensure!(ran.stdout.contains(&line), "{line}: {}", ran.stdout);
    }
    envoy.wait_for_endpoints(&web.host(), 2).await?;
    for (place, label) in [None, Some("maintenance"), Some("maintenance"), None]
        .into_iter()
        .enumerate()
    {
        let found = marks(&pod(&web, place).await?);
        ensure!(
            found == (label.map(str::to_owned), None),
            "{place}: {found:?}"
        );
    }
    let bindings = Api::<catalog_mesh_controller::api::service_binding::ServiceBinding>::namespaced(
        rig.client.clone(),
        &namespace,
    );
    let left = bindings.get("web").await?.metadata.finalizers;
    ensure!(
        left == Some(vec!["example.org/theirs".to_owned()]),
        "{left:?}"
    );
    let nothing = json!({"metadata": {"finalizers": null}});
    bindings
        .patch("web", &PatchParams::default(), &Patch::Merge(nothing))
        .await?;
    bindings.delete("web", &DeleteParams::default()).await?;

    // Nothing is left to do, and whoever may not look is told so.
    let again = release_all(&allowed, &[]).await?;
    ensure!(
        again.code == Some(0) && again.stdout.starts_with("released 0 of Pods, 0 of"),
        "{again:?}"
    );
    let nobody = rig
        .api
        .service_account_kubeconfig(&namespace, "nobody")
        .await?;
    let refused = release_all(&nobody, &[]).await?;
    ensure!(
        refused.code == Some(2)
            && refused.stdout.is_empty()
            && refused.stderr.contains("with the right to list Pods"),
        "{refused:?}"
    );
    Ok(())
}

async fn the_operator_takes_back_what_is_out_for_a_binding_that_is_gone(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("ejected").await?;
    let web = rig.workload(&namespace, "web", &ZONES).await?;
    let envoy = rig.envoy(&Options::in_namespace(&namespace)).await?;
    eject(&web, 0).await?;
    edit(&web, 1, json!({"labels": {DRAINING: "maintenance"}})).await?;
    // One that bears our value without our annotation is not known to be ours.
    edit(&web, 2, json!({"labels": {DRAINING: OURS}})).await?;
    envoy.wait_for_endpoints(&web.host(), 1).await?;
    let mark = rig.audit_mark().await?;

    refuses_what_was_decided_for_another(&web).await?;
    let stack = stack::Stack::start(rig, Path::new(PROGRAM)).await?;
    let scene = Scene {
        rig,
        stack: std::sync::Arc::new(stack),
        namespace,
    };
    envoy.wait_for_endpoints(&web.host(), 2).await?;
    ensure!(
        marks(&pod(&web, 0).await?) == (None, None),
        "it bears a mark"
    );
    let labels = pod(&web, 0).await?.metadata.labels.unwrap_or_default();
    ensure!(
        labels.get("app").is_some_and(|app| app == "web"),
        "{labels:?}"
    );
    // One that comes while it runs.
    eject(&web, 3).await?;
    wait::until("the return of web-3", PATIENCE, async || {
        ensure!(marks(&pod(&web, 3).await?) == (None, None), "it is out");
        Ok(())
    })
    .await?;
    let writes = scene.wrote(mark, 2).await?;
    ensure!(
        writes == ["patch pods web-0 200", "patch pods web-3 200"],
        "{writes:?}"
    );
    let asked = rig.api.audit.since(mark, &rig.client).await?;
    let lists = asked.iter().filter(|entry| {
        entry.user.username == operator::USER && entry.request_uri.starts_with("/api/v1/pods?")
    });
    let lists: Vec<_> = lists.map(|entry| entry.request_uri.as_str()).collect();
    ensure!(
        !lists.is_empty() && lists.iter().all(|uri| uri.contains("status.phase")),
        "finished Pods are asked for, too: {lists:?}"
    );
    for (place, label) in [(1, "maintenance"), (2, OURS)] {
        let found = marks(&pod(&web, place).await?);
        ensure!(found == (Some(label.to_owned()), None), "{found:?}");
    }
    scene.stack.stop().await
}

/// The server takes a change only for the Pod, and the version of it, that it
/// was decided for; the operator knows such an answer from a refusal.
async fn refuses_what_was_decided_for_another(web: &Workload) -> Result<()> {
    let pod = pod(web, 0).await?;
    let version: u64 = pod
        .metadata
        .resource_version
        .context("no version")?
        .parse()?;
    let uid = pod.metadata.uid.context("no uid")?;
    for (uid, version) in [(uid.as_str(), version - 1), ("another", version)] {
        let patch = Patch::Merge(Change::Release.patch(&uid.into(), version));
        let answer = web
            .pods_api()
            .patch(&web.pods[0].name, &PatchParams::default(), &patch)
            .await;
        let error = answer.err().context("it was taken")?;
        let read = WriteError::from_kube(&error);
        ensure!(read == WriteError::Stale, "{uid} {version}: {error:?}");
    }
    Ok(())
}

/// Takes the Pod out as the operator does it.
async fn eject(web: &Workload, place: usize) -> Result<()> {
    let pod = pod(web, place).await?;
    let binding = BindingKey::new(web.namespace.clone(), "gone");
    let change = Change::Eject(Note {
        bindings: BTreeSet::from([binding]),
        since: Timestamp::now(),
        why: "the connection was refused".to_owned(),
    });
    let version = pod.metadata.resource_version.context("no version")?;
    let uid = pod.metadata.uid.context("no uid")?;
    let patch = change.patch(&uid.into(), version.parse()?);
    web.pods_api()
        .patch(
            &web.pods[place].name,
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await?;
    Ok(())
}

/// Changes the Pod's metadata as somebody else would.
async fn edit(web: &Workload, place: usize, metadata: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": metadata}));
    web.pods_api()
        .patch(&web.pods[place].name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn pod(web: &Workload, place: usize) -> Result<Pod> {
    Ok(web.pods_api().get(&web.pods[place].name).await?)
}

/// Label and annotation.
fn marks(pod: &Pod) -> (Option<String>, Option<String>) {
    let of = |all: &Option<std::collections::BTreeMap<String, String>>, name| {
        all.as_ref().and_then(|all| all.get(name).cloned())
    };
    (
        of(&pod.metadata.labels, DRAINING),
        of(&pod.metadata.annotations, EJECTED),
    )
}

/// A Pod that bears our marks for a binding that does not exist.
pub(crate) async fn left_over(scene: &Scene<'_>, name: &str) -> Result<()> {
    let note = Note {
        bindings: BTreeSet::from([BindingKey::new(scene.namespace.clone(), "gone")]),
        since: Timestamp::now(),
        why: "a test".to_owned(),
    };
    let pod = json!({
        "metadata": {
            "name": name,
            "labels": {DRAINING: OURS},
            "annotations": {EJECTED: note.text()},
        },
        "spec": {"containers": [{"name": "app", "image": "none"}]},
    });
    let pods = Api::<Pod>::namespaced(scene.rig.client.clone(), &scene.namespace);
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await?;
    wait::until("the end of the marks", PATIENCE, async || {
        let found = marks(&pods.get(name).await?);
        ensure!(found == (None, None), "{found:?}");
        Ok(())
    })
    .await
}

async fn release_all(kubeconfig: &PathBuf, more: &[&str]) -> Result<Ran> {
    let output = Command::new(PROGRAM)
        .arg("release-all")
        .args(more)
        .env("KUBECONFIG", kubeconfig)
        .kill_on_drop(true)
        .output()
        .await?;
    Ok(Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A kubeconfig of an account with the rights that docs/flags.md names.
async fn rights(rig: &Rig, namespace: &str) -> Result<PathBuf> {
    let docs = std::fs::read_to_string(repository().join("docs/flags.md"))?;
    let (_, rest) = docs
        .split_once("<!-- rights of release-all")
        .context("docs/flags.md names no rights")?;
    let role = rest.split("```yaml\n").nth(1);
    let role = role.and_then(|r| r.split("```").next());
    let file = rig.folder().join("release.yaml");
    std::fs::write(&file, role.context("the rights are no YAML")?)?;
    rig.api.apply_manifests(&file).await?;
    let kubeconfig = rig
        .api
        .service_account_kubeconfig(namespace, "release")
        .await?;
    let name = format!("release-of-{namespace}");
    let account = format!("--serviceaccount={namespace}:release");
    let role = "--clusterrole=catalog-mesh-release";
    rig.kubectl(&["create", "clusterrolebinding", &name, role, &account])
        .await?;
    let user = format!("system:serviceaccount:{namespace}:release");
    may_list_bindings(&rig.client, &user).await?;
    Ok(kubeconfig)
}
