//! What is counted of looks at bindings, by the names that controller-runtime
//! has for it, so that dashboards and rules made for it work here as well.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::{CONTROLLER, SECONDS, registered};

/// How a reconciliation ended, in controller-runtime's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReconcileResult {
    /// Nothing more to do until something changes.
    Success,
    /// Another look as soon as may be.
    Requeue,
    /// Another look at a set time.
    RequeueAfter,
    /// It failed and is tried again.
    Error,
}

/// Metrics of reconciliations. Cloning shares them.
#[derive(Clone)]
pub struct Reconciles {
    total: IntCounterVec,
    errors: IntCounter,
    panics: IntCounter,
    timeouts: IntCounter,
    time: Histogram,
    workers: IntGauge,
    workers_max: IntGauge,
}

impl Reconciles {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let named =
            |name: &str, help: &str| Opts::new(name, help).const_label("controller", CONTROLLER);
        let counter = |name, help| registered(registry, IntCounter::with_opts(named(name, help))?);
        let gauge = |name, help| registered(registry, IntGauge::with_opts(named(name, help))?);
        let total = named(
            "controller_runtime_reconcile_total",
            "Reconciliations by result.",
        );
        let time = named(
            "controller_runtime_reconcile_time_seconds",
            "Time that a reconciliation took.",
        );
        let time = HistogramOpts::from(time).buckets(SECONDS.to_vec());
        let reconciles = Self {
            total: registered(registry, IntCounterVec::new(total, &["result"])?)?,
            errors: counter(
                "controller_runtime_reconcile_errors_total",
                "Reconciliations that failed.",
            )?,
            panics: counter(
                "controller_runtime_reconcile_panics_total",
                "Reconciliations that panicked.",
            )?,
            timeouts: counter(
                "controller_runtime_reconcile_timeouts_total",
                "Reconciliations that were cut off, since they took too long.",
            )?,
            time: registered(registry, Histogram::with_opts(time)?)?,
            workers: gauge(
                "controller_runtime_active_workers",
                "Reconciliations that run.",
            )?,
            workers_max: gauge(
                "controller_runtime_max_concurrent_reconciles",
                "Most reconciliations at once.",
            )?,
        };
        // Series that are expected to exist before their first event.
        for result in [
            ReconcileResult::Success,
            ReconcileResult::Requeue,
            ReconcileResult::RequeueAfter,
            ReconcileResult::Error,
        ] {
            reconciles.total.with_label_values(&[label(result)]);
        }
        Ok(reconciles)
    }

    /// A reconciliation ended.
    pub fn ended(&self, result: ReconcileResult, seconds: f64) {
        self.total.with_label_values(&[label(result)]).inc();
        self.time.observe(seconds);
        if result == ReconcileResult::Error {
            self.errors.inc();
        }
    }

    /// A reconciliation panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A reconciliation was cut off.
    pub fn cut_off(&self) {
        self.timeouts.inc();
    }

    /// How many run, of how many at most.
    pub fn workers(&self, running: usize, most: usize) {
        self.workers.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.workers_max
            .set(i64::try_from(most).unwrap_or(i64::MAX));
    }
}

fn label(result: ReconcileResult) -> &'static str {
    match result {
        ReconcileResult::Success => "success",
        ReconcileResult::Requeue => "requeue",
        ReconcileResult::RequeueAfter => "requeue_after",
        ReconcileResult::Error => "error",
    }
}
