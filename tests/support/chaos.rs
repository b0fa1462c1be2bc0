//! Random changes of the catalog and of the cluster, while everything between
//! the two that can go wrong does; and in the end: is all as the catalog says?
//!
//! What is done follows from the seed; when it is done relative to what else
//! happens does not, since real processes do it.

mod end;
mod faults;
mod journal;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep};

use self::end::End;
use self::faults::FAULTS;
use self::journal::{Journal, lock};
use self::model::Model;
use super::catalog::Catalog;
use super::front::{Fault, Front};
use super::operator::{ACCOUNT, Operator};
use super::postgres::Postgres;
use super::rig::Rig;
use super::stack::{self, CATALOG, OPERATOR};
use super::tools::repository;
use super::wait;

const FRONT: &str = "127.0.0.1:9081";
const STANDBY: &str = "127.0.0.1:9181";

/// Owners, and so changes at once. Each has services of its own, so that the
/// order of a service's changes is that of one owner.
const OWNERS: usize = 8;

/// Services that no owner changes: they are registered before a backup is
/// restored that lacks them, and left alone after it. The last two have a
/// user's binding.
const RESERVED: [&str; 4] = ["r0", "r1", "r2", "r5"];

/// Revisions that the catalog keeps: few enough to fall below.
const KEPT: usize = 200;

/// How long the end of all may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Most bindings that do nothing but count.
const MOST_IDLE: usize = 5_000;

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
    pub changes: usize,
    pub seconds: f64,
    /// From the last change and the last fault until all was as it should be.
    pub quiet_after: f64,
    pub faults: BTreeMap<&'static str, usize>,
    /// Streams that could not be resumed, and so led to a list.
    pub resets: u64,
    /// Reports that were delivered a second time.
    pub reports_again: usize,
    /// Services of the catalog in the end.
    pub registered: usize,
    /// Services that a backup lacked, though all of theirs was made.
    pub lost: usize,
    /// Bindings that the brake held in the end, and how many of them had to be
    /// since a backup lacked their services.
    pub held: usize,
    pub had_to_be_held: usize,
}

impl Report {
    /// It was a run that can fail: each kind of fault was there and came through
    /// to the operators, and something had to be held.
    pub fn expect_meaning(&self) -> Result<()> {
        for fault in FAULTS {
            ensure!(self.faults.contains_key(fault), "no {fault}: {self:?}");
        }
        ensure!(self.resets > 0, "no stream was reset: {self:?}");
        ensure!(self.reports_again > 0, "no report came twice: {self:?}");
        ensure!(self.registered > 0, "nothing is registered: {self:?}");
        ensure!(self.had_to_be_held > 0, "nothing was lost: {self:?}");
        Ok(())
    }
}

/// The catalog with its database, the operators, and what is between.
struct World<'a> {
    rig: &'a Rig,
    options: Options,
    namespace: String,
    idle: String,
    /// Every service that there may be.
    names: BTreeSet<String>,
    /// Service → uid of the binding that a user wrote for it.
    users: BTreeMap<String, String>,
    _postgres: Postgres,
    database: String,
    catalog: Catalog,
    front: Front,
    operators: [Operator; 2],
    model: Arc<Mutex<Model>>,
    journal: Journal,
    /// Owners read, and a restore writes.
    turn: RwLock<()>,
    made: AtomicUsize,
    resets: [Mutex<Resets>; 2],
    /// Each kind of fault was there.
    all_met: AtomicBool,
    /// Ends the faults.
    over: AtomicBool,
}

/// What one operator says of resets.
#[derive(Debug, Default)]
struct Resets {
    /// Since its start, when it was asked last.
    last: u64,
    all: u64,
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
    world.report_late().await?;
    world.front.set(Fault::None)?;
    let quiet = Instant::now();
    let End {
        registered,
        held,
        had_to_be_held,
    } = wait::until("an end as the catalog says", PATIENCE, async || {
        // A look at everything is no small thing to the API server.
        sleep(Duration::from_millis(300)).await;
        world.compare().await
    })
    .await
    .with_context(|| format!("{options:?}, {faults:?}"))?;
    let quiet_after = quiet.elapsed().as_secs_f64();
    world.expect_lasting().await?;
    world.count_resets().await;
    let report = Report {
        changes: world.made.load(Ordering::Relaxed),
        seconds: began.elapsed().as_secs_f64(),
        quiet_after,
        faults,
        resets: world.resets.iter().map(|resets| lock(resets).all).sum(),
        reports_again: world.front.reports_again(),
        registered,
        lost: lock(&world.model).losses(),
        held,
        had_to_be_held,
    };
    world.end().await?;
    Ok(report)
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
        let names = (0..options.services).map(|n| format!("s{n}"));
        let names: BTreeSet<_> = names.chain(RESERVED.map(str::to_owned)).collect();
        let services = Api::<Service>::namespaced(rig.client.clone(), &namespace);
        let mut users = BTreeMap::new();
        for name in &names {
            let params = PostParams::default();
            services.create(&params, &service(name)?).await?;
            if by_user(name) {
                let mut binding = stack::binding(&namespace, name, &format!("{namespace}.{name}"));
                binding["spec"]["trafficPolicy"] = json!({"loadBalancing": {"simple": "RANDOM"}});
                let made = stack::create(rig, &binding).await?;
                users.insert(name.clone(), made.metadata.uid.unwrap_or_default());
            }
        }
        let idle = idle_bindings(rig, (options.changes / 6).min(MOST_IDLE)).await?;
        let model = Arc::new(Mutex::new(Model::new(names.clone())));
        let journal = Journal::watch(&rig.client, &namespace, &model);
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
            idle,
            names,
            users,
            _postgres: postgres,
            database,
            catalog,
            front,
            operators: [first, second],
            model,
            journal,
            turn: RwLock::default(),
            made: AtomicUsize::new(0),
            resets: Default::default(),
            all_met: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    /// Leaves nothing that would cost other tests time.
    async fn end(&self) -> Result<()> {
        let idle = Api::<ServiceBinding>::namespaced(self.rig.client.clone(), &self.idle);
        let (params, all) = (DeleteParams::default(), ListParams::default());
        idle.delete_collection(&params, &all).await?;
        Ok(())
    }

    /// One owner's changes of his services, and of what runs behind them.
    async fn own(&self, owner: usize) -> Result<()> {
        let mut chance = fastrand::Rng::with_seed(self.options.seed ^ (owner as u64 + 1));
        let mut made = 0;
        while made < self.options.changes / OWNERS || !self.all_met.load(Ordering::Relaxed) {
            let place = chance.usize(..self.options.services.div_ceil(OWNERS));
            let n = (place * OWNERS + owner).min(self.options.services - 1);
            let name = format!("s{n}");
            match chance.u8(..10) {
                0 => {
                    let (pods, port) = (chance.u8(..4), chance.u16(8080..8082));
                    self.scale(n, pods, port, chance.u8(..2)).await?;
                }
                1 | 2 => self.insist(|| self.leave(&name)).await?,
                _ => {
                    let (millis, more) = (chance.u32(100..3_600_000), chance.u8(..8));
                    self.insist(|| self.enter(&name, millis, more)).await?;
                }
            }
            made += 1;
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

    /// Each bit of `more` is a part of the record that may be there or not.
    async fn enter(&self, name: &str, millis: u32, more: u8) -> Result<()> {
        let id = format!("{}.{name}", self.namespace);
        let mut record = stack::record(&id, &self.namespace, name);
        record["timeout"] = json!(format!("{millis}ms"));
        record["circuitBreaker"] = json!({"interval": format!("{millis}ms")});
        if more & 1 != 0 {
            record["retries"] = json!({"attempts": 1 + millis % 5, "retryOn": "5xx"});
        }
        if more & 2 != 0 {
            record["loadBalancing"] = json!({"simple": "LEAST_REQUEST"});
        }
        if more & 4 != 0 {
            record["connectionPool"] = json!({"tcp": {"maxConnections": 1 + millis % 100}});
        }
        self.catalog.put(&record).await?;
        lock(&self.model).entered(name);
        Ok(())
    }

    async fn leave(&self, name: &str) -> Result<()> {
        lock(&self.model).leaves(name);
        let id = format!("{}.{name}", self.namespace);
        match self.catalog.delete(&id).await {
            Err(error) if error.to_string().contains("404") => Ok(()),
            other => other,
        }
    }

    /// Has two reports of each service come twice, the earlier one after the
    /// later one now and then: of those before, another one made up for all.
    async fn report_late(&self) -> Result<()> {
        let seed = self.options.seed;
        self.front.set(Fault::Events { seed })?;
        for pods in [3, 1] {
            for n in 0..self.options.services {
                self.scale(n, pods, 8080, 0).await?;
            }
            sleep(Duration::from_millis(700)).await;
        }
        sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    /// Lets this many pods be behind the service, at this port; the first is in
    /// this zone.
    async fn scale(&self, n: usize, pods: u8, port: u16, zone: u8) -> Result<()> {
        let endpoints: Vec<_> = (0..pods)
            .map(|pod| {
                json!({
                    "addresses": [format!("10.9.{n}.{pod}")],
                    "conditions": {"ready": pod != 3},
                    "zone": (pod != 2).then(|| format!("zone-{}", (pod + zone) % 2)),
                })
            })
            .collect();
        let name = format!("s{n}-1");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": format!("s{n}")}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        let slices = Api::<EndpointSlice>::namespaced(self.rig.client.clone(), &self.namespace);
        let params = PatchParams::apply("by-hand").force();
        slices.patch(&name, &params, &Patch::Apply(slice)).await?;
        Ok(())
    }
}

/// Every third service has a user's own binding.
fn by_user(name: &str) -> bool {
    let number = name.trim_start_matches(['r', 's']).parse::<usize>();
    number.is_ok_and(|number| number % 3 == 2)
}

fn service(name: &str) -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    }))?)
}

/// So many bindings that do nothing, in a namespace of their own: the share
/// that the brake allows is of all, and what it holds because the share is used
/// up would hide what it would let go by mistake.
async fn idle_bindings(rig: &Rig, count: usize) -> Result<String> {
    let namespace = rig.namespace("chaos-idle").await?;
    let bindings = (0..count).map(|n| {
        let mut binding = stack::binding(&namespace, &format!("i{n}"), "nobody");
        binding["spec"]["suspend"] = json!(true);
        binding
    });
    stream::iter(bindings)
        .map(|binding| async move { stack::create(rig, &binding).await.map(|_| ()) })
        .buffer_unordered(16)
        .try_collect::<()>()
        .await?;
    Ok(namespace)
}
