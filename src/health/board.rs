//! What is held of every endpoint: takes answers, asks the judge, and keeps
//! what readers see. Times come from outside: does no IO.
//!
//! An answer is set aside, and no verdict moves, where
//! - it came of a fault of our own, or was read too late;
//! - the checks are in doubt;
//! - it is a silence that would make a verdict, and no other service was asked
//!   and heard between its first failure and this check. Then others are to be
//!   asked at once. Where there are too few of those, another endpoint of the
//!   service will do; or none that is healthy is heard: then all are judged in
//!   the same moment, so that nobody who reads in between takes the last one to
//!   be asked for the only one left. But not where nobody else is heard since
//!   at all, neither another service nor the API server nor the catalog.
//!
//! What all endpoints of a service failed for may be over when the first of them
//! is healthy again: by what was found before that nobody is to leave.

pub(super) mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use service::{Endpoint, Service, Trouble, Witnessed};

use super::target::ServiceTargets;
use crate::domain::health::address::Address;
use crate::domain::health::by_address::ByAddress;
use crate::domain::health::doubt::{Doubt, Doubts, Heard};
use crate::domain::health::judge::{Answer, Failure, Unknown, Verdict};
use crate::domain::names::ServiceKey;
use crate::metrics::health::{Held, SetAside};

/// Now, by the clock on the wall and by one that only goes forward.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    pub(super) clock: Duration,
}

/// What a check came to.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The answer, or why it says nothing.
    pub(super) answer: Result<Answer, SetAside>,
    /// When the check began, by the clock that only goes forward.
    pub(super) began: Duration,
    /// What [`Board::witnesses`] said then.
    pub(super) witnesses: Option<Witnesses>,
}

/// Who had been heard when a check began.
#[derive(Clone, Debug, Default)]
pub(super) struct Witnesses {
    services: Heard<Arc<ServiceKey>>,
    /// Of the same service.
    endpoints: Heard<Address>,
    /// When the last request began that somebody outside answered.
    outside: Option<Duration>,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Next {
    /// Why it was not judged, where it was not.
    pub(super) set_aside: Option<SetAside>,
    /// Whether the next check is to come sooner than the interval says.
    pub(super) soon: Option<Duration>,
    /// Whether others are to be asked, to tell a dead endpoint from a dead
    /// network.
    pub(super) ask_others: bool,
    /// Whether the endpoint may be silent, so that its next check needs witnesses.
    pub(super) is_silent: bool,
}

/// What is held of all.
#[derive(Default)]
pub(super) struct Board {
    /// Boxed, since a tree has room for half as many again.
    pub(super) services: BTreeMap<Arc<ServiceKey>, Box<Service>>,
    /// Why no verdict moves, as of the last look.
    pub(super) held: Option<Doubt>,
    /// Services of which a reader does not know the latest.
    pub(super) changed: BTreeSet<Arc<ServiceKey>>,
    doubts: Doubts<Arc<ServiceKey>>,
}

impl Board {
    /// Takes the endpoints of a service. `anew` is that it is asked something
    /// else now.
    pub(super) fn set(
        &mut self,
        key: &Arc<ServiceKey>,
        targets: &ServiceTargets,
        anew: bool,
        now: Moment,
    ) {
        let service = self
            .services
            .entry(Arc::clone(key))
            .or_insert_with(|| Box::new(Service::new(Arc::clone(&targets.check))));
        service.check = Arc::clone(&targets.check);
        let before = service.endpoints.addresses().clone();
        if anew {
            service.endpoints = ByAddress::default();
            service.proven = false;
        }
        service
            .endpoints
            .become_of(&targets.endpoints, |_| Endpoint::new(now.at));
        let heard = service.endpoints.values().filter(|e| e.is_heard).count();
        let before_heard = std::mem::replace(&mut service.heard, heard);
        // Whoever was heard is gone, or there is nobody left who could be. One that
        // was silent before is so still: that targets are set again must not end a
        // doubt.
        if heard == 0 && (before_heard > 0 || targets.endpoints.is_empty()) {
            self.doubts.forget(key, now.clock);
        }
        if anew || before != targets.endpoints {
            self.changed.insert(Arc::clone(key));
        }
    }

    /// Nobody checks this service any more.
    pub(super) fn remove(&mut self, key: &Arc<ServiceKey>, now: Moment) {
        if self.services.remove(key).is_some() {
            self.doubts.forget(key, now.clock);
            self.changed.insert(Arc::clone(key));
        }
    }

    /// A timer fired so much later than it was to.
    pub(super) fn fired(&mut self, late: Duration, now: Moment) {
        self.doubts.fired(late, now.clock);
    }

    /// Looks whether verdicts are held now.
    pub(super) fn look(&mut self, now: Moment) -> Option<Doubt> {
        let held = self.doubts.doubt(now.clock);
        if held != self.held {
            if self.held.is_none() {
                let endpoints = self
                    .services
                    .values_mut()
                    .flat_map(|s| s.endpoints.values_mut());
                for endpoint in endpoints {
                    endpoint.judge.count_anew();
                    endpoint
                        .known_trouble()
                        .into_iter()
                        .for_each(Trouble::heard);
                }
            }
            self.held = held;
            self.changed.extend(self.services.keys().cloned());
        }
        held
    }

    /// Who was heard so far, for a check that begins now, and `outside` when the
    /// last request began that was answered from there. None where nobody will
    /// be asked for: the endpoint is not silent.
    pub(super) fn witnesses(
        &self,
        key: &ServiceKey,
        address: Address,
        outside: impl FnOnce() -> Option<Duration>,
    ) -> Option<Witnesses> {
        let service = self.services.get(key)?;
        service.endpoints.get(address)?.trouble().silent_since?;
        Some(Witnesses {
            services: self.doubts.heard().clone(),
            endpoints: service.last_heard.clone(),
            outside: outside(),
        })
    }

    /// Takes what a check of an endpoint came to.
    pub(super) fn take(
        &mut self,
        key: &Arc<ServiceKey>,
        address: Address,
        told: Told,
        now: Moment,
    ) -> Next {
        let mut next = Next {
            set_aside: None,
            soon: None,
            ask_others: false,
            is_silent: true,
        };
        self.note(key, address, &told, now);
        let answer = match told.answer {
            Ok(answer) => answer,
            Err(why) => {
                if why == SetAside::Own {
                    // That we cannot ask is no reason to judge, but one to doubt.
                    self.look(now);
                }
                next.set_aside = Some(why);
                return next;
            }
        };
        if self.look(now).is_some() {
            next.set_aside = Some(SetAside::Doubt);
            return next;
        }
        let Some(service) = self.services.get_mut(key) else {
            return next;
        };
        let thresholds = service.check.thresholds;
        let Some(endpoint) = service.endpoints.get_mut(address) else {
            return next;
        };
        if let Answer::Failed(failure) = answer {
            endpoint.trouble_mut().last_failure = Some((now.at, failure));
        }
        if let Answer::Unknown(_) = answer {
            next.set_aside = Some(SetAside::Unknown);
        }
        let failed = matches!(answer, Answer::Failed(_));
        let confirms = failed
            && endpoint
                .trouble()
                .unconfirmed
                .is_some_and(|since| told.began >= since);
        if confirms {
            endpoint.trouble_mut().unconfirmed = None;
        }
        let (moved, pause);
        if is_silence(answer) {
            let mut judge = endpoint.judge.clone();
            moved = judge.take(answer, &thresholds, now.at);
            pause = judge.pause(&thresholds);
            let silent_since = &mut endpoint.trouble_mut().silent_since;
            let since = *silent_since.get_or_insert(now.clock);
            next.ask_others = !matches!(endpoint.judge.verdict(), Verdict::Unhealthy(_));
            if moved {
                endpoint.trouble_mut().in_waiting = Some(judge);
                let Witnesses {
                    services,
                    endpoints,
                    outside,
                } = told.witnesses.unwrap_or_default();
                let witnessed = match self.doubts.is_witnessed(key, since, &services) {
                    Some(true) => Witnessed::Another,
                    Some(false) => Witnessed::Nobody,
                    // Of all of them, since all are judged at once.
                    None => {
                        let since = service.silent_since().unwrap_or(since);
                        let cut_off = services.is_cut_off(key, since, outside);
                        Witnessed::Few { cut_off }
                    }
                };
                if !service.believe(address, since, witnessed, &endpoints, now) {
                    next.set_aside = Some(SetAside::Unwitnessed);
                    next.soon = Some(thresholds.confirm.min(thresholds.interval));
                    return next;
                }
            } else {
                endpoint.judge = judge;
            }
            let is_healthy = |e: &Endpoint| e.judge.verdict() == Verdict::Healthy;
            if service.heard == 0 && !service.endpoints.values().any(is_healthy) {
                self.doubts.decided(key, now.clock);
            }
        } else {
            moved = endpoint.judge.take(answer, &thresholds, now.at);
            pause = endpoint.judge.pause(&thresholds);
            next.is_silent = false;
            endpoint
                .known_trouble()
                .into_iter()
                .for_each(Trouble::heard);
            if moved {
                endpoint.since = now.at.into();
                if let Some(trouble) = endpoint.known_trouble() {
                    trouble.unconfirmed = None;
                }
                if endpoint.judge.verdict() == Verdict::Healthy {
                    service.healed(address, now);
                }
            }
        }
        next.soon = (pause < thresholds.interval).then_some(pause);
        let proves = answer == Answer::Good && !service.proven;
        service.proven |= proves;
        if moved || proves || confirms {
            self.changed.insert(Arc::clone(key));
        }
        next
    }

    /// Notes what a check came to, judged or not, and who is heard by that and who
    /// is not.
    fn note(&mut self, key: &Arc<ServiceKey>, address: Address, told: &Told, now: Moment) {
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        // Whether it would be heard, had we one.
        let unknown = told.answer == Ok(Answer::Unknown(Unknown::NoCertificate));
        let is_heard = match told.answer {
            Ok(answer) => Some(!unknown && !is_silence(answer)),
            Err(SetAside::Own) => Some(false),
            Err(_) => None,
        };
        if !service.told(address, (now.at, told.answer), is_heard) {
            return;
        }
        match is_heard {
            Some(true) => {
                service.last_heard.note(&address, told.began);
                self.doubts.answered(key, told.began, now.clock);
            }
            // It is no witness any more, and nobody is to wait for it.
            Some(false) if service.heard == 0 && unknown => self.doubts.forget(key, now.clock),
            Some(false) if service.heard == 0 => self.doubts.stopped(key, now.clock),
            Some(false) | None => {}
        }
    }
}

/// Whether the endpoint was not heard at all.
pub(super) fn is_silence(answer: Answer) -> bool {
    let Answer::Failed(failure) = answer else {
        return false;
    };
    match failure {
        Failure::Refused
        | Failure::Unreachable
        | Failure::Closed
        | Failure::ConnectTimedOut
        | Failure::TimedOut => true,
        Failure::Tls
        | Failure::WrongPeer
        | Failure::NotHttp
        | Failure::Answered1xx
        | Failure::Answered4xx
        | Failure::Answered5xx => false,
    }
}

/// The same, as metrics name it.
pub(super) fn held(doubt: Doubt) -> Held {
    match doubt {
        Doubt::Late => Held::Late,
        Doubt::AllAtOnce => Held::AllAtOnce,
    }
}

#[cfg(test)]
mod tests;
