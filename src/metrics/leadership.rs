//! What the election of a leader comes to, in metrics.

use prometheus::{IntCounter, IntGauge, Opts, Registry};

use super::registered;

/// Name of the Lease, as controller-runtime labels it.
const LEASE: &str = "catalog-mesh-controller";

/// The metrics of the election.
#[derive(Clone)]
pub(super) struct Leadership {
    leads: IntGauge,
    epoch: IntGauge,
    transitions: IntGauge,
    failures: IntCounter,
}

impl Leadership {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        Ok(Self {
            leads: registered(
                registry,
                IntGauge::with_opts(
                    Opts::new(
                        "leader_election_master_status",
                        "Whether this replica leads: 1, or 0.",
                    )
                    .const_label("name", LEASE),
                )?,
            )?,
            epoch: gauge(
                "catalog_mesh_leadership_epoch",
                "Number of this replica's term of leadership; 0 where it does not lead.",
            )?,
            transitions: gauge(
                "catalog_mesh_lease_transitions",
                "How often the Lease has changed hands, as the leader knows it.",
            )?,
            failures: registered(
                registry,
                IntCounter::new(
                    "catalog_mesh_lease_renew_failures_total",
                    "Renewals of the Lease that failed, each of which is tried again.",
                )?,
            )?,
        })
    }
}

impl super::Metrics {
    /// This replica leads, in this term, or does not.
    pub fn leads(&self, epoch: Option<u64>) {
        self.leadership.leads.set(i64::from(epoch.is_some()));
        let epoch = i64::try_from(epoch.unwrap_or_default());
        self.leadership.epoch.set(epoch.unwrap_or(i64::MAX));
    }

    /// How often the Lease has changed hands.
    pub fn lease_transitions(&self, transitions: i32) {
        self.leadership.transitions.set(i64::from(transitions));
    }

    /// A renewal of the Lease failed.
    pub fn renewal_failed(&self) {
        self.leadership.failures.inc();
    }
}
