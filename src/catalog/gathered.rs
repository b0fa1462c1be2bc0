//! How are many services read that are asked for one by one? While there are
//! turns, each by itself; those that would wait for a turn go together, as one
//! list. Waits; no IO of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::time::{Instant, sleep_until};

use super::Catalog;
use super::error::CatalogError;
use super::gated::Gated;
use super::paced::Pace;
use super::reads::Reads;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{BadRecord, ServiceFilter, ServiceRecord};

/// Most services that are read by one list: as many as one page of it takes.
const AT_ONCE: usize = 100;

/// A catalog behind a [`Pace`], of which a thousand services that are asked for
/// at once take some ten lists and not a thousand turns: when many are
/// deregistered at the same time, each denial is confirmed.
pub struct Gathering<C> {
    pace: Arc<Pace>,
    /// For calls that wait for a turn of their own.
    paced: Gated<Arc<Pace>, Arc<C>>,
    /// The list that waits for its turn.
    next: Mutex<Option<Batch>>,
}

type Answer = Result<Arc<ServiceRecord>, CatalogError>;

/// Services that are read together. Whoever waits for one of them drives the
/// list, so that it is of no matter who stops waiting.
struct Batch {
    /// Nothing once the list was sent: who comes later wants what is later.
    ids: Arc<Mutex<Option<BTreeSet<CatalogServiceId>>>>,
    list: Shared<BoxFuture<'static, Result<Arc<Listed>, CatalogError>>>,
}

/// What a list says.
struct Listed {
    services: HashMap<String, Result<Arc<ServiceRecord>, BadRecord>>,
    /// It holds a record that does not say whose it is.
    nameless: bool,
}

impl<C: Catalog + 'static> Gathering<C> {
    /// Puts the pace before the catalog.
    pub fn new(pace: Arc<Pace>, inner: C) -> Self {
        let inner = Arc::new(inner);
        Self {
            paced: Gated::new(Arc::clone(&pace), inner),
            pace,
            next: Mutex::default(),
        }
    }

    async fn get(&self, id: &CatalogServiceId) -> Answer {
        let batch = {
            let mut next = lock(&self.next);
            match next.as_ref().filter(|batch| batch.takes(id)) {
                Some(batch) => Some(batch.list.clone()),
                None => {
                    let turn = self.pace.turn()?;
                    (turn > Instant::now()).then(|| {
                        let inner = Arc::clone(&self.paced.inner);
                        next.insert(Batch::new(inner, id, turn)).list.clone()
                    })
                }
            }
        };
        match batch {
            Some(list) => list.await?.answer(id),
            None => self.paced.inner.get_service(id).await,
        }
    }
}

impl Batch {
    fn new(catalog: Arc<impl Catalog + 'static>, id: &CatalogServiceId, turn: Instant) -> Self {
        let ids = Arc::new(Mutex::new(Some(BTreeSet::from([id.clone()]))));
        let gathered = Arc::clone(&ids);
        let list = async move {
            sleep_until(turn).await;
            let ids = lock(&gathered).take().unwrap_or_default();
            let filter = ServiceFilter {
                ids: ids.into_iter().collect(),
                ..ServiceFilter::default()
            };
            let list = catalog.list_services(&filter).await?;
            Ok(Arc::new(Listed::new(list.services)))
        };
        Self {
            ids,
            list: list.boxed().shared(),
        }
    }

    /// Takes the service along, if the list has room and was not sent.
    fn takes(&self, id: &CatalogServiceId) -> bool {
        match lock(&self.ids).as_mut() {
            Some(ids) if ids.len() < AT_ONCE || ids.contains(id) => {
                ids.insert(id.clone());
                true
            }
            _ => false,
        }
    }
}

impl Listed {
    fn new(list: Vec<Result<ServiceRecord, BadRecord>>) -> Self {
        let mut listed = Self {
            services: HashMap::new(),
            nameless: false,
        };
        for service in list {
            let (id, service) = match service {
                Ok(record) => (Some(record.id.clone()), Ok(Arc::new(record))),
                Err(bad) => (bad.id.clone(), Err(bad)),
            };
            match id {
                Some(id) => {
                    listed.services.insert(id, service);
                }
                None => listed.nameless = true,
            }
        }
        listed
    }

    fn answer(&self, id: &CatalogServiceId) -> Answer {
        match self.services.get(id.as_str()) {
            Some(Ok(record)) => Ok(Arc::clone(record)),
            Some(Err(bad)) => Err(CatalogError::BadRecord(bad.clone())),
            // It may be that one: nothing is gone because it cannot be read.
            None if self.nameless => Err(CatalogError::unavailable(
                "a record of the list does not say which service it is of",
            )),
            None => Err(CatalogError::NotFound),
        }
    }
}

impl<C: Catalog + 'static> Reads for Gathering<C> {
    type Inner = Gated<Arc<Pace>, Arc<C>>;

    fn inner(&self) -> &Self::Inner {
        &self.paced
    }

    fn read<'a>(&'a self, id: &'a CatalogServiceId) -> BoxFuture<'a, Answer> {
        self.get(id).boxed()
    }
}

/// Nothing in here is left half-done by a panic, so a poisoned lock is used
/// on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::time::timeout;

    use super::super::fake::FakeCatalog;
    use super::*;

    const PER_SECOND: u32 = 50;

    /// A catalog of a thousand services, of which the even ones are there.
    fn catalog() -> (Arc<FakeCatalog>, Gathering<Arc<FakeCatalog>>) {
        let fake = Arc::new(FakeCatalog::new());
        for n in (0..1_000).step_by(2) {
            fake.set(ServiceRecord {
                id: id(n).to_string(),
                ..ServiceRecord::default()
            });
        }
        let pace = Pace::new(PER_SECOND, Duration::from_secs(20));
        (Arc::clone(&fake), Gathering::new(Arc::new(pace), fake))
    }

    fn id(n: usize) -> CatalogServiceId {
        CatalogServiceId::parse(&format!("s{n}")).unwrap()
    }

    async fn ask(catalog: &Gathering<Arc<FakeCatalog>>, n: usize) -> Answer {
        catalog.get_service(&id(n)).await
    }

    /// Uses up the turns that are there at once.
    async fn use_up(catalog: &Gathering<Arc<FakeCatalog>>) {
        let all = (0..PER_SECOND as usize).map(|_| ask(catalog, 0));
        join_all(all).await;
    }

    #[tokio::test(start_paused = true)]
    async fn while_there_are_turns_each_service_is_asked_for_by_itself_and_at_once() {
        let (fake, catalog) = catalog();
        let begun = Instant::now();
        let answers = join_all((0..PER_SECOND as usize).map(|n| ask(&catalog, n))).await;
        for (n, answer) in answers.iter().enumerate() {
            assert_eq!(answer.is_ok(), n % 2 == 0, "{n}: {answer:?}");
        }
        assert_eq!(
            (fake.calls().get_service, fake.calls().list_services),
            (50, 0)
        );
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_that_are_asked_for_at_once_take_a_list_for_each_hundred() {
        let (fake, catalog) = catalog();
        let begun = Instant::now();
        let answers = join_all((0..1_000).map(|n| ask(&catalog, n))).await;
        for (n, answer) in answers.iter().enumerate() {
            match answer {
                Ok(record) => assert_eq!((n % 2, &*record.id), (0, id(n).as_str())),
                Err(error) => assert_eq!((n % 2, error), (1, &CatalogError::NotFound)),
            }
        }
        assert_eq!(
            (fake.calls().get_service, fake.calls().list_services),
            (50, 10)
        );
        assert!(
            begun.elapsed() <= Duration::from_millis(200),
            "{:?}",
            begun.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_asked_for_after_the_list_was_sent_is_asked_for_anew() {
        let (fake, catalog) = catalog();
        use_up(&catalog).await;
        fake.delay(Duration::from_secs(1));
        let early = async { ask(&catalog, 1).await };
        let late = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            // The list is under way, and this is registered too late for it.
            fake.set(ServiceRecord {
                id: id(1).to_string(),
                ..ServiceRecord::default()
            });
            ask(&catalog, 1).await
        };
        let (_, late) = tokio::join!(early, late);
        assert!(late.is_ok(), "{late:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_takes_nothing_from_those_who_wait_on() {
        let (fake, catalog) = catalog();
        use_up(&catalog).await;
        let gone = timeout(Duration::from_millis(1), ask(&catalog, 2));
        let (gone, stays) = tokio::join!(gone, ask(&catalog, 4));
        assert!(gone.is_err());
        assert_eq!(stays.unwrap().id, "s4");
        assert_eq!(fake.calls().list_services, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_fails_denies_nothing() {
        let (fake, catalog) = catalog();
        use_up(&catalog).await;
        fake.fail_next(1, CatalogError::unavailable("away"));
        let (even, odd) = tokio::join!(ask(&catalog, 0), ask(&catalog, 1));
        for answer in [even, odd] {
            let is_away = matches!(&answer, Err(CatalogError::Unavailable { .. }));
            assert!(is_away, "{answer:?}");
        }
    }

    #[test]
    fn a_record_that_does_not_say_whose_it_is_may_be_any_that_is_missing() {
        let bad = |id: Option<&str>| {
            Err(BadRecord {
                id: id.map(str::to_owned),
                revision: None,
                field: "id".to_owned(),
                message: "is missing".to_owned(),
            })
        };
        let named = Listed::new(vec![bad(Some("s1"))]);
        assert!(matches!(
            named.answer(&id(1)),
            Err(CatalogError::BadRecord(_))
        ));
        assert_eq!(named.answer(&id(2)), Err(CatalogError::NotFound));
        let nameless = Listed::new(vec![bad(None)]);
        let answer = nameless.answer(&id(2));
        assert!(
            matches!(answer, Err(CatalogError::Unavailable { .. })),
            "{answer:?}"
        );
    }
}
