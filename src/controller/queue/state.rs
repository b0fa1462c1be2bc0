//! Which binding runs next: the rules of the queue, as plain values with time
//! as an argument.
//!
//! Lanes are strictly first in, first out, and share the releases 32:16:4:1:1, so
//! that bulk work neither delays an urgent key nor starves.

use std::time::Duration;

use tokio::time::Instant;

use super::places::{Again, Place, Places, Slot, Tally};
use super::room::{ROOMS, Room, WaitingRoom};
use crate::domain::names::BindingKey;
use crate::domain::retry;

/// What was seen has changed under way: so many looks in a row come at once,
/// the following ones back off.
const STALE_AT_ONCE: u32 = 3;

/// Failures during an outage say little about the key itself: no more than so
/// many count for its delay when the outage is over.
const MOST_SUSPECTED: u32 = 3;

/// A look that comes by itself may come so much later, together with others.
const TOGETHER: Duration = Duration::from_secs(1);

/// Where no more than so many run looks end as fast as they are asked for, however
/// few may run.
const CALM: usize = 2;

/// How urgent a look is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Deletions, withdrawals, health.
    Urgent,
    /// Changes that somebody made.
    Normal,
    /// First lists, catching up, and what may be other by now.
    Bulk,
    /// What is only to be said.
    Words,
    /// A period is over, and nobody has asked.
    Period,
}

/// What comes after a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Nothing until somebody asks.
    Wait,
    /// There is no such binding: unless somebody asked meanwhile, who may know of another
    /// one of its name, the key is forgotten.
    Gone,
    /// Another look after this time.
    After(Duration),
    /// All is as it should be: after this time it is seen whether it still is.
    Settled(Duration),
    /// Another look at once: what was seen has changed under way.
    Stale,
    /// Another look when nothing more urgent waits: all is written but what is
    /// said of it.
    Report,
    /// Another look after a delay that grows with each failure in a row.
    Failed,
    /// Another look when what the room waits for is back.
    Park(Room),
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// In words.
    pub place: &'static str,
    /// Until when, where that is known.
    pub until: Option<Instant>,
    /// Failures in a row.
    pub failures: u32,
}

/// The state behind the queue.
#[derive(Debug)]
pub struct State {
    places: Places,
    rooms: [WaitingRoom; ROOMS.len()],
    running: usize,
    limit: usize,
}

impl State {
    /// An empty queue that releases at most `limit` keys at once.
    pub fn new(limit: usize) -> Self {
        Self {
            places: Places::new(),
            rooms: Default::default(),
            running: 0,
            limit,
        }
    }

    /// Asks for a look at the key, as soon as spacing, back-off and lanes
    /// allow.
    pub fn add(&mut self, key: &BindingKey, lane: Lane, now: Instant) {
        let edited = false;
        let slot = self.places.slot(key);
        self.ask(slot, Again { lane, edited }, now);
    }

    /// The same because its owner changed the binding itself: what it failed
    /// with before says nothing any more.
    pub fn edited(&mut self, key: &BindingKey, lane: Lane, now: Instant) {
        let edited = true;
        let slot = self.places.slot(key);
        self.ask(slot, Again { lane, edited }, now);
    }

    fn ask(&mut self, slot: Slot, asked: Again, now: Instant) {
        let entry = self.places.entry(slot);
        if asked.edited {
            entry.failures = 0;
        }
        match &mut entry.place {
            Place::Running { again, gone, .. } => {
                *gone = false;
                *again = Some(again.map_or(asked, |before| Again {
                    lane: before.lane.min(asked.lane),
                    edited: before.edited || asked.edited,
                }));
            }
            Place::Queued { lane, .. } if *lane <= asked.lane => {}
            Place::Delayed {
                lane, firm: true, ..
            } if !asked.edited => *lane = asked.lane.min(*lane),
            Place::Delayed { lane, .. } => {
                let lane = asked.lane.min(*lane);
                self.places.schedule(slot, now, lane, now);
            }
            Place::Idle | Place::Queued { .. } | Place::Parked(_) => {
                self.places.schedule(slot, now, asked.lane, now);
            }
        }
    }

    /// The next key, if one is due and fewer than the limit are running, and the
    /// lane that it comes from.
    pub fn release(&mut self, chance: f64, now: Instant) -> Option<(BindingKey, Lane)> {
        self.places.wake(now);
        for room in ROOMS {
            self.send_probe(room, chance, now);
        }
        if self.running >= self.limit {
            return None;
        }
        let started = self.places.start(now)?;
        self.running += 1;
        Some(started)
    }

    /// When the next delay ends, for the caller to sleep until.
    pub fn next_wake(&self) -> Option<Instant> {
        let probe = self.rooms.iter().filter_map(|room| room.next_probe).min();
        self.places.next_delay().into_iter().chain(probe).min()
    }

    /// The run of the key has ended. `worked` names what it found working.
    pub fn done(
        &mut self,
        key: &BindingKey,
        next: Next,
        worked: &[Room],
        chance: f64,
        now: Instant,
    ) {
        let Some(slot) = self.places.find(key) else {
            return;
        };
        let entry = self.places.entry(slot);
        let Place::Running {
            again,
            gone,
            denied,
        } = entry.place
        else {
            return;
        };
        entry.place = Place::Idle;
        let failed_before = entry.failures > 0;
        self.running -= 1;
        for room in ROOMS {
            self.rooms[room as usize].probes.remove(key);
        }
        for room in worked {
            // Who never lacked a right has not found out about it.
            if *room != Room::Rights || failed_before {
                self.works(*room, chance, now);
            }
        }
        if gone || (next == Next::Gone && again.is_none()) {
            self.places.remove(slot);
            return;
        }
        match next {
            Next::Wait | Next::Gone => self.places.entry(slot).failures = 0,
            Next::After(delay) => self.again(slot, delay, Lane::Bulk, now),
            Next::Settled(delay) => self.again(slot, delay, Lane::Period, now),
            Next::Stale => self.stale(slot, chance, now),
            Next::Report => {
                self.places.entry(slot).failures = 0;
                self.places.schedule(slot, now, Lane::Words, now);
            }
            Next::Failed => {
                let failures = self.places.failed(slot);
                let delay = retry::BINDING.delay(failures, chance);
                self.places.back_off(slot, delay, now);
            }
            Next::Park(room) => self.park(slot, room, denied == Some(room), chance, now),
        }
        // A failing key does not get around its delay by what was asked for
        // during its run, nor a parked one its room: an edit does.
        if let Some(again) = again
            && (again.edited || !matches!(next, Next::Failed | Next::Park(_)))
        {
            self.ask(slot, again, now);
        }
    }

    /// Whether the running key may try what the room waits for: while that is
    /// away, only those that were sent to find out may.
    pub fn may_try(&mut self, key: &BindingKey, room: Room) -> bool {
        let waiting = &self.rooms[room as usize];
        if !waiting.away || waiting.probes.contains(key) {
            return true;
        }
        if let Some(slot) = self.places.find(key)
            && let Place::Running { denied, .. } = &mut self.places.entry(slot).place
        {
            *denied = Some(room);
        }
        false
    }

    /// Drops what is known of a key that no longer exists.
    pub fn forget(&mut self, key: &BindingKey) {
        for room in &mut self.rooms {
            room.probes.remove(key);
        }
        let Some(slot) = self.places.find(key) else {
            return;
        };
        match &mut self.places.entry(slot).place {
            Place::Running { again, gone, .. } => (*again, *gone) = (None, true),
            _ => self.places.remove(slot),
        }
    }

    /// How long the key has run by now, if it runs.
    pub fn running_for(&self, key: &BindingKey, now: Instant) -> Option<Duration> {
        self.places.look(key)?.running_for(now)
    }

    /// For how long runs have been under way: all together, and the longest.
    pub fn under_way(&self, now: Instant) -> (Duration, Duration) {
        let runs = self.places.all().filter_map(|entry| entry.running_for(now));
        runs.fold(Default::default(), |(all, longest), run| {
            (all + run, run.max(longest))
        })
    }

    /// What happened since this was asked last.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.places.tally)
    }

    /// Where the key is, if anything is known of it.
    pub fn standing(&self, key: &BindingKey) -> Option<Standing> {
        let entry = self.places.look(key)?;
        let (place, until) = match entry.place {
            Place::Idle => ("waits for a change", None),
            Place::Delayed { until, firm, .. } if firm => ("backs off", Some(until)),
            Place::Delayed { until, .. } => ("waits for its next look", Some(until)),
            Place::Queued { .. } => ("is due", None),
            Place::Parked(Room::Catalog) => ("waits for the catalog", None),
            Place::Parked(Room::Writes) => ("waits for the API server to take writes", None),
            Place::Parked(Room::Rights) => ("waits for a right that the operator lacks", None),
            Place::Running { .. } => ("is looked at", None),
        };
        Some(Standing {
            place,
            until,
            failures: entry.failures,
        })
    }

    /// Whether what can wait should: more than bulk work is due, or more runs
    /// than where looks end as fast as they are asked for.
    pub fn is_busy(&self) -> bool {
        self.places.hurries() || self.running > CALM.max(self.limit / 8)
    }

    /// Keys that are due, and keys that run.
    pub fn depth(&self) -> (usize, usize) {
        (self.places.queued(), self.running)
    }

    /// For how long the key has run that has run longest.
    pub fn longest_run(&self, now: Instant) -> Option<Duration> {
        let began = self.places.first_start()?;
        Some(now.saturating_duration_since(began))
    }

    /// Whether nothing at all is known any more.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.rooms.iter().all(|room| room.probes.is_empty())
    }

    fn again(&mut self, slot: Slot, delay: Duration, lane: Lane, now: Instant) {
        self.places.entry(slot).failures = 0;
        let within = TOGETHER.min(delay / 30);
        let due = self.places.together(now + delay, within);
        self.places.schedule(slot, due, lane, now);
    }

    fn stale(&mut self, slot: Slot, chance: f64, now: Instant) {
        let failures = self.places.failed(slot);
        let wait = match failures.checked_sub(STALE_AT_ONCE) {
            None | Some(0) => Duration::ZERO,
            Some(more) => retry::BINDING.delay(more, chance),
        };
        // Not firm: the event that says what is there now ends the wait.
        self.places.schedule(slot, now + wait, Lane::Normal, now);
    }

    /// The key could not do what the room waits for, or was not let.
    fn park(&mut self, slot: Slot, room: Room, denied: bool, chance: f64, now: Instant) {
        if denied && !self.rooms[room as usize].away {
            // What it waits for came back during its run.
            self.places.schedule(slot, now, Lane::Normal, now);
            return;
        }
        if !denied {
            let failures = self.places.failed(slot);
            let waiting = &mut self.rooms[room as usize];
            if !waiting.doubt(failures) {
                let delay = waiting.backoff().delay(failures, chance);
                self.places.back_off(slot, delay, now);
                return;
            }
        }
        self.places.put(slot, Place::Parked(room));
        self.rooms[room as usize].arm(chance, now);
    }

    /// Sends one that waits to find out, when it is time.
    fn send_probe(&mut self, room: Room, chance: f64, now: Instant) {
        let waiting = &mut self.rooms[room as usize];
        if !waiting.probe_due(now) {
            return;
        }
        if !waiting.enough_probes()
            && let Some(slot) = self.places.least_failed(room)
        {
            self.places.schedule(slot, now, Lane::Normal, now);
            waiting.probes.insert(self.places.key(slot).clone());
        }
        // The next one does not wait for this one's answer: that may take
        // until its deadline, though the next would be answered at once.
        if self.places.waits(room) {
            waiting.arm(chance, now);
        }
    }

    /// What the room waited for works.
    pub fn works(&mut self, room: Room, chance: f64, now: Instant) {
        self.rooms[room as usize] = WaitingRoom::default();
        for slot in self.places.all_parked(room) {
            let failures = self.places.entry(slot).failures;
            if failures == 0 {
                self.places.schedule(slot, now, Lane::Bulk, now);
            } else {
                // It may fail for a reason of its own.
                let delay = retry::BINDING.delay(failures.min(MOST_SUSPECTED), chance);
                self.places.back_off(slot, delay, now);
            }
        }
    }
}
