//! Which values belong to a key? Most often one, or as many as is said, which then need
//! no memory of their own; a set for each key would take half a kilobyte.

use std::borrow::Borrow;
use std::hash::Hash;

use smallvec::SmallVec;

use super::dense::Dense;

/// Keys, in no order, with the values that belong to each, in theirs.
#[derive(Clone, Debug)]
pub struct OneToMany<K, V, const USUAL: usize = 1>(Dense<K, SmallVec<[V; USUAL]>>);

impl<K, V, const USUAL: usize> Default for OneToMany<K, V, USUAL> {
    fn default() -> Self {
        Self(Dense::default())
    }
}

impl<K: Eq + Hash, V: Ord, const USUAL: usize> OneToMany<K, V, USUAL> {
    /// The value belongs to the key.
    pub fn insert(&mut self, key: K, value: V) {
        let values = self.0.get_or_insert_with(key, SmallVec::new);
        if let Err(place) = values.binary_search(&value) {
            values.insert(place, value);
        }
    }

    /// It does not any more. A key without values is none.
    pub fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q, value: &V)
    where
        K: Borrow<Q>,
    {
        let Some(values) = self.0.get_mut(key) else {
            return;
        };
        if let Ok(place) = values.binary_search(value) {
            values.remove(place);
        }
        if values.is_empty() {
            self.0.remove(key);
        }
    }

    /// The values that belong to the key.
    pub fn of<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> &[V]
    where
        K: Borrow<Q>,
    {
        self.0.get(key).map(SmallVec::as_slice).unwrap_or_default()
    }

    /// Every key with its values.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &[V])> {
        self.0.iter().map(|(key, values)| (key, values.as_slice()))
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Whether no value belongs to any key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_values_as_are_usual_take_no_memory_of_their_own() {
        let mut all: OneToMany<_, _, 2> = OneToMany::default();
        let mut spilled = |value: u64| {
            all.insert("a", value);
            all.0.get("a").is_some_and(SmallVec::spilled)
        };
        assert_eq!([1, 2, 3].map(&mut spilled), [false, false, true]);
    }

    #[test]
    fn values_are_in_order_each_once_and_a_key_goes_with_its_last_one() {
        let mut all: OneToMany<_, _> = OneToMany::default();
        for value in [3, 1, 2, 1] {
            all.insert("a".to_owned(), value);
        }
        all.insert("b".to_owned(), 7);
        assert_eq!(all.of("a"), [1, 2, 3]);
        assert_eq!(all.of("c"), [0; 0]);
        for value in [1, 9, 3, 2] {
            all.remove("a", &value);
        }
        all.remove("c", &1);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(all.iter().next(), Some((&"b".to_owned(), &[7][..])));
        all.remove("b", &7);
        assert!(all.is_empty());
    }
}
