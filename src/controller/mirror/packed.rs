//! A map of names that takes little more memory than what is in it. A hash table's
//! room grows twofold, and between a half and an eighth of it is empty: here that holds
//! for four bytes of each object, and all of it lies in a row that grows by an eighth.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// Objects by name, in no order.
#[derive(Debug)]
pub(super) struct Packed<V> {
    row: Vec<(Box<str>, V)>,
    /// Where in the row each of them is, by the hash of its name.
    places: HashTable<u32>,
    hasher: RandomState,
}

impl<V> Default for Packed<V> {
    fn default() -> Self {
        Self {
            row: Vec::new(),
            places: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

/// The place as it is kept; there is no memory for as many as would not fit.
fn number(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

impl<V> Packed<V> {
    fn place(&self, name: &str, hash: u64) -> Option<usize> {
        let is_it = |place: &u32| *self.row[*place as usize].0 == *name;
        Some(*self.places.find(hash, is_it)? as usize)
    }

    /// The object, if there is one.
    pub(super) fn get(&self, name: &str) -> Option<&V> {
        let place = self.place(name, self.hasher.hash_one(name))?;
        Some(&self.row[place].1)
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        let place = self.place(name, self.hasher.hash_one(name))?;
        Some(&mut self.row[place].1)
    }

    /// Puts the object there, and returns what was there before.
    pub(super) fn insert(&mut self, name: &str, object: V) -> Option<V> {
        let hash = self.hasher.hash_one(name);
        if let Some(place) = self.place(name, hash) {
            return Some(std::mem::replace(&mut self.row[place].1, object));
        }
        let Self {
            row,
            places,
            hasher,
        } = self;
        if row.len() == row.capacity() {
            row.reserve_exact((row.len() / 8).max(1));
        }
        let place = number(row.len());
        row.push((name.into(), object));
        places.insert_unique(hash, place, |of| hasher.hash_one(&*row[*of as usize].0));
        None
    }

    /// Takes the object away; the last of the row comes into its place.
    pub(super) fn remove(&mut self, name: &str) -> Option<V> {
        let hash = self.hasher.hash_one(name);
        let place = self.place(name, hash)?;
        if let Ok(found) = self.places.find_entry(hash, |of| *of as usize == place) {
            found.remove();
        }
        let (_, gone) = self.row.swap_remove(place);
        if let Some((moved, _)) = self.row.get(place) {
            let (hash, before) = (self.hasher.hash_one(&**moved), number(self.row.len()));
            if let Some(at) = self.places.find_mut(hash, |of| *of == before) {
                *at = number(place);
            }
        }
        self.give_back();
        Some(gone)
    }

    /// Gives back room that is not needed, but for what some more would take.
    fn give_back(&mut self) {
        let Self {
            row,
            places,
            hasher,
        } = self;
        let len = row.len();
        if row.capacity() > len + len / 4 + 1 {
            row.shrink_to(len + len / 8);
        }
        if places.capacity() > 3 * len {
            places.shrink_to_fit(|place| hasher.hash_one(&*row[*place as usize].0));
        }
    }

    /// All objects, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.row.iter().map(|(_, object)| object)
    }

    /// All objects with their names, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.row.iter().map(|(name, object)| (&**name, object))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.row.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// What is empty, by its part of what is there.
    #[track_caller]
    fn slack_is_at_most<V>(packed: &Packed<V>, part: usize, more: usize) {
        let (len, room) = (packed.row.len(), packed.row.capacity());
        assert!(room <= len + len / part + more, "room for {room} of {len}");
        assert!(
            packed.places.num_buckets() <= (4 * len).max(4),
            "{} places for {len}",
            packed.places.num_buckets()
        );
    }

    #[test]
    fn however_many_there_are_no_more_than_an_eighth_of_their_room_is_empty() {
        let mut packed = Packed::default();
        for n in 0..20_000_u32 {
            assert_eq!(packed.insert(&format!("web-{n}"), n), None);
            slack_is_at_most(&packed, 8, 1);
        }
        // What is put there again takes no more.
        for n in 0..20_000 {
            assert_eq!(packed.insert(&format!("web-{n}"), n + 1), Some(n));
        }
        slack_is_at_most(&packed, 8, 1);
    }

    #[test]
    fn what_goes_gives_its_room_back() {
        let mut packed = Packed::default();
        for n in 0..5_000_u32 {
            packed.insert(&format!("web-{n}"), n);
        }
        for n in 0..5_000 {
            assert_eq!(packed.remove(&format!("web-{n}")), Some(n));
            slack_is_at_most(&packed, 4, 1);
        }
        assert!(packed.is_empty());
        assert_eq!(packed.get("web-1"), None);
    }

    #[test]
    fn it_holds_what_any_other_map_would() {
        let mut chance = fastrand::Rng::with_seed(7);
        let (mut packed, mut other) = (Packed::default(), HashMap::new());
        for n in 0..50_000_u32 {
            let name = format!("n{}", chance.u32(..200));
            // Now many come, and now many go.
            if chance.u32(..200) < 100 + n / 100 % 100 {
                assert_eq!(packed.insert(&name, n), other.insert(name.clone(), n));
            } else {
                assert_eq!(packed.remove(&name), other.remove(&name));
            }
            let some = format!("n{}", chance.u32(..200));
            assert_eq!(packed.get(&some), other.get(&some));
            assert_eq!(packed.get_mut(&some), other.get_mut(&some));
            assert_eq!(packed.len(), other.len());
        }
        let all: HashMap<_, _> = packed.iter().map(|(n, v)| (n.to_owned(), *v)).collect();
        assert_eq!(all, other);
        assert_eq!(packed.values().count(), other.len());
    }
}
