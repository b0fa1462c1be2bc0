//! Which binding runs next: the state behind the queue, as plain values with
//! time as an argument.
//!
//! A key is in here at most once, so memory is bounded by the number of
//! bindings. Lanes are strictly first in, first out, and share the releases
//! 8:4:1, so that bulk work neither delays an urgent key nor starves.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::room::{ROOMS, Room, WaitingRoom};
use crate::domain::names::BindingKey;
use crate::domain::retry;

/// Least time between two starts of one key: a burst runs the first at once,
/// then one run for all that came meanwhile.
pub(crate) const SPACING: Duration = Duration::from_millis(300);

/// What was seen has changed under way: so many looks in a row come at once,
/// the following ones back off.
const STALE_AT_ONCE: u32 = 3;

/// Failures during an outage say little about the key itself: no more than so
/// many count for its delay when the outage is over.
const MOST_SUSPECTED: u32 = 3;

/// How urgent a look is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Deletions, withdrawals, health.
    Urgent,
    /// Changes that somebody made.
    Normal,
    /// First lists, periods, catching up.
    Bulk,
}

const LANES: usize = 3;
const WEIGHTS: [u32; LANES] = [8, 4, 1];

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Idle,
    /// `firm` is a back-off, which only an edit of the binding cuts short.
    Delayed {
        until: Instant,
        lane: Lane,
        firm: bool,
    },
    Queued {
        lane: Lane,
    },
    Parked(Room),
    Running {
        again: Option<Again>,
        gone: bool,
        /// It was kept from trying what this room waits for.
        denied: Option<Room>,
    },
}

/// What was asked for during a run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Again {
    lane: Lane,
    edited: bool,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    /// Number of the place: its key in a lane, in the delays or in a room.
    ticket: u64,
    started: Option<Instant>,
    /// Failures in a row.
    failures: u32,
}

/// What comes after a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Nothing until somebody asks.
    Wait,
    /// Another look after this time.
    After(Duration),
    /// Another look at once: what was seen has changed under way.
    Stale,
    /// Another look after a delay that grows with each failure in a row.
    Failed,
    /// Another look when what the room waits for is back.
    Park(Room),
}

/// The state behind the queue.
#[derive(Debug)]
pub struct State {
    entries: HashMap<BindingKey, Entry>,
    lanes: [BTreeMap<u64, BindingKey>; LANES],
    credit: [u32; LANES],
    delays: BTreeMap<(Instant, u64), BindingKey>,
    rooms: [WaitingRoom; ROOMS.len()],
    tickets: u64,
    running: usize,
    limit: usize,
}

impl State {
    /// An empty queue that releases at most `limit` keys at once.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            lanes: Default::default(),
            credit: WEIGHTS,
            delays: BTreeMap::new(),
            rooms: Default::default(),
            tickets: 0,
            running: 0,
            limit,
        }
    }

    /// Asks for a look at the key, as soon as spacing, back-off and lanes
    /// allow.
    pub fn add(&mut self, key: &BindingKey, lane: Lane, now: Instant) {
        let edited = false;
        self.ask(key, Again { lane, edited }, now);
    }

    /// The same because its owner changed the binding itself: what it failed
    /// with before says nothing any more.
    pub fn edited(&mut self, key: &BindingKey, lane: Lane, now: Instant) {
        self.ask(key, Again { lane, edited: true }, now);
    }

    fn ask(&mut self, key: &BindingKey, asked: Again, now: Instant) {
        let entry = self.entry(key);
        if asked.edited {
            entry.failures = 0;
        }
        match entry.place {
            Place::Running {
                again,
                denied,
                gone: _,
            } => {
                let again = again.map_or(asked, |a| Again {
                    lane: a.lane.min(asked.lane),
                    edited: a.edited || asked.edited,
                });
                entry.place = Place::Running {
                    again: Some(again),
                    gone: false,
                    denied,
                };
            }
            Place::Queued { lane } if lane <= asked.lane => {}
            Place::Delayed {
                until,
                lane,
                firm: true,
            } if !asked.edited => {
                entry.place = Place::Delayed {
                    until,
                    lane: lane.min(asked.lane),
                    firm: true,
                };
            }
            Place::Delayed { lane, .. } => {
                let due = entry.due(now);
                self.schedule(key, due, lane.min(asked.lane), now);
            }
            Place::Idle | Place::Queued { .. } | Place::Parked(_) => {
                let due = entry.due(now);
                self.schedule(key, due, asked.lane, now);
            }
        }
    }

    /// The next key, if one is due and fewer than the limit are running.
    pub fn release(&mut self, chance: f64, now: Instant) -> Option<BindingKey> {
        self.wake(chance, now);
        if self.running >= self.limit {
            return None;
        }
        let key = self.pick()?;
        let entry = self.entry(&key);
        entry.place = Place::Running {
            again: None,
            gone: false,
            denied: None,
        };
        entry.started = Some(now);
        self.running += 1;
        Some(key)
    }

    /// When the next delay ends, for the caller to sleep until.
    pub fn next_wake(&self) -> Option<Instant> {
        let delay = self.delays.first_key_value().map(|((until, _), _)| *until);
        let probe = self.rooms.iter().filter_map(|room| room.next_probe).min();
        delay.into_iter().chain(probe).min()
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
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let Place::Running {
            again,
            gone,
            denied,
        } = entry.place
        else {
            return;
        };
        entry.place = Place::Idle;
        self.running -= 1;
        for room in ROOMS {
            self.rooms[room as usize].probes.remove(key);
        }
        for room in worked {
            self.open(*room, chance, now);
        }
        if gone {
            self.entries.remove(key);
            return;
        }
        let edited = again.is_some_and(|again| again.edited);
        match next {
            Next::Wait => self.entry(key).failures = 0,
            Next::After(delay) => {
                let entry = self.entry(key);
                entry.failures = 0;
                let due = entry.due(now).max(now + delay);
                self.schedule(key, due, Lane::Bulk, now);
            }
            Next::Stale => self.stale(key, chance, now),
            Next::Failed => {
                let failures = self.failed(key);
                let delay = retry::BINDING.delay(failures, chance);
                self.back_off(key, delay, now);
            }
            Next::Park(room) => self.park(key, room, denied == Some(room), chance, now),
        }
        if let Some(again) = again {
            if edited {
                self.entry(key).failures = 0;
            }
            // A failing key does not get around its delay by what was asked
            // for during its run, nor a parked one its room: an edit does.
            if edited || !matches!(next, Next::Failed | Next::Park(_)) {
                self.ask(key, again, now);
            }
        }
    }

    /// Whether the running key may try what the room waits for: while that is
    /// away, only those that were sent to find out may.
    pub fn may_try(&mut self, key: &BindingKey, room: Room) -> bool {
        let waiting = &self.rooms[room as usize];
        if !waiting.away || waiting.probes.contains(key) {
            return true;
        }
        if let Some(entry) = self.entries.get_mut(key)
            && let Place::Running { denied, .. } = &mut entry.place
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
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if let Place::Running { denied, .. } = entry.place {
            entry.place = Place::Running {
                again: None,
                gone: true,
                denied,
            };
            return;
        }
        self.leave(key);
        self.entries.remove(key);
    }

    /// Keys that are due, and keys that run.
    pub fn depth(&self) -> (usize, usize) {
        (self.lanes.iter().map(BTreeMap::len).sum(), self.running)
    }

    /// Whether nothing at all is known any more.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.delays.is_empty()
            && self.lanes.iter().all(BTreeMap::is_empty)
            && self
                .rooms
                .iter()
                .all(|room| room.parked.is_empty() && room.probes.is_empty())
    }

    fn entry(&mut self, key: &BindingKey) -> &mut Entry {
        self.entries.entry(key.clone()).or_insert(Entry {
            place: Place::Idle,
            ticket: 0,
            started: None,
            failures: 0,
        })
    }

    /// One more failure of its own; says how many there were in a row.
    fn failed(&mut self, key: &BindingKey) -> u32 {
        let entry = self.entry(key);
        entry.failures = entry.failures.saturating_add(1);
        entry.failures
    }

    /// Takes the key out of whatever list its place is in.
    fn leave(&mut self, key: &BindingKey) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match std::mem::replace(&mut entry.place, Place::Idle) {
            Place::Idle | Place::Running { .. } => {}
            Place::Delayed { until, .. } => {
                self.delays.remove(&(until, entry.ticket));
            }
            Place::Queued { lane } => {
                self.lanes[lane as usize].remove(&entry.ticket);
            }
            Place::Parked(room) => {
                self.rooms[room as usize].parked.remove(&entry.ticket);
            }
        }
    }

    fn place(&mut self, key: &BindingKey, place: Place) {
        self.leave(key);
        self.tickets += 1;
        let ticket = self.tickets;
        match place {
            Place::Idle | Place::Running { .. } => {}
            Place::Delayed { until, .. } => {
                self.delays.insert((until, ticket), key.clone());
            }
            Place::Queued { lane } => {
                self.lanes[lane as usize].insert(ticket, key.clone());
            }
            Place::Parked(room) => {
                self.rooms[room as usize].parked.insert(ticket, key.clone());
            }
        }
        let entry = self.entry(key);
        entry.place = place;
        entry.ticket = ticket;
    }

    /// Puts the key into its lane when it is due.
    fn schedule(&mut self, key: &BindingKey, due: Instant, lane: Lane, now: Instant) {
        if due <= now {
            self.place(key, Place::Queued { lane });
        } else {
            let until = due;
            let firm = false;
            self.place(key, Place::Delayed { until, lane, firm });
        }
    }

    fn back_off(&mut self, key: &BindingKey, delay: Duration, now: Instant) {
        let until = self.entry(key).due(now).max(now + delay);
        let (lane, firm) = (Lane::Normal, true);
        self.place(key, Place::Delayed { until, lane, firm });
    }

    fn stale(&mut self, key: &BindingKey, chance: f64, now: Instant) {
        let failures = self.failed(key);
        let wait = match failures.checked_sub(STALE_AT_ONCE) {
            None | Some(0) => Duration::ZERO,
            Some(more) => retry::BINDING.delay(more, chance),
        };
        // Not firm: the event that says what is there now ends the wait.
        let due = self.entry(key).due(now).max(now + wait);
        self.schedule(key, due, Lane::Normal, now);
    }

    /// Moves what has become due into the lanes.
    fn wake(&mut self, chance: f64, now: Instant) {
        while let Some(((until, _), key)) = self.delays.first_key_value()
            && *until <= now
        {
            let key = key.clone();
            let lane = match self.entry(&key).place {
                Place::Delayed { lane, .. } => lane,
                _ => Lane::Bulk,
            };
            self.place(&key, Place::Queued { lane });
        }
        for room in ROOMS {
            self.send_probe(room, chance, now);
        }
    }

    /// The front of the lane whose turn it is.
    fn pick(&mut self) -> Option<BindingKey> {
        for _ in 0..2 {
            for lane in 0..LANES {
                if self.credit[lane] > 0
                    && let Some((_, key)) = self.lanes[lane].pop_first()
                {
                    self.credit[lane] -= 1;
                    return Some(key);
                }
            }
            self.credit = WEIGHTS;
        }
        None
    }

    /// The key could not do what the room waits for, or was not let.
    fn park(&mut self, key: &BindingKey, room: Room, denied: bool, chance: f64, now: Instant) {
        let waiting = &self.rooms[room as usize];
        if !waiting.away && denied {
            // What it waits for came back during its run.
            let due = self.entry(key).due(now);
            self.schedule(key, due, Lane::Normal, now);
            return;
        }
        if !denied {
            let failures = self.failed(key);
            let waiting = &mut self.rooms[room as usize];
            if !waiting.doubt(failures) {
                let delay = waiting.backoff().delay(failures, chance);
                self.back_off(key, delay, now);
                return;
            }
        }
        self.place(key, Place::Parked(room));
        self.rooms[room as usize].arm(chance, now);
    }

    /// Sends the one that waits and has failed least to find out.
    fn send_probe(&mut self, room: Room, chance: f64, now: Instant) {
        if !self.rooms[room as usize].probe_due(now) {
            return;
        }
        let entries = &self.entries;
        let failures = |key: &BindingKey| entries.get(key).map_or(0, |entry| entry.failures);
        let least = self.rooms[room as usize]
            .parked
            .iter()
            .filter(|_| !self.rooms[room as usize].enough_probes())
            .min_by_key(|(ticket, key)| (failures(key), **ticket))
            .map(|(_, key)| key.clone());
        if let Some(key) = least {
            let due = self.entry(&key).due(now);
            self.schedule(&key, due, Lane::Normal, now);
            self.rooms[room as usize].probes.insert(key);
        }
        // The next one does not wait for this one's answer: that may take
        // until its deadline, though the next would be answered at once.
        self.rooms[room as usize].arm(chance, now);
    }

    /// What the room waited for works.
    fn open(&mut self, room: Room, chance: f64, now: Instant) {
        let parked = self.rooms[room as usize].opened();
        for (_, key) in parked {
            let entry = self.entry(&key);
            entry.place = Place::Idle;
            let (failures, due) = (entry.failures, entry.due(now));
            if failures == 0 {
                self.schedule(&key, due, Lane::Bulk, now);
            } else {
                // It may fail for a reason of its own.
                let delay = retry::BINDING.delay(failures.min(MOST_SUSPECTED), chance);
                self.back_off(&key, delay, now);
            }
        }
    }
}

impl Entry {
    /// The earliest time of the next start.
    fn due(&self, now: Instant) -> Instant {
        self.started.map_or(now, |started| started + SPACING)
    }
}
