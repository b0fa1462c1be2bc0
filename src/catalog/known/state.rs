//! What follows from what the catalog said? Lists and events go in; presence,
//! and what has to be asked next, come out. Plain values with time as an
//! argument; no IO.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;

use super::Presence;
use super::absent::Absent;
use super::failing::Failing;
use super::stale::{Got, Stale};
use crate::catalog::error::CatalogError;
use crate::catalog::event::{CatalogEvent, EventKind};
use crate::domain::dense::Dense;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{BadRecord, CatalogPosition, ServiceRecord};

/// Why a complete list is needed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum WhyList {
    /// Nothing is known yet.
    First,
    /// The stream cannot be resumed from where it was left.
    Reset,
    /// The stream went back, or to another epoch, without saying so.
    Rewound,
    /// The stream left something out.
    Gap,
    /// The stream cannot be read on from where it stands.
    Stuck,
    /// A service that should be there was denied, or one that should not be was
    /// shown.
    Denied,
    /// The last one was long ago.
    Sweep,
}

/// What a read of one service gave.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    /// Its record.
    Record(Arc<ServiceRecord>),
    /// Its record, which cannot be understood.
    Unreadable(BadRecord),
    /// The catalog said that it has no such service.
    Denied,
}

/// What the catalog has of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Service {
    /// Its record.
    Present(Arc<ServiceRecord>),
    /// Its record cannot be understood, which few are.
    Unreadable(Box<BadRecord>),
}

impl Service {
    /// How new it is, if it says so.
    pub(super) fn revision(&self) -> Option<u64> {
        match self {
            Self::Present(record) => Some(record.revision),
            Self::Unreadable(bad) => bad.revision,
        }
    }

    /// Whether it is newer than what was true at that revision.
    pub(super) fn is_later(&self, revision: u64) -> bool {
        self.revision().is_some_and(|own| own > revision)
    }

    /// Whether it is older than that.
    pub(crate) fn is_older(&self, revision: u64) -> bool {
        self.revision().is_some_and(|own| own < revision)
    }
}

/// What is known, and what is not.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Up to where everything is known, but for what is stale.
    pub(super) position: Option<CatalogPosition>,
    /// Where the open stream stands.
    pub(super) heard: Option<CatalogPosition>,
    /// Whether the open stream has said everything that there was.
    pub(super) caught_up: bool,
    /// Why the stream alone is not enough, and how new a list must be to mend
    /// that.
    pub(super) broken: Option<(WhyList, CatalogPosition)>,
    /// What was known is of another history than what will be listed.
    pub(super) rewound: bool,
    pub(super) services: Dense<CatalogServiceId, Service>,
    /// The revision at which each of them came, or may have come; nothing of those that
    /// have been there since the first list.
    pub(super) came: HashMap<CatalogServiceId, u64>,
    pub(super) absent: Absent,
    pub(super) stale: Stale,
    /// Denied by a read, though nothing said that they went, or shown by one,
    /// though nothing said that they came.
    pub(super) doubted: BTreeSet<CatalogServiceId>,
    /// Seen by somebody who asked, while something else was known: what comes
    /// to be known may never have been that.
    shown: BTreeSet<CatalogServiceId>,
    /// How many complete lists were taken.
    pub(super) lists: u64,
    /// How many of them were of another history than the one before.
    pub(super) histories: u64,
    /// Whether a first list was tried, with whatever result.
    pub(super) tried: bool,
    /// Where the last complete list of this epoch was that held nothing.
    pub(super) nothing_at: Option<CatalogPosition>,
    pub(super) failing: Failing,
    /// Whether the catalog came back since somebody asked for that.
    pub(super) returned: bool,
    /// When the stream said something last.
    pub(super) heard_at: Option<Instant>,
    pub(super) changed: BTreeSet<CatalogServiceId>,
}

impl State {
    pub(super) fn position(&self) -> Option<&CatalogPosition> {
        self.position.as_ref()
    }

    pub(super) fn is_live(&self) -> bool {
        self.position.is_some() && self.caught_up && self.broken.is_none()
    }

    pub(super) fn nothing_at(&self, id: &CatalogServiceId) -> Option<&CatalogPosition> {
        let at = self.nothing_at.as_ref()?;
        (!self.services.contains_key(id) && !self.absent.is_later(id, at)).then_some(at)
    }

    pub(super) fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    pub(super) fn presence(&self, id: &CatalogServiceId) -> Presence {
        if self.position.is_none() || self.stale.holds(id) {
            return Presence::Unknown;
        }
        match self.services.get(id) {
            Some(Service::Present(record)) => Presence::Present(Arc::clone(record)),
            Some(Service::Unreadable(bad)) => Presence::Unreadable(BadRecord::clone(bad)),
            None => match self.absent.since(id) {
                Some(since) => Presence::Absent { since },
                None => Presence::Unknown,
            },
        }
    }

    pub(super) fn records(&self) -> Vec<Arc<ServiceRecord>> {
        let present = self.services.values().filter_map(|service| match service {
            Service::Present(record) => Some(Arc::clone(record)),
            Service::Unreadable(_) => None,
        });
        present.collect()
    }

    /// The revision that an event announced for a service whose record is not
    /// known as of then.
    pub(super) fn announced(&self, id: &CatalogServiceId) -> Option<u64> {
        self.stale.announced(id)
    }

    /// Whether nothing is known yet, and nothing is known to stand in the way.
    pub(super) fn is_starting(&self) -> bool {
        self.position.is_none() && !self.tried
    }

    /// A read of this service, or of several at once, got this answer.
    pub(super) fn answered(
        &mut self,
        id: &CatalogServiceId,
        several: bool,
        error: Option<&CatalogError>,
    ) {
        self.returned |= self.failing.answered(id, several, error);
    }

    /// The catalog answered something.
    pub(super) fn works(&mut self) {
        self.returned |= self.failing.ended();
    }

    /// The catalog is followed after it was not.
    pub(super) fn followed_again(&mut self) {
        self.returned = true;
        self.changed.append(&mut self.shown);
    }

    /// Whether there is something that nobody has taken yet.
    pub(super) fn has_news(&self) -> bool {
        self.returned || !self.changed.is_empty()
    }

    /// Takes the services that changed. Whoever hears of it looks again, and
    /// then whatever he was shown before does not matter any more.
    pub(super) fn take_changed(&mut self) -> BTreeSet<CatalogServiceId> {
        let changed = std::mem::take(&mut self.changed);
        self.shown.retain(|id| !changed.contains(id));
        changed
    }

    /// The catalog showed this to somebody who asked for the service.
    pub(super) fn showed(&mut self, id: &CatalogServiceId, shown: Service) {
        if self.services.get(id) != Some(&shown) {
            self.shown.insert(id.clone());
        }
    }

    pub(super) fn lists(&self) -> u64 {
        self.lists
    }

    pub(super) fn history(&self) -> Option<u64> {
        (self.histories > 0).then_some(self.histories)
    }

    /// A first list was tried in vain.
    pub(super) fn tried(&mut self) {
        self.tried = true;
    }

    /// A stream was opened that goes on after what is known.
    pub(super) fn resumed(&mut self) {
        self.works();
        self.heard.clone_from(&self.position);
        self.caught_up = false;
        // This one begins before what broke the last one; but what was heard
        // since then may not have been true.
        if let (Some((_, needed)), Some(position)) = (&mut self.broken, &self.position) {
            needed.clone_from(position);
        }
    }

    /// The stream has ended.
    pub(super) fn lost(&mut self) {
        self.heard = None;
        self.caught_up = false;
    }

    /// Takes what the stream says. Changes of health that `own`, this
    /// cluster's identity, reported itself are passed over.
    pub(super) fn hear(&mut self, event: &CatalogEvent, own: Option<&str>, now: Instant) {
        let Some(heard) = &self.heard else { return };
        self.heard_at = Some(now);
        let at = &event.position;
        let back = at.epoch != heard.epoch || at.revision < heard.revision;
        let ahead = at.revision.saturating_sub(heard.revision);
        let broken = match &event.kind {
            EventKind::Reset { .. } => {
                // Going on in the same history, only events were lost.
                self.rewound |= back;
                Some(WhyList::Reset)
            }
            _ if back => {
                self.rewound = true;
                Some(WhyList::Rewound)
            }
            EventKind::Bookmark => (ahead > 0).then_some(WhyList::Gap),
            // Told again.
            _ if ahead == 0 => return,
            _ => (ahead > 1).then_some(WhyList::Gap),
        };
        self.heard = Some(at.clone());
        if let Some(why) = broken {
            if self.rewound {
                self.stale.forget_revisions();
            }
            self.broken = Some((why, at.clone()));
        }
        if matches!(event.kind, EventKind::Bookmark | EventKind::Reset { .. }) {
            self.caught_up = true;
        }
        if self.is_covered(at) {
            return;
        }
        self.take(&event.kind, at, own);
        if self.broken.is_none() {
            self.position = Some(at.clone());
        }
    }

    /// Whether a list has shown this already.
    fn is_covered(&self, at: &CatalogPosition) -> bool {
        let covers =
            |known: &CatalogPosition| known.epoch == at.epoch && known.revision >= at.revision;
        !self.rewound && self.position.as_ref().is_some_and(covers)
    }

    fn take(&mut self, kind: &EventKind, at: &CatalogPosition, own: Option<&str>) {
        match kind {
            EventKind::Registered(id) | EventKind::Updated(id) => {
                if matches!(kind, EventKind::Registered(_)) {
                    self.came.insert(id.clone(), at.revision);
                }
                let known = self.services.get(id).and_then(Service::revision);
                let known = known.is_some_and(|known| known >= at.revision);
                let gone = self.absent.is_later(id, at);
                if self.rewound || !(known || gone) {
                    self.stale.mark(id, at.revision);
                } else if known && matches!(kind, EventKind::Registered(_)) {
                    // A read was quicker than this, and told nobody that it came anew.
                    self.changed.insert(id.clone());
                }
            }
            // What is known may be of another history, in which this event
            // says nothing; a list will tell.
            EventKind::Deregistered(id) if self.rewound => self.stale.mark(id, at.revision),
            EventKind::Deregistered(id) => self.remove(id, at),
            EventKind::HealthChanged { id, writer } => {
                let ours = writer
                    .as_ref()
                    .is_some_and(|writer| Some(writer.cluster.as_str()) == own);
                if !ours {
                    self.changed.insert(id.clone());
                }
            }
            EventKind::Bookmark | EventKind::Reset { .. } | EventKind::Other => {}
        }
    }

    fn remove(&mut self, id: &CatalogServiceId, at: &CatalogPosition) {
        self.stale.clear(id);
        self.doubted.remove(id);
        self.services.remove(id);
        self.came.remove(id);
        self.absent.add(id, at);
        self.changed.insert(id.clone());
    }

    /// Why a complete list is needed now, if one is.
    pub(super) fn list_needed(&self) -> Option<WhyList> {
        match (&self.position, &self.broken) {
            (None, _) => Some(WhyList::First),
            (_, Some((why, _))) => Some(*why),
            _ if !self.doubted.is_empty() => Some(WhyList::Denied),
            _ => None,
        }
    }

    pub(super) fn put(&mut self, id: &CatalogServiceId, service: Service) {
        self.absent.remove(id);
        if self.services.get(id) != Some(&service) {
            self.services.insert(id.clone(), service);
            self.changed.insert(id.clone());
        }
    }

    /// The services that are to be read next; none while a list will tell.
    pub(super) fn next_reads(&mut self, now: Instant) -> Vec<CatalogServiceId> {
        if self.position.is_none() || self.broken.is_some() {
            return Vec::new();
        }
        self.stale.due(now)
    }

    /// When the next service is to be read.
    pub(super) fn next_read_at(&self, now: Instant) -> Option<Instant> {
        let reads = self.position.is_some() && self.broken.is_none();
        self.stale.next_at(now).filter(|_| reads)
    }

    /// Takes what a read of the service gave, which was sent because it was
    /// stale.
    pub(super) fn read(&mut self, id: &CatalogServiceId, read: Read, now: Instant) {
        if !self.stale.holds(id) {
            // A list, or its end, was quicker.
            return;
        }
        let service = match read {
            Read::Record(record) => Service::Present(record),
            Read::Unreadable(bad) => Service::Unreadable(Box::new(bad)),
            // Its end will be told, or else a list tells.
            Read::Denied => {
                if self.stale.denied(id, now) {
                    self.doubted.insert(id.clone());
                }
                return;
            }
        };
        // One that does not say how new it is is as new as it can be.
        let revision = service.revision().unwrap_or(u64::MAX);
        if self.stale.got(id, revision, now) != Got::Older {
            self.put(id, service);
            // Somebody may wait for this look, whatever it shows.
            self.changed.insert(id.clone());
        }
    }

    /// The reads of these services failed.
    pub(super) fn not_read(&mut self, ids: &[CatalogServiceId], now: Instant) {
        for id in ids {
            self.stale.again(id, now);
        }
    }
}
