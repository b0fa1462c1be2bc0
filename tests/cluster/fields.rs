//! Who owns which field of our objects: do others' survive, do ours come back,
//! and does a fight end?

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::scene::{DR, MANAGED_BY, Scene, UID, VS};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::wait;

crate::tests![
    what_others_set_on_our_objects_survives,
    a_hand_edit_is_put_back,
    an_object_deleted_by_hand_comes_back,
    a_label_or_annotation_removed_by_hand_comes_back,
    an_object_without_both_marks_is_no_longer_ours,
    who_takes_a_field_back_within_the_window_gets_a_conflict_and_no_loop,
    who_takes_fields_in_turn_gets_a_conflict_and_no_loop,
    an_applier_that_owns_a_field_is_not_fought,
];

/// Applies as another manager does, by force.
async fn apply_as(
    scene: &Scene<'_>,
    manager: &str,
    kind: &str,
    spec: Value,
) -> Result<DynamicObject> {
    let object = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {"name": "web"},
        "spec": spec,
    });
    let params = PatchParams::apply(manager).force();
    let patch = Patch::Apply(object);
    Ok(scene.rules(kind).patch("web", &params, &patch).await?)
}

fn timeout(rule: &DynamicObject) -> &Value {
    &rule.data["spec"]["http"][0]["timeout"]
}

fn with_timeout(rule: &DynamicObject, timeout: &str) -> Value {
    let mut http = rule.data["spec"]["http"].clone();
    http[0]["timeout"] = json!(timeout);
    json!({"spec": {"http": http}})
}

async fn what_others_set_on_our_objects_survives(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "survive").await?;
    scene.bound("web").await?;
    let theirs = json!({"metadata": {"labels": {"team": "a"}, "annotations": {"note": "theirs"}}});
    for kind in [VS, DR] {
        scene.edit(kind, "web", theirs.clone()).await?;
    }
    scene
        .edit(
            VS,
            "web",
            json!({"spec": {"gateways": ["mesh", "some/gateway"]}}),
        )
        .await?;
    let leaf = json!({"spec": {"trafficPolicy": {"outlierDetection": {"minHealthPercent": 10}}}});
    scene.edit(DR, "web", leaf).await?;

    // Both are written anew, the VirtualService by force.
    let mut record = scene.record("web");
    record["timeout"] = json!("8s");
    record["circuitBreaker"]["consecutiveErrors"] = json!(8);
    scene.put(&record).await?;
    let dr = scene
        .until(DR, "web", "the new policy", |dr| {
            dr.data["spec"]["trafficPolicy"]["outlierDetection"]["consecutive5xxErrors"] == 8
        })
        .await?;
    scene
        .until(VS, "web", "the new timeout", |vs| timeout(vs) == "8s")
        .await?;
    let vs = scene.rule(VS, "web").await?;
    scene.edit(VS, "web", with_timeout(&vs, "99s")).await?;
    let vs = scene
        .until(VS, "web", "our timeout again", |vs| timeout(vs) == "8s")
        .await?;

    for rule in [&vs, &dr] {
        let labels = rule.metadata.labels.clone().unwrap_or_default();
        let annotations = rule.metadata.annotations.clone().unwrap_or_default();
        ensure!(
            labels.get("team").is_some_and(|team| team == "a"),
            "{rule:?}"
        );
        ensure!(
            annotations.get("note").is_some_and(|n| n == "theirs"),
            "{rule:?}"
        );
    }
    ensure!(
        vs.data["spec"]["gateways"] == json!(["mesh", "some/gateway"]),
        "{vs:?}"
    );
    let outlier = &dr.data["spec"]["trafficPolicy"]["outlierDetection"];
    ensure!(outlier["minHealthPercent"] == 10, "{dr:?}");
    scene.synced("web").await?;
    Ok(())
}

async fn a_hand_edit_is_put_back(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "edited").await?;
    scene.bound("web").await?;
    let uid = scene.rule(VS, "web").await?.metadata.uid;
    let mark = scene.mark().await?;
    rig.kubectl(&[
        "patch",
        "virtualservices.networking.istio.io",
        "web",
        "-n",
        &scene.namespace,
        "--type=json",
        "-p",
        r#"[{"op": "replace", "path": "/spec/http/0/timeout", "value": "99s"}]"#,
    ])
    .await?;
    let vs = scene
        .until(VS, "web", "our timeout again", |vs| timeout(vs) == "5s")
        .await?;
    ensure!(vs.metadata.uid == uid, "made anew");
    scene.synced("web").await?;
    // The refused apply, the forced one, and the new generation in the status.
    let writes = wait::until("the status", PATIENCE, async || {
        let writes = scene.writes(mark).await?;
        ensure!(writes.len() >= 3, "{writes:?}");
        Ok(writes)
    })
    .await?;
    ensure!(
        writes
            == [
                "patch virtualservices web 409",
                "patch virtualservices web 200",
                "patch servicebindings/status web 200",
            ],
        "{writes:?}"
    );
    Ok(())
}

async fn an_object_deleted_by_hand_comes_back(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "deleted").await?;
    scene.bound("web").await?;
    for kind in [VS, DR] {
        // Also while the answer to our own write is still on its way.
        for _ in 0..5 {
            let before = scene.rule(kind, "web").await?.metadata.uid;
            scene.delete_rule(kind, "web").await?;
            wait::until("a new one", PATIENCE, async || {
                let now = scene.rule(kind, "web").await?.metadata.uid;
                ensure!(now != before, "it is the old one");
                Ok(())
            })
            .await?;
        }
    }
    let recorded = async || {
        let status = scene.bindings().get("web").await?.status;
        let children = status.map(|s| s.children).unwrap_or_default();
        for kind in [VS, DR] {
            let live = scene.rule(kind, "web").await?.metadata.uid;
            ensure!(
                children
                    .iter()
                    .any(|c| c.kind == kind && Some(&c.uid) == live.as_ref()),
                "{children:?}"
            );
        }
        Ok(())
    };
    wait::until("the new ones in the status", PATIENCE, recorded).await
}

async fn a_label_or_annotation_removed_by_hand_comes_back(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "marks").await?;
    let binding = scene.bound("web").await?;
    let uid = binding.metadata.uid.unwrap_or_default();
    for kind in [VS, DR] {
        for patch in [
            json!({"metadata": {"labels": {MANAGED_BY: null}}}),
            json!({"metadata": {"annotations": {UID: null}}}),
            json!({"metadata": {"ownerReferences": null}}),
        ] {
            scene.edit(kind, "web", patch.clone()).await?;
            scene
                .until(kind, "web", &format!("what {patch} took"), |rule| {
                    let labels = rule.metadata.labels.clone().unwrap_or_default();
                    let annotations = rule.metadata.annotations.clone().unwrap_or_default();
                    labels.contains_key(MANAGED_BY)
                        && annotations.get(UID) == Some(&uid)
                        && rule
                            .metadata
                            .owner_references
                            .iter()
                            .flatten()
                            .any(|o| o.uid == uid)
                })
                .await?;
        }
    }
    scene.synced("web").await?;
    Ok(())
}

async fn an_object_without_both_marks_is_no_longer_ours(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "unmarked").await?;
    scene.bound("web").await?;
    let before = scene
        .edit(
            VS,
            "web",
            json!({"metadata": {"labels": {MANAGED_BY: null}, "annotations": {UID: null}}}),
        )
        .await?;
    scene
        .conflict("web", "NotOurs", &["VirtualService"])
        .await?;
    scene
        .put(&{
            let mut record = scene.record("web");
            record["timeout"] = json!("9s");
            record
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = scene.rule(VS, "web").await?;
    ensure!(before == after, "{before:?} {after:?}");
    Ok(())
}

async fn who_takes_a_field_back_within_the_window_gets_a_conflict_and_no_loop(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::shared(rig, "fight").await?;
    scene.bound("web").await?;
    let vs = scene.rule(VS, "web").await?;
    scene.edit(VS, "web", with_timeout(&vs, "98s")).await?;
    scene
        .until(VS, "web", "our timeout again", |vs| timeout(vs) == "5s")
        .await?;
    scene.edit(VS, "web", with_timeout(&vs, "99s")).await?;
    scene
        .conflict("web", "FieldFight", &["kubectl-edit", ".spec.http"])
        .await?;
    quiet(&scene).await?;
    let vs = scene.rule(VS, "web").await?;
    ensure!(timeout(&vs) == "99s", "{vs:?}");

    // The other one gives in: it stores what we want.
    scene.edit(VS, "web", with_timeout(&vs, "5s")).await?;
    scene.synced("web").await?;
    Ok(())
}

/// Nothing is written any more, for five periods.
async fn quiet(scene: &Scene<'_>) -> Result<()> {
    let mark = scene.mark().await?;
    tokio::time::sleep(Duration::from_secs(11)).await;
    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    Ok(())
}

async fn who_takes_fields_in_turn_gets_a_conflict_and_no_loop(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "turns").await?;
    scene.bound("web").await?;
    let outlier = |field: &str, value: Value| json!({"spec": {"trafficPolicy": {"outlierDetection": {field: value}}}});
    let ours = |field: &'static str, value: Value| {
        move |dr: &DynamicObject| {
            dr.data["spec"]["trafficPolicy"]["outlierDetection"][field] == value
        }
    };
    let errors = outlier("consecutive5xxErrors", json!(77));
    scene.edit(DR, "web", errors.clone()).await?;
    let field = "consecutive5xxErrors";
    scene
        .until(DR, "web", "ours", ours(field, json!(5)))
        .await?;
    scene
        .edit(DR, "web", outlier("interval", json!("77s")))
        .await?;
    scene
        .until(DR, "web", "ours", ours("interval", json!("30s")))
        .await?;
    scene.edit(DR, "web", errors).await?;
    scene
        .conflict(
            "web",
            "FieldFight",
            &["kubectl-edit", "consecutive5xxErrors"],
        )
        .await?;
    quiet(&scene).await
}

async fn an_applier_that_owns_a_field_is_not_fought(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "applier").await?;
    scene.bound("web").await?;
    let host = scene.host("web");
    let theirs = json!({
        "host": host,
        "trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 50}},
    });
    apply_as(&scene, "argocd-controller", DR, theirs).await?;
    scene
        .conflict(
            "web",
            "FieldFight",
            &["argocd-controller", "consecutive5xxErrors"],
        )
        .await?;
    quiet(&scene).await?;
    // It stops to apply the field.
    let rest = json!({"host": host});
    apply_as(&scene, "argocd-controller", DR, rest).await?;
    scene.synced("web").await?;
    let dr = scene.rule(DR, "web").await?;
    let outlier = &dr.data["spec"]["trafficPolicy"]["outlierDetection"];
    ensure!(outlier["consecutive5xxErrors"] == 5, "{dr:?}");
    Ok(())
}
