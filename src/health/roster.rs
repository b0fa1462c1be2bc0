//! Who is checked? The endpoints, each with its place in time and its
//! connection, and how they follow what is to be checked. Does no IO.

mod entries;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use entries::Entries;

use super::board::Moment;
use super::schedule::{Id, Schedule};
use super::target::{Check, ServiceTargets, Targets};
use super::view::HealthView;
use crate::domain::health::address::Address;
use crate::domain::health::by_address::{Addresses, ByAddress};
use crate::domain::names::ServiceKey;
use crate::metrics::health::{HealthMetrics, ServiceChecks};

/// How often others are asked whether they are there, and how many.
const ASK_OTHERS_EVERY: Duration = Duration::from_secs(1);
const OTHERS: usize = 4;

/// Who is checked. `K` is a connection between two checks.
pub(super) struct Roster<K> {
    pub(super) schedule: Schedule,
    /// Boxed, since a tree has room for half as many again.
    pub(super) services: BTreeMap<Arc<ServiceKey>, Box<Service>>,
    pub(super) entries: Entries<K>,
    /// How many connections are kept.
    pub(super) kept: usize,
    metrics: HealthMetrics,
    /// Whether the metrics name each service.
    service_label: bool,
    asked_others: Option<Instant>,
    random: fastrand::Rng,
}

/// A service that is checked.
pub(super) struct Service {
    pub(super) check: Arc<Check>,
    ids: ByAddress<Id>,
    /// The last endpoints that there were.
    last: Addresses,
    pub(super) checks: ServiceChecks,
}

/// An endpoint that is checked.
pub(super) struct Entry<K> {
    pub(super) service: Arc<ServiceKey>,
    pub(super) address: Address,
    /// When it was to be checked last, or is to be next.
    pub(super) due: Instant,
    /// Boxed, since most keep none.
    pub(super) kept: Option<Box<K>>,
    /// Whether its last check may have found it silent, so that the next one needs
    /// witnesses.
    pub(super) is_silent: bool,
}

impl Service {
    /// Whether it is checked just so already.
    fn is_set(&self, targets: &ServiceTargets) -> bool {
        self.check == targets.check && *self.ids.addresses() == targets.endpoints
    }
}

impl<K> Roster<K> {
    /// One of nobody, of whom so many are checked at once; nobody is due before
    /// `start`.
    pub(super) fn new(
        start: Instant,
        in_flight: usize,
        service_label: bool,
        metrics: HealthMetrics,
        random: fastrand::Rng,
    ) -> Self {
        Self {
            schedule: Schedule::new(in_flight, start),
            services: BTreeMap::new(),
            entries: Entries::new(),
            kept: 0,
            metrics,
            service_label,
            asked_others: None,
            random,
        }
    }

    /// Checks a few others at once, of this service and of all: whether they
    /// answer tells a dead endpoint from a dead network.
    pub(super) fn ask_others(&mut self, but: Id, service: &ServiceKey, now: Instant) {
        let lately = |at| now < at + ASK_OTHERS_EVERY;
        if self.asked_others.is_some_and(lately) || self.entries.is_empty() {
            return;
        }
        self.asked_others = Some(now);
        let mut others = Vec::with_capacity(2 * OTHERS);
        if let Some(service) = self.services.get(service) {
            let from = self.random.usize(..service.ids.len().max(1));
            let neighbours = service.ids.values().cycle().skip(from);
            let neighbours = neighbours.take(service.ids.len().min(OTHERS));
            others.extend(neighbours.copied().filter(|id| *id != but));
        }
        let elsewhere = self.entries.iter();
        let elsewhere = elsewhere.filter(|(_, entry)| *entry.service != *service);
        let elsewhere = elsewhere.map(|(id, _)| id);
        others.extend(self.random.choose_multiple(elsewhere, OTHERS));
        for id in others {
            if let Some(entry) = self.entries.get_mut(id)
                && self.schedule.hurry(id, entry.due, now)
            {
                entry.due = now;
            }
        }
    }

    /// Takes what is to be checked from now on.
    pub(super) fn set(
        &mut self,
        targets: &Targets,
        view: &HealthView,
        now: Instant,
        moment: Moment,
    ) {
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|key| !targets.contains_key(&***key))
            .cloned()
            .collect();
        for key in gone {
            if let Some(service) = self.services.remove(&key) {
                for id in service.ids.values() {
                    self.drop_entry(*id);
                }
            }
            view.board().remove(&key, moment);
            if self.service_label {
                self.metrics.forget(&key.to_string());
            }
        }
        for (key, targets) in targets {
            // As of most services, whenever one of them changes.
            if self.services.get(key).is_some_and(|s| s.is_set(targets)) {
                continue;
            }
            let (key, anew) = self.set_service(key, targets, now);
            view.board().set(&key, targets, anew, moment);
        }
        self.entries.shrink();
        self.metrics.size(self.entries.len(), self.kept);
    }

    /// The same for one service. Says whether something else is asked of it.
    fn set_service(
        &mut self,
        key: &ServiceKey,
        targets: &ServiceTargets,
        now: Instant,
    ) -> (Arc<ServiceKey>, bool) {
        let known = self.services.remove_entry(key);
        let key = known
            .as_ref()
            .map_or_else(|| Arc::new(key.clone()), |(key, _)| Arc::clone(key));
        let mut service = known.map_or_else(
            || {
                Box::new(Service {
                    check: Arc::clone(&targets.check),
                    ids: ByAddress::default(),
                    last: Addresses::default(),
                    checks: self.metrics.service(&self.label(&key)),
                })
            },
            |(_, service)| service,
        );
        let check = &service.check;
        let sooner = targets.check.thresholds.interval < check.thresholds.interval;
        let anew =
            check.ask != targets.check.ask || are_other_ports(&service.last, &targets.endpoints);
        if !targets.endpoints.is_empty() {
            service.last = targets.endpoints.clone();
        }
        if *check != targets.check {
            service.check = Arc::clone(&targets.check);
        }
        let interval = targets.check.thresholds.interval;
        if anew {
            let gone = std::mem::take(&mut service.ids);
            gone.values().for_each(|id| self.drop_entry(*id));
        }
        if sooner {
            for id in service.ids.values() {
                let due = now + interval.mul_f64(self.random.f64());
                if let Some(entry) = self.entries.get_mut(*id)
                    && due < entry.due
                    && self.schedule.hurry(*id, entry.due, due)
                {
                    entry.due = due;
                }
            }
        }
        // First, so that those who come get their places.
        let all = service.ids.iter();
        let gone = all.filter(|(address, _)| !targets.endpoints.contains(*address));
        gone.for_each(|(_, id)| self.drop_entry(*id));
        let come = |address| {
            let due = now + interval.mul_f64(self.random.f64());
            let entry = Entry {
                service: Arc::clone(&key),
                address,
                due,
                kept: None,
                is_silent: false,
            };
            let id = self.entries.insert(entry);
            self.schedule.set(id, due);
            id
        };
        let ids = &mut service.ids;
        ids.become_of(&targets.endpoints, come);
        self.services.insert(Arc::clone(&key), service);
        (key, anew)
    }

    /// Forgets an endpoint; a check of it that runs ends for nothing.
    fn drop_entry(&mut self, id: Id) {
        if let Some(entry) = self.entries.remove(id) {
            self.kept -= usize::from(entry.kept.is_some());
            self.schedule.forget(id, &entry.service, entry.due);
        }
    }

    fn label(&self, key: &ServiceKey) -> String {
        if self.service_label {
            key.to_string()
        } else {
            String::new()
        }
    }
}

/// Whether another port is checked now. That is a change of what is asked,
/// unlike that of the addresses, which come and go.
fn are_other_ports(before: &Addresses, now: &Addresses) -> bool {
    let (before, now) = (ports(before), ports(now));
    !before.is_empty() && !now.is_empty() && before.is_disjoint(&now)
}

fn ports(of: &Addresses) -> BTreeSet<u16> {
    of.iter().map(|address| address.port).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{check, service};
    use super::*;
    use crate::metrics::Metrics;

    fn targets(service: u8, endpoints: u8) -> ServiceTargets {
        let hosts = 0..endpoints;
        ServiceTargets {
            check: check().into(),
            endpoints: hosts.map(|n| ([10, 0, service, n], 80)).collect(),
        }
    }

    #[test]
    fn those_who_come_get_the_places_of_those_who_go() {
        let metrics = Metrics::new().unwrap().health;
        let now = Instant::now();
        let random = fastrand::Rng::with_seed(1);
        let mut roster = Roster::<()>::new(now, 8, false, metrics, random);
        let web = service("web");
        roster.set_service(&web, &targets(0, 3), now);
        roster.set_service(&web, &targets(1, 3), now);
        let places = roster
            .entries
            .iter()
            .map(|(id, _)| id & u64::from(u32::MAX));
        assert_eq!(places.collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn other_services_are_asked_however_large_the_silent_one_is_and_wherever_it_stands() {
        let metrics = Metrics::new().unwrap().health;
        let now = Instant::now();
        let silent = service("s1");
        for seed in 0..20 {
            let random = fastrand::Rng::with_seed(seed);
            let mut roster = Roster::<()>::new(now, 8, false, metrics.clone(), random);
            for (n, endpoints) in [(0, 1), (2, 1), (1, 200)] {
                roster.set_service(&service(&format!("s{n}")), &targets(n, endpoints), now);
            }
            let last = *roster.services[&silent].ids.values().next_back().unwrap();
            roster.ask_others(last, &silent, now);
            let asked = roster.entries.iter().map(|(_, entry)| entry);
            let asked = asked.filter(|entry| entry.due == now);
            let elsewhere = asked.filter(|entry| *entry.service != silent);
            assert_eq!(elsewhere.count(), 2, "{seed}");
        }
    }
}
