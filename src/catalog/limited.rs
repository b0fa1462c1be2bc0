//! How many calls may be at the catalog at once? Waits; no IO of its own.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::error::CatalogError;
use super::gated::Gate;

/// Lets a bounded number of calls through at once. The others wait in order
/// of arrival, each no longer than `longest_wait`.
pub struct Limit {
    permits: Semaphore,
    longest_wait: Duration,
}

impl Limit {
    /// Lets `at_once` calls (at least one) through.
    pub fn new(at_once: usize, longest_wait: Duration) -> Self {
        let at_once = at_once.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            permits: Semaphore::new(at_once),
            longest_wait,
        }
    }
}

impl Gate for Limit {
    async fn pass<T: Send>(
        &self,
        call: impl Future<Output = Result<T, CatalogError>> + Send,
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

#[cfg(test)]
mod tests {
    use super::super::Catalog;
    use super::super::fake::FakeCatalog;
    use super::super::gated::Gated;
    use super::*;
    use crate::domain::names::CatalogServiceId;
    use crate::domain::record::ServiceRecord;

    fn slow(at_once: usize, longest_wait: u64) -> Gated<Limit, FakeCatalog> {
        let fake = FakeCatalog::new();
        fake.set(ServiceRecord {
            id: "a".to_owned(),
            ..Default::default()
        });
        fake.delay(Duration::from_secs(10));
        Gated::new(Limit::new(at_once, Duration::from_secs(longest_wait)), fake)
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
