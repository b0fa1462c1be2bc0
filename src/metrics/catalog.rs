//! Metrics about the catalog: the stream, and the requests.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::registered;

/// Why all services were listed.
pub const LISTS: [&str; 7] = [
    "first", "reset", "rewound", "gap", "stuck", "denied", "sweep",
];

/// Kinds of events, as the catalog names them.
pub const EVENTS: [&str; 7] = [
    "ServiceRegistered",
    "ServiceUpdated",
    "ServiceDeregistered",
    "HealthChanged",
    "bookmark",
    "reset",
    "other",
];

/// What becomes of a request.
const OUTCOMES: [&str; 6] = [
    "success",
    "not_found",
    "bad_record",
    "rate_limited",
    "unauthorized",
    "unavailable",
];

/// Kinds of requests to the catalog.
pub const REQUESTS: [&str; 5] = ["get", "list", "health", "endpoints", "events"];

/// Metrics about the catalog. Cloning shares them.
#[derive(Clone)]
pub struct CatalogMetrics {
    connected: IntGauge,
    age: Gauge,
    unread: IntGauge,
    connections: IntCounter,
    events: IntCounterVec,
    lists: IntCounterVec,
    requests: IntCounterVec,
}

impl CatalogMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(r, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let metrics = Self {
            connected: registered(
                r,
                IntGauge::new(
                    "catalog_mesh_catalog_stream_connected",
                    "Whether the catalog is followed: 1 where the event stream is open and caught up.",
                )?,
            )?,
            age: registered(
                r,
                Gauge::new(
                    "catalog_mesh_catalog_stream_age_seconds",
                    "Time since the event stream said something last; at most 10 while it is followed.",
                )?,
            )?,
            unread: registered(
                r,
                IntGauge::new(
                    "catalog_mesh_catalog_unread_services",
                    "Services of which the event stream announced something that was not read yet.",
                )?,
            )?,
            connections: registered(
                r,
                IntCounter::new(
                    "catalog_mesh_catalog_stream_connections_total",
                    "Event streams that were opened; all but the first are reconnections.",
                )?,
            )?,
            events: counters(
                "catalog_mesh_catalog_events_total",
                "Events of the catalog's stream, by type.",
                &["type"],
            )?,
            lists: counters(
                "catalog_mesh_catalog_lists_total",
                "Complete lists of the catalog that were taken, by why the stream alone was not enough.",
                &["reason"],
            )?,
            requests: counters(
                "catalog_mesh_catalog_requests_total",
                "Requests to the catalog, by kind and outcome. A list of many pages counts once.",
                &["kind", "outcome"],
            )?,
        };
        for kind in EVENTS {
            metrics.events.with_label_values(&[kind]);
        }
        for reason in LISTS {
            metrics.lists.with_label_values(&[reason]);
        }
        for kind in REQUESTS {
            for outcome in OUTCOMES {
                metrics.requests.with_label_values(&[kind, outcome]);
            }
        }
        Ok(metrics)
    }

    /// Whether the catalog is followed, and how long ago it said something.
    pub fn stream(&self, followed: bool, silent_for: Option<f64>) {
        self.connected.set(i64::from(followed));
        self.age.set(silent_for.unwrap_or(0.0));
    }

    /// Of how many services something was announced that was not read yet.
    pub fn unread(&self, services: usize) {
        self.unread.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// A stream was opened.
    pub fn connected(&self) {
        self.connections.inc();
    }

    /// The stream said something of this type.
    pub fn heard(&self, kind: &'static str) {
        self.events.with_label_values(&[kind]).inc();
    }

    /// A complete list was taken, for this reason.
    pub fn listed(&self, reason: &'static str) {
        self.lists.with_label_values(&[reason]).inc();
    }

    /// A request of this kind was answered so.
    pub fn asked(&self, kind: &'static str, outcome: &'static str) {
        self.requests.with_label_values(&[kind, outcome]).inc();
    }
}
