//! Where each key of the queue is, and how it gets from one place to another.
//! Plain values; why it goes there is [`super::state`]'s matter.
//!
//! A key has one place at a time, and is in no list but that of its place, so
//! memory is bounded by the number of bindings. In here it goes by a number, which
//! costs less to find and to keep than a name.

use std::collections::BTreeMap;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::room::{ROOMS, Room};
use super::state::Lane;
use crate::domain::dense::Dense;
use crate::domain::names::BindingKey;

/// Least time between two starts of one key: a burst runs the first at once, then one
/// run for all that came meanwhile. One that somebody asks for waits for no other than
/// such a one.
pub(super) const SPACING: Duration = Duration::from_millis(300);

const LANES: usize = 5;
const WEIGHTS: [u32; LANES] = [32, 16, 4, 1, 1];

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Place {
    Idle,
    /// `firm` is a back-off, which only an edit of the binding cuts short.
    Delayed {
        until: Instant,
        lane: Lane,
        firm: bool,
    },
    Queued {
        lane: Lane,
        /// When it became due.
        since: Instant,
    },
    Parked(Room),
    Running {
        again: Option<Again>,
        gone: bool,
        /// It was kept from trying what this room waits for.
        denied: Option<Room>,
    },
}

/// What was asked for: during a run, or now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Again {
    pub(super) lane: Lane,
    /// The binding's owner changed the binding itself.
    pub(super) edited: bool,
}

/// The number of a key, for as long as anything is known of it.
pub(super) type Slot = usize;

/// What is known of a key.
#[derive(Debug)]
pub(super) struct Entry {
    key: BindingKey,
    pub(super) place: Place,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Number of the place: its key in a lane, in the delays or in a room.
    ticket: u64,
    started: Option<Instant>,
    /// When it was started last because of something that somebody asked for.
    asked: Option<Instant>,
}

/// What happened to keys, for whoever counts it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// So many became due.
    pub adds: u64,
    /// So many failed, or found that what they saw had changed.
    pub retries: u64,
    /// How long the last one to start had been due.
    pub waited: Option<Duration>,
}

impl Entry {
    /// The earliest time of the next start in this lane. A look that came by itself
    /// is no reason for a change to wait.
    pub(super) fn due(&self, lane: Lane, now: Instant) -> Instant {
        let last = match lane {
            Lane::Period => self.started,
            _ => self.asked,
        };
        last.map_or(now, |last| last + SPACING)
    }

    /// How long it has run, if it runs.
    pub(super) fn running_for(&self, now: Instant) -> Option<Duration> {
        let started = matches!(self.place, Place::Running { .. }).then_some(self.started)?;
        started.map(|started| now.saturating_duration_since(started))
    }
}

/// All keys, each in its place.
#[derive(Debug)]
pub(super) struct Places {
    slots: Dense<BindingKey, Slot>,
    entries: Slab<Entry>,
    lanes: [BTreeMap<u64, Slot>; LANES],
    credit: [u32; LANES],
    delays: BTreeMap<(Instant, u64), Slot>,
    parked: [BTreeMap<u64, Slot>; ROOMS.len()],
    tickets: u64,
    pub(super) tally: Tally,
}

impl Places {
    pub(super) fn new() -> Self {
        Self {
            slots: Dense::default(),
            entries: Slab::new(),
            lanes: Default::default(),
            credit: WEIGHTS,
            delays: BTreeMap::new(),
            parked: Default::default(),
            tickets: 0,
            tally: Tally::default(),
        }
    }

    /// The number of the key, from now on at least.
    pub(super) fn slot(&mut self, key: &BindingKey) -> Slot {
        if let Some(slot) = self.find(key) {
            return slot;
        }
        // By an eighth: there is one for each binding, and twice as much is a lot.
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact((self.entries.len() / 8).max(1));
        }
        let slot = self.entries.insert(Entry {
            key: key.clone(),
            place: Place::Idle,
            failures: 0,
            ticket: 0,
            started: None,
            asked: None,
        });
        self.slots.insert(key.clone(), slot);
        slot
    }

    /// The number of the key, if anything is known of it.
    pub(super) fn find(&self, key: &BindingKey) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    /// What is known of the key.
    pub(super) fn entry(&mut self, slot: Slot) -> &mut Entry {
        &mut self.entries[slot]
    }

    /// The key of that number.
    pub(super) fn key(&self, slot: Slot) -> &BindingKey {
        &self.entries[slot].key
    }

    /// What is known of the key, if anything is.
    pub(super) fn look(&self, key: &BindingKey) -> Option<&Entry> {
        self.entries.get(self.find(key)?)
    }

    /// What is known of all keys.
    pub(super) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// Drops what is known of the key.
    pub(super) fn remove(&mut self, slot: Slot) {
        self.leave(slot);
        let entry = self.entries.remove(slot);
        self.slots.remove(&entry.key);
    }

    /// One more failure; says how many there were in a row.
    pub(super) fn failed(&mut self, slot: Slot) -> u32 {
        self.tally.retries += 1;
        let entry = self.entry(slot);
        entry.failures = entry.failures.saturating_add(1);
        entry.failures
    }

    /// Puts the key there, at the end of the list of that place.
    pub(super) fn put(&mut self, slot: Slot, place: Place) {
        self.leave(slot);
        self.tickets += 1;
        let ticket = self.tickets;
        match place {
            Place::Idle | Place::Running { .. } => {}
            Place::Delayed { until, .. } => {
                self.delays.insert((until, ticket), slot);
            }
            Place::Queued { lane, .. } => {
                self.lanes[lane as usize].insert(ticket, slot);
            }
            Place::Parked(room) => {
                self.parked[room as usize].insert(ticket, slot);
            }
        }
        let entry = self.entry(slot);
        entry.place = place;
        entry.ticket = ticket;
    }

    /// Takes the key out of the list of its place.
    fn leave(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot];
        match std::mem::replace(&mut entry.place, Place::Idle) {
            Place::Idle | Place::Running { .. } => {}
            Place::Delayed { until, .. } => {
                self.delays.remove(&(until, entry.ticket));
            }
            Place::Queued { lane, .. } => {
                self.lanes[lane as usize].remove(&entry.ticket);
            }
            Place::Parked(room) => {
                self.parked[room as usize].remove(&entry.ticket);
            }
        }
    }

    /// Puts the key into its lane when it is due, and not before its spacing
    /// is over.
    pub(super) fn schedule(&mut self, slot: Slot, due: Instant, lane: Lane, now: Instant) {
        let until = self.entry(slot).due(lane, now).max(due);
        if until <= now {
            self.queue(slot, lane, now);
        } else {
            let firm = false;
            self.put(slot, Place::Delayed { until, lane, firm });
        }
    }

    /// The same after a delay that only an edit cuts short.
    pub(super) fn back_off(&mut self, slot: Slot, delay: Duration, now: Instant) {
        let (lane, firm) = (Lane::Normal, true);
        let until = self.entry(slot).due(lane, now).max(now + delay);
        self.put(slot, Place::Delayed { until, lane, firm });
    }

    /// When within this time the delay of another key ends, or at its end, where
    /// others may join in: looks that come together cost less than as many that each
    /// wake the process up.
    pub(super) fn together(&self, due: Instant, within: Duration) -> Instant {
        let last = due + within;
        let mut ends = self.delays.range((due, 0)..=(last, u64::MAX));
        ends.next().map_or(last, |((until, _), _)| *until)
    }

    /// When the next delay ends.
    pub(super) fn next_delay(&self) -> Option<Instant> {
        self.delays.first_key_value().map(|((until, _), _)| *until)
    }

    /// Moves what has become due into the lanes.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(((until, _), slot)) = self.delays.first_key_value()
            && *until <= now
        {
            let (slot, until) = (*slot, *until);
            let lane = match self.entry(slot).place {
                Place::Delayed { lane, .. } => lane,
                _ => Lane::Bulk,
            };
            self.queue(slot, lane, until);
        }
    }

    /// Puts the key into the lane: it has been due since then.
    fn queue(&mut self, slot: Slot, lane: Lane, since: Instant) {
        let since = match self.entry(slot).place {
            // One that only changes its lane was due before.
            Place::Queued { since, .. } => since,
            _ => {
                self.tally.adds += 1;
                since
            }
        };
        self.put(slot, Place::Queued { lane, since });
    }

    /// Starts the front of the lane whose turn it is.
    pub(super) fn start(&mut self, now: Instant) -> Option<(BindingKey, Lane)> {
        let slot = self.pick()?;
        let entry = self.entry(slot);
        let (lane, since) = match entry.place {
            Place::Queued { lane, since } => (lane, Some(since)),
            _ => (Lane::Bulk, None),
        };
        entry.place = Place::Running {
            again: None,
            gone: false,
            denied: None,
        };
        entry.started = Some(now);
        if lane != Lane::Period {
            entry.asked = Some(now);
        }
        let key = entry.key.clone();
        self.tally.waited = since.map(|since| now.saturating_duration_since(since));
        Some((key, lane))
    }

    fn pick(&mut self) -> Option<Slot> {
        for _ in 0..2 {
            for lane in 0..LANES {
                if self.credit[lane] > 0
                    && let Some((_, slot)) = self.lanes[lane].pop_first()
                {
                    self.credit[lane] -= 1;
                    return Some(slot);
                }
            }
            self.credit = WEIGHTS;
        }
        None
    }

    /// When the first of those began that run now.
    pub(super) fn first_start(&self) -> Option<Instant> {
        let running = self.all();
        let running = running.filter(|entry| matches!(entry.place, Place::Running { .. }));
        running.filter_map(|entry| entry.started).min()
    }

    /// Whether anything is due that somebody waits for.
    pub(super) fn hurries(&self) -> bool {
        let urgent = &self.lanes[Lane::Urgent as usize];
        let normal = &self.lanes[Lane::Normal as usize];
        !urgent.is_empty() || !normal.is_empty()
    }

    /// How many are in the lanes.
    pub(super) fn queued(&self) -> usize {
        self.lanes.iter().map(BTreeMap::len).sum()
    }

    /// Whether anybody waits there.
    pub(super) fn waits(&self, room: Room) -> bool {
        !self.parked[room as usize].is_empty()
    }

    /// Of those who wait there the one that has failed least, and longest.
    pub(super) fn least_failed(&self, room: Room) -> Option<Slot> {
        let parked = self.parked[room as usize].iter();
        parked
            .min_by_key(|(ticket, slot)| (self.entries[**slot].failures, **ticket))
            .map(|(_, slot)| *slot)
    }

    /// All who wait there, in the order of their arrival.
    pub(super) fn all_parked(&self, room: Room) -> Vec<Slot> {
        self.parked[room as usize].values().copied().collect()
    }

    /// Whether nothing at all is known any more.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.slots.is_empty()
            && self.delays.is_empty()
            && self.lanes.iter().all(BTreeMap::is_empty)
            && self.parked.iter().all(BTreeMap::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_keys_there_are_no_more_than_an_eighth_of_their_room_is_empty() {
        assert!(size_of::<Entry>() <= 80, "{}", size_of::<Entry>());
        let mut places = Places::new();
        for n in 0..5_000 {
            places.slot(&BindingKey::new("shop", format!("web-{n}")));
            let (len, room) = (places.entries.len(), places.entries.capacity());
            assert!(room <= len + len / 8 + 1, "room for {room} of {len}");
        }
    }
}
