//! The engine: takes what is to be checked, checks each endpoint in its time,
//! and has the answers judged. The one task that owns all of it.
//!
//! Each round first looks how late it comes itself: an answer that was read
//! after this process stood still is judged after it is known that it did.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::board::{self, Moment, Told, Witnesses, is_silence};
use super::probe::{Outcome, Probe};
use super::roster::Roster;
use super::schedule::Id;
use super::target::Targets;
use super::view::HealthView;
use crate::domain::health::doubt::{Doubt, LATE};
use crate::domain::health::judge::Answer;
use crate::domain::names::ServiceKey;
use crate::metrics::health::{HealthMetrics, SetAside};

/// How often the engine looks whether it comes late.
const BEAT: Duration = Duration::from_millis(100);
/// And while checks run. A process that is given its time in turns wakes up in
/// step with them, and would see nothing of the gaps if it looked no more often:
/// Linux deals out a container's share every 100 ms.
const QUICK_BEAT: Duration = Duration::from_millis(10);
/// Lateness that is not worth a word: timers are no finer.
const FINE: Duration = Duration::from_millis(10);
/// Checks that are due within this time begin together at its end: waking up for each costs more
/// than much of what it then does.
const TICK: Duration = Duration::from_millis(10);

/// How much the engine may take on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most checks at once.
    pub in_flight: usize,
    /// Most connections that are kept between two checks.
    pub kept: usize,
    /// Whether the metrics name each service.
    pub service_label: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 512,
            kept: 10_000,
            service_label: true,
        }
    }
}

/// The engine's handle: says what is to be checked, and shows what came of it.
#[derive(Clone, Debug)]
pub struct Prober {
    targets: Arc<watch::Sender<Arc<Targets>>>,
}

impl Prober {
    /// Replaces what is checked. Endpoints that stay keep their verdict, their
    /// connection and their place in time; where something else is asked of a
    /// service, its endpoints are judged anew.
    pub fn set(&self, targets: impl Into<Arc<Targets>>) {
        self.targets.send_replace(targets.into());
    }
}

/// The task that checks.
pub(super) struct Engine<P: Probe> {
    probe: P,
    limits: Limits,
    metrics: HealthMetrics,
    view: HealthView,
    targets: watch::Receiver<Arc<Targets>>,
    start: Instant,
    roster: Roster<P::Kept>,
    running: JoinSet<Done<P::Kept>>,
    /// When the engine looks next whether it comes late.
    beat: Instant,
    /// All the time that it came late, summed up.
    lag: Duration,
    /// The doubt that the log knows of.
    said: Option<Doubt>,
    /// Whether nothing is checked and nothing held, and all that was said: then
    /// nothing needs to be looked at before there is somebody to check.
    rests: bool,
}

/// A check that has ended.
struct Done<K> {
    id: Id,
    service: Arc<ServiceKey>,
    began: Instant,
    timeout: Duration,
    /// The engine's lag when it began.
    lag: Duration,
    /// Who had been heard then.
    witnesses: Option<Witnesses>,
    outcome: Outcome<K>,
}

impl<P: Probe> Engine<P> {
    /// One with nothing to check yet.
    pub(super) fn new(
        probe: P,
        limits: Limits,
        metrics: HealthMetrics,
        random: fastrand::Rng,
    ) -> (Prober, HealthView, Self) {
        let (sender, targets) = watch::channel(Arc::default());
        let view = HealthView::default();
        let now = Instant::now();
        let label = limits.service_label;
        let engine = Self {
            probe,
            limits,
            roster: Roster::new(now, limits.in_flight, label, metrics.clone(), random),
            metrics,
            view: view.clone(),
            targets,
            start: now,
            running: JoinSet::new(),
            beat: now + BEAT,
            lag: Duration::ZERO,
            said: None,
            rests: true,
        };
        let targets = Arc::new(sender);
        (Prober { targets }, view, engine)
    }

    /// Checks until it is dropped, or no handle is left. Checks that run end
    /// with it.
    pub(super) async fn run(mut self) {
        loop {
            let due = self.roster.schedule.next().map(|due| {
                let into = self.since_tick(due);
                let more = if into.is_zero() { into } else { TICK - into };
                due + more
            });
            let wake = due.map_or(self.beat, |due| due.min(self.beat));
            let mut done = None;
            let mut set = false;
            tokio::select! {
                biased;
                changed = self.targets.changed() => match changed {
                    Ok(()) => set = true,
                    Err(_) => return,
                },
                ended = self.running.join_next(), if !self.running.is_empty() => done = ended,
                () = sleep_until(wake), if !self.rests => {}
            }
            self.look_at_the_clock();
            while let Some(ended) = done {
                match ended {
                    Ok(done) => self.ended(done),
                    Err(failure) => error!(%failure, "a health check did not end as it should"),
                }
                done = self.running.try_join_next();
            }
            if set {
                let targets = Arc::clone(&self.targets.borrow_and_update());
                let now = Instant::now();
                let moment = self.moment(now);
                self.roster.set(&targets, &self.view, now, moment);
                // That took its time, which nobody is to be blamed for.
                self.beat = Instant::now() + BEAT;
                self.rests = false;
            }
            self.begin();
            self.view.tell();
        }
    }

    /// How long ago the tick began that the time is in.
    fn since_tick(&self, time: Instant) -> Duration {
        let since = time.saturating_duration_since(self.start).as_nanos();
        // Less than a tick, so it fits.
        Duration::from_nanos(u64::try_from(since % TICK.as_nanos()).unwrap_or_default())
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment {
            at: Timestamp::now(),
            clock: now.saturating_duration_since(self.start),
        }
    }

    /// Notes how late the engine comes, and says where verdicts are held.
    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if now < self.beat {
            return;
        }
        let late = now - self.beat;
        self.beat = now
            + if self.running.is_empty() {
                BEAT
            } else {
                QUICK_BEAT
            };
        if self.rests {
            return;
        }
        if late > FINE {
            self.lag += late;
        }
        let moment = self.moment(now);
        let held = {
            let mut board = self.view.board();
            board.fired(late, moment);
            board.look(moment)
        };
        self.metrics.held(held.map(board::held));
        let (running, waiting) = self.roster.schedule.load();
        self.metrics.load(running, waiting);
        self.metrics
            .size(self.roster.entries.len(), self.roster.kept);
        // A doubt and a check that runs outlast the last endpoint.
        self.rests = self.roster.entries.is_empty() && running == 0 && held.is_none();
        // An answer may have been what raised the doubt.
        match (std::mem::replace(&mut self.said, held), held) {
            (None, Some(doubt)) => warn!(?doubt, "health checks are in doubt: no verdict moves"),
            (Some(_), None) => info!("health checks are no longer in doubt"),
            _ => {}
        }
    }

    /// Begins as many checks as are due and may run.
    fn begin(&mut self) {
        let now = Instant::now();
        let ended = now - self.since_tick(now);
        while let Some((id, due)) = self.roster.schedule.due(ended) {
            if let Some(entry) = self.roster.entries.get(id) {
                self.roster.schedule.enqueue(id, &entry.service, due);
            }
        }
        while let Some((id, due)) = self.roster.schedule.start() {
            let entry = self.roster.entries.get_mut(id);
            let service = entry
                .as_ref()
                .and_then(|entry| self.roster.services.get(&entry.service));
            let (Some(entry), Some(service)) = (entry, service) else {
                continue;
            };
            self.metrics.began((now - due).as_secs_f64());
            self.beat = self.beat.min(now + QUICK_BEAT);
            let kept = entry.kept.take().map(|kept| *kept);
            self.roster.kept -= usize::from(kept.is_some());
            let check = Arc::clone(&service.check);
            let (probe, address) = (self.probe.clone(), entry.address);
            let (service, lag) = (Arc::clone(&entry.service), self.lag);
            let outside = || {
                let ago = self.view.heard_outside()?;
                now.checked_sub(ago)?.checked_duration_since(self.start)
            };
            let witnesses = if entry.is_silent {
                self.view.board().witnesses(&service, address, outside)
            } else {
                None
            };
            self.running.spawn(async move {
                let began = Instant::now();
                let timeout = check.ask.timeout;
                let attempt =
                    AssertUnwindSafe(probe.probe(check, address.socket(), kept)).catch_unwind();
                let outcome = attempt.await.unwrap_or_else(|_| Outcome {
                    answer: Err(SetAside::Own),
                    took: began.elapsed(),
                    kept: None,
                });
                Done {
                    id,
                    service,
                    began,
                    timeout,
                    lag,
                    witnesses,
                    outcome,
                }
            });
        }
    }

    /// Has an answer judged, and sets the time of the next check.
    fn ended(&mut self, done: Done<P::Kept>) {
        self.roster.schedule.ended(&done.service);
        let Some(entry) = self.roster.entries.get_mut(done.id) else {
            return;
        };
        let Some(service) = self.roster.services.get(&done.service) else {
            return;
        };
        let now = Instant::now();
        let moment = Moment {
            at: Timestamp::now(),
            clock: now.saturating_duration_since(self.start),
        };
        let (answer, took) = (done.outcome.answer, done.outcome.took);
        self.metrics.ended(took.as_secs_f64());
        let late = took.saturating_sub(done.timeout);
        let stood_still = self.lag.saturating_sub(done.lag);
        let answer = answer.and_then(|answer| {
            let is_late = late > LATE && matches!(answer, Answer::Failed(_));
            // Whoever runs the check may stand still while the engine does not.
            let is_ours = is_silence(answer) && stood_still.max(late) > done.timeout / 4;
            if is_late || is_ours {
                Err(SetAside::Late)
            } else {
                Ok(answer)
            }
        });
        let next = {
            let mut board = self.view.board();
            board.fired(late, moment);
            let began = done.began.saturating_duration_since(self.start);
            let told = Told {
                answer,
                began,
                witnesses: done.witnesses,
            };
            board.take(&done.service, entry.address, told, moment)
        };
        match (next.set_aside, answer) {
            (Some(why), _) => self.metrics.set_aside(why),
            (None, Ok(answer)) => service.checks.checked(answer == Answer::Good),
            (None, Err(_)) => {}
        }
        if service.check.keeps() && self.roster.kept < self.limits.kept {
            self.roster.kept += usize::from(done.outcome.kept.is_some());
            entry.kept = done.outcome.kept.map(Box::new);
        }
        let interval = service.check.thresholds.interval;
        entry.due = match next.soon {
            Some(pause) => now + pause,
            // In step with the last one, unless that was more than a step late.
            None if entry.due + interval > now => entry.due + interval,
            None => now + interval,
        };
        self.roster.schedule.set(done.id, entry.due);
        entry.is_silent = next.is_silent;
        if next.ask_others {
            self.roster.ask_others(done.id, &done.service, now);
        }
    }
}

#[cfg(test)]
mod tests;
