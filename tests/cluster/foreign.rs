//! Does what is not ours stay as it is, and is whoever is in the way named?

use anyhow::{Context as _, Result, ensure};
use kube::api::DynamicObject;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::scene::{ADOPT, DR, MANAGED_BY, Scene, UID, VS, foreign_route, rules};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::wait;

crate::tests![
    an_object_of_our_name_that_is_not_ours_stays_byte_identical,
    an_object_of_our_name_is_taken_over_once_its_owner_says_so,
    a_race_for_a_name_never_changes_what_the_other_one_stored,
    an_exact_rule_of_another_name_is_a_conflict,
    a_wildcard_rule_is_a_conflict_until_its_owner_agrees,
    a_rule_of_the_root_namespace_is_a_conflict_until_its_owner_agrees,
    a_mesh_route_of_another_namespace_is_a_conflict,
    a_route_that_is_bound_to_a_gateway_alone_is_none,
    a_destination_rule_of_a_client_is_none,
    a_short_host_is_read_as_istio_reads_it,
    a_rule_that_comes_later_is_a_conflict_and_ours_stay_in_force
    ; alone:
    an_object_that_appears_between_look_and_write_stays_byte_identical
];

/// The object without what the server keeps for itself: nothing.
fn bytes(object: &DynamicObject) -> Result<String> {
    Ok(serde_json::to_string(object)?)
}

async fn unbound<'a>(rig: &'a Rig, name: &str) -> Result<Scene<'a>> {
    let scene = Scene::shared(rig, name).await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    Ok(scene)
}

fn annotate(key: &str, value: &str) -> Value {
    json!({"metadata": {"annotations": {key: value}}})
}

async fn an_object_of_our_name_that_is_not_ours_stays_byte_identical(rig: &Rig) -> Result<()> {
    for kind in [VS, DR] {
        let scene = unbound(rig, "not-ours").await?;
        let host = scene.host("web");
        let spec = match kind {
            VS => foreign_route(&host),
            _ => json!({"host": host, "subsets": [{"name": "v1", "labels": {"v": "1"}}]}),
        };
        let before = scene.foreign(kind, "web", spec).await?;
        scene.create(&scene.binding("web")).await?;
        let title = format!("{kind} {}/web", scene.namespace);
        scene.conflict("web", "NotOurs", &[&title, ADOPT]).await?;
        let mark = scene.mark().await?;
        scene
            .change("web", json!({"spec": {"trafficPolicy": {"timeout": "3s"}}}))
            .await?;
        let generation = scene.bindings().get("web").await?.metadata.generation;
        wait::until("the look at the new generation", PATIENCE, async || {
            let status = scene.bindings().get("web").await?.status;
            let seen = status.context("status")?.observed_generation;
            ensure!(seen == generation, "{seen:?}");
            Ok(())
        })
        .await?;
        scene.conflict("web", "NotOurs", &[]).await?;
        let writes = scene.writes(mark).await?;
        ensure!(
            writes
                .iter()
                .all(|line| line.contains("servicebindings/status")),
            "{writes:?}"
        );
        let after = scene.rule(kind, "web").await?;
        ensure!(bytes(&before)? == bytes(&after)?, "{before:?} {after:?}");

        scene.delete_rule(kind, "web").await?;
        scene.synced("web").await?;
    }
    Ok(())
}

async fn an_object_of_our_name_is_taken_over_once_its_owner_says_so(rig: &Rig) -> Result<()> {
    let scene = unbound(rig, "adopted").await?;
    let host = scene.host("web");
    let subsets = json!([{"name": "v1", "labels": {"v": "1"}}]);
    let spec = json!({
        "host": host,
        "subsets": subsets,
        "trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 99}},
    });
    let dr = scene.foreign(DR, "web", spec).await?;
    let vs = scene.foreign(VS, "web", foreign_route(&host)).await?;
    scene.create(&scene.binding("web")).await?;
    scene
        .conflict("web", "NotOurs", &["DestinationRule"])
        .await?;
    scene.edit(DR, "web", annotate(ADOPT, "true")).await?;
    scene.conflict("web", "NotOurs", &[]).await?;
    scene.edit(VS, "web", annotate(ADOPT, "true")).await?;
    let binding = scene.synced("web").await?;

    for (kind, before) in [(DR, &dr), (VS, &vs)] {
        let after = scene.rule(kind, "web").await?;
        ensure!(after.metadata.uid == before.metadata.uid, "made anew");
        ensure!(
            after.metadata.annotations.as_ref().and_then(|a| a.get(UID))
                == binding.metadata.uid.as_ref(),
            "{after:?}"
        );
    }
    let dr = scene.rule(DR, "web").await?;
    ensure!(
        dr.data["spec"]["subsets"] == subsets,
        "its owner's subsets are gone: {dr:?}"
    );
    let outlier = &dr.data["spec"]["trafficPolicy"]["outlierDetection"];
    ensure!(outlier["consecutive5xxErrors"] == 5, "{dr:?}");
    Ok(())
}

async fn a_race_for_a_name_never_changes_what_the_other_one_stored(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "race").await?;
    for n in 0..20 {
        let name = format!("web-{n}");
        scene.service(&name).await?;
        scene.put(&scene.record(&name)).await?;
        let binding = scene.binding(&name);
        let spec = foreign_route(&scene.host(&name));
        // The stranger comes a little earlier or later each time.
        let stranger = async {
            tokio::time::sleep(std::time::Duration::from_millis(3 * n)).await;
            scene.foreign(VS, &name, spec).await
        };
        let (bound, stranger) = tokio::join!(scene.create(&binding), stranger);
        bound?;
        match stranger {
            Ok(before) => {
                scene
                    .conflict(&name, "NotOurs", &["VirtualService"])
                    .await?;
                let after = scene.rule(VS, &name).await?;
                ensure!(bytes(&before)? == bytes(&after)?, "{before:?} {after:?}");
            }
            Err(_) => {
                scene.synced(&name).await?;
            }
        }
    }
    Ok(())
}

async fn an_object_that_appears_between_look_and_write_stays_byte_identical(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "between").await?;
    for kind in [DR, VS] {
        let name = kind.to_lowercase();
        scene.service(&name).await?;
        scene.create(&scene.binding(&name)).await?;
        // It has looked, and the next look has the same picture.
        scene.says(&name, "CatalogSynced", "False Removed").await?;
        let operator = &scene.stack.operator.process;
        operator.signal(Signal::SIGSTOP).await?;
        let spec = match kind {
            VS => foreign_route(&scene.host(&name)),
            _ => json!({"host": scene.host(&name)}),
        };
        let before = scene.foreign(kind, &name, spec).await?;
        scene.put(&scene.record(&name)).await?;
        operator.signal(Signal::SIGCONT).await?;

        scene.conflict(&name, "NotOurs", &[kind]).await?;
        let after = scene.rule(kind, &name).await?;
        ensure!(bytes(&before)? == bytes(&after)?, "{before:?} {after:?}");
    }
    Ok(())
}

async fn an_exact_rule_of_another_name_is_a_conflict(rig: &Rig) -> Result<()> {
    let scene = unbound(rig, "exact").await?;
    let spec = json!({"host": scene.host("web")});
    scene.foreign(DR, "theirs", spec).await?;
    scene.create(&scene.binding("web")).await?;
    let title = format!("DestinationRule {}/theirs", scene.namespace);
    scene.conflict("web", "ForeignRule", &[&title]).await?;
    scene.nothing_of("web").await?;
    // It would win over ours: an agreement of its owner changes nothing.
    scene.edit(DR, "theirs", annotate(ADOPT, "true")).await?;
    scene.conflict("web", "ForeignRule", &[&title]).await?;
    scene.nothing_of("web").await?;

    scene.delete_rule(DR, "theirs").await?;
    scene.synced("web").await?;
    Ok(())
}

async fn a_wildcard_rule_is_a_conflict_until_its_owner_agrees(rig: &Rig) -> Result<()> {
    let scene = unbound(rig, "wildcard").await?;
    let host = format!("*.{}.svc.cluster.local", scene.namespace);
    let before = scene.foreign(DR, "all", json!({"host": host})).await?;
    scene.create(&scene.binding("web")).await?;
    let title = format!("DestinationRule {}/all", scene.namespace);
    scene
        .conflict("web", "ForeignRule", &[&title, ADOPT])
        .await?;
    scene.nothing_of("web").await?;

    scene.edit(DR, "all", annotate(ADOPT, "true")).await?;
    scene.synced("web").await?;
    let after = scene.rule(DR, "all").await?;
    ensure!(
        before.data == after.data && after.metadata.labels.is_none(),
        "an agreement is no adoption: {after:?}"
    );
    // The agreement is taken back.
    scene.edit(DR, "all", annotate(ADOPT, "false")).await?;
    scene.conflict("web", "ForeignRule", &[&title]).await?;
    scene.delete_rule(DR, "all").await?;
    scene.synced("web").await?;
    Ok(())
}

async fn a_rule_of_the_root_namespace_is_a_conflict_until_its_owner_agrees(
    rig: &Rig,
) -> Result<()> {
    let scene = unbound(rig, "root").await?;
    let root = rules(rig, DR, "istio-system");
    for (name, host) in [
        ("exact", scene.host("web")),
        ("wild", format!("*.{}.svc.cluster.local", scene.namespace)),
    ] {
        let name = format!("{}-{name}", scene.namespace);
        let object = serde_json::from_value(json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": DR,
            "metadata": {"name": name},
            "spec": {"host": host},
        }))?;
        root.create(&Default::default(), &object).await?;
        if name.ends_with("exact") {
            scene.create(&scene.binding("web")).await?;
        }
        let title = format!("DestinationRule istio-system/{name}");
        scene
            .conflict("web", "ForeignRule", &[&title, ADOPT])
            .await?;
        let agreed = kube::api::Patch::Merge(annotate(ADOPT, "true"));
        root.patch(&name, &Default::default(), &agreed).await?;
        scene.synced("web").await?;
    }
    Ok(())
}

async fn a_mesh_route_of_another_namespace_is_a_conflict(rig: &Rig) -> Result<()> {
    let scene = unbound(rig, "elsewhere").await?;
    let other = scene.neighbour("client").await?;
    let mut spec = foreign_route(&scene.host("web"));
    spec["gateways"] = json!(["mesh", "some/gateway"]);
    other.foreign(VS, "theirs", spec).await?;
    scene.create(&scene.binding("web")).await?;
    let title = format!("VirtualService {}/theirs", other.namespace);
    scene.conflict("web", "ForeignRule", &[&title]).await?;
    scene.nothing_of("web").await?;

    // Its owner takes the mesh out of it.
    other
        .edit(
            VS,
            "theirs",
            json!({"spec": {"gateways": ["some/gateway"]}}),
        )
        .await?;
    scene.synced("web").await?;
    Ok(())
}

async fn a_route_that_is_bound_to_a_gateway_alone_is_none(rig: &Rig) -> Result<()> {
    let scene = unbound(rig, "gateway").await?;
    let mut spec = foreign_route(&scene.host("web"));
    spec["gateways"] = json!(["some/gateway"]);
    scene.foreign(VS, "ingress", spec).await?;
    scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;
    Ok(())
}

async fn a_destination_rule_of_a_client_is_none(rig: &Rig) -> Result<()> {
    let scene = unbound(rig, "served").await?;
    let client = scene.neighbour("client").await?;
    let spec = json!({"host": scene.host("web")});
    client.foreign(DR, "theirs", spec).await?;
    scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;
    Ok(())
}

async fn a_short_host_is_read_as_istio_reads_it(rig: &Rig) -> Result<()> {
    let scene = unbound(rig, "short").await?;
    let other = scene.neighbour("short").await?;
    // Elsewhere it is another service; with a dot it is taken literally.
    other.foreign(VS, "theirs", foreign_route("web")).await?;
    let dotted = format!("web.{}", scene.namespace);
    scene.foreign(VS, "dotted", foreign_route(&dotted)).await?;
    scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;

    scene.foreign(VS, "theirs", foreign_route("web")).await?;
    let title = format!("VirtualService {}/theirs", scene.namespace);
    scene.conflict("web", "ForeignRule", &[&title]).await
}

async fn a_rule_that_comes_later_is_a_conflict_and_ours_stay_in_force(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "later").await?;
    scene.bound("web").await?;
    let vs = scene.rule(VS, "web").await?;
    scene
        .foreign(VS, "theirs", foreign_route(&scene.host("web")))
        .await?;
    scene.conflict("web", "ForeignRule", &["theirs"]).await?;
    ensure!(
        bytes(&vs)? == bytes(&scene.rule(VS, "web").await?)?,
        "touched"
    );
    // The label of the operator does not make it one of ours.
    scene
        .edit(
            VS,
            "theirs",
            json!({"metadata": {"labels": {MANAGED_BY: "catalog-mesh-controller"}}}),
        )
        .await?;
    scene.conflict("web", "ForeignRule", &["theirs"]).await?;
    scene.delete_rule(VS, "theirs").await?;
    scene.synced("web").await?;
    Ok(())
}
