//! Takes Pods out of the mesh and brings them back: what was found of all
//! services goes in by [`Ejector::tell`], and labels on Pods come out.
//!
//! What is to be written is decided anew in each round, from what was told
//! last and from the Pods as they are; nothing is remembered that a restart or
//! another leader would miss. A write carries the version that it was decided
//! for, and waits its turn (see [`crate::domain::health::pace`]).

pub mod release_all;
mod reports;
mod turns;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::context::Context;
use super::error::WriteError;
use super::queue::state::Lane;
use crate::domain::health::ejection::{Plan, PodKey, Stays};
use crate::domain::health::mark::{self, Change, Step};
use crate::domain::health::outlier::{self, Held, Tightened};
use crate::domain::health::round::{Known, decide};
use crate::domain::names::BindingKey;
use reports::Reports;
use turns::Turns;

/// Most Pods that are written to at once.
const AT_ONCE: usize = 8;

/// What comes within this time is decided together.
const TOGETHER: Duration = Duration::from_millis(50);

/// How long a round begins writes, or until something else is told: what it was
/// decided by is old by then.
const BEGINS: Duration = Duration::from_secs(1);

/// How soon a write that failed is tried again: of an object that changed under
/// way, once the watch has told of that, and of any other.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Where it is told what is known.
#[derive(Debug)]
pub struct Ejector {
    known: watch::Sender<Option<Arc<Known>>>,
    moved: Notify,
    tightened: Mutex<BTreeMap<BindingKey, Held>>,
    /// Bindings of which it was found out what was tightened before.
    resumed: Mutex<BTreeSet<BindingKey>>,
    stays: Mutex<BTreeMap<BindingKey, Stays>>,
    failed: Mutex<BTreeMap<BindingKey, WriteError>>,
}

impl Default for Ejector {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(None),
            moved: Notify::new(),
            tightened: Mutex::default(),
            resumed: Mutex::default(),
            stays: Mutex::default(),
            failed: Mutex::default(),
        }
    }
}

impl Ejector {
    /// All that is known of services with checks, from now on. What was told
    /// before no longer counts: whoever is missing wants nobody out.
    pub fn tell(&self, known: Known) {
        self.known.send_replace(Some(Arc::new(known)));
    }

    /// How Envoy's own outlier detection is tightened for the binding now.
    pub fn tightened(&self, binding: &BindingKey) -> Option<Tightened> {
        let all = self.all_tightened();
        all.get(binding).map(|held| held.tightened)
    }

    /// Goes on with what whoever wrote before has tightened for the binding, which
    /// `found` finds out: the first time that it is asked for, and never again.
    pub(crate) fn resume(&self, key: &BindingKey, found: impl FnOnce() -> Option<Tightened>) {
        if !self.all_resumed().insert(key.clone()) {
            return;
        }
        let Some(tightened) = found() else { return };
        let mut all = self.all_tightened();
        let free = None;
        let held = all.entry(key.clone());
        let held = held.or_insert(Held { tightened, free });
        held.tightened = held.tightened.max(tightened);
        drop(all);
        // It may be over already.
        self.moved.notify_one();
    }

    /// The binding is gone.
    pub(crate) fn forget(&self, key: &BindingKey) {
        self.all_resumed().remove(key);
    }

    /// What became of the binding's unhealthy endpoints.
    pub fn stays(&self, binding: &BindingKey) -> Stays {
        self.all_stays().get(binding).copied().unwrap_or_default()
    }

    /// Why a Pod of the binding is not as it should be, where the last write to
    /// it failed.
    pub(crate) fn failed(&self, binding: &BindingKey) -> Option<WriteError> {
        self.all_failed().get(binding).cloned()
    }

    fn all_failed(&self) -> MutexGuard<'_, BTreeMap<BindingKey, WriteError>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_resumed(&self) -> MutexGuard<'_, BTreeSet<BindingKey>> {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_stays(&self) -> MutexGuard<'_, BTreeMap<BindingKey, Stays>> {
        self.stays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A map is whole after each change, so a poisoned lock is used on.
    fn all_tightened(&self) -> MutexGuard<'_, BTreeMap<BindingKey, Held>> {
        self.tightened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks of Pods changed.
    pub(crate) fn look(&self) {
        self.moved.notify_one();
    }
}

/// Does what follows from what was told, for as long as the process lives.
/// Writes while it leads.
pub async fn run(ctx: Arc<Context>) {
    ctx.world.complete().await;
    ctx.world.slices_listed().await;
    ctx.world.pods_listed().await;
    let mut rounds = Rounds::new(ctx.ejector.known.subscribe());
    loop {
        // Who stands by knows all that a leader knows, so that nothing is taken
        // back for a moment when it takes over.
        let acts = ctx.options.read_only || ctx.leadership.epoch().is_some();
        let known = rounds.told.borrow_and_update().clone();
        let again = match known {
            Some(known) => rounds.go(&ctx, &known, acts).await,
            None => None,
        };
        let leads = async {
            if acts {
                std::future::pending().await
            } else {
                ctx.leadership.acquired().await
            }
        };
        let later = async {
            match again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // We hold the sender ourselves, so it does not go away.
            _ = rounds.told.changed() => {}
            () = ctx.ejector.moved.notified() => {}
            () = later => {}
            _ = leads => {}
        }
        sleep(TOGETHER).await;
    }
}

/// What is kept from one round to the next. Losing it costs a line in the log,
/// or a write a moment early.
struct Rounds {
    started: Instant,
    told: watch::Receiver<Option<Arc<Known>>>,
    turns: Turns,
    would: BTreeMap<PodKey, BTreeSet<BindingKey>>,
    reports: Reports,
    /// Whether nothing could be written when it was tried last: then one finds
    /// out for all.
    away: bool,
}

impl Rounds {
    fn new(told: watch::Receiver<Option<Arc<Known>>>) -> Self {
        Self {
            started: Instant::now(),
            told,
            turns: Turns::new(),
            would: BTreeMap::new(),
            reports: Reports::default(),
            away: false,
        }
    }

    /// One round: decides, and where it `acts`, writes and speaks. Says when the
    /// next one is due, whatever happens until then.
    ///
    /// Writes; when cancelled, a write under way may or may not have happened,
    /// and the next round finds out.
    async fn go(&mut self, ctx: &Context, known: &Known, acts: bool) -> Option<Instant> {
        let marked = ctx.world.marked();
        let find = |pod: &PodKey| ctx.world.pod(pod);
        let decided = decide(known, &marked, find, &self.would, Timestamp::now());
        if acts {
            self.reports.observed(&self.would, &decided.would);
            self.reports.stayed(&ctx.metrics, &decided.plan);
        }
        self.would = decided.would;
        let restored = self.tighten(ctx, known, &decided.plan);
        let again = if !acts {
            None
        } else if ctx.options.read_only {
            self.reports.withheld(&decided.steps);
            None
        } else {
            self.write(ctx, decided.steps, decided.waiting > 0).await
        };
        let marked = ctx.world.marked();
        if acts {
            self.reports.now_out(&ctx.metrics, &marked);
        }
        stay(ctx, mark::stays(&decided.plan, &marked));
        again.into_iter().chain(restored).min()
    }

    /// Remembers what holds for outlier detection now, and has those bindings
    /// looked at for which it is something else than before. Says when it may
    /// be another by itself.
    fn tighten(&self, ctx: &Context, known: &Known, plan: &Plan) -> Option<Instant> {
        let (before, now) = {
            let mut held = ctx.ejector.all_tightened();
            let now = outlier::all(known, plan, &held, self.started.elapsed());
            (std::mem::replace(&mut *held, now.clone()), now)
        };
        let is = |held: Option<&Held>| held.map(|held| held.tightened);
        let keys: BTreeSet<_> = before.keys().chain(now.keys()).collect();
        for key in keys {
            if is(before.get(key)) != is(now.get(key)) {
                ctx.queue.add(key, Lane::Normal);
            }
        }
        outlier::due(&now).map(|due| self.started + due)
    }

    /// Writes what may be written now, for as long as it is what is to be written.
    /// `waiting` is that somebody is to leave once somebody else is back.
    async fn write(&mut self, ctx: &Context, steps: Vec<Step>, waiting: bool) -> Option<Instant> {
        let open: BTreeSet<_> = steps.iter().flat_map(|s| s.bindings.clone()).collect();
        let mut failed = ctx.ejector.all_failed().clone();
        failed.retain(|key, _| open.contains(key));
        let mut again: Option<Instant> = None;
        let mut sooner = |at: Instant| again = Some(again.map_or(at, |known| known.min(at)));
        let began = Instant::now();
        let mut steps = self.turns.in_order(steps);
        let each = |step: Step| async move { (write::write(ctx, &step).await, step) };
        let mut under_way = FuturesUnordered::new();
        let (mut begun, mut answers) = (false, Vec::new());
        loop {
            while under_way.len() < AT_ONCE
                && let Some(step) = steps.next()
            {
                // One is always written, however often something is told.
                if begun && let Some(at) = self.goes_on(began) {
                    sooner(at);
                    break;
                }
                match self.turns.take(&step) {
                    Ok(()) => {
                        begun = true;
                        under_way.push(each(step));
                    }
                    Err(at) => sooner(at),
                }
            }
            let Some(answer) = under_way.next().await else {
                break;
            };
            answers.push(answer);
        }
        if waiting && answers.iter().any(|(answer, _)| answer.is_ok()) {
            sooner(Instant::now());
        }
        if !answers.is_empty() {
            let was_away = std::mem::replace(&mut self.away, answers.iter().all(is_away));
            // It is back, and the others are no longer kept from trying.
            if was_away && !self.away {
                sooner(Instant::now());
            }
        }
        for (answer, step) in answers {
            let Err(error) = answer else { continue };
            if let Some(error) = stays_out(&step, &error) {
                let of = step.bindings.iter().cloned();
                failed.extend(of.map(|key| (key, error.clone())));
            }
            sooner(match error {
                // Whoever leads next begins anew, and so do we.
                WriteError::NotLeader => continue,
                WriteError::Stale => {
                    self.turns.was_stale(step);
                    Instant::now() + LOOK_AGAIN
                }
                _ => Instant::now() + RETRY_AFTER,
            });
        }
        *ctx.ejector.all_failed() = failed;
        again
    }

    /// When the next round goes on with what is left, where one that began then
    /// begins no more writes.
    fn goes_on(&self, began: Instant) -> Option<Instant> {
        if self.away {
            return Some(Instant::now() + RETRY_AFTER);
        }
        let old = began.elapsed() >= BEGINS || self.told.has_changed().unwrap_or(false);
        old.then(Instant::now)
    }
}

/// Whether it was not written for a reason that holds for all.
fn is_away((answer, _): &(Result<(), WriteError>, Step)) -> bool {
    matches!(answer, Err(WriteError::Away(_) | WriteError::Denied(_)))
}

/// What is said where a Pod cannot be brought back.
fn stays_out(step: &Step, error: &WriteError) -> Option<WriteError> {
    if matches!(step.change, Change::Eject(_)) {
        return None;
    }
    let (namespace, name) = &step.pod;
    let words = |why: &String| {
        format!(
            "Pod {namespace}/{name} is kept out of the mesh for this binding and cannot be brought back: {why}"
        )
    };
    match error {
        WriteError::Away(why) => Some(WriteError::Away(words(why))),
        WriteError::Refused(why) => Some(WriteError::Refused(words(why))),
        WriteError::Denied(why) => Some(WriteError::Denied(words(why))),
        WriteError::Stale | WriteError::NotLeader | WriteError::Fight { .. } => None,
    }
}

/// Remembers what became of all services' endpoints, and says of which it is
/// something else than before.
fn stay(ctx: &Context, now: BTreeMap<BindingKey, Stays>) {
    let before = std::mem::replace(&mut *ctx.ejector.all_stays(), now.clone());
    let keys: BTreeSet<_> = before.keys().chain(now.keys()).collect();
    let moved = keys.into_iter();
    let moved: BTreeSet<_> = moved
        .filter(|key| before.get(key) != now.get(key))
        .cloned()
        .collect();
    for key in &moved {
        // One that is about to end waits for its Pods.
        if ctx.world.is_deleted(key) {
            ctx.queue.add(key, Lane::Urgent);
        }
    }
    ctx.monitor.ejected(moved);
}

#[cfg(test)]
mod tests;
