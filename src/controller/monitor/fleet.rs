//! What is known of all bindings' checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::mirror::{Id, object};
use super::entry::Entry;
use super::standing::{Share, Standing};
use crate::api::policy::{EjectionMode, HealthCheckScheme};
use crate::domain::health::judge::Thresholds;
use crate::domain::health::round::Known;
use crate::domain::health::targets::{Behind, Targets, targets};
use crate::domain::health::wanted::{Subject, Wanted};
use crate::domain::names::{BindingKey, ObjectKey};
use crate::domain::one_to_many::OneToMany;
use crate::domain::policy::HealthCheck;
use crate::health::target::{self, Ask, Check, Peer, Scheme};

/// All bindings.
#[derive(Debug, Default)]
pub(super) struct Fleet {
    /// Boxed, since a tree has room for half as many again.
    entries: BTreeMap<BindingKey, Box<Entry>>,
    by_service: OneToMany<ObjectKey, BindingKey>,
    standing: Standing,
}

impl Fleet {
    pub(super) fn get(&self, key: &BindingKey) -> Option<&Entry> {
        self.entries.get(key).map(|entry| &**entry)
    }

    /// Changes what is known of the binding, if anything is.
    pub(super) fn change<T>(
        &mut self,
        key: &BindingKey,
        change: impl FnOnce(&mut Entry) -> T,
    ) -> Option<T> {
        let entry = self.entries.get_mut(key)?;
        let before = Share::of(entry);
        let changed = change(entry);
        self.standing.moved(key, before, Share::of(entry));
        Some(changed)
    }

    /// What is known of all together.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn keys(&self) -> Vec<BindingKey> {
        self.entries.keys().cloned().collect()
    }

    /// Those with endpoints that are unhealthy.
    pub(super) fn failing(&self) -> impl Iterator<Item = (&BindingKey, &Entry)> {
        let failing = self.standing.failing();
        failing.filter_map(|key| Some((key, self.get(key)?)))
    }

    /// The bindings that have this Service checked.
    pub(super) fn checking(&self, service: &Id) -> BTreeSet<BindingKey> {
        self.by_service
            .of(&object(service))
            .iter()
            .cloned()
            .collect()
    }

    /// The binding wants this; nothing where that is not known, so that what it
    /// wanted until now stays.
    pub(super) fn want(&mut self, key: &BindingKey, wanted: Option<Wanted>) {
        let entry = self.entries.entry(key.clone()).or_default();
        if wanted.is_none() || entry.wanted() == wanted.as_ref() {
            return;
        }
        let both = self.change(key, |entry| {
            let before = entry.subject().map(service);
            entry.want(wanted);
            (before, entry.subject().map(service))
        });
        if let Some((before, after)) = both {
            self.index(key, before, after);
        }
    }

    /// The binding is gone.
    pub(super) fn forget(&mut self, key: &BindingKey) {
        if let Some(entry) = self.entries.remove(key) {
            let before = entry.subject().map(service);
            self.index(key, before, None);
            let nothing = Share::default();
            self.standing.moved(key, Share::of(&entry), nothing);
        }
    }

    fn index(&mut self, key: &BindingKey, before: Option<Id>, after: Option<Id>) {
        if let Some(service) = before {
            self.by_service.remove(&object(&service), key);
        }
        if let Some(service) = after {
            self.by_service.insert(object(&service), key.clone());
        }
    }

    /// All that the prober is to check. A Service is checked for one binding.
    pub(super) fn checks(&mut self, trust_domain: &str) -> target::Targets {
        let mut all = target::Targets::new();
        for entry in self.entries.values_mut() {
            let checked = entry.checks(|subject| check(subject, trust_domain));
            if let Some((service, targets)) = checked {
                all.entry(service).or_insert(targets);
            }
        }
        all
    }

    /// All that the ejector decides by.
    pub(super) fn known(&mut self, flag: EjectionMode, held: bool) -> Known {
        let mut known = Known::default();
        for (key, entry) in &mut self.entries {
            if !entry.is_settled() {
                known.unsettled.insert(key.clone());
            } else if let Some(checked) = entry.checked(key, flag, held) {
                known.services.push(checked);
            }
        }
        known
    }
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
