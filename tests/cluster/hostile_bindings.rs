//! What the real API server lets through of bindings that mean ill, and what the
//! operator makes of the rest: tests/hostile asks the code alone, with more.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::policy::effective;
use futures::{StreamExt as _, stream};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::scene::{DR, GRANT, Scene, VS, annotate_namespace, rules};
use crate::support::rig::Rig;
use crate::support::stack::{self, PATIENCE, condition};
use crate::support::wait;
use crate::targets::{LEAST, targets};

crate::tests![
    of_all_targets_only_paths_are_stored_and_the_code_takes_the_same,
    bindings_that_reach_for_other_namespaces_put_nothing_there,
];

async fn of_all_targets_only_paths_are_stored_and_the_code_takes_the_same(rig: &Rig) -> Result<()> {
    let namespace = &rig.namespace("urls").await?;
    let bindings = &Api::<ServiceBinding>::namespaced(rig.client.clone(), namespace);
    let dry_run = &PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let texts = targets(8080);
    let answers = stream::iter(&texts).map(async |text| {
        let mut binding = stack::binding(namespace, "web", "id");
        binding["spec"]["healthCheck"] = json!({"endpoint": text});
        let binding: ServiceBinding = serde_json::from_value(binding)?;
        let understood = effective(None, &binding.spec, &Bounds::default()).is_ok();
        let stored = match bindings.create(dry_run, &binding).await {
            Ok(_) => true,
            Err(kube::Error::Api(status)) if status.code == 422 => {
                let field = "spec.healthCheck.endpoint";
                ensure!(status.message.contains(field), "{text:?}: {status:?}");
                false
            }
            Err(error) => bail!("{text:?}: {error}"),
        };
        ensure!(stored == understood, "{text:?} is stored: {stored}");
        Ok(usize::from(!stored))
    });
    let refused: Vec<Result<usize>> = answers.buffer_unordered(8).collect().await;
    let refused: usize = refused.into_iter().sum::<Result<usize>>()?;
    ensure!(refused >= LEAST, "{refused} are refused");
    Ok(())
}

/// An author in one namespace, with three around it: one that allows him, one
/// that allows somebody of nearly his name, and one that says nothing.
async fn bindings_that_reach_for_other_namespaces_put_nothing_there(rig: &Rig) -> Result<()> {
    let author = Scene::shared(rig, "reaching").await?;
    let open = author.neighbour("reached-open").await?;
    let nearly = author.neighbour("reached-nearly").await?;
    let shut = author.neighbour("reached-shut").await?;
    let mine = author.namespace.as_str();
    annotate_namespace(rig, &open.namespace, GRANT, Some(mine)).await?;
    let others = format!("{mine}0, *,{},not-{mine}", mine.to_uppercase());
    annotate_namespace(rig, &nearly.namespace, GRANT, Some(&others)).await?;
    let all = [&author, &open, &nearly, &shut];
    for scene in all {
        scene.service("web").await?;
    }
    let id = author.id("web");
    // The record is another namespace's.
    author
        .put(&stack::record(&id, &shut.namespace, "web"))
        .await?;

    let shut_host = format!("web.{}.svc.cluster.local", shut.namespace);
    let texts = [
        "web",
        "*",
        shut_host.as_str(),
        &format!("web.{}", shut.namespace),
        &format!("{}/web", shut.namespace),
        "../web",
        "WEB",
        "web.",
        "web\n",
        "",
    ];
    let namespaces = [
        Value::Null,
        json!(mine),
        json!(open.namespace),
        json!(nearly.namespace),
        json!(shut.namespace),
        json!("kube-system"),
        json!("istio-system"),
        json!("*"),
        json!(""),
        json!(format!("{}\n", shut.namespace)),
        json!(format!("{mine},{}", shut.namespace)),
        json!(format!("{mine}/../{}", shut.namespace)),
        json!(shut.namespace.to_uppercase()),
    ];
    let (mut stored, mut refused) = (BTreeSet::new(), 0);
    for (number, name) in texts.iter().enumerate() {
        for (at, namespace) in namespaces.iter().enumerate() {
            let mut binding = stack::binding(mine, &format!("b-{number}-{at}"), &id);
            binding["spec"]["serviceName"] = json!(name);
            if !namespace.is_null() {
                binding["spec"]["namespace"] = namespace.clone();
            }
            match author.create(&binding).await {
                Ok(binding) => {
                    stored.insert(binding.name_any());
                }
                Err(error) => {
                    ensure!(format!("{error:?}").contains("422"), "{error:?}");
                    refused += 1;
                }
            }
        }
    }
    ensure!(stored.len() == 7 && refused == 123, "{stored:?}, {refused}");
    let expected: BTreeSet<_> = [&author.namespace, &open.namespace].into();
    wait::until("a word on each binding", PATIENCE, async || {
        let mut ready = 0;
        for binding in author.bindings().list(&ListParams::default()).await? {
            let said = condition(&binding, "Ready").context("nothing is said")?;
            ready += usize::from(said == "True Synced");
            let may = [
                "True Synced",
                "False AnotherBinding",
                "False NamespaceNotAllowed",
            ];
            ensure!(
                may.contains(&said.as_str()),
                "{}: {said}",
                binding.name_any()
            );
        }
        ensure!(ready == 2, "{ready} are ready");
        Ok(())
    })
    .await?;
    for kind in [VS, DR] {
        let mut found = BTreeSet::new();
        for rule in everywhere(rig, kind).await? {
            let annotation = "catalog-mesh.aikernel.io/binding";
            let of = rule
                .annotations()
                .get(annotation)
                .cloned()
                .unwrap_or_default();
            if !of.starts_with(&format!("{mine}/")) {
                continue;
            }
            let namespace = rule.namespace().unwrap_or_default();
            let spec = &rule.data["spec"];
            let host = format!("web.{namespace}.svc.cluster.local");
            let hosts = if kind == VS {
                spec["hosts"].clone()
            } else {
                json!([spec["host"]])
            };
            ensure!(hosts == json!([host]), "{spec}");
            ensure!(rule.name_any() == "web", "{rule:?}");
            found.insert(namespace);
        }
        let found: BTreeSet<_> = found.iter().collect();
        ensure!(found == expected, "{kind}s are in {found:?}");
        for scene in [&nearly, &shut] {
            let there = rules(rig, kind, &scene.namespace);
            let there = there.list(&ListParams::default()).await?.items;
            ensure!(there.is_empty(), "{there:?}");
        }
    }
    author.unbind().await
}

async fn everywhere(rig: &Rig, kind: &str) -> Result<Vec<DynamicObject>> {
    let resource = kube::api::ApiResource::from_gvk(&kube::api::GroupVersionKind::gvk(
        "networking.istio.io",
        "v1",
        kind,
    ));
    let all = Api::<DynamicObject>::all_with(rig.client.clone(), &resource);
    Ok(all.list(&ListParams::default()).await?.items)
}
