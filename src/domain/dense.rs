//! A map that takes little more memory than what is in it. A hash table's room grows
//! twofold, and between a half and an eighth of it is empty: here that holds for four
//! bytes of each entry, and all of it lies in a row that grows by an eighth.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

/// Values by their keys, in no order.
#[derive(Clone, Debug)]
pub struct Dense<K, V> {
    row: Vec<(K, V)>,
    /// Where in the row each of them is, by the hash of its key.
    places: HashTable<u32>,
    hasher: RandomState,
}

impl<K, V> Default for Dense<K, V> {
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

impl<K: Eq + Hash, V> Dense<K, V> {
    fn place<Q: Eq + Hash + ?Sized>(&self, key: &Q, hash: u64) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        let is_it = |place: &u32| self.row[*place as usize].0.borrow() == key;
        Some(*self.places.find(hash, is_it)? as usize)
    }

    /// The value of the key, if there is one.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key, self.hasher.hash_one(key))?;
        Some(&self.row[place].1)
    }

    /// The same, to change it.
    pub fn get_mut<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key, self.hasher.hash_one(key))?;
        Some(&mut self.row[place].1)
    }

    /// The value of the key, with the key as it is kept.
    pub fn get_key_value<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let place = self.place(key, self.hasher.hash_one(key))?;
        let (key, value) = &self.row[place];
        Some((key, value))
    }

    /// Whether the key has a value.
    pub fn contains_key<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// The value of the key, from now on at least.
    pub fn get_or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let hash = self.hasher.hash_one(&key);
        let place = match self.place(&key, hash) {
            Some(place) => place,
            None => self.push(hash, key, new()),
        };
        &mut self.row[place].1
    }

    /// Puts the value there, and returns what was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let hash = self.hasher.hash_one(&key);
        if let Some(place) = self.place(&key, hash) {
            return Some(std::mem::replace(&mut self.row[place].1, value));
        }
        self.push(hash, key, value);
        None
    }

    fn push(&mut self, hash: u64, key: K, value: V) -> usize {
        let Self {
            row,
            places,
            hasher,
        } = self;
        let place = row.len();
        if place == row.capacity() {
            row.reserve_exact((place / 8).max(1));
        }
        row.push((key, value));
        places.insert_unique(hash, number(place), |of| {
            hasher.hash_one(&row[*of as usize].0)
        });
        place
    }

    /// Takes the value away; the last of the row comes into its place.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let hash = self.hasher.hash_one(key);
        let place = self.place(key, hash)?;
        if let Ok(found) = self.places.find_entry(hash, |of| *of as usize == place) {
            found.remove();
        }
        let (_, gone) = self.row.swap_remove(place);
        if let Some((moved, _)) = self.row.get(place) {
            let (hash, before) = (self.hasher.hash_one(moved), number(self.row.len()));
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
        if places.num_buckets() > 4 * len.max(1) {
            places.shrink_to_fit(|of| hasher.hash_one(&row[*of as usize].0));
        }
    }

    /// All values with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> + Clone {
        self.row.iter().map(|(key, value)| (key, value))
    }

    /// The same, to change the values.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.row.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.row.iter().map(|(key, _)| key)
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.row.iter().map(|(_, value)| value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// What is empty, by its part of what is there.
    #[track_caller]
    fn slack_is_at_most<K, V>(dense: &Dense<K, V>, part: usize, more: usize) {
        let (len, room) = (dense.row.len(), dense.row.capacity());
        assert!(room <= len + len / part + more, "room for {room} of {len}");
        assert!(
            dense.places.num_buckets() <= (4 * len).max(4),
            "{} places for {len}",
            dense.places.num_buckets()
        );
    }

    #[test]
    fn however_many_there_are_no_more_than_an_eighth_of_their_room_is_empty() {
        let mut dense = Dense::default();
        for n in 0..20_000_u32 {
            assert_eq!(dense.insert(format!("web-{n}"), n), None);
            slack_is_at_most(&dense, 8, 1);
        }
        // What is put there again takes no more.
        for n in 0..20_000 {
            assert_eq!(dense.insert(format!("web-{n}"), n + 1), Some(n));
        }
        slack_is_at_most(&dense, 8, 1);
    }

    #[test]
    fn what_goes_gives_its_room_back() {
        let mut dense = Dense::default();
        for n in 0..5_000_u32 {
            dense.insert(format!("web-{n}"), n);
        }
        for n in 0..5_000 {
            assert_eq!(dense.remove(&format!("web-{n}")), Some(n));
            slack_is_at_most(&dense, 4, 1);
        }
        assert!(dense.is_empty());
        assert_eq!(dense.get("web-1"), None);
    }

    #[test]
    fn it_holds_what_any_other_map_would() {
        let mut chance = fastrand::Rng::with_seed(7);
        let (mut dense, mut other) = (Dense::default(), HashMap::new());
        for n in 0..50_000_u32 {
            let name = format!("n{}", chance.u32(..200));
            // Now many come, and now many go.
            if chance.u32(..200) < 100 + n / 100 % 100 {
                assert_eq!(dense.insert(name.clone(), n), other.insert(name.clone(), n));
            } else {
                assert_eq!(dense.remove(&name), other.remove(&name));
            }
            let some = format!("n{}", chance.u32(..200));
            assert_eq!(dense.get(&some), other.get(&some));
            assert_eq!(dense.get_mut(&some), other.get_mut(&some));
            let some = format!("n{}", chance.u32(..200));
            *dense.get_or_insert_with(some.clone(), || 0) += 1;
            *other.entry(some).or_default() += 1;
            assert_eq!(dense.len(), other.len());
        }
        let all: HashMap<_, _> = dense.iter().map(|(n, v)| (n.clone(), *v)).collect();
        assert_eq!(all, other);
        assert_eq!(dense.values().count(), other.len());
    }
}
