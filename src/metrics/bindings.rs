//! Metrics about what is made and removed because of the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::registered;

/// Whose binding it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Bound {
    /// A user's.
    ByUser,
    /// One that was made for an entry of the catalog.
    ForCatalog,
}

/// Metrics about what is made and removed because of the catalog. Cloning
/// shares them.
#[derive(Clone)]
pub struct BindingMetrics {
    deletions: IntCounterVec,
    deletions_held: IntGauge,
    unbound_records: IntGaugeVec,
    by_ready: IntGaugeVec,
    /// Which series there are, so that one that falls to nothing says so.
    by_ready_known: Arc<Mutex<BTreeSet<(&'static str, &'static str)>>>,
}

impl BindingMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| registered(r, IntGauge::new(name, help)?);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(r, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let metrics = Self {
            deletions: counters(
                "catalog_mesh_deletions_total",
                "Removals, by what went: the objects of a user's binding, or a binding that was made for the catalog.",
                &["binding"],
            )?,
            deletions_held: gauge(
                "catalog_mesh_deletions_held",
                "Bindings whose service is gone and whose removal the brake holds.",
            )?,
            unbound_records: registered(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "catalog_mesh_unbound_records",
                        "Records of the catalog that no binding can be made for, by why; the log names them.",
                    ),
                    &["reason"],
                )?,
            )?,
            by_ready: registered(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "catalog_mesh_servicebindings_ready",
                        "ServiceBindings by what their condition Ready says: its value (True, False, Unknown) and its reason.",
                    ),
                    &["status", "reason"],
                )?,
            )?,
            by_ready_known: Arc::default(),
        };
        metrics.by_ready.with_label_values(&["True", "Synced"]);
        for bound in [Bound::ByUser, Bound::ForCatalog] {
            metrics.deletions.with_label_values(&[bound_label(bound)]);
        }
        Ok(metrics)
    }

    /// What was made for a service is removed.
    pub fn removed(&self, bound: Bound) {
        self.deletions
            .with_label_values(&[bound_label(bound)])
            .inc();
    }

    /// How many removals the brake holds.
    pub fn deletions_held(&self, bindings: usize) {
        self.deletions_held
            .set(i64::try_from(bindings).unwrap_or(i64::MAX));
    }

    /// How many bindings there are by value and reason of Ready; of all others
    /// there are none.
    pub fn by_ready(&self, counts: &BTreeMap<(&'static str, &'static str), usize>) {
        let mut rest = self
            .by_ready_known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rest.extend(counts.keys().copied());
        for (status, reason) in rest.iter().copied() {
            let bindings = counts.get(&(status, reason)).copied().unwrap_or_default();
            self.by_ready
                .with_label_values(&[status, reason])
                .set(i64::try_from(bindings).unwrap_or(i64::MAX));
        }
    }

    /// How many records of the catalog no binding can be made for.
    pub fn unbound_records(&self, reason: &'static str, records: usize) {
        self.unbound_records
            .with_label_values(&[reason])
            .set(i64::try_from(records).unwrap_or(i64::MAX));
    }
}

fn bound_label(bound: Bound) -> &'static str {
    match bound {
        Bound::ByUser => "user",
        Bound::ForCatalog => "catalog",
    }
}
