//! What about a read that gets no answer? Waits and asks again; no IO of its
//! own.
//!
//! A catalog that hung leaves requests behind that nobody will ever answer,
//! while a new one would be answered at once. Each would keep its service
//! waiting until its deadline.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::Catalog;
use super::beside::PATIENCE;
use super::error::CatalogError;
use super::gated::Gate;
use super::reads::Reads;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::ServiceRecord;

/// A catalog whose reads of one service do not hang on a request that will
/// never be answered. One that has waited for 2.5 s is given up and asked anew
/// as soon as a later request was answered. Where nobody has sent a later one
/// for as long, one of those that wait does, beside its first; so however many
/// wait, a slow catalog is hardly slowed further. Whatever is asked anew passes
/// a gate, as its first request had to.
pub struct HedgedCatalog<G, C> {
    inner: C,
    gate: G,
    second: Semaphore,
    /// When the latest request was sent.
    sent: watch::Sender<Instant>,
    /// When the latest request that was answered had been sent.
    answered: watch::Sender<Option<Instant>>,
}

type Answer = Result<Arc<ServiceRecord>, CatalogError>;

impl<G: Gate, C: Catalog> HedgedCatalog<G, C> {
    /// Nothing hangs yet. First requests have passed the gate already.
    pub fn new(gate: G, inner: C) -> Self {
        Self {
            inner,
            gate,
            second: Semaphore::new(1),
            sent: watch::Sender::new(Instant::now()),
            answered: watch::Sender::new(None),
        }
    }

    async fn wait(&self, id: &CatalogServiceId) -> Answer {
        let asked = Instant::now();
        tokio::select! {
            answer = self.ask(id) => answer,
            answer = self.ask_beside(id) => answer,
            () = self.overtaken(asked) => self.ask_again(id).await,
        }
    }

    async fn ask_again(&self, id: &CatalogServiceId) -> Answer {
        self.gate.pass(self.ask(id)).await
    }

    async fn ask(&self, id: &CatalogServiceId) -> Answer {
        let asked = Instant::now();
        self.sent.send_replace(asked);
        let answer = self.inner.get_service(id).await;
        if is_usable(&answer) {
            self.answered.send_if_modified(|latest| {
                let later = *latest < Some(asked);
                if later {
                    *latest = Some(asked);
                }
                later
            });
        }
        answer
    }

    /// The first usable answer to a second request.
    async fn ask_beside(&self, id: &CatalogServiceId) -> Answer {
        sleep(PATIENCE).await;
        loop {
            let _turn = self.second.acquire().await;
            while self.sent.borrow().elapsed() < PATIENCE {
                // That one finds out for all.
                let since = *self.sent.borrow();
                sleep_until(since + PATIENCE).await;
            }
            let answer = self
                .gate
                .pass(async { Ok(timeout(PATIENCE, self.ask(id)).await) });
            if let Ok(Ok(answer)) = answer.await
                && is_usable(&answer)
            {
                return answer;
            }
        }
    }

    /// Ends when the request of `asked` has waited for long, and one that was
    /// sent later was answered.
    async fn overtaken(&self, asked: Instant) {
        sleep_until(asked + PATIENCE).await;
        let later = |latest: &Option<Instant>| *latest > Some(asked);
        // Fails only without a sender, which lives as long as we do.
        let _ = self.answered.subscribe().wait_for(later).await;
    }
}

/// Whether the catalog said something about the service.
fn is_usable(answer: &Answer) -> bool {
    matches!(
        answer,
        Ok(_) | Err(CatalogError::NotFound | CatalogError::BadRecord(_))
    )
}

impl<G: Gate, C: Catalog> Reads for HedgedCatalog<G, C> {
    type Inner = C;

    fn inner(&self) -> &C {
        &self.inner
    }

    fn read<'a>(&'a self, id: &'a CatalogServiceId) -> BoxFuture<'a, Answer> {
        self.wait(id).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;

    use super::super::fake::FakeCatalog;
    use super::super::paced::Pace;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn id(text: &str) -> CatalogServiceId {
        CatalogServiceId::parse(text).unwrap()
    }

    type Hedged = HedgedCatalog<Pace, FakeCatalog>;

    fn catalog() -> Hedged {
        paced(100)
    }

    /// A catalog that is asked anew as often in a second.
    fn paced(per_second: u32) -> Hedged {
        let fake = FakeCatalog::new();
        for id in ["a", "b"] {
            fake.set(ServiceRecord {
                id: id.to_owned(),
                ..Default::default()
            });
        }
        HedgedCatalog::new(Pace::new(per_second, HOUR), fake)
    }

    async fn heals_after(catalog: &Hedged, time: Duration) {
        sleep(time).await;
        catalog.inner.delay(Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_catalog_that_answers_is_asked_once() {
        let (catalog, id) = (catalog(), id("a"));
        catalog.inner.delay(Duration::from_secs(2));
        assert!(catalog.get_service(&id).await.is_ok());
        assert_eq!(catalog.inner.calls().get_service, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_read_that_hangs_is_answered_soon_after_the_catalog_has_healed() {
        let (catalog, id) = (catalog(), id("a"));
        catalog.inner.delay(HOUR);
        let started = Instant::now();
        let healing = Duration::from_secs(6);
        let (answer, ()) = tokio::join!(catalog.get_service(&id), heals_after(&catalog, healing));
        assert!(answer.is_ok());
        let late = started.elapsed() - healing;
        assert!(late <= PATIENCE, "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_that_hang_one_finds_out_and_the_others_ask_anew_at_once() {
        let (catalog, ids) = (catalog(), [id("a"), id("b")]);
        catalog.inner.delay(HOUR);
        let started = Instant::now();
        let healing = Duration::from_secs(6);
        let reads = join_all((0..50).map(|n| catalog.get_service(&ids[n % 2])));
        let (answers, ()) = tokio::join!(reads, heals_after(&catalog, healing));
        assert!(answers.iter().all(Result::is_ok));
        let late = started.elapsed() - healing;
        assert!(late <= PATIENCE, "{late:?}");
        // 50 at first, 49 anew, and one second request per 2.5 s and hang.
        let calls = catalog.inner.calls();
        assert!(calls.get_service <= 50 + 49 + 4, "{calls:?}");
        assert_eq!(calls.most_at_once, 51);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_anew_takes_a_turn() {
        let (catalog, id) = (paced(10), id("a"));
        catalog.inner.delay(HOUR);
        let started = Instant::now();
        let healing = Duration::from_secs(6);
        let reads = join_all((0..50).map(|_| catalog.get_service(&id)));
        let (answers, ()) = tokio::join!(reads, heals_after(&catalog, healing));
        assert!(answers.iter().all(Result::is_ok));
        // One found out. Of the 49 others ten take a second's worth at once, and
        // 39 wait for a tenth of a second each.
        let late = started.elapsed() - healing;
        assert!(late >= Duration::from_millis(3_900), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn where_others_ask_all_the_time_no_second_request_is_sent() {
        let (catalog, id) = (catalog(), id("a"));
        catalog.inner.delay(HOUR);
        let others = async {
            for _ in 0..10 {
                let ask = catalog.ask(&id);
                assert!(timeout(Duration::from_secs(1), ask).await.is_err());
            }
        };
        let hanging = timeout(Duration::from_secs(10), catalog.get_service(&id));
        let (hanging, ()) = tokio::join!(hanging, others);
        assert!(hanging.is_err());
        assert_eq!(catalog.inner.calls().get_service, 11);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_the_second_request_waits_for_the_first() {
        let (catalog, id) = (catalog(), id("a"));
        catalog.inner.delay(Duration::from_secs(4));
        let read = catalog.get_service(&id);
        let faults = async {
            sleep(PATIENCE).await;
            catalog.inner.delay(Duration::ZERO);
            let away = CatalogError::unavailable("away");
            catalog.inner.fail_next(1, away);
        };
        let (answer, ()) = tokio::join!(read, faults);
        assert!(answer.is_ok(), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_is_not_taken_for_lost_because_another_was_faster() {
        let (catalog, ids) = (catalog(), [id("a"), id("b")]);
        catalog.inner.delay(Duration::from_secs(2));
        let slow = catalog.get_service(&ids[0]);
        let fast = async {
            sleep(Duration::from_secs(1)).await;
            catalog.inner.delay(Duration::ZERO);
            catalog.get_service(&ids[1]).await
        };
        let (slow, fast) = tokio::join!(slow, fast);
        assert!(slow.is_ok() && fast.is_ok());
        assert_eq!(catalog.inner.calls().get_service, 2);
    }
}
