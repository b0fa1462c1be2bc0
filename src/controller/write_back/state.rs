//! What is to be reported to the catalog, and when? Plain values with time as
//! an argument.
//!
//! Nothing here holds a list: a service is marked, and its list is made when
//! it is sent, so that the last state wins and memory is bounded by the number
//! of bindings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::agenda::{Agenda, Lane};
use super::dispute::Dispute;
use super::health::Health;
use super::outage::Outage;
use super::service::{Claim, Mode, Service};
use super::standing::Standing;
use crate::controller::mirror::{self, Id, object};
use crate::domain::dense::Dense;
use crate::domain::names::{BindingKey, CatalogServiceId, ObjectKey};
use crate::domain::one_to_many::OneToMany;
use crate::domain::target::Target;

/// Least time between two reports about one service.
pub(super) const SPACING: Duration = Duration::from_millis(300);

/// How long a withdrawal waits for another binding to take the service over.
pub(super) const HANDOVER: Duration = Duration::from_secs(1);

/// What may tell nothing new, as all does that is told after a start, takes one of so many
/// calls that the catalog bears, so that changes are read at once meanwhile.
const REPETITIONS: u32 = 3;

/// Most reports of endpoints that are under way at once. One place is kept
/// for news.
pub(super) const AT_ONCE: usize = 4;

/// Most withdrawals that wait for the catalog.
const MOST_WITHDRAWALS: usize = 10_000;

/// What is to be reported, and when.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) standing: Standing,
    pub(super) dispute: Dispute,
    pub(super) outage: Outage,
    pub(super) health: Health,
    pub(super) agenda: Agenda,
    pub(super) services: Dense<CatalogServiceId, Service>,
    of_binding: Dense<BindingKey, CatalogServiceId>,
    of_service: OneToMany<ObjectKey, CatalogServiceId>,
    /// Services that may have to be reported, and how soon.
    unchecked: BTreeMap<CatalogServiceId, Lane>,
    /// Least time between two reports that may tell nothing new.
    pub(super) between_repetitions: Duration,
    /// When the next one may be sent.
    pub(super) repetition: Option<Instant>,
    /// How much news went first while others were due.
    pub(super) passed_over: u32,
    /// This process is about to let go of its Lease.
    pub(super) resigns: bool,
    /// Whether a service may be being withdrawn: to look for those means to look
    /// at all.
    pub(super) may_leave: bool,
}

impl State {
    /// Nothing is to be reported yet, to a catalog that takes so many calls in a second.
    pub(super) fn new(calls: u32) -> Self {
        Self {
            between_repetitions: Duration::from_secs(1) * REPETITIONS / calls.max(1),
            ..Self::default()
        }
    }

    /// The binding wants this service reported, which came at that revision, if
    /// that is known. One that came anew is another one under the same ID, of which the
    /// catalog knows no endpoints: it is told again.
    pub(super) fn claim(
        &mut self,
        key: &BindingKey,
        target: &Target,
        came: Option<u64>,
        now: Instant,
    ) {
        let id = &target.catalog_id;
        if self.of_binding.get(key).is_some_and(|known| known != id) {
            self.release(key, now);
        }
        let (namespace, name) = (&target.service.namespace, &target.service.name);
        let of = ObjectKey::new(namespace.as_str(), name.as_str());
        let service = self
            .services
            .get_or_insert_with(id.clone(), || Service::new(now));
        let before = service.target.replace(of.clone());
        let mut lane = Lane::Again;
        if came.is_some() && service.came != came {
            if service.came.is_some() {
                lane = Lane::News;
            }
            service.came = came;
            service.lost();
            self.health.tell_again(id, now);
        }
        service.claimants.insert(key, Claim::Wanted);
        self.of_binding.insert(key.clone(), id.clone());
        if before.as_ref() != Some(&of) {
            self.unindex(id, before);
            self.of_service.insert(of, id.clone());
        }
        self.health.resume(now);
        self.check(id, lane);
    }

    /// The binding names a service, and the catalog does not say whether that
    /// is its own. Where it is being withdrawn, that waits: who was bound anew
    /// during an outage is not to lose its endpoints when it ends.
    pub(super) fn undecided(&mut self, key: &BindingKey, target: &Target) {
        let leaving = self.services.get_mut(&target.catalog_id);
        if let Some(service) = leaving.filter(|service| service.is_leaving())
            && !self.of_binding.contains_key(key)
        {
            service.claimants.insert(key, Claim::Undecided);
            self.of_binding
                .insert(key.clone(), target.catalog_id.clone());
        }
    }

    /// The binding is frozen: as long as no other wants its service, nothing
    /// is said about it.
    pub(super) fn hold(&mut self, key: &BindingKey) {
        if let Some(id) = self.of_binding.get(key)
            && let Some(service) = self.services.get_mut(id)
        {
            if let Some(claim) = service.claimants.get_mut(key)
                && *claim == Claim::Wanted
            {
                *claim = Claim::Frozen;
            }
            if service.mode() == Mode::Held && !service.is_leaving() {
                service.since = None;
            }
        }
    }

    /// The binding no longer wants its service reported. Unless another does,
    /// or it was frozen, the endpoints are withdrawn. Says whether there was
    /// something to let go of.
    pub(super) fn release(&mut self, key: &BindingKey, now: Instant) -> bool {
        self.dispute.forget(key);
        let Some(id) = self.of_binding.remove(key) else {
            return false;
        };
        let Some(service) = self.services.get_mut(&id) else {
            return false;
        };
        let frozen = service.claimants.remove(key) == Some(Claim::Frozen);
        self.may_leave |= service.is_leaving();
        if service.claimants.is_empty() {
            if frozen || self.is_full() {
                self.remove(&id);
            } else {
                self.withdraw_from(&id, now + HANDOVER, now);
            }
        }
        true
    }

    /// The binding, or its service, is gone, and there is nothing to withdraw.
    pub(super) fn forget(&mut self, key: &BindingKey) {
        self.dispute.forget(key);
        if let Some(id) = self.of_binding.remove(key)
            && let Some(service) = self.services.get_mut(&id)
        {
            service.claimants.remove(key);
            self.may_leave |= service.is_leaving();
            if service.claimants.is_empty() {
                self.remove(&id);
            }
        }
    }

    /// Withdraws endpoints and health of a service that no binding wants
    /// reported, and that an earlier leader may have reported.
    pub(super) fn withdraw(&mut self, id: &CatalogServiceId, from: Instant, now: Instant) {
        if self.services.contains_key(id) || self.is_full() {
            return;
        }
        self.services.insert(id.clone(), Service::new(now));
        self.may_leave = true;
        self.health.unknown(id, now);
        self.withdraw_from(id, from, now);
    }

    fn withdraw_from(&mut self, id: &CatalogServiceId, from: Instant, now: Instant) {
        if let Some(service) = self.services.get_mut(id) {
            service.not_before = service.not_before.max(from);
            service.failures = 0;
        }
        self.health.end(id, now);
        self.check(id, Lane::News);
    }

    /// Whether the service is reported for this binding, or was until it was
    /// frozen.
    pub(super) fn speaks_for(&self, key: &BindingKey, id: &CatalogServiceId) -> bool {
        let service = self.services.get(id);
        let claim = service.and_then(|service| service.claimants.get(key));
        matches!(claim, Some(Claim::Wanted | Claim::Frozen))
    }

    fn is_full(&self) -> bool {
        self.services.len() - self.wanted() >= MOST_WITHDRAWALS
    }

    /// At least as many services as are wanted: a binding wants one.
    fn wanted(&self) -> usize {
        self.of_binding.len().min(self.services.len())
    }

    /// Who serves behind these Services changed.
    pub(super) fn touched(&mut self, services: &BTreeSet<Id>) {
        let of = services
            .iter()
            .flat_map(|id| self.of_service.of(&object(id)));
        let ids: Vec<_> = of.cloned().collect();
        for id in ids {
            self.check(&id, Lane::News);
        }
    }

    /// Another term, or another history of the catalog, has begun: everything
    /// is told again.
    pub(super) fn tell_all_again(&mut self, now: Instant) {
        self.agenda.clear();
        let ids: Vec<_> = self.services.keys().cloned().collect();
        for id in ids {
            if let Some(service) = self.services.get_mut(&id) {
                service.forgotten();
            }
            self.health.tell_again(&id, now);
            self.check(&id, Lane::Again);
        }
    }

    /// Whoever else wrote as this cluster is gone: this process finds out anew
    /// where the catalog is, as at the beginning of a term.
    pub(super) fn alone_again(&mut self, now: Instant) {
        self.standing.alone_again();
        self.dispute.end();
        self.tell_all_again(now);
    }

    /// The catalog is asked to take what this service is now.
    pub(super) fn check(&mut self, id: &CatalogServiceId, lane: Lane) {
        let wanted = self.unchecked.entry(id.clone()).or_insert(lane);
        *wanted = lane.min(*wanted);
    }

    /// A service whose endpoints are to be compared with what the catalog
    /// took: how soon, and the Kubernetes Service, if it is not withdrawn.
    pub(super) fn unchecked(&mut self) -> Option<(CatalogServiceId, Lane, Option<Id>)> {
        while let Some((id, lane)) = self.unchecked.pop_first() {
            match self.services.get(&id) {
                Some(service) if service.mode() == Mode::Reported => {
                    return Some((id, lane, service.target.as_ref().map(mirror::id)));
                }
                Some(service) if service.mode() == Mode::Withdrawn => {
                    return Some((id, lane, None));
                }
                _ => {}
            }
        }
        None
    }

    /// Compares the service's endpoints with what the catalog took.
    pub(super) fn compared(
        &mut self,
        id: &CatalogServiceId,
        lane: Lane,
        digest: u64,
        now: Instant,
    ) {
        let Some(service) = self.services.get_mut(id) else {
            return;
        };
        if service.under_way.is_some() {
            service.changed = true;
        } else if service.accepted == Some(digest) {
            service.since = None;
            self.agenda.take(id);
            self.tidy(id);
        } else {
            service.since.get_or_insert(now);
            let at = service.not_before.max(now);
            self.agenda.put(id, lane, at);
        }
    }

    /// Whether it is news that the list of this service was cut, or not.
    pub(super) fn cut(&mut self, id: &CatalogServiceId, cut: bool) -> bool {
        let service = self.services.get_mut(id);
        service.is_some_and(|service| std::mem::replace(&mut service.cut, cut) != cut && cut)
    }

    /// How many lists were cut.
    pub(super) fn cuts(&self) -> usize {
        self.services.values().filter(|of| of.cut).count()
    }

    /// Drops a withdrawn service of which the catalog has been told all.
    pub(super) fn tidy(&mut self, id: &CatalogServiceId) {
        let done = self.services.get(id).is_some_and(|service| {
            service.mode() == Mode::Withdrawn
                && service.since.is_none()
                && service.under_way.is_none()
        });
        if done && !self.health.lacks(id) && !self.unchecked.contains_key(id) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: &CatalogServiceId) {
        self.agenda.take(id);
        self.unchecked.remove(id);
        self.health.remove(id);
        if let Some(service) = self.services.remove(id) {
            self.unindex(id, service.target);
        }
    }

    fn unindex(&mut self, id: &CatalogServiceId, target: Option<ObjectKey>) {
        if let Some(target) = target {
            self.of_service.remove(&target, id);
        }
    }

    /// How many services are known, for whatever reason.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.of_binding.is_empty()
            && self.of_service.is_empty()
            && self.unchecked.is_empty()
            && self.agenda.len() == 0
    }
}
