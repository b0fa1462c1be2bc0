//! Takes and keeps the Lease that says which replica may write, and lets go of
//! it. What it may conclude from what it sees is in [`crate::domain::election`].

#[cfg(test)]
mod fixtures;
mod lease;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use tokio::sync::mpsc;

use super::clock::Clock;
use super::leadership::{Change, Leadership, Term, Wish};
use crate::domain::election::{Free, Lost, Moment, Timing, Watched, still_held};
use crate::domain::labels::MANAGER;
use crate::metrics::Metrics;
use lease::{Failure, Place, Requests};

/// Wishes that one renewal carries along.
const TOGETHER: usize = 64;

/// How long writes under way may take to end once no new ones begin.
const CLOSING: Duration = Duration::from_secs(5);

/// How often letting go of the Lease is tried.
const RELEASES: usize = 3;

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

    // --- standing by -----------------------------------------------------------

    /// Waits until the Lease may be taken, and takes it; `None` is that we are
    /// no longer to.
    async fn stand(&mut self, resign: &mut (impl Future<Output = ()> + Unpin)) -> Option<Held> {
        let mut failures: u32 = 0;
        loop {
            let free = tokio::select! {
                biased;
                () = &mut *resign => return None,
                free = self.free() => free,
            };
            // A claim under way is not dropped: it may succeed.
            let claimed = match free {
                Ok(()) => self.claim().await,
                Err(failure) => Err(failure),
            };
            let failure = match claimed {
                Ok(held) => return Some(held),
                Err(failure) => failure,
            };
            // Somebody was faster: see who, at once.
            let beaten = matches!(failure, Failure::Conflict);
            if beaten && failures == 0 {
                failures = 1;
                continue;
            }
            failures = failures.saturating_add(1);
            if !beaten {
                self.complain(&failure, failures);
            }
            let pause = self.timing.after_failure(fastrand::f64());
            tokio::select! {
                biased;
                () = &mut *resign => return None,
                () = self.clock.wait(pause) => {}
            }
        }
    }

    /// Waits until the Lease may be taken.
    async fn free(&mut self) -> Result<(), Failure> {
        loop {
            let read = self.requests.read().await?;
            self.look(read);
            let Free::At(_) = self.may_take() else {
                return Ok(());
            };
            let version = self.read.as_ref();
            let version = version.and_then(|lease| lease.metadata.resource_version.clone());
            // Without a Lease there is nothing to watch from.
            let Some(version) = version else {
                self.clock.wait(self.timing.retry()).await;
                continue;
            };
            let begun = self.clock.now();
            let mut events = self.requests.watch(&version).await?;
            loop {
                let Free::At(then) = self.may_take() else {
                    return Ok(());
                };
                let left = then.saturating_duration_since(self.clock.now().steady);
                tokio::select! {
                    biased;
                    event = events.next() => match event {
                        Some(Ok(read)) => self.look(read),
                        Some(Err(failure)) => return Err(failure),
                        None => break,
                    },
                    () = self.clock.wait(left) => {}
                }
            }
            if self.clock.now().since(&begun) < self.timing.retry() {
                self.clock.wait(self.timing.retry()).await;
            }
        }
    }

    fn look(&mut self, read: Option<Lease>) {
        let before = self.watched.holder().map(str::to_owned);
        let record = read.as_ref().map(lease::record);
        let now = self.clock.now().steady;
        self.watched.read(record, &self.timing, now);
        self.read = read;
        let holder = self.watched.holder();
        if let Some(holder) = holder
            && before.as_deref() != Some(holder)
        {
            tracing::info!(
                holder,
                identity = self.identity,
                "another replica leads; standing by"
            );
        }
    }

    fn may_take(&self) -> Free {
        self.watched.free(&self.identity, self.clock.now().steady)
    }

    async fn claim(&mut self) -> Result<Held, Failure> {
        let proved = self.clock.now();
        let said = self
            .watched
            .claim(&self.identity, &self.timing, proved.wall);
        let epoch = said.epoch;
        let mut wanted = self.read.clone().unwrap_or_else(|| self.requests.blank());
        lease::write(&mut wanted, said);
        let lease = self.requests.store(&wanted).await?;
        let held = Held {
            lease,
            proved,
            epoch,
        };
        self.publish(&held);
        Ok(held)
    }

    // --- leading ---------------------------------------------------------------

    /// Renews the Lease until we resign, with the wishes that came meanwhile.
    async fn keep(
        &mut self,
        mut held: Held,
        resign: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<Held, Lost> {
        let mut wishes = Vec::new();
        let mut pause = self.timing.retry();
        let (mut failures, mut conflicts) = (0_u32, 0_u32);
        loop {
            tokio::select! {
                biased;
                () = self.leadership.over() => return Err(Lost::Expired),
                () = &mut *resign => return Ok(held),
                () = self.clock.wait(pause) => {}
                _ = self.wishes.recv_many(&mut wishes, TOGETHER), if wishes.is_empty() => {}
            }
            pause = self.timing.after_failure(fastrand::f64());
            match self.renew(&held, &wishes).await {
                Ok(renewed) => {
                    held = renewed;
                    self.publish(&held);
                    for wish in wishes.drain(..) {
                        let _ = wish.stored.send(held.epoch);
                    }
                    (failures, conflicts) = (0, 0);
                    pause = self.timing.retry();
                }
                Err(Failure::Conflict) => {
                    if let Ok(read) = self.requests.read().await {
                        held.lease = self.still_ours(&held, read)?;
                        conflicts += 1;
                        // An annotation of somebody's, or an answer of ours
                        // that was lost: once more at once.
                        if conflicts == 1 {
                            pause = Duration::ZERO;
                        }
                    }
                }
                Err(Failure::Invalid(message)) if !wishes.is_empty() => {
                    tracing::error!(
                        message,
                        "the Lease does not take what was to be noted in it; please report this"
                    );
                    wishes.clear();
                    pause = Duration::ZERO;
                }
                Err(failure) => {
                    failures += 1;
                    self.metrics.renewal_failed();
                    self.complain(&failure, failures);
                }
            }
        }
    }

    async fn renew(&self, held: &Held, wishes: &[Wish]) -> Result<Held, Failure> {
        let proved = self.clock.now();
        let mut wanted = held.lease.clone();
        let mut said = lease::record(&wanted).said.renewed(proved.wall);
        said.epoch = held.epoch;
        for wish in wishes {
            match &wish.change {
                Change::Note(name, value) => lease::note(&mut wanted, name, value.clone()),
                Change::EpochAbove(above) => said.epoch = said.epoch.max(above.saturating_add(1)),
            }
        }
        let epoch = said.epoch;
        lease::write(&mut wanted, said);
        let lease = self.requests.store(&wanted).await?;
        Ok(Held {
            lease,
            proved,
            epoch,
        })
    }

    fn still_ours(&self, held: &Held, read: Option<Lease>) -> Result<Lease, Lost> {
        let uid = held.lease.metadata.uid.as_deref().unwrap_or_default();
        let record = read.as_ref().map(lease::record);
        still_held(&self.identity, uid, record.as_ref())?;
        read.ok_or(Lost::Deleted)
    }

    /// Lets go of the Lease once nothing is written any more.
    async fn release(&self, mut held: Held) {
        let quiet = tokio::select! {
            biased;
            () = self.leadership.close() => true,
            () = self.clock.wait(CLOSING) => false,
        };
        self.leadership.set(None);
        if !quiet {
            tracing::warn!("writes are still under way, so the Lease is left to expire");
            return;
        }
        for _ in 0..RELEASES {
            let mut wanted = held.lease.clone();
            let said = lease::record(&wanted).said;
            lease::write(&mut wanted, said.released(self.clock.now().wall));
            match self.requests.store(&wanted).await {
                Ok(_) => {
                    tracing::info!(
                        audit = true,
                        event = "LeadershipReleased",
                        namespace = self.place.namespace,
                        lease = self.place.name,
                        identity = self.identity,
                        epoch = held.epoch,
                        "this replica lets go of the Lease"
                    );
                    return;
                }
                Err(Failure::Conflict) => {}
                Err(failure) => tracing::warn!(error = %failure, "the Lease was not let go of"),
            }
            let Ok(read) = self.requests.read().await else {
                continue;
            };
            match self.still_ours(&held, read) {
                Ok(lease) => held.lease = lease,
                // Whoever has it now has it from us, or from somebody's hand.
                Err(_) => return,
            }
        }
    }

    // --- both ------------------------------------------------------------------

    /// The leadership is as the Lease that we hold says.
    fn publish(&self, held: &Held) {
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
