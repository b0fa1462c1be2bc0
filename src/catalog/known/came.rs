//! Is a service still the one that it was, or another one under the same ID? What was
//! reported of the one says nothing of the other.

use super::state::{Service, State};
use crate::domain::names::CatalogServiceId;

impl State {
    /// Says of one and the same service the same number, whatever its owners write, and
    /// another one where it may have gone and come again.
    pub(super) fn came(&self, id: &CatalogServiceId) -> Option<u64> {
        self.position.as_ref()?;
        Some(self.came.get(id).copied().unwrap_or_default())
    }

    /// A service may have gone and come again where the list shows another record than
    /// was known, or the one that was known had been read before the stream told of it:
    /// what the list covers will not be told any more.
    pub(super) fn may_have_come(&mut self, id: &CatalogServiceId, listed: &Service, at: u64) {
        let told = self.position.as_ref().map_or(0, |at| at.revision);
        let same = self
            .services
            .get(id)
            .is_some_and(|known| known.revision() == listed.revision() && !known.is_later(told));
        if self.lists > 0 && !same {
            self.came.insert(id.clone(), at);
            self.changed.insert(id.clone());
        }
    }

    /// What is neither known nor about to be read has not come.
    pub(super) fn forget_who_did_not_come(&mut self) {
        let (services, stale) = (&self.services, &self.stale);
        self.came
            .retain(|id, _| services.contains_key(id) || stale.holds(id));
    }
}
