//! What is known of the catalog without asking it: every record, as of a
//! position that a complete list and the events since then have reached.
//! Plain values behind a lock; no IO.

mod absent;
mod came;
mod doubted;
mod failing;
pub mod glimpse;
mod listed;
mod stale;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use state::{Read, Service, State, WhyList};

use super::error::CatalogError;
use super::event::CatalogEvent;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{BadRecord, CatalogPosition, ServiceList, ServiceRecord};

/// What is known of one service.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// No list was complete yet, or what is known of the service is out of
    /// date: ask the catalog.
    Unknown,
    /// The catalog has it, and this is its record.
    Present(Arc<ServiceRecord>),
    /// The catalog has it, and its record cannot be understood.
    Unreadable(BadRecord),
    /// A complete list lacked it, or an event said that it went. The position
    /// is that of the first of these, and does not move while it is away.
    Absent {
        /// Since when.
        since: CatalogPosition,
    },
}

/// What is known of the catalog. Written by whoever follows it, read by all.
#[derive(Debug, Default)]
pub struct Known {
    state: Mutex<State>,
    moved: watch::Sender<()>,
}

impl Known {
    /// The position that is known, once a list was complete.
    pub fn position(&self) -> Option<CatalogPosition> {
        self.state().position().cloned()
    }

    /// Which of the histories that the catalog has told is known, counted from
    /// 1: another epoch is another one, and so is one that went back.
    pub fn history(&self) -> Option<u64> {
        self.state().history()
    }

    /// Whether the catalog is followed at this moment, so that what is known
    /// is no older than a silence that the contract allows.
    pub fn is_live(&self) -> bool {
        self.state().is_live()
    }

    /// A number that stays while the service is the same one, as far as the stream tells,
    /// and is another one where it may have gone and come again: also where its record
    /// changed and only a list says so. Nothing before the first complete list.
    pub fn came(&self, id: &CatalogServiceId) -> Option<u64> {
        self.state().came(id)
    }

    /// Where a complete list was that held no service at all, if this one was
    /// not there since.
    pub fn listed_nothing_at(&self, id: &CatalogServiceId) -> Option<CatalogPosition> {
        self.state().nothing_at(id).cloned()
    }

    /// What is known of this service.
    pub fn presence(&self, id: &CatalogServiceId) -> Presence {
        self.state().presence(id)
    }

    /// Every record that is known.
    pub fn records(&self) -> Vec<Arc<ServiceRecord>> {
        self.state().records()
    }

    /// How long ago the catalog's stream said something; a stream that is
    /// followed does so at least every ten seconds.
    pub fn heard_ago(&self) -> Option<Duration> {
        self.state().heard_at().map(|at| at.elapsed())
    }

    /// Of how many services the stream has announced something that was not
    /// read yet.
    pub fn unread(&self) -> usize {
        self.state().stale.count()
    }

    /// Waits until services changed, and takes their IDs. One consumer only.
    pub async fn changed(&self) -> BTreeSet<CatalogServiceId> {
        self.until(|state| {
            let changed = state.take_changed();
            (!changed.is_empty()).then_some(changed)
        })
        .await
    }

    /// Waits until the catalog is followed again, or answers again after reads
    /// of it had failed. One consumer only.
    pub async fn returned(&self) {
        self.until(|state| std::mem::take(&mut state.returned).then_some(()))
            .await;
    }

    /// Waits until the catalog is followed.
    #[cfg(test)]
    pub(super) async fn live(&self) {
        self.until(|state| state.is_live().then_some(())).await;
    }

    /// Waits until something is known, or a first try to learn it has failed.
    pub(super) async fn started(&self) {
        self.until(|state| (!state.is_starting()).then_some(()))
            .await;
    }

    /// Waits until what is known of the service is up to date, or nothing is
    /// followed any more.
    pub(super) async fn settled(&self, id: &CatalogServiceId) {
        self.until(|state| {
            let waits = state.is_live() && state.announced(id).is_some();
            (!waits).then_some(())
        })
        .await;
    }

    /// The revision that was announced of a service whose record is not known.
    pub(super) fn announced(&self, id: &CatalogServiceId) -> Option<u64> {
        self.state().announced(id)
    }

    /// Whether reads fail, so that the follower has to find out when that ends.
    pub(super) fn is_failing(&self) -> bool {
        self.state().failing.is_so()
    }

    /// Why nobody but the follower is to ask about this service, if so.
    pub(super) fn refusal(&self, id: &CatalogServiceId) -> Option<CatalogError> {
        self.state().failing.refusal(id)
    }

    /// The service whose read finds out whether reads work again, while they
    /// fail.
    pub(super) fn next_try(&self) -> Option<CatalogServiceId> {
        self.state().failing.next_try()
    }

    /// A read of these services was answered, or failed.
    pub(super) fn answered(&self, ids: &[CatalogServiceId], error: Option<&CatalogError>) {
        if let Some(id) = ids.first() {
            self.write(|state| state.answered(id, ids.len() > 1, error));
        }
    }

    /// The catalog denied a service to somebody who asked for it. Where what
    /// is known does not agree, a list is asked for.
    pub(super) fn denied(&self, id: &CatalogServiceId) {
        self.write(|state| state.denied(id));
    }

    /// Since when the service is absent, if it is.
    pub(super) fn absent_since(&self, id: &CatalogServiceId) -> Option<CatalogPosition> {
        match self.presence(id) {
            Presence::Absent { since } => Some(since),
            _ => None,
        }
    }

    /// The catalog showed this after it had denied the service, and nothing
    /// told that it came back. Where nothing is to tell it either, a list is
    /// asked for.
    pub(super) fn contradicted(&self, id: &CatalogServiceId, shown: &Service) {
        self.write(|state| state.contradicted(id, shown));
    }

    /// The catalog showed this to somebody who asked for the service. Should
    /// that turn out not to be what is known, he is told to look again.
    pub(super) fn showed(&self, id: &CatalogServiceId, shown: Service) {
        self.state().showed(id, shown);
    }

    /// How many complete lists were taken.
    pub(super) fn lists(&self) -> u64 {
        self.state().lists()
    }

    pub(super) fn tried(&self) {
        self.write(State::tried);
    }

    pub(super) fn resumed(&self) {
        self.write(State::resumed);
    }

    pub(super) fn lost(&self) {
        self.write(State::lost);
    }

    /// Takes what the stream says, and wakes those who wait only where there is
    /// something for them: thousands of events a second may say nothing but
    /// that the same service has to be read again.
    pub(super) fn hear(&self, event: &CatalogEvent, own: Option<&str>) {
        let news = {
            let mut state = self.state();
            let live = state.is_live();
            change(&mut state, |state| state.hear(event, own, Instant::now()));
            live != state.is_live() || state.has_news()
        };
        if news {
            self.moved.send_replace(());
        }
    }

    pub(super) fn list_needed(&self) -> Option<WhyList> {
        self.state().list_needed()
    }

    pub(super) fn list(&self, list: ServiceList) -> Result<(), String> {
        self.write(|state| state.list(list))
    }

    pub(super) fn next_reads(&self) -> Vec<CatalogServiceId> {
        self.state().next_reads(Instant::now())
    }

    pub(super) fn next_read_at(&self) -> Option<Instant> {
        self.state().next_read_at(Instant::now())
    }

    pub(super) fn read(&self, read: impl IntoIterator<Item = (CatalogServiceId, Read)>) {
        let now = Instant::now();
        self.write(|state| {
            for (id, read) in read {
                state.read(&id, read, now);
            }
        });
    }

    pub(super) fn not_read(&self, ids: &[CatalogServiceId]) {
        self.write(|state| state.not_read(ids, Instant::now()));
    }

    /// Waits until something moves after the call of this method.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    fn write<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state(), with);
        self.moved.send_replace(());
        result
    }

    async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut moved = self.moved.subscribe();
        loop {
            if let Some(found) = look(&mut self.state()) {
                return found;
            }
            // Fails only without a sender, which lives as long as we do.
            let _ = moved.changed().await;
        }
    }

    /// Nothing in here is left half-done by a panic, so a poisoned lock is
    /// used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes the state, and notes whether the catalog is followed again by that.
fn change<T>(state: &mut State, with: impl FnOnce(&mut State) -> T) -> T {
    let live = state.is_live();
    let result = with(state);
    if !live && state.is_live() {
        state.followed_again();
    }
    result
}
