//! How many calls may go to the catalog in a second? Waits; no IO of its own.
//!
//! One number says it all: when the bucket of calls would be full again. (The
//! crate governor does the same for many keys, over a clock of its own that a
//! test cannot pause, and without a bound on the wait.)

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::error::CatalogError;
use super::gated::Gate;

/// Lets a bounded number of calls through in a second, and as many at once
/// where there were none for a second. The others wait in order of arrival; a
/// call that would wait for longer than `longest_wait` is refused at once.
pub struct Pace {
    between: Duration,
    longest_wait: Duration,
    full_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Lets `per_second` calls (at least one) through.
    pub fn new(per_second: u32, longest_wait: Duration) -> Self {
        Self {
            between: Duration::from_secs(1) / per_second.max(1),
            longest_wait,
            full_at: Mutex::default(),
        }
    }

    /// Takes the next turn, and says when it is.
    pub(super) fn turn(&self) -> Result<Instant, CatalogError> {
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let then = full_at.map_or(now, |at| at.max(now)) + self.between;
        // A second's worth is there at once.
        let turn = then
            .checked_sub(Duration::from_secs(1))
            .map_or(now, |turn| turn.max(now));
        if turn - now > self.longest_wait {
            return Err(CatalogError::unavailable(format!(
                "not asked: more calls than --catalog-qps allows would come first for {} s",
                self.longest_wait.as_secs()
            )));
        }
        *full_at = Some(then);
        Ok(turn)
    }
}

impl Gate for Pace {
    async fn pass<T: Send>(
        &self,
        call: impl Future<Output = Result<T, CatalogError>> + Send,
    ) -> Result<T, CatalogError> {
        sleep_until(self.turn()?).await;
        call.await
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::time::sleep;

    use super::super::Catalog;
    use super::super::fake::FakeCatalog;
    use super::super::gated::Gated;
    use super::*;
    use crate::domain::record::ServiceFilter;

    fn catalog(per_second: u32, longest_wait: u64) -> Gated<Pace, FakeCatalog> {
        let pace = Pace::new(per_second, Duration::from_secs(longest_wait));
        Gated::new(pace, FakeCatalog::new())
    }

    async fn asked(catalog: &Gated<Pace, FakeCatalog>, calls: usize) -> usize {
        let all = ServiceFilter::default();
        let answers = join_all((0..calls).map(|_| catalog.list_services(&all))).await;
        answers.iter().filter(|answer| answer.is_ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_seconds_worth_goes_at_once_and_the_rest_at_its_pace() {
        let (catalog, begun) = (catalog(50, 60), Instant::now());
        assert_eq!(asked(&catalog, 50).await, 50);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(asked(&catalog, 100).await, 100);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        sleep(Duration::from_secs(10)).await;
        let rested = Instant::now();
        assert_eq!(asked(&catalog, 75).await, 75);
        assert_eq!(rested.elapsed(), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_told_so_at_once_and_takes_nobodys_turn() {
        let (catalog, begun) = (catalog(10, 2), Instant::now());
        assert_eq!(asked(&catalog, 1_000).await, 30);
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert_eq!(catalog.inner.calls().list_services, 30);
        let refused = asked(&catalog, 20);
        assert_eq!(refused.await, 20);
        let all = ServiceFilter::default();
        let answers = join_all((0..100).map(|_| catalog.list_services(&all))).await;
        let error = answers.into_iter().find_map(Result::err).unwrap();
        assert!(error.to_string().contains("--catalog-qps"), "{error}");
    }
}
