//! What becomes of the mesh when a binding goes?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::scene::{DR, FINALIZER, Scene, VS, message};
use crate::support::envoy::Options;
use crate::support::rig::Rig;
use crate::support::stack::{PATIENCE, condition};
use crate::support::wait;

crate::tests![
    the_virtual_service_goes_before_the_destination_rule,
    requests_succeed_throughout_a_binding_s_life,
    a_binding_whose_service_is_gone_can_be_deleted,
    a_namespace_with_a_binding_can_be_deleted,
    a_stranger_s_finalizer_on_the_binding_is_left_alone,
    what_took_the_place_of_our_object_is_not_deleted
    ; alone:
    a_removal_never_waits_for_the_catalog,
    a_removal_that_is_refused_says_so_and_is_tried_again(20),
    what_was_deleted_while_the_operator_was_away_is_cleaned_up
];

async fn the_virtual_service_goes_before_the_destination_rule(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "order").await?;
    let binding = scene.bound("web").await?;
    let finalizers = binding.metadata.finalizers.context("finalizers")?;
    ensure!(finalizers == [FINALIZER], "{finalizers:?}");
    let mark = scene.mark().await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    scene.nothing_of("web").await?;
    let writes = scene.wrote(mark, 3).await?;
    ensure!(
        writes
            == [
                "delete virtualservices web 200",
                "delete destinationrules web 200",
                "patch servicebindings web 200",
            ],
        "{writes:?}"
    );
    Ok(())
}

async fn requests_succeed_throughout_a_binding_s_life(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "lived").await?;
    let web = rig
        .workload(&scene.namespace, "web", &["zone-a", "zone-b"])
        .await?;
    let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
    envoy.wait_for_endpoints(&web.host(), 2).await?;
    let life = async {
        scene.put(&scene.record("web")).await?;
        scene.create(&scene.binding("web")).await?;
        scene.synced("web").await?;
        // Creation times are whole seconds.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let mut younger = scene.binding("web");
        younger["metadata"]["name"] = json!("younger");
        scene.create(&younger).await?;
        scene.conflict("younger", "AnotherBinding", &[]).await?;
        scene.delete_binding("web").await?;
        scene.gone("web").await?;
        scene.synced("younger").await?;
        scene.delete_binding("younger").await?;
        scene.gone("younger").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        anyhow::Ok(())
    };
    let requests = async {
        loop {
            let tally = envoy.tally(&web.host(), "/", 20).await?;
            let good = tally.keys().all(|answer| answer.starts_with("200 "));
            if !good {
                anyhow::bail!("{tally:?}");
            }
        }
    };
    tokio::select! {
        lived = life => lived,
        failed = requests => failed,
    }
}

async fn a_binding_whose_service_is_gone_can_be_deleted(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "serviceless").await?;
    scene.bound("web").await?;
    scene
        .services()
        .delete("web", &DeleteParams::default())
        .await?;
    scene.says("web", "Ready", "False ServiceNotFound").await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    scene.nothing_of("web").await
}

async fn a_namespace_with_a_binding_can_be_deleted(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "ending").await?;
    scene.bound("web").await?;
    scene.bound("other").await?;
    let namespaces = Api::<Namespace>::all(rig.client.clone());
    namespaces
        .delete(&scene.namespace, &DeleteParams::default())
        .await?;
    wait::until("the namespace's end", PATIENCE, async || {
        let left = namespaces.get_opt(&scene.namespace).await?;
        ensure!(left.is_none(), "{left:?}");
        Ok(())
    })
    .await
}

async fn a_stranger_s_finalizer_on_the_binding_is_left_alone(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "finalizers").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    let mut binding = scene.binding("web");
    binding["metadata"]["finalizers"] = json!(["example.com/theirs"]);
    scene.create(&binding).await?;
    scene.synced("web").await?;
    scene.delete_binding("web").await?;
    wait::until("our finalizer's end", PATIENCE, async || {
        let left = scene.bindings().get("web").await?.metadata.finalizers;
        ensure!(
            left == Some(vec!["example.com/theirs".to_owned()]),
            "{left:?}"
        );
        Ok(())
    })
    .await?;
    scene.nothing_of("web").await?;
    // It must not be taken up again.
    let mark = scene.mark().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    scene
        .change("web", json!({"metadata": {"finalizers": null}}))
        .await?;
    scene.gone("web").await
}

async fn what_took_the_place_of_our_object_is_not_deleted(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "replaced").await?;
    scene.bound("web").await?;
    // A user takes our route's place with one of his own.
    let route = crate::scene::foreign_route(&scene.host("web"));
    scene
        .change("web", json!({"spec": {"suspend": true}}))
        .await?;
    scene
        .says("web", "Suspended", "True SuspendedByBinding")
        .await?;
    scene.delete_rule(VS, "web").await?;
    let theirs = scene.foreign(VS, "web", route).await?;
    scene
        .change("web", json!({"spec": {"suspend": false}}))
        .await?;
    scene
        .conflict("web", "NotOurs", &["VirtualService"])
        .await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    ensure!(scene.rule(VS, "web").await? == theirs, "touched");
    let dr = scene.rules(DR).get_opt("web").await?;
    ensure!(dr.is_none(), "ours was left: {dr:?}");
    Ok(())
}

async fn a_removal_never_waits_for_the_catalog(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "catalogless").await?;
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        scene.bound(name).await?;
    }
    scene.stack.catalog.process.kill().await?;
    for name in names {
        scene
            .says(name, "CatalogSynced", "False CatalogUnavailable")
            .await?;
        scene.says(name, "Ready", "True Synced").await?;
    }
    for name in names {
        scene.delete_binding(name).await?;
    }
    for name in names {
        scene.gone(name).await?;
        scene.nothing_of(name).await?;
    }
    Ok(())
}

async fn a_removal_that_is_refused_says_so_and_is_tried_again(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "refused").await?;
    scene.bound("web").await?;
    // An admission policy of the cluster's owners stands in the way.
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-deletion"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["networking.istio.io"], "apiVersions": ["*"],
                "operations": ["DELETE"], "resources": ["virtualservices"],
            }]},
            "validations": [{"expression": "false", "message": "nobody deletes routes on Fridays"}],
        },
    });
    let bound_policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-deletion"},
        "spec": {
            "policyName": "no-deletion",
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {
                "kubernetes.io/metadata.name": scene.namespace,
            }}},
        },
    });
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [policy, bound_policy]});
    let file = rig.folder().join("no-deletion.json");
    std::fs::write(&file, list.to_string())?;
    let file = file.to_str().context("path")?;
    rig.kubectl(&["apply", "-f", file]).await?;
    wait::until("the policy in force", PATIENCE, async || {
        let dry = DeleteParams {
            dry_run: true,
            ..DeleteParams::default()
        };
        let answer = scene.rules(VS).delete("web", &dry).await;
        ensure!(answer.is_err(), "it is not in force");
        Ok(())
    })
    .await?;

    scene.delete_binding("web").await?;
    let binding = scene.says("web", "Ready", "False WriteRefused").await?;
    ensure!(
        message(&binding, "Ready").contains("nobody deletes routes on Fridays"),
        "{:?}",
        binding.status
    );
    scene.rule(DR, "web").await?;

    rig.kubectl(&["delete", "-f", file]).await?;
    scene.gone("web").await?;
    scene.nothing_of("web").await
}

async fn what_was_deleted_while_the_operator_was_away_is_cleaned_up(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "away").await?;
    scene.bound("web").await?;
    scene.bound("frozen").await?;
    scene.stack.operator.process.kill().await?;
    scene.delete_binding("web").await?;
    let freeze = json!({"spec": {"suspend": true}});
    scene
        .bindings()
        .patch("frozen", &PatchParams::default(), &Patch::Merge(freeze))
        .await?;
    scene.delete_binding("frozen").await?;
    let kept = scene.rule(VS, "frozen").await?;
    ensure!(
        condition(&scene.bindings().get("web").await?, "Ready").is_some(),
        "gone already"
    );

    scene.stack.operator.start_again().await?;
    scene.gone("web").await?;
    scene.nothing_of("web").await?;
    scene.gone("frozen").await?;
    let after = scene.rule(VS, "frozen").await?;
    ensure!(after.data == kept.data, "{after:?}");
    ensure!(after.metadata.owner_references.is_none(), "{after:?}");
    Ok(())
}
