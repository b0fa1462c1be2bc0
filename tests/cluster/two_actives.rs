//! Two operators that both lead and both write, as no election would let them:
//! do they come to the same as one alone, without writing more than twice as
//! much? As two clusters, and as one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::checked::{Checked, quicker};
use crate::scene::{DR, Scene, VS, cluster_id, line};
use crate::support::audit::Mark;
use crate::support::endpoint::Trouble;
use crate::support::fleet::Fleet;
use crate::support::operator::{NAMESPACE, Operator, USER};
use crate::support::rig::Rig;
use crate::support::stack::{PATIENCE, condition};
use crate::support::wait;
use crate::two_operators::{ELSEWHERE, install_again, run_second};

crate::tests![
    ; alone:
    two_that_write_at_once_come_to_the_same_and_write_twice_as_much_at_most(30)
];

/// Bindings beside the one whose endpoints are checked.
const SIZE: usize = 10;

/// A status that was stored.
const STATUS: &str = "patch servicebindings/status 200";

/// What the second operator calls its cluster, where it is another.
const ANOTHER: &str = "another";

async fn two_that_write_at_once_come_to_the_same_and_write_twice_as_much_at_most(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "actives").await?;
    let catalog = &scene.stack.catalog.url;
    let (state, alone) = a_days_work(&scene, "one", async |_: &Scene<'_>| Ok(())).await?;

    // As two clusters, each has its word in the catalog.
    let flags = ["--cluster-id", ANOTHER];
    let second = install_again(rig, catalog, &flags).await?;
    let (same, together) = a_days_work(&scene, "two", async |checked: &Scene<'_>| {
        each_keeps_its_own_word(checked, &second).await
    })
    .await?;
    together.are_at_most_twice(&alone)?;
    ensure!(state == same, "{state:#} {same:#}");

    // As one cluster they dispute about who reports, and say so in statuses.
    let second = run_second(rig, catalog, &[]).await?;
    let (same, disputing) = a_days_work(&scene, "three", async |_: &Scene<'_>| Ok(())).await?;
    second.process.kill().await?;
    disputing
        .but_for_the_dispute(&alone)?
        .are_at_most_twice(&alone)?;
    ensure!(state == same, "{state:#} {same:#}");
    Ok(())
}

/// Both clusters list the endpoints, and one list stays when the other
/// cluster's binding goes: the second operator does not see it go.
async fn each_keeps_its_own_word(checked: &Scene<'_>, second: &Operator) -> Result<()> {
    let own = cluster_id(checked.rig).await?;
    let of = async |cluster: &str| -> Result<Value> {
        let record = checked.stack.catalog.get(&checked.id("web")).await?;
        Ok(told_by(cluster, &record))
    };
    let listed = of(&own).await?;
    ensure!(
        listed["endpoints"]
            .as_array()
            .is_some_and(|of| of.len() == 4),
        "{listed}"
    );
    let theirs = of(ANOTHER).await?;
    ensure!(theirs == listed, "{theirs}, not {listed}");
    ensure!(second.process.terminate(PATIENCE).await?, "a bad end");
    checked.unbind().await?;
    wait::until("the withdrawal", PATIENCE, async || {
        let left = of(&own).await?;
        ensure!(left["endpoints"] == json!([]), "{left}");
        Ok(())
    })
    .await?;
    let theirs = of(ANOTHER).await?;
    ensure!(theirs["endpoints"] == listed["endpoints"], "{theirs}");
    Ok(())
}

/// What was written.
#[derive(Clone, Debug, Default)]
struct Writes {
    /// How long it took to the last of it.
    lasted: Duration,
    /// By either operator.
    asked: [usize; 2],
    stored: usize,
    refused: usize,
    by_what: BTreeMap<String, usize>,
}

/// When the one that is overtaken says so of a binding, from the first time on:
/// the other takes it back each time, and each time it waits for twice as long.
const WORDS: [u64; 6] = [0, 5, 15, 35, 75, 155];

/// Who says that of a binding, and who takes it back, each with a status.
const STATUSES_A_WORD: usize = 2;

impl Writes {
    /// A dispute goes on with time, whatever else there is to do: its statuses
    /// are not counted with the work, as far as there may be so many.
    fn but_for_the_dispute(&self, alone: &Self) -> Result<Self> {
        let statuses = |of: &Self| *of.by_what.get(STATUS).unwrap_or(&0);
        let beyond = statuses(self).saturating_sub(2 * statuses(alone));
        let until = self.lasted.as_secs();
        let words = WORDS.iter().filter(|at| **at <= until).count();
        let most = (SIZE + 1) * words * STATUSES_A_WORD;
        eprintln!("{beyond} statuses of a dispute in {until} s, of {most}");
        ensure!(beyond <= most, "{self:?} {alone:?}");
        Ok(Self {
            stored: self.stored - beyond,
            ..self.clone()
        })
    }

    fn are_at_most_twice(&self, alone: &Self) -> Result<()> {
        eprintln!(
            "one operator stored {} times of {}, two did {} times of {:?}",
            alone.stored, alone.asked[0], self.stored, self.asked
        );
        ensure!(
            alone.asked[1] == 0 && self.asked[1] > 0,
            "{self:?} {alone:?}"
        );
        ensure!(self.stored <= 2 * alone.stored, "{self:?} {alone:?}");
        // Where the other was faster, a precondition refuses.
        ensure!(self.refused <= alone.asked[0] / 2, "{self:?} {alone:?}");
        Ok(())
    }
}

/// Bindings come, change and go, and an endpoint fails and recovers. Hands back
/// what there is in the end, and what it took; `evening` comes after that.
async fn a_days_work(
    scene: &Scene<'_>,
    name: &str,
    evening: impl AsyncFnOnce(&Scene<'_>) -> Result<()>,
) -> Result<(Value, Writes)> {
    let rig = scene.rig;
    let mark = rig.audit_mark().await?;
    let began = Instant::now();
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
    let lasted = began.elapsed();
    let mut writes = writes(rig, mark, &namespaces).await?;
    writes.lasted = lasted;
    let mut state = Vec::new();
    for namespace in &namespaces {
        state.push(there_is(scene, namespace).await?);
    }
    let state = json!(state).to_string();
    let state = state
        .replace(&namespaces[0], "fleet")
        .replace(&namespaces[1], "checked");
    evening(&beside).await?;
    web.scene.unbind().await?;
    fleet.clear(rig).await?;
    Ok((serde_json::from_str(&state)?, writes))
}

/// What either operator wrote in these namespaces since the mark.
async fn writes(rig: &Rig, since: Mark, namespaces: &[String]) -> Result<Writes> {
    let second = format!("system:serviceaccount:{NAMESPACE}:{ELSEWHERE}");
    let mut writes = Writes::default();
    for (place, user) in [USER, &second].into_iter().enumerate() {
        for entry in rig.api.audit.writes_by(user, since, &rig.client).await? {
            let object = entry.object_ref.clone().unwrap_or_default();
            if !namespaces.contains(&object.namespace) {
                continue;
            }
            writes.asked[place] += 1;
            let what = format!("{} {}", entry.verb, object.resource);
            let what = format!(
                "{what}/{} {}",
                object.subresource, entry.response_status.code
            );
            *writes.by_what.entry(what).or_default() += 1;
            let stored = entry.response_status.code < 300;
            writes.stored += usize::from(stored);
            writes.refused += usize::from(!stored);
            if entry.response_status.code >= 500 {
                eprintln!("{}", line(&entry));
            }
        }
    }
    Ok(writes)
}

/// The objects of a namespace as far as they do not differ from run to run.
async fn there_is(scene: &Scene<'_>, namespace: &str) -> Result<Value> {
    let rig = scene.rig;
    let own = cluster_id(rig).await?;
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
        let id = &binding.spec.catalog_service_id;
        let told = told_by(&own, &scene.stack.catalog.get(id).await?);
        let word = json!([
            binding.spec,
            binding.finalizers(),
            said,
            status.endpoints,
            told
        ]);
        found.insert(format!("binding {}", binding.name_any()), word);
    }
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(rig.client.clone(), namespace);
    for pod in pods.list(&ListParams::default()).await? {
        let marks = json!([pod.labels(), pod.annotations()]);
        found.insert(format!("pod {}", pod.name_any()), marks);
    }
    Ok(Value::Object(found))
}

/// What a cluster told the catalog of a service, but for where it stood when it
/// did, and for addresses, which are others each day.
fn told_by(cluster: &str, record: &Value) -> Value {
    let of = |field: &str, fields: &[&str]| -> Vec<Value> {
        let all = record[field].as_array().into_iter().flatten();
        let its = all.filter(|of| of["cluster"] == cluster);
        let mut its: Vec<_> = its
            .map(|of| fields.iter().map(|field| of[field].clone()).collect())
            .collect();
        its.sort_by_key(Value::to_string);
        its
    };
    json!({
        "health": of("health", &["health", "healthy", "total"]),
        "endpoints": of("endpoints", &["port", "zone", "ready"]),
    })
}
