//! Is nothing written while somebody has said so? `suspend`, `paused` and
//! `--read-only`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, DynamicObject};
use serde_json::{Value, json};

use crate::scene::{DR, GRANT, PAUSED, PROGRAM, Scene, VS, annotate_namespace, message};
use crate::support::operator::NAMESPACE;
use crate::support::rig::Rig;
use crate::support::stack::{self, PATIENCE};
use crate::support::wait;

crate::tests![
    a_suspended_binding_is_frozen_as_it_is,
    a_paused_namespace_is_frozen_as_it_is,
    a_paused_namespace_is_not_written_to_from_elsewhere_either,
    a_binding_that_was_born_suspended_costs_one_status
    ; alone:
    a_paused_operator_freezes_everything(20),
    a_read_only_operator_writes_nothing_at_all(15)
];

async fn mesh(scene: &Scene<'_>, name: &str) -> Result<Vec<DynamicObject>> {
    Ok(vec![
        scene.rule(VS, name).await?,
        scene.rule(DR, name).await?,
    ])
}

/// Owners, users and strangers do all that the operator reacts to otherwise.
async fn disturb(scene: &Scene<'_>, name: &str) -> Result<()> {
    let mut record = scene.record(name);
    record["timeout"] = json!("33s");
    scene.put(&record).await?;
    scene
        .change(name, json!({"spec": {"trafficPolicy": {"retries": 1}}}))
        .await?;
    let vs = scene.rule(VS, name).await?;
    let mut http = vs.data["spec"]["http"].clone();
    http[0]["timeout"] = json!("99s");
    scene
        .edit(VS, name, json!({"spec": {"http": http}}))
        .await?;
    let service = json!({"spec": {"ports": [{"name": "http-two", "port": 81}]}});
    scene
        .services()
        .patch(name, &Default::default(), &kube::api::Patch::Merge(service))
        .await?;
    scene.delete_rule(DR, name).await
}

/// Nothing of what was disturbed is put right, and the status stays.
async fn stays_frozen(scene: &Scene<'_>, name: &str) -> Result<()> {
    let mark = scene.mark().await?;
    disturb(scene, name).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Nor is anything removed because the catalog no longer has the service.
    let record = scene.stack.catalog.get(&scene.id(name)).await?;
    scene.stack.catalog.delete(&scene.id(name)).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.put(&record).await?;
    let mut writes = scene.writes(mark).await?;
    // The status may say once more by whom.
    writes.retain(|line| !line.starts_with("patch servicebindings/status"));
    ensure!(writes.is_empty(), "{writes:?}");
    let vs = scene.rule(VS, name).await?;
    ensure!(vs.data["spec"]["http"][0]["timeout"] == "99s", "{vs:?}");
    Ok(())
}

/// Everything is as the catalog says after all.
async fn catches_up(scene: &Scene<'_>, name: &str) -> Result<()> {
    scene.says(name, "Suspended", "False Active").await?;
    scene.synced(name).await?;
    scene
        .until(VS, name, "the record's timeout", |vs| {
            let routes = vs.data["spec"]["http"].as_array().cloned();
            routes.is_some_and(|routes| {
                routes.iter().all(|r| {
                    r["timeout"] == "33s" && r["match"][0]["port"] == 81
                        || r["match"][0]["port"] == 80
                })
            })
        })
        .await?;
    scene.rule(DR, name).await?;
    Ok(())
}

async fn a_suspended_binding_is_frozen_as_it_is(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "suspended").await?;
    scene.bound("web").await?;
    scene.bound("deleted").await?;
    for name in ["web", "deleted"] {
        scene
            .change(name, json!({"spec": {"suspend": true}}))
            .await?;
        let binding = scene
            .says(name, "Suspended", "True SuspendedByBinding")
            .await?;
        ensure!(
            stack::condition(&binding, "Ready").as_deref() == Some("True Synced"),
            "Ready is not as it was: {:?}",
            binding.status
        );
    }
    let before = mesh(&scene, "deleted").await?;
    stays_frozen(&scene, "web").await?;

    scene.delete_binding("deleted").await?;
    scene.gone("deleted").await?;
    released(&before, &mesh(&scene, "deleted").await?)?;

    scene
        .change("web", json!({"spec": {"suspend": false}}))
        .await?;
    catches_up(&scene, "web").await
}

/// The objects stayed as they were, but for the reference to their owner.
fn released(before: &[DynamicObject], after: &[DynamicObject]) -> Result<()> {
    for (before, after) in before.iter().zip(after) {
        ensure!(before.data == after.data, "{before:?} {after:?}");
        ensure!(before.metadata.uid == after.metadata.uid, "made anew");
        ensure!(before.metadata.labels == after.metadata.labels, "{after:?}");
        ensure!(
            before.metadata.annotations == after.metadata.annotations,
            "{after:?}"
        );
        ensure!(after.metadata.owner_references.is_none(), "{after:?}");
        ensure!(after.metadata.deletion_timestamp.is_none(), "{after:?}");
    }
    Ok(())
}

async fn a_paused_namespace_is_frozen_as_it_is(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "paused").await?;
    let other = scene.neighbour("awake").await?;
    for name in ["web", "deleted"] {
        scene.bound(name).await?;
    }
    other.bound("web").await?;
    scene.annotate_namespace(PAUSED, Some("true")).await?;
    for name in ["web", "deleted"] {
        let binding = scene.says(name, "Suspended", "True Paused").await?;
        ensure!(
            message(&binding, "Suspended").contains(&scene.namespace),
            "{:?}",
            binding.status
        );
    }
    let before = mesh(&scene, "deleted").await?;
    stays_frozen(&scene, "web").await?;
    scene.delete_binding("deleted").await?;
    scene.gone("deleted").await?;
    released(&before, &mesh(&scene, "deleted").await?)?;
    other.says("web", "Suspended", "False Active").await?;

    scene.annotate_namespace(PAUSED, None).await?;
    catches_up(&scene, "web").await
}

async fn a_paused_namespace_is_not_written_to_from_elsewhere_either(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "target").await?;
    let from = scene.neighbour("author").await?;
    scene
        .annotate_namespace(GRANT, Some(&from.namespace))
        .await?;
    scene.annotate_namespace(PAUSED, Some("true")).await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    let mut binding = from.binding("web");
    binding["spec"]["namespace"] = json!(scene.namespace);
    binding["spec"]["catalogServiceId"] = json!(scene.id("web"));
    from.create(&binding).await?;
    let said = from.says("web", "Suspended", "True Paused").await?;
    ensure!(
        message(&said, "Suspended").contains(&scene.namespace),
        "{:?}",
        said.status
    );
    scene.nothing_of("web").await?;
    scene.annotate_namespace(PAUSED, None).await?;
    from.synced("web").await?;
    Ok(())
}

async fn a_binding_that_was_born_suspended_costs_one_status(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "born").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    let mut binding = scene.binding("web");
    binding["spec"]["suspend"] = json!(true);
    let mark = scene.mark().await?;
    scene.create(&binding).await?;
    let said = scene
        .says("web", "Suspended", "True SuspendedByBinding")
        .await?;
    for (type_, expected) in [
        ("Ready", "False Progressing"),
        ("CatalogSynced", "Unknown Progressing"),
        ("MeshProgrammed", "Unknown Progressing"),
    ] {
        ensure!(
            stack::condition(&said, type_).as_deref() == Some(expected),
            "{:?}",
            said.status
        );
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let writes = scene.writes(mark).await?;
    ensure!(
        writes == ["patch servicebindings/status web 200"],
        "{writes:?}"
    );
    scene.nothing_of("web").await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await
}

async fn a_paused_operator_freezes_everything(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "everything").await?;
    let other = scene.neighbour("everything").await?;
    scene.bound("web").await?;
    other.bound("deleted").await?;
    annotate_namespace(rig, NAMESPACE, PAUSED, Some("true")).await?;
    let ended = async {
        scene.says("web", "Suspended", "True Paused").await?;
        other.says("deleted", "Suspended", "True Paused").await?;
        let before = mesh(&other, "deleted").await?;
        stays_frozen(&scene, "web").await?;
        other.delete_binding("deleted").await?;
        other.gone("deleted").await?;
        released(&before, &mesh(&other, "deleted").await?)
    }
    .await;
    annotate_namespace(rig, NAMESPACE, PAUSED, None).await?;
    ended?;
    catches_up(&scene, "web").await
}

async fn a_read_only_operator_writes_nothing_at_all(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "read-only").await?;
    for name in ["web", "deleted", "drifted", "lost"] {
        scene.bound(name).await?;
    }
    let operator = &scene.stack.operator;
    operator.process.kill().await?;
    let mark = scene.mark().await?;
    let url = &scene.stack.catalog.url;
    let flags = ["--read-only", "--register=on"];
    let read_only = stack::operator(rig, "read-only", Path::new(PROGRAM), url, &flags).await?;

    disturb(&scene, "drifted").await?;
    scene.delete_binding("deleted").await?;
    scene.service("new").await?;
    scene.put(&scene.record("new")).await?;
    scene.create(&scene.binding("new")).await?;
    scene.create(&scene.binding("unknown")).await?;
    scene.service("unbound").await?;
    scene.put(&scene.record("unbound")).await?;
    scene.stack.catalog.delete(&scene.id("lost")).await?;
    scene
        .change("web", json!({"spec": {"suspend": true}}))
        .await?;
    scene.stack.catalog.delete(&scene.id("web")).await?;
    // It says in its log what it would do.
    let log = read_only.process.log();
    for (name, what) in [
        ("new", "nothing is written"),
        ("lost", "nothing is removed"),
        ("deleted", "nothing is removed"),
        ("unbound", "no binding is made"),
    ] {
        let about = json!(format!("{}/{name}", scene.namespace));
        let what = format!("read-only: {what}");
        wait::until(
            &format!("{what} for {name} in the log"),
            PATIENCE,
            async || {
                let said = std::fs::read_to_string(&log)?;
                let mut lines = said
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let says = |line: &Value| {
                    (line["binding"] == about || line["service"] == about)
                        && line["msg"] == json!(what)
                };
                ensure!(lines.any(|line| says(&line)), "not there");
                Ok(())
            },
        )
        .await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = rig.operator_writes(mark).await?;
    let writes: Vec<_> = writes.iter().map(crate::scene::line).collect();
    ensure!(writes.is_empty(), "{writes:?}");
    read_only
        .ready(&format!("http://{}/readyz", stack::OPERATOR))
        .await?;
    ensure!(read_only.process.terminate(PATIENCE).await?, "a bad end");

    // The real one catches up with all of it.
    operator.start_again().await?;
    scene.gone("deleted").await?;
    scene.synced("new").await?;
    scene
        .services()
        .delete("unknown", &DeleteParams::default())
        .await
        .ok();
    Ok(())
}
