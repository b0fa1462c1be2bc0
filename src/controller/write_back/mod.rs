//! What the cluster knows and the catalog does not: which endpoints a service
//! has, and how healthy it is. Looks say whose they are, watches say that
//! something changed, and one task tells the catalog.

mod agenda;
mod dispute;
pub mod endpoints;
mod flow;
mod health;
mod noted;
mod outage;
pub(crate) mod seam;
pub mod sender;
mod service;
mod standing;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::leadership::Leadership;
use super::mirror::Id;
use crate::catalog::report::{HealthReport, ReportedHealth};
use crate::domain::names::{BindingKey, CatalogServiceId};
use crate::domain::target::Target;
use crate::metrics::reports::Reports;
use dispute::Verdict;
use state::{HANDOVER, State};

/// What is said where another process writes to the catalog as this cluster.
const RIVAL: &str = "another process reports to the catalog as this cluster: nothing is reported back; see that every cluster has a --cluster-id of its own and that one operator runs in each, then restart this one; where the other was an operator in this cluster, this one goes on by itself";

/// What is to be told to the catalog. Never blocks, and never fails: it is
/// told as soon as it can be.
#[derive(Debug)]
pub struct WriteBack {
    state: Mutex<State>,
    changed: Notify,
}

impl WriteBack {
    /// Nothing is to be told yet. Of the `calls` that the catalog takes in a second a
    /// third may tell what it knows already, as after a start.
    pub fn new(calls: u32) -> Self {
        Self {
            state: Mutex::new(State::new(calls)),
            changed: Notify::new(),
        }
    }

    /// The binding is in force, and its record is its service's own, which
    /// [came](crate::catalog::known::Known::came) then: its endpoints are reported from
    /// now on.
    pub fn claim(&self, key: &BindingKey, target: &Target, came: Option<u64>) {
        self.change(|state| state.claim(key, target, came, Instant::now()));
    }

    /// The catalog does not say whether the binding's record is its service's
    /// own: what is being withdrawn of it waits until it does.
    pub fn undecided(&self, key: &BindingKey, target: &Target) {
        self.change(|state| state.undecided(key, target));
    }

    /// This process is about to let go of its Lease: whatever is yet to be
    /// withdrawn is left to the next leader. When it returns, it is stored, or
    /// cannot be.
    pub async fn bequeath(&self, leadership: &Leadership) {
        let note = {
            let mut state = self.state();
            state.resigns = true;
            state.stranded(Instant::now())
        };
        if leadership.noted(noted::NOTE).unwrap_or_default() != note {
            // Whoever does not lead any more has nothing to leave.
            let _ = leadership.note(noted::NOTE, note).await;
        }
    }

    /// The binding is frozen: nothing is said for it.
    pub fn hold(&self, key: &BindingKey) {
        self.change(|state| state.hold(key));
    }

    /// The binding is no longer in force, or no longer there: its endpoints
    /// are withdrawn. Says whether they were reported on its behalf.
    pub fn release(&self, key: &BindingKey) -> bool {
        self.change(|state| state.release(key, Instant::now()))
    }

    /// The service went from the catalog: there is nothing to withdraw.
    pub fn forget(&self, key: &BindingKey) {
        self.change(|state| state.forget(key));
    }

    /// Withdraws what an earlier leader reported of a service, unless a
    /// binding wants it reported.
    pub fn withdraw(&self, id: &CatalogServiceId) {
        let now = Instant::now();
        self.change(|state| state.withdraw(id, now + HANDOVER, now));
    }

    /// Who serves behind these Services changed.
    pub fn touched(&self, services: &BTreeSet<Id>) {
        if !services.is_empty() {
            self.change(|state| state.touched(services));
        }
    }

    /// Whether another process writes to the catalog as this cluster, so that
    /// this one has stopped.
    pub fn has_rival(&self) -> bool {
        self.state().standing.rival().is_some()
    }

    /// What is said of that in the binding's status, which says so already, or
    /// not. Two that stopped say the same, or they would take it by turns.
    pub fn rival(&self, key: &BindingKey, says_so: bool) -> Option<String> {
        let now = Instant::now();
        let mut state = self.state();
        state.standing.rival()?;
        match state.dispute.look(key, says_so, now) {
            Verdict::Say => Some(RIVAL.to_owned()),
            Verdict::Leave => None,
            Verdict::Alone => {
                state.alone_again(now);
                drop(state);
                self.changed.notify_one();
                tracing::info!(
                    "the other operator that reported to the catalog as this cluster is gone; this one reports again"
                );
                None
            }
        }
    }

    /// The binding's status says now that another process writes.
    pub fn told_of_rival(&self, key: &BindingKey) {
        let mut state = self.state();
        if state.standing.rival().is_some() {
            state.dispute.said(key, Instant::now());
        }
    }

    /// Counts what the catalog lacks.
    pub fn count(&self, metrics: &Reports) {
        let (endpoints, health, age, cut) = {
            let state = self.state();
            let (endpoints, health, age) = state.lag(Instant::now());
            (endpoints, health, age, state.cuts())
        };
        metrics.lag(endpoints, health, age.as_secs_f64());
        metrics.cut(cut);
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.changed.notify_one();
        changed
    }

    /// Nothing in here is left half-done by a panic, so a poisoned lock is
    /// used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where whoever judges the health of services says so. Clones share it.
#[derive(Clone, Debug)]
pub struct HealthReporter(Arc<WriteBack>);

impl HealthReporter {
    /// Reports by this.
    pub fn new(write_back: Arc<WriteBack>) -> Self {
        Self(write_back)
    }

    /// The health of a service from now on, as the binding has it. Said to the
    /// catalog only where the service's endpoints are said for that binding: the
    /// record decides whose it is. Never blocks.
    pub fn set(
        &self,
        key: &BindingKey,
        id: &CatalogServiceId,
        health: ReportedHealth,
        healthy: u32,
        total: u32,
    ) {
        let report = HealthReport {
            service_id: id.to_string(),
            health,
            healthy,
            total,
        };
        self.0.change(|state| {
            if state.speaks_for(key, id) {
                state.health.set(id, &report, Instant::now());
            }
        });
    }
}
