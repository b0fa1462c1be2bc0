//! One kind of objects as several watches tell of it: a mirror for each part of
//! the cluster that is watched by itself. No IO.
//!
//! A list of one namespace says nothing about the objects of another, and
//! neither does how far its watch has come.

use std::collections::BTreeMap;

use kube_runtime::watcher::Event;

use super::mirror::{Change, Id, Mirror, Seen};
use crate::domain::served::{Part, Served, WHOLE};
use crate::domain::uid::Uid;

/// An event, and which watch told of it.
#[derive(Debug)]
pub struct Told<V> {
    /// What the watch is of.
    pub(crate) part: Part,
    /// What it told.
    pub(crate) event: Event<V>,
}

impl<V> Told<V> {
    /// The same of other values.
    pub(crate) fn map<U>(self, to: impl FnOnce(V) -> U) -> Told<U> {
        let event = match self.event {
            Event::Init => Event::Init,
            Event::InitApply(of) => Event::InitApply(to(of)),
            Event::InitDone => Event::InitDone,
            Event::Apply(of) => Event::Apply(to(of)),
            Event::Delete(of) => Event::Delete(to(of)),
        };
        Told {
            part: self.part,
            event,
        }
    }

    /// The watch of this part told so.
    pub(crate) fn of(part: &str, event: Event<V>) -> Self {
        Self {
            part: part.to_owned(),
            event,
        }
    }
}

impl<V> From<Event<V>> for Told<V> {
    /// The one watch of the whole cluster told so.
    fn from(event: Event<V>) -> Self {
        Self::of(WHOLE, event)
    }
}

/// What the API server holds of one kind.
#[derive(Debug)]
pub struct Mirrors<V>(BTreeMap<Part, Mirror<V>>);

impl<V> Default for Mirrors<V> {
    fn default() -> Self {
        Self::of(&Served::default())
    }
}

impl<V> Mirrors<V> {
    /// One for each part that is served.
    pub(crate) fn of(served: &Served) -> Self {
        let parts = served.parts().into_iter();
        Self(parts.map(|part| (part, Mirror::default())).collect())
    }

    /// The one that objects of this namespace are in.
    fn part(&self, namespace: &str) -> Option<&Mirror<V>> {
        // Asked for each object that a look reads: in nearly every cluster there is but
        // this one.
        match self.0.first_key_value() {
            Some((part, whole)) if part == WHOLE => Some(whole),
            _ => self.0.get(namespace),
        }
    }
}

impl<V: Clone + PartialEq> Mirrors<V> {
    /// Takes an event of a watch.
    pub(crate) fn take(&mut self, told: impl Into<Told<Seen<V>>>) -> Vec<Change<V>> {
        let mut changes = Vec::new();
        self.each(told, |change| changes.push(change));
        changes
    }

    /// The same one change after the other.
    pub(crate) fn each(&mut self, told: impl Into<Told<Seen<V>>>, sink: impl FnMut(Change<V>)) {
        let told = told.into();
        if let Some(mirror) = self.0.get_mut(&told.part) {
            mirror.each(told.event, sink);
        }
    }

    /// Takes the server's answer to a write of ours.
    pub(crate) fn wrote(&mut self, seen: Seen<V>) {
        if let Some(mirror) = self.part_of(&seen) {
            mirror.wrote(seen);
        }
    }

    /// Takes the answer to a write of ours with which the object ends.
    pub(crate) fn ends(&mut self, seen: Seen<V>) {
        if let Some(mirror) = self.part_of(&seen) {
            mirror.ends(seen);
        }
    }

    /// The mirror that the object belongs in, if it is watched.
    fn part_of(&mut self, seen: &Seen<V>) -> Option<&mut Mirror<V>> {
        let part = if self.0.contains_key(&seen.id.0) {
            seen.id.0.as_str()
        } else {
            WHOLE
        };
        self.0.get_mut(part)
    }

    /// What is known of the object.
    pub(crate) fn get(&self, id: &Id) -> Option<&V> {
        self.part(&id.0)?.get(id)
    }

    /// Its version; nothing where there is no such object.
    pub(crate) fn version(&self, id: &Id) -> Option<u64> {
        self.part(&id.0)?.version(id)
    }

    /// The object with uid and version.
    pub(crate) fn seen(&self, id: &Id) -> Option<Seen<V>> {
        self.part(&id.0)?.seen(id)
    }

    /// All objects of a namespace, in no order.
    pub(crate) fn within(&self, namespace: &str) -> impl Iterator<Item = &V> {
        let mirror = self.part(namespace).into_iter();
        mirror.flat_map(move |mirror| mirror.within(namespace))
    }

    /// Whether there is an object of that uid.
    pub(crate) fn has_uid(&self, uid: &Uid) -> bool {
        self.0.values().any(|mirror| mirror.has_uid(uid))
    }

    /// All objects.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flat_map(Mirror::values)
    }

    /// All objects with uid and version, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = Seen<V>> {
        self.0.values().flat_map(Mirror::all)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Mirror::len).sum()
    }

    /// Whether one list was complete of what the namespace is in.
    pub(crate) fn complete_in(&self, namespace: &str) -> bool {
        self.part(namespace).is_some_and(Mirror::complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::Namespace;

    fn seen(namespace: &str, name: &str, version: u64) -> Seen<u64> {
        Seen {
            id: (namespace.to_owned(), name.to_owned()),
            uid: format!("uid-of-{name}").into(),
            version,
            value: version,
        }
    }

    fn mirrors() -> Mirrors<u64> {
        let names = ["shop", "billing"].map(|name| Namespace::parse(name).unwrap());
        Mirrors::of(&Served::only(&names))
    }

    fn list(mirrors: &mut Mirrors<u64>, part: &str, objects: Vec<Seen<u64>>) -> Vec<Change<u64>> {
        mirrors.take(Told::of(part, Event::Init));
        for object in objects {
            mirrors.take(Told::of(part, Event::InitApply(object)));
        }
        mirrors.take(Told::of(part, Event::InitDone))
    }

    #[test]
    fn a_list_of_one_namespace_takes_nothing_of_another_away() {
        let mut mirrors = mirrors();
        list(&mut mirrors, "shop", vec![seen("shop", "web", 1)]);
        assert!(mirrors.complete_in("shop") && !mirrors.complete_in("billing"));
        list(&mut mirrors, "billing", vec![seen("billing", "db", 2)]);
        assert!(mirrors.complete_in("billing"));
        assert_eq!(mirrors.len(), 2);
        let gone = list(&mut mirrors, "billing", vec![]);
        assert_eq!(gone.len(), 1);
        assert_eq!(gone[0].id.0, "billing");
        assert_eq!(mirrors.within("shop").count(), 1);
        assert_eq!(mirrors.len(), 1);
    }

    #[test]
    fn an_answer_counts_until_the_watch_of_its_own_namespace_has_caught_up() {
        let mut mirrors = mirrors();
        list(&mut mirrors, "shop", vec![]);
        list(&mut mirrors, "billing", vec![]);
        let later = Event::Apply(seen("billing", "db", 9));
        mirrors.take(Told::of("billing", later));
        mirrors.wrote(seen("shop", "web", 5));
        let id = ("shop".to_owned(), "web".to_owned());
        assert_eq!(mirrors.get(&id), Some(&5));
        assert_eq!(mirrors.within("shop").count(), 1);
    }

    #[test]
    fn of_what_is_not_served_nothing_is_known() {
        let mut mirrors = mirrors();
        mirrors.wrote(seen("other", "web", 5));
        mirrors.take(Told::of("other", Event::Apply(seen("other", "web", 5))));
        mirrors.take(Event::Apply(seen("other", "web", 5)));
        assert_eq!(mirrors.len(), 0);
        assert!(!mirrors.complete_in("other"));
    }

    #[test]
    fn one_watch_of_the_whole_cluster_tells_of_every_namespace() {
        let mut mirrors = Mirrors::default();
        mirrors.take(Event::Init);
        mirrors.take(Event::InitApply(seen("shop", "web", 1)));
        mirrors.take(Event::InitDone);
        mirrors.wrote(seen("billing", "db", 2));
        assert_eq!(mirrors.len(), 2);
        assert!(mirrors.complete_in("anything"));
    }
}
