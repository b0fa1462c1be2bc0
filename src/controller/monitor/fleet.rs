//! What is known of all bindings' checks: what is wanted, who is checked for
//! it, and what is held of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::super::mirror::Id;
use crate::api::policy::{EjectionMode, HealthCheckScheme};
use crate::domain::health::checked::{Bound, checked};
use crate::domain::health::doubt::Doubt;
use crate::domain::health::ejection::Stays;
use crate::domain::health::judge::{Failure, Thresholds, Verdict};
use crate::domain::health::round::{Checked, Known, mode};
use crate::domain::health::summary::{Shown, Summary};
use crate::domain::health::targets::{Behind, Excluded, Target, Targets, targets};
use crate::domain::health::telling::Telling;
use crate::domain::health::wanted::{Subject, Wanted};
use crate::domain::names::BindingKey;
use crate::domain::one_to_many::OneToMany;
use crate::domain::policy::HealthCheck;
use crate::health::target::{self, Ask, Check, Peer, Scheme, ServiceTargets};
use crate::health::view::Verdicts;

/// All bindings.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    entries: BTreeMap<BindingKey, Entry>,
    by_service: OneToMany<Id, BindingKey>,
}

/// One binding.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Nothing where it is not known yet.
    wanted: Option<Wanted>,
    pub(super) targets: Targets,
    pub(super) verdicts: Verdicts,
    /// Whether every endpoint was judged once since this check was set.
    judged: bool,
    pub(super) telling: Telling<Snapshot>,
}

/// What is said of a binding at one time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Snapshot {
    pub(super) shown: Shown,
    pub(super) unhealthy: BTreeSet<SocketAddr>,
}

impl Entry {
    pub(super) fn subject(&self) -> Option<&Subject> {
        match &self.wanted {
            Some(Wanted::Check(subject)) => Some(subject),
            Some(Wanted::NotConfigured | Wanted::NotInForce) | None => None,
        }
    }

    /// What is wanted, as far as that is known.
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Whether it is known what is wanted.
    pub(super) fn is_settled(&self) -> bool {
        self.wanted.is_some()
    }

    pub(super) fn target(&self, address: SocketAddr) -> Option<&Target> {
        let mut all = self.targets.targets.iter();
        all.find(|target| target.address == address)
    }

    /// How the endpoint fails, if it does.
    pub(super) fn failure(&self, address: SocketAddr) -> Option<(Failure, Timestamp)> {
        match self.verdicts.endpoints.get(&address)? {
            (Verdict::Unhealthy(failure), since) => Some((*failure, *since)),
            _ => None,
        }
    }

    pub(super) fn is_healthy(&self, address: SocketAddr) -> bool {
        let held = self.verdicts.endpoints.get(&address);
        let healthy = held.is_some_and(|(verdict, _)| *verdict == Verdict::Healthy);
        healthy && self.target(address).is_some()
    }

    pub(super) fn unhealthy(&self) -> impl Iterator<Item = SocketAddr> {
        let all = self.verdicts.endpoints.iter();
        all.filter(|(_, (verdict, _))| matches!(verdict, Verdict::Unhealthy(_)))
            .map(|(address, _)| *address)
    }

    /// What could be said now; nothing while it is not known.
    pub(super) fn snapshot(&mut self, stays: Stays, held: Option<Doubt>) -> Option<Snapshot> {
        let none = |shown| Snapshot {
            shown,
            unhealthy: BTreeSet::new(),
        };
        match self.wanted.as_ref()? {
            Wanted::NotConfigured => return Some(none(Shown::NotConfigured)),
            Wanted::NotInForce => return Some(none(Shown::NotInForce)),
            Wanted::Check(_) => {}
        }
        let verdicts = &self.verdicts;
        let pending = |verdict: &Verdict| *verdict == Verdict::Pending;
        let known = verdicts.endpoints.len() == self.targets.targets.len();
        self.judged |= known && !verdicts.endpoints.values().any(|(v, _)| pending(v));
        if !self.judged {
            return None;
        }
        let unhealthy: BTreeSet<_> = self.unhealthy().collect();
        let first = unhealthy.first().and_then(|address| self.failure(*address));
        let proven = self.verdicts.proven;
        Some(Snapshot {
            shown: Shown::Service(Summary {
                counts: self.verdicts.counts,
                proven,
                failure: first.map(|(failure, _)| failure).filter(|_| !proven),
                unchecked: unchecked(&self.targets),
                held,
                stays,
            }),
            unhealthy,
        })
    }
}

/// Why an endpoint that serves is not checked.
fn unchecked(targets: &Targets) -> Option<Excluded> {
    let serves = |why: &Excluded| !matches!(why, Excluded::Terminating | Excluded::NotReady);
    targets.excluded.iter().map(|e| e.why).filter(serves).min()
}

impl Fleet {
    pub(super) fn get(&self, key: &BindingKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &BindingKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    pub(super) fn keys(&self) -> Vec<BindingKey> {
        self.entries.keys().cloned().collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&BindingKey, &Entry)> {
        self.entries.iter()
    }

    /// The bindings that have this Service checked.
    pub(super) fn checking(&self, service: &Id) -> BTreeSet<BindingKey> {
        self.by_service.of(service).iter().cloned().collect()
    }

    /// The binding wants this; nothing where that is not known, so that what it
    /// wanted until now stays.
    pub(super) fn want(&mut self, key: &BindingKey, wanted: Option<Wanted>) {
        let entry = self.entries.entry(key.clone()).or_default();
        if wanted.is_none() || entry.wanted == wanted {
            return;
        }
        let check = |wanted: &Option<Wanted>| match wanted {
            Some(Wanted::Check(subject)) => Some(subject.check.clone()),
            _ => None,
        };
        entry.judged &= check(&entry.wanted) == check(&wanted);
        let before = entry.subject().map(service);
        entry.wanted = wanted;
        let after = entry.subject().map(service);
        if after.is_none() {
            entry.targets = Targets::default();
            entry.verdicts = Verdicts::default();
        }
        self.index(key, before, after);
    }

    /// The binding is gone.
    pub(super) fn forget(&mut self, key: &BindingKey) {
        if let Some(entry) = self.entries.remove(key) {
            let before = entry.subject().map(service);
            self.index(key, before, None);
        }
    }

    fn index(&mut self, key: &BindingKey, before: Option<Id>, after: Option<Id>) {
        if let Some(service) = before {
            self.by_service.remove(&service, key);
        }
        if let Some(service) = after {
            self.by_service.insert(service, key.clone());
        }
    }

    /// All that the prober is to check. A Service is checked for one binding.
    pub(super) fn to_check(&self, trust_domain: &str) -> target::Targets {
        let mut all = target::Targets::new();
        for entry in self.entries.values() {
            let Some(subject) = entry.subject() else {
                continue;
            };
            let endpoints = entry.targets.targets.iter().map(|target| target.address);
            all.entry(subject.service.clone())
                .or_insert_with(|| ServiceTargets {
                    check: check(subject, trust_domain),
                    endpoints: endpoints.collect(),
                });
        }
        all
    }

    /// All that the ejector decides by.
    pub(super) fn known(&self, flag: EjectionMode, held: bool) -> Known {
        let mut known = Known::default();
        for (key, entry) in &self.entries {
            if entry.wanted.is_none() {
                known.unsettled.insert(key.clone());
            } else if let Some(subject) = entry.subject() {
                known.services.push(member(key, entry, subject, flag, held));
            }
        }
        known
    }
}

fn member(
    key: &BindingKey,
    entry: &Entry,
    subject: &Subject,
    flag: EjectionMode,
    held: bool,
) -> Checked {
    let bound = Bound {
        binding: key.clone(),
        mode: mode(&subject.check, flag),
        percent: subject.percent,
        proven: entry.verdicts.proven,
        held: held || subject.frozen,
    };
    checked(bound, &entry.targets, |address| {
        let (verdict, since) = *entry.verdicts.endpoints.get(&address)?;
        // By what was found before another one was well again nobody leaves.
        let confirmed = !entry.verdicts.unconfirmed.contains(&address);
        Some((if confirmed { verdict } else { Verdict::Pending }, since))
    })
}

/// The Service as the world names it.
pub(super) fn service(subject: &Subject) -> Id {
    let service = &subject.service;
    (service.namespace.to_string(), service.name.to_string())
}

/// Who is checked for the subject.
pub(super) fn behind(subject: &Subject, behind: &Behind) -> Targets {
    targets(behind, &subject.check)
}

/// The check as the prober makes it.
fn check(subject: &Subject, trust_domain: &str) -> Check {
    let HealthCheck {
        endpoint,
        interval,
        timeout,
        scheme,
        failure_threshold,
        success_threshold,
        confirm_interval,
        ..
    } = &subject.check;
    Check {
        ask: Ask {
            scheme: match scheme {
                HealthCheckScheme::Http => Scheme::Http,
                HealthCheckScheme::Https => Scheme::Https,
                HealthCheckScheme::Mtls => Scheme::Mtls(Peer {
                    trust_domain: trust_domain.to_owned(),
                    namespace: subject.service.namespace.to_string(),
                }),
            },
            path: endpoint.clone(),
            host: subject.host.clone(),
            timeout: Duration::from_millis(timeout.0),
        },
        thresholds: Thresholds {
            failures: *failure_threshold,
            successes: *success_threshold,
            interval: Duration::from_millis(interval.0),
            confirm: Duration::from_millis(confirm_interval.0),
        },
    }
}
