//! Whether something that many keys need is away, and when one of them finds
//! out. Plain values with time as an argument.
//!
//! One key that fails proves nothing: its own record may be at fault. Several
//! that did not fail before, with no success in between, are an outage; then
//! the others wait instead of finding out each for itself.

use std::collections::HashSet;

use tokio::time::Instant;

use crate::domain::names::BindingKey;
use crate::domain::retry::{self, Backoff};

/// What many keys may wait for together.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Room {
    /// The catalog answers again.
    Catalog,
    /// The API server takes writes of mesh objects again.
    Writes,
    /// The operator is granted a right that it lacked. It has others: who has
    /// not failed tries, and his success says nothing about that right.
    Rights,
}

pub(super) const ROOMS: [Room; 3] = [Room::Catalog, Room::Writes, Room::Rights];

/// Keys that fail anew, one after the other and with no success in between,
/// until it is taken for an outage.
const DOUBTS: u32 = 3;

/// Most keys that are under way to find out: more than one only where the
/// answer takes longer than the time between two. As many as that time goes
/// into the deadline of a request.
const MOST_PROBES: usize = 8;

/// What is known of one thing that many keys need.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    pub(super) away: bool,
    /// Sent to find out.
    pub(super) probes: HashSet<BindingKey>,
    pub(super) next_probe: Option<Instant>,
    doubts: u32,
    attempt: u32,
}

impl WaitingRoom {
    /// A key failed, for so many times in a row now. Says whether that makes
    /// it an outage.
    pub(super) fn doubt(&mut self, failures: u32) -> bool {
        // One that fails again and again is no news.
        if failures == 1 {
            self.doubts = self.doubts.saturating_add(1);
        }
        self.away = self.doubts >= DOUBTS;
        self.away
    }

    /// How a key that failed by itself is tried again: while nobody knows any
    /// better, it finds out for all.
    pub(super) fn backoff(&self) -> Backoff {
        if self.doubts > 0 {
            retry::PROBE
        } else {
            retry::BINDING
        }
    }

    /// Sets the time of the next probe, where none is set.
    pub(super) fn arm(&mut self, chance: f64, now: Instant) {
        if self.away && self.next_probe.is_none() {
            self.attempt = self.attempt.saturating_add(1);
            self.next_probe = Some(now + retry::PROBE.delay(self.attempt, chance));
        }
    }

    /// Whether it is time to send one, which clears that time.
    pub(super) fn probe_due(&mut self, now: Instant) -> bool {
        self.next_probe.take_if(|due| *due <= now).is_some()
    }

    /// Whether as many are under way as may be.
    pub(super) fn enough_probes(&self) -> bool {
        self.probes.len() >= MOST_PROBES
    }
}
