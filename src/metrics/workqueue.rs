//! What is counted of the queue, by the names that controller-runtime has for
//! it.

use std::time::Duration;

use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, Opts, Registry};

use super::{CONTROLLER, registered};

/// From what an idle queue takes to what nobody should see.
const SECONDS: [f64; 9] = [
    0.000_01, 0.000_1, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0,
];

/// Metrics of the queue. Cloning shares them.
#[derive(Clone)]
pub struct Workqueue {
    depth: Gauge,
    adds: IntCounter,
    retries: IntCounter,
    waited: Histogram,
    worked: Histogram,
    unfinished: Gauge,
    longest: Gauge,
}

impl Workqueue {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let named = |name: &str, help: &str| {
            Opts::new(name, help)
                .const_label("name", CONTROLLER)
                .const_label("controller", CONTROLLER)
        };
        let gauge = |name, help| registered(registry, Gauge::with_opts(named(name, help))?);
        let counter = |name, help| registered(registry, IntCounter::with_opts(named(name, help))?);
        let histogram = |name, help| {
            let options = HistogramOpts::from(named(name, help)).buckets(SECONDS.to_vec());
            registered(registry, Histogram::with_opts(options)?)
        };
        Ok(Self {
            depth: gauge("workqueue_depth", "Bindings that are due.")?,
            adds: counter("workqueue_adds_total", "Bindings that became due.")?,
            retries: counter(
                "workqueue_retries_total",
                "Reconciliations after which the binding is tried again.",
            )?,
            waited: histogram(
                "workqueue_queue_duration_seconds",
                "Time that a binding was due before its reconciliation began, not counting what passed while another replica led.",
            )?,
            worked: histogram(
                "workqueue_work_duration_seconds",
                "Time from the begin of a reconciliation to its end.",
            )?,
            unfinished: gauge(
                "workqueue_unfinished_work_seconds",
                "Time that all reconciliations under way have taken so far, together.",
            )?,
            longest: gauge(
                "workqueue_longest_running_processor_seconds",
                "Time that the longest reconciliation under way has taken so far.",
            )?,
        })
    }

    /// How many bindings are due.
    pub fn depth(&self, due: usize) {
        self.depth.set(due as f64);
    }

    /// For how long reconciliations have been under way: all together, and the
    /// longest.
    pub fn under_way(&self, all: Duration, longest: Duration) {
        self.unfinished.set(all.as_secs_f64());
        self.longest.set(longest.as_secs_f64());
    }

    /// So many bindings more became due, and so many are tried again.
    pub fn grew(&self, adds: u64, retries: u64) {
        self.adds.inc_by(adds);
        self.retries.inc_by(retries);
    }

    /// A reconciliation begins after so long a wait.
    pub fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }

    /// A reconciliation took so long.
    pub fn worked(&self, time: Duration) {
        self.worked.observe(time.as_secs_f64());
    }
}
