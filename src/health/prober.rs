//! The engine: takes what is to be checked, checks each endpoint in its time,
//! and has the answers judged. The one task that owns all of it.
//!
//! Each round first looks how late it comes itself: an answer that was read
//! after this process stood still is judged after it is known that it did.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::board::{self, Moment, Told, is_silence};
use super::probe::{Asked, Outcome, Probe};
use super::schedule::{Id, Schedule};
use super::target::{ServiceTargets, Targets};
use super::view::HealthView;
use crate::domain::health::doubt::LATE;
use crate::domain::health::judge::Answer;
use crate::domain::names::ServiceKey;
use crate::metrics::health::{HealthMetrics, ServiceChecks, SetAside};

/// How often the engine looks whether it comes late.
const BEAT: Duration = Duration::from_millis(100);
/// Lateness that is not worth a word: timers are no finer.
const FINE: Duration = Duration::from_millis(10);
/// How often others are asked whether they are there, and how many.
const ASK_OTHERS_EVERY: Duration = Duration::from_secs(1);
const OTHERS: usize = 4;

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
    pub fn set(&self, targets: Targets) {
        self.targets.send_replace(Arc::new(targets));
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
    schedule: Schedule,
    services: BTreeMap<Arc<ServiceKey>, Service>,
    entries: BTreeMap<Id, Entry<P::Kept>>,
    next_id: Id,
    kept: usize,
    running: JoinSet<Done<P::Kept>>,
    /// When the engine looks next whether it comes late.
    beat: Instant,
    /// All the time that it came late, summed up.
    lag: Duration,
    asked_others: Option<Instant>,
    random: fastrand::Rng,
}

/// A service that is checked.
struct Service {
    asked: Arc<Asked>,
    ids: BTreeMap<SocketAddr, Id>,
    checks: ServiceChecks,
}

/// An endpoint that is checked.
struct Entry<K> {
    service: Arc<ServiceKey>,
    address: SocketAddr,
    /// When it was to be checked last, or is to be next.
    due: Instant,
    kept: Option<K>,
}

/// A check that has ended.
struct Done<K> {
    id: Id,
    service: Arc<ServiceKey>,
    began: Instant,
    timeout: Duration,
    /// The engine's lag when it began.
    lag: Duration,
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
        let engine = Self {
            probe,
            limits,
            metrics,
            view: view.clone(),
            targets,
            start: now,
            schedule: Schedule::new(limits.in_flight),
            services: BTreeMap::new(),
            entries: BTreeMap::new(),
            next_id: 0,
            kept: 0,
            running: JoinSet::new(),
            beat: now + BEAT,
            lag: Duration::ZERO,
            asked_others: None,
            random,
        };
        let targets = Arc::new(sender);
        (Prober { targets }, view, engine)
    }

    /// Checks until it is dropped, or no handle is left. Checks that run end
    /// with it.
    pub(super) async fn run(mut self) {
        loop {
            let wake = self
                .schedule
                .next()
                .map_or(self.beat, |due| due.min(self.beat));
            let idle = self.entries.is_empty();
            let mut done = None;
            let mut set = false;
            tokio::select! {
                biased;
                changed = self.targets.changed() => match changed {
                    Ok(()) => set = true,
                    Err(_) => return,
                },
                ended = self.running.join_next(), if !self.running.is_empty() => done = ended,
                () = sleep_until(wake), if !idle => {}
            }
            self.look_at_the_clock(idle);
            while let Some(ended) = done {
                match ended {
                    Ok(done) => self.ended(done),
                    Err(failure) => error!(%failure, "a health check did not end as it should"),
                }
                done = self.running.try_join_next();
            }
            if set {
                let targets = Arc::clone(&self.targets.borrow_and_update());
                self.set(&targets);
                // That took its time, which nobody is to be blamed for.
                self.beat = Instant::now() + BEAT;
            }
            self.begin();
            self.view.tell();
        }
    }

    fn moment(&self, now: Instant) -> Moment {
        Moment {
            at: Timestamp::now(),
            clock: now.saturating_duration_since(self.start),
        }
    }

    /// Notes how late the engine comes, and says where verdicts are held.
    fn look_at_the_clock(&mut self, was_idle: bool) {
        let now = Instant::now();
        if now < self.beat {
            return;
        }
        let late = now - self.beat;
        self.beat = now + BEAT;
        if was_idle {
            return;
        }
        if late > FINE {
            self.lag += late;
        }
        let moment = self.moment(now);
        let (before, held) = {
            let mut board = self.view.board();
            let before = board.held;
            board.fired(late, moment);
            (before, board.look(moment))
        };
        self.metrics.held(held.map(board::held));
        let (running, waiting) = self.schedule.load();
        self.metrics.load(running, waiting);
        self.metrics.size(self.entries.len(), self.kept);
        match (before, held) {
            (None, Some(doubt)) => warn!(?doubt, "health checks are in doubt: no verdict moves"),
            (Some(_), None) => info!("health checks are no longer in doubt"),
            _ => {}
        }
    }

    /// Begins as many checks as are due and may run.
    fn begin(&mut self) {
        let now = Instant::now();
        while let Some((id, due)) = self.schedule.due(now) {
            if let Some(entry) = self.entries.get(&id) {
                self.schedule.enqueue(id, &entry.service, due);
            }
        }
        while let Some((id, due)) = self.schedule.start() {
            let entry = self.entries.get_mut(&id);
            let service = entry
                .as_ref()
                .and_then(|entry| self.services.get(&entry.service));
            let (Some(entry), Some(service)) = (entry, service) else {
                continue;
            };
            self.metrics.began((now - due).as_secs_f64());
            let kept = entry.kept.take();
            self.kept -= usize::from(kept.is_some());
            let asked = Arc::clone(&service.asked);
            let (probe, address) = (self.probe.clone(), entry.address);
            let (service, lag) = (Arc::clone(&entry.service), self.lag);
            self.running.spawn(async move {
                let began = Instant::now();
                let timeout = asked.check.ask.timeout;
                let attempt = AssertUnwindSafe(probe.probe(asked, address, kept)).catch_unwind();
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
                    outcome,
                }
            });
        }
    }

    /// Has an answer judged, and sets the time of the next check.
    fn ended(&mut self, done: Done<P::Kept>) {
        self.schedule.ended(&done.service);
        let Some(entry) = self.entries.get_mut(&done.id) else {
            return;
        };
        let Some(service) = self.services.get(&done.service) else {
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
            let is_ours = is_silence(answer) && stood_still > done.timeout / 4;
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
            board.take(&done.service, entry.address, Told { answer, began }, moment)
        };
        match (next.set_aside, answer) {
            (Some(why), _) => self.metrics.set_aside(why),
            (None, Ok(answer)) => service.checks.checked(answer == Answer::Good),
            (None, Err(_)) => {}
        }
        if service.asked.check.keeps() && self.kept < self.limits.kept {
            self.kept += usize::from(done.outcome.kept.is_some());
            entry.kept = done.outcome.kept;
        }
        let interval = service.asked.check.thresholds.interval;
        entry.due = match next.soon {
            Some(pause) => now + pause,
            // In step with the last one, unless that was more than a step late.
            None if entry.due + interval > now => entry.due + interval,
            None => now + interval,
        };
        self.schedule.set(done.id, entry.due);
        if next.ask_others {
            self.ask_others(&done.service, now);
        }
    }

    /// Checks a few endpoints of other services at once: whether they answer
    /// tells a dead endpoint from a dead network.
    fn ask_others(&mut self, but: &ServiceKey, now: Instant) {
        if self
            .asked_others
            .is_some_and(|at| now < at + ASK_OTHERS_EVERY)
        {
            return;
        }
        self.asked_others = Some(now);
        for _ in 0..OTHERS {
            let from = self.random.u64(0..=self.next_id);
            let other = self
                .entries
                .range_mut(from..)
                .find(|(_, entry)| *entry.service != *but);
            if let Some((id, entry)) = other
                && self.schedule.hurry(*id, entry.due, now)
            {
                entry.due = now;
            }
        }
    }

    /// Takes what is to be checked from now on.
    fn set(&mut self, targets: &Targets) {
        let now = Instant::now();
        let moment = self.moment(now);
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|key| !targets.contains_key(&***key))
            .cloned()
            .collect();
        for key in gone {
            if let Some(service) = self.services.remove(&key) {
                for id in service.ids.into_values() {
                    self.drop_entry(id);
                }
            }
            self.view.board().remove(&key, moment);
            if self.limits.service_label {
                self.metrics.forget(&key.to_string());
            }
        }
        for (key, targets) in targets {
            self.set_service(key, targets, now);
        }
        self.metrics.size(self.entries.len(), self.kept);
    }

    fn set_service(&mut self, key: &ServiceKey, targets: &ServiceTargets, now: Instant) {
        let known = self.services.remove_entry(key);
        let key = known
            .as_ref()
            .map_or_else(|| Arc::new(key.clone()), |(key, _)| Arc::clone(key));
        let mut service = known.map_or_else(
            || Service {
                asked: Arc::new(Asked::new(targets.check.clone())),
                ids: BTreeMap::new(),
                checks: self.metrics.service(&self.label(&key)),
            },
            |(_, service)| service,
        );
        let check = &service.asked.check;
        let sooner = targets.check.thresholds.interval < check.thresholds.interval;
        let anew = check.ask != targets.check.ask
            || are_other_ports(service.ids.keys(), &targets.endpoints);
        if *check != targets.check {
            service.asked = Arc::new(Asked::new(targets.check.clone()));
        }
        let interval = targets.check.thresholds.interval;
        service.ids.retain(|address, id| {
            let stays = !anew && targets.endpoints.contains(address);
            if !stays {
                self.drop_entry(*id);
            } else if sooner {
                let due = now + interval.mul_f64(self.random.f64());
                if let Some(entry) = self.entries.get_mut(id)
                    && due < entry.due
                    && self.schedule.hurry(*id, entry.due, due)
                {
                    entry.due = due;
                }
            }
            stays
        });
        for address in &targets.endpoints {
            if service.ids.contains_key(address) {
                continue;
            }
            let id = self.next_id;
            self.next_id += 1;
            let due = now + interval.mul_f64(self.random.f64());
            let entry = Entry {
                service: Arc::clone(&key),
                address: *address,
                due,
                kept: None,
            };
            self.entries.insert(id, entry);
            self.schedule.set(id, due);
            service.ids.insert(*address, id);
        }
        self.view.board().set(&key, targets, anew, self.moment(now));
        self.services.insert(key, service);
    }

    /// Forgets an endpoint; a check of it that runs ends for nothing.
    fn drop_entry(&mut self, id: Id) {
        if let Some(entry) = self.entries.remove(&id) {
            self.kept -= usize::from(entry.kept.is_some());
            self.schedule.forget(id, &entry.service, entry.due);
        }
    }

    fn label(&self, key: &ServiceKey) -> String {
        if self.limits.service_label {
            key.to_string()
        } else {
            String::new()
        }
    }
}

/// Whether another port is checked now. That is a change of what is asked,
/// unlike that of the addresses, which come and go.
fn are_other_ports<'a>(
    before: impl Iterator<Item = &'a SocketAddr>,
    now: &BTreeSet<SocketAddr>,
) -> bool {
    let now: BTreeSet<_> = now.iter().map(SocketAddr::port).collect();
    let mut before = before.map(SocketAddr::port).peekable();
    before.peek().is_some() && !now.is_empty() && !before.any(|port| now.contains(&port))
}

#[cfg(test)]
mod tests;
