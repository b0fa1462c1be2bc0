//! What the world comes to: how many there are of each, who waits for the
//! catalog, and what surrounds a Service.
//!
//! What is asked for with every scrape is kept with each change: to count ten
//! thousand bindings takes longer than all the rest of a scrape.

use std::collections::BTreeMap;

use super::World;
use super::kept::Kept;
use crate::controller::mirror::Id;
use crate::domain::desired::MeshKind;
use crate::domain::inputs::NamespaceView;
use crate::domain::names::{BindingKey, ServiceKey};
use crate::domain::reasons;
use crate::domain::registration::Surroundings;
use crate::domain::rule::Rule;

/// What the condition Ready says: its value, and its reason.
type Ready = (&'static str, &'static str);

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sums {
    by_ready: BTreeMap<Ready, usize>,
    /// Of each kind, those that are ours.
    rules: [usize; 2],
}

impl Sums {
    /// A binding changed, came, or went.
    pub(super) fn binding(&mut self, before: Option<&Kept>, after: Option<&Kept>) {
        let ready = |kept: &Kept| (kept.ready.0.as_str(), kept.ready.1);
        if let Some(after) = after.map(ready) {
            *self.by_ready.entry(after).or_default() += 1;
        }
        let Some(before) = before.map(ready) else {
            return;
        };
        if let Some(count) = self.by_ready.get_mut(&before) {
            *count -= 1;
            if *count == 0 {
                self.by_ready.remove(&before);
            }
        }
    }

    /// The same of a rule.
    pub(super) fn rule(&mut self, kind: MeshKind, before: Option<&Rule>, after: Option<&Rule>) {
        let ours = |rule: Option<&Rule>| usize::from(rule.is_some_and(|rule| rule.managed));
        let count = &mut self.rules[kind as usize];
        *count = *count + ours(after) - ours(before);
    }
}

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
        let inner = self.read();
        let Sums { by_ready, rules } = &inner.sums;
        let held = by_ready.iter();
        let held = held.filter(|((_, reason), _)| *reason == reasons::DELETION_HELD);
        Counts {
            bindings: inner.bindings.len(),
            virtual_services: rules[MeshKind::VirtualService as usize],
            destination_rules: rules[MeshKind::DestinationRule as usize],
            deletions_held: held.map(|(_, count)| count).sum(),
        }
    }

    /// The bindings whose service was denied, which is not believed yet.
    pub fn denied(&self) -> Vec<BindingKey> {
        let inner = self.read();
        let denied = inner.bindings.values().filter(|kept| kept.denied);
        denied.map(|kept| kept.rival.key.clone()).collect()
    }

    /// How many bindings there are by what their condition Ready says: its
    /// value, and its reason.
    pub fn by_ready(&self) -> BTreeMap<Ready, usize> {
        self.read().sums.by_ready.clone()
    }

    /// How many bindings are known.
    pub fn bindings_known(&self) -> usize {
        self.read().bindings.len()
    }

    /// What decides whether the Service gets a binding.
    pub fn around(&self, service: &ServiceKey) -> Surroundings {
        let inner = self.read();
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

#[cfg(test)]
mod tests {
    use super::super::fixtures::Scene;
    use super::super::index::Inner;
    use super::*;

    /// What is kept, counted one by one.
    fn counted(inner: &Inner) -> Sums {
        let mut sums = Sums::default();
        for binding in inner.bindings.values() {
            sums.binding(None, Some(binding));
        }
        for kind in [MeshKind::VirtualService, MeshKind::DestinationRule] {
            for rule in inner.rules(kind).values() {
                sums.rule(kind, None, Some(rule));
            }
        }
        sums
    }

    #[test]
    fn what_is_kept_is_what_counting_would_find() {
        let mut random = fastrand::Rng::with_seed(7);
        let scene = Scene::new();
        let mut seen = std::collections::BTreeSet::new();
        for version in 20..5_000 {
            scene.anything(&mut random, version);
            let inner = scene.0.read();
            assert_eq!(inner.sums, counted(&inner), "after {version}");
            seen.insert((inner.sums.by_ready.len(), inner.sums.rules[1]));
        }
        assert!(seen.len() > 6, "{seen:?}");
    }
}
