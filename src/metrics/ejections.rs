//! What is counted of Pods that leave the mesh and come back.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::registered;

/// What was done to a Pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// It left the mesh.
    Ejected,
    /// It came back.
    Released,
}

/// Metrics of ejections. Cloning shares them.
#[derive(Clone)]
pub struct Ejections {
    total: IntCounterVec,
    out: IntGauge,
    floor_hits: IntCounter,
    floored: IntGauge,
    opened: IntGauge,
}

impl Ejections {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let ejections = Self {
            total: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "catalog_mesh_ejections_total",
                        "Pods that were taken out of the mesh, and that came back, by the operator.",
                    ),
                    &["action"],
                )?,
            )?,
            out: gauge(
                "catalog_mesh_ejected_pods",
                "Pods that are out of the mesh because of the operator.",
            )?,
            floor_hits: registered(
                registry,
                IntCounter::new(
                    "catalog_mesh_ejection_floor_hits_total",
                    "Unhealthy endpoints that had to stay, since too many were out already.",
                )?,
            )?,
            floored: gauge(
                "catalog_mesh_ejection_floored",
                "Bindings of which unhealthy endpoints have to stay now.",
            )?,
            opened: gauge(
                "catalog_mesh_ejection_opened",
                "Bindings of which no endpoint answers, so that all stay in the mesh.",
            )?,
        };
        for action in [Action::Ejected, Action::Released] {
            ejections.total.with_label_values(&[label(action)]);
        }
        Ok(ejections)
    }

    /// A Pod left, or came back.
    pub fn done(&self, action: Action) {
        self.total.with_label_values(&[label(action)]).inc();
    }

    /// So many endpoints more have to stay.
    pub fn floor_hit(&self, endpoints: u64) {
        self.floor_hits.inc_by(endpoints);
    }

    /// How many Pods are out, and for how many bindings endpoints have to stay:
    /// for want of room, and since none answers.
    pub fn now(&self, out: usize, floored: usize, opened: usize) {
        let set = |gauge: &IntGauge, n: usize| gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        set(&self.out, out);
        set(&self.floored, floored);
        set(&self.opened, opened);
    }
}

fn label(action: Action) -> &'static str {
    match action {
        Action::Ejected => "ejected",
        Action::Released => "released",
    }
}
