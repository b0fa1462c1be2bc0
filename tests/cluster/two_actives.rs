//! Two operators that both lead and both write, as no election would let them:
//! do they come to the same as one alone, without writing more than twice as
//! much?

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::checked::{Checked, quicker};
use crate::scene::{DR, Scene, VS, line};
use crate::support::endpoint::Trouble;
use crate::support::fleet::Fleet;
use crate::support::operator::{NAMESPACE, USER};
use crate::support::rig::Rig;
use crate::support::stack::{PATIENCE, condition};
use crate::support::wait;
use crate::two_operators::{ELSEWHERE, install_again};

crate::tests![
    ; alone:
    two_that_write_at_once_come_to_the_same_and_write_twice_as_much_at_most(45)
];

/// Bindings beside the one whose endpoints are checked.
const SIZE: usize = 10;

async fn two_that_write_at_once_come_to_the_same_and_write_twice_as_much_at_most(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "actives").await?;
    let (state, alone) = a_days_work(&scene, "one").await?;
    // As one cluster they would dispute about who reports, and say so in statuses.
    let other = ["--cluster-id", "another"];
    let second = install_again(rig, &scene.stack.catalog.url, &other).await?;
    let (same, together) = a_days_work(&scene, "two").await?;
    second.process.kill().await?;
    eprintln!(
        "one operator stored {} times, two did {} times ({} requests)",
        alone.stored, together.stored, together.asked
    );
    ensure!(state == same, "{state:#} {same:#}");
    ensure!(
        together.stored <= 2 * alone.stored,
        "{together:?} {alone:?}"
    );
    Ok(())
}

/// What was written.
#[derive(Debug)]
struct Writes {
    asked: usize,
    stored: usize,
    by_what: BTreeMap<String, usize>,
}

/// Bindings come, change and go, and an endpoint fails and recovers. Hands back
/// what there is in the end, and what it took.
async fn a_days_work(scene: &Scene<'_>, name: &str) -> Result<(Value, Writes)> {
    let rig = scene.rig;
    let mark = rig.audit_mark().await?;
    let fleet = Fleet::programmed(rig, &scene.stack.catalog, name, SIZE).await?;
    let beside = scene.neighbour(&format!("{name}-checked")).await?;
    let web = Checked::start(&beside, "web", 4, quicker()).await?;
    fleet.put_records(&scene.stack.catalog, "7s").await?;
    fleet.wait_for_timeout(rig, "7s").await?;
    web.endpoints[0].fail(Trouble::Status(500)).await?;
    web.are_out(&[0]).await?;
    web.endpoints[0].recover().await?;
    web.is_healthy().await?;
    for n in 0..SIZE / 2 {
        let bindings = fleet.bindings(rig);
        bindings
            .delete(&format!("s{n}"), &DeleteParams::default())
            .await?;
    }
    wait::until("their end", PATIENCE, async || {
        let left = fleet.bindings(rig).list(&ListParams::default()).await?;
        ensure!(left.items.len() == SIZE - SIZE / 2, "{}", left.items.len());
        Ok(())
    })
    .await?;
    web.are_out(&[]).await?;
    // Whatever they would still say to each other.
    sleep(Duration::from_secs(3)).await;

    let namespaces = [fleet.namespace.clone(), beside.namespace.clone()];
    let second = format!("system:serviceaccount:{NAMESPACE}:{ELSEWHERE}");
    let mut writes = Writes {
        asked: 0,
        stored: 0,
        by_what: BTreeMap::new(),
    };
    for user in [USER, &second] {
        for entry in rig.api.audit.writes_by(user, mark, &rig.client).await? {
            let object = entry.object_ref.clone().unwrap_or_default();
            if !namespaces.contains(&object.namespace) {
                continue;
            }
            writes.asked += 1;
            let what = format!("{} {}", entry.verb, object.resource);
            let what = format!(
                "{what}/{} {}",
                object.subresource, entry.response_status.code
            );
            *writes.by_what.entry(what).or_default() += 1;
            writes.stored += usize::from(entry.response_status.code < 300);
            if entry.response_status.code >= 500 {
                eprintln!("{}", line(&entry));
            }
        }
    }
    let mut state = Vec::new();
    for namespace in &namespaces {
        state.push(there_is(rig, namespace).await?);
    }
    let state = json!(state).to_string();
    let state = state
        .replace(&namespaces[0], "fleet")
        .replace(&namespaces[1], "checked");
    web.scene.unbind().await?;
    fleet.clear(rig).await?;
    Ok((serde_json::from_str(&state)?, writes))
}

/// The objects of a namespace as far as they do not differ from run to run.
async fn there_is(rig: &Rig, namespace: &str) -> Result<Value> {
    let mut found = serde_json::Map::new();
    for kind in [VS, DR] {
        let rules: Api<DynamicObject> = crate::scene::rules(rig, kind, namespace);
        for rule in rules.list(&ListParams::default()).await? {
            let name = format!("{kind} {}", rule.name_any());
            let labels = rule.labels().clone();
            found.insert(name, json!([labels, rule.data["spec"]]));
        }
    }
    let bindings = Api::<ServiceBinding>::namespaced(rig.client.clone(), namespace);
    for binding in bindings.list(&ListParams::default()).await? {
        // Who reports to the catalog they dispute about, and say so.
        let said = ["Ready", "MeshProgrammed", "Conflict", "Healthy"];
        let said = said.map(|type_| condition(&binding, type_));
        let status = binding.status.clone().unwrap_or_default();
        let word = json!([binding.spec, binding.finalizers(), said, status.endpoints]);
        found.insert(format!("binding {}", binding.name_any()), word);
    }
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(rig.client.clone(), namespace);
    for pod in pods.list(&ListParams::default()).await? {
        let marks = json!([pod.labels(), pod.annotations()]);
        found.insert(format!("pod {}", pod.name_any()), marks);
    }
    Ok(Value::Object(found))
}
