//! What is one Alertmanager to be told next? Follows what fires, and what it
//! has taken. Plain values with time as an argument.
//!
//! 1. What fires anew, or no longer, is due at once; other news of what fires
//!    a little later, since texts may change often.
//! 2. What fires is told again every minute, each time with an end some minutes
//!    ahead: so alerts of an operator that is gone end by themselves, and an
//!    Alertmanager that forgot them has them again.
//! 3. What ended is told again as well, until the last end that was announced
//!    for it has passed: then it has ended whatever got lost.
//! 4. What began and ended before it was told is not told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::room::MOST;
use super::value::{Alert, Firing, Subject};

/// How long an alert fires that is not told again. Some repetitions may get
/// lost.
pub(super) const VALID: Duration = Duration::from_secs(5 * 60);
/// Time between two tellings of the same, unless it is said otherwise.
pub(super) const REPEAT: Duration = Duration::from_secs(60);
/// Shortest time from a telling to one of another text.
pub(super) const TEXT: Duration = Duration::from_secs(5);
/// Where something is due, what is due within this goes along.
const ALONG: Duration = Duration::from_secs(10);
/// Most that are remembered after their end: as many as can fire.
const ENDED: usize = 2 * MOST;
/// Most alerts in a request.
pub(super) const BATCH: usize = 500;

/// The time by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) steady: Instant,
    pub(super) wall: Timestamp,
}

/// An alert that is to be told.
#[derive(Clone, Debug)]
pub(super) struct Posting {
    pub(super) subject: Subject,
    pub(super) alert: Arc<Alert>,
    /// When it ends, or has ended.
    pub(super) ends: Timestamp,
}

/// What one Alertmanager knows, as far as we do.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Time between two tellings of the same.
    repeat: Duration,
    followed: Arc<Firing>,
    entries: BTreeMap<Subject, Entry>,
}

#[derive(Debug)]
struct Entry {
    alert: Arc<Alert>,
    /// When it ended, where it did.
    ended: Option<Timestamp>,
    /// When it was told last; nothing where it is news.
    told: Option<Instant>,
    /// Whether it has another text than it was told with.
    reworded: bool,
    /// How long the Alertmanager may take it to fire; nothing where it was
    /// never told.
    held: Option<Instant>,
}

impl Entry {
    fn due(&self, repeat: Duration) -> Option<Instant> {
        let pause = if self.reworded { TEXT } else { repeat };
        self.told.map(|told| told + pause)
    }
}

impl Ledger {
    /// One of nothing yet, by which the same is told so often.
    pub(super) fn new(repeat: Duration) -> Self {
        Self {
            repeat,
            followed: Arc::default(),
            entries: BTreeMap::new(),
        }
    }

    /// Takes in what fires now. `alone` says that nobody else has told any of
    /// it meanwhile, as another replica does that leads.
    pub(super) fn follow(&mut self, firing: &Arc<Firing>, now: Moment, alone: bool) {
        self.entries
            .retain(|_, entry| entry.ended.is_none() || entry.held > Some(now.steady));
        if Arc::ptr_eq(&self.followed, firing) {
            return;
        }
        self.followed = Arc::clone(firing);
        self.entries.retain(|subject, entry| {
            if firing.contains_key(subject) || entry.ended.is_some() {
                return true;
            }
            if !alone {
                entry.held = Some(now.steady + VALID);
            }
            entry.ended = Some(now.wall);
            entry.told = None;
            entry.held.is_some()
        });
        for (subject, alert) in firing.iter() {
            match self.entries.get_mut(subject) {
                None => {
                    self.entries
                        .insert(subject.clone(), Entry::new(Arc::clone(alert)));
                }
                Some(entry) => entry.fires(alert),
            }
        }
        self.bound_ended();
    }

    /// Tells all anew, since another one may have told it until now, or the
    /// Alertmanager may have forgotten it.
    pub(super) fn tell_anew(&mut self, now: Moment) {
        for entry in self.entries.values_mut() {
            entry.told = None;
            entry.held = Some(now.steady + VALID);
        }
    }

    /// What to tell now; nothing where nothing is due. News go first.
    pub(super) fn batch(&mut self, now: Moment) -> Vec<Posting> {
        if self.next_due().is_none_or(|due| due > Some(now.steady)) {
            return Vec::new();
        }
        let (along, repeat) = (Some(now.steady + ALONG), self.repeat);
        let mut due: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.due(repeat) <= along)
            .collect();
        due.sort_by_key(|(_, entry)| entry.due(repeat));
        due.truncate(BATCH);
        due.into_iter()
            .map(|(subject, entry)| Posting {
                subject: subject.clone(),
                alert: Arc::clone(&entry.alert),
                ends: entry.announce(now),
            })
            .collect()
    }

    /// It was told, at that time.
    pub(super) fn told(&mut self, postings: &[Posting], at: Instant) {
        for posting in postings {
            if let Some(entry) = self.entries.get_mut(&posting.subject) {
                entry.told = Some(at);
                entry.reworded = false;
            }
        }
    }

    /// When something is due next, where anything is: `Some(None)` is at once.
    pub(super) fn next_due(&self) -> Option<Option<Instant>> {
        let all = self.entries.values();
        all.map(|entry| entry.due(self.repeat)).min()
    }

    /// However many come and go: those that ended first are left to end by
    /// themselves.
    fn bound_ended(&mut self) {
        let ended = self.entries.values().filter_map(|entry| entry.ended);
        let mut ended: Vec<Timestamp> = ended.collect();
        if ended.len() <= ENDED {
            return;
        }
        ended.sort_unstable();
        let last_to_go = ended[ended.len() - ENDED - 1];
        self.entries
            .retain(|_, entry| entry.ended.is_none_or(|ended| ended > last_to_go));
    }
}

impl Entry {
    fn new(alert: Arc<Alert>) -> Self {
        Self {
            alert,
            ended: None,
            told: None,
            reworded: false,
            held: None,
        }
    }

    /// It fires, and this is what it says.
    fn fires(&mut self, alert: &Arc<Alert>) {
        if self.ended.take().is_some() {
            self.told = None;
            self.reworded = false;
        } else if self.alert != *alert {
            self.reworded = true;
        }
        self.alert = Arc::clone(alert);
    }

    /// The end that is told now. An Alertmanager may take it even where no
    /// answer comes.
    fn announce(&mut self, now: Moment) -> Timestamp {
        if let Some(ended) = self.ended {
            return ended;
        }
        self.held = Some(now.steady + VALID);
        now.wall.saturating_add(VALID).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests;
