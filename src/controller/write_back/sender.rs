//! The task that tells the catalog. All IO of the write-back is here; what is
//! sent when, and what follows from the answers, is [`super::state`]'s matter.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::WriteBack;
use super::endpoints::{Listing, MOST_ENDPOINTS};
use super::flow::{Alarm, Sent};
use super::noted;
use super::standing::Position;
use crate::catalog::Catalog;
use crate::catalog::error::CatalogError;
use crate::catalog::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::controller::error::brief;
use crate::controller::leadership::Leadership;
use crate::controller::mirror::Id;
use crate::domain::names::{CatalogServiceId, ClusterId};
use crate::domain::reasons;
use crate::metrics::Metrics;
use crate::metrics::reports::{Outcome, ReportKind};

/// How often the term and the catalog's history are looked at where nothing
/// else happens.
const TICK: Duration = Duration::from_secs(1);

/// The reports of a term are counted from a number below this.
const LATEST_START: u64 = 1 << 32;

/// What the task must know of the rest of the operator.
pub trait Surroundings: Send + Sync {
    /// Who serves behind this Service now.
    fn listing(&self, service: &Id) -> Listing;

    /// Whether everything is paused.
    fn is_paused(&self) -> bool;

    /// Which history of the catalog is followed, if one is.
    fn history(&self) -> Option<u64>;

    /// It is news to all bindings whether another process writes as this
    /// cluster.
    fn rival_changed(&self);
}

/// Everything that the task works with.
pub struct Sender {
    /// What is to be told.
    pub write_back: Arc<WriteBack>,
    /// To whom.
    pub catalog: Arc<dyn Catalog>,
    /// As whom.
    pub cluster: ClusterId,
    /// In which term.
    pub leadership: Leadership,
    /// What the rest of the operator knows.
    pub surroundings: Arc<dyn Surroundings>,
    /// What is counted.
    pub metrics: Metrics,
}

/// A request that ended.
enum Done {
    Endpoints(Sent, Result<ItemOutcome, CatalogError>),
    Health(
        Position,
        Vec<HealthReport>,
        Result<Vec<ItemOutcome>, CatalogError>,
    ),
}

/// What the task remembers between two rounds.
#[derive(Default)]
struct Memory {
    history: Option<u64>,
    /// What stands in the Lease.
    noted: String,
    told_rival: bool,
}

impl Sender {
    /// Tells the catalog for ever.
    pub async fn run(self) {
        let mut under_way = FuturesUnordered::new();
        let mut notes = FuturesUnordered::new();
        let mut memory = Memory::default();
        let mut tick = Instant::now();
        loop {
            let paused = self.surroundings.is_paused();
            self.follow_the_term(&mut memory);
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                if !paused && notes.is_empty() {
                    notes.extend(self.note(&memory.noted));
                }
            }
            let mut wake = None;
            if !paused {
                self.compare();
                self.send(&mut under_way);
                wake = self.write_back.state().wake(Instant::now());
            }
            tokio::select! {
                Some(done) = under_way.next() => self.done(done).await,
                Some(Some(noted)) = notes.next() => memory.noted = noted,
                () = self.write_back.changed.notified() => {}
                () = sleep_until(wake.map_or(tick, |wake| wake.min(tick))) => {}
            }
        }
    }

    /// Begins anew where another term, or another history of the catalog, has
    /// begun.
    fn follow_the_term(&self, memory: &mut Memory) {
        let now = Instant::now();
        let history = self.surroundings.history();
        let mut state = self.write_back.state();
        let start = fastrand::u64(..LATEST_START);
        let began = state.standing.lead(self.leadership.epoch(), start);
        let other = history.is_some() && memory.history.is_some() && history != memory.history;
        memory.history = history.or(memory.history.take());
        if began {
            state.dispute.end();
            memory.noted = self.leadership.noted(noted::NOTE).unwrap_or_default();
            state.take_over(&memory.noted, now);
        }
        if began || other {
            state.tell_all_again(now);
        }
        let rival = state.standing.rival().is_some();
        drop(state);
        if memory.told_rival != rival {
            memory.told_rival = rival;
            self.metrics.reports.rival(rival);
            self.surroundings.rival_changed();
        }
    }

    /// Compares what may have changed with what the catalog took.
    fn compare(&self) {
        loop {
            let Some((id, lane, service)) = self.write_back.state().unchecked() else {
                return;
            };
            let listing = self.listing(service.as_ref());
            let mut state = self.write_back.state();
            if state.cut(&id, listing.left_out > 0) {
                let left_out = listing.left_out;
                tracing::warn!(catalogServiceId = %id, left_out, "a service has more than {MOST_ENDPOINTS} endpoints; the first are reported to the catalog");
            }
            state.compared(&id, lane, listing.digest(), Instant::now());
        }
    }

    fn listing(&self, service: Option<&Id>) -> Listing {
        service.map_or_else(Listing::default, |of| self.surroundings.listing(of))
    }

    fn send<'a>(&'a self, under_way: &mut FuturesUnordered<BoxFuture<'a, Done>>) {
        loop {
            let now = Instant::now();
            let next = self.write_back.state().next(under_way.len(), now);
            let Some((id, service)) = next else { break };
            let listing = self.listing(service.as_ref());
            let begun = self.write_back.state().begin(&id, listing.digest(), now);
            if let Some(sent) = begun {
                under_way.push(self.endpoints(sent, listing).boxed());
            }
        }
        let next = {
            let mut state = self.write_back.state();
            state.next_health(under_way.len(), Instant::now())
        };
        if let Some((position, items)) = next {
            under_way.push(self.health(position, items).boxed());
        }
    }

    async fn endpoints(&self, sent: Sent, listing: Listing) -> Done {
        let deadline = self.write_back.state().outage.deadline();
        let writer = self.writer(sent.position);
        let report = EndpointReport {
            service_id: sent.id.to_string(),
            endpoints: listing.endpoints,
        };
        let call = self.catalog.report_endpoints(&writer, &report);
        let answer = within(deadline, call).await;
        Done::Endpoints(sent, answer)
    }

    async fn health(&self, position: Position, items: Vec<HealthReport>) -> Done {
        let deadline = {
            let state = self.write_back.state();
            state.outage.deadline().or(state.health.deadline())
        };
        let writer = self.writer(position);
        let answer = within(deadline, self.catalog.report_health(&writer, &items)).await;
        Done::Health(position, items, answer)
    }

    fn writer(&self, position: Position) -> WriterPosition {
        WriterPosition {
            cluster: self.cluster.to_string(),
            epoch: position.epoch,
            sequence: position.sequence,
        }
    }

    /// Stores what is to be withdrawn in the Lease, where that is not what
    /// stands there. Gives what was stored.
    fn note(&self, noted: &str) -> Option<BoxFuture<'_, Option<String>>> {
        let mut state = self.write_back.state();
        let stranded = state.stranded(Instant::now());
        if !state.standing.may_write() || stranded == noted {
            return None;
        }
        let noting = async move {
            let stored = self.leadership.note(noted::NOTE, stranded.clone()).await;
            stored.ok().map(|()| stranded)
        };
        Some(noting.boxed())
    }

    async fn done(&self, done: Done) {
        let (chance, now) = (fastrand::f64(), Instant::now());
        let alarms = match done {
            Done::Endpoints(sent, answer) => {
                let outcome = outcome(answer.as_ref());
                self.metrics
                    .reports
                    .answered(ReportKind::Endpoints, outcome);
                self.complain(&sent.id, answer.as_ref().err());
                let mut state = self.write_back.state();
                Vec::from_iter(state.answered(&sent, &answer, chance, now))
            }
            Done::Health(position, items, answer) => {
                for item in 0..items.len() {
                    let of = answer.as_ref().map(|all| &all[item]);
                    self.metrics
                        .reports
                        .answered(ReportKind::Health, outcome(of));
                }
                let mut state = self.write_back.state();
                state.answered_health(position, &items, &answer, chance, now)
            }
        };
        for alarm in alarms {
            self.heed(alarm).await;
        }
    }

    fn complain(&self, id: &CatalogServiceId, error: Option<&CatalogError>) {
        if let Some(error) = error {
            tracing::debug!(catalogServiceId = %id, error = brief(&error.to_string()), "a report to the catalog failed; it is tried again");
        }
    }

    async fn heed(&self, alarm: Alarm) {
        match alarm {
            Alarm::Raise(above) => {
                // What is under way meanwhile is of the old number, and says
                // nothing more.
                if self.write_back.state().standing.epoch() > Some(above) {
                    return;
                }
                let Ok(epoch) = self.leadership.raise_epoch(above).await else {
                    return;
                };
                tracing::info!(
                    above,
                    epoch,
                    "the catalog knows later reports of this cluster than this leadership can make, as after the Lease was deleted; moved above them"
                );
                self.write_back.state().standing.raised(epoch);
            }
            Alarm::Rival(known) => {
                tracing::error!(
                    reason = reasons::DUPLICATE_WRITER,
                    cluster = %self.cluster,
                    epoch = known.epoch,
                    sequence = known.sequence,
                    "another process reports to the catalog as this cluster; nothing more is reported. See that every cluster has a --cluster-id of its own and that one operator runs in each, then restart this one"
                );
            }
            Alarm::Refused(id, why) => {
                tracing::warn!(catalogServiceId = %id, reason = brief(&why), "the catalog refuses what it is told of this service");
            }
        }
    }
}

/// The call's answer, unless it takes longer than that.
async fn within<T>(
    deadline: Option<Duration>,
    call: impl Future<Output = Result<T, CatalogError>>,
) -> Result<T, CatalogError> {
    let Some(deadline) = deadline else {
        return call.await;
    };
    timeout(deadline, call).await.unwrap_or_else(|_| {
        Err(CatalogError::Unavailable {
            message: format!("no answer to a report within {} s", deadline.as_secs()),
        })
    })
}

fn outcome(answer: Result<&ItemOutcome, &CatalogError>) -> Outcome {
    match answer {
        Ok(ItemOutcome::Accepted) => Outcome::Accepted,
        Ok(ItemOutcome::Outdated { .. }) => Outcome::Outdated,
        Ok(ItemOutcome::NotFound) => Outcome::NotFound,
        Ok(ItemOutcome::Invalid(_)) => Outcome::Invalid,
        Err(_) => Outcome::Failed,
    }
}
