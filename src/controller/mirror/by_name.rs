//! Which object has this namespace and name? Found by a hash: in a tree of names
//! that begin alike, each look reads a dozen of them.

use std::collections::BTreeMap;

use super::Id;
use crate::domain::dense::Dense;

/// Objects of one kind, each namespace by itself.
#[derive(Debug)]
pub(super) struct ByName<V>(BTreeMap<Box<str>, Dense<Box<str>, V>>);

impl<V> Default for ByName<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V> ByName<V> {
    /// The object, if there is one.
    pub(super) fn get(&self, (namespace, name): &Id) -> Option<&V> {
        self.0.get(namespace.as_str())?.get(name.as_str())
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, (namespace, name): &Id) -> Option<&mut V> {
        self.0.get_mut(namespace.as_str())?.get_mut(name.as_str())
    }

    /// Puts the object there, and returns what was there before.
    pub(super) fn insert(&mut self, (namespace, name): &Id, object: V) -> Option<V> {
        let known = self.0.contains_key(namespace.as_str());
        if !known {
            self.0.insert(namespace.as_str().into(), Dense::default());
        }
        let within = self.0.get_mut(namespace.as_str())?;
        match within.get_mut(name.as_str()) {
            Some(known) => Some(std::mem::replace(known, object)),
            None => within.insert(name.as_str().into(), object),
        }
    }

    /// Takes the object away. A namespace without objects takes no memory.
    pub(super) fn remove(&mut self, (namespace, name): &Id) -> Option<V> {
        let within = self.0.get_mut(namespace.as_str())?;
        let gone = within.remove(name.as_str());
        if within.is_empty() {
            self.0.remove(namespace.as_str());
        }
        gone
    }

    /// All objects of a namespace, in no order.
    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = &V> {
        self.0.get(namespace).into_iter().flat_map(Dense::values)
    }

    /// All objects, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values().flat_map(Dense::values)
    }

    /// All objects with their namespaces and names, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &V)> {
        self.0.iter().flat_map(|(namespace, within)| {
            let id = |name: &str| (String::from(&**namespace), name.to_owned());
            within.iter().map(move |(name, object)| (id(name), object))
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(Dense::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(namespace: &str, name: &str) -> Id {
        (namespace.to_owned(), name.to_owned())
    }

    #[test]
    fn an_object_is_found_by_both_its_names_and_a_namespace_goes_with_its_last_one() {
        let mut all = ByName::default();
        assert_eq!(all.insert(&id("shop", "web"), 1), None);
        assert_eq!(all.insert(&id("shop", "web"), 2), Some(1));
        all.insert(&id("billing", "web"), 3);
        assert_eq!(all.get(&id("shop", "web")), Some(&2));
        assert_eq!(all.get(&id("shop", "db")), None);
        assert_eq!(all.get(&id("web", "shop")), None);
        assert_eq!(all.within("billing").copied().collect::<Vec<_>>(), [3]);
        assert_eq!((all.len(), all.values().sum::<i32>()), (2, 5));
        assert_eq!(all.remove(&id("shop", "web")), Some(2));
        assert_eq!(all.remove(&id("shop", "web")), None);
        assert_eq!(all.0.len(), 1);
        assert_eq!(all.iter().collect::<Vec<_>>(), [(id("billing", "web"), &3)]);
    }
}
