//! Is the record of a service still the one that it was? Asked far more often than
//! records change, so nothing of a record is read for it.

use super::Known;
use super::state::{Service, State};
use crate::domain::names::CatalogServiceId;

/// Which record a service had at some time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Glimpse {
    id: CatalogServiceId,
    revision: u64,
    history: u64,
}

impl Known {
    /// The record of this service, if there is one and the catalog is followed.
    pub fn glimpse(&self, id: &CatalogServiceId) -> Option<Glimpse> {
        self.state().glimpse(id)
    }

    /// Whether the catalog has that same record still, as far as it is followed.
    pub fn is_still(&self, seen: &Glimpse) -> bool {
        self.state().glimpse(&seen.id).as_ref() == Some(seen)
    }
}

impl State {
    fn glimpse(&self, id: &CatalogServiceId) -> Option<Glimpse> {
        if !self.is_live() || self.stale.holds(id) {
            return None;
        }
        let (id, service) = self.services.get_key_value(id)?;
        let Service::Present(record) = service else {
            return None;
        };
        Some(Glimpse {
            id: id.clone(),
            revision: record.revision,
            history: self.history()?,
        })
    }
}
