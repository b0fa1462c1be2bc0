//! What the API server holds of one kind, kept by a watch and by our own
//! writes, and what changed with each event.
//!
//! A watch tells late and a list tells nothing of what is gone: so each list
//! is compared with what was known, and an answer to a write of ours counts
//! until the watch has caught up with it.

mod by_name;

use std::collections::{BTreeMap, BTreeSet};

use kube_runtime::watcher::Event;

use by_name::ByName;

use crate::domain::names::ObjectKey;
use crate::domain::uid::Uid;

/// Namespace and name.
pub(crate) type Id = (String, String);

/// The same, where it is kept.
pub(crate) fn object((namespace, name): &Id) -> ObjectKey {
    ObjectKey::new(namespace, name)
}

/// The name that the key stands for.
pub(crate) fn id(of: &ObjectKey) -> Id {
    (of.namespace.clone(), of.name.clone())
}

/// An object as it was seen last.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen<V> {
    /// Namespace and name.
    pub id: Id,
    /// Uid.
    pub uid: Uid,
    /// Resource version as a number; 0 where it is none.
    pub version: u64,
    /// What is remembered of it.
    pub value: V,
}

impl<V> Seen<V> {
    /// The same, of which something else is remembered.
    pub(crate) fn map<U>(self, to: impl FnOnce(V) -> U) -> Seen<U> {
        Seen {
            id: self.id,
            uid: self.uid,
            version: self.version,
            value: to(self.value),
        }
    }
}

/// The same without its name, which is the key that it is kept under.
#[derive(Debug)]
struct Kept<V> {
    uid: Uid,
    version: u64,
    value: V,
}

impl<V> Kept<V> {
    fn of(seen: Seen<V>) -> (Id, Self) {
        let kept = Self {
            uid: seen.uid,
            version: seen.version,
            value: seen.value,
        };
        (seen.id, kept)
    }

    fn seen(&self, id: Id) -> Seen<V>
    where
        V: Clone,
    {
        Seen {
            id,
            uid: self.uid.clone(),
            version: self.version,
            value: self.value.clone(),
        }
    }
}

/// One object before and after an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<V> {
    /// Namespace and name.
    pub id: Id,
    /// What was known of it.
    pub before: Option<V>,
    /// What is known now.
    pub after: Option<V>,
    /// Whether it came with a list rather than by itself.
    pub listed: bool,
}

/// What the API server holds of one kind.
#[derive(Debug)]
pub struct Mirror<V> {
    live: ByName<Kept<V>>,
    listing: Option<BTreeMap<Id, Kept<V>>>,
    /// Objects that we wrote while a list was under way.
    written: BTreeSet<Id>,
    /// The watch has told of everything up to this version.
    told: u64,
    complete: bool,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self {
            live: ByName::default(),
            listing: None,
            written: BTreeSet::new(),
            told: 0,
            complete: false,
        }
    }
}

impl<V: Clone + PartialEq> Mirror<V> {
    /// Takes an event of the watch.
    pub fn take(&mut self, event: Event<Seen<V>>) -> Vec<Change<V>> {
        let mut changes = Vec::new();
        self.each(event, |change| changes.push(change));
        changes
    }

    /// The same one change after the other: all that a first list brings are
    /// as many as there are objects.
    pub fn each(&mut self, event: Event<Seen<V>>, mut sink: impl FnMut(Change<V>)) {
        match event {
            Event::Init => {
                self.listing = Some(BTreeMap::new());
                self.written.clear();
            }
            Event::InitApply(seen) => {
                if let Some(listing) = &mut self.listing {
                    let (id, kept) = Kept::of(seen);
                    listing.insert(id, kept);
                }
            }
            Event::InitDone => self.finish_list(sink),
            Event::Apply(seen) => {
                self.told = self.told.max(seen.version);
                let (id, kept) = Kept::of(seen);
                self.put(id, kept, false).into_iter().for_each(&mut sink);
            }
            Event::Delete(seen) => {
                self.told = self.told.max(seen.version);
                self.remove(&seen).into_iter().for_each(&mut sink);
            }
        }
    }

    /// Takes the server's answer to a write of ours, unless the watch was
    /// faster: what it told since, a deletion for one, is newer.
    pub fn wrote(&mut self, seen: Seen<V>) {
        if seen.version != 0 && seen.version <= self.told {
            return;
        }
        if self.listing.is_some() {
            self.written.insert(seen.id.clone());
        }
        let (id, kept) = Kept::of(seen);
        self.put(id, kept, false);
    }

    /// Takes the server's answer to a write of ours with which the object ends,
    /// as when its last finalizer goes: it bears the version of before, which
    /// the watch may have told long ago.
    pub fn ends(&mut self, seen: Seen<V>) {
        if let Some(known) = self.live.get_mut(&seen.id)
            && known.uid == seen.uid
            && known.version <= seen.version
        {
            known.version = seen.version;
            known.value = seen.value;
        }
    }

    /// What is known of the object.
    pub fn get(&self, id: &Id) -> Option<&V> {
        self.live.get(id).map(|seen| &seen.value)
    }

    /// Its version; nothing where there is no such object.
    pub fn version(&self, id: &Id) -> Option<u64> {
        self.live.get(id).map(|kept| kept.version)
    }

    /// The object with uid and version.
    pub fn seen(&self, id: &Id) -> Option<Seen<V>> {
        self.live.get(id).map(|kept| kept.seen(id.clone()))
    }

    /// All objects with uid and version, in no order.
    pub fn all(&self) -> impl Iterator<Item = Seen<V>> {
        self.live.iter().map(|(id, kept)| kept.seen(id))
    }

    /// All objects of a namespace, in no order.
    pub fn within(&self, namespace: &str) -> impl Iterator<Item = &V> {
        self.live.within(namespace).map(|kept| &kept.value)
    }

    /// Whether there is an object of that uid.
    pub fn has_uid(&self, uid: &Uid) -> bool {
        self.live.values().any(|seen| seen.uid == *uid)
    }

    /// All objects, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.live.values().map(|seen| &seen.value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one list was complete.
    pub fn complete(&self) -> bool {
        self.complete
    }

    fn finish_list(&mut self, mut sink: impl FnMut(Change<V>)) {
        let Some(listing) = self.listing.take() else {
            return;
        };
        // The list is of this version or a later one: what it lacks of what
        // we wrote before is gone all the same.
        let newest = listing.values().map(|seen| seen.version).max();
        let newest = newest.unwrap_or_default();
        self.told = self.told.max(newest);
        let written = std::mem::take(&mut self.written);
        let gone: BTreeSet<_> = self
            .live
            .iter()
            .filter(|(id, _)| !listing.contains_key(id))
            .filter(|(id, kept)| !written.contains(id) || kept.version < newest)
            .map(|(id, _)| id)
            .collect();
        self.complete = true;
        for id in gone {
            if let Some(before) = self.live.remove(&id) {
                sink(Change {
                    id,
                    before: Some(before.value),
                    after: None,
                    listed: true,
                });
            }
        }
        for (id, kept) in listing {
            self.put(id, kept, true).into_iter().for_each(&mut sink);
        }
    }

    fn put(&mut self, id: Id, kept: Kept<V>, listed: bool) -> Option<Change<V>> {
        let known = self.live.get(&id);
        if known.is_some_and(|known| known.version >= kept.version && known.version != 0) {
            return None;
        }
        let after = kept.value.clone();
        let before = self.live.insert(&id, kept).map(|kept| kept.value);
        Some(Change {
            id,
            before,
            after: Some(after),
            listed,
        })
    }

    fn remove(&mut self, gone: &Seen<V>) -> Option<Change<V>> {
        let known = self.live.get(&gone.id)?;
        if known.uid != gone.uid && known.version > gone.version {
            return None;
        }
        let before = self.live.remove(&gone.id)?.value;
        Some(Change {
            id: gone.id.clone(),
            before: Some(before),
            after: None,
            listed: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, uid: &str, version: u64) -> Seen<u64> {
        Seen {
            id: ("ns".into(), name.into()),
            uid: uid.into(),
            version,
            value: version,
        }
    }

    fn listed(mirror: &mut Mirror<u64>, objects: Vec<Seen<u64>>) -> Vec<Change<u64>> {
        mirror.take(Event::Init);
        for object in objects {
            mirror.take(Event::InitApply(object));
        }
        mirror.take(Event::InitDone)
    }

    // trap 13
    #[test]
    fn an_object_that_a_later_list_lacks_is_a_deletion() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, vec![seen("a", "1", 1), seen("b", "2", 2)]);
        let changes = listed(&mut mirror, vec![seen("a", "1", 1)]);
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].id.1.as_str(), changes[0].after), ("b", None));
    }

    #[test]
    fn an_unfinished_list_changes_nothing() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, vec![seen("a", "1", 1)]);
        mirror.take(Event::Init);
        mirror.take(Event::Init);
        assert_eq!(mirror.len(), 1);
    }

    #[test]
    fn a_late_event_does_not_undo_what_our_write_returned() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, vec![seen("a", "1", 5)]);
        mirror.wrote(seen("a", "1", 9));
        assert!(mirror.take(Event::Apply(seen("a", "1", 7))).is_empty());
        assert!(mirror.take(Event::Apply(seen("a", "1", 9))).is_empty());
        assert_eq!(mirror.take(Event::Apply(seen("a", "1", 10))).len(), 1);
    }

    #[test]
    fn an_answer_that_comes_after_the_deletion_brings_nothing_back() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, vec![seen("other", "2", 3)]);
        mirror.take(Event::Apply(seen("a", "1", 9)));
        mirror.take(Event::Delete(seen("a", "1", 10)));
        mirror.wrote(seen("a", "1", 9));
        mirror.wrote(seen("a", "1", 10));
        assert_eq!(mirror.get(&("ns".into(), "a".into())), None);
        mirror.wrote(seen("a", "3", 11));
        assert_eq!(mirror.get(&("ns".into(), "a".into())), Some(&11));
    }

    #[test]
    fn the_answer_with_which_an_object_ends_counts_though_its_version_was_told() {
        let mut mirror = Mirror::default();
        let ending = |value| Seen {
            value,
            ..seen("a", "1", 9)
        };
        let id = &("ns".to_owned(), "a".to_owned());
        mirror.take(Event::Apply(ending(1)));
        mirror.ends(ending(2));
        assert_eq!(mirror.get(id), Some(&2));
        // The watch tells late, or again, what was before.
        mirror.take(Event::Apply(ending(1)));
        assert_eq!(mirror.get(id), Some(&2));
        mirror.take(Event::Delete(seen("a", "1", 10)));
        mirror.ends(ending(2));
        assert_eq!(mirror.get(id), None, "it brings nothing back");
        mirror.take(Event::Apply(seen("a", "3", 11)));
        mirror.ends(ending(2));
        assert_eq!(mirror.get(id), Some(&11), "another of that name");
    }

    #[test]
    fn an_object_that_we_wrote_during_a_list_is_not_taken_for_gone() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, vec![]);
        mirror.take(Event::Init);
        mirror.wrote(seen("new", "3", 12));
        assert!(mirror.take(Event::InitDone).is_empty());
        assert_eq!(mirror.len(), 1);
    }

    #[test]
    fn an_object_that_we_wrote_before_the_list_and_that_it_lacks_is_gone() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, vec![]);
        mirror.take(Event::Init);
        mirror.wrote(seen("new", "3", 12));
        mirror.take(Event::InitApply(seen("other", "4", 14)));
        mirror.take(Event::InitDone);
        assert_eq!(mirror.get(&("ns".into(), "new".into())), None);
    }

    // trap 28
    #[test]
    fn the_late_deletion_of_an_earlier_object_of_that_name_is_ignored() {
        let mut mirror = Mirror::default();
        listed(&mut mirror, vec![seen("a", "old", 5)]);
        mirror.wrote(seen("a", "new", 9));
        assert!(mirror.take(Event::Delete(seen("a", "old", 6))).is_empty());
        assert_eq!(mirror.take(Event::Delete(seen("a", "new", 10))).len(), 1);
    }
}
