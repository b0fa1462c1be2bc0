//! The health monitor: has the endpoints of bound Services checked, and says
//! what follows. Fed by what changes around bindings, Services and Pods and in
//! the catalog; gives the prober its targets, the ejector what it decides by,
//! each binding what its status says, and whoever is to be woken up the alerts.
//!
//! Runs on every replica, so that who leads next knows all verdicts already; what
//! it leads to is written by whoever leads.

mod alerts;
mod announce;
mod entry;
mod fleet;
mod look;
pub mod run;
mod standing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::mirror::Id;
use super::world::Concerned;
use crate::alert::Alerts;
use crate::api::service_binding::EndpointTransition;
use crate::domain::health::summary::Shown;
use crate::domain::names::BindingKey;
use crate::domain::record::ServiceRecord;
use crate::health::prober::Prober;
use crate::health::view::HealthView;

/// What is to be looked at again, and what is shown. Never blocks.
pub struct Monitor {
    prober: Prober,
    view: HealthView,
    alerts: Alerts,
    marks: Mutex<Marks>,
    moved: Notify,
    shown: Mutex<BTreeMap<BindingKey, Showing>>,
}

/// What is shown of the health, and of the changes that led to it.
type Showing = (Shown, Vec<EndpointTransition>);

/// What changed since it was looked at last.
#[derive(Debug, Default)]
struct Marks {
    /// Bindings around which something changed.
    bindings: BTreeSet<BindingKey>,
    /// Services of which other endpoints may be checked.
    services: BTreeSet<Id>,
    /// Bindings of which other Pods are out of the mesh.
    ejections: BTreeSet<BindingKey>,
    /// Records that only looks have seen, since nobody follows the catalog.
    records: BTreeMap<BindingKey, Arc<ServiceRecord>>,
}

impl Monitor {
    /// One by this prober, that gives these alerts.
    pub fn new(prober: Prober, view: HealthView, alerts: Alerts) -> Self {
        Self {
            prober,
            view,
            alerts,
            marks: Mutex::default(),
            moved: Notify::new(),
            shown: Mutex::default(),
        }
    }

    /// What is known of the binding's health; nothing where it is not known yet.
    pub fn shown(&self, key: &BindingKey) -> Option<Shown> {
        self.showing().get(key).map(|(shown, _)| shown.clone())
    }

    /// The last changes of its endpoints.
    pub fn transitions(&self, key: &BindingKey) -> Vec<EndpointTransition> {
        let showing = self.showing();
        showing.get(key).map_or_else(Vec::new, |(_, t)| t.clone())
    }

    /// Something changed around bindings, or the Services that they name.
    pub(super) fn concerned(&self, concerned: &Concerned) {
        let Concerned {
            now,
            urgent,
            listed,
            gone,
            services,
            ..
        } = concerned;
        self.mark(|marks| {
            for keys in [now, urgent, listed, gone] {
                marks.bindings.extend(keys.iter().cloned());
            }
            marks.services.extend(services.iter().cloned());
        });
    }

    /// The catalog's record of these bindings changed.
    pub(super) fn records_changed(&self, keys: impl IntoIterator<Item = BindingKey>) {
        self.mark(|marks| marks.bindings.extend(keys));
    }

    /// A look read this record while nobody followed the catalog.
    pub(super) fn recorded(&self, key: &BindingKey, record: &Arc<ServiceRecord>) {
        self.mark(|marks| {
            marks.records.insert(key.clone(), Arc::clone(record));
            marks.bindings.insert(key.clone());
        });
    }

    /// Who serves behind these Services changed.
    pub(super) fn served(&self, services: &BTreeSet<Id>) {
        if !services.is_empty() {
            self.mark(|marks| marks.services.extend(services.iter().cloned()));
        }
    }

    /// Other Pods are out of the mesh for these bindings.
    pub(super) fn ejected(&self, keys: BTreeSet<BindingKey>) {
        if !keys.is_empty() {
            self.mark(|marks| marks.ejections.extend(keys));
        }
    }

    fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        mark(&mut self.marks());
        self.moved.notify_one();
    }

    /// Nothing in here is left half-done by a panic, so a poisoned lock is used
    /// on.
    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn showing(&self) -> MutexGuard<'_, BTreeMap<BindingKey, Showing>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, key: &BindingKey, showing: Option<Showing>) {
        let mut all = self.showing();
        match showing {
            Some(showing) => all.insert(key.clone(), showing),
            None => all.remove(key),
        };
    }
}
