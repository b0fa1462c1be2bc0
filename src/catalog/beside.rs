//! What about a request that gets no answer, and that all else waits for? Waits
//! and asks again beside it; no IO of its own.
//!
//! A catalog that hung, or something in between, leaves requests behind that nobody
//! will ever answer, while a new one would be answered at once. (Reads of one
//! service, of which many may wait at once, are [`super::hedged`]'s matter.)

use std::time::Duration;

use tokio::time::{Instant, interval_at, timeout};

use super::error::CatalogError;

/// How long a request stays without an answer before it is made a second time, and
/// how long each such second one may take.
pub(super) const PATIENCE: Duration = Duration::from_millis(2_500);

/// The answer to the first request; or, where that one takes long, to one made
/// beside it. No more than two are under way at once, and what goes wrong with the
/// second one is nobody's concern.
pub(super) async fn answered<T, F>(ask: impl Fn() -> F) -> Result<T, CatalogError>
where
    F: Future<Output = Result<T, CatalogError>>,
{
    let beside = async {
        let mut turns = interval_at(Instant::now() + PATIENCE, PATIENCE);
        loop {
            turns.tick().await;
            if let Ok(Ok(answer)) = timeout(PATIENCE, ask()).await {
                return answer;
            }
        }
    };
    tokio::select! {
        biased;
        first = ask() => first,
        second = beside => Ok(second),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Requests that never get an answer until the catalog heals, and from then on
    /// one after so long.
    struct Catalog {
        heals: Instant,
        takes: Duration,
        asked: RefCell<Vec<Instant>>,
    }

    impl Catalog {
        fn new(heals_after: Duration, takes: Duration) -> Self {
            Self {
                heals: Instant::now() + heals_after,
                takes,
                asked: RefCell::default(),
            }
        }

        async fn ask(&self) -> Result<Instant, CatalogError> {
            let now = Instant::now();
            self.asked.borrow_mut().push(now);
            if now < self.heals {
                sleep(Duration::from_secs(3600)).await;
            }
            sleep(self.takes).await;
            Ok(now)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_in_time_is_asked_once() {
        let catalog = Catalog::new(Duration::ZERO, 2 * SECOND);
        assert!(answered(|| catalog.ask()).await.is_ok());
        assert_eq!(catalog.asked.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hung_is_heard_soon_after_it_has_healed() {
        for tenths in 1..100 {
            let healed = tenths * SECOND / 10;
            let (started, catalog) = (Instant::now(), Catalog::new(healed, SECOND / 10));
            assert!(answered(|| catalog.ask()).await.is_ok());
            let late = started.elapsed() - healed;
            assert!(late <= PATIENCE + SECOND / 10, "{late:?} after {healed:?}");
            let most = 2 + healed.as_millis() / PATIENCE.as_millis();
            assert!(catalog.asked.borrow().len() as u128 <= most);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_of_one_that_is_always_slow_is_taken() {
        let (started, catalog) = (Instant::now(), Catalog::new(Duration::ZERO, 9 * SECOND));
        assert_eq!(answered(|| catalog.ask()).await.unwrap(), started);
        assert_eq!(started.elapsed(), 9 * SECOND);
        assert_eq!(catalog.asked.borrow().len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_the_first_one_s() {
        let refused = || async { Err::<(), _>(CatalogError::unavailable("refused")) };
        assert!(answered(refused).await.is_err());
        let first = RefCell::new(true);
        let heard = answered(|| {
            let first = first.replace(false);
            async move {
                if first {
                    sleep(6 * SECOND).await;
                    return Ok("late");
                }
                Err(CatalogError::unavailable("refused"))
            }
        });
        assert_eq!(heard.await.unwrap(), "late");
    }
}
