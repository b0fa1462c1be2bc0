//! Which binding runs next: the state behind the queue, as plain values with
//! time as an argument.
//!
//! A key is in here at most once, so memory is bounded by the number of
//! bindings. Lanes are strictly first in, first out, and share the releases
//! 8:4:1, so that bulk work neither delays an urgent key nor starves.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::names::BindingKey;
use crate::domain::retry;

/// Least time between two starts of one key: a burst runs the first at once,
/// then one run for all that came meanwhile.
pub(crate) const SPACING: Duration = Duration::from_millis(300);

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

/// What many keys may wait for together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Room {
    /// The catalog answers again.
    Catalog,
    /// The API server takes writes of mesh objects again.
    Writes,
}

const ROOMS: [Room; 2] = [Room::Catalog, Room::Writes];

/// Most keys that find out at once whether what they wait for is back.
const MOST_PROBES: u32 = 16;

/// Keys that wait for one thing.
#[derive(Debug, Default)]
struct WaitingRoom {
    parked: VecDeque<BindingKey>,
    probes: HashSet<BindingKey>,
    attempt: u32,
    next_probe: Option<Instant>,
}

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Idle,
    Delayed {
        until: Instant,
        lane: Lane,
    },
    Queued {
        lane: Lane,
    },
    Parked(Room),
    Running {
        /// A look was asked for meanwhile.
        again: Option<Lane>,
        /// The key was forgotten meanwhile.
        gone: bool,
    },
}

#[derive(Debug)]
struct Entry {
    place: Place,
    /// Number of the place, so that a stale mention of the key in a lane or
    /// in the delays is told from the valid one.
    ticket: u64,
    started: Option<Instant>,
    failures: u32,
}

/// What comes after a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// Nothing until somebody asks.
    Wait,
    /// Another look after this time.
    After(Duration),
    /// Another look after a delay that grows with each failure in a row.
    Failed,
    /// Another look when what the room waits for is back.
    Park(Room),
}

/// The state behind the queue.
#[derive(Debug)]
pub struct State {
    entries: HashMap<BindingKey, Entry>,
    lanes: [VecDeque<(u64, BindingKey)>; LANES],
    credit: [u32; LANES],
    delays: BinaryHeap<Reverse<(Instant, u64, BindingKey)>>,
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
            delays: BinaryHeap::new(),
            rooms: Default::default(),
            tickets: 0,
            running: 0,
            limit,
        }
    }

    /// Asks for a look at the key, as soon as spacing and lanes allow.
    pub fn add(&mut self, key: &BindingKey, lane: Lane, now: Instant) {
        let entry = self.entry(key);
        match entry.place {
            Place::Running { again, .. } => {
                entry.place = Place::Running {
                    again: Some(again.map_or(lane, |a| a.min(lane))),
                    gone: false,
                };
            }
            Place::Queued { lane: present } if present <= lane => {}
            _ => {
                let due = entry.started.map_or(now, |s| s + SPACING);
                self.schedule(key, due, lane, now);
            }
        }
    }

    /// The next key, if one is due and fewer than the limit are running.
    pub fn release(&mut self, now: Instant) -> Option<BindingKey> {
        self.wake(now);
        if self.running >= self.limit {
            return None;
        }
        let key = self.pick()?;
        let entry = self.entry(&key);
        entry.place = Place::Running {
            again: None,
            gone: false,
        };
        entry.started = Some(now);
        self.running += 1;
        Some(key)
    }

    /// When the next delay ends, for the caller to sleep until.
    pub fn next_wake(&self) -> Option<Instant> {
        let delay = self.delays.peek().map(|Reverse((until, ..))| *until);
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
        let Place::Running { again, gone } = entry.place else {
            return;
        };
        entry.place = Place::Idle;
        entry.failures = if next == Next::Failed {
            entry.failures + 1
        } else {
            0
        };
        let failures = entry.failures;
        self.running -= 1;
        for room in ROOMS {
            let was_probe = self.rooms[room as usize].probes.remove(key);
            if was_probe && worked.contains(&room) {
                self.open(room, now);
            } else if was_probe {
                self.arm(room, chance, now);
            }
        }
        if gone {
            self.entries.remove(key);
            return;
        }
        match next {
            Next::Park(room) => self.park(key, room, chance, now),
            Next::After(delay) => self.schedule(key, now + delay, Lane::Bulk, now),
            Next::Failed => self.schedule(
                key,
                now + retry::BINDING.delay(failures, chance),
                Lane::Normal,
                now,
            ),
            Next::Wait => {}
        }
        // What was asked for during the run comes first. A failing key does
        // not get around its delay that way, nor a parked one its room, but
        // for what waits for neither: a deletion.
        if let Some(lane) = again
            && (lane == Lane::Urgent || !matches!(next, Next::Failed | Next::Park(_)))
        {
            self.add(key, lane, now);
        }
    }

    /// Whether the key may try what the room waits for: while others wait,
    /// only those that were sent to find out may.
    pub fn may_try(&self, key: &BindingKey, room: Room) -> bool {
        let room = &self.rooms[room as usize];
        room.parked.len() < 3 || room.probes.contains(key)
    }

    /// Drops what is known of a key that no longer exists.
    pub fn forget(&mut self, key: &BindingKey) {
        if let Some(entry) = self.entries.get_mut(key)
            && let Place::Running { .. } = entry.place
        {
            entry.place = Place::Running {
                again: None,
                gone: true,
            };
            return;
        }
        self.entries.remove(key);
        for room in &mut self.rooms {
            room.parked.retain(|k| k != key);
            room.probes.remove(key);
        }
    }

    /// Keys that are due or running.
    pub fn depth(&self) -> (usize, usize) {
        let queued = self
            .entries
            .values()
            .filter(|e| matches!(e.place, Place::Queued { .. }))
            .count();
        (queued, self.running)
    }

    fn entry(&mut self, key: &BindingKey) -> &mut Entry {
        self.entries.entry(key.clone()).or_insert(Entry {
            place: Place::Idle,
            ticket: 0,
            started: None,
            failures: 0,
        })
    }

    fn place(&mut self, key: &BindingKey, place: Place) -> u64 {
        self.tickets += 1;
        let ticket = self.tickets;
        let entry = self.entry(key);
        entry.place = place;
        entry.ticket = ticket;
        ticket
    }

    /// Puts the key into its lane when it is due; the earlier of two wins.
    fn schedule(&mut self, key: &BindingKey, due: Instant, lane: Lane, now: Instant) {
        if let Place::Parked(room) = self.entry(key).place {
            self.rooms[room as usize].parked.retain(|k| k != key);
        }
        if due <= now {
            let ticket = self.place(key, Place::Queued { lane });
            self.lanes[lane as usize].push_back((ticket, key.clone()));
            return;
        }
        if let Place::Delayed {
            until,
            lane: present,
        } = self.entry(key).place
            && until <= due
        {
            let urgent = present.min(lane);
            self.entry(key).place = Place::Delayed {
                until,
                lane: urgent,
            };
            return;
        }
        let ticket = self.place(key, Place::Delayed { until: due, lane });
        self.delays.push(Reverse((due, ticket, key.clone())));
    }

    /// Moves what has become due into the lanes.
    fn wake(&mut self, now: Instant) {
        while let Some(Reverse((until, ..))) = self.delays.peek()
            && *until <= now
        {
            let Some(Reverse((_, ticket, key))) = self.delays.pop() else {
                break;
            };
            if let Some(entry) = self.entries.get(&key)
                && entry.ticket == ticket
                && let Place::Delayed { lane, .. } = entry.place
            {
                self.schedule(&key, now, lane, now);
            }
        }
        for room in ROOMS {
            self.send_probes(room, now);
        }
    }

    /// The front of the lane whose turn it is.
    fn pick(&mut self) -> Option<BindingKey> {
        for _ in 0..2 {
            for lane in 0..LANES {
                while self.credit[lane] > 0
                    && let Some((ticket, key)) = self.lanes[lane].pop_front()
                {
                    let entry = self.entries.get(&key);
                    if entry.is_some_and(|e| {
                        e.ticket == ticket && matches!(e.place, Place::Queued { .. })
                    }) {
                        self.credit[lane] -= 1;
                        return Some(key);
                    }
                }
            }
            self.credit = WEIGHTS;
        }
        None
    }

    fn park(&mut self, key: &BindingKey, room: Room, chance: f64, now: Instant) {
        self.place(key, Place::Parked(room));
        self.rooms[room as usize].parked.push_back(key.clone());
        self.arm(room, chance, now);
    }

    /// Sets the time of the next probes, where somebody waits and none is set.
    fn arm(&mut self, room: Room, chance: f64, now: Instant) {
        let waiting = &mut self.rooms[room as usize];
        if waiting.next_probe.is_none() && !waiting.parked.is_empty() {
            waiting.attempt += 1;
            waiting.next_probe = Some(now + retry::PROBE.delay(waiting.attempt, chance));
        }
    }

    /// Sends a few of those who wait to find out; more with each try, so that
    /// some that fail for a reason of their own do not keep the others waiting.
    fn send_probes(&mut self, room: Room, now: Instant) {
        let waiting = &mut self.rooms[room as usize];
        // Whoever went to find out was forgotten: another one has to go.
        if waiting.probes.is_empty() {
            self.arm(room, 0.5, now);
        }
        let waiting = &mut self.rooms[room as usize];
        if waiting.next_probe.is_none_or(|due| due > now) {
            return;
        }
        waiting.next_probe = None;
        let count = 1u32
            .checked_shl(waiting.attempt - 1)
            .unwrap_or(MOST_PROBES)
            .min(MOST_PROBES) as usize;
        let count = count.min(waiting.parked.len());
        let keys: Vec<_> = waiting.parked.drain(..count).collect();
        waiting.probes.extend(keys.iter().cloned());
        for key in keys {
            self.schedule(&key, now, Lane::Normal, now);
        }
    }

    /// What the room waited for is back.
    fn open(&mut self, room: Room, now: Instant) {
        let waiting = std::mem::take(&mut self.rooms[room as usize]);
        for key in waiting.parked {
            self.schedule(&key, now, Lane::Bulk, now);
        }
    }
}

#[cfg(test)]
mod forgotten {
    use super::*;

    fn key(name: &str) -> BindingKey {
        BindingKey {
            namespace: "ns".to_owned(),
            name: name.to_owned(),
        }
    }

    /// Runs the key, which then waits for the catalog.
    fn park(state: &mut State, name: &str, now: Instant) {
        state.add(&key(name), Lane::Normal, now);
        assert_eq!(state.release(now), Some(key(name)));
        state.done(&key(name), Next::Park(Room::Catalog), &[], 0.5, now);
    }

    #[test]
    fn those_who_wait_are_not_forgotten_with_the_one_that_went_to_find_out() {
        let mut state = State::new(1);
        let now = Instant::now();
        park(&mut state, "a", now);
        park(&mut state, "b", now);
        let due = state.next_wake().unwrap();
        // It is on its way, but waits for its turn.
        state.add(&key("busy"), Lane::Normal, now);
        assert_eq!(state.release(now), Some(key("busy")));
        assert_eq!(state.release(due), None);
        state.forget(&key("a"));
        state.done(&key("busy"), Next::Wait, &[], 0.5, due);

        assert_eq!(state.release(due), None);
        let due = state.next_wake().unwrap();
        assert_eq!(state.release(due), Some(key("b")));
    }

    #[test]
    fn nothing_is_kept_of_a_key_that_is_forgotten_while_it_runs() {
        let mut state = State::new(1);
        let now = Instant::now();
        state.add(&key("a"), Lane::Normal, now);
        assert_eq!(state.release(now), Some(key("a")));
        state.forget(&key("a"));
        state.done(&key("a"), Next::After(SPACING), &[], 0.5, now);
        assert_eq!(state.entries.len(), 0);
    }

    #[test]
    fn a_key_that_came_back_while_it_ran_runs_again() {
        let mut state = State::new(1);
        let now = Instant::now();
        state.add(&key("a"), Lane::Normal, now);
        assert_eq!(state.release(now), Some(key("a")));
        state.forget(&key("a"));
        state.add(&key("a"), Lane::Normal, now);
        state.done(&key("a"), Next::Wait, &[], 0.5, now);
        assert_eq!(state.release(now + SPACING), Some(key("a")));
    }

    #[test]
    fn a_deletion_that_comes_during_a_run_waits_for_no_room_and_no_delay() {
        for next in [Next::Park(Room::Catalog), Next::Failed] {
            let mut state = State::new(1);
            let now = Instant::now();
            state.add(&key("a"), Lane::Normal, now);
            assert_eq!(state.release(now), Some(key("a")));
            state.add(&key("a"), Lane::Urgent, now);
            state.done(&key("a"), next, &[], 1.0, now);
            assert_eq!(state.release(now + SPACING), Some(key("a")), "{next:?}");
        }
    }
}
