//! Random changes of the catalog and of the cluster, while everything between
//! the two that can go wrong does; and in the end: is all as the catalog says?
//!
//! What is done follows from the seed; when it is done relative to what else
//! happens does not, since real processes do it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

use super::catalog::Catalog;
use super::front::{Fault, Front};
use super::operator::{ACCOUNT, Operator};
use super::postgres::Postgres;
use super::rig::Rig;
use super::stack::{CATALOG, OPERATOR, condition};
use super::tools::repository;
use super::wait;
use super::workload;

const FRONT: &str = "127.0.0.1:9081";
const STANDBY: &str = "127.0.0.1:9181";

/// Owners, and so changes at once. Each has services of its own, so that the
/// order of a service's changes is that of one owner.
const OWNERS: usize = 8;

/// Revisions that the catalog keeps: few enough to fall below.
const KEPT: usize = 200;

/// How long the end of all may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub services: usize,
    pub changes: usize,
    pub seed: u64,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seconds: f64,
    /// From the last change and the last fault until all was as it should be.
    pub quiet_after: f64,
    pub faults: BTreeMap<&'static str, usize>,
    /// Services of the catalog in the end.
    pub registered: usize,
    /// Bindings that the brake held in the end.
    pub held: usize,
}

/// The catalog with its database, the operators, and what is between.
struct World<'a> {
    rig: &'a Rig,
    options: Options,
    namespace: String,
    postgres: Postgres,
    database: String,
    catalog: Catalog,
    front: Front,
    operators: [Operator; 2],
    /// Owners read, and a restore writes.
    turn: RwLock<()>,
    made: AtomicUsize,
    /// Ends the faults.
    over: AtomicBool,
}

/// Makes the changes and the faults, waits until all is quiet, and compares.
pub async fn run(rig: &Rig, program: &Path, options: Options) -> Result<Report> {
    eprintln!("chaos: {options:?}");
    let world = World::start(rig, program, options).await?;
    let began = Instant::now();
    let owners = async {
        let all = (0..OWNERS).map(|owner| world.own(owner));
        let done = futures::future::try_join_all(all).await;
        world.over.store(true, Ordering::Relaxed);
        done
    };
    let progress = async {
        while !world.over.load(Ordering::Relaxed) {
            sleep(Duration::from_secs(10)).await;
            eprintln!(
                "chaos: {} changes of {} after {:.0} s",
                world.made.load(Ordering::Relaxed),
                options.changes,
                began.elapsed().as_secs_f64()
            );
        }
        anyhow::Ok(())
    };
    let (_, faults, ()) = tokio::try_join!(owners, world.disturb(), progress)?;
    world.front.set(Fault::None)?;
    let quiet = Instant::now();
    let (registered, held) = wait::until("an end as the catalog says", PATIENCE, async || {
        // A look at everything is no small thing to the API server.
        sleep(Duration::from_millis(300)).await;
        world.compare().await
    })
    .await
    .with_context(|| format!("{options:?}, {faults:?}"))?;
    world.expect_lasting().await?;
    Ok(Report {
        seconds: began.elapsed().as_secs_f64(),
        quiet_after: quiet.elapsed().as_secs_f64(),
        faults,
        registered,
        held,
    })
}

impl<'a> World<'a> {
    async fn start(rig: &'a Rig, program: &Path, options: Options) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let namespace = rig.namespace("chaos").await?;
        let postgres = rig.postgres().await?;
        let database = postgres.create_database("chaos").await?;
        let kept = KEPT.to_string();
        let flags = ["--retention-revisions", &kept, "--stream-age", "15s"];
        let catalog = Catalog::with(rig.folder(), "chaos", CATALOG, &database, &flags).await?;
        let front = Front::start(FRONT, &catalog.url)?;
        let services = Api::<Service>::namespaced(rig.client.clone(), &namespace);
        for n in 0..options.services {
            let service = serde_json::from_value(json!({
                "metadata": {"name": format!("s{n}")},
                "spec": {"ports": [{"name": "http", "port": 80}]},
            }))?;
            services.create(&PostParams::default(), &service).await?;
        }
        let args = |listen: &'static str| {
            // Nothing is left to the period; and the brake only holds what is
            // in doubt.
            let flags = ["--period", "10m", "--max-delete-percent", "100"];
            let lease = ["--lease-duration", "4s", "--lease-renew-deadline", "3s"];
            let retry = ["--lease-retry-period", "500ms", "--register-namespaces"];
            let mut args = vec!["run", "--catalog-url", &front.url, "--listen", listen];
            args.extend(flags.iter().chain(&lease).chain(&retry));
            args.push(&namespace);
            args.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let first = rig.operator("chaos-1", program, args(OPERATOR)).await?;
        let (run, api) = (rig.folder(), &rig.api);
        let second = Operator::join(run, api, ACCOUNT, "chaos-2", program, args(STANDBY)).await?;
        for (operator, listen) in [(&first, OPERATOR), (&second, STANDBY)] {
            operator.ready(&format!("http://{listen}/readyz")).await?;
        }
        Ok(Self {
            rig,
            options,
            namespace,
            postgres,
            database,
            catalog,
            front,
            operators: [first, second],
            turn: RwLock::default(),
            made: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        })
    }

    fn id(&self, n: usize) -> String {
        format!("{}.s{n}", self.namespace)
    }

    /// One owner's changes of his services, and of what runs behind them.
    async fn own(&self, owner: usize) -> Result<()> {
        let mut chance = fastrand::Rng::with_seed(self.options.seed ^ (owner as u64 + 1));
        for _ in 0..self.options.changes / OWNERS {
            let place = chance.usize(..self.options.services.div_ceil(OWNERS));
            let n = (place * OWNERS + owner).min(self.options.services - 1);
            match chance.u8(..10) {
                0 => self.scale(n, chance.u8(..4)).await?,
                1 | 2 => self.insist(|| self.leave(n)).await?,
                _ => {
                    let millis = chance.u32(100..3_600_000);
                    self.insist(|| self.enter(n, millis)).await?;
                }
            }
            self.made.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tries until it works: the catalog is away now and then.
    async fn insist<F: Future<Output = Result<()>>>(&self, change: impl Fn() -> F) -> Result<()> {
        wait::until("a change of the catalog", PATIENCE, async || {
            let _turn = self.turn.read().await;
            change().await
        })
        .await
    }

    async fn enter(&self, n: usize, millis: u32) -> Result<()> {
        let mut record = super::stack::record(&self.id(n), &self.namespace, &format!("s{n}"));
        record["timeout"] = json!(format!("{millis}ms"));
        record["circuitBreaker"] = json!({"interval": format!("{millis}ms")});
        self.catalog.put(&record).await
    }

    async fn leave(&self, n: usize) -> Result<()> {
        match self.catalog.delete(&self.id(n)).await {
            Err(error) if error.to_string().contains("404") => Ok(()),
            other => other,
        }
    }

    /// Lets this many pods be behind the service.
    async fn scale(&self, n: usize, pods: u8) -> Result<()> {
        let addresses: Vec<_> = (0..pods)
            .map(|pod| (format!("10.9.{n}.{pod}"), pod != 3))
            .collect();
        let service = format!("s{n}");
        workload::serve_by_hand(&self.rig.client, &self.namespace, &service, &addresses).await
    }

    fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.rig.client.clone(), &self.namespace)
    }

    /// One fault after the other until all changes are made.
    async fn disturb(&self) -> Result<BTreeMap<&'static str, usize>> {
        let mut chance = fastrand::Rng::with_seed(self.options.seed);
        let mut done = BTreeMap::new();
        // Each kind comes as often as each other.
        let mut kinds: Vec<usize> = Vec::new();
        let mut round = 0;
        self.back_up().await?;
        while !self.over.load(Ordering::Relaxed) {
            if kinds.is_empty() {
                kinds = (0..7).collect();
                chance.shuffle(&mut kinds);
                round += 1;
            }
            let span = Duration::from_millis(chance.u64(50..1_500));
            let name = match kinds.pop() {
                Some(0) => self.cut(span).await?,
                Some(1) => {
                    self.front.set(Fault::Hang)?;
                    sleep(span).await;
                    "stall"
                }
                Some(2) => {
                    let seed = chance.u64(..);
                    self.cut(Duration::from_millis(10)).await?;
                    self.front.set(Fault::Events { seed })?;
                    sleep(3 * span).await;
                    // What was left out at the end nobody would ever tell.
                    self.cut(Duration::from_millis(10)).await?;
                    "events twice, late or lost"
                }
                Some(3) => {
                    self.catalog.process.kill().await?;
                    sleep(span).await;
                    self.catalog.process.start().await?;
                    self.catalog.ready().await?;
                    "catalog restarted"
                }
                Some(4) => self.fall_below_the_floor().await?,
                Some(5) => {
                    let operator = &self.operators[round % 2];
                    operator.process.kill().await?;
                    operator.process.start().await?;
                    "operator killed"
                }
                // Rarer than the others: it takes back what was changed.
                Some(6) if round % 3 == 1 => {
                    self.restore().await?;
                    self.back_up().await?;
                    "backup restored"
                }
                _ => continue,
            };
            *done.entry(name).or_default() += 1;
            self.front.set(Fault::None)?;
            *done.entry("Lease lost by itself").or_default() += self.revive().await?;
            sleep(Duration::from_millis(chance.u64(100..2_000))).await;
        }
        Ok(done)
    }

    /// Starts an operator again that ended since it could not renew its Lease,
    /// as its Pod would: on a machine that is busy enough one may. It ends for
    /// no other reason.
    async fn revive(&self) -> Result<usize> {
        let mut ended = 0;
        for operator in &self.operators {
            if operator.process.has_ended().await.is_none() {
                continue;
            }
            let log = operator.process.log();
            let text = std::fs::read_to_string(&log)?;
            let last = text.lines().rev().find(|line| line.starts_with("error: "));
            ensure!(
                last.is_some_and(|line| line.contains("no longer leads")),
                "an operator ended: {last:?}; see {}",
                log.display()
            );
            operator.process.start().await?;
            ended += 1;
        }
        Ok(ended)
    }

    async fn cut(&self, span: Duration) -> Result<&'static str> {
        self.front.set(Fault::Refuse)?;
        sleep(span).await;
        self.front.set(Fault::None)?;
        Ok("cut")
    }

    /// Keeps the operators away until the catalog has forgotten where they are.
    async fn fall_below_the_floor(&self) -> Result<&'static str> {
        let until = self.made.load(Ordering::Relaxed) + 2 * KEPT;
        self.front.set(Fault::Refuse)?;
        while self.made.load(Ordering::Relaxed) < until && !self.over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
        Ok("below the floor")
    }

    async fn back_up(&self) -> Result<()> {
        self.with_the_catalog_down(async |admin| {
            for sql in [
                "DROP DATABASE IF EXISTS backup",
                "CREATE DATABASE backup TEMPLATE chaos",
            ] {
                sqlx::query(sql).execute(&mut *admin).await?;
            }
            Ok(())
        })
        .await
    }

    async fn restore(&self) -> Result<()> {
        self.with_the_catalog_down(async |admin| {
            for sql in [
                "DROP DATABASE chaos",
                "CREATE DATABASE chaos TEMPLATE backup",
            ] {
                sqlx::query(sql).execute(&mut *admin).await?;
            }
            Catalog::restore_epoch(self.rig.folder(), &self.database).await
        })
        .await
    }

    async fn with_the_catalog_down(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<()>,
    ) -> Result<()> {
        let _turn = self.turn.write().await;
        self.catalog.process.kill().await?;
        let url = self.database.replace("/chaos", "/postgres");
        let mut admin = PgConnection::connect(&url).await?;
        // A killed server's sessions take a moment to end.
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ('chaos', 'backup')")
            .execute(&mut admin)
            .await?;
        let worked = work(&mut admin).await;
        self.catalog.process.start().await?;
        self.catalog.ready().await?;
        worked
    }

    /// Fails with the first difference; says how many services there are, and
    /// how many bindings are held.
    async fn compare(&self) -> Result<(usize, usize)> {
        self.revive().await?;
        let listed = self.catalog.list().await?;
        let records: BTreeMap<String, Value> = listed
            .into_iter()
            .map(|record| {
                (
                    record["name"].as_str().unwrap_or_default().to_owned(),
                    record,
                )
            })
            .collect();
        let all = ListParams::default();
        let bindings = Api::<ServiceBinding>::namespaced(self.rig.client.clone(), &self.namespace);
        let bindings: BTreeMap<_, _> = bindings
            .list(&all)
            .await?
            .into_iter()
            .filter_map(|binding| Some((binding.metadata.name.clone()?, binding)))
            .collect();
        let held: BTreeSet<_> = bindings
            .iter()
            .filter(|(_, binding)| is_held(binding))
            .map(|(name, _)| name.clone())
            .collect();
        let expected: BTreeSet<_> = records.keys().cloned().collect();
        let found: BTreeSet<_> = bindings.keys().cloned().collect();
        ensure!(
            expected.is_disjoint(&held),
            "held, though the catalog has them: {:?}",
            expected.intersection(&held)
        );
        let wanted: BTreeSet<_> = expected.union(&held).cloned().collect();
        ensure!(
            found == wanted,
            "bindings missing: {:?}; left over: {:?}",
            wanted.difference(&found),
            found.difference(&wanted)
        );
        for kind in ["VirtualService", "DestinationRule"] {
            let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", kind);
            let rules = Api::<DynamicObject>::namespaced_with(
                self.rig.client.clone(),
                &self.namespace,
                &ApiResource::from_gvk(&gvk),
            );
            let mut rules: BTreeMap<_, _> = rules
                .list(&all)
                .await?
                .into_iter()
                .filter_map(|rule| Some((rule.metadata.name.clone()?, rule)))
                .collect();
            for (name, record) in &records {
                let rule = rules
                    .remove(name)
                    .with_context(|| format!("no {kind} {name}"))?;
                let spec = &rule.data["spec"];
                let value = match kind {
                    "VirtualService" => &spec["http"][0]["timeout"],
                    _ => &spec["trafficPolicy"]["outlierDetection"]["interval"],
                };
                let says = value.as_str().and_then(millis);
                let should = record["timeout"].as_str().and_then(millis);
                ensure!(
                    says == should,
                    "{kind} {name} says {value}, the catalog {}",
                    record["timeout"]
                );
            }
            let left: BTreeSet<_> = rules.into_keys().collect();
            ensure!(
                left.is_subset(&held),
                "{kind} left over: {:?}",
                left.difference(&held)
            );
        }
        self.compare_endpoints(&records).await?;
        self.compare_metric().await?;
        Ok((records.len(), held.len()))
    }

    async fn compare_endpoints(&self, records: &BTreeMap<String, Value>) -> Result<()> {
        let mut slices: BTreeMap<String, BTreeSet<(String, bool)>> = BTreeMap::new();
        for slice in self.slices().list(&ListParams::default()).await? {
            let labels = slice.metadata.labels.unwrap_or_default();
            let service = labels.get("kubernetes.io/service-name").cloned();
            let of = slices.entry(service.unwrap_or_default()).or_default();
            for endpoint in slice.endpoints.into_iter().flatten() {
                let ready = endpoint.conditions.and_then(|c| c.ready).unwrap_or(true);
                of.extend(
                    endpoint
                        .addresses
                        .into_iter()
                        .map(|address| (address, ready)),
                );
            }
        }
        for (name, record) in records {
            let id = record["id"].as_str().unwrap_or_default();
            let record = self.catalog.get(id).await?;
            let told: BTreeSet<_> = record["endpoints"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|endpoint| {
                    let address = endpoint["address"].as_str().unwrap_or_default();
                    (address.to_owned(), endpoint["ready"] == true)
                })
                .collect();
            let should = slices.remove(name).unwrap_or_default();
            ensure!(
                told == should,
                "endpoints of {name}: the catalog has {told:?}, the cluster {should:?}"
            );
        }
        Ok(())
    }

    /// The leader's metric counts just those that are held, also those that
    /// others left.
    async fn compare_metric(&self) -> Result<()> {
        let bindings = Api::<ServiceBinding>::all(self.rig.client.clone());
        let bindings = bindings.list(&ListParams::default()).await?;
        let held = bindings.iter().filter(is_held).count();
        let mut said = Vec::new();
        for (operator, listen) in self.operators.iter().zip([OPERATOR, STANDBY]) {
            let samples = operator
                .metrics(&format!("http://{listen}/metrics"))
                .await?;
            let leads = samples.sum("leader_election_master_status", &[]) == Some(1.0);
            let panics = samples.sum("controller_runtime_reconcile_panics_total", &[]);
            ensure!(panics == Some(0.0), "a reconciliation panicked");
            if leads {
                said.push(
                    samples
                        .sum("catalog_mesh_deletions_held", &[])
                        .unwrap_or_default(),
                );
            }
        }
        if said != [held as f64] {
            bail!("leaders say that they hold {said:?}, and {held} bindings are held");
        }
        Ok(())
    }

    /// What is quiet stays so: nothing more is written.
    async fn expect_lasting(&self) -> Result<()> {
        sleep(Duration::from_secs(1)).await;
        let mark = self.rig.audit_mark().await?;
        sleep(Duration::from_secs(3)).await;
        let writes = self.rig.operator_writes(mark).await?;
        let here: Vec<_> = writes
            .iter()
            .filter(|entry| {
                let object = entry.object_ref.as_ref();
                object.is_some_and(|object| object.namespace == self.namespace)
            })
            .collect();
        ensure!(here.is_empty(), "it writes on: {here:?}");
        self.compare().await?;
        Ok(())
    }
}

fn is_held(binding: &&ServiceBinding) -> bool {
    condition(binding, "Ready").as_deref() == Some("False DeletionHeld")
}

/// Milliseconds of a duration as Istio writes it, or as the catalog does.
fn millis(text: &str) -> Option<u64> {
    catalog_mesh_controller::domain::duration::Millis::parse(text)
        .ok()
        .map(|millis| millis.0)
}
