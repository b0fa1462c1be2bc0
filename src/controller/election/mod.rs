//! Takes and keeps the Lease that says which replica may write, and lets go of
//! it. What it may conclude from what it sees is in [`crate::domain::election`].

#[cfg(test)]
mod fixtures;
mod lease;
mod stand;
mod term;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use tokio::sync::mpsc;

use super::clock::Clock;
use super::leadership::{Leadership, Term, Wish};
use crate::domain::election::{Lost, Moment, Timing, Watched};
use crate::domain::labels::MANAGER;
use crate::metrics::Metrics;
use lease::{Failure, Place, Requests};

/// Takes part in the election.
pub struct Elector {
    requests: Requests,
    place: Place,
    /// The name of this process, which no other has.
    identity: String,
    timing: Timing,
    clock: Arc<dyn Clock>,
    leadership: Leadership,
    wishes: mpsc::Receiver<Wish>,
    metrics: Metrics,
    watched: Watched,
    /// The Lease as it was read last.
    read: Option<Lease>,
}

/// A Lease that we hold.
struct Held {
    lease: Lease,
    /// A moment before the request that proved it was sent.
    proved: Moment,
    epoch: u64,
}

impl Elector {
    /// One that stands for the Lease of this namespace under the name of this
    /// Pod, and the leadership that it will give.
    pub fn new(
        client: Client,
        namespace: &str,
        pod: &str,
        timing: Timing,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
    ) -> (Leadership, Self) {
        let (leadership, wishes) = Leadership::contested(Arc::clone(&clock));
        let place = Place {
            namespace: namespace.to_owned(),
            name: MANAGER.to_owned(),
        };
        // A Pod's container that starts again is another process.
        let unique = RandomState::new().hash_one(pod);
        let elector = Self {
            requests: Requests::new(client, place.clone(), timing.attempt(), Arc::clone(&clock)),
            place,
            identity: format!("{pod}_{unique:016x}"),
            timing,
            clock,
            leadership: leadership.clone(),
            wishes,
            metrics,
            watched: Watched::default(),
            read: None,
        };
        (leadership, elector)
    }

    /// Takes the Lease when it may, and keeps it until `resign`, which lets go
    /// of it. An error says why it was lost: then nothing may be written by
    /// this process any more, and it does not stand again.
    ///
    /// Writes the Lease and nothing else.
    pub async fn run(mut self, resign: impl Future<Output = ()>) -> Result<(), Lost> {
        let mut resign = std::pin::pin!(resign.fuse());
        let Some(held) = self.stand(&mut resign).await else {
            return Ok(());
        };
        self.metrics.leads(Some(held.epoch));
        tracing::info!(
            audit = true,
            event = "LeadershipAcquired",
            namespace = self.place.namespace,
            lease = self.place.name,
            identity = self.identity,
            epoch = held.epoch,
            "this replica leads"
        );
        let ended = match self.keep(held, &mut resign).await {
            Ok(held) => {
                self.release(held).await;
                Ok(())
            }
            Err(lost) => {
                tracing::error!(
                    audit = true,
                    event = "LeadershipLost",
                    namespace = self.place.namespace,
                    lease = self.place.name,
                    identity = self.identity,
                    reason = %lost,
                    "this replica no longer leads"
                );
                Err(lost)
            }
        };
        self.leadership.set(None);
        self.metrics.leads(None);
        ended
    }

    /// The leadership is as the Lease that we hold says.
    fn publish(&self, held: &Held) {
        self.leadership.answered(held.proved.steady);
        self.leadership.set(Some(Term {
            epoch: held.epoch,
            notes: lease::notes(&held.lease),
            certain: Some((held.proved, self.timing.certain())),
            closing: false,
        }));
        let said = lease::record(&held.lease).said;
        self.metrics.lease_transitions(said.transitions);
    }

    /// A word in the log, not with every try.
    fn complain(&self, failure: &Failure, failures: u32) {
        if failures.is_power_of_two() {
            tracing::warn!(
                namespace = self.place.namespace,
                lease = self.place.name,
                failures,
                error = %failure,
                "a request about the Lease failed; it is tried again"
            );
        }
    }
}
