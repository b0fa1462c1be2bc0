//! How a term of leadership goes on, and how it ends: by letting go of the
//! Lease, or by losing it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;

use super::lease::{self, Failure, Why};
use super::{Elector, Held};
use crate::controller::leadership::{Change, Wish};
use crate::domain::election::{Lost, still_held};

/// Wishes that one renewal carries along.
const TOGETHER: usize = 64;

/// How long writes under way may take to end once no new ones begin.
const CLOSING: Duration = Duration::from_secs(5);

/// How often letting go of the Lease is tried.
const RELEASES: usize = 3;

impl Elector {
    /// Renews the Lease until we resign, with the wishes that came meanwhile.
    pub(super) async fn keep(
        &mut self,
        mut held: Held,
        resign: &mut (impl Future<Output = ()> + Unpin),
    ) -> Result<Held, Lost> {
        let mut wishes = Vec::new();
        let mut pause = self.timing.retry();
        let (mut failures, mut conflicts) = (0_u32, 0_u32);
        loop {
            self.leadership.goes_round();
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
        let why = if wishes.is_empty() {
            Why::Renewed
        } else {
            Why::Noted
        };
        let lease = self.requests.store(&wanted, why).await?;
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
    pub(super) async fn release(&self, mut held: Held) {
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
            match self.requests.store(&wanted, Why::Released).await {
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
}
