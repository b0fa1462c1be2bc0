//! Does the catalog want to be left alone? Remembers until when, and answers
//! in its stead; no IO of its own.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::error::CatalogError;
use super::gated::Gate;

/// Lets no call through before the time is over for which the catalog asked
/// to be left alone. Calls that were under way then go on.
#[derive(Default)]
pub struct Patience {
    quiet: Mutex<Option<Quiet>>,
}

/// Until when the catalog wants to be left alone, and in which words.
struct Quiet {
    until: Instant,
    message: String,
}

impl Patience {
    fn may_ask(&self) -> Result<(), CatalogError> {
        let quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match quiet.as_ref() {
            Some(Quiet { until, message }) if *until > now => Err(CatalogError::RateLimited {
                retry_after: *until - now,
                message: message.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl Gate for Patience {
    async fn pass<T: Send>(
        &self,
        call: impl Future<Output = Result<T, CatalogError>> + Send,
    ) -> Result<T, CatalogError> {
        self.may_ask()?;
        let answer = call.await;
        if let Err(CatalogError::RateLimited {
            retry_after,
            message,
        }) = &answer
        {
            let until = Instant::now() + *retry_after;
            let mut quiet = self.quiet.lock().unwrap_or_else(PoisonError::into_inner);
            if quiet.as_ref().is_none_or(|quiet| quiet.until < until) {
                let message = message.clone();
                *quiet = Some(Quiet { until, message });
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::Catalog;
    use super::super::fake::FakeCatalog;
    use super::super::gated::Gated;
    use super::*;
    use crate::domain::names::CatalogServiceId;
    use crate::domain::record::{ServiceFilter, ServiceRecord};

    fn wait(seconds: u64) -> CatalogError {
        CatalogError::RateLimited {
            retry_after: Duration::from_secs(seconds),
            message: "status 429".to_owned(),
        }
    }

    fn catalog(answers: &[CatalogError]) -> Gated<Patience, FakeCatalog> {
        let fake = FakeCatalog::new();
        fake.set(ServiceRecord {
            id: "a".to_owned(),
            ..Default::default()
        });
        for answer in answers {
            fake.fail_next(1, answer.clone());
        }
        Gated::new(Patience::default(), fake)
    }

    fn id() -> CatalogServiceId {
        CatalogServiceId::parse("a").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_catalog_that_asked_for_peace_is_not_asked_before_its_time_is_over() {
        let (catalog, id) = (catalog(&[wait(30)]), id());
        assert_eq!(catalog.get_service(&id).await, Err(wait(30)));
        sleep(Duration::from_secs(20)).await;
        assert_eq!(catalog.get_service(&id).await, Err(wait(10)));
        let all = ServiceFilter::default();
        assert_eq!(catalog.list_services(&all).await, Err(wait(10)));
        let calls = catalog.inner.calls();
        assert_eq!((calls.get_service, calls.list_services), (1, 0));
        sleep(Duration::from_secs(10)).await;
        assert!(catalog.get_service(&id).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_of_several_waits_counts() {
        let (catalog, id) = (catalog(&[wait(30), wait(5)]), id());
        catalog.inner.delay(Duration::from_secs(1));
        let _ = tokio::join!(catalog.get_service(&id), catalog.get_service(&id));
        sleep(Duration::from_secs(20)).await;
        assert_eq!(catalog.get_service(&id).await, Err(wait(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn any_other_failure_asks_for_no_patience() {
        let (catalog, id) = (catalog(&[CatalogError::unavailable("away")]), id());
        assert!(catalog.get_service(&id).await.is_err());
        assert!(catalog.get_service(&id).await.is_ok());
    }
}
