//! Is an endpoint healthy? What several answers in a row say, never one.
//!
//! 1. Nothing is known at first. As many good answers in a row as the success
//!    threshold make an endpoint healthy, as many failures in a row as the
//!    failure threshold make it unhealthy; a good answer in between starts the
//!    count of failures again, and the reverse.
//! 2. After a failure that does not decide yet, the endpoint is asked again
//!    soon, so that a dead one is found long before as many intervals.
//! 3. An answer that says nothing about the endpoint, as of a peer that wants
//!    mutual TLS, makes its health unknown: it is no failure.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use super::at::At;

/// Changes that are remembered of each endpoint.
pub const HISTORY: usize = 8;

/// When an endpoint is judged, and asked again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Thresholds {
    /// Failures in a row that make it unhealthy; at least one.
    pub failures: u32,
    /// Good answers in a row that make it healthy; at least one.
    pub successes: u32,
    /// Time between two checks.
    pub interval: Duration,
    /// Time from a failure to the next check, while it is not decided.
    pub confirm: Duration,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    /// It answered as it should.
    Good,
    /// It did not.
    Failed(Failure),
    /// Nothing can be said about it.
    Unknown(Unknown),
}

/// Why a check failed. Nothing of what the endpoint sent is in here.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Failure {
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// It closed the connection before it had answered.
    Closed,
    /// No connection came about in time.
    ConnectTimedOut,
    /// No answer came in time.
    TimedOut,
    /// TLS did not come about.
    Tls,
    /// It is another workload than the one that should be there.
    WrongPeer,
    /// What it answered is no HTTP, or more than is read.
    NotHttp,
    /// It answered with a redirect that is none, or an informational status.
    Answered1xx,
    /// It answered 400 to 499.
    Answered4xx,
    /// It answered 500 or more.
    Answered5xx,
}

/// Why nothing can be said about an endpoint.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Unknown {
    /// Its peer speaks mutual TLS only, and the check does not.
    MtlsRequired,
    /// The check needs a certificate that is not there.
    NoCertificate,
}

/// What is held of an endpoint.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Verdict {
    /// Not judged yet.
    #[default]
    Pending,
    /// It cannot be judged.
    Unknown(Unknown),
    /// It serves.
    Healthy,
    /// It does not, and this is how the last check failed.
    Unhealthy(Failure),
}

/// A change of the verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Transition {
    /// When.
    pub at: At,
    /// What was held before.
    pub from: Verdict,
    /// What is held now.
    pub to: Verdict,
}

/// The judge of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    verdict: Verdict,
    good: u16,
    failed: u16,
    /// Whether its first change was that it was found healthy, and when: of most endpoints
    /// there is no other one.
    came_up: bool,
    up_since: At,
    /// The changes after that.
    later: Option<Box<Later>>,
}

/// Changes, oldest first.
#[derive(Clone, Debug, Default)]
struct Later(Vec<Transition>);

impl Judge {
    /// One that goes on from a verdict that was found earlier, as by another
    /// replica: it holds until answers say otherwise.
    pub fn resumed(verdict: Verdict) -> Self {
        Self {
            verdict,
            ..Self::default()
        }
    }

    /// What is held of the endpoint.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The last changes, oldest first.
    pub fn history(&self) -> impl Iterator<Item = Transition> {
        let first = self.came_up.then_some(Transition {
            at: self.up_since,
            from: Verdict::Pending,
            to: Verdict::Healthy,
        });
        let later = self.later.iter().flat_map(|later| &later.0);
        first.into_iter().chain(later.copied())
    }

    fn note(&mut self, at: At, from: Verdict, to: Verdict) {
        if (from, to) == (Verdict::Pending, Verdict::Healthy) && self.later.is_none() {
            (self.came_up, self.up_since) = (true, at);
            return;
        }
        let Later(later) = &mut **self.later.get_or_insert_default();
        if later.len() + usize::from(self.came_up) == HISTORY && !std::mem::take(&mut self.came_up)
        {
            later.remove(0);
        }
        later.push(Transition { at, from, to });
    }

    /// Takes an answer. Says whether the verdict is another one now; a failure
    /// of another kind is the same verdict, since nothing follows from it.
    pub fn take(&mut self, answer: Answer, thresholds: &Thresholds, now: Timestamp) -> bool {
        let next = match answer {
            Answer::Good => {
                self.failed = 0;
                self.good = self.good.saturating_add(1);
                (u32::from(self.good) >= thresholds.successes.max(1)).then_some(Verdict::Healthy)
            }
            Answer::Failed(failure) => {
                self.good = 0;
                self.failed = self.failed.saturating_add(1);
                (u32::from(self.failed) >= thresholds.failures.max(1))
                    .then_some(Verdict::Unhealthy(failure))
            }
            Answer::Unknown(why) => {
                (self.good, self.failed) = (0, 0);
                Some(Verdict::Unknown(why))
            }
        };
        let Some(next) = next else { return false };
        let from = std::mem::replace(&mut self.verdict, next);
        let same =
            from == next || matches!((from, next), (Verdict::Unhealthy(_), Verdict::Unhealthy(_)));
        if !same {
            self.note(now.into(), from, next);
        }
        !same
    }

    /// Counts anew from here: what was not decided yet came in at a time that
    /// is doubted now. The verdict stays.
    pub fn count_anew(&mut self) {
        (self.good, self.failed) = (0, 0);
    }

    /// How long to wait before the next check.
    pub fn pause(&self, thresholds: &Thresholds) -> Duration {
        let undecided = self.failed > 0 && u32::from(self.failed) < thresholds.failures;
        if undecided && !matches!(self.verdict, Verdict::Unhealthy(_)) {
            thresholds.confirm.min(thresholds.interval)
        } else {
            thresholds.interval
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the connection was refused",
            Self::Unreachable => "the address cannot be reached",
            Self::Closed => "the connection was closed before an answer",
            Self::ConnectTimedOut => "no connection came about in time",
            Self::TimedOut => "no answer came in time",
            Self::Tls => "TLS did not come about",
            Self::WrongPeer => "another workload answers there",
            Self::NotHttp => "the answer is no HTTP",
            Self::Answered1xx => "the answer is neither success nor error",
            Self::Answered4xx => "the answer is a 4xx",
            Self::Answered5xx => "the answer is a 5xx",
        })
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MtlsRequired => "the endpoint demands mutual TLS; set healthCheck.scheme to MTLS",
            Self::NoCertificate => "there is no mesh certificate to show; see --mesh-cert-dir",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::at;

    const SEED: Thresholds = Thresholds {
        failures: 3,
        successes: 2,
        interval: Duration::from_secs(10),
        confirm: Duration::from_secs(1),
    };

    const DEAD: Answer = Answer::Failed(Failure::Refused);
    const GOOD: Answer = Answer::Good;

    /// The verdicts after each answer.
    fn verdicts(answers: &[Answer]) -> Vec<Verdict> {
        let mut judge = Judge::default();
        let verdict = |answer: &Answer| {
            judge.take(*answer, &SEED, at(1));
            judge.verdict()
        };
        answers.iter().map(verdict).collect()
    }

    #[test]
    fn it_takes_as_many_answers_in_a_row_as_the_thresholds_say() {
        use Verdict::{Healthy, Pending, Unhealthy};
        let bad = Unhealthy(Failure::Refused);
        for (answers, expected) in [
            (vec![GOOD, GOOD], vec![Pending, Healthy]),
            (vec![DEAD, DEAD, DEAD], vec![Pending, Pending, bad]),
            (
                vec![GOOD, GOOD, DEAD, DEAD, GOOD, DEAD, DEAD, DEAD],
                vec![
                    Pending, Healthy, Healthy, Healthy, Healthy, Healthy, Healthy, bad,
                ],
            ),
            (
                vec![DEAD, DEAD, DEAD, GOOD, DEAD, GOOD, GOOD],
                vec![Pending, Pending, bad, bad, bad, bad, Healthy],
            ),
        ] {
            assert_eq!(verdicts(&answers), expected);
        }
    }

    #[test]
    fn an_endpoint_that_wants_mutual_tls_is_unknown_and_not_unhealthy() {
        let wants = Answer::Unknown(Unknown::MtlsRequired);
        let unknown = Verdict::Unknown(Unknown::MtlsRequired);
        let told = verdicts(&[GOOD, GOOD, wants, DEAD, DEAD, wants, GOOD, GOOD]);
        assert_eq!(told[2..6], [unknown; 4]);
        assert_eq!(told[7], Verdict::Healthy);
    }

    #[test]
    fn a_first_failure_is_looked_into_soon_and_a_decided_one_is_not() {
        let mut judge = Judge::default();
        let pauses: Vec<_> = [GOOD, GOOD, DEAD, DEAD, DEAD, DEAD, GOOD, DEAD, GOOD]
            .into_iter()
            .map(|answer| {
                judge.take(answer, &SEED, at(1));
                judge.pause(&SEED).as_secs()
            })
            .collect();
        assert_eq!(pauses, [10, 10, 1, 1, 10, 10, 10, 10, 10]);
    }

    #[test]
    fn a_confirmation_never_waits_longer_than_the_next_check_would() {
        let hasty = Thresholds {
            interval: Duration::from_millis(200),
            ..SEED
        };
        let mut judge = Judge::default();
        judge.take(DEAD, &hasty, at(1));
        assert_eq!(judge.pause(&hasty), Duration::from_millis(200));
    }

    #[test]
    fn changes_are_told_once_and_the_last_ones_are_remembered() {
        let mut judge = Judge::default();
        let once = Thresholds {
            failures: 1,
            successes: 1,
            ..SEED
        };
        let mut told = Vec::new();
        for second in 0..100 {
            let answer = if second % 4 < 2 { GOOD } else { DEAD };
            let from = judge.verdict();
            if judge.take(answer, &once, at(second)) {
                let (at, to) = (at(second).into(), judge.verdict());
                told.push(Transition { at, from, to });
            }
            let last = &told[told.len().saturating_sub(HISTORY)..];
            assert_eq!(judge.history().collect::<Vec<_>>(), last, "{second}");
        }
        assert_eq!(told.len(), 50);
        // Another kind of failure is no change, but it is what is told.
        judge.take(Answer::Failed(Failure::TimedOut), &once, at(101));
        assert_eq!(judge.verdict(), Verdict::Unhealthy(Failure::TimedOut));
        assert_eq!(judge.history().count(), HISTORY);
        assert_eq!(judge.history().last().map(|t| t.at), Some(at(98).into()));
    }

    #[test]
    fn failures_of_a_time_that_is_doubted_do_not_add_to_later_ones() {
        let mut judge = Judge::default();
        for answer in [GOOD, GOOD, DEAD, DEAD] {
            judge.take(answer, &SEED, at(1));
        }
        judge.count_anew();
        assert_eq!(judge.pause(&SEED), SEED.interval);
        let told = [DEAD, DEAD, DEAD].map(|answer| judge.take(answer, &SEED, at(2)));
        assert_eq!(told, [false, false, true]);
    }

    #[test]
    fn what_another_replica_found_holds_until_answers_say_otherwise() {
        let mut judge = Judge::resumed(Verdict::Unhealthy(Failure::TimedOut));
        assert!(!judge.take(GOOD, &SEED, at(1)));
        assert!(judge.take(GOOD, &SEED, at(2)));
        assert_eq!(judge.verdict(), Verdict::Healthy);
    }
}
