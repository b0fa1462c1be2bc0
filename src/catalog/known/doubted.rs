//! Does an answer that somebody got agree with what is known? Where it does not, a list
//! has to tell.

use super::Presence;
use super::state::{Service, State};
use crate::domain::names::CatalogServiceId;

impl State {
    /// The catalog showed this to somebody who asked for a service that is
    /// absent. One that is newer than what is known is still to be told.
    pub(super) fn contradicted(&mut self, id: &CatalogServiceId, shown: &Service) {
        let known_to = self.position.as_ref();
        let untold = known_to.is_some_and(|at| shown.is_later(at.revision));
        if !untold && matches!(self.presence(id), Presence::Absent { .. }) {
            self.doubted.insert(id.clone());
        }
    }

    /// The catalog denied a service to somebody who asked for it. Says whether
    /// that has to be looked into.
    pub(super) fn denied(&mut self, id: &CatalogServiceId) -> bool {
        match self.presence(id) {
            Presence::Absent { .. } => false,
            // The last list held a service without a name, so it left this one
            // open; the next one most likely would as well, and so on for ever.
            Presence::Unknown if self.position.is_some() && !self.stale.holds(id) => false,
            _ => self.doubted.insert(id.clone()),
        }
    }
}
