//! Since when does the catalog not have a service? Plain values, bounded.

use std::collections::HashMap;

use crate::domain::names::CatalogServiceId;
use crate::domain::record::CatalogPosition;

/// Most services that are remembered one by one.
const MOST: usize = 20_000;

/// Services that went, and since when all others were never there.
#[derive(Debug, Default)]
pub(super) struct Absent {
    /// Where the first complete list of this history was, or the first after
    /// one that was uncertain; what it lacked, and was never heard of since, is
    /// absent since then.
    others: Option<CatalogPosition>,
    gone: HashMap<CatalogServiceId, CatalogPosition>,
}

impl Absent {
    /// Another history begins with a complete list.
    pub(super) fn begin(&mut self, at: &CatalogPosition) {
        self.others = Some(at.clone());
        self.gone.clear();
    }

    /// Of services that were never there nothing is certain.
    pub(super) fn uncertain(&mut self) {
        self.others = None;
    }

    /// A complete list names all that there is, after one that did not.
    pub(super) fn certain(&mut self, at: &CatalogPosition) {
        self.others.get_or_insert_with(|| at.clone());
    }

    pub(super) fn since(&self, id: &CatalogServiceId) -> Option<CatalogPosition> {
        self.gone.get(id).or(self.others.as_ref()).cloned()
    }

    /// Whether it went after this position.
    pub(super) fn is_later(&self, id: &CatalogServiceId, at: &CatalogPosition) -> bool {
        let later =
            |since: &CatalogPosition| since.epoch == at.epoch && since.revision > at.revision;
        self.gone.get(id).is_some_and(later)
    }

    /// It went. What was away already stays away since then.
    pub(super) fn add(&mut self, id: &CatalogServiceId, at: &CatalogPosition) {
        if self.gone.contains_key(id) {
            return;
        }
        if self.gone.len() >= MOST {
            self.forget_older_half();
        }
        self.gone.insert(id.clone(), at.clone());
    }

    /// It came back.
    pub(super) fn remove(&mut self, id: &CatalogServiceId) {
        self.gone.remove(id);
    }

    /// Those that are forgotten, and with them all that were never there, are
    /// absent since the last of them went: rather too late than too early.
    fn forget_older_half(&mut self) {
        let mut revisions: Vec<_> = self.gone.values().map(|since| since.revision).collect();
        revisions.sort_unstable();
        let Some(last) = revisions.get(MOST / 2).copied() else {
            return;
        };
        self.gone.retain(|_, since| since.revision > last);
        if let Some(others) = &mut self.others {
            others.revision = others.revision.max(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> CatalogPosition {
        CatalogPosition {
            epoch: "e".to_owned(),
            revision,
        }
    }

    #[test]
    fn however_many_go_memory_is_bounded_and_none_is_absent_since_before_it_went() {
        let mut absent = Absent::default();
        absent.begin(&at(1));
        let id = |n: u64| CatalogServiceId::parse(&format!("s{n}")).unwrap();
        for n in 2..100_000 {
            absent.add(&id(n), &at(n));
            assert!(absent.gone.len() <= MOST);
        }
        for n in 2..100_000 {
            let since = absent.since(&id(n)).unwrap();
            assert!(since.revision >= n, "{n} went before {since}");
        }
        assert_eq!(absent.since(&id(99_999)), Some(at(99_999)));
    }
}
