//! Which services have to be read again, and when? The first at once; then a
//! service is read at most every 300 ms, and more rarely where that does not
//! help. Plain values with time as an argument.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::names::CatalogServiceId;
use crate::domain::retry::Backoff;

/// Least time between two reads of one service; more where the catalog goes
/// on answering with what is older than its event.
const SPACING: Backoff = Backoff {
    base: Duration::from_millis(300),
    cap: Duration::from_secs(30),
};

/// Denials in a row after which a list has to tell.
const DENIALS: u32 = 2;

/// Most services that are read at once: as many as one page of a list takes.
const AT_ONCE: usize = 100;

#[derive(Debug)]
struct Entry {
    announced: u64,
    /// What was announced when it was read last.
    asked: u64,
    due: Option<Instant>,
    tries: u32,
    denials: u32,
}

/// How new a record is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Got {
    /// As new as the last event.
    Newest,
    /// As new as the event that asked for it; another came since.
    Newer,
    /// Older than the event that asked for it.
    Older,
}

/// Services whose record is older than what an event announced.
#[derive(Debug, Default)]
pub(super) struct Stale {
    entries: BTreeMap<CatalogServiceId, Entry>,
    /// When each service was read last; none for longer than the spacing.
    read: HashMap<CatalogServiceId, Instant>,
}

impl Stale {
    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn holds(&self, id: &CatalogServiceId) -> bool {
        self.entries.contains_key(id)
    }

    pub(super) fn announced(&self, id: &CatalogServiceId) -> Option<u64> {
        self.entries.get(id).map(|entry| entry.announced)
    }

    /// An event announced this revision of the service.
    pub(super) fn mark(&mut self, id: &CatalogServiceId, announced: u64) {
        let due = self.read.get(id).map(|read| *read + SPACING.base);
        let fresh = || Entry {
            announced,
            asked: 0,
            due,
            tries: 0,
            denials: 0,
        };
        let entry = self.entries.entry(id.clone()).or_insert_with(fresh);
        entry.announced = entry.announced.max(announced);
    }

    /// A record of this revision was read. Says whether that is new enough; if
    /// it is only what was asked for, a later event wants another read soon.
    pub(super) fn got(&mut self, id: &CatalogServiceId, revision: u64, now: Instant) -> Got {
        let Some(entry) = self.entries.get_mut(id) else {
            return Got::Older;
        };
        if revision >= entry.announced {
            self.entries.remove(id);
            return Got::Newest;
        }
        if revision < entry.asked {
            self.later(id, now);
            return Got::Older;
        }
        (entry.tries, entry.denials) = (0, 0);
        Got::Newer
    }

    pub(super) fn clear(&mut self, id: &CatalogServiceId) {
        self.entries.remove(id);
    }

    /// The revisions so far were of another history than those to come.
    pub(super) fn forget_revisions(&mut self) {
        for entry in self.entries.values_mut() {
            entry.announced = 0;
        }
    }

    /// A complete list of this revision was taken.
    pub(super) fn listed(&mut self, revision: u64) {
        self.entries.retain(|_, entry| entry.announced > revision);
    }

    /// Those to read now, which count as read from now on.
    pub(super) fn due(&mut self, now: Instant) -> Vec<CatalogServiceId> {
        self.read.retain(|_, read| *read + SPACING.base > now);
        let due = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.due.is_none_or(|due| due <= now))
            .take(AT_ONCE);
        let mut ids = Vec::new();
        for (id, entry) in due {
            entry.due = Some(now + SPACING.base);
            entry.asked = entry.announced;
            self.read.insert(id.clone(), now);
            ids.push(id.clone());
        }
        ids
    }

    /// When the next one is to be read; none where nothing is stale.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        let due = |entry: &Entry| entry.due.unwrap_or(now);
        self.entries.values().map(due).min()
    }

    /// The catalog answered with something older than it announced.
    pub(super) fn later(&mut self, id: &CatalogServiceId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.tries = entry.tries.saturating_add(1);
            entry.due = Some(now + SPACING.delay(entry.tries, 1.0));
        }
    }

    /// The catalog denied the service. Says whether it has done so often
    /// enough to ask for a list.
    pub(super) fn denied(&mut self, id: &CatalogServiceId, now: Instant) -> bool {
        self.later(id, now);
        let Some(entry) = self.entries.get_mut(id) else {
            return false;
        };
        entry.denials += 1;
        entry.denials >= DENIALS
    }

    /// The read gave nothing, for no fault of the service.
    pub(super) fn again(&mut self, id: &CatalogServiceId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.due = Some(now);
        }
    }
}
