//! When does a Pod come back that is still unwell? Where nobody wants it out any
//! more: the binding is deleted, its check is taken away, ejection is switched
//! off; and not while all is to stay as it is.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::checked::{Checked, quicker, with};
use crate::scene::{PAUSED, PROGRAM, Scene};
use crate::support::audit::Mark;
use crate::support::endpoint::Trouble;
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, PATIENCE};
use crate::support::wait;

crate::tests![
    a_binding_that_is_deleted_gives_its_pods_back_before_it_is_gone,
    a_pod_that_is_about_to_end_keeps_no_binding,
    a_check_that_is_taken_away_or_told_not_to_eject_gives_its_pods_back,
    what_is_frozen_stays_out_or_in_whatever_happens
    ; alone:
    a_binding_waits_for_pods_that_cannot_be_given_back(20),
    an_operator_that_is_told_not_to_eject_gives_all_pods_back(25)
];

/// How long it is watched that nothing happens.
const A_WHILE: Duration = Duration::from_secs(3);

/// A service of three with one out, checked by its binding.
async fn one_out<'a>(scene: &'a Scene<'a>, name: &str, spec: Value) -> Result<Checked<'a>> {
    let checked = Checked::unbound(scene, name, 3).await?;
    let spec = with(json!({"healthCheck": quicker()}), spec);
    checked.bind(json!({}), spec).await?;
    checked.is_healthy().await?;
    checked.endpoints[0].fail(Trouble::Status(500)).await?;
    checked.are_out(&[0]).await?;
    checked.counts(3, 2, 1).await?;
    Ok(checked)
}

async fn a_binding_that_is_deleted_gives_its_pods_back_before_it_is_gone(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "deleted").await?;
    let retain = json!({"deletionPolicy": "Retain"});
    let (web, retained, frozen) = tokio::try_join!(
        one_out(&scene, "web", json!({})),
        one_out(&scene, "retained", retain),
        one_out(&scene, "frozen", json!({})),
    )?;
    let freeze = json!({"spec": {"suspend": true}});
    scene.change("frozen", freeze).await?;
    scene
        .says("frozen", "Suspended", "True SuspendedByBinding")
        .await?;
    for checked in [&web, &retained, &frozen] {
        let mark = rig.audit_mark().await?;
        scene.delete_binding(&checked.name).await?;
        scene.gone(&checked.name).await?;
        let marks = checked.marks().await?;
        ensure!(marks.is_empty(), "{}: {marks:?}", checked.name);
        in_order(checked, mark).await?;
    }
    Ok(())
}

/// Nobody can bring it back, and nobody has to: with no kubelet it never ends.
async fn a_pod_that_is_about_to_end_keeps_no_binding(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "about-to-end").await?;
    let web = one_out(&scene, "web", json!({})).await?;
    let graceful = DeleteParams::default().grace_period(600);
    web.pods().delete(&web.pod(0), &graceful).await?;
    web.counts(2, 2, 0).await?;
    let mark = rig.audit_mark().await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    let writes = web.pod_writes(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    let pod = web.pods().get(&web.pod(0)).await?;
    ensure!(pod.metadata.deletion_timestamp.is_some(), "{pod:?}");
    let at_once = DeleteParams::default().grace_period(0);
    web.pods().delete(&web.pod(0), &at_once).await?;
    Ok(())
}

/// The label went before the finalizer did.
async fn in_order(checked: &Checked<'_>, since: Mark) -> Result<()> {
    let writes = checked.scene.writes(since).await?;
    let at = |line: String| writes.iter().position(|write| write.starts_with(&line));
    let label = at(format!("patch pods {} 200", checked.pod(0)));
    let finalizer = at(format!("patch servicebindings {} 200", checked.name));
    ensure!(
        label.is_some() && label < finalizer,
        "{label:?} {finalizer:?} of {writes:?}"
    );
    Ok(())
}

async fn a_check_that_is_taken_away_or_told_not_to_eject_gives_its_pods_back(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::shared(rig, "taken-away").await?;
    let (off, observe, outlier, unchecked, record) = tokio::try_join!(
        one_out(&scene, "off", json!({})),
        one_out(&scene, "observe", json!({})),
        one_out(&scene, "outlier", json!({})),
        one_out(&scene, "unchecked", json!({})),
        by_record(&scene, "record"),
    )?;
    for (checked, mode) in [
        (&off, "off"),
        (&observe, "observe"),
        (&outlier, "outlier-only"),
    ] {
        let change = json!({"spec": {"healthCheck": {"ejection": mode}}});
        scene.change(&checked.name, change).await?;
        checked.are_out(&[]).await?;
        // It is checked as before.
        checked.counts(3, 2, 0).await?;
        checked.says("False Degraded").await?;
    }
    let nothing = json!({"spec": {"healthCheck": null}});
    scene.change("unchecked", nothing).await?;
    record.put(json!({})).await?;
    for checked in [&unchecked, &record] {
        checked.are_out(&[]).await?;
        let binding = checked.says("Unknown NotConfigured").await?;
        let status = binding.status.unwrap_or_default();
        ensure!(status.health_status.is_none(), "{status:?}");
    }
    for checked in [&off, &observe, &outlier, &unchecked, &record] {
        checked.stay_out(&[], Duration::from_secs(1)).await?;
    }
    // And back again.
    let draining = json!({"spec": {"healthCheck": {"ejection": "draining"}}});
    scene.change("off", draining).await?;
    off.are_out(&[0]).await?;
    scene.unbind().await
}

/// The same by the catalog's record.
async fn by_record<'a>(scene: &'a Scene<'a>, name: &str) -> Result<Checked<'a>> {
    let checked = Checked::start(scene, name, 3, quicker()).await?;
    checked.endpoints[0].fail(Trouble::Status(500)).await?;
    checked.are_out(&[0]).await?;
    Ok(checked)
}

async fn what_is_frozen_stays_out_or_in_whatever_happens(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "frozen").await?;
    let paused = scene.neighbour("frozen-too").await?;
    let (web, other) = tokio::try_join!(
        one_out(&scene, "web", json!({})),
        one_out(&paused, "web", json!({})),
    )?;
    scene
        .change("web", json!({"spec": {"suspend": true}}))
        .await?;
    paused.annotate_namespace(PAUSED, Some("true")).await?;
    scene
        .says("web", "Suspended", "True SuspendedByBinding")
        .await?;
    paused.says("web", "Suspended", "True Paused").await?;
    let mark = rig.audit_mark().await?;
    // The one that is out is well again, and another one is not.
    for checked in [&web, &other] {
        checked.endpoints[0].recover().await?;
        checked.endpoints[1].fail(Trouble::Status(500)).await?;
    }
    for checked in [&web, &other] {
        checked.stay_out(&[0], A_WHILE).await?;
        let writes = checked.pod_writes(mark).await?;
        ensure!(writes.is_empty(), "{writes:?}");
    }
    scene
        .change("web", json!({"spec": {"suspend": false}}))
        .await?;
    paused.annotate_namespace(PAUSED, None).await?;
    for checked in [&web, &other] {
        checked.are_out(&[1]).await?;
    }
    scene.unbind().await?;
    paused.unbind().await
}

async fn a_binding_waits_for_pods_that_cannot_be_given_back(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "waits").await?;
    let web = one_out(&scene, "web", json!({})).await?;
    let file = forbid_pods(&scene).await?;
    let file = file.to_str().unwrap_or_default();
    wait::until("the policy in force", PATIENCE, async || {
        let answer = dry_edit(&web).await;
        ensure!(answer.is_err(), "it is not in force");
        Ok(())
    })
    .await?;
    scene.delete_binding("web").await?;
    sleep(A_WHILE).await;
    let binding = scene.bindings().get_opt("web").await?;
    ensure!(binding.is_some(), "it is gone, and its Pod is out");
    ensure!(web.out().await?.len() == 1, "{:?}", web.marks().await?);
    rig.kubectl(&["delete", "-f", file]).await?;
    scene.gone("web").await?;
    ensure!(web.marks().await?.is_empty(), "{:?}", web.marks().await?);
    Ok(())
}

/// A change that is not made.
async fn dry_edit(web: &Checked<'_>) -> Result<()> {
    let params = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"metadata": {"labels": {"tried": "true"}}}));
    web.pods().patch(&web.pod(2), &params, &patch).await?;
    Ok(())
}

/// The owners of the cluster let nobody change a Pod of this namespace.
async fn forbid_pods(scene: &Scene<'_>) -> Result<std::path::PathBuf> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [{
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-pods"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [""], "apiVersions": ["*"],
                "operations": ["UPDATE"], "resources": ["pods"],
            }]},
            "validations": [{"expression": "false", "message": "nobody changes Pods on Fridays"}],
        },
    }, {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-pods"},
        "spec": {
            "policyName": "no-pods",
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {
                "kubernetes.io/metadata.name": scene.namespace,
            }}},
        },
    }]});
    let file = scene.rig.folder().join("no-pods.json");
    std::fs::write(&file, list.to_string())?;
    let path = file.to_str().unwrap_or_default();
    scene.rig.kubectl(&["apply", "-f", path]).await?;
    Ok(file)
}

async fn an_operator_that_is_told_not_to_eject_gives_all_pods_back(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "told").await?;
    let by_flag = one_out(&scene, "by-flag", json!({})).await?;
    let own = with(quicker(), json!({"ejection": "draining"}));
    let by_itself = one_out(&scene, "by-itself", json!({"healthCheck": own})).await?;
    scene.stack.operator.process.kill().await?;
    let mark = rig.audit_mark().await?;
    let url = &scene.stack.catalog.url;
    let flags = ["--ejection=off"];
    let operator = stack::operator(rig, "off", Path::new(PROGRAM), url, &flags).await?;
    by_flag.are_out(&[]).await?;
    by_flag.counts(3, 2, 0).await?;
    // Whoever says for himself what is to happen is not concerned.
    by_itself.counts(3, 2, 1).await?;
    let writes = by_itself.pod_writes(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    by_itself.are_out(&[0]).await?;
    operator.process.kill().await?;
    let mark = rig.audit_mark().await?;
    let flags = ["--ejection=observe"];
    let operator = stack::operator(rig, "observe", Path::new(PROGRAM), url, &flags).await?;
    would(&operator, &by_flag, "leave").await?;
    by_flag.endpoints[0].recover().await?;
    would(&operator, &by_flag, "come back into").await?;
    for checked in [&by_flag, &by_itself] {
        let writes = checked.pod_writes(mark).await?;
        ensure!(writes.is_empty(), "{writes:?}");
    }
    scene.unbind().await?;
    operator.process.kill().await
}

/// Waits until the log says of the first Pod, and of no other one, what the
/// operator would do.
async fn would(operator: &Operator, checked: &Checked<'_>, what: &str) -> Result<()> {
    let message = format!("observing: this Pod would {what} the mesh");
    let bindings = format!("{}/{}", checked.scene.namespace, checked.name);
    let expected = [checked.pod(0).as_str(), bindings.as_str()].map(|text| json!(text));
    wait::until(&message, PATIENCE, async || {
        let log = std::fs::read_to_string(operator.process.log())?;
        let lines = log.lines().filter(|line| line.contains(&message));
        let lines: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        let said: Vec<_> = lines
            .iter()
            .map(|line| ["pod", "bindings"].map(|field| line[field].clone()))
            .collect();
        ensure!(said == [expected.clone()], "{lines:?}");
        Ok(())
    })
    .await
}
