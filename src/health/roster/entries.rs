//! The endpoints by their numbers. No number is given twice, so that whatever comes late
//! of one that is gone meets no other; and one place after the other is used, since
//! there are many and a tree is half empty.

use slab::Slab;

use super::Entry;
use crate::health::schedule::Id;

/// Endpoints by number: the place is in its lower half, and in the upper one how many
/// came before.
pub(in crate::health) struct Entries<K> {
    places: Slab<(Id, Entry<K>)>,
    came: u32,
}

impl<K> Entries<K> {
    pub(super) fn new() -> Self {
        Self {
            places: Slab::new(),
            came: 0,
        }
    }

    /// Takes one, and gives it a number.
    pub(super) fn insert(&mut self, entry: Entry<K>) -> Id {
        let place = self.places.vacant_entry();
        let id = (u64::from(self.came) << 32) | place.key() as u64;
        self.came = self.came.wrapping_add(1);
        place.insert((id, entry));
        id
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<Entry<K>> {
        self.get(id)?;
        Some(self.places.remove(place(id)).1)
    }

    pub(in crate::health) fn get(&self, id: Id) -> Option<&Entry<K>> {
        let (of, entry) = self.places.get(place(id))?;
        (*of == id).then_some(entry)
    }

    pub(in crate::health) fn get_mut(&mut self, id: Id) -> Option<&mut Entry<K>> {
        let (of, entry) = self.places.get_mut(place(id))?;
        (*of == id).then_some(entry)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &Entry<K>)> {
        self.places.iter().map(|(_, (id, entry))| (*id, entry))
    }

    pub(in crate::health) fn len(&self) -> usize {
        self.places.len()
    }

    pub(in crate::health) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Gives back room that is not needed, but for what a few more would take.
    pub(super) fn shrink(&mut self) {
        if self.places.capacity() > self.places.len() * 9 / 8 {
            self.places.shrink_to_fit();
        }
    }
}

/// What is in the lower half always fits.
fn place(id: Id) -> usize {
    usize::try_from(id & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::health::fixtures::service;

    fn entry(port: u16) -> Entry<()> {
        Entry {
            service: Arc::new(service("web")),
            address: ([10, 0, 0, 1], port).into(),
            due: Instant::now(),
            kept: None,
            is_silent: false,
        }
    }

    #[test]
    fn a_number_stands_for_one_endpoint_and_never_for_the_next_in_its_place() {
        let mut entries = Entries::new();
        let (first, other) = (entries.insert(entry(1)), entries.insert(entry(2)));
        assert_eq!(entries.remove(first).map(|of| of.address.port), Some(1));
        let second = entries.insert(entry(3));
        assert_eq!(place(second), place(first), "its place is free again");
        assert!(entries.get(first).is_none() && entries.get_mut(first).is_none());
        assert!(entries.remove(first).is_none());
        let port = |id| entries.get(id).map(|of| of.address.port);
        assert_eq!((port(second), port(other)), (Some(3), Some(2)));
        let mut ids: Vec<_> = entries.iter().map(|(id, _)| id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [other, second]);
        assert_eq!(entries.len(), 2);
    }
}
