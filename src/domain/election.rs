//! Who may lead, and how long that is certain.
//!
//! 1. A Lease that nobody holds may be taken at once; one that somebody holds,
//!    only when nothing about it changed for its whole duration, by the steady
//!    clock of whoever waits: no clock is compared with another machine's.
//! 2. A term is certain for the renew deadline, counted from the moment
//!    *before* the last successful request was sent. The deadline is shorter
//!    than the duration, and the difference is the margin for clocks that run
//!    at different speeds and for requests that are still on their way.
//! 3. A term expires by itself. The steady clock stands still while a virtual
//!    machine is suspended, so the wall clock counts too: whichever ran further.
//! 4. Each acquisition has a number, the epoch, greater than those before.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// How long a Lease lasts, how long a leader trusts in it, how often it tries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    lease: Duration,
    renew: Duration,
    retry: Duration,
}

/// These times do not go together.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadTiming {
    /// The API counts the duration in seconds.
    #[error("--lease-duration must be whole seconds, from 1s to 1h, and is {0:?}")]
    Duration(Duration),
    /// Without a margin two could lead at once.
    #[error(
        "--lease-renew-deadline ({renew:?}) must be shorter than --lease-duration ({lease:?}), by a \
         tenth at least: a leader has to give up before others may take over; use 10s and 15s for one"
    )]
    Deadline {
        /// The renew deadline.
        renew: Duration,
        /// The duration of the Lease.
        lease: Duration,
    },
    /// One failed try would already be the end.
    #[error(
        "--lease-retry-period ({retry:?}) must be at most half of --lease-renew-deadline ({renew:?}), \
         so that one failed renewal is not yet the end; use 2s and 10s for one"
    )]
    Retry {
        /// The time between two tries.
        retry: Duration,
        /// The renew deadline.
        renew: Duration,
    },
}

impl Timing {
    /// Checks that the three go together.
    pub fn new(lease: Duration, renew: Duration, retry: Duration) -> Result<Self, BadTiming> {
        let whole = lease.subsec_nanos() == 0;
        if !whole || lease < Duration::from_secs(1) || lease > Duration::from_secs(3600) {
            return Err(BadTiming::Duration(lease));
        }
        if renew.is_zero() || renew > lease.mul_f64(0.9) {
            return Err(BadTiming::Deadline { renew, lease });
        }
        if retry.is_zero() || retry > renew / 2 {
            return Err(BadTiming::Retry { retry, renew });
        }
        Ok(Self {
            lease,
            renew,
            retry,
        })
    }

    /// How long one request may take. Not the whole deadline: one that hangs
    /// must leave time for others.
    pub fn attempt(&self) -> Duration {
        self.renew / 4
    }

    /// Time between two renewals.
    pub fn retry(&self) -> Duration {
        self.retry
    }

    /// Time until the next try after one that failed; `random` is 0 to 1, so
    /// that many do not come together.
    pub fn after_failure(&self, random: f64) -> Duration {
        self.retry.mul_f64(0.25 + 0.5 * random)
    }

    /// How long a term is certain after a renewal.
    pub fn certain(&self) -> Duration {
        self.renew
    }

    /// How long the Lease lasts for those who wait.
    pub fn lease(&self) -> Duration {
        self.lease
    }
}

/// A moment by both clocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Never goes back, but may stand still.
    pub steady: Instant,
    /// Goes on while the machine is suspended, but may be set.
    pub wall: Timestamp,
}

impl Moment {
    /// Time since an earlier moment, by the clock that ran further.
    pub fn since(&self, earlier: &Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall);
        let wall = Duration::try_from(wall).unwrap_or_default();
        self.steady
            .saturating_duration_since(earlier.steady)
            .max(wall)
    }
}

/// What a Lease says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Said {
    /// Who holds it; empty where nobody does.
    pub holder: String,
    /// For how long after each renewal.
    pub duration: Option<Duration>,
    /// When it was acquired, by the holder's clock: for people.
    pub acquired: Option<Timestamp>,
    /// When it was renewed, by the holder's clock.
    pub renewed: Option<Timestamp>,
    /// How often it changed hands.
    pub transitions: i32,
    /// The number of the term.
    pub epoch: u64,
}

/// What a Lease says, and which one at which point of its history.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Record {
    /// The Lease's uid.
    pub uid: String,
    /// Its resource version.
    pub version: String,
    /// What it says.
    pub said: Said,
}

impl Said {
    /// What it says once `who` has taken it, who knows of a term of the number
    /// `known`.
    fn taken(&self, who: &str, known: u64, timing: &Timing, now: Timestamp) -> Self {
        let transitions = self.transitions.max(0);
        // Whoever lost the annotation still counts on from the transitions.
        let counted = u64::try_from(transitions).unwrap_or_default();
        let first = *self == Self::default();
        Self {
            holder: who.to_owned(),
            duration: Some(timing.lease),
            acquired: Some(now),
            renewed: Some(now),
            transitions: if first {
                0
            } else {
                transitions.saturating_add(1)
            },
            epoch: self.epoch.max(known).max(counted).saturating_add(1),
        }
    }

    /// What it says after a renewal by its holder.
    pub fn renewed(&self, now: Timestamp) -> Self {
        Self {
            renewed: Some(now),
            ..self.clone()
        }
    }

    /// What it says once its holder has let go of it.
    pub fn released(&self, now: Timestamp) -> Self {
        Self {
            holder: String::new(),
            ..self.renewed(now)
        }
    }
}

/// What somebody who does not lead has seen of the Lease.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    last: Option<Record>,
    /// Since when nothing changed, and how long to wait.
    since: Option<(Instant, Duration)>,
    /// The greatest number of a term, also of a Lease that is gone.
    epoch: u64,
}

/// Whether a Lease may be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Free {
    /// At once.
    Now,
    /// When nothing changes until then.
    At(Instant),
}

impl Watched {
    /// The Lease was read; `None` is that there is none.
    pub fn read(&mut self, record: Option<Record>, timing: &Timing, now: Instant) {
        if self.last == record {
            return;
        }
        // Somebody deleted it: whoever held it may not know yet.
        let other = |last: &Record| record.as_ref().is_none_or(|new| new.uid != last.uid);
        let deleted = self.last.as_ref().is_some_and(other);
        let said = record.as_ref().map(|record| &record.said);
        let held = said.is_some_and(|said| !said.holder.is_empty());
        let duration = said.and_then(|said| said.duration).unwrap_or(timing.lease);
        self.since = (held || deleted).then_some((now, duration));
        let epoch = record.as_ref().map(|record| record.said.epoch);
        self.epoch = self.epoch.max(epoch.unwrap_or_default());
        self.last = record;
    }

    /// Who held it when it was read last.
    pub fn holder(&self) -> Option<&str> {
        let holder = self.last.as_ref()?.said.holder.as_str();
        (!holder.is_empty()).then_some(holder)
    }

    /// What the Lease says once `who` has taken it.
    pub fn claim(&self, who: &str, timing: &Timing, now: Timestamp) -> Said {
        let said = self.last.as_ref().map(|last| last.said.clone());
        said.unwrap_or_default().taken(who, self.epoch, timing, now)
    }

    /// Whether `who` may take it.
    pub fn free(&self, who: &str, now: Instant) -> Free {
        // An answer to a request of our own that we took for lost.
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.said.holder == who)
        {
            return Free::Now;
        }
        match self.since {
            Some((since, duration)) if now < since + duration => Free::At(since + duration),
            _ => Free::Now,
        }
    }
}

/// Why a term ended.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Lost {
    /// It could not be renewed in time.
    #[error("the Lease could not be renewed in time")]
    Expired,
    /// Somebody else holds the Lease.
    #[error("the Lease is held by {0:?} now")]
    Taken(String),
    /// The Lease that we held is gone, whether or not there is another.
    #[error("the Lease was deleted")]
    Deleted,
}

/// Whether the Lease that was read is still held by `who`.
pub fn still_held(who: &str, uid: &str, read: Option<&Record>) -> Result<(), Lost> {
    match read {
        None => Err(Lost::Deleted),
        Some(record) if record.uid != uid => Err(Lost::Deleted),
        Some(record) if record.said.holder != who => Err(Lost::Taken(record.said.holder.clone())),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn timing() -> Timing {
        Timing::new(15 * S, 10 * S, 2 * S).unwrap()
    }

    fn record(holder: &str, version: &str) -> Record {
        Record {
            uid: "uid".into(),
            version: version.into(),
            said: Said {
                holder: holder.into(),
                duration: Some(15 * S),
                transitions: 3,
                epoch: 7,
                ..Said::default()
            },
        }
    }

    #[test]
    fn times_that_do_not_go_together_are_refused_with_a_word_on_what_would() {
        let half = Duration::from_millis(500);
        for (lease, renew, retry, expected) in [
            (15 * S + half, 10 * S, 2 * S, "--lease-duration must"),
            (Duration::ZERO, 10 * S, 2 * S, "--lease-duration must"),
            (15 * S, 15 * S, 2 * S, "--lease-renew-deadline"),
            (15 * S, 14 * S, 2 * S, "by a tenth"),
            (15 * S, Duration::ZERO, 2 * S, "--lease-renew-deadline"),
            (15 * S, 10 * S, 6 * S, "--lease-retry-period"),
            (15 * S, 10 * S, Duration::ZERO, "--lease-retry-period"),
        ] {
            let error = Timing::new(lease, renew, retry).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn whichever_clock_ran_further_counts() {
        let start = Moment {
            steady: Instant::now(),
            wall: Timestamp::UNIX_EPOCH,
        };
        let after = |steady, wall: i64| Moment {
            steady: start.steady + steady,
            wall: Timestamp::from_second(wall).unwrap(),
        };
        assert_eq!(after(3 * S, 1).since(&start), 3 * S);
        // A machine that was suspended.
        assert_eq!(after(S, 60).since(&start), 60 * S);
        // A clock that was set back.
        assert_eq!(after(2 * S, -60).since(&start), 2 * S);
    }

    #[test]
    fn a_lease_is_taken_when_it_has_not_changed_for_its_duration() {
        let start = Instant::now();
        let mut watched = Watched::default();
        watched.read(Some(record("a", "1")), &timing(), start);
        watched.read(Some(record("a", "1")), &timing(), start + 14 * S);
        assert_eq!(watched.free("b", start + 14 * S), Free::At(start + 15 * S));
        assert_eq!(watched.free("b", start + 15 * S), Free::Now);
        watched.read(Some(record("a", "2")), &timing(), start + 14 * S);
        assert_eq!(watched.free("b", start + 15 * S), Free::At(start + 29 * S));
    }

    #[test]
    fn how_long_to_wait_is_what_the_holder_said() {
        let start = Instant::now();
        let mut watched = Watched::default();
        let mut long = record("a", "1");
        long.said.duration = Some(60 * S);
        watched.read(Some(long), &timing(), start);
        assert_eq!(watched.free("b", start), Free::At(start + 60 * S));
    }

    #[test]
    fn a_lease_that_nobody_holds_or_that_is_ours_is_taken_at_once() {
        let now = Instant::now();
        let mut watched = Watched::default();
        assert_eq!(watched.free("b", now), Free::Now);
        watched.read(Some(record("a", "1")), &timing(), now);
        watched.read(Some(record("", "2")), &timing(), now);
        assert_eq!(watched.free("b", now), Free::Now);
        watched.read(Some(record("b", "3")), &timing(), now);
        assert_eq!(watched.free("b", now), Free::Now);
    }

    #[test]
    fn the_holder_of_a_lease_that_was_deleted_is_waited_for_all_the_same() {
        let start = Instant::now();
        let mut blank = record("", "9");
        blank.uid = "another".into();
        // Made anew or not; and whoever let go of it may not be the last who
        // held it.
        for (before, after) in [
            ("a", None),
            ("a", Some(blank.clone())),
            ("", None),
            ("", Some(blank)),
        ] {
            let mut watched = Watched::default();
            watched.read(Some(record(before, "1")), &timing(), start);
            let seen = start + 20 * S;
            watched.read(after.clone(), &timing(), seen);
            assert_eq!(watched.free("b", seen), Free::At(seen + 15 * S));
            watched.read(after, &timing(), seen + 15 * S);
            assert_eq!(watched.free("b", seen + 15 * S), Free::Now);
        }
    }

    #[test]
    fn every_acquisition_has_a_greater_number() {
        let (now, start) = (Timestamp::UNIX_EPOCH, Instant::now());
        let mut watched = Watched::default();
        let mut claim = |read: Option<Said>| {
            let read = read.map(|said| Record {
                said,
                ..Record::default()
            });
            watched.read(read, &timing(), start);
            watched.claim("b", &timing(), now)
        };
        let first = claim(None);
        assert_eq!((first.transitions, first.epoch), (0, 1));
        let again = claim(Some(first.released(now)));
        assert_eq!((again.transitions, again.epoch), (1, 2));
        // The annotation was lost: the transitions bound it from below.
        let without = Said {
            epoch: 0,
            transitions: 41,
            ..again
        };
        let counted = claim(Some(without));
        assert_eq!((counted.transitions, counted.epoch), (42, 42));
        // The Lease was deleted: whoever saw it counts on.
        claim(Some(counted));
        let anew = claim(None);
        assert_eq!((anew.transitions, anew.epoch), (0, 43));
    }

    #[test]
    fn a_lease_that_was_taken_or_made_anew_is_no_longer_held() {
        assert_eq!(still_held("a", "uid", Some(&record("a", "9"))), Ok(()));
        let taken = Err(Lost::Taken("b".into()));
        assert_eq!(still_held("a", "uid", Some(&record("b", "9"))), taken);
        assert_eq!(still_held("a", "uid", None), Err(Lost::Deleted));
        let anew = record("a", "9");
        assert_eq!(still_held("a", "old", Some(&anew)), Err(Lost::Deleted));
    }
}
