//! What others read of the health checks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;

use super::board::Board;
use super::board::service::Endpoint;
use crate::domain::health::address::Address;
use crate::domain::health::at::At;
use crate::domain::health::by_address::ByAddress;
use crate::domain::health::doubt::Doubt;
use crate::domain::health::judge::{Answer, Failure, Transition, Verdict};
use crate::domain::health::service::Counts;
use crate::domain::names::ServiceKey;
use crate::metrics::health::SetAside;

/// What is held of the endpoints. Cloning shares it.
#[derive(Clone, Default)]
pub struct HealthView {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    board: Mutex<Board>,
    changed: Notify,
    outside: OnceLock<Outside>,
}

/// How long ago the last request began that somebody who is no endpoint answered.
type Outside = Box<dyn Fn() -> Option<Duration> + Send + Sync>;

/// What is held of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceReport {
    /// Its endpoints by verdict.
    pub counts: Counts,
    /// Whether one of them has answered as it should since the check was set.
    pub proven: bool,
    /// Why its verdicts do not move, where they do not.
    pub held: Option<Doubt>,
    /// Each of them, by address.
    pub endpoints: Vec<EndpointReport>,
}

/// What is held of an endpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointReport {
    /// Where it is.
    pub address: Address,
    /// What is held of it.
    pub verdict: Verdict,
    /// Since when, or since when it is checked.
    pub since: Timestamp,
    /// How a check failed last, and when.
    pub last_failure: Option<(Timestamp, Failure)>,
    /// What the last check came to, judged or not, and when.
    pub last: Option<(Timestamp, Result<Answer, SetAside>)>,
    /// The last changes, oldest first.
    pub history: Vec<Transition>,
}

/// What is held of the endpoints of a service, and no more.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdicts {
    /// They by verdict.
    pub counts: Counts,
    /// Whether one of them has answered as it should since the check was set.
    pub proven: bool,
    /// What is held of each, and since when.
    pub endpoints: ByAddress<(Verdict, At)>,
    /// Those of them that are unhealthy by checks of before another one was
    /// healthy again, when none was: what kept all from answering may be over.
    pub unconfirmed: BTreeSet<Address>,
}

impl HealthView {
    /// Every service that is checked, with its endpoints counted, and whether one
    /// of them has answered as it should since the check was set.
    pub fn services(&self) -> Vec<(ServiceKey, Counts, bool)> {
        let board = self.board();
        let all = board.services.iter();
        all.map(|(key, service)| (ServiceKey::clone(key), service.counts(), service.proven))
            .collect()
    }

    /// The verdicts on a service; none where it is not checked.
    pub fn verdicts(&self, key: &ServiceKey) -> Option<Verdicts> {
        let board = self.board();
        let service = board.services.get(key)?;
        let held = |endpoint: &Endpoint| (endpoint.judge.verdict(), endpoint.since);
        let unconfirmed = service.endpoints.iter();
        let unconfirmed =
            unconfirmed.filter(|(_, endpoint)| endpoint.trouble().unconfirmed.is_some());
        Some(Verdicts {
            counts: service.counts(),
            proven: service.proven,
            endpoints: service.endpoints.map(held),
            unconfirmed: unconfirmed.map(|(address, _)| address).collect(),
        })
    }

    /// What is held of a service; none where it is not checked.
    pub fn service(&self, key: &ServiceKey) -> Option<ServiceReport> {
        let board = self.board();
        let service = board.services.get(key)?;
        Some(ServiceReport {
            counts: service.counts(),
            proven: service.proven,
            held: board.held,
            endpoints: service
                .endpoints
                .iter()
                .map(|(address, endpoint)| report(address, endpoint))
                .collect(),
        })
    }

    /// What is held of one endpoint of a service; none where it is not checked.
    pub fn endpoint(&self, key: &ServiceKey, address: Address) -> Option<EndpointReport> {
        let board = self.board();
        let endpoint = board.services.get(key)?.endpoints.get(address)?;
        Some(report(address, endpoint))
    }

    /// Why no verdict moves, where none does.
    pub fn held(&self) -> Option<Doubt> {
        self.board().held
    }

    /// Waits until something is another than it was: a verdict, which endpoints
    /// there are, whether the check has proved itself, whether verdicts are
    /// held. Names the services, each once however often it changed. Is meant
    /// for one reader: what he takes no other one gets. Dropped while it waits
    /// it has taken nothing.
    pub async fn changed(&self) -> Vec<ServiceKey> {
        loop {
            let notified = self.shared.changed.notified();
            let changed = std::mem::take(&mut self.board().changed);
            if !changed.is_empty() {
                return changed.iter().map(|key| ServiceKey::clone(key)).collect();
            }
            notified.await;
        }
    }

    /// Has the checks ask, where no endpoint answers, how long ago the last
    /// request began that somebody else answered, such as the API server: they
    /// doubt themselves where that was before, or never. Told once, at the
    /// start; without it there is always somebody.
    pub fn hears_outside(&self, ago: impl Fn() -> Option<Duration> + Send + Sync + 'static) {
        // A second one would be another of ours.
        let _ = self.shared.outside.set(Box::new(ago));
    }

    pub(super) fn heard_outside(&self) -> Option<Duration> {
        match self.shared.outside.get() {
            Some(ago) => ago(),
            None => Some(Duration::ZERO),
        }
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        let board = self.shared.board.lock();
        board.unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the reader where there is something new.
    pub(super) fn tell(&self) {
        if !self.board().changed.is_empty() {
            self.shared.changed.notify_one();
        }
    }
}

fn report(address: Address, endpoint: &Endpoint) -> EndpointReport {
    EndpointReport {
        address,
        verdict: endpoint.judge.verdict(),
        since: endpoint.since.timestamp(),
        last_failure: endpoint.trouble().last_failure,
        last: endpoint.last.map(|(at, came)| (at.timestamp(), came)),
        history: endpoint.judge.history().collect(),
    }
}
