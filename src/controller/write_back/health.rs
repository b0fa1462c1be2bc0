//! Which services' health is to be reported next, in batches? Plain values
//! with time as an argument.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::outage;
use crate::catalog::report::{HealthReport, ItemOutcome, ReportedHealth};
use crate::domain::dense::Dense;
use crate::domain::names::CatalogServiceId;
use crate::domain::retry;

/// Most items of one report.
pub(super) const MOST_ITEMS: usize = 1_000;

/// How long a change waits for others to come with it.
pub(super) const GATHERING: Duration = Duration::from_millis(100);

/// What a service's health is, and what the catalog took last.
#[derive(Debug)]
struct Known {
    wanted: Told,
    accepted: Option<Told>,
    /// What is under way may be forgotten as well.
    again: bool,
}

/// What is told of a service, whose ID is the key that it is kept under.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Told {
    health: ReportedHealth,
    healthy: u32,
    total: u32,
}

impl Told {
    fn of(item: &HealthReport) -> Self {
        Self {
            health: item.health,
            healthy: item.healthy,
            total: item.total,
        }
    }

    fn item(self, id: &CatalogServiceId) -> HealthReport {
        HealthReport {
            service_id: id.to_string(),
            health: self.health,
            healthy: self.healthy,
            total: self.total,
        }
    }
}

/// The health of all services.
#[derive(Debug, Default)]
pub(super) struct Health {
    services: Dense<CatalogServiceId, Known>,
    /// Those that the catalog lacks.
    lacking: BTreeSet<CatalogServiceId>,
    /// When the next batch is due.
    due: Option<Instant>,
    since: Option<Instant>,
    under_way: bool,
    /// Failures in a row.
    failures: u32,
}

impl Health {
    /// The health of the service is this from now on.
    pub(super) fn set(&mut self, id: &CatalogServiceId, wanted: &HealthReport, now: Instant) {
        self.want(id, Told::of(wanted), now);
    }

    fn want(&mut self, id: &CatalogServiceId, wanted: Told, now: Instant) {
        let known = self.services.get_or_insert_with(id.clone(), || Known {
            wanted,
            accepted: None,
            again: false,
        });
        known.wanted = wanted;
        self.compare(id, now);
    }

    /// The catalog may no longer know the health of this service.
    pub(super) fn tell_again(&mut self, id: &CatalogServiceId, now: Instant) {
        if let Some(known) = self.services.get_mut(id) {
            known.accepted = None;
            known.again = true;
            self.compare(id, now);
        }
    }

    /// Nobody judges the service any more.
    pub(super) fn end(&mut self, id: &CatalogServiceId, now: Instant) {
        if self.services.contains_key(id) {
            self.unknown(id, now);
        }
    }

    /// Nobody knows the health of the service, whatever was told before.
    pub(super) fn unknown(&mut self, id: &CatalogServiceId, now: Instant) {
        let unknown = Told {
            health: ReportedHealth::Unknown,
            healthy: 0,
            total: 0,
        };
        self.want(id, unknown, now);
    }

    /// Drops what is known of the service.
    pub(super) fn remove(&mut self, id: &CatalogServiceId) {
        self.services.remove(id);
        self.lacking.remove(id);
    }

    /// Whether the catalog lacks the health of this service.
    pub(super) fn lacks(&self, id: &CatalogServiceId) -> bool {
        self.lacking.contains(id)
    }

    /// How many services it lacks, and since when.
    pub(super) fn pending(&self) -> (usize, Option<Instant>) {
        (self.lacking.len(), self.since)
    }

    /// When the next batch is due, unless one is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.under_way)
    }

    /// The next batch, of those services that may be spoken of.
    pub(super) fn batch(
        &mut self,
        may_say: impl Fn(&CatalogServiceId) -> bool,
        now: Instant,
    ) -> Option<Vec<HealthReport>> {
        self.due().filter(|due| *due <= now)?;
        let ids = self.lacking.iter().filter(|id| may_say(id));
        let wanted = |id| Some(self.services.get(id)?.wanted.item(id));
        let items: Vec<_> = ids.filter_map(wanted).take(MOST_ITEMS).collect();
        if items.is_empty() {
            self.due = None;
            self.since = None;
            return None;
        }
        self.under_way = true;
        for (_, known) in self.services.iter_mut() {
            known.again = false;
        }
        Some(items)
    }

    /// The batch was answered. Items that a later state has overtaken stay
    /// lacking; one that was not taken is told again at the next occasion if
    /// it was too old, and not before something changes else.
    pub(super) fn answered(
        &mut self,
        items: &[HealthReport],
        outcomes: &[ItemOutcome],
        now: Instant,
    ) {
        self.under_way = false;
        self.failures = 0;
        self.due = None;
        self.since = None;
        for (item, outcome) in items.iter().zip(outcomes) {
            let Ok(id) = CatalogServiceId::parse(&item.service_id) else {
                continue;
            };
            if let Some(known) = self.services.get_mut(&id)
                && !matches!(outcome, ItemOutcome::Outdated { .. })
                && !known.again
            {
                known.accepted = Some(Told::of(item));
                self.lacking.remove(&id);
            }
            self.compare(&id, now);
        }
        self.resume(now);
    }

    /// The batch failed; `chance` in 0..1.
    pub(super) fn failed(&mut self, chance: f64, now: Instant) {
        self.under_way = false;
        self.failures = self.failures.saturating_add(1);
        self.due = Some(now + retry::PROBE.delay(self.failures, chance));
    }

    /// How long the next batch may take; none where the client decides.
    pub(super) fn deadline(&self) -> Option<Duration> {
        outage::deadline(self.failures)
    }

    /// Somebody may be spoken of again.
    pub(super) fn resume(&mut self, now: Instant) {
        if !self.lacking.is_empty() {
            self.wake(now);
        }
    }

    /// What was put off for longer is due now.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.failures = 0;
        self.due = self.due.map(|due| due.min(now));
        self.resume(now);
    }

    fn compare(&mut self, id: &CatalogServiceId, now: Instant) {
        let Some(known) = self.services.get(id) else {
            return;
        };
        if known.accepted.as_ref() == Some(&known.wanted) {
            self.lacking.remove(id);
        } else {
            self.lacking.insert(id.clone());
            self.wake(now);
        }
    }

    fn wake(&mut self, now: Instant) {
        self.due.get_or_insert(now + GATHERING);
        self.since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_a_service_bears_its_id_and_is_kept_without_it() {
        assert!(size_of::<Known>() <= 28, "{}", size_of::<Known>());
        let id = CatalogServiceId::parse("web").unwrap();
        let now = Instant::now();
        let wanted = HealthReport {
            service_id: "web".to_owned(),
            health: ReportedHealth::Degraded,
            healthy: 2,
            total: 3,
        };
        let mut health = Health::default();
        health.set(&id, &wanted, now);
        let batch = health.batch(|_| true, now + GATHERING);
        assert_eq!(batch, Some(vec![wanted]));
    }
}
