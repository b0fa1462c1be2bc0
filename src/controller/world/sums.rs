//! What the world comes to: how many there are of each, who waits for the
//! catalog, and what surrounds a Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::World;
use crate::controller::mirror::Id;
use crate::controller::mirrors::Mirrors;
use crate::domain::inputs::NamespaceView;
use crate::domain::names::{BindingKey, ServiceKey};
use crate::domain::registration::Surroundings;
use crate::domain::rule::Rule;
use crate::domain::validate::key;
use crate::domain::{readiness, status};

/// How many objects there are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// ServiceBindings.
    pub bindings: usize,
    /// VirtualServices of ours.
    pub virtual_services: usize,
    /// DestinationRules of ours.
    pub destination_rules: usize,
    /// ServiceBindings whose removal the brake holds.
    pub deletions_held: usize,
}

impl World {
    /// How many objects there are.
    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        let ours = |rules: &Mirrors<Arc<Rule>>| rules.values().filter(|rule| rule.managed).count();
        Counts {
            bindings: inner.bindings.len(),
            virtual_services: ours(&inner.virtual_services),
            destination_rules: ours(&inner.destination_rules),
            deletions_held: inner
                .bindings
                .values()
                .filter(|binding| status::deletion_is_held(binding.status.as_ref()))
                .count(),
        }
    }

    /// The bindings whose service was denied, which is not believed yet.
    pub fn denied(&self) -> Vec<BindingKey> {
        let inner = self.lock();
        let denied = inner
            .bindings
            .values()
            .filter(|binding| status::is_denied(binding.status.as_ref()));
        denied.map(|binding| key(binding)).collect()
    }

    /// How many bindings there are by what their condition Ready says: its
    /// value, and its reason.
    pub fn by_ready(&self) -> BTreeMap<(&'static str, &'static str), usize> {
        let inner = self.lock();
        let mut counts = BTreeMap::new();
        for binding in inner.bindings.values() {
            let (truth, reason) = readiness::of(binding.status.as_ref());
            *counts.entry((truth.as_str(), reason)).or_insert(0) += 1;
        }
        counts
    }

    /// How many bindings are known.
    pub fn bindings_known(&self) -> usize {
        self.lock().bindings.len()
    }

    /// What decides whether the Service gets a binding.
    pub fn around(&self, service: &ServiceKey) -> Surroundings {
        let inner = self.lock();
        let id: Id = (service.namespace.to_string(), service.name.to_string());
        let paused = |namespace: &NamespaceView| namespace.paused;
        Surroundings {
            // Who binds it has to be known first.
            service: (inner.services.get(&id).cloned()).filter(|_| inner.binders_listed(&id.0)),
            namespace: inner.namespace(&id.0).cloned(),
            all_paused: inner.namespace(&self.own_namespace).is_some_and(paused),
            bindings: inner.bindings_of(&id),
            name_taken: inner.bindings.get(&id).is_some() || inner.unreadable.get(&id).is_some(),
        }
    }
}
