//! The task that tells one Alertmanager. What it is told is the ledger's
//! matter; whether, the gate's; how, that of whoever posts.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::ledger::{Ledger, Moment, Posting};
use super::post::{Post, Trouble};
use super::standing::{News, Standing};
use super::value::Firing;
use crate::domain::retry::ALERTMANAGER;
use crate::metrics::alerts::{AlertMetrics, Outcome};

/// What comes within this of a first change goes with it.
const COALESCE: Duration = Duration::from_millis(100);
/// How often the gate is looked at while it is closed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether alerts may be sent now.
pub(super) type Gate = Arc<dyn Fn() -> bool + Send + Sync>;
/// The time by the calendar.
pub(super) type Calendar = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Tells one Alertmanager what fires.
pub(super) struct Messenger<P> {
    /// Takes it there.
    pub(super) post: P,
    /// What the Alertmanager is called in the log.
    pub(super) name: String,
    /// What fires. Held as the sender, so that it does not go away.
    pub(super) firing: watch::Sender<Arc<Firing>>,
    pub(super) gate: Gate,
    pub(super) calendar: Calendar,
    /// Time between two tellings of the same.
    pub(super) repeat: Duration,
    pub(super) metrics: AlertMetrics,
}

/// What the task remembers.
struct Memory {
    ledger: Ledger,
    open: bool,
    standing: Standing,
    failures: u32,
    not_before: Option<Instant>,
}

impl<P: Post> Messenger<P> {
    /// Tells for ever.
    pub(super) async fn run(self) {
        let mut firing = self.firing.subscribe();
        let mut memory = Memory {
            ledger: Ledger::new(self.repeat),
            open: false,
            standing: Standing::default(),
            failures: 0,
            not_before: None,
        };
        loop {
            let now_firing = Arc::clone(&firing.borrow_and_update());
            self.take_in(&mut memory, &now_firing);
            let wake = if memory.open {
                self.tell(&mut memory).await
            } else {
                Instant::now() + LOOK_AGAIN
            };
            tokio::select! {
                // We hold the sender, so this is no error.
                _ = firing.changed() => sleep(COALESCE).await,
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take_in(&self, memory: &mut Memory, firing: &Arc<Firing>) {
        let (now, open) = (self.now(), (self.gate)());
        if open && !memory.open {
            // Another replica has told the same until now.
            memory.ledger.tell_anew(now);
        }
        memory.open = open;
        memory.ledger.follow(firing, now, open);
    }

    /// Tells what is due, up to one request; says when to look again.
    async fn tell(&self, memory: &mut Memory) -> Instant {
        let now = self.now();
        if let Some(then) = memory.not_before
            && now.steady < then
        {
            return then;
        }
        let batch = memory.ledger.batch(now);
        if !batch.is_empty() {
            let outcome = self.post.post(&batch).await;
            self.account(memory, &batch, &outcome, now);
        }
        let due = match memory.ledger.next_due() {
            Some(due) => due.unwrap_or(now.steady),
            None => now.steady + self.repeat,
        };
        memory.not_before.map_or(due, |then| then.max(due))
    }

    fn account(
        &self,
        memory: &mut Memory,
        batch: &[Posting],
        outcome: &Result<(), Trouble>,
        sent: Moment,
    ) {
        let news = memory.standing.after(outcome, Instant::now());
        self.say(&news, outcome);
        if let Err(Trouble::Failed(_)) = outcome {
            self.metrics.sent(Outcome::Failure, batch.len());
            memory.failures = memory.failures.saturating_add(1);
            let pause = ALERTMANAGER.spread(memory.failures, fastrand::f64());
            memory.not_before = Some(Instant::now() + pause);
            return;
        }
        let outcome = match outcome {
            Ok(()) => Outcome::Success,
            Err(_) => Outcome::Refused,
        };
        self.metrics.sent(outcome, batch.len());
        (memory.failures, memory.not_before) = (0, None);
        if news.contains(&News::Back) {
            // One that was started anew has forgotten what it was told.
            memory.ledger.tell_anew(self.now());
        }
        memory.ledger.told(batch, sent.steady);
    }

    fn say(&self, news: &[News], outcome: &Result<(), Trouble>) {
        let alertmanager = &self.name;
        let error = outcome.as_ref().err().map(ToString::to_string);
        for news in news {
            match news {
                News::Away => {
                    self.metrics.failing(true);
                    tracing::warn!(
                        %alertmanager,
                        error,
                        "an Alertmanager takes no alerts; it is told what fires then as soon as it does"
                    );
                }
                News::Back => {
                    self.metrics.failing(false);
                    tracing::info!(%alertmanager, "an Alertmanager takes alerts again");
                }
                News::Refuses => {
                    tracing::warn!(%alertmanager, error, "an Alertmanager refuses some alerts");
                }
            }
        }
    }

    fn now(&self) -> Moment {
        Moment {
            steady: Instant::now(),
            wall: (self.calendar)(),
        }
    }
}
