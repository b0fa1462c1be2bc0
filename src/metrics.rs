//! Every metric that the operator serves. Labels are closed sets or, where
//! the contract names it, the service; never free text.

pub mod alerts;
pub mod bindings;
mod by_service;
pub mod catalog;
pub mod ejections;
pub mod health;
mod leadership;
pub mod reconcile;
pub mod reports;
pub mod verdicts;
pub mod workqueue;

use std::time::SystemTime;

use prometheus::process_collector::ProcessCollector;
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

/// Every metric that the operator serves. Cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    sync_total: IntCounterVec,
    sync_duration: Histogram,
    last_success: Gauge,
    virtual_services: [IntGauge; 2],
    destination_rules: [IntGauge; 2],
    bindings: [IntGauge; 2],
    writes: IntCounterVec,
    fence_skips: IntCounter,
    undecodable: IntCounter,
    made: BindingMetrics,
    events_dropped: IntCounter,
    watch_errors: IntCounterVec,
    catalog: CatalogMetrics,
    leadership: leadership::Leadership,
    /// Looks at bindings.
    pub reconciles: reconcile::Reconciles,
    /// What is due.
    pub workqueue: workqueue::Workqueue,
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

/// What is written, its Lease aside.
const WRITTEN: [&str; 6] = [
    "DestinationRule",
    "Event",
    "Pod",
    "ServiceBinding",
    "ServiceBinding/status",
    "VirtualService",
];

/// What is watched, its Lease aside.
const WATCHED: [&str; 7] = [
    "DestinationRule",
    "EndpointSlice",
    "Namespace",
    "Pod",
    "Service",
    "ServiceBinding",
    "VirtualService",
];

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
            last_success: registered(
                &r,
                Gauge::new(
                    "catalog_mesh_last_sync_success_timestamp_seconds",
                    "When a synchronisation of a binding last succeeded, or was not needed since nothing had changed after one, in seconds since 1970; 0 where none succeeded yet.",
                )?,
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
                "Requests to the API server that change something, by kind and outcome; the Lease aside.",
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
            watch_errors: counters(
                "catalog_mesh_watch_errors_total",
                "Failures of a watch, by kind.",
                &["kind"],
            )?,
            catalog: CatalogMetrics::new(&r)?,
            leadership: leadership::Leadership::new(&r)?,
            reconciles: reconcile::Reconciles::new(&r)?,
            workqueue: workqueue::Workqueue::new(&r)?,
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
        for kind in WRITTEN {
            metrics.writes.with_label_values(&[kind, "success"]);
            metrics.writes.with_label_values(&[kind, "failure"]);
        }
        for kind in WATCHED {
            metrics.watch_errors.with_label_values(&[kind]);
        }
        r.register(Box::new(ProcessCollector::for_self()))?;
        let build = Opts::new(
            "catalog_mesh_build_info",
            "Always 1; the label says which version runs.",
        );
        let build = build.const_label("version", env!("CARGO_PKG_VERSION"));
        registered(&r, IntGauge::with_opts(build)?)?.set(1);
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
        if result == SyncResult::Success {
            self.still_in_force();
        }
    }

    /// Catalog and mesh agree now, whether that took a synchronisation or none.
    pub fn still_in_force(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last_success.set(now.unwrap_or_default().as_secs_f64());
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
