//! Which of several bindings for one Service counts, and who may bind a
//! Service of another namespace?

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::scene::{DR, FINALIZER, GRANT, Scene, UID, VS, uid};
use crate::support::rig::Rig;

crate::tests![
    of_two_bindings_the_older_counts_and_the_younger_takes_over,
    a_retained_object_is_taken_over_by_a_new_binding,
    an_orphan_of_a_binding_that_vanished_is_taken_over,
    another_namespace_has_to_allow_it_and_may_revoke_it,
    a_binding_that_is_not_allowed_keeps_nobody_out,
];

async fn of_two_bindings_the_older_counts_and_the_younger_takes_over(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "rivals").await?;
    let older = scene.bound("web").await?;
    let mut younger = scene.binding("web");
    younger["metadata"]["name"] = json!("younger");
    // Creation times are whole seconds; a tie is broken by the uids.
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let younger = scene.create(&younger).await?;
    let title = format!("{}/web", scene.namespace);
    scene
        .conflict("younger", "AnotherBinding", &[&title])
        .await?;
    let vs = scene.rule(VS, "web").await?;
    ensure!(
        vs.metadata.annotations.as_ref().and_then(|a| a.get(UID)) == older.metadata.uid.as_ref(),
        "{vs:?}"
    );

    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    scene.synced("younger").await?;
    for kind in [VS, DR] {
        let rule = scene.rule(kind, "web").await?;
        ensure!(
            rule.metadata.annotations.as_ref().and_then(|a| a.get(UID))
                == younger.metadata.uid.as_ref(),
            "{rule:?}"
        );
    }
    Ok(())
}

async fn a_retained_object_is_taken_over_by_a_new_binding(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "retained").await?;
    scene.bound("web").await?;
    scene
        .change("web", json!({"spec": {"deletionPolicy": "Retain"}}))
        .await?;
    scene.synced("web").await?;
    let vs = scene.rule(VS, "web").await?;
    let dr = scene.rule(DR, "web").await?;
    for rule in [&vs, &dr] {
        ensure!(
            rule.metadata.owner_references.iter().flatten().count() == 0,
            "{rule:?}"
        );
    }
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    ensure!(
        scene.rule(VS, "web").await? == vs,
        "the retained one was touched"
    );
    ensure!(
        scene.rule(DR, "web").await? == dr,
        "the retained one was touched"
    );

    let new = scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;
    for (kind, before) in [(VS, &vs), (DR, &dr)] {
        let after = scene.rule(kind, "web").await?;
        ensure!(uid(&after)? == uid(before)?, "made anew");
        ensure!(
            after.metadata.annotations.as_ref().and_then(|a| a.get(UID))
                == new.metadata.uid.as_ref(),
            "{after:?}"
        );
    }
    Ok(())
}

async fn an_orphan_of_a_binding_that_vanished_is_taken_over(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "orphan").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    // What is left of a binding whose finalizer somebody took off by force.
    for (kind, spec) in [
        (VS, crate::scene::foreign_route(&scene.host("web"))),
        (DR, json!({"host": scene.host("web")})),
    ] {
        let object = serde_json::from_value(json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": {
                "name": "web",
                "labels": {crate::scene::MANAGED_BY: "catalog-mesh-controller"},
                "annotations": {UID: "7b2ff0f8-0000-4000-8000-000000000000"},
            },
            "spec": spec,
        }))?;
        scene
            .rules(kind)
            .create(&Default::default(), &object)
            .await?;
    }
    let before = uid(&scene.rule(VS, "web").await?)?;
    scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;
    let vs = scene.rule(VS, "web").await?;
    ensure!(uid(&vs)? == before, "made anew");
    ensure!(vs.data["spec"]["http"][0]["timeout"] == "5s", "{vs:?}");
    Ok(())
}

async fn another_namespace_has_to_allow_it_and_may_revoke_it(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "granted").await?;
    let from = scene.neighbour("author").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    let mut binding = from.binding("web");
    binding["spec"]["namespace"] = json!(scene.namespace);
    binding["spec"]["catalogServiceId"] = json!(scene.id("web"));
    from.create(&binding).await?;
    let advice = format!("{GRANT}={}", from.namespace);
    from.conflict("web", "NamespaceNotAllowed", &[&scene.namespace, &advice])
        .await?;
    scene.nothing_of("web").await?;

    let list = format!("someone-else, {}", from.namespace);
    scene.annotate_namespace(GRANT, Some(&list)).await?;
    from.synced("web").await?;
    let vs = scene.rule(VS, "web").await?;
    ensure!(vs.metadata.owner_references.is_none(), "{vs:?}");

    scene.annotate_namespace(GRANT, None).await?;
    from.conflict("web", "NamespaceNotAllowed", &[]).await?;
    ensure!(scene.rule(VS, "web").await? == vs, "touched");

    // Its removal goes on all the same.
    from.delete_binding("web").await?;
    from.gone("web").await?;
    scene.nothing_of("web").await
}

async fn a_binding_that_is_not_allowed_keeps_nobody_out(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "squatted").await?;
    let from = scene.neighbour("squatter").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    let mut squatter = from.binding("web");
    squatter["spec"]["namespace"] = json!(scene.namespace);
    squatter["spec"]["catalogServiceId"] = json!(scene.id("web"));
    from.create(&squatter).await?;
    from.conflict("web", "NamespaceNotAllowed", &[]).await?;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;

    scene.create(&scene.binding("web")).await?;
    let binding = scene.synced("web").await?;
    ensure!(
        binding
            .metadata
            .finalizers
            .context("finalizers")?
            .contains(&FINALIZER.to_owned()),
        "no finalizer"
    );
    // Now it is allowed, and older: it counts, and takes over what the other
    // one has made.
    let made = uid(&scene.rule(VS, "web").await?)?;
    scene
        .annotate_namespace(GRANT, Some(&from.namespace))
        .await?;
    let older = from.synced("web").await?;
    scene
        .conflict(
            "web",
            "AnotherBinding",
            &[&format!("{}/web", from.namespace)],
        )
        .await?;
    for kind in [VS, DR] {
        let rule = scene.rule(kind, "web").await?;
        ensure!(
            rule.metadata.annotations.as_ref().and_then(|a| a.get(UID))
                == older.metadata.uid.as_ref(),
            "{rule:?}"
        );
        ensure!(rule.metadata.owner_references.is_none(), "{rule:?}");
    }
    ensure!(uid(&scene.rule(VS, "web").await?)? == made, "made anew");

    // The younger one goes without taking anything along.
    scene.delete_binding("web").await?;
    scene.gone("web").await?;
    ensure!(uid(&scene.rule(VS, "web").await?)? == made, "made anew");
    Ok(())
}
