//! Does one thing that cannot be read stop the others? A bad record, and a
//! binding that cannot be decoded, among many good ones.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::catalog::Catalog;
use crate::support::fleet::{Fleet, PATIENCE};
use crate::support::front::{Fault, Front};
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    one_bad_record_and_one_undecodable_binding_stop_nobody(20),
    a_binding_that_becomes_undecodable_keeps_its_last_state
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_catalog-mesh-controller");
const FRONT: &str = "127.0.0.1:9081";

async fn start(rig: &Rig, name: &str, url: &str) -> Result<Operator> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let name = format!("operator-{name}");
    stack::operator(rig, &name, Path::new(PROGRAM), url, &[]).await
}

/// Has the API server take any ServiceBinding, as an older definition might
/// have.
async fn loosen(rig: &Rig) -> Result<()> {
    let crds = Api::<CustomResourceDefinition>::all(rig.client.clone());
    let any = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema",
    "value": {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                // Fields by which bindings can be selected need a type.
                "properties": {
                    "catalogServiceId": {"type": "string"},
                    "serviceName": {"type": "string"},
                },
                "x-kubernetes-preserve-unknown-fields": true,
            },
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    }}]);
    let patch = Patch::<()>::Json(serde_json::from_value(any)?);
    crds.patch(
        "servicebindings.aikernel.io",
        &PatchParams::default(),
        &patch,
    )
    .await?;
    Ok(())
}

/// Puts the definition back as it is shipped.
async fn tighten(rig: &Rig) -> Result<()> {
    let file = repository().join("crds/servicebindings.yaml");
    let definition: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    let crds = Api::<CustomResourceDefinition>::all(rig.client.clone());
    let shipped = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema",
        "value": definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]}]);
    let patch = Patch::<()>::Json(serde_json::from_value(shipped)?);
    crds.patch(
        "servicebindings.aikernel.io",
        &PatchParams::default(),
        &patch,
    )
    .await?;
    Ok(())
}

/// Waits until an Event says that this binding cannot be decoded.
async fn wait_for_event(rig: &Rig, namespace: &str, name: &str) -> Result<()> {
    let events = Api::<Event>::namespaced(rig.client.clone(), namespace);
    wait::until("the Event Undecodable", PATIENCE, async || {
        let listed = events.list(&ListParams::default()).await?;
        let told = listed.iter().find(|event| {
            event.reason.as_deref() == Some("Undecodable")
                && event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(name)
        });
        let note = told
            .and_then(|event| event.note.as_deref())
            .unwrap_or_default();
        ensure!(
            note.contains("timeout"),
            "the Event does not name the field: {note:?}"
        );
        Ok(())
    })
    .await
}

async fn undecodable(operator: &Operator) -> Result<f64> {
    let metrics = operator
        .metrics(&format!("http://{OPERATOR}/metrics"))
        .await?;
    let found = metrics
        .starting_with("catalog_mesh_undecodable")
        .map(|(_, value)| value)
        .sum();
    Ok(found)
}

// trap 9
async fn one_bad_record_and_one_undecodable_binding_stop_nobody(rig: &Rig) -> Result<()> {
    const SIZE: usize = 200;
    let catalog = Catalog::start(rig.folder(), "poison", CATALOG).await?;
    let front = Front::start(FRONT, &catalog.url)?;
    let fleet = Fleet::prepare(rig, "poison", SIZE).await?;
    fleet.put_records(&catalog, "5s").await?;
    // The reference catalog would not take such a record itself.
    let mut bad = catalog.get(&fleet.id(7)).await?;
    bad["timeout"] = json!("soon");
    front.set(Fault::Replaced {
        id: fleet.id(7),
        body: bad.to_string(),
    })?;

    loosen(rig).await?;
    let outcome = poisoned(rig, &catalog, &front, &fleet).await;
    fleet.clear(rig).await?;
    tighten(rig).await?;
    outcome
}

async fn poisoned(rig: &Rig, catalog: &Catalog, front: &Front, fleet: &Fleet) -> Result<()> {
    let bindings = fleet.raw_bindings(rig);
    let mut poison = stack::binding(&fleet.namespace, "poison", "x");
    poison["spec"]["trafficPolicy"] = json!({"timeout": {"seconds": 5}});
    let poison: DynamicObject = serde_json::from_value(poison)?;
    wait::until("the looser definition", PATIENCE, async || {
        bindings.create(&PostParams::default(), &poison).await?;
        Ok(())
    })
    .await?;
    // It is there before the first list, and all the others come after it.
    let operator = start(rig, "poison", &front.url).await?;
    fleet.bind(rig).await?;
    fleet
        .wait_for_but(rig, "Ready", "True Synced", &["s7", "poison"])
        .await?;
    stack::wait_for(rig, &fleet.namespace, "s7", "Ready", "False InvalidRecord").await?;
    wait_for_event(rig, &fleet.namespace, "poison").await?;
    ensure!(undecodable(&operator).await? >= 1.0);
    let log = std::fs::read_to_string(operator.process.log())?;
    let line = format!("{}/poison", fleet.namespace);
    ensure!(
        log.lines()
            .any(|l| l.contains("undecodable") && l.contains(&line)),
        "no log line names {line}"
    );

    // Both heal when they are corrected; the second by binding a Service that
    // another one lets go of.
    front.set(Fault::None)?;
    catalog.put(&fleet.record(7, "5s")).await?;
    stack::wait_for(rig, &fleet.namespace, "s7", "Ready", "True Synced").await?;
    bindings.delete("s3", &DeleteParams::default()).await?;
    wait::until("the end of s3", PATIENCE, async || {
        ensure!(bindings.get_opt("s3").await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    let right = json!({"spec": {
        "trafficPolicy": null, "catalogServiceId": fleet.id(3), "serviceName": "s3",
    }});
    bindings
        .patch("poison", &PatchParams::default(), &Patch::Merge(right))
        .await?;
    stack::wait_for(rig, &fleet.namespace, "poison", "Ready", "True Synced").await?;
    fleet.rules(rig, "VirtualService").get("s3").await?;
    Ok(())
}

async fn a_binding_that_becomes_undecodable_keeps_its_last_state(rig: &Rig) -> Result<()> {
    let catalog = Catalog::start(rig.folder(), "turned", CATALOG).await?;
    let operator = start(rig, "turned", &catalog.url).await?;
    let fleet = Fleet::programmed(rig, &catalog, "turned", 3).await?;

    loosen(rig).await?;
    let outcome = turned(rig, &catalog, operator, &fleet).await;
    fleet.clear(rig).await?;
    tighten(rig).await?;
    outcome
}

async fn turned(rig: &Rig, catalog: &Catalog, operator: Operator, fleet: &Fleet) -> Result<()> {
    let bindings = fleet.raw_bindings(rig);
    let uid = async || -> Result<String> {
        let vs = fleet.rules(rig, "VirtualService").get("s0").await?;
        let dr = fleet.rules(rig, "DestinationRule").get("s0").await?;
        let uids = [vs, dr].map(|object| object.metadata.uid.unwrap_or_default());
        Ok(uids.join(" "))
    };
    let before = uid().await?;
    let wrong = json!({"spec": {"trafficPolicy": {"timeout": {"seconds": 5}}}});
    wait::until("the looser definition", PATIENCE, async || {
        bindings
            .patch("s0", &PatchParams::default(), &Patch::Merge(&wrong))
            .await?;
        Ok(())
    })
    .await?;
    wait_for_event(rig, &fleet.namespace, "s0").await?;

    // What it last said goes on: its catalog's news arrive, as everybody's.
    fleet.put_records(catalog, "7s").await?;
    fleet.wait_for_timeout(rig, "7s").await?;
    let generation = bindings.get("s0").await?.metadata.generation;
    let observed = bindings.get("s0").await?.data["status"]["observedGeneration"].as_i64();
    ensure!(
        observed < generation,
        "its status claims the generation that nobody could read"
    );

    // A new operator never knew it: nothing is taken away, and nobody takes over.
    operator.process.kill().await?;
    drop(operator);
    let operator = start(rig, "turned-again", &catalog.url).await?;
    let mut heir = stack::binding(&fleet.namespace, "heir", &fleet.id(0));
    heir["spec"]["serviceName"] = json!("s0");
    stack::create(rig, &heir).await?;
    wait::until("a word about the heir", PATIENCE, async || {
        let heir = bindings.get("heir").await?;
        let conditions = heir.data["status"]["conditions"].as_array().cloned();
        let conflict = conditions
            .unwrap_or_default()
            .into_iter()
            .find(|c| c["type"] == "Conflict")
            .context("no condition yet")?;
        ensure!(conflict["status"] == "True", "{conflict}");
        Ok(())
    })
    .await?;
    sleep(Duration::from_secs(4)).await;
    ensure!(uid().await? == before, "its objects are others");
    bindings.delete("heir", &DeleteParams::default()).await?;

    // Corrected, it is looked at; and wrong again, it can still be deleted.
    let right = json!({"spec": {"trafficPolicy": null}});
    bindings
        .patch("s0", &PatchParams::default(), &Patch::Merge(&right))
        .await?;
    stack::wait_for(rig, &fleet.namespace, "s0", "Ready", "True Synced").await?;
    ensure!(uid().await? == before, "its objects are others");
    bindings
        .patch("s0", &PatchParams::default(), &Patch::Merge(&wrong))
        .await?;
    let seen = undecodable(&operator).await?;
    wait::until("it is seen to be undecodable", PATIENCE, async || {
        ensure!(undecodable(&operator).await? > seen || seen >= 2.0);
        Ok(())
    })
    .await?;
    bindings.delete("s0", &DeleteParams::default()).await?;
    wait::until("its end", PATIENCE, async || {
        ensure!(bindings.get_opt("s0").await?.is_none(), "it is still there");
        let rules = fleet.rules(rig, "VirtualService").get_opt("s0").await?;
        ensure!(rules.is_none(), "its VirtualService is still there");
        Ok(())
    })
    .await
}
