//! The queue between everything that asks for a look at a binding and kube's
//! `Controller`, which runs what the queue releases.
//!
//! kube's own scheduler has no order once its limit is reached; so keys wait
//! here, and at most as many are released as may run.

mod places;
pub mod room;
pub mod state;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::domain::names::BindingKey;
use crate::metrics::workqueue::Workqueue;
use room::Room;
use state::{Lane, Next, Standing, State};

/// How often whoever waits for a key goes round at least, as a sign of life.
const ROUND: Duration = Duration::from_secs(5);

/// The queue.
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    asked: Mutex<Option<Asked>>,
    metrics: Workqueue,
}

/// When somebody asked for a key, or went on waiting for one.
#[derive(Clone, Copy)]
struct Asked {
    first: Instant,
    last: Instant,
}

impl Queue {
    /// A queue that releases at most `limit` keys at once.
    pub fn new(limit: usize, metrics: Workqueue) -> Self {
        Self {
            state: Mutex::new(State::new(limit)),
            changed: Notify::new(),
            asked: Mutex::new(None),
            metrics,
        }
    }

    /// Asks for a look at the key. Never blocks.
    pub fn add(&self, key: &BindingKey, lane: Lane) {
        self.lock().add(key, lane, Instant::now());
        self.changed.notify_one();
    }

    /// The same because its owner changed the binding itself, so that it does
    /// not wait for what it failed with before. Never blocks.
    pub fn edited(&self, key: &BindingKey, lane: Lane) {
        self.lock().edited(key, lane, Instant::now());
        self.changed.notify_one();
    }

    /// The run of the key has ended; `worked` names what it found working.
    pub fn done(&self, key: &BindingKey, next: Next, worked: &[Room]) {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(took) = state.running_for(key, now) {
            self.metrics.worked(took);
        }
        state.done(key, next, worked, fastrand::f64(), now);
        drop(state);
        self.changed.notify_one();
    }

    /// What the room waits for was found working, by somebody else than a run.
    pub fn works(&self, room: Room) {
        self.lock().works(room, fastrand::f64(), Instant::now());
        self.changed.notify_one();
    }

    /// Whether the running key may try what the room waits for.
    pub fn may_try(&self, key: &BindingKey, room: Room) -> bool {
        self.lock().may_try(key, room)
    }

    /// Drops what is known of a key that no longer exists.
    pub fn forget(&self, key: &BindingKey) {
        self.lock().forget(key);
        self.changed.notify_one();
    }

    /// Where the key is, if anything is known of it.
    pub fn standing(&self, key: &BindingKey) -> Option<Standing> {
        self.lock().standing(key)
    }

    /// Whether what can wait should give way to others.
    pub fn is_busy(&self) -> bool {
        self.lock().is_busy()
    }

    /// How many keys are due, and how many run.
    pub fn depth(&self) -> (usize, usize) {
        self.lock().depth()
    }

    /// How long ago somebody asked for a key, or went on waiting for one:
    /// whoever runs what is released does so every few seconds. Nothing before
    /// the first time.
    pub fn asked_ago(&self) -> Option<Duration> {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.map(|asked| asked.last.elapsed())
    }

    /// For how long the key has run that has run longest.
    pub fn longest_run(&self) -> Option<Duration> {
        self.lock().longest_run(Instant::now())
    }

    /// For how long runs have been under way: all together, and the longest.
    pub fn under_way(&self) -> (Duration, Duration) {
        self.lock().under_way(Instant::now())
    }

    /// Waits for the next key, and says which lane it comes from. One consumer only.
    pub async fn next(&self) -> (BindingKey, Lane) {
        loop {
            let asked_for = self.note_asked();
            let (started, wake) = {
                let mut state = self.lock();
                let started = state.release(fastrand::f64(), Instant::now());
                let tally = state.take_tally();
                self.metrics.grew(tally.adds, tally.retries);
                if let Some(waited) = tally.waited {
                    // A standby has keys for hours, and nobody looks at them before it
                    // leads: then the key waited for another replica.
                    self.metrics.waited(waited.min(asked_for));
                }
                (started, state.next_wake())
            };
            if let Some(started) = started {
                return started;
            }
            let round = Instant::now() + ROUND;
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(wake.map_or(round, |wake| wake.min(round))) => {}
            }
        }
    }

    /// Notes that somebody asks for a key; says for how long keys have been asked
    /// for. Only the first time counts: who no longer leads ends its process.
    fn note_asked(&self) -> Duration {
        let last = Instant::now();
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let first = asked.map_or(last, |asked| asked.first);
        *asked = Some(Asked { first, last });
        last - first
    }

    /// The state holds no invariant that a panic elsewhere could have broken
    /// half-way, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
