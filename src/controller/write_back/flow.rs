//! Which report is sent next, and what follows from its answer? Plain values
//! with time as an argument.

use std::time::Duration;

use tokio::time::Instant;

use super::agenda::Lane;
use super::service::Mode;
use super::standing::{Overtaken, Position};
use super::state::{AT_ONCE, SPACING, State};
use crate::catalog::error::CatalogError;
use crate::catalog::report::{HealthReport, ItemOutcome};
use crate::controller::mirror::{self, Id};
use crate::domain::names::CatalogServiceId;
use crate::domain::retry;

/// Most news that goes in a row while something else is due.
const MOST_NEWS_BEFORE: u32 = 7;

/// What somebody has to be told of, or do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Alarm {
    /// The catalog is ahead: move above this epoch.
    Raise(u64),
    /// Somebody else writes as this cluster.
    Rival(Position),
    /// The catalog refused what it was told of this service.
    Refused(CatalogServiceId, String),
}

/// A report of endpoints that was sent.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) id: CatalogServiceId,
    pub(super) position: Position,
    pub(super) digest: u64,
}

impl State {
    /// The service that is reported next: its Kubernetes Service, if it is not
    /// withdrawn. `under_way` counts the requests that are.
    pub(super) fn next(
        &mut self,
        under_way: usize,
        now: Instant,
    ) -> Option<(CatalogServiceId, Option<Id>)> {
        if under_way >= AT_ONCE || !self.may_send(under_way, now) {
            return None;
        }
        loop {
            let lane = self.due(under_way, now)?;
            let id = self.first(lane, now)?.1.clone();
            self.agenda.take(&id);
            if lane == Lane::Again {
                self.repetition = Some(now + self.between_repetitions);
                self.passed_over = 0;
            } else if self
                .first(Lane::Again, now)
                .is_some_and(|(at, _)| at <= now)
            {
                self.passed_over += 1;
            }
            match self.services.get(&id) {
                Some(service) if service.mode() == Mode::Reported => {
                    return Some((id, service.target.as_ref().map(mirror::id)));
                }
                Some(service) if service.mode() == Mode::Withdrawn => return Some((id, None)),
                _ => {}
            }
        }
    }

    /// The lane whose first is due. News goes before, but not without end: the
    /// catalog may take less than there is.
    fn due(&self, under_way: usize, now: Instant) -> Option<Lane> {
        let is_due = |lane| self.first(lane, now).is_some_and(|(at, _)| at <= now);
        let (news, again) = (is_due(Lane::News), is_due(Lane::Again));
        let may_repeat = again && self.repetition.is_none_or(|at| at <= now);
        let turn = self.passed_over >= MOST_NEWS_BEFORE;
        if may_repeat && (turn || (!news && under_way < AT_ONCE - 1)) {
            return Some(Lane::Again);
        }
        news.then_some(Lane::News)
    }

    /// The first of the lane, and when it is due. Whoever finds out whether the
    /// catalog is back does not wait for its own time; but a withdrawal does
    /// once, since somebody may yet want the service reported.
    fn first(&self, lane: Lane, now: Instant) -> Option<(Instant, &CatalogServiceId)> {
        let first = self.agenda.first(lane)?;
        if !self.outage.is_away() || first.0 <= now {
            return Some(first);
        }
        let scout = |id: &CatalogServiceId| {
            let service = self.services.get(id);
            service.is_some_and(|of| of.mode() == Mode::Reported || of.failures > 0)
        };
        let mut waiting = self.agenda.iter(lane);
        let scout = waiting.find(|(_, id)| scout(id)).map(|(_, id)| (now, id));
        scout.or(Some(first))
    }

    fn may_send(&self, under_way: usize, now: Instant) -> bool {
        self.standing.may_write() && self.outage.may_send(under_way, now)
    }

    /// Begins the report; none where the catalog has taken just that.
    pub(super) fn begin(
        &mut self,
        id: &CatalogServiceId,
        digest: u64,
        now: Instant,
    ) -> Option<Sent> {
        let service = self.services.get_mut(id)?;
        if service.accepted == Some(digest) {
            service.since = None;
            self.tidy(id);
            return None;
        }
        let position = self.standing.next()?;
        service.under_way = Some(position);
        service.changed = false;
        service.not_before = now + SPACING;
        Some(Sent {
            id: id.clone(),
            position,
            digest,
        })
    }

    /// Takes the answer to a report of endpoints; `chance` in 0..1.
    pub(super) fn answered(
        &mut self,
        sent: &Sent,
        answer: &Result<ItemOutcome, CatalogError>,
        chance: f64,
        now: Instant,
    ) -> Option<Alarm> {
        match answer {
            Ok(_) => self.worked(now),
            Err(error) => self.failed(error, chance, now),
        }
        let Some(service) = self.services.get_mut(&sent.id) else {
            return self.judge(sent.position, answer, false);
        };
        let written = service.written;
        if service.under_way == Some(sent.position) {
            service.under_way = None;
            let mut again = std::mem::take(&mut service.changed);
            match answer {
                Ok(ItemOutcome::Accepted | ItemOutcome::Invalid(_)) => {
                    service.accepted = Some(sent.digest);
                    service.since = None;
                    service.failures = 0;
                }
                // It is told again if the catalog gets it back.
                Ok(ItemOutcome::NotFound) => {
                    service.accepted = None;
                    service.since = None;
                    service.failures = 0;
                }
                Err(CatalogError::RateLimited { .. }) => again = true,
                Ok(ItemOutcome::Outdated { .. }) | Err(_) => {
                    again = true;
                    service.failures = service.failures.saturating_add(1);
                    let delay = retry::BINDING.delay(service.failures, chance);
                    service.not_before = service.not_before.max(now + delay);
                }
            }
            if matches!(answer, Ok(ItemOutcome::Accepted)) {
                service.written = true;
            }
            if again {
                self.check(&sent.id, Lane::News);
            }
        }
        let alarm = self.judge(sent.position, answer, written);
        let alarm = alarm.or_else(|| self.refused(&sent.id, answer));
        self.tidy(&sent.id);
        alarm
    }

    /// What the answer says about who writes as this cluster.
    fn judge(
        &mut self,
        sent: Position,
        answer: &Result<ItemOutcome, CatalogError>,
        written: bool,
    ) -> Option<Alarm> {
        match answer {
            Ok(ItemOutcome::Accepted) => self.standing.accepted(sent),
            Ok(ItemOutcome::Outdated { epoch, sequence }) => {
                let known = Position {
                    epoch: *epoch,
                    sequence: *sequence,
                };
                match self.standing.overtaken(sent, known, written) {
                    Overtaken::ByOurselves => {}
                    Overtaken::Behind { epoch } => return Some(Alarm::Raise(epoch)),
                    Overtaken::ByAnother => return Some(Alarm::Rival(known)),
                }
            }
            _ => {}
        }
        None
    }

    /// Whether it is news that the catalog refuses what it is told of this.
    fn refused(
        &mut self,
        id: &CatalogServiceId,
        answer: &Result<ItemOutcome, CatalogError>,
    ) -> Option<Alarm> {
        let service = self.services.get_mut(id)?;
        let why = match answer {
            Ok(ItemOutcome::Invalid(why)) => Some(why),
            Ok(_) => None,
            Err(_) => return None,
        };
        let known = std::mem::replace(&mut service.refused, why.is_some());
        why.filter(|_| !known)
            .map(|why| Alarm::Refused(id.clone(), why.clone()))
    }

    /// The next health report.
    pub(super) fn next_health(
        &mut self,
        under_way: usize,
        now: Instant,
    ) -> Option<(Position, Vec<HealthReport>)> {
        if !self.may_send(under_way, now) {
            return None;
        }
        let services = &self.services;
        let may_say = |id: &CatalogServiceId| {
            let mode = services.get(id).map(super::service::Service::mode);
            matches!(mode, Some(Mode::Reported | Mode::Withdrawn))
        };
        let items = self.health.batch(may_say, now)?;
        Some((self.standing.next()?, items))
    }

    /// Takes the answer to a health report.
    pub(super) fn answered_health(
        &mut self,
        position: Position,
        items: &[HealthReport],
        answer: &Result<Vec<ItemOutcome>, CatalogError>,
        chance: f64,
        now: Instant,
    ) -> Vec<Alarm> {
        let outcomes = match answer {
            Ok(outcomes) => outcomes,
            Err(error) => {
                // Not counted as an outage: a catalog may take endpoints and
                // no health.
                if let CatalogError::RateLimited { retry_after, .. } = error {
                    self.outage.wants_peace(*retry_after, now);
                }
                self.health.failed(chance, now);
                return Vec::new();
            }
        };
        self.worked(now);
        self.health.answered(items, outcomes, now);
        let mut alarms = Vec::new();
        for (item, outcome) in items.iter().zip(outcomes) {
            let Ok(id) = CatalogServiceId::parse(&item.service_id) else {
                continue;
            };
            let answer = Ok(outcome.clone());
            let written = self.services.get(&id).is_some_and(|known| known.written);
            alarms.extend(self.judge(position, &answer, written));
            alarms.extend(self.refused(&id, &answer));
            self.tidy(&id);
        }
        alarms
    }

    fn worked(&mut self, now: Instant) {
        if !self.outage.answered() {
            return;
        }
        // Whoever failed meanwhile was not at fault, as far as is known.
        let failed = self.services.iter_mut().filter(|(_, of)| of.failures > 0);
        for (id, service) in failed {
            service.not_before = service.not_before.min(now);
            if service.since.is_some() && service.under_way.is_none() {
                self.agenda.put(id, Lane::News, now);
            }
        }
        self.health.hurry(now);
    }

    fn failed(&mut self, error: &CatalogError, chance: f64, now: Instant) {
        match error {
            CatalogError::RateLimited { retry_after, .. } => {
                self.outage.wants_peace(*retry_after, now);
            }
            _ => self.outage.failed(chance, now),
        }
    }

    /// When there is something to do that nothing else will wake us for.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        if !self.standing.may_write() {
            return None;
        }
        let first = |lane| self.first(lane, now).map(|(at, _)| at);
        let news = first(Lane::News);
        let again = first(Lane::Again);
        let again = again.map(|at| self.repetition.map_or(at, |next| next.max(at)));
        let due = [news, again, self.health.due()]
            .into_iter()
            .flatten()
            .min()?;
        let due = self.outage.next().map_or(due, |next| next.max(due));
        // What is due and not sent waits for the end of what is under way.
        (due > now).then_some(due)
    }

    /// How many services the catalog lacks endpoints of, and health, and how
    /// long it has lacked anything; nothing, as far as who does not lead knows.
    pub(super) fn lag(&self, now: Instant) -> (usize, usize, Duration) {
        if self.standing.epoch().is_none() {
            return (0, 0, Duration::ZERO);
        }
        let endpoints = self.services.values().filter_map(|service| service.since);
        let (health, since) = self.health.pending();
        let oldest = endpoints.clone().chain(since).min();
        let age = oldest.map_or(Duration::ZERO, |since| now.duration_since(since));
        (endpoints.count(), health, age)
    }
}
