//! What is counted of verdicts on endpoints.

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

use super::registered;

/// What an endpoint became.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum To {
    /// It serves.
    Healthy,
    /// It does not.
    Unhealthy,
    /// It can no longer be judged.
    Unknown,
}

/// Metrics of verdicts. Cloning shares them.
#[derive(Clone)]
pub struct Verdicts {
    total: IntCounterVec,
    healthy: IntGauge,
    unhealthy: IntGauge,
}

impl Verdicts {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let verdicts = Self {
            total: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "catalog_mesh_health_transitions_total",
                        "Changes of what is held of an endpoint, by what it became.",
                    ),
                    &["to"],
                )?,
            )?,
            healthy: gauge(
                "catalog_mesh_healthy_endpoints",
                "Endpoints that are held to be healthy.",
            )?,
            unhealthy: gauge(
                "catalog_mesh_unhealthy_endpoints",
                "Endpoints that are held to be unhealthy.",
            )?,
        };
        for to in [To::Healthy, To::Unhealthy, To::Unknown] {
            verdicts.total.with_label_values(&[label(to)]);
        }
        Ok(verdicts)
    }

    /// An endpoint became this.
    pub fn moved(&self, to: To) {
        self.total.with_label_values(&[label(to)]).inc();
    }

    /// So many are healthy, and so many are not.
    pub fn now(&self, healthy: u32, unhealthy: u32) {
        self.healthy.set(i64::from(healthy));
        self.unhealthy.set(i64::from(unhealthy));
    }
}

fn label(to: To) -> &'static str {
    match to {
        To::Healthy => "healthy",
        To::Unhealthy => "unhealthy",
        To::Unknown => "unknown",
    }
}
