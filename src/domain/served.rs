//! Which namespaces the operator serves: all of the cluster, or some.

use std::collections::BTreeSet;

use super::names::Namespace;

/// What one watch of a kind is of: a namespace, or [`WHOLE`].
pub type Part = String;

/// The whole cluster.
pub const WHOLE: &str = "";

/// Which namespaces are served. By default all are.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Served(BTreeSet<Part>);

impl Served {
    /// These, or all where none is named.
    pub fn only<'a>(names: impl IntoIterator<Item = &'a Namespace>) -> Self {
        Self(names.into_iter().map(ToString::to_string).collect())
    }

    /// Whether all are.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is.
    pub fn has(&self, namespace: &str) -> bool {
        self.is_all() || self.0.contains(namespace)
    }

    /// What is watched, each by itself: every namespace, or the whole cluster.
    pub fn parts(&self) -> BTreeSet<Part> {
        if self.is_all() {
            return BTreeSet::from([WHOLE.to_owned()]);
        }
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_none_is_named_all_are_served() {
        let all = Served::only([]);
        assert!(all.is_all() && all.has("shop"));
        assert_eq!(all.parts(), BTreeSet::from([WHOLE.to_owned()]));
    }

    #[test]
    fn where_some_are_named_no_other_is() {
        let names = ["shop", "billing"].map(|name| Namespace::parse(name).unwrap());
        let some = Served::only(&names);
        assert!(some.has("shop") && some.has("billing"));
        assert!(!some.has("shop-2") && !some.has("") && !some.is_all());
        let parts = names.map(|name| name.to_string());
        assert_eq!(some.parts(), BTreeSet::from(parts));
    }
}
