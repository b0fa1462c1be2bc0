//! What is known of the catalog without asking it: every record, as of a
//! position that a complete list and the events since then have reached.
//! Plain values behind a lock; no IO.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::names::CatalogServiceId;
use crate::domain::record::{BadRecord, CatalogPosition, ServiceRecord};

/// What is known of one service.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// No list was complete yet, or what is known of the service is out of
    /// date: ask the catalog.
    Unknown,
    /// The catalog has it, and this is its record.
    Present(Arc<ServiceRecord>),
    /// The catalog has it, and its record cannot be understood.
    Unreadable(BadRecord),
    /// A complete list lacked it, or an event said that it went. The position
    /// is that of the first of these, and does not move while it is away.
    Absent {
        /// Since when.
        since: CatalogPosition,
    },
}

/// What is known of the catalog. Written by whoever follows it, read by all.
#[derive(Debug, Default)]
pub struct Known {
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    position: Option<CatalogPosition>,
    live: bool,
    listed_nothing: bool,
    services: HashMap<CatalogServiceId, Presence>,
    changed: BTreeSet<CatalogServiceId>,
}

impl Known {
    /// The position that is known, once a list was complete.
    pub fn position(&self) -> Option<CatalogPosition> {
        self.state().position.clone()
    }

    /// Whether the catalog is followed at this moment, so that what is known
    /// is no older than a silence that the contract allows.
    pub fn is_live(&self) -> bool {
        self.state().live
    }

    /// Whether the last complete list held no service at all.
    pub fn listed_nothing(&self) -> bool {
        self.state().listed_nothing
    }

    /// What is known of this service.
    pub fn presence(&self, id: &CatalogServiceId) -> Presence {
        let state = self.state();
        match (state.services.get(id), &state.position) {
            (Some(presence), _) => presence.clone(),
            (None, Some(position)) => Presence::Absent {
                since: position.clone(),
            },
            (None, None) => Presence::Unknown,
        }
    }

    /// Every record that is known.
    pub fn records(&self) -> Vec<Arc<ServiceRecord>> {
        let state = self.state();
        let present = state
            .services
            .values()
            .filter_map(|presence| match presence {
                Presence::Present(record) => Some(Arc::clone(record)),
                _ => None,
            });
        present.collect()
    }

    /// Waits until services changed, and takes their IDs. One consumer only.
    pub async fn changed(&self) -> BTreeSet<CatalogServiceId> {
        loop {
            let changed = std::mem::take(&mut self.state().changed);
            if !changed.is_empty() {
                return changed;
            }
            self.moved.notified().await;
        }
    }

    /// Nothing in here is left half-done by a panic, so a poisoned lock is
    /// used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
