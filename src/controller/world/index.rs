//! The indexes behind the world: which objects are known, and which bindings a
//! change of one concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Concerned;
use super::kept::Kept;
use super::missing::Missing;
use super::pods::Pods;
use super::slices::Slices;
use super::sums::Sums;
use super::touched::Touched;
use crate::api::service_binding::ServiceBinding;
use crate::controller::mirror::{Change, Id, Mirror, id, object};
use crate::controller::mirrors::Mirrors;
use crate::domain::dense::Dense;
use crate::domain::desired::MeshKind;
use crate::domain::inputs::{NamespaceView, Rival, ServiceView};
use crate::domain::names::{BindingKey, ClusterDomain, ObjectKey};
use crate::domain::one_to_many::OneToMany;
use crate::domain::rule::{Rule, covers, expand};
use crate::domain::served::{Part, Served};
use crate::domain::uid::Uid;
use crate::domain::validate::key;

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) bindings: Mirrors<Kept>,
    /// Bindings that cannot be decoded.
    pub(super) unreadable: Mirrors<String>,
    pub(super) services: Mirrors<ServiceView>,
    pub(super) namespaces: Mirror<NamespaceView>,
    pub(super) slices: Slices,
    pub(super) pods: Pods,
    pub(super) virtual_services: Mirrors<Arc<Rule>>,
    pub(super) destination_rules: Mirrors<Arc<Rule>>,
    /// Service → bindings that name it.
    pub(super) by_service: OneToMany<ObjectKey, BindingKey>,
    /// ID in the catalog → bindings that name it.
    pub(super) by_catalog_id: OneToMany<Arc<str>, BindingKey>,
    /// Uid → the binding that has it.
    pub(super) by_uid: Dense<Uid, BindingKey>,
    /// Exact host → rules that claim it, most often one of each kind; and the rules with
    /// a wildcard.
    pub(super) by_host: OneToMany<Box<str>, (MeshKind, ObjectKey), 2>,
    pub(super) wildcards: BTreeSet<(MeshKind, ObjectKey)>,
    /// Why a kind of the mesh cannot be seen, by the part where it cannot.
    pub(super) missing: [BTreeMap<Part, Missing>; 2],
    /// Namespaces that could not be read since the start.
    pub(super) away: BTreeSet<String>,
    /// What is watched.
    pub(super) served: Served,
    /// Around which Services anything changed.
    pub(super) touched: Touched,
    pub(super) sums: Sums,
}

impl Inner {
    pub(super) fn rules_mut(&mut self, kind: MeshKind) -> &mut Mirrors<Arc<Rule>> {
        match kind {
            MeshKind::VirtualService => &mut self.virtual_services,
            MeshKind::DestinationRule => &mut self.destination_rules,
        }
    }

    pub(super) fn rules(&self, kind: MeshKind) -> &Mirrors<Arc<Rule>> {
        match kind {
            MeshKind::VirtualService => &self.virtual_services,
            MeshKind::DestinationRule => &self.destination_rules,
        }
    }

    pub(super) fn rule(&self, kind: MeshKind, id: &Id) -> Option<&Arc<Rule>> {
        self.rules(kind).get(id)
    }

    pub(super) fn rule_at(&self, kind: MeshKind, of: &ObjectKey) -> Option<&Arc<Rule>> {
        self.rule(kind, &id(of))
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&NamespaceView> {
        self.namespaces.get(&(String::new(), name.to_owned()))
    }

    /// Whether there is a binding of that uid, decodable or not.
    pub(super) fn lives(&self, uid: &Uid) -> bool {
        self.by_uid.contains_key(uid) || self.unreadable.has_uid(uid)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = BindingKey> {
        let bindings = self.bindings.values();
        bindings.map(|binding| binding.rival.key.clone())
    }

    pub(super) fn bound_to(&self, service: &Id) -> BTreeSet<BindingKey> {
        self.by_service
            .of(&object(service))
            .iter()
            .cloned()
            .collect()
    }

    pub(super) fn rivals(&self, binding: &ServiceBinding, service: &Id) -> Vec<Rival> {
        let me = key(binding);
        let others = self.by_service.of(&object(service)).iter();
        let others = others.filter(|other| **other != me);
        others
            .filter_map(|other| {
                let id = (other.namespace.clone(), other.name.clone());
                Some(self.bindings.get(&id)?.rival.clone())
            })
            .collect()
    }

    /// The bindings that name the Service, each with its record's ID.
    pub(super) fn bindings_of(&self, service: &Id) -> Vec<(Rival, String)> {
        let keys = self.by_service.of(&object(service)).iter();
        keys.filter_map(|key| {
            let id = (key.namespace.clone(), key.name.clone());
            let binding = self.bindings.get(&id)?;
            Some((binding.rival.clone(), binding.catalog_id.to_string()))
        })
        .collect()
    }

    /// Rules that bear the Service's name in its namespace, or claim its host.
    pub(super) fn rules_for(
        &self,
        service: &Id,
        host: &str,
        domain: &ClusterDomain,
    ) -> Vec<Arc<Rule>> {
        let named = [MeshKind::DestinationRule, MeshKind::VirtualService]
            .map(|kind| (kind, object(service)));
        let exact = self.by_host.of(host).iter().cloned();
        let wild = self.wildcards.iter().filter(|(kind, id)| {
            self.rule_at(*kind, id)
                .is_some_and(|rule| rule.claims(host, domain))
        });
        let ids: BTreeSet<_> = named
            .into_iter()
            .chain(exact)
            .chain(wild.cloned())
            .collect();
        ids.iter()
            .filter_map(|(kind, id)| self.rule_at(*kind, id).cloned())
            .collect()
    }

    pub(super) fn index_binding(&mut self, change: &Change<Kept>) {
        self.sums
            .binding(change.before.as_ref(), change.after.as_ref());
        for binding in change.before.iter().chain(&change.after) {
            self.touched.service(&id(&binding.service));
        }
        if let Some(before) = &change.before {
            let Rival { key, uid, .. } = &before.rival;
            self.by_service.remove(&before.service, key);
            self.by_catalog_id.remove(&before.catalog_id, key);
            self.by_uid.remove(uid);
        }
        if let Some(after) = &change.after {
            let Rival { key, uid, .. } = &after.rival;
            let of = after.catalog_id.clone();
            self.by_service.insert(after.service.clone(), key.clone());
            self.by_catalog_id.insert(of, key.clone());
            self.by_uid.insert(uid.clone(), key.clone());
        }
    }

    pub(super) fn concerned_by_binding(&self, change: &Change<Kept>, concerned: &mut Concerned) {
        let me = BindingKey::new(change.id.0.clone(), change.id.1.clone());
        if let Some(after) = &change.after
            && !change
                .before
                .as_ref()
                .is_some_and(|before| before.has_same_words(after))
        {
            concerned.edited.insert(me.clone());
        }
        let unchanged = matches!((&change.before, &change.after),
            (Some(before), Some(after)) if before.is_same_to_us(after));
        if !unchanged {
            concerned.services.insert(change.id.clone());
            let both = change.before.iter().chain(&change.after);
            concerned
                .services
                .extend(both.map(|binding| id(&binding.service)));
        }
        match (&change.before, &change.after) {
            (_, None) => {
                concerned.gone.insert(me.clone());
            }
            (_, Some(after)) if after.is_deleted() => {
                concerned.urgent.insert(me.clone());
            }
            (Some(_), Some(_)) if unchanged => return,
            (_, Some(_)) if change.listed => {
                concerned.listed.insert(me);
                return;
            }
            (_, Some(_)) => {
                concerned.now.insert(me.clone());
            }
        }
        // Whoever binds the same Service may win, or lose, by this change.
        for binding in change.before.iter().chain(&change.after) {
            concerned.now.extend(
                self.bound_to(&id(&binding.service))
                    .into_iter()
                    .filter(|other| *other != me),
            );
        }
    }

    pub(super) fn index_rule(
        &mut self,
        kind: MeshKind,
        change: &Change<Arc<Rule>>,
        domain: &ClusterDomain,
    ) {
        let entry = (kind, object(&change.id));
        self.touched.service(&change.id);
        self.sums
            .rule(kind, change.before.as_deref(), change.after.as_deref());
        let both = change.before.iter().chain(&change.after);
        for host in both.flat_map(|rule| hosts(rule, domain)) {
            if host.starts_with('*') {
                self.touched.everything();
            } else if let Some(service) = service_at(&host, domain) {
                self.touched.service(&service);
            }
        }
        for host in change.before.iter().flat_map(|rule| hosts(rule, domain)) {
            self.by_host.remove(host.as_str(), &entry);
        }
        self.wildcards.remove(&entry);
        for host in change.after.iter().flat_map(|rule| hosts(rule, domain)) {
            if host.starts_with('*') {
                self.wildcards.insert(entry.clone());
            } else {
                self.by_host.insert(host.into(), entry.clone());
            }
        }
    }

    pub(super) fn concerned_by_rule(
        &self,
        change: &Change<Arc<Rule>>,
        domain: &ClusterDomain,
        concerned: &mut BTreeSet<BindingKey>,
    ) {
        concerned.extend(self.bound_to(&change.id));
        for host in change
            .before
            .iter()
            .chain(&change.after)
            .flat_map(|rule| hosts(rule, domain))
        {
            if host.starts_with('*') {
                let covered = |service: &ObjectKey| {
                    covers(
                        &host,
                        &format!("{}.{}.svc.{domain}", service.name, service.namespace),
                    )
                };
                let bound = self
                    .by_service
                    .iter()
                    .filter(|(service, _)| covered(service));
                concerned.extend(bound.flat_map(|(_, keys)| keys).cloned());
            } else if let Some(service) = service_at(&host, domain) {
                concerned.extend(self.bound_to(&service));
            }
        }
    }
}

/// The Service of this host, if it is one of the cluster's.
fn service_at(host: &str, domain: &ClusterDomain) -> Option<Id> {
    let (name, rest) = host.split_once('.')?;
    let namespace = rest.strip_suffix(domain.as_str())?.strip_suffix(".svc.")?;
    Some((namespace.to_owned(), name.to_owned()))
}

fn hosts(rule: &Rule, domain: &ClusterDomain) -> Vec<String> {
    rule.hosts
        .iter()
        .map(|host| expand(host, &rule.id.namespace, domain))
        .collect()
}

/// Namespace and name of the Service that the binding names.
pub(super) fn service_of(binding: &ServiceBinding) -> Id {
    let own = binding.metadata.namespace.clone().unwrap_or_default();
    (
        binding.spec.namespace.clone().unwrap_or(own),
        binding.spec.service_name.clone(),
    )
}
