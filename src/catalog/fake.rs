//! A catalog in memory for tests: holds records, streams its changes, fails
//! and dawdles on demand, and counts what it was asked. No IO.

mod reports;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use super::Catalog;
use super::error::CatalogError;
use super::event::{CatalogEvent, EventKind, EventStream};
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{
    BadRecord, CatalogPosition, ServiceFilter, ServiceList, ServiceRecord,
};

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

/// Time between two bookmarks of a stream.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);

/// A catalog in memory.
#[derive(Default)]
pub struct FakeCatalog {
    state: Arc<Mutex<State>>,
    /// Moves when there is something to stream, or streams are cut.
    moved: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    epoch: u64,
    revision: u64,
    services: BTreeMap<String, Result<Arc<ServiceRecord>, BadRecord>>,
    failures: VecDeque<CatalogError>,
    delay: Duration,
    under_way: usize,
    calls: Calls,
    reports: reports::Reports,
    log: Vec<CatalogEvent>,
    /// How often all streams were cut.
    cuts: u64,
    /// Streams say nothing at all, not even bookmarks.
    silent: bool,
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
        let bad = BadRecord {
            id: Some(id.to_owned()),
            field: field.to_owned(),
            message: message.to_owned(),
        };
        self.change(|state| {
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

    /// Loses every service without a word, as a catalog that forgot all.
    pub fn forget_all(&self) {
        self.state().services.clear();
    }

    /// Begins a new epoch, as after a restored backup. Streams are reset.
    pub fn new_epoch(&self) {
        self.state().epoch += 1;
        self.moved.send_replace(());
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

    /// Where its history stands.
    pub fn position(&self) -> CatalogPosition {
        self.state().position()
    }

    /// Makes a change and its event. The revision has moved already.
    fn change(&self, change: impl FnOnce(&mut State) -> Option<EventKind>) {
        {
            let mut state = self.state();
            state.revision += 1;
            if let Some(kind) = change(&mut state) {
                let position = state.position();
                state.log.push(CatalogEvent { position, kind });
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

    /// Lets calls succeed again.
    pub fn fail_no_more(&self) {
        self.state().failures.clear();
    }

    /// Lets every call from now on take this long.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// What was asked so far.
    pub fn calls(&self) -> Calls {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer<T>(
        &self,
        count: impl FnOnce(&mut Calls),
        answer: impl FnOnce(&mut State) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        let delay = {
            let mut state = self.state();
            count(&mut state.calls);
            state.under_way += 1;
            state.calls.most_at_once = state.calls.most_at_once.max(state.under_way);
            state.delay
        };
        let _under_way = UnderWay(self);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut state = self.state();
        match state.failures.pop_front() {
            Some(error) => Err(error),
            None => answer(&mut state),
        }
    }
}

/// Counts a call out when it ends or is dropped.
struct UnderWay<'a>(&'a FakeCatalog);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
    }
}

impl State {
    fn position(&self) -> CatalogPosition {
        CatalogPosition {
            epoch: self.epoch.to_string(),
            revision: self.revision,
        }
    }

    /// What a stream that stands there has to say next.
    fn after(&self, stands: &CatalogPosition) -> Option<CatalogEvent> {
        if self.silent {
            return None;
        }
        let now = self.position();
        if stands.epoch != now.epoch || stands.revision > now.revision {
            let reason = "the token is of another epoch, or ahead of the catalog".to_owned();
            let kind = EventKind::Reset { reason };
            return Some(CatalogEvent {
                position: now,
                kind,
            });
        }
        let later = |event: &&CatalogEvent| {
            event.position.epoch == stands.epoch && event.position.revision > stands.revision
        };
        self.log.iter().find(later).cloned()
    }

    fn list(&self, filter: &ServiceFilter) -> ServiceList {
        let services = self
            .services
            .iter()
            .filter_map(|(id, service)| match service {
                Ok(record) => filter.admits(record).then(|| Ok((**record).clone())),
                Err(bad) => filter.admits_id(id).then(|| Err(bad.clone())),
            });
        ServiceList {
            position: self.position(),
            services: services.collect(),
        }
    }
}

impl Catalog for FakeCatalog {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        self.answer(
            |calls| calls.get_service += 1,
            |state| match state.services.get(id.as_str()) {
                Some(Ok(record)) => Ok(record.clone()),
                Some(Err(bad)) => Err(CatalogError::BadRecord(bad.clone())),
                None => Err(CatalogError::NotFound),
            },
        )
        .boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.answer(
            |calls| calls.list_services += 1,
            |state| Ok(state.list(filter)),
        )
        .boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        self.answer(
            |calls| calls.report_health += 1,
            |state| {
                let State {
                    reports, services, ..
                } = state;
                if reports.no_health {
                    return Err(CatalogError::unavailable("no health"));
                }
                let there = |item: &HealthReport| services.contains_key(&item.service_id);
                let outcomes = items
                    .iter()
                    .map(|item| reports.health(writer, item, there(item)));
                Ok(outcomes.collect())
            },
        )
        .boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        self.answer(
            |calls| calls.report_endpoints += 1,
            |state| {
                let there = state.services.contains_key(&report.service_id);
                Ok(state.reports.endpoints(writer, report, there))
            },
        )
        .boxed()
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        self.answer(
            |calls| calls.subscribe += 1,
            move |state| {
                let stream = Stream {
                    state: Arc::clone(&self.state),
                    moved: self.moved.subscribe(),
                    cuts: state.cuts,
                    stands: after.cloned().unwrap_or_else(|| state.position()),
                    told: false,
                };
                Ok(futures::stream::unfold(stream, Stream::next).boxed())
            },
        )
        .boxed()
    }
}

/// One stream: where it stands, and whether it has said that it caught up.
struct Stream {
    state: Arc<Mutex<State>>,
    moved: watch::Receiver<()>,
    cuts: u64,
    stands: CatalogPosition,
    told: bool,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<CatalogEvent, CatalogError>, Self)> {
        loop {
            self.moved.mark_unchanged();
            let (event, silent) = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.cuts != self.cuts {
                    return None;
                }
                (state.after(&self.stands), state.silent)
            };
            let bookmark = || CatalogEvent {
                position: self.stands.clone(),
                kind: EventKind::Bookmark,
            };
            let event = match event {
                Some(event) => event,
                None if !silent && !self.told => {
                    self.told = true;
                    bookmark()
                }
                None => match tokio::time::timeout(BOOKMARK_EVERY, self.moved.changed()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => return None,
                    Err(_) if silent => continue,
                    Err(_) => bookmark(),
                },
            };
            self.stands.clone_from(&event.position);
            return Some((Ok(event), self));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_is_told_as_often_as_was_asked_for() {
        let catalog = FakeCatalog::new();
        catalog.set(ServiceRecord {
            id: "a".to_owned(),
            ..Default::default()
        });
        let id = CatalogServiceId::parse("a").unwrap();
        catalog.fail_next(2, CatalogError::unavailable("away"));
        assert!(catalog.get_service(&id).await.is_err());
        assert!(
            catalog
                .list_services(&ServiceFilter::default())
                .await
                .is_err()
        );
        assert!(catalog.get_service(&id).await.is_ok());
        catalog.remove("a");
        assert_eq!(catalog.get_service(&id).await, Err(CatalogError::NotFound));
        assert_eq!(
            (catalog.calls().get_service, catalog.calls().list_services),
            (3, 1)
        );
    }

    #[tokio::test]
    async fn a_list_holds_what_the_filter_leaves() {
        let catalog = FakeCatalog::new();
        for (id, namespace) in [("a", "x"), ("b", "y"), ("c", "x")] {
            let (id, namespace) = (id.to_owned(), namespace.to_owned());
            catalog.set(ServiceRecord {
                id,
                namespace,
                ..Default::default()
            });
        }
        catalog.set_bad("d", "timeout", "is bad");
        let filter = ServiceFilter {
            namespace: Some("x".to_owned()),
            ..Default::default()
        };
        let list = catalog.list_services(&filter).await.unwrap();
        assert_eq!(
            list.position,
            CatalogPosition {
                epoch: "0".to_owned(),
                revision: 4
            }
        );
        let ids: Vec<_> = list
            .services
            .iter()
            .flatten()
            .map(|r| r.id.as_str())
            .collect();
        assert_eq!((ids, list.services.len()), (vec!["a", "c"], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_tells_what_changed_after_its_position_and_then_that_it_caught_up() {
        let catalog = FakeCatalog::new();
        let service = |id: &str| ServiceRecord {
            id: id.to_owned(),
            ..Default::default()
        };
        catalog.set(service("a"));
        let start = catalog.position();
        catalog.set(service("a"));
        catalog.set(service("b"));
        catalog.remove("a");
        let mut stream = catalog.subscribe(Some(&start)).await.unwrap();
        let mut told = Vec::new();
        for _ in 0..4 {
            told.push(stream.next().await.unwrap().unwrap().kind);
        }
        let id = |id: &str| CatalogServiceId::parse(id).unwrap();
        assert_eq!(
            told,
            [
                EventKind::Updated(id("a")),
                EventKind::Registered(id("b")),
                EventKind::Deregistered(id("a")),
                EventKind::Bookmark,
            ]
        );
        catalog.new_epoch();
        let reset = stream.next().await.unwrap().unwrap();
        assert!(matches!(reset.kind, EventKind::Reset { .. }), "{reset:?}");
        catalog.cut_streams();
        assert!(stream.next().await.is_none());
    }
}
