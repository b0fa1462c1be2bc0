//! Withdrawals that must outlive this process: while the catalog is away, and
//! when this process lets go of the Lease, they are noted there, for whoever
//! leads next. Plain values.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::service::Service;
use super::state::State;
use crate::domain::names::CatalogServiceId;

/// Name of the note.
pub(super) const NOTE: &str = "withdrawals";

/// How long a withdrawal waits before it is noted: longer than one takes that
/// the catalog takes at once, which costs no write of the Lease. A process that
/// is killed within this time leaves what it did not deliver.
const STRANDED: Duration = Duration::from_secs(2);

/// How long a new leader waits with what was noted, so that the bindings that
/// want one of the services after all have said so.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest note. A Lease's annotations may have 256 KiB.
const MOST_BYTES: usize = 32 * 1024;

impl State {
    /// What should stand in the note.
    pub(super) fn stranded(&mut self, now: Instant) -> String {
        if !self.may_leave {
            return String::new();
        }
        let late = |since: Instant| now.duration_since(since) >= STRANDED;
        let is_left = |service: &Service| self.resigns || service.since.is_some_and(late);
        let leaving = self
            .services
            .iter()
            .filter(|(_, service)| service.is_leaving());
        self.may_leave = leaving.clone().next().is_some();
        let stranded = leaving.filter(|(_, service)| is_left(service));
        let ids: BTreeSet<&str> = stranded.map(|(id, _)| id.as_str()).collect();
        let mut note = String::new();
        for id in ids {
            if note.len() + id.len() >= MOST_BYTES {
                break;
            }
            if !note.is_empty() {
                note.push(' ');
            }
            note.push_str(id);
        }
        note
    }

    /// Takes over what an earlier leader noted.
    pub(super) fn take_over(&mut self, note: &str, now: Instant) {
        for id in note.split(' ') {
            if let Ok(id) = CatalogServiceId::parse(id) {
                self.withdraw(&id, now + PATIENCE, now);
            }
        }
    }
}
