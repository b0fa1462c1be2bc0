//! What does every scenario stand on? The cluster, the catalog, the bindings,
//! and ways to start the operator. Starts processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kube::Client;

use crate::fleet::Fleet;
use crate::options::Options;
use crate::process::Usage;
use crate::raw;
use crate::ready::Readiness;
use crate::report::Report;
use crate::support::audit::{Entry, Mark};
use crate::support::catalog::Catalog;
use crate::support::metrics::Samples;
use crate::support::operator::{ACCOUNT, NAMESPACE, Operator};
use crate::support::rig::Rig;
use crate::support::stack::{CATALOG, OPERATOR};
use crate::support::tools::repository;
use crate::support::wait;

/// The server's own defaults are for a cluster that nobody measures.
const LIMITS: [&str; 2] = [
    "--max-requests-inflight=2000",
    "--max-mutating-requests-inflight=1000",
];

/// How long anything may take before a run is given up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3_600);

/// How long the cluster digests what it was given before something is measured.
const SETTLE: Duration = Duration::from_secs(2);

/// The period that the operator has by default.
pub(crate) const PERIOD: &str = "30s";

/// So long nothing is written by whoever is at rest.
const CALM: Duration = Duration::from_secs(5);

/// Cluster, catalog and two fleets: one for the operator, one for the bare
/// client.
pub(crate) struct Bed {
    pub(crate) options: Options,
    pub(crate) rig: Rig,
    pub(crate) catalog: Catalog,
    pub(crate) ours: Fleet,
    pub(crate) raw: Fleet,
    /// Of the operator's account, without retries.
    pub(crate) bare: Client,
    program: PathBuf,
}

impl Bed {
    pub(crate) async fn make(options: Options) -> Result<Self> {
        let program = options.operator();
        ensure!(
            program.is_file(),
            "there is no operator at {}",
            program.display()
        );
        eprintln!("starting API server, istiod and catalog ...");
        let rig = Rig::start_with(&LIMITS).await?;
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let catalog = Catalog::start(rig.folder(), "catalog", CATALOG).await?;
        let account = rig.api.service_account_kubeconfig(NAMESPACE, ACCOUNT);
        let bare = raw::client(&account.await?).await?;
        let size = options.bindings();
        eprintln!("making {size} Services and as many entries of the catalog ...");
        let (ours, bared) = (rig.namespace("ours").await?, rig.namespace("bare").await?);
        let ours = Fleet::make(rig.client.clone(), &ours, size).await?;
        let raw = Fleet::without_services(rig.client.clone(), &bared, size);
        ours.enter(&catalog).await?;
        Ok(Self {
            options,
            rig,
            catalog,
            ours,
            raw,
            bare,
            program,
        })
    }

    /// Starts the operator and does not wait for anything.
    pub(crate) async fn operator(&self, period: &str) -> Result<Running> {
        self.operator_by(&self.catalog.url, period, &[]).await
    }

    /// The same, which follows another catalog and has these flags besides.
    async fn operator_by(&self, catalog: &str, period: &str, flags: &[&str]) -> Result<Running> {
        let args = ["run", "--catalog-url", catalog];
        let more = ["--listen", OPERATOR, "--period", period];
        let args = args.into_iter().chain(more).chain(flags.iter().copied());
        let args = args.chain(self.options.operator_flags());
        let operator = self.rig.operator("operator", &self.program, args).await?;
        let started = Instant::now();
        let pid = operator.process.pid().await.context("it has ended")?;
        Ok(Running {
            operator,
            started,
            pid,
        })
    }

    /// The operator, with every binding in force.
    pub(crate) async fn in_force(&self, period: &str) -> Result<Running> {
        self.in_force_by(&self.catalog.url, period).await
    }

    /// The same, by what another catalog says.
    pub(crate) async fn in_force_by(&self, catalog: &str, period: &str) -> Result<Running> {
        let size = self.ours.names.len();
        if self.ours.bound().await? < size {
            self.ours.clear().await?;
            self.ours.bind().await?;
        }
        let running = self.operator_by(catalog, period, &[]).await?;
        self.ready(&running).await?;
        Ok(running)
    }

    /// The operator with these flags, and with every binding in force that it
    /// makes for the catalog; nobody else has made any.
    pub(crate) async fn made_in_force(&self, period: &str, flags: &[&str]) -> Result<Running> {
        self.ours.clear().await?;
        let running = self.operator_by(&self.catalog.url, period, flags).await?;
        self.ready(&running).await?;
        Ok(running)
    }

    /// Waits until every binding is in force and looked at.
    async fn ready(&self, running: &Running) -> Result<()> {
        let size = self.ours.names.len();
        let mut ready = Readiness::watch(&self.ours);
        ready.wait(size, PATIENCE).await?;
        running.verified(size).await?;
        settle().await;
        Ok(())
    }

    /// The CPU seconds that each of the parts around the operator has used so
    /// far, and this program: a saturated machine is as fast as these allow.
    pub(crate) async fn spent(&self) -> Result<Vec<(&'static str, f64)>> {
        let mut spent = vec![("this program", Usage::of(std::process::id())?.cpu_seconds)];
        for (name, process) in [
            ("API server", &self.rig.api.server),
            ("etcd", &self.rig.api.etcd),
            ("istiod", &self.rig.istiod.process),
            ("controller-manager", &self.rig.api.controllers),
            ("catalog", &self.catalog.process),
        ] {
            let pid = process
                .pid()
                .await
                .with_context(|| format!("{name} has ended"))?;
            spent.push((name, Usage::of(pid)?.cpu_seconds));
        }
        Ok(spent)
    }

    /// A place in the API server's log, after everything answered so far.
    pub(crate) async fn mark(&self) -> Result<Mark> {
        self.rig.audit_mark().await
    }

    /// Waits until it writes nothing for a while, and has told the catalog all: after a
    /// start that takes minutes.
    pub(crate) async fn calm(&self, running: &Running) -> Result<()> {
        wait::until("no more writes", PATIENCE, async || {
            let pending = running.metrics().await?;
            let pending = pending.sum("catalog_mesh_reports_pending", &[]);
            ensure!(pending == Some(0.0), "{pending:?} reports to the catalog");
            let mark = self.mark().await?;
            tokio::time::sleep(CALM).await;
            let asked = self.requests(mark).await?;
            let writes = asked.writes() - asked.writes_of("leases");
            ensure!(writes == 0, "{writes} in {CALM:?}");
            Ok(())
        })
        .await
    }

    /// What the operator's account asked for since a mark.
    pub(crate) async fn requests(&self, since: Mark) -> Result<Requests> {
        let entries = self.rig.api.audit.since(since, &self.rig.client).await?;
        let user = crate::support::operator::USER;
        Ok(Requests(
            entries
                .into_iter()
                .filter(|e| e.user.username == user)
                .collect(),
        ))
    }
}

/// Requests of the operator's account.
pub(crate) struct Requests(Vec<Entry>);

impl Requests {
    /// How many ask for a change.
    pub(crate) fn writes(&self) -> usize {
        self.0.iter().filter(|e| e.is_write()).count()
    }

    /// How many ask for a change of this resource, `events` for example.
    pub(crate) fn writes_of(&self, resource: &str) -> usize {
        let of = |e: &&Entry| e.right().is_some_and(|right| right.resource == resource);
        self.0.iter().filter(|e| e.is_write()).filter(of).count()
    }

    /// Adds how many of each kind of change there were for each of `count`
    /// things.
    pub(crate) fn tell(&self, report: &mut Report, thing: &str, count: f64) {
        let rights = self
            .0
            .iter()
            .filter(|e| e.is_write())
            .filter_map(Entry::right);
        let mut kinds = BTreeMap::<String, f64>::new();
        for right in rights {
            let kind = format!("{} {}", right.verb, right.resource);
            *kinds.entry(kind).or_default() += 1.0;
        }
        for (kind, of) in kinds {
            report.add(&format!("of it {kind}, per {thing}"), "", of / count);
        }
    }

    /// How many ask for a change of an object of this name: of the binding, its
    /// status, or one of its two rules.
    pub(crate) fn writes_to(&self, name: &str) -> usize {
        let named = |e: &&Entry| e.object_ref.as_ref().is_some_and(|o| o.name == name);
        self.0.iter().filter(|e| e.is_write()).filter(named).count()
    }

    /// How many read something and then end, which a watch does not.
    pub(crate) fn reads(&self) -> usize {
        let read = |e: &&Entry| matches!(e.verb.as_str(), "get" | "list");
        self.0.iter().filter(read).count()
    }

    /// How many were answered so.
    pub(crate) fn answered(&self, codes: std::ops::Range<u16>) -> usize {
        let code = |e: &&Entry| codes.contains(&e.response_status.code);
        self.0.iter().filter(code).count()
    }
}

/// The operator as it runs.
pub(crate) struct Running {
    operator: Operator,
    pub(crate) started: Instant,
    pub(crate) pid: u32,
}

impl Running {
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid)
    }

    /// Waits until so many looks have ended well, by its own metrics.
    pub(crate) async fn verified(&self, count: usize) -> Result<Instant> {
        wait::until("a good look at every binding", PATIENCE, async || {
            let metrics = self.metrics().await?;
            let good = metrics.sum("catalog_mesh_sync_total", &[r#"status="success""#]);
            let good = good.unwrap_or_default();
            ensure!(good >= count as f64, "{good} of {count} looks ended well");
            Ok(Instant::now())
        })
        .await
    }

    /// How many looks at bindings have ended.
    pub(crate) async fn looks(&self) -> Result<f64> {
        let looks = self.metrics().await?;
        let looks = looks.sum("controller_runtime_reconcile_total", &[]);
        looks.context("the operator does not count its looks")
    }

    /// What it says in its metrics.
    pub(crate) async fn metrics(&self) -> Result<Samples> {
        let url = format!("http://{OPERATOR}/metrics");
        self.operator.metrics(&url).await
    }

    /// Waits until it calls itself ready.
    pub(crate) async fn listed(&self) -> Result<Instant> {
        let url = format!("http://{OPERATOR}/readyz");
        self.operator.ready(&url).await?;
        Ok(Instant::now())
    }

    /// Ends it as a cluster would.
    pub(crate) async fn stop(self) -> Result<()> {
        let limit = Duration::from_secs(30);
        let well = self.operator.process.terminate(limit).await?;
        let log = self.operator.process.log();
        ensure!(well, "it ended with an error; see {}", log.display());
        Ok(())
    }
}

/// Waits for garbage collection, istiod's debounce and the like.
pub(crate) async fn settle() {
    tokio::time::sleep(SETTLE).await;
}
