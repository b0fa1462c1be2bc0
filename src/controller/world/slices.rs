//! The EndpointSlices of the cluster, by the Service that they belong to.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::index::Inner;
use super::{World, known, until};
use crate::controller::mirror::{Change, Id, Seen, object};
use crate::controller::mirrors::{Mirrors, Told};
use crate::domain::inputs::ServiceView;
use crate::domain::names::ObjectKey;
use crate::domain::one_to_many::OneToMany;
use crate::domain::slice::SliceView;

/// All slices, and which belong to which Service.
#[derive(Debug, Default)]
pub(super) struct Slices {
    pub(super) mirror: Mirrors<Arc<SliceView>>,
    /// Service → names of its slices, which are in its namespace.
    by_service: OneToMany<ObjectKey, Box<str>>,
}

impl Slices {
    /// Takes an event; says which Services it concerns.
    fn take(&mut self, told: impl Into<Told<Seen<Arc<SliceView>>>>) -> BTreeSet<Id> {
        let mut concerned = BTreeSet::new();
        for change in self.mirror.take(told) {
            if change.before != change.after {
                self.index(&change, &mut concerned);
            }
        }
        concerned
    }

    fn index(&mut self, change: &Change<Arc<SliceView>>, concerned: &mut BTreeSet<Id>) {
        let (namespace, name) = &change.id;
        let service = |view: &Option<Arc<SliceView>>| {
            let view = view.as_ref().filter(|view| !view.service.is_empty())?;
            Some((namespace.clone(), view.service.to_string()))
        };
        if let Some(service) = service(&change.before) {
            self.by_service
                .remove(&object(&service), &name.as_str().into());
            concerned.insert(service);
        }
        if let Some(service) = service(&change.after) {
            let name = name.as_str().into();
            self.by_service.insert(object(&service), name);
            concerned.insert(service);
        }
    }

    /// The slices of a namespace that belong to a Service.
    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = &Arc<SliceView>> {
        let all = self.mirror.within(namespace);
        all.filter(|view| !view.service.is_empty())
    }

    pub(super) fn of(&self, service: &Id) -> Vec<Arc<SliceView>> {
        let names = self.by_service.of(&object(service)).iter();
        names
            .filter_map(|name| {
                self.mirror
                    .get(&(service.0.clone(), name.to_string()))
                    .cloned()
            })
            .collect()
    }
}

impl World {
    /// Takes an event about EndpointSlices; says which Services it concerns.
    pub fn slices(&self, told: impl Into<Told<Seen<Arc<SliceView>>>>) -> BTreeSet<Id> {
        let mut inner = self.write();
        let concerned = inner.slices.take(told);
        self.note_slices(&inner);
        concerned
    }

    pub(super) fn note_slices(&self, inner: &Inner) {
        if !*self.slices_listed.borrow() && inner.slices_listed() {
            known(&self.slices_listed);
        }
    }

    /// Waits until the EndpointSlices were listed once.
    pub async fn slices_listed(&self) {
        until(&self.slices_listed).await;
    }

    /// The Service, if it is there, and who serves behind it.
    pub fn served(&self, service: &Id) -> (Option<ServiceView>, Vec<Arc<SliceView>>) {
        let inner = self.read();
        (
            inner.services.get(service).cloned(),
            inner.slices.of(service),
        )
    }
}

#[cfg(test)]
mod tests {
    use kube_runtime::watcher::Event;

    use super::*;

    fn slice(name: &str, service: &str, version: u64) -> Seen<Arc<SliceView>> {
        Seen {
            id: ("shop".to_owned(), name.to_owned()),
            uid: name.into(),
            version,
            value: Arc::new(SliceView {
                service: service.into(),
                ..SliceView::default()
            }),
        }
    }

    fn services(names: &[&str]) -> BTreeSet<Id> {
        let id = |name: &&str| ("shop".to_owned(), (*name).to_owned());
        names.iter().map(id).collect()
    }

    #[test]
    fn a_slice_concerns_the_service_that_it_belongs_to_and_the_one_that_it_leaves() {
        let mut slices = Slices::default();
        let told = slices.take(Event::Apply(slice("a", "web", 1)));
        assert_eq!(told, services(&["web"]));
        let told = slices.take(Event::Apply(slice("a", "api", 2)));
        assert_eq!(told, services(&["api", "web"]));
        let told = slices.take(Event::Apply(slice("a", "api", 3)));
        assert_eq!(told, services(&[]), "nothing that we keep changed");
        assert_eq!(slices.of(&("shop".to_owned(), "api".to_owned())).len(), 1);
        assert!(slices.of(&("shop".to_owned(), "web".to_owned())).is_empty());
    }

    #[test]
    fn a_slice_that_a_later_list_lacks_concerns_its_service_and_leaves_nothing_behind() {
        let mut slices = Slices::default();
        slices.take(Event::Init);
        slices.take(Event::InitApply(slice("a", "web", 1)));
        assert_eq!(slices.take(Event::InitDone), services(&["web"]));
        slices.take(Event::Init);
        assert_eq!(slices.take(Event::InitDone), services(&["web"]));
        assert!(slices.by_service.is_empty() && slices.mirror.len() == 0);
    }

    #[test]
    fn a_slice_of_no_service_concerns_nobody() {
        let mut slices = Slices::default();
        assert_eq!(slices.take(Event::Apply(slice("a", "", 1))), services(&[]));
        assert!(slices.by_service.is_empty());
    }
}
