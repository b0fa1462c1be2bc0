//! A catalog in memory for tests: holds records, streams its changes, fails
//! and dawdles on demand, and counts what it was asked. No IO.

mod calls;
mod reports;
mod state;
mod stream;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use state::{Services, State};

use super::error::CatalogError;
use super::event::{CatalogEvent, EventKind};
use super::report::WriterPosition;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{BadRecord, CatalogPosition, ServiceRecord};

/// How often each call was made, and how many were under way at once.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Calls {
    /// Calls of `get_service`.
    pub get_service: usize,
    /// Calls of `list_services`.
    pub list_services: usize,
    /// Calls of `report_health`.
    pub report_health: usize,
    /// Calls of `report_endpoints`.
    pub report_endpoints: usize,
    /// Calls of `subscribe`.
    pub subscribe: usize,
    /// The most calls that were under way at the same time.
    pub most_at_once: usize,
}

/// What a catalog held once.
pub struct Backup(Services, u64);

/// A catalog in memory.
#[derive(Default)]
pub struct FakeCatalog {
    state: Arc<Mutex<State>>,
    /// Moves when there is something to stream, or streams are cut.
    moved: watch::Sender<()>,
}

impl FakeCatalog {
    /// A catalog without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a service, or replaces it. The record's revision is set.
    pub fn set(&self, mut record: ServiceRecord) {
        let id = CatalogServiceId::parse(&record.id);
        self.change(|state| {
            record.revision = state.revision;
            let service = Ok(Arc::new(record));
            let id = id.ok()?;
            Some(match state.services.insert(id.to_string(), service) {
                Some(_) => EventKind::Updated(id),
                None => EventKind::Registered(id),
            })
        });
    }

    /// Replaces a service by one that cannot be read.
    pub fn set_bad(&self, id: &str, field: &str, message: &str) {
        let mut bad = BadRecord {
            id: Some(id.to_owned()),
            revision: None,
            field: field.to_owned(),
            message: message.to_owned(),
        };
        self.change(|state| {
            bad.revision = Some(state.revision);
            state.services.insert(id.to_owned(), Err(bad));
            CatalogServiceId::parse(id).ok().map(EventKind::Updated)
        });
    }

    /// Deregisters a service.
    pub fn remove(&self, id: &str) {
        self.change(|state| {
            let _ = state.services.remove(id)?;
            CatalogServiceId::parse(id)
                .ok()
                .map(EventKind::Deregistered)
        });
    }

    /// Changes a record, or loses it, without a word: no event tells of it, and
    /// no revision moves.
    pub fn slip(&self, id: &str, change: impl FnOnce(&mut ServiceRecord) -> bool) {
        let mut state = self.state();
        if let Some(Ok(record)) = state.services.get_mut(id)
            && !change(Arc::make_mut(record))
        {
            state.services.remove(id);
        }
    }

    /// Loses every service without a word, as a catalog that forgot all.
    pub fn forget_all(&self) {
        self.state().services.clear();
    }

    /// Has what it had then besides, without a word: it was there all along,
    /// and was not shown.
    pub fn remember(&self, Backup(services, _): Backup) {
        let mut state = self.state();
        for (id, service) in services {
            state.services.entry(id).or_insert(service);
        }
    }

    /// Begins a new epoch, as after a restored backup. Streams are reset.
    pub fn new_epoch(&self) {
        self.state().epoch += 1;
        self.moved.send_replace(());
    }

    /// What it holds now, for `restore`.
    pub fn back_up(&self) -> Backup {
        let state = self.state();
        Backup(state.services.clone(), state.revision)
    }

    /// Goes back to what it held then, and begins a new epoch.
    pub fn restore(&self, Backup(services, revision): Backup) {
        {
            let mut state = self.state();
            (state.services, state.revision) = (services, revision);
            state.log.clear();
        }
        self.new_epoch();
    }

    /// Ends all streams that are open.
    pub fn cut_streams(&self) {
        self.state().cuts += 1;
        self.moved.send_replace(());
    }

    /// Lets streams say nothing any more, or speak again.
    pub fn silence_streams(&self, silent: bool) {
        self.state().silent = silent;
        self.moved.send_replace(());
    }

    /// Forgets the events so far, so that nobody can resume before them.
    pub fn forget_history(&self) {
        let mut state = self.state();
        state.floor = state.revision;
        state.log.clear();
    }

    /// Goes back to this revision without a word, as a catalog whose backup
    /// was restored by somebody who did not begin a new epoch.
    pub fn rewind(&self, revision: u64) {
        {
            let mut state = self.state();
            state.revision = revision;
            state
                .log
                .retain(|event| event.position.revision <= revision);
        }
        self.moved.send_replace(());
    }

    /// Lets every open stream say this next, true or not.
    pub fn say(&self, event: CatalogEvent) {
        self.state().said.push(event);
        self.moved.send_replace(());
    }

    /// Lets a change of health be told, by this writer.
    pub fn health_changed(&self, id: &CatalogServiceId, writer: Option<WriterPosition>) {
        let id = id.clone();
        self.change(|_| Some(EventKind::HealthChanged { id, writer }));
    }

    /// Lets reads of single services see what is there now, whatever changes,
    /// as those of a replica that lags; or no longer.
    pub fn lag(&self, lagging: bool) {
        let mut state = self.state();
        state.lagging = lagging.then(|| state.services.clone());
    }

    /// Lets all calls fail and ends all streams, until it is `None` again.
    pub fn away(&self, error: Option<CatalogError>) {
        self.state().away = error;
        self.cut_streams();
    }

    /// Opens no stream any more, as behind a proxy that lets none through, and
    /// ends those that are open.
    pub fn refuse_streams(&self) {
        self.state().no_streams = Some(CatalogError::unavailable("no stream"));
        self.cut_streams();
    }

    /// Lets reads of this service alone fail from now on.
    pub fn break_service(&self, id: &str, error: CatalogError) {
        self.state().broken.insert(id.to_owned(), error);
    }

    /// Where its history stands.
    pub fn position(&self) -> CatalogPosition {
        self.state().position()
    }

    /// Makes a change and its event. The revision has moved already.
    fn change(&self, change: impl FnOnce(&mut State) -> Option<EventKind>) {
        {
            let mut state = self.state();
            state.revision += 1;
            let position = state.position();
            match change(&mut state) {
                Some(kind) => state.log.push(CatalogEvent { position, kind }),
                // Every revision has its event.
                None => state.revision -= 1,
            }
        }
        self.moved.send_replace(());
    }

    /// Lets the next `times` calls, of any kind, fail.
    pub fn fail_next(&self, times: usize, error: CatalogError) {
        self.state()
            .failures
            .extend(std::iter::repeat_n(error, times));
    }

    /// Lets every call from now on take this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Lets what reads of single services answer from now on arrive so much
    /// later than it was true.
    pub fn answer_late(&self, late: Duration) {
        self.state().late = late;
    }

    /// What was asked so far.
    pub fn calls(&self) -> Calls {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
