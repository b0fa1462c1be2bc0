//! How many calls may be at the catalog at once? Waits; no IO of its own.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Catalog;
use super::error::CatalogError;
use super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{ServiceFilter, ServiceList, ServiceRecord};

/// A catalog that lets a bounded number of calls through at once. The others
/// wait in order of arrival, each no longer than `longest_wait`.
pub struct LimitedCatalog<C> {
    inner: C,
    permits: Semaphore,
    longest_wait: Duration,
}

impl<C: Catalog> LimitedCatalog<C> {
    /// Lets `at_once` calls (at least one) through to `inner`.
    pub fn new(inner: C, at_once: usize, longest_wait: Duration) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            inner,
            permits: Semaphore::new(at_once),
            longest_wait,
        }
    }

    async fn in_turn<T>(
        &self,
        call: impl Future<Output = Result<T, CatalogError>>,
    ) -> Result<T, CatalogError> {
        match timeout(self.longest_wait, self.permits.acquire()).await {
            Ok(Ok(_permit)) => call.await,
            // Nobody closes the semaphore, so that only the wait can fail.
            Ok(Err(_)) | Err(_) => Err(CatalogError::unavailable(format!(
                "not asked: other calls were under way for {} s",
                self.longest_wait.as_secs()
            ))),
        }
    }
}

impl<C: Catalog> Catalog for LimitedCatalog<C> {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        self.in_turn(self.inner.get_service(id)).boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.in_turn(self.inner.list_services(filter)).boxed()
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        self.in_turn(self.inner.report_health(writer, items))
            .boxed()
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        self.in_turn(self.inner.report_endpoints(writer, report))
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeCatalog;
    use super::*;

    fn slow(at_once: usize, longest_wait: u64) -> LimitedCatalog<FakeCatalog> {
        let fake = FakeCatalog::new();
        fake.set(ServiceRecord {
            id: "a".to_owned(),
            ..Default::default()
        });
        fake.delay(Duration::from_secs(10));
        LimitedCatalog::new(fake, at_once, Duration::from_secs(longest_wait))
    }

    fn id() -> CatalogServiceId {
        CatalogServiceId::parse("a").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_are_under_way_and_all_get_their_turn() {
        let catalog = slow(2, 60);
        let (id, started) = (id(), tokio::time::Instant::now());
        let all = futures::future::join_all((0..6).map(|_| catalog.get_service(&id))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(catalog.inner.calls().most_at_once, 2);
        assert_eq!(started.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_so_and_the_catalog_is_not_asked() {
        let catalog = slow(1, 5);
        let id = id();
        let (first, second) = tokio::join!(catalog.get_service(&id), catalog.get_service(&id));
        assert!(first.is_ok());
        assert!(
            matches!(second, Err(CatalogError::Unavailable { .. })),
            "{second:?}"
        );
        assert_eq!(catalog.inner.calls().get_service, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_dropped_gives_its_place_back() {
        let catalog = slow(1, 5);
        let id = id();
        let dropped = timeout(Duration::from_secs(1), catalog.get_service(&id)).await;
        assert!(dropped.is_err());
        assert!(catalog.get_service(&id).await.is_ok());
    }
}
