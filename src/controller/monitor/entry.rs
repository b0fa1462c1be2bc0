//! What is known of one binding's checks: what is wanted, who is checked for it,
//! what is held of them, and what follows for whoever says it or ejects by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::policy::EjectionMode;
use crate::domain::health::address::Address;
use crate::domain::health::by_address::Addresses;
use crate::domain::health::checked::{Bound, checked};
use crate::domain::health::doubt::Doubt;
use crate::domain::health::ejection::Stays;
use crate::domain::health::judge::{Failure, Verdict};
use crate::domain::health::round::{Checked, mode};
use crate::domain::health::summary::{Shown, Summary};
use crate::domain::health::targets::{Excluded, Target, Targets};
use crate::domain::health::telling::Telling;
use crate::domain::health::wanted::{Subject, Wanted};
use crate::domain::names::{BindingKey, ServiceKey};
use crate::health::target::{Check, ServiceTargets};
use crate::health::view::Verdicts;

/// One binding.
#[derive(Debug, Default)]
pub(super) struct Entry {
    /// Nothing where it is not known yet.
    wanted: Option<Wanted>,
    /// How that is asked, once it was made.
    asks: Option<Arc<Check>>,
    targets: Targets,
    /// Where they are.
    endpoints: Addresses,
    verdicts: Verdicts,
    /// What the ejector was told last, as long as that holds.
    told: Option<Told>,
    /// Whether every endpoint was judged once since this check was set.
    judged: bool,
    /// Boxed, since most have nothing to be said.
    pub(super) telling: Telling<Box<Snapshot>>,
}

/// What the ejector decides by, and with what it was made beside the entry's own.
#[derive(Debug)]
struct Told {
    flag: EjectionMode,
    held: bool,
    checked: Arc<Checked>,
}

/// What is said of a binding at one time.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Snapshot {
    pub(super) shown: Shown,
    pub(super) unhealthy: BTreeSet<Address>,
}

impl Entry {
    pub(super) fn subject(&self) -> Option<&Subject> {
        subject(self.wanted.as_ref())
    }

    /// What is wanted, as far as that is known.
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Whether it is known what is wanted. Of one that is not settled all stays as
    /// it is.
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.wanted, None | Some(Wanted::Frozen(_)))
    }

    /// The binding wants this.
    pub(super) fn want(&mut self, wanted: Option<Wanted>) {
        let (before, after) = (self.subject(), subject(wanted.as_ref()));
        let judged = before.map(|s| &s.check) == after.map(|s| &s.check);
        // An equal one is shared with the prober by now.
        let asks = |s: &Subject| (s.service.clone(), s.host.clone());
        let same = judged && before.map(asks) == after.map(asks);
        self.judged &= judged;
        self.asks = self.asks.take().filter(|_| same);
        self.wanted = wanted;
        if self.subject().is_none() {
            self.found(Targets::default());
            self.verdicts = Verdicts::default();
        }
        self.told = None;
    }

    /// Whether these are others than before.
    pub(super) fn found(&mut self, targets: Targets) -> bool {
        let other = self.targets != targets;
        if other {
            let addresses = targets.targets.iter().map(|target| target.address);
            let addresses: Addresses = addresses.collect();
            // Equal ones are shared with the prober by now.
            if addresses != self.endpoints {
                self.endpoints = addresses;
            }
            self.targets = targets;
            self.told = None;
        }
        other
    }

    /// What is to be checked for it; `check` says how. Made once, and shared from then on:
    /// of many bindings few change at a time.
    pub(super) fn checks(
        &mut self,
        check: impl FnOnce(&Subject) -> Check,
    ) -> Option<(ServiceKey, ServiceTargets)> {
        let service = self.subject()?.service.clone();
        if self.asks.is_none() {
            self.asks = self.subject().map(check).map(Arc::new);
        }
        let targets = ServiceTargets {
            check: Arc::clone(self.asks.as_ref()?),
            endpoints: self.endpoints.clone(),
        };
        Some((service, targets))
    }

    /// What is held of them.
    pub(super) fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// What is held of them from now on.
    pub(super) fn judged(&mut self, verdicts: Verdicts) {
        self.verdicts = verdicts;
        self.told = None;
    }

    pub(super) fn target(&self, address: Address) -> Option<&Target> {
        let mut all = self.targets.targets.iter();
        all.find(|target| target.address == address)
    }

    /// How the endpoint fails, if it does.
    pub(super) fn failure(&self, address: Address) -> Option<(Failure, Timestamp)> {
        match self.verdicts.endpoints.get(address)? {
            (Verdict::Unhealthy(failure), since) => Some((*failure, since.timestamp())),
            _ => None,
        }
    }

    pub(super) fn is_healthy(&self, address: Address) -> bool {
        let held = self.verdicts.endpoints.get(address);
        let healthy = held.is_some_and(|(verdict, _)| *verdict == Verdict::Healthy);
        healthy && self.target(address).is_some()
    }

    pub(super) fn unhealthy(&self) -> impl Iterator<Item = Address> {
        let all = self.verdicts.endpoints.iter();
        all.filter(|(_, (verdict, _))| matches!(verdict, Verdict::Unhealthy(_)))
            .map(|(address, _)| address)
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
            Wanted::Frozen(_) => return None,
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

    /// What the ejector decides by, where anybody is checked. It is kept: of many
    /// bindings few change at a time.
    pub(super) fn checked(
        &mut self,
        key: &BindingKey,
        flag: EjectionMode,
        held: bool,
    ) -> Option<Arc<Checked>> {
        let subject = self.subject()?;
        if let Some(told) = &self.told
            && (told.flag, told.held) == (flag, held)
        {
            return Some(Arc::clone(&told.checked));
        }
        let checked = Arc::new(self.found_out(key, subject, flag, held));
        let kept = Arc::clone(&checked);
        self.told = Some(Told {
            flag,
            held,
            checked,
        });
        Some(kept)
    }

    fn found_out(
        &self,
        key: &BindingKey,
        subject: &Subject,
        flag: EjectionMode,
        held: bool,
    ) -> Checked {
        let bound = Bound {
            binding: key.clone(),
            mode: mode(&subject.check, flag),
            percent: subject.percent,
            proven: self.verdicts.proven,
            held: held || subject.frozen,
        };
        checked(bound, &self.targets, |address| {
            let (verdict, since) = *self.verdicts.endpoints.get(address)?;
            // By what was found before another one was well again nobody leaves.
            let confirmed = !self.verdicts.unconfirmed.contains(&address);
            Some((if confirmed { verdict } else { Verdict::Pending }, since))
        })
    }
}

fn subject(wanted: Option<&Wanted>) -> Option<&Subject> {
    match wanted {
        Some(Wanted::Check(subject)) => Some(subject),
        Some(Wanted::NotConfigured | Wanted::NotInForce | Wanted::Frozen(_)) | None => None,
    }
}

/// Why an endpoint that serves is not checked.
fn unchecked(targets: &Targets) -> Option<Excluded> {
    let serves = |why: &Excluded| !matches!(why, Excluded::Terminating | Excluded::NotReady);
    targets.excluded.iter().map(|e| e.why).filter(serves).min()
}
