//! What is counted of the reports to the catalog.

use prometheus::{Gauge, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::registered;

/// What is reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReportKind {
    /// The endpoints of a service.
    Endpoints,
    /// The health of a service.
    Health,
}

/// What became of a report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The catalog took it.
    Accepted,
    /// The catalog knew a later one.
    Outdated,
    /// The catalog has no such service.
    NotFound,
    /// The catalog refused it.
    Invalid,
    /// There was no answer.
    Failed,
}

const OUTCOMES: [Outcome; 5] = [
    Outcome::Accepted,
    Outcome::Outdated,
    Outcome::NotFound,
    Outcome::Invalid,
    Outcome::Failed,
];

/// Metrics of the reports. Cloning shares them.
#[derive(Clone)]
pub struct Reports {
    total: IntCounterVec,
    pending: IntGaugeVec,
    oldest: Gauge,
    cut: IntGauge,
    rival: IntGauge,
}

impl Reports {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let reports = Self {
            total: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "catalog_mesh_reports_total",
                        "Services that the catalog was told of, by kind and what became of it.",
                    ),
                    &["kind", "outcome"],
                )?,
            )?,
            pending: registered(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "catalog_mesh_reports_pending",
                        "Services of which the catalog lacks the latest.",
                    ),
                    &["kind"],
                )?,
            )?,
            oldest: registered(
                registry,
                Gauge::new(
                    "catalog_mesh_reports_oldest_seconds",
                    "How long the catalog has lacked the latest of a service.",
                )?,
            )?,
            cut: gauge(
                "catalog_mesh_reports_cut",
                "Services with more endpoints than the catalog takes.",
            )?,
            rival: gauge(
                "catalog_mesh_duplicate_writer",
                "1 while nothing is reported, since another process reports as this cluster.",
            )?,
        };
        for kind in [ReportKind::Endpoints, ReportKind::Health] {
            reports.pending.with_label_values(&[kind_label(kind)]);
            for outcome in OUTCOMES {
                let labels = [kind_label(kind), outcome_label(outcome)];
                reports.total.with_label_values(&labels);
            }
        }
        Ok(reports)
    }

    /// A report was answered, or was not.
    pub fn answered(&self, kind: ReportKind, outcome: Outcome) {
        self.total
            .with_label_values(&[kind_label(kind), outcome_label(outcome)])
            .inc();
    }

    /// Of how many services the catalog lacks the latest, and for how long.
    pub fn lag(&self, endpoints: usize, health: usize, seconds: f64) {
        for (kind, services) in [
            (ReportKind::Endpoints, endpoints),
            (ReportKind::Health, health),
        ] {
            self.pending
                .with_label_values(&[kind_label(kind)])
                .set(i64::try_from(services).unwrap_or(i64::MAX));
        }
        self.oldest.set(seconds);
    }

    /// How many services have more endpoints than the catalog takes.
    pub fn cut(&self, services: usize) {
        self.cut.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    /// Whether another process reports as this cluster.
    pub fn rival(&self, there: bool) {
        self.rival.set(i64::from(there));
    }
}

fn kind_label(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Endpoints => "endpoints",
        ReportKind::Health => "health",
    }
}

fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Outdated => "outdated",
        Outcome::NotFound => "not_found",
        Outcome::Invalid => "invalid",
        Outcome::Failed => "failed",
    }
}
