//! What is held of one service and its endpoints, and whether the silence of
//! one of them is believed. Does no IO.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::super::target::Check;
use super::Moment;
use crate::domain::health::address::Address;
use crate::domain::health::at::At;
use crate::domain::health::by_address::ByAddress;
use crate::domain::health::doubt::Heard;
use crate::domain::health::judge::{Answer, Failure, Judge, Verdict};
use crate::domain::health::service::Counts;
use crate::metrics::health::SetAside;

/// What is held of an endpoint.
#[derive(Clone, Debug, Default)]
pub(in crate::health) struct Endpoint {
    pub(in crate::health) judge: Judge,
    pub(in crate::health) since: At,
    /// What the last check came to, judged or not.
    pub(in crate::health) last: Option<(At, Result<Answer, SetAside>)>,
    pub(super) is_heard: bool,
    /// Boxed, since most have had none.
    trouble: Option<Box<Trouble>>,
}

/// What is held of an endpoint that has failed, or was suspected to.
#[derive(Clone, Debug, Default)]
pub(in crate::health) struct Trouble {
    pub(in crate::health) last_failure: Option<(Timestamp, Failure)>,
    /// When the first check had failed without an answer since the last one.
    pub(super) silent_since: Option<Duration>,
    /// Its judge as it will be once its silence is believed.
    pub(super) in_waiting: Option<Judge>,
    /// Since when another one is healthy again, where this one is unhealthy by
    /// checks of before, when none was.
    pub(in crate::health) unconfirmed: Option<Duration>,
}

impl Trouble {
    /// What is held where there was none.
    const NONE: &Self = &Self {
        last_failure: None,
        silent_since: None,
        in_waiting: None,
        unconfirmed: None,
    };

    /// It answers, so that nothing waits to be believed.
    pub(super) fn heard(&mut self) {
        (self.silent_since, self.in_waiting) = (None, None);
    }
}

impl Endpoint {
    /// One that is checked since then.
    pub(super) fn new(since: Timestamp) -> Self {
        Self {
            since: since.into(),
            ..Self::default()
        }
    }

    /// What is held of its failures.
    pub(in crate::health) fn trouble(&self) -> &Trouble {
        self.trouble.as_deref().unwrap_or(Trouble::NONE)
    }

    /// The same to change it.
    pub(super) fn trouble_mut(&mut self) -> &mut Trouble {
        self.trouble.get_or_insert_default()
    }

    /// The same where there was any.
    pub(super) fn known_trouble(&mut self) -> Option<&mut Trouble> {
        self.trouble.as_deref_mut()
    }
}

/// What is held of a service.
pub(in crate::health) struct Service {
    pub(in crate::health) endpoints: ByAddress<Endpoint>,
    pub(in crate::health) proven: bool,
    pub(super) check: Arc<Check>,
    /// Endpoints whose last answer was no silence.
    pub(super) heard: usize,
    pub(super) last_heard: Heard<Address>,
}

/// Whether another service was heard since an endpoint is silent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Witnessed {
    Another,
    Nobody,
    /// There are too few of them to ask for that. `cut_off` is that nobody
    /// beside this service was heard since, wherever he is.
    Few {
        cut_off: bool,
    },
}

impl Service {
    /// One without endpoints.
    pub(super) fn new(check: Arc<Check>) -> Self {
        Self {
            endpoints: ByAddress::default(),
            proven: false,
            check,
            heard: 0,
            last_heard: Heard::default(),
        }
    }

    /// Its endpoints by verdict.
    pub(in crate::health) fn counts(&self) -> Counts {
        Counts::of(
            self.endpoints
                .values()
                .map(|endpoint| endpoint.judge.verdict()),
        )
    }

    /// Notes what a check of an endpoint came to, and whether it is heard, where
    /// that tells; says whether there is such a one.
    pub(super) fn told(
        &mut self,
        address: Address,
        last: (Timestamp, Result<Answer, SetAside>),
        is_heard: Option<bool>,
    ) -> bool {
        let Some(endpoint) = self.endpoints.get_mut(address) else {
            return false;
        };
        endpoint.last = Some((last.0.into(), last.1));
        if let Some(is_heard) = is_heard.filter(|is_heard| *is_heard != endpoint.is_heard) {
            endpoint.is_heard = is_heard;
            if is_heard {
                self.heard += 1;
            } else {
                self.heard = self.heard.saturating_sub(1);
            }
        }
        true
    }

    /// Since when none of those is heard that wait to be believed.
    pub(super) fn silent_since(&self) -> Option<Duration> {
        let waiting = self.endpoints.values();
        let waiting = waiting.map(Endpoint::trouble);
        let waiting = waiting.filter(|trouble| trouble.in_waiting.is_some());
        waiting.filter_map(|trouble| trouble.silent_since).max()
    }

    /// An endpoint has become healthy. Where no other one is, all may have been
    /// silent for the same reason, and may be as well as this one: whoever is
    /// unhealthy has to fail once more.
    pub(super) fn healed(&mut self, address: Address, now: Moment) {
        let mut others = self.endpoints.iter().filter(|(other, _)| *other != address);
        if others.any(|(_, other)| other.judge.verdict() == Verdict::Healthy) {
            return;
        }
        for (other, endpoint) in self.endpoints.iter_mut() {
            let unhealthy = matches!(endpoint.judge.verdict(), Verdict::Unhealthy(_));
            let unconfirmed = (unhealthy && other != address).then_some(now.clock);
            if unconfirmed != endpoint.trouble().unconfirmed {
                endpoint.trouble_mut().unconfirmed = unconfirmed;
            }
        }
    }

    /// Whether the silence of an endpoint is believed; if so it is judged, and
    /// with it whoever else it is true of.
    pub(super) fn believe(
        &mut self,
        address: Address,
        since: Duration,
        witnessed: Witnessed,
        heard: &Heard<Address>,
        now: Moment,
    ) -> bool {
        let (alone, all) = match witnessed {
            Witnessed::Another => (true, false),
            Witnessed::Nobody => (false, false),
            Witnessed::Few { cut_off } => (heard.another_since(&address, since), !cut_off),
        };
        let mut others = self.endpoints.iter().filter(|(other, _)| *other != address);
        let waits = |other: &Endpoint| {
            other.trouble().in_waiting.is_some() || other.judge.verdict() != Verdict::Healthy
        };
        let believed = alone || (all && others.all(|(_, other)| waits(other)));
        if !believed {
            return false;
        }
        for (other, endpoint) in self.endpoints.iter_mut() {
            if (!alone || other == address)
                && let Some(trouble) = endpoint.known_trouble()
                && let Some(judge) = trouble.in_waiting.take()
            {
                endpoint.judge = judge;
                endpoint.since = now.at.into();
            }
        }
        true
    }
}
