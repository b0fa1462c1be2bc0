//! The one task of the monitor: takes what changed, has endpoints checked, and
//! says what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::super::context::Context;
use super::super::mirror::Id;
use super::entry::Entry;
use super::fleet::{Fleet, behind, service};
use super::look::{Look, look};
use super::{Marks, Monitor};
use super::{alerts, announce};
use crate::domain::health::doubt::Doubt;
use crate::domain::health::ejection::Stays;
use crate::domain::names::{BindingKey, ServiceKey};
use crate::domain::record::ServiceRecord;
use crate::health::target;

/// What comes within this time is dealt with together.
const TOGETHER: Duration = Duration::from_millis(20);

/// A round is not followed by the next one for so many times what it took: however
/// many bindings there are, and however often they change, rounds take no more than a
/// fifth of one core.
const REST: u32 = 4;

/// The longest that an unhealthy endpoint may wait for that. A round that took longer
/// most likely was kept from working.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How long verdicts are held before statuses say so: a short doubt is over
/// before anybody could read of it.
const WORTH_SAYING: Duration = Duration::from_secs(10);

/// Does what follows from what changed, for as long as the process lives.
pub async fn run(ctx: Arc<Context>) {
    ctx.world.complete().await;
    ctx.world.slices_listed().await;
    ctx.world.pods_listed().await;
    let mut rounds = Rounds::new();
    ctx.monitor.records_changed(ctx.world.keys());
    let mut rested = Instant::now();
    loop {
        let monitor = &ctx.monitor;
        let due = rounds.due();
        let later = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let mut judged = Vec::new();
        tokio::select! {
            () = monitor.moved.notified() => {}
            changed = monitor.view.changed() => judged = changed,
            () = later => {}
        }
        sleep_until(rested.max(Instant::now() + TOGETHER)).await;
        let begun = Instant::now();
        rounds.go(&ctx, judged);
        let ended = Instant::now();
        rested = ended + rest_after(ended - begun);
    }
}

/// How long the next round waits after one that took so long.
fn rest_after(took: Duration) -> Duration {
    took.saturating_mul(REST).min(LONGEST_REST)
}

/// What is kept from one round to the next.
struct Rounds {
    started: Instant,
    fleet: Fleet,
    /// Records that only looks have seen.
    records: BTreeMap<BindingKey, Arc<ServiceRecord>>,
    checked: Arc<target::Targets>,
    /// Whether the ejector was told anything: also where there is no binding it
    /// has to know, since Pods may be out for one that is gone.
    told: bool,
    /// Since when verdicts are held, and why.
    held: Option<(Doubt, Instant)>,
    held_said: bool,
}

/// What a round found to be another.
#[derive(Default)]
struct Changed {
    /// What the ejector decides by.
    known: bool,
    /// What the prober is to check, or how.
    checks: bool,
    /// Bindings of which something else could be said.
    bindings: BTreeSet<BindingKey>,
}

impl Rounds {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            fleet: Fleet::default(),
            records: BTreeMap::new(),
            checked: Arc::default(),
            told: false,
            held: None,
            held_said: false,
        }
    }

    /// When something is due by itself.
    fn due(&self) -> Option<Instant> {
        let said = self.fleet.standing().next_due();
        let said = said.map(|due| self.started + due);
        let held = self.held.filter(|_| !self.held_said);
        let held = held.map(|(_, since)| since + WORTH_SAYING);
        said.into_iter().chain(held).min()
    }

    /// One round. Writes nothing itself.
    fn go(&mut self, ctx: &Context, mut judged: Vec<ServiceKey>) {
        let marks = std::mem::take(&mut *ctx.monitor.marks());
        let Marks {
            bindings,
            mut services,
            ejections,
            records,
        } = marks;
        self.records.extend(records);
        let mut changed = Changed {
            known: !std::mem::replace(&mut self.told, true),
            ..Changed::default()
        };
        for key in bindings {
            self.settle(ctx, &key, &mut services, &mut changed);
        }
        // What is known of an endpoint may be known since before it was asked for.
        judged.extend(self.find(ctx, &services, &mut changed));
        self.judge(ctx, judged, &mut changed);
        self.doubt(&ctx.monitor, &mut changed);
        if changed.known {
            let held = self.held.is_some();
            ctx.ejector
                .tell(self.fleet.known(ctx.options.ejection, held));
        }
        changed.bindings.extend(ejections);
        self.compare(ctx, &changed.bindings);
        if !changed.bindings.is_empty() {
            ctx.monitor.alerts.set(alerts::all(ctx, &self.fleet));
        }
        announce::counted(&ctx.metrics, &self.fleet);
        announce::due(ctx, &mut self.fleet, self.started.elapsed());
    }

    /// What the binding wants now.
    fn settle(
        &mut self,
        ctx: &Context,
        key: &BindingKey,
        services: &mut BTreeSet<Id>,
        changed: &mut Changed,
    ) {
        let before = self.fleet.get(key).and_then(|e| e.subject().cloned());
        let settled = |fleet: &Fleet| fleet.get(key).map(Entry::is_settled);
        let was_settled = settled(&self.fleet);
        let kept = self.fleet.get(key).and_then(Entry::wanted);
        match look(ctx, key, self.records.get(key), kept) {
            Look::There(wanted) => self.fleet.want(key, wanted),
            Look::Gone => {
                self.records.remove(key);
                self.fleet.forget(key);
                ctx.monitor.show(key, None);
            }
        }
        let after = self.fleet.get(key).and_then(|e| e.subject().cloned());
        // Of one that is not settled all stays out, so its end is news as well.
        if was_settled != settled(&self.fleet) || before != after {
            changed.known = true;
            changed.checks |= before != after;
            services.extend(before.iter().chain(&after).map(service));
        }
        changed.bindings.insert(key.clone());
    }

    /// Who is checked behind these Services now. Names those that are checked.
    fn find(
        &mut self,
        ctx: &Context,
        services: &BTreeSet<Id>,
        changed: &mut Changed,
    ) -> Vec<ServiceKey> {
        let mut checked = Vec::new();
        for id in services {
            for key in self.fleet.checking(id) {
                let Some(subject) = self.fleet.get(&key).and_then(Entry::subject) else {
                    continue;
                };
                let found = behind(subject, &ctx.world.behind(id));
                checked.push(subject.service.clone());
                if self.fleet.change(&key, |entry| entry.found(found)) == Some(true) {
                    changed.known = true;
                    changed.checks = true;
                    changed.bindings.insert(key);
                }
            }
        }
        if changed.checks {
            let all = self.fleet.checks(&ctx.options.trust_domain);
            if all != *self.checked {
                self.checked = Arc::new(all);
                ctx.monitor.prober.set(Arc::clone(&self.checked));
            }
        }
        checked
    }

    /// What is held of the endpoints of these Services now.
    fn judge(&mut self, ctx: &Context, judged: Vec<ServiceKey>, changed: &mut Changed) {
        for service in judged {
            let id = (service.namespace.to_string(), service.name.to_string());
            let verdicts = ctx.monitor.view.verdicts(&service).unwrap_or_default();
            for key in self.fleet.checking(&id) {
                let Some(before) = self.fleet.get(&key).map(Entry::verdicts) else {
                    continue;
                };
                if *before != verdicts {
                    announce::moved(&ctx.metrics, before, &verdicts);
                    let now = verdicts.clone();
                    self.fleet.change(&key, |entry| entry.judged(now));
                    changed.known = true;
                    changed.bindings.insert(key);
                }
            }
        }
    }

    /// Whether verdicts are held now, and whether that is worth a word.
    fn doubt(&mut self, monitor: &Monitor, changed: &mut Changed) {
        let now = Instant::now();
        let before = self.held;
        self.held = monitor.view.held().map(|doubt| {
            let since = before.map_or(now, |(_, since)| since);
            (doubt, since)
        });
        changed.known |= before.is_some() != self.held.is_some();
        let said = self
            .held
            .is_some_and(|(_, since)| since + WORTH_SAYING <= now);
        let other = said && before.map(|held| held.0) != self.held.map(|held| held.0);
        if said != self.held_said || other {
            self.held_said = said;
            changed.bindings.extend(self.fleet.keys());
        }
    }

    /// What could be said of these bindings now.
    fn compare(&mut self, ctx: &Context, keys: &BTreeSet<BindingKey>) {
        let now = self.started.elapsed();
        let held = self.held.filter(|_| self.held_said).map(|(doubt, _)| doubt);
        for key in keys {
            let stays: Stays = ctx.ejector.stays(key);
            self.fleet.change(key, |entry| {
                if let Some(snapshot) = entry.snapshot(stays, held) {
                    entry.telling.is(Box::new(snapshot), now);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
