//! What does a service that changes ten thousand times a second do to the API
//! server, to the other services, and to the operator? Order and content are
//! told here; how fast it is, `make bench SCENARIO=storm` tells.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::domain::duration::Millis;
use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube_runtime::watcher::{self, Event, watcher};
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, VS};
use crate::support::fleet::{Fleet, resident};
use crate::support::metrics::Samples;
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE};
use crate::support::synthetic::{Synthetic, Values};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    a_storm_of_one_service_is_heard_merged_and_keeps_nobody_waiting(15)
];

/// Services, of which the first is the one that does not rest.
const SIZE: usize = 6;
const HOT: usize = 0;

const RATE: u32 = 10_000;
/// Ten seconds of it.
const CHANGES: u32 = 10 * RATE;

/// How often each of the others changes meanwhile.
const ROUNDS: u32 = 8;

/// A look writes two objects and a status, and bursts are merged to one look
/// each 300 ms.
const WRITES_PER_SECOND: f64 = 10.0;
/// Beside that come the look at the first change, which waits for nothing, and
/// the one at the last, which comes after the storm; three writes each.
const MARGIN: f64 = 6.0;

/// What the operator's memory may grow by, in KiB: far more than it does, and
/// far less than a hundred thousand events that somebody keeps.
const GROWTH: u64 = 32 * 1024;

async fn a_storm_of_one_service_is_heard_merged_and_keeps_nobody_waiting(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Synthetic::start(CATALOG)?;
    let operator = operator(rig, &catalog.url).await?;
    let fleet = Fleet::prepare(rig, "storm", SIZE).await?;
    for i in 0..SIZE {
        let name = format!("s{i}");
        catalog.register(&fleet.id(i), &fleet.namespace, &name, Values::after(0));
    }
    fleet.bind(rig).await?;
    fleet.wait_for(rig, "Ready", "True Synced").await?;
    let seen = Timeouts::watch(rig, &fleet);
    seen.until(&fleet, "the first values", |_| 1_000).await?;

    let pid = operator.process.pid().await.context("it runs")?;
    let (before, memory) = (metrics(&operator).await?, resident(pid)?);
    let (mark, begin) = (rig.audit_mark().await?, Instant::now());
    let mut arrived_meanwhile = false;
    let over = Cell::new(false);
    let others = async {
        for round in 1..=ROUNDS {
            for i in 1..SIZE {
                catalog.put(&fleet.id(i), Values::after(round))?;
            }
            sleep(Duration::from_secs(1)).await;
            arrived_meanwhile |= (1..SIZE).all(|i| seen.last(i) > 1_000);
        }
        while !over.get() && !arrived_meanwhile {
            sleep(Duration::from_millis(100)).await;
            arrived_meanwhile |= (1..SIZE).all(|i| seen.last(i) > 1_000);
        }
        anyhow::Ok(())
    };
    let hot = fleet.id(HOT);
    let storm = async {
        let took = catalog.storm(&hot, RATE, CHANGES).await;
        over.set(true);
        took
    };
    let (took, ()) = tokio::try_join!(storm, others)?;
    let last = |i| 1_000 + u64::from(if i == HOT { CHANGES } else { ROUNDS });
    seen.until(&fleet, "the last values", last).await?;
    let (until_last, grown) = (begin.elapsed(), resident(pid)?.saturating_sub(memory));
    let sent = f64::from(CHANGES) + f64::from(ROUNDS) * (SIZE - 1) as f64;
    let after = heard_all(&operator, &before, sent).await?;
    let writes = fleet.writes(rig, mark).await?;

    let of_hot = writes.0.iter().filter(|entry| {
        let object = entry.object_ref.as_ref();
        object.is_some_and(|object| object.name == format!("s{HOT}"))
    });
    let of_hot = of_hot.count();
    eprintln!(
        "storm: {CHANGES} changes in {took:?}, the last one stored after {until_last:?}; {of_hot} \
         writes of {} for it, {} reads of the catalog, {grown} KiB more",
        writes.0.len(),
        catalog.reads()
    );
    let most = WRITES_PER_SECOND * until_last.as_secs_f64() + MARGIN;
    ensure!(
        of_hot as f64 <= most,
        "{of_hot} writes within {until_last:?}"
    );
    ensure!(arrived_meanwhile, "the others had to wait for its end");
    seen.never_went_back()?;
    for name in [
        "catalog_mesh_catalog_lists_total",
        "catalog_mesh_catalog_stream_connections_total",
        "controller_runtime_reconcile_errors_total",
        "controller_runtime_reconcile_panics_total",
    ] {
        let (was, is) = (before.sum(name, &[]), after.sum(name, &[]));
        ensure!(was == is, "{name} was {was:?} and is {is:?}");
    }
    ensure!(grown <= GROWTH, "it has grown by {grown} KiB");
    fleet.clear(rig).await
}

/// One that looks at nothing for its period's sake.
async fn operator(rig: &Rig, catalog: &str) -> Result<Operator> {
    let args = ["run", "--catalog-url", catalog, "--listen", OPERATOR];
    let more = ["--period", "10m", "--register=off"];
    // The machine is busy, and it is not about who leads.
    let lease = ["--lease-duration=2m", "--lease-renew-deadline=100s"];
    let args = args.into_iter().chain(more).chain(lease);
    let operator = rig.operator("operator-storm", Path::new(PROGRAM), args);
    let operator = operator.await?;
    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
    stack::leads(&operator).await?;
    Ok(operator)
}

async fn metrics(operator: &Operator) -> Result<Samples> {
    operator
        .metrics(&format!("http://{OPERATOR}/metrics"))
        .await
}

/// Waits until every one of so many changes was heard.
async fn heard_all(operator: &Operator, before: &Samples, sent: f64) -> Result<Samples> {
    let updates = |samples: &Samples| {
        let name = "catalog_mesh_catalog_events_total";
        samples.sum(name, &[r#"type="ServiceUpdated""#])
    };
    let known = updates(before).unwrap_or_default();
    wait::until("the storm's last event", PATIENCE, async || {
        let samples = metrics(operator).await?;
        let heard = updates(&samples).context("the metric")? - known;
        ensure!(heard == sent, "{heard} of {sent} changes were heard");
        Ok(samples)
    })
    .await
}

/// The timeouts, in milliseconds, that each VirtualService came to have.
struct Timeouts {
    seen: Arc<Mutex<BTreeMap<String, Vec<u64>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Timeouts {
    fn watch(rig: &Rig, fleet: &Fleet) -> Self {
        let seen = Arc::new(Mutex::new(BTreeMap::<_, Vec<_>>::new()));
        let (rules, sink) = (fleet.rules(rig, VS), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(rules, watcher::Config::default()));
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(rule) | Event::InitApply(rule)) = event
                    && let Some(timeout) = timeout_ms(&rule)
                {
                    let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(rule.name_any()).or_default().push(timeout);
                }
            }
        });
        Self { seen, task }
    }

    /// The latest one of this service.
    fn last(&self, i: usize) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let of = seen.get(&format!("s{i}"));
        of.and_then(|of| of.last().copied()).unwrap_or_default()
    }

    /// Waits until each has this one.
    async fn until(&self, fleet: &Fleet, what: &str, of: impl Fn(usize) -> u64) -> Result<()> {
        wait::until(what, PATIENCE, async || {
            for i in 0..fleet.size {
                let (is, expected) = (self.last(i), of(i));
                ensure!(is == expected, "s{i} has {is} ms, and not {expected}");
            }
            Ok(())
        })
        .await
    }

    /// They only ever grow in the catalog: an older record was never stored
    /// after a newer one.
    fn never_went_back(&self) -> Result<()> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, timeouts) in &*seen {
            ensure!(timeouts.is_sorted(), "{name} went back: {timeouts:?}");
        }
        Ok(())
    }
}

impl Drop for Timeouts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn timeout_ms(rule: &DynamicObject) -> Option<u64> {
    let timeout = rule.data.pointer("/spec/http/0/timeout")?.as_str()?;
    Some(Millis::parse(timeout).ok()?.0)
}
