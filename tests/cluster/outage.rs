//! The catalog is away for long, and replicas of ours come and go meanwhile: is
//! the mesh left as it is, and is all caught up with at once afterwards?
//!
//! `make outage SECONDS=600` makes it as long as was promised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::scene::{DR, PROGRAM, VS, line};
use crate::support::audit::Entry;
use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::front::{Fault, Front};
use crate::support::operator::{LEASE, NAMESPACE};
use crate::support::replicas::Replicas;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, PATIENCE};
use crate::support::tools::repository;
use crate::support::{wait, workload};

crate::tests![
    ; alone:
    an_outage_with_restarts_changes_nothing_and_is_caught_up_with_by_one_list(60)
];

const FRONT: &str = "127.0.0.1:9081";

/// Services of each of the two fleets.
const SIZE: usize = 12;

/// The last of each fleet: what is added during the outage.
const NEW: usize = SIZE - 1;

/// How soon after the catalog's return all is as it says.
const PROMISED: Duration = Duration::from_secs(5);

/// The same in a run that was not asked for by itself, beside other tests.
const SOON: Duration = Duration::from_secs(15);

/// The catalog with its owners, the cluster with its users, and two operators.
struct World<'a> {
    rig: &'a Rig,
    catalog: Catalog,
    front: Front,
    replicas: Replicas,
    /// Whose bindings users wrote.
    users: Fleet,
    /// Whose bindings are made for the catalog.
    made: Fleet,
    /// ID of a service → who serves, as the catalog is to be told.
    serving: BTreeMap<String, BTreeSet<(String, bool)>>,
    /// Name of a user's binding → the load balancing that he wants.
    balancing: BTreeMap<String, &'static str>,
}

async fn an_outage_with_restarts_changes_nothing_and_is_caught_up_with_by_one_list(
    rig: &Rig,
) -> Result<()> {
    let (seconds, soon) = match std::env::var("OUTAGE_SECONDS") {
        Ok(text) => {
            let seconds = text.parse();
            let seconds = seconds.with_context(|| format!("OUTAGE_SECONDS={text}"))?;
            (seconds, PROMISED)
        }
        Err(_) => (40, SOON),
    };
    let mut world = World::start(rig).await?;
    let terms = world.terms().await?;
    let before = world.rules().await?;
    let mark = rig.audit_mark().await?;
    world.front.set(Fault::Refuse)?;
    world.catalog.process.kill().await?;
    let begun = Instant::now();
    let rounds = world.go_through(Duration::from_secs(seconds)).await?;
    world.replicas.leader().await?;
    // Whatever is on its way is on record.
    sleep(Duration::from_secs(2)).await;
    let writes = rig.operator_writes(mark).await?;
    expect_words_only(&writes)?;
    // What other tests left has its own words.
    let ours = [&world.users.namespace, &world.made.namespace];
    let words = writes
        .iter()
        .filter(|entry| resource(entry) != "events")
        .filter(|entry| {
            let object = entry.object_ref.as_ref();
            object.is_some_and(|object| ours.contains(&&object.namespace))
        })
        .count();
    // Once that it is away, once in other words for what was cut, and once for
    // each change of a user; however many leaders there were.
    ensure!(words <= 4 * SIZE + 2 * rounds, "{words} writes of statuses");
    ensure!(world.rules().await? == before, "the mesh is another");
    let terms = world.terms().await? - terms;
    ensure!(terms >= 3, "only {terms} changes of the leader");
    world.expect_no_panic().await?;
    let away = begun.elapsed().as_secs_f64();

    let mark = rig.audit_mark().await?;
    let back = Instant::now();
    world.front.set(Fault::None)?;
    wait::until("all as the catalog says", PATIENCE, async || {
        world.compare().await
    })
    .await?;
    let caught_up = back.elapsed();
    ensure!(caught_up < soon, "caught up {caught_up:?} after its return");
    // A few looks at each, and some time for what would be told twice.
    sleep(Duration::from_secs(6)).await;
    world.compare().await?;
    world.expect_one_list_each(back).await?;
    world.expect_each_list_told_once(back)?;
    let removed = deletions(&rig.operator_writes(mark).await?);
    ensure!(removed == world.removals(), "{removed:?}");
    world.expect_no_panic().await?;
    let mark = rig.audit_mark().await?;
    sleep(Duration::from_secs(3)).await;
    let writes = rig.operator_writes(mark).await?;
    ensure!(writes.is_empty(), "it writes on: {writes:?}");
    eprintln!(
        "outage: {away:.0} s, {rounds} rounds, {terms} changes of the leader, {words} writes of the \
         statuses of {} bindings; caught up {:.1} s after its return",
        2 * SIZE,
        caught_up.as_secs_f64(),
    );
    Ok(())
}

impl<'a> World<'a> {
    /// All is as the catalog says, but for what is new in the outage.
    async fn start(rig: &'a Rig) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let catalog = Catalog::start(rig.folder(), "outage", CATALOG).await?;
        let front = Front::start(FRONT, &catalog.url)?;
        let users = Fleet::prepare(rig, "outage-users", SIZE).await?;
        let made = Fleet::prepare(rig, "outage-made", SIZE).await?;
        let flags = ["--period", "2s", "--register-namespaces", &made.namespace];
        let program = Path::new(PROGRAM);
        let replicas = Replicas::start(rig, "outage", program, &front.url, &flags).await?;
        let mut world = Self {
            rig,
            catalog,
            front,
            replicas,
            users,
            made,
            serving: BTreeMap::new(),
            balancing: BTreeMap::new(),
        };
        for n in 0..NEW {
            world.bind(n).await?;
            world.enter(n, "5s").await?;
        }
        for n in 0..SIZE {
            world.scale(n, 2).await?;
        }
        wait::until("all as the catalog says", PATIENCE, async || {
            world.compare().await
        })
        .await?;
        Ok(world)
    }

    // --- users, owners, and what runs -----------------------------------------

    /// A user binds the service.
    async fn bind(&mut self, n: usize) -> Result<()> {
        let (users, name) = (&self.users, format!("s{n}"));
        let mut binding = stack::binding(&users.namespace, &name, &users.id(n));
        binding["spec"]["trafficPolicy"] = json!({"loadBalancing": {"simple": "RANDOM"}});
        stack::create(self.rig, &binding).await?;
        self.balancing.insert(name, "RANDOM");
        Ok(())
    }

    /// A user wants another load balancing, on which the records are silent.
    async fn balance(&mut self, n: usize, simple: &'static str) -> Result<()> {
        let patch = json!({"spec": {"trafficPolicy": {"loadBalancing": {"simple": simple}}}});
        let (name, params) = (format!("s{n}"), PatchParams::default());
        let bindings = self.users.bindings(self.rig);
        bindings.patch(&name, &params, &Patch::Merge(patch)).await?;
        self.balancing.insert(name, simple);
        Ok(())
    }

    /// The owners want this timeout of the service, in both fleets.
    async fn enter(&self, n: usize, timeout: &str) -> Result<()> {
        for fleet in [&self.users, &self.made] {
            self.catalog.put(&fleet.record(n, timeout)).await?;
        }
        Ok(())
    }

    /// So many pods serve, in both fleets.
    async fn scale(&mut self, n: usize, pods: u8) -> Result<()> {
        for (i, fleet) in [&self.users, &self.made].into_iter().enumerate() {
            let addresses: Vec<_> = (0..pods)
                .map(|pod| (format!("10.{}.{n}.{}", i + 20, pod + 1), pod != 3))
                .collect();
            let (client, service) = (&self.rig.client, format!("s{n}"));
            workload::serve_by_hand(client, &fleet.namespace, &service, &addresses).await?;
            let serving = addresses.into_iter().collect();
            self.serving.insert(fleet.id(n), serving);
        }
        Ok(())
    }

    /// While nobody reaches the catalog: its owners change all but one service,
    /// take one out of each fleet and register another.
    async fn owners_work(&mut self) -> Result<()> {
        self.catalog.process.start().await?;
        self.catalog.ready().await?;
        for n in 2..SIZE {
            self.enter(n, "7s").await?;
        }
        for fleet in [&self.users, &self.made] {
            self.catalog.delete(&fleet.id(0)).await?;
        }
        self.bind(NEW).await
    }

    // --- the outage -------------------------------------------------------------

    /// Replicas come and go, services are scaled and users change their minds.
    /// Says how many rounds there were.
    async fn go_through(&mut self, span: Duration) -> Result<usize> {
        let begun = Instant::now();
        let mut round = 0;
        // Each kind of end at least once, the first two before the owners work.
        while begun.elapsed() < span || round < 4 {
            let leader = self.replicas.leader().await?;
            let replicas = &self.replicas;
            match round % 4 {
                0 => {
                    replicas.kill(&[0, 1]).await?;
                    tokio::try_join!(replicas.revive(0), replicas.revive(1))?;
                }
                1 => {
                    replicas.end(leader).await?;
                    replicas.revive(leader).await?;
                }
                2 => {
                    replicas.kill(&[leader]).await?;
                    replicas.leader().await?;
                    replicas.revive(leader).await?;
                }
                _ => {
                    replicas.kill(&[1 - leader]).await?;
                    replicas.revive(1 - leader).await?;
                }
            }
            for step in 0..3 {
                let n = (round * 3 + step) % SIZE;
                self.scale(n, u8::try_from((round + step) % 5)?).await?;
            }
            let wishes = ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"];
            self.balance(1 + round % (NEW - 1), wishes[round % 3])
                .await?;
            if round == 1 {
                self.owners_work().await?;
            }
            self.replicas.leader().await?;
            // A look at each, and more.
            sleep(Duration::from_millis(2_500)).await;
            round += 1;
        }
        Ok(round)
    }

    /// How often the Lease has changed hands.
    async fn terms(&self) -> Result<i32> {
        let leases = Api::<Lease>::namespaced(self.rig.client.clone(), NAMESPACE);
        let spec = leases.get(LEASE).await?.spec.context("no spec")?;
        spec.lease_transitions.context("no transitions")
    }

    /// Each object of the mesh with its version.
    async fn rules(&self) -> Result<BTreeMap<String, Option<String>>> {
        let mut rules = BTreeMap::new();
        for (fleet, kind, rule) in self.all_rules().await? {
            let name = format!("{kind} {fleet}/{}", rule.name_any());
            rules.insert(name, rule.resource_version());
        }
        Ok(rules)
    }

    async fn all_rules(&self) -> Result<Vec<(String, &'static str, DynamicObject)>> {
        let mut all = Vec::new();
        for fleet in [&self.users, &self.made] {
            for kind in [VS, DR] {
                let rules = fleet.rules(self.rig, kind);
                let rules = rules.list(&ListParams::default()).await?;
                let rules = rules.into_iter();
                all.extend(rules.map(|rule| (fleet.namespace.clone(), kind, rule)));
            }
        }
        Ok(all)
    }

    async fn expect_no_panic(&self) -> Result<()> {
        for which in 0..2 {
            let samples = self.replicas.metrics(which).await?;
            let panics = samples.sum("controller_runtime_reconcile_panics_total", &[]);
            ensure!(panics == Some(0.0), "{panics:?} panics");
        }
        Ok(())
    }

    // --- the return -------------------------------------------------------------

    /// Fails with the first difference between what the catalog says and what
    /// the cluster has, or the other way round.
    async fn compare(&self) -> Result<()> {
        let records = self.catalog.list().await?;
        let mut rules: BTreeMap<_, _> = self.all_rules().await?.into_iter().map(named).collect();
        for record in &records {
            let word = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (word("namespace"), word("name"));
            for kind in [VS, DR] {
                let rule = rules.remove(&(namespace.clone(), kind, name.clone()));
                let rule = rule.with_context(|| format!("no {kind} {namespace}/{name}"))?;
                self.compare_rule(kind, &rule.data["spec"], record)?;
            }
            let told = endpoints(&self.catalog.get(&word("id")).await?);
            let serving = self.serving.get(&word("id"));
            ensure!(
                Some(&told) == serving,
                "endpoints of {namespace}/{name}: the catalog has {told:?}, the cluster {serving:?}"
            );
        }
        ensure!(rules.is_empty(), "left over: {:?}", rules.keys());
        let made = self
            .made
            .bindings(self.rig)
            .list(&ListParams::default())
            .await?;
        let made: BTreeSet<_> = made.iter().map(ResourceExt::name_any).collect();
        let ours = records
            .iter()
            .filter(|of| of["namespace"] == self.made.namespace.as_str());
        let ours: BTreeSet<_> = ours
            .filter_map(|of| of["name"].as_str())
            .map(str::to_owned)
            .collect();
        ensure!(made == ours, "bindings {made:?} for records {ours:?}");
        for fleet in [&self.users, &self.made] {
            for binding in fleet
                .bindings(self.rig)
                .list(&ListParams::default())
                .await?
            {
                let id = &binding.spec.catalog_service_id;
                let there = records.iter().any(|record| record["id"] == id.as_str());
                let should = if there {
                    "True Synced"
                } else {
                    "False Removed"
                };
                let said = stack::condition(&binding, "Ready");
                ensure!(
                    said.as_deref() == Some(should),
                    "{id} says {said:?}, not {should}"
                );
            }
        }
        Ok(())
    }

    fn compare_rule(&self, kind: &str, spec: &Value, record: &Value) -> Result<()> {
        let policy = &spec["trafficPolicy"];
        let says = match kind {
            VS => &spec["http"][0]["timeout"],
            _ => &policy["outlierDetection"]["interval"],
        };
        ensure!(
            *says == record["timeout"],
            "{kind} says {says} for {record}"
        );
        let wish = self
            .balancing
            .get(record["name"].as_str().unwrap_or_default());
        if kind == DR && record["namespace"] == self.users.namespace.as_str() {
            let says = policy["loadBalancer"]["simple"].as_str();
            ensure!(says == wish.copied(), "{says:?}, not {wish:?} for {record}");
        }
        Ok(())
    }

    /// The catalog was listed once by each, and by nobody for anything else.
    async fn expect_one_list_each(&self, back: Instant) -> Result<()> {
        for which in 0..2 {
            let samples = self.replicas.metrics(which).await?;
            let lists = samples.sum("catalog_mesh_catalog_lists_total", &[]);
            ensure!(lists == Some(1.0), "{lists:?} lists by {which}");
            let rival = samples.sum("catalog_mesh_duplicate_writer", &[]);
            ensure!(rival == Some(0.0), "it takes itself for another");
        }
        let asked = self.front.since(back).into_iter().map(|seen| seen.path);
        let lists = asked.filter(|path| path == "/api/v1/services").count();
        ensure!(lists == 2, "{lists} lists");
        Ok(())
    }

    /// The catalog was told once of each service that it has.
    fn expect_each_list_told_once(&self, back: Instant) -> Result<()> {
        let mut told = BTreeMap::<_, usize>::new();
        for seen in self.front.since(back) {
            if let Some(id) = seen.path.strip_suffix("/endpoints") {
                *told.entry(id.replace("/api/v1/services/", "")).or_default() += 1;
            }
        }
        let there = (1..SIZE).flat_map(|n| [self.users.id(n), self.made.id(n)]);
        let once: BTreeMap<_, _> = there.map(|id| (id, 1)).collect();
        ensure!(told == once, "{told:?}");
        Ok(())
    }

    /// What goes with the services that their owners took out.
    fn removals(&self) -> BTreeSet<String> {
        let (users, made) = (&self.users.namespace, &self.made.namespace);
        [
            format!("{users} delete virtualservices s0 200"),
            format!("{users} delete destinationrules s0 200"),
            format!("{made} delete servicebindings s0 200"),
            format!("{made} delete virtualservices s0 200"),
            format!("{made} delete destinationrules s0 200"),
        ]
        .into()
    }
}

fn named(
    (namespace, kind, rule): (String, &'static str, DynamicObject),
) -> ((String, &'static str, String), DynamicObject) {
    ((namespace, kind, rule.name_any()), rule)
}

/// The endpoints in the catalog's answer.
fn endpoints(record: &Value) -> BTreeSet<(String, bool)> {
    let endpoints = record["endpoints"].as_array().into_iter().flatten();
    endpoints
        .map(|endpoint| {
            let address = endpoint["address"].as_str().unwrap_or_default();
            (address.to_owned(), endpoint["ready"] == true)
        })
        .collect()
}

fn resource(entry: &Entry) -> &str {
    entry
        .object_ref
        .as_ref()
        .map_or("", |object| &object.resource)
}

/// Without the catalog there is nothing to say but that it is away.
fn expect_words_only(writes: &[Entry]) -> Result<()> {
    let is_word = |entry: &&Entry| {
        let object = entry.object_ref.as_ref();
        let status = object.is_some_and(|object| object.subresource == "status");
        resource(entry) == "events" || (resource(entry) == "servicebindings" && status)
    };
    let others = writes.iter().filter(|entry| !is_word(entry));
    let others: Vec<_> = others.map(line).collect();
    ensure!(others.is_empty(), "{others:?}");
    Ok(())
}

/// What was deleted, as `shop delete virtualservices web 200`.
fn deletions(writes: &[Entry]) -> BTreeSet<String> {
    let deletions = writes
        .iter()
        .filter(|entry| entry.verb.starts_with("delete"));
    let with_namespace = |entry: &Entry| {
        let namespace = entry
            .object_ref
            .as_ref()
            .map(|object| object.namespace.as_str());
        format!("{} {}", namespace.unwrap_or_default(), line(entry))
    };
    deletions.map(with_namespace).collect()
}
