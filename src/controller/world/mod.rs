//! What the cluster holds, as far as bindings depend on it, with the indexes
//! that answer "which bindings does this change concern".

#[cfg(test)]
mod fixtures;
mod index;
mod kept;
mod kept_pod;
pub mod missing;
mod parts;
pub mod pods;
mod slices;
pub mod sums;
pub mod touched;
mod versions;
pub mod watched;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_runtime::watcher::Event;
use tokio::sync::watch;

use index::Inner;
use kept::Kept;
use missing::Missing;

use crate::api::service_binding::ServiceBinding;
use crate::controller::mirror::{Change, Id, Seen};
use crate::controller::mirrors::{Mirrors, Told};
use crate::domain::desired::MeshKind;
use crate::domain::inputs::{CatalogAnswer, Inputs, NamespaceView, ServiceView};
use crate::domain::names::{BindingKey, CatalogServiceId, ClusterDomain};
use crate::domain::rule::Rule;
use crate::domain::served::Served;
use crate::domain::target::Target;

/// Which bindings a change concerns, and whether it came with a list.
#[derive(Debug, Default, PartialEq)]
pub struct Concerned {
    /// Bindings to look at as soon as possible.
    pub now: BTreeSet<BindingKey>,
    /// Bindings that are being deleted.
    pub urgent: BTreeSet<BindingKey>,
    /// Bindings that merely came with a list.
    pub listed: BTreeSet<BindingKey>,
    /// Bindings that are gone.
    pub gone: BTreeSet<BindingKey>,
    /// Those of the others that their owners changed themselves.
    pub edited: BTreeSet<BindingKey>,
    /// Services around which something changed that decides whether they get a
    /// binding.
    pub services: BTreeSet<Id>,
    /// Namespaces that changed, or of whose Services it is known only now who
    /// binds them.
    pub namespaces: BTreeSet<String>,
    /// Whether the operator's own Namespace did.
    pub all: bool,
}

/// What the cluster holds.
#[derive(Debug)]
pub struct World {
    /// Looks only read, and do so beside each other.
    inner: RwLock<Inner>,
    cluster_domain: ClusterDomain,
    /// The operator's own namespace: paused, it pauses everything.
    own_namespace: String,
    complete: watch::Sender<bool>,
    slices_listed: watch::Sender<bool>,
    pods_listed: watch::Sender<bool>,
}

impl World {
    /// An empty world, of the whole cluster.
    pub fn new(cluster_domain: ClusterDomain, own_namespace: String) -> Self {
        Self::serving(cluster_domain, own_namespace, &Served::default())
    }

    /// An empty world of the namespaces that are served.
    pub fn serving(cluster_domain: ClusterDomain, own_namespace: String, served: &Served) -> Self {
        Self {
            inner: RwLock::new(Inner::of(served)),
            cluster_domain,
            own_namespace,
            complete: watch::channel(false).0,
            slices_listed: watch::channel(false).0,
            pods_listed: watch::channel(false).0,
        }
    }

    /// The operator's own namespace.
    pub(crate) fn own_namespace(&self) -> &str {
        &self.own_namespace
    }

    /// Waits until every kind that looks depend on was listed once, or is known
    /// to be missing. Who serves behind a Service is not one of these: what is
    /// not known of that keeps no binding from being synchronised.
    pub async fn complete(&self) {
        until(&self.complete).await;
    }

    /// Takes an event about bindings.
    pub fn bindings(&self, told: impl Into<Told<Seen<Arc<ServiceBinding>>>>) -> Concerned {
        let told = told.into().map(|seen| seen.map(Kept::of));
        let part = told.part.clone();
        let mut inner = self.write();
        let mut concerned = Concerned::default();
        let listed_before = inner.bindings.complete_in(&part);
        for change in inner.bindings.take(told) {
            inner.index_binding(&change);
            inner.concerned_by_binding(&change, &mut concerned);
        }
        if !listed_before && inner.bindings.complete_in(&part) {
            inner.concerned_by_first_list(&part, &mut concerned);
        }
        self.note_complete(&inner);
        concerned
    }

    /// Takes an event about bindings that cannot be decoded, with a word on
    /// each.
    pub fn unreadable(&self, told: impl Into<Told<Seen<String>>>) {
        let mut inner = self.write();
        if !inner.unreadable.take(told).is_empty() {
            // Which Service such a one names is not known.
            inner.touched.everything();
        }
    }

    /// The bindings that cannot be decoded, with a word on each.
    pub fn all_unreadable(&self) -> Vec<Seen<String>> {
        self.read().unreadable.all().collect()
    }

    /// What is known of the binding from when it could be decoded last, under
    /// the metadata that it has now. Its generation stays the one that was
    /// understood, so that its status does not claim more.
    pub fn last_readable(&self, metadata: &ObjectMeta) -> Option<ServiceBinding> {
        let id = (metadata.namespace.clone()?, metadata.name.clone()?);
        let last = self.read().bindings.get(&id)?.clone();
        let last = last.whole()?;
        (last.metadata.uid == metadata.uid).then(|| ServiceBinding {
            metadata: ObjectMeta {
                generation: last.metadata.generation,
                ..metadata.clone()
            },
            ..ServiceBinding::clone(&last)
        })
    }

    /// Takes an event about Services.
    pub fn services(&self, told: impl Into<Told<Seen<ServiceView>>>) -> Concerned {
        let mut inner = self.write();
        let mut concerned = Concerned::default();
        for change in inner.services.take(told) {
            inner.touched.service(&change.id);
            if change.before != change.after {
                concerned.now.extend(inner.bound_to(&change.id));
                concerned.services.insert(change.id);
            }
        }
        self.note_complete(&inner);
        concerned
    }

    /// Takes an event about Namespaces.
    pub fn namespaces(&self, event: Event<Seen<NamespaceView>>) -> Concerned {
        let mut inner = self.write();
        let mut concerned = Concerned::default();
        for change in inner.namespaces.take(event) {
            inner.away.remove(&change.id.1);
            inner.touched.everything();
            if change.before == change.after {
                continue;
            }
            let name = &change.id.1;
            let all = *name == self.own_namespace;
            concerned.namespaces.insert(name.clone());
            concerned.all |= all;
            let concerns = |binding: &&Kept| {
                let of = [&binding.rival.key.namespace, &binding.service.namespace];
                all || of.contains(&name)
            };
            let bindings = inner.bindings.values().filter(concerns);
            let keys = bindings.map(|binding| binding.rival.key.clone());
            concerned.now.extend(keys);
        }
        self.note_complete(&inner);
        concerned
    }

    /// Takes an event about VirtualServices or DestinationRules.
    pub fn rules(&self, kind: MeshKind, told: impl Into<Told<Seen<Arc<Rule>>>>) -> Concerned {
        let told = told.into();
        let mut inner = self.write();
        let mut concerned = Concerned::default();
        // A list that merely begins may fail again.
        if !matches!(told.event, Event::Init | Event::InitApply(_))
            && inner.missing[kind as usize].remove(&told.part).is_some()
        {
            let all = inner.keys();
            concerned.listed.extend(all);
        }
        for change in inner.rules_mut(kind).take(told) {
            inner.index_rule(kind, &change, &self.cluster_domain);
            let same =
                matches!((&change.before, &change.after), (Some(b), Some(a)) if b.says_the_same(a));
            if !same {
                inner.concerned_by_rule(&change, &self.cluster_domain, &mut concerned.now);
            }
        }
        self.note_complete(&inner);
        concerned
    }

    /// The rule as it is known.
    pub fn rule(&self, kind: MeshKind, namespace: &str, name: &str) -> Option<Arc<Rule>> {
        let id = (namespace.to_owned(), name.to_owned());
        self.read().rule(kind, &id).cloned()
    }

    /// The API server does not serve this kind, or does not let us see it in
    /// this part. That concerns every binding when it is news.
    pub fn rules_missing(&self, kind: MeshKind, part: &str, why: Missing) -> Concerned {
        let mut inner = self.write();
        let mut concerned = Concerned::default();
        let before = inner.missing[kind as usize].insert(part.to_owned(), why);
        inner.touched.everything();
        if before.is_none() {
            let all = inner.keys();
            concerned.listed.extend(all);
        }
        self.note_complete(&inner);
        concerned
    }

    /// Takes the server's answer to a write of ours.
    pub fn wrote_binding(&self, seen: Seen<Arc<ServiceBinding>>) {
        self.answered_binding(seen, Mirrors::wrote);
    }

    /// The same where the binding ends with that write.
    pub fn ended_binding(&self, seen: Seen<Arc<ServiceBinding>>) {
        self.answered_binding(seen, Mirrors::ends);
    }

    fn answered_binding(
        &self,
        seen: Seen<Arc<ServiceBinding>>,
        take: impl FnOnce(&mut Mirrors<Kept>, Seen<Kept>),
    ) {
        let seen = seen.map(Kept::of);
        let mut inner = self.write();
        let id = seen.id.clone();
        let before = inner.bindings.get(&id).cloned();
        take(&mut inner.bindings, seen);
        let after = inner.bindings.get(&id).cloned();
        // The answer may show an edit that the watch has yet to tell.
        inner.index_binding(&Change {
            id,
            before,
            after,
            listed: false,
        });
    }

    /// Takes the server's answer to a write of ours.
    pub fn wrote_rule(&self, kind: MeshKind, seen: Seen<Arc<Rule>>) {
        let mut inner = self.write();
        let id = seen.id.clone();
        let before = inner.rules_mut(kind).get(&id).cloned();
        inner.rules_mut(kind).wrote(seen);
        let after = inner.rules_mut(kind).get(&id).cloned();
        inner.index_rule(
            kind,
            &Change {
                id,
                before,
                after,
                listed: false,
            },
            &self.cluster_domain,
        );
    }

    /// The binding as it is known.
    pub fn binding(&self, key: &BindingKey) -> Option<Arc<ServiceBinding>> {
        let kept = self
            .read()
            .bindings
            .get(&(key.namespace.clone(), key.name.clone()))
            .cloned()?;
        kept.whole()
    }

    /// The bindings that name this service of the catalog.
    pub fn naming(&self, id: &CatalogServiceId) -> BTreeSet<BindingKey> {
        let inner = self.read();
        let keys = inner.by_catalog_id.of(id.as_str()).iter();
        keys.cloned().collect()
    }

    /// Whether everything is paused.
    pub fn is_paused(&self) -> bool {
        let inner = self.read();
        let own = inner.namespace(&self.own_namespace);
        own.is_some_and(|namespace| namespace.paused)
    }

    /// Every binding there is.
    pub fn keys(&self) -> Vec<BindingKey> {
        let inner = self.read();
        inner.keys().collect()
    }

    /// What is known about a binding, but for the catalog's answer.
    pub fn inputs(&self, binding: Arc<ServiceBinding>, target: &Target) -> Inputs {
        let inner = self.read();
        let own = binding.metadata.namespace.clone().unwrap_or_default();
        let service: Id = (
            target.service.namespace.to_string(),
            target.service.name.to_string(),
        );
        let host = target.service.host(&self.cluster_domain);
        let rules = inner.rules_for(&service, &host, &self.cluster_domain);
        // Who may exist must not be taken for gone: he may be a binding that was
        // never listed.
        let all_listed = inner.binders_listed(&service.0);
        let paused = |name: &str| inner.namespace(name).is_some_and(|n| n.paused);
        let paused_by = [
            own.as_str(),
            service.0.as_str(),
            self.own_namespace.as_str(),
        ]
        .into_iter()
        .find(|name| paused(name));
        Inputs {
            catalog: CatalogAnswer::NotAsked,
            service: inner.services.get(&service).cloned(),
            target: inner.namespace(&service.0).cloned().unwrap_or_default(),
            paused_by: paused_by.map(str::to_owned),
            rivals: inner.rivals(&binding, &service),
            living: rules
                .iter()
                .filter_map(|r| r.binding_uid.clone())
                .filter(|uid| !all_listed || inner.lives(uid))
                .collect(),
            mesh_api_missing: inner.missing_in(&service.0).map(str::to_owned),
            rules,
            binding,
        }
    }

    fn note_complete(&self, inner: &Inner) {
        if !*self.complete.borrow() && inner.is_complete(&self.own_namespace) {
            known(&self.complete);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing in here is left half-done by a panic, so a poisoned lock is used on.
    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From now on that is so.
fn known(so: &watch::Sender<bool>) {
    so.send_if_modified(|known| !std::mem::replace(known, true));
}

/// Waits until that is so.
async fn until(so: &watch::Sender<bool>) {
    // The sender lives as long as the world, so waiting cannot fail.
    let _ = so.subscribe().wait_for(|so| *so).await;
}

#[cfg(test)]
mod tests;
