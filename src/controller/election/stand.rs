//! How a replica comes to lead: it waits until the Lease may be taken, and
//! takes it.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;

use super::lease::{self, Failure, Why};
use super::{Elector, Held};
use crate::domain::election::Free;

/// How often whoever waits goes round at least, as a sign of life.
const ROUND: Duration = Duration::from_secs(5);

/// Longest that an event of the watch is taken to be on its way.
const UNDER_WAY: Duration = Duration::from_secs(1);

impl Elector {
    /// Waits until the Lease may be taken, and takes it; `None` is that we are
    /// no longer to.
    pub(super) async fn stand(
        &mut self,
        resign: &mut (impl Future<Output = ()> + Unpin),
    ) -> Option<Held> {
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
            self.leadership.goes_round();
            let sent = self.clock.now().steady;
            let read = self.requests.read().await?;
            self.leadership.answered(sent);
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
                self.leadership.goes_round();
                let Free::At(then) = self.may_take() else {
                    return Ok(());
                };
                let left = then.saturating_duration_since(self.clock.now().steady);
                tokio::select! {
                    biased;
                    event = events.next() => match event {
                        Some(Ok(read)) => {
                            let now = self.clock.now().steady;
                            if let Some(sent) = now.checked_sub(UNDER_WAY) {
                                self.leadership.answered(sent);
                            }
                            self.look(read);
                        }
                        Some(Err(failure)) => return Err(failure),
                        None => break,
                    },
                    () = self.clock.wait(left.min(ROUND)) => {}
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
        let lease = self.requests.store(&wanted, Why::Claimed).await?;
        let held = Held {
            lease,
            proved,
            epoch,
        };
        self.publish(&held);
        Ok(held)
    }
}
