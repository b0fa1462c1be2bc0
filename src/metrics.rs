//! Every metric that the operator serves. Labels are closed sets or, where
//! the contract names it, the service; never free text.

pub mod alerts;
pub mod bindings;
pub mod catalog;
pub mod ejections;
pub mod health;
mod leadership;
pub mod reports;
pub mod verdicts;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder,
};

use alerts::AlertMetrics;
use bindings::BindingMetrics;
use catalog::CatalogMetrics;

/// How a synchronisation ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SyncResult {
    /// Catalog and mesh agree.
    Success,
    /// They do not; the binding's conditions say why.
    Failure,
}

/// How a reconciliation ended, in controller-runtime's words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReconcileResult {
    /// Nothing more to do until something changes.
    Success,
    /// Another look at a set time.
    RequeueAfter,
    /// It failed and is tried again.
    Error,
}

/// Every metric that the operator serves. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    sync_total: IntCounterVec,
    sync_duration: Histogram,
    virtual_services: [IntGauge; 2],
    destination_rules: [IntGauge; 2],
    bindings: [IntGauge; 2],
    writes: IntCounterVec,
    fence_skips: IntCounter,
    undecodable: IntCounter,
    made: BindingMetrics,
    events_dropped: IntCounter,
    reconcile_total: IntCounterVec,
    reconcile_errors: IntCounter,
    reconcile_panics: IntCounter,
    reconcile_time: Histogram,
    workers: IntGauge,
    workers_max: IntGauge,
    depth: Gauge,
    watch_errors: IntCounterVec,
    catalog: CatalogMetrics,
    leadership: leadership::Leadership,
    /// Health checks.
    pub health: health::HealthMetrics,
    /// Reports to the catalog.
    pub reports: reports::Reports,
    /// Pods that leave the mesh and come back.
    pub ejections: ejections::Ejections,
    /// Verdicts on endpoints.
    pub verdicts: verdicts::Verdicts,
    /// Alerts that Alertmanagers are told of.
    pub alerts: AlertMetrics,
}

const CONTROLLER: &str = "servicebinding";
const SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

impl Metrics {
    /// Registers every metric in a registry of its own.
    pub fn new() -> Result<Self, prometheus::Error> {
        let r = Registry::new();
        let gauge = |name: &str, help: &str| registered(&r, IntGauge::new(name, help)?);
        let counter = |name: &str, help: &str| registered(&r, IntCounter::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(&r, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let of_controller =
            |name: &str, help: &str| Opts::new(name, help).const_label("controller", CONTROLLER);
        let histogram = |name: &str, help: &str| {
            registered(
                &r,
                Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))?,
            )
        };
        let successor = |new: &str| format!("(Deprecated since 0.1.0) Use {new}.");
        let metrics = Self {
            sync_total: counters(
                "catalog_mesh_sync_total",
                "Synchronisations of a binding, by how they ended.",
                &["status"],
            )?,
            sync_duration: histogram(
                "catalog_mesh_sync_duration_seconds",
                "Time that a synchronisation of a binding took.",
            )?,
            virtual_services: [
                gauge(
                    "catalog_mesh_virtualservices",
                    "VirtualServices that carry the operator's label.",
                )?,
                gauge(
                    "catalog_mesh_virturalservices_total",
                    &successor("catalog_mesh_virtualservices"),
                )?,
            ],
            destination_rules: [
                gauge(
                    "catalog_mesh_destinationrules",
                    "DestinationRules that carry the operator's label.",
                )?,
                gauge(
                    "catalog_mesh_destinationrules_total",
                    &successor("catalog_mesh_destinationrules"),
                )?,
            ],
            bindings: [
                gauge(
                    "catalog_mesh_servicebindings",
                    "ServiceBindings that the operator sees.",
                )?,
                gauge(
                    "catalog_mesh_servicebindings_total",
                    &successor("catalog_mesh_servicebindings"),
                )?,
            ],
            writes: counters(
                "catalog_mesh_writes_total",
                "Requests to the API server that change something, by kind and outcome.",
                &["kind", "outcome"],
            )?,
            fence_skips: counter(
                "catalog_mesh_fence_skips_total",
                "Objects that were not written, since nothing had changed.",
            )?,
            made: BindingMetrics::new(&r)?,
            undecodable: counter(
                "catalog_mesh_undecodable_total",
                "Bindings that were received and could not be decoded.",
            )?,
            events_dropped: counter(
                "catalog_mesh_events_dropped_total",
                "Kubernetes Events that were dropped: too many, or refused.",
            )?,
            reconcile_total: registered(
                &r,
                IntCounterVec::new(
                    of_controller(
                        "controller_runtime_reconcile_total",
                        "Reconciliations by result.",
                    ),
                    &["result"],
                )?,
            )?,
            reconcile_errors: registered(
                &r,
                IntCounter::with_opts(of_controller(
                    "controller_runtime_reconcile_errors_total",
                    "Reconciliations that failed.",
                ))?,
            )?,
            reconcile_panics: registered(
                &r,
                IntCounter::with_opts(of_controller(
                    "controller_runtime_reconcile_panics_total",
                    "Reconciliations that panicked.",
                ))?,
            )?,
            reconcile_time: registered(
                &r,
                Histogram::with_opts(
                    HistogramOpts::from(of_controller(
                        "controller_runtime_reconcile_time_seconds",
                        "Time that a reconciliation took.",
                    ))
                    .buckets(SECONDS.to_vec()),
                )?,
            )?,
            workers: registered(
                &r,
                IntGauge::with_opts(of_controller(
                    "controller_runtime_active_workers",
                    "Reconciliations that run.",
                ))?,
            )?,
            workers_max: registered(
                &r,
                IntGauge::with_opts(of_controller(
                    "controller_runtime_max_concurrent_reconciles",
                    "Most reconciliations at once.",
                ))?,
            )?,
            depth: registered(
                &r,
                Gauge::with_opts(
                    Opts::new("workqueue_depth", "Bindings that are due.")
                        .const_label("name", CONTROLLER),
                )?,
            )?,
            watch_errors: counters(
                "catalog_mesh_watch_errors_total",
                "Failures of a watch, by kind.",
                &["kind"],
            )?,
            catalog: CatalogMetrics::new(&r)?,
            leadership: leadership::Leadership::new(&r)?,
            health: health::HealthMetrics::new(&r)?,
            reports: reports::Reports::new(&r)?,
            ejections: ejections::Ejections::new(&r)?,
            verdicts: verdicts::Verdicts::new(&r)?,
            alerts: AlertMetrics::new(&r)?,
            registry: r.clone(),
        };
        // Series that are expected to exist before their first event.
        for result in [SyncResult::Success, SyncResult::Failure] {
            metrics.sync_total.with_label_values(&[sync_label(result)]);
        }
        for result in [
            ReconcileResult::Success,
            ReconcileResult::RequeueAfter,
            ReconcileResult::Error,
        ] {
            metrics
                .reconcile_total
                .with_label_values(&[result_label(result)]);
        }
        Ok(metrics)
    }

    /// Those about the catalog.
    pub fn catalog(&self) -> &CatalogMetrics {
        &self.catalog
    }

    /// A synchronisation ended.
    pub fn synced(&self, result: SyncResult, seconds: f64) {
        self.sync_total
            .with_label_values(&[sync_label(result)])
            .inc();
        self.sync_duration.observe(seconds);
    }

    /// How many objects there are.
    pub fn objects(&self, bindings: usize, virtual_services: usize, destination_rules: usize) {
        let set = |gauges: &[IntGauge; 2], n: usize| {
            for gauge in gauges {
                gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
            }
        };
        set(&self.bindings, bindings);
        set(&self.virtual_services, virtual_services);
        set(&self.destination_rules, destination_rules);
    }

    /// A request that changes something was answered.
    pub fn wrote(&self, kind: &'static str, ok: bool) {
        self.writes
            .with_label_values(&[kind, if ok { "success" } else { "failure" }])
            .inc();
    }

    /// An object was not written, since nothing had changed.
    pub fn skipped(&self, objects: usize) {
        self.fence_skips.inc_by(objects as u64);
    }

    /// What is made and removed because of the catalog.
    pub fn bindings(&self) -> &BindingMetrics {
        &self.made
    }

    /// A binding could not be decoded.
    pub fn undecodable(&self) {
        self.undecodable.inc();
    }

    /// An Event was dropped.
    pub fn event_dropped(&self) {
        self.events_dropped.inc();
    }

    /// A reconciliation ended.
    pub fn reconciled(&self, result: ReconcileResult, seconds: f64) {
        self.reconcile_total
            .with_label_values(&[result_label(result)])
            .inc();
        self.reconcile_time.observe(seconds);
        if result == ReconcileResult::Error {
            self.reconcile_errors.inc();
        }
    }

    /// A reconciliation panicked.
    pub fn panicked(&self) {
        self.reconcile_panics.inc();
    }

    /// How many bindings are due and how many run, of how many at most.
    pub fn queue(&self, due: usize, running: usize, most: usize) {
        self.depth.set(due as f64);
        self.workers.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.workers_max
            .set(i64::try_from(most).unwrap_or(i64::MAX));
    }

    /// A watch failed.
    pub fn watch_failed(&self, kind: &'static str) {
        self.watch_errors.with_label_values(&[kind]).inc();
    }

    /// All of it in Prometheus' text format.
    pub fn exposition(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }
}

fn registered<C>(registry: &Registry, collector: C) -> Result<C, prometheus::Error>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn sync_label(result: SyncResult) -> &'static str {
    match result {
        SyncResult::Success => "success",
        SyncResult::Failure => "failure",
    }
}

fn result_label(result: ReconcileResult) -> &'static str {
    match result {
        ReconcileResult::Success => "success",
        ReconcileResult::RequeueAfter => "requeue_after",
        ReconcileResult::Error => "error",
    }
}
