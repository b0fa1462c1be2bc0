//! What is counted of the health checks.

use std::sync::Arc;

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::by_service::{Ends, EndsByService};
use super::registered;

/// Why an answer was not judged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SetAside {
    /// The checks are in doubt.
    Doubt,
    /// It was read too late to say anything about the endpoint.
    Late,
    /// The fault was this process's or this machine's: no socket, no route.
    Own,
    /// Nobody else was heard since the silence began.
    Unwitnessed,
    /// Nothing can be said of an endpoint that wants mutual TLS, or without a
    /// certificate to show.
    Unknown,
}

/// Why no verdict moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Held {
    /// Timers fire late.
    Late,
    /// Many services stopped answering at once.
    AllAtOnce,
}

/// Metrics of the health checks. Cloning shares them.
#[derive(Clone)]
pub struct HealthMetrics {
    total: EndsByService,
    duration: Histogram,
    lateness: Histogram,
    set_aside: IntCounterVec,
    in_flight: IntGauge,
    waiting: IntGauge,
    endpoints: IntGauge,
    connections: IntGauge,
    held: IntGaugeVec,
}

/// The counters of one service, so that none is looked up for each check.
#[derive(Clone)]
pub struct ServiceChecks(Arc<Ends>);

/// Checks take as little as a few hundred microseconds.
const SECONDS: [f64; 13] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

impl HealthMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let histogram = |name: &str, help: &str| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            registered(registry, Histogram::with_opts(options)?)
        };
        let metrics = Self {
            total: registered(
                registry,
                EndsByService::new(
                    "catalog_mesh_health_check_total",
                    "Health checks that say something about an endpoint, by service (namespace/name) and how they ended.",
                )?,
            )?,
            duration: histogram(
                "catalog_mesh_health_check_duration_seconds",
                "Time that a health check took, from the connection to the head of the answer.",
            )?,
            lateness: histogram(
                "catalog_mesh_health_check_lateness_seconds",
                "How much later than planned a health check began.",
            )?,
            set_aside: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "catalog_mesh_health_answers_set_aside_total",
                        "Health checks of which no verdict was made, by why.",
                    ),
                    &["reason"],
                )?,
            )?,
            in_flight: gauge(
                "catalog_mesh_health_checks_in_flight",
                "Health checks that run.",
            )?,
            waiting: gauge(
                "catalog_mesh_health_checks_waiting",
                "Health checks that are due and wait for others to end.",
            )?,
            endpoints: gauge(
                "catalog_mesh_health_endpoints",
                "Endpoints that are checked.",
            )?,
            connections: gauge(
                "catalog_mesh_health_connections_kept",
                "Connections to endpoints that are kept open between two checks.",
            )?,
            held: registered(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "catalog_mesh_health_verdicts_held",
                        "1 while no verdict on an endpoint moves, since the checks themselves are in doubt, by why.",
                    ),
                    &["reason"],
                )?,
            )?,
        };
        for held in [Held::Late, Held::AllAtOnce] {
            metrics.held.with_label_values(&[held_label(held)]);
        }
        for why in [
            SetAside::Doubt,
            SetAside::Late,
            SetAside::Own,
            SetAside::Unwitnessed,
            SetAside::Unknown,
        ] {
            metrics.set_aside.with_label_values(&[set_aside_label(why)]);
        }
        Ok(metrics)
    }

    /// The counters of a service. An empty name makes a series without it,
    /// which all services share.
    pub fn service(&self, service: &str) -> ServiceChecks {
        ServiceChecks(self.total.of(service))
    }

    /// A service is checked no longer: its series end.
    pub fn forget(&self, service: &str) {
        self.total.forget(service);
    }

    /// A check began, so much later than planned.
    pub fn began(&self, late: f64) {
        self.lateness.observe(late);
    }

    /// A check ended, after this time.
    pub fn ended(&self, seconds: f64) {
        self.duration.observe(seconds);
    }

    /// No verdict was made of an answer.
    pub fn set_aside(&self, why: SetAside) {
        self.set_aside
            .with_label_values(&[set_aside_label(why)])
            .inc();
    }

    /// How many checks run, and how many are due and do not.
    pub fn load(&self, in_flight: usize, waiting: usize) {
        self.in_flight.set(gauged(in_flight));
        self.waiting.set(gauged(waiting));
    }

    /// How many endpoints are checked, and how many connections are kept.
    pub fn size(&self, endpoints: usize, connections: usize) {
        self.endpoints.set(gauged(endpoints));
        self.connections.set(gauged(connections));
    }

    /// Whether verdicts are held, and why.
    pub fn held(&self, held: Option<Held>) {
        for reason in [Held::Late, Held::AllAtOnce] {
            self.held
                .with_label_values(&[held_label(reason)])
                .set(i64::from(held == Some(reason)));
        }
    }
}

impl ServiceChecks {
    /// A check said something about an endpoint.
    pub fn checked(&self, good: bool) {
        self.0.count(good);
    }
}

fn gauged(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn held_label(held: Held) -> &'static str {
    match held {
        Held::Late => "late",
        Held::AllAtOnce => "all_at_once",
    }
}

fn set_aside_label(why: SetAside) -> &'static str {
    match why {
        SetAside::Doubt => "doubt",
        SetAside::Late => "late",
        SetAside::Own => "own",
        SetAside::Unwitnessed => "unwitnessed",
        SetAside::Unknown => "unknown",
    }
}
