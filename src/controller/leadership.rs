//! May this process write, and in which term of leadership? Read by whoever
//! writes to the cluster or to the catalog; set by the elector.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, RwLock, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::clock::{Clock, MachineClock};
use crate::domain::election::Moment;

/// Wishes that wait for the elector; who has another waits with it.
const WAITING: usize = 64;

/// Longest that a suspended machine's timers may hide the end of a term.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A handle on the leadership of this process; clones share it.
#[derive(Clone, Debug)]
pub struct Leadership {
    term: Arc<watch::Sender<Option<Term>>>,
    clock: Arc<dyn Clock>,
    /// Where the elector is asked to change the Lease; without one, nobody
    /// contests the leadership.
    wishes: Option<mpsc::Sender<Wish>>,
    /// Held by every write under way.
    writes: Arc<RwLock<()>>,
    /// When the elector went round.
    round: Arc<Mutex<Option<Instant>>>,
    /// When the last request of the elector began that was answered.
    answered: Arc<Mutex<Option<std::time::Instant>>>,
}

/// A term of leadership.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Term {
    /// Its number; grows with every acquisition of the Lease.
    pub(super) epoch: u64,
    /// What leaders remember for their successors: annotations of the Lease.
    pub(super) notes: BTreeMap<String, String>,
    /// Since when it is certain, and for how long; `None` is for ever.
    pub(super) certain: Option<(Moment, Duration)>,
    /// Whether no new write may begin.
    pub(super) closing: bool,
}

/// What somebody wants changed in the Lease.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) change: Change,
    /// Gets the number of the term once it is stored; dropped otherwise.
    pub(super) stored: oneshot::Sender<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// This value under that name.
    Note(String, String),
    /// A number of the term that is greater than this.
    EpochAbove(u64),
}

/// Held by a write under way, so that the Lease is not let go of before it
/// has ended.
#[derive(Debug)]
pub(super) struct Pass(
    #[expect(dead_code, reason = "it is held, not read")] OwnedRwLockReadGuard<()>,
);

/// This process does not lead, or no longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this process does not lead")]
pub struct NotLeader;

impl Leadership {
    /// Leadership that nobody contests, of this epoch.
    pub fn granted(epoch: u64) -> Self {
        Self::uncontested(Some(Term {
            epoch,
            notes: BTreeMap::new(),
            certain: None,
            closing: false,
        }))
    }

    /// Leadership that this process will never have.
    pub fn withheld() -> Self {
        Self::uncontested(None)
    }

    fn uncontested(term: Option<Term>) -> Self {
        Self {
            term: Arc::new(watch::Sender::new(term)),
            clock: Arc::new(MachineClock),
            wishes: None,
            writes: Arc::default(),
            round: Arc::default(),
            answered: Arc::default(),
        }
    }

    /// Leadership that an elector gives and takes, which gets the wishes.
    pub(super) fn contested(clock: Arc<dyn Clock>) -> (Self, mpsc::Receiver<Wish>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let leadership = Self {
            clock,
            wishes: Some(sender),
            ..Self::withheld()
        };
        (leadership, receiver)
    }

    /// The number of the term, while it is certain that it lasts.
    pub fn epoch(&self) -> Option<u64> {
        let term = self.term.borrow();
        let term = term.as_ref().filter(|term| !term.closing)?;
        (self.left(term) > Duration::ZERO).then_some(term.epoch)
    }

    /// How long ago the Lease was renewed that this process holds.
    pub fn renewed_ago(&self) -> Option<Duration> {
        let term = self.term.borrow();
        let (since, _) = term.as_ref()?.certain.as_ref()?;
        Some(self.clock.now().since(since))
    }

    /// How long ago whoever takes and keeps the Lease went round: every few
    /// seconds, whatever the API server answers. Nothing before the first time.
    pub fn went_round_ago(&self) -> Option<Duration> {
        let round = *self.round.lock().unwrap_or_else(PoisonError::into_inner);
        round.map(|at| at.elapsed())
    }

    /// How long ago the last request about the Lease was sent that the API server
    /// answered: every few seconds while it does, also where others lead.
    /// Nothing before the first time.
    pub fn answered_ago(&self) -> Option<Duration> {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.map(|at| self.clock.now().steady.saturating_duration_since(at))
    }

    /// Waits until this process leads; returns the number of the term.
    pub async fn acquired(&self) -> u64 {
        let mut term = self.term.subscribe();
        loop {
            if let Some(epoch) = self.epoch() {
                return epoch;
            }
            // We hold the sender ourselves, so it does not go away.
            let _ = term.changed().await;
        }
    }

    /// What a leader, this one or one before, remembered under that name.
    /// Nothing where this process does not lead.
    pub fn noted(&self, name: &str) -> Option<String> {
        self.term.borrow().as_ref()?.notes.get(name).cloned()
    }

    /// Remembers that for all leaders to come. When it returns, it is stored
    /// in the Lease; an error says that it may not be. The name is one that an
    /// annotation can have, and the value not a large one.
    pub async fn note(&self, name: &str, value: String) -> Result<(), NotLeader> {
        if self.wishes.is_some() {
            let change = Change::Note(name.to_owned(), value);
            return self.wish(change).await.map(|_| ());
        }
        self.alter(|term| {
            term.notes.insert(name.to_owned(), value);
        })
        .map(|_| ())
    }

    /// Makes the number of the term greater than `above`, where it is not, and
    /// returns it. Then it is stored in the Lease, for all terms to come.
    pub async fn raise_epoch(&self, above: u64) -> Result<u64, NotLeader> {
        match self.epoch() {
            None => Err(NotLeader),
            Some(epoch) if epoch > above => Ok(epoch),
            Some(_) if self.wishes.is_some() => self.wish(Change::EpochAbove(above)).await,
            Some(_) => self.alter(|term| term.epoch = above.saturating_add(1)),
        }
    }

    async fn wish(&self, change: Change) -> Result<u64, NotLeader> {
        let sender = self.wishes.as_ref().ok_or(NotLeader)?;
        self.epoch().ok_or(NotLeader)?;
        let (stored, answer) = oneshot::channel();
        let wish = Wish { change, stored };
        sender.send(wish).await.map_err(|_| NotLeader)?;
        answer.await.map_err(|_| NotLeader)
    }

    /// Changes the term, where there is one; returns its number.
    fn alter(&self, change: impl FnOnce(&mut Term)) -> Result<u64, NotLeader> {
        let mut epoch = Err(NotLeader);
        self.term.send_modify(|term| {
            if let Some(term) = term {
                change(term);
                epoch = Ok(term.epoch);
            }
        });
        epoch
    }

    /// For how long the term is still certain.
    fn left(&self, term: &Term) -> Duration {
        match &term.certain {
            None => Duration::MAX,
            Some((since, span)) => span.saturating_sub(self.clock.now().since(since)),
        }
    }

    // --- for the permit ---------------------------------------------------------

    /// Lets a write begin, if this process leads at this instant.
    pub(super) fn pass(&self) -> Result<Pass, NotLeader> {
        // First the pass and then the look: whoever waits for the last pass
        // has seen to it before that the look fails.
        let pass = Arc::clone(&self.writes).try_read_owned();
        let pass = pass.map_err(|_| NotLeader)?;
        self.epoch().map(|_| Pass(pass)).ok_or(NotLeader)
    }

    /// Waits for the end of the term. A term that is closing has not ended.
    pub(super) async fn over(&self) {
        let mut changes = self.term.subscribe();
        loop {
            let left = {
                let term = changes.borrow_and_update();
                term.as_ref().map_or(Duration::ZERO, |term| self.left(term))
            };
            if left.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                // We hold the sender ourselves, so it does not go away.
                _ = changes.changed() => {}
                () = self.clock.wait(left.min(LOOK_AGAIN)) => {}
            }
        }
    }

    // --- for the elector -------------------------------------------------------

    /// The elector goes round.
    pub(super) fn goes_round(&self) {
        *self.round.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The API server answered a request that was sent then.
    pub(super) fn answered(&self, sent: std::time::Instant) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(sent);
    }

    /// A term begins, or goes on, with this; `None` ends it.
    pub(super) fn set(&self, term: Option<Term>) {
        self.term.send_replace(term);
    }

    /// No write may begin any more; waits until those under way have ended.
    pub(super) async fn close(&self) {
        let _ = self.alter(|term| term.closing = true);
        let _ = self.writes.write().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_contests_is_noted_and_raised_at_once() {
        let leadership = Leadership::granted(3);
        assert_eq!(leadership.acquired().await, 3);
        leadership.note("window", "a".into()).await.unwrap();
        assert_eq!(leadership.noted("window").as_deref(), Some("a"));
        assert_eq!(leadership.raise_epoch(2).await, Ok(3));
        assert_eq!(leadership.raise_epoch(9).await, Ok(10));
        assert_eq!(leadership.epoch(), Some(10));
    }

    #[tokio::test]
    async fn what_is_withheld_is_neither_noted_nor_raised_nor_passed() {
        let leadership = Leadership::withheld();
        let noted = leadership.note("window", "a".into()).await;
        assert_eq!(noted, Err(NotLeader));
        assert_eq!(leadership.raise_epoch(2).await, Err(NotLeader));
        assert!(leadership.pass().is_err());
        leadership.over().await;
    }

    #[tokio::test]
    async fn a_term_that_closes_lets_running_writes_end_and_none_begin() {
        let leadership = Leadership::granted(1);
        let pass = leadership.pass().unwrap();
        let mut closed = Box::pin(leadership.close());
        assert!(futures::poll!(&mut closed).is_pending());
        assert_eq!(leadership.epoch(), None);
        assert!(leadership.pass().is_err());
        drop(pass);
        closed.await;
    }
}
