//! Who has to be asked about a service? Nobody, while the catalog is followed
//! and what is known of the service is up to date. No IO of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, timeout};

use super::Catalog;
use super::error::CatalogError;
use super::known::state::Service;
use super::known::{Known, Presence};
use super::reads::Reads;
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{CatalogPosition, ServiceRecord};

/// How long a read waits for the first list, which answers all at once.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// How long a read of a service that has just changed waits for what the
/// follower is reading anyway.
const FOLLOWER: Duration = Duration::from_secs(1);

/// How often a service is asked for while lists come in between.
const TRIES: u32 = 3;

/// Least time between two denials that count as two.
const DENIALS_APART: Duration = Duration::from_millis(250);

/// How long a denial is good for at least: a list that lacked something by
/// mistake is found out by asking again.
const DENIAL_HOLDS: Duration = Duration::from_secs(30);

/// Least time between two services that are asked for again.
const AGAIN_APART: Duration = Duration::from_secs(1);

/// Most absent services of which denials are remembered.
const MOST_DENIED: usize = 20_000;

/// A catalog that is asked for a service only where what is known of it does
/// not answer. That a service is absent is believed only when the catalog has
/// denied it twice besides; so whoever confirms a denial really asks. Now and
/// then it is asked for again, and where it is shown after all, a list is asked
/// for. While reads fail, only the follower asks, and its failure answers all
/// others.
pub struct Remembering<C> {
    inner: C,
    known: Arc<Known>,
    denials: Mutex<Denials>,
}

/// What was denied of what is absent.
#[derive(Default)]
struct Denials {
    of: HashMap<CatalogServiceId, Denied>,
    /// When one of them was asked for again.
    again: Option<Instant>,
}

/// Denials of a service since it is known to be absent.
struct Denied {
    since: CatalogPosition,
    first: Instant,
    last: Instant,
    twice: bool,
}

type Answer = Result<Arc<ServiceRecord>, CatalogError>;

impl<C: Catalog> Remembering<C> {
    /// Answers from `known` where that will do, and asks `inner` otherwise.
    pub fn new(inner: C, known: Arc<Known>) -> Self {
        let denials = Mutex::default();
        Self {
            inner,
            known,
            denials,
        }
    }

    async fn get(&self, id: &CatalogServiceId) -> Answer {
        // Whoever does not wait asks, which is never wrong.
        let _ = timeout(FIRST_LIST, self.known.started()).await;
        let _ = timeout(FOLLOWER, self.known.settled(id)).await;
        for _ in 0..TRIES {
            if self.known.is_live()
                && let Some(answer) = self.answer(id)
            {
                return answer;
            }
            if let Some(error) = self.known.refusal(id) {
                // The follower finds out for all when that is over.
                return Err(error);
            }
            let lists = self.known.lists();
            let answer = self.ask(id).await;
            // What was asked before a list may be older than it; and nobody
            // would ever tell, since the list did not differ from what was
            // known.
            if self.known.lists() == lists {
                return answer;
            }
        }
        Err(CatalogError::unavailable(
            "it was listed anew whenever it had been asked; it is asked again",
        ))
    }

    async fn ask(&self, id: &CatalogServiceId) -> Answer {
        let announced = self.known.announced(id);
        let absent = self.known.absent_since(id);
        let denied = absent.is_some_and(|since| self.denials(|d| d.twice(id, &since)));
        let answer = self.inner.get_service(id).await;
        self.known
            .answered(std::slice::from_ref(id), answer.as_ref().err());
        let shown = match &answer {
            Ok(record) => Service::Present(Arc::clone(record)),
            Err(CatalogError::BadRecord(bad)) => Service::Unreadable(Box::new(bad.clone())),
            Err(CatalogError::NotFound) => {
                self.note_denied(id);
                return answer;
            }
            Err(_) => return answer,
        };
        if announced.is_some_and(|announced| shown.is_older(announced)) {
            return Err(CatalogError::unavailable(
                "it answered with an older record than its event stream announced; it is asked again",
            ));
        }
        if denied {
            // Once: it counts again when it was denied twice again.
            self.denials(|denials| denials.of.remove(id));
            self.known.contradicted(id, &shown);
        }
        self.known.showed(id, shown);
        answer
    }

    /// What is known answers, if it does.
    fn answer(&self, id: &CatalogServiceId) -> Option<Answer> {
        match self.known.presence(id) {
            Presence::Present(record) => Some(Ok(record)),
            Presence::Unreadable(bad) => Some(Err(CatalogError::BadRecord(bad))),
            Presence::Absent { since } => self
                .denials(|denials| denials.answer(id, &since))
                .then_some(Err(CatalogError::NotFound)),
            Presence::Unknown => None,
        }
    }

    fn note_denied(&self, id: &CatalogServiceId) {
        self.known.denied(id);
        let Presence::Absent { since } = self.known.presence(id) else {
            return;
        };
        self.denials(|denials| denials.note(id, since));
    }

    /// Nothing in here is left half-done by a panic, so a poisoned lock is
    /// used on.
    fn denials<T>(&self, with: impl FnOnce(&mut Denials) -> T) -> T {
        with(&mut self.denials.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Denials {
    /// Whether the service was denied twice since it is absent.
    fn twice(&self, id: &CatalogServiceId, since: &CatalogPosition) -> bool {
        let denied = self.of.get(id);
        denied.is_some_and(|denied| denied.twice && denied.since == *since)
    }

    /// Whether that answers whoever asks now; where it does not, he asks the
    /// catalog.
    fn answer(&mut self, id: &CatalogServiceId, since: &CatalogPosition) -> bool {
        if !self.twice(id, since) {
            return false;
        }
        let is_old = |denied: &Denied| denied.last.elapsed() >= DENIAL_HOLDS;
        let old = self.of.get(id).is_some_and(is_old);
        let may = self.again.is_none_or(|at| at.elapsed() >= AGAIN_APART);
        if old && may {
            self.again = Some(Instant::now());
        }
        !(old && may)
    }

    fn note(&mut self, id: &CatalogServiceId, since: CatalogPosition) {
        if self.of.len() >= MOST_DENIED && !self.of.contains_key(id) {
            // They are asked for once more, all of them.
            self.of.clear();
        }
        let now = Instant::now();
        let fresh = || Denied {
            since: since.clone(),
            first: now,
            last: now,
            twice: false,
        };
        let entry = self.of.entry(id.clone()).or_insert_with(fresh);
        if entry.since != since {
            *entry = fresh();
        }
        entry.twice |= entry.first.elapsed() >= DENIALS_APART;
        entry.last = now;
    }
}

impl<C: Catalog> Reads for Remembering<C> {
    type Inner = C;

    fn inner(&self) -> &C {
        &self.inner
    }

    fn read<'a>(&'a self, id: &'a CatalogServiceId) -> BoxFuture<'a, Answer> {
        self.get(id).boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::future::join_all;
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::super::fake::{Backup, Calls, FakeCatalog};
    use super::super::follow::Follower;
    use super::*;
    use crate::metrics::Metrics;

    struct Scene {
        fake: Arc<FakeCatalog>,
        known: Arc<Known>,
        catalog: Arc<Remembering<Arc<FakeCatalog>>>,
        task: JoinHandle<()>,
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn id(n: usize) -> CatalogServiceId {
        CatalogServiceId::parse(&format!("s{n}")).unwrap()
    }

    fn set(fake: &FakeCatalog, n: usize, timeout: &str) {
        fake.set(ServiceRecord {
            id: id(n).to_string(),
            timeout: Some(timeout.to_owned()),
            ..Default::default()
        });
    }

    impl Scene {
        fn with(services: usize) -> Self {
            let fake = Arc::new(FakeCatalog::new());
            for n in 0..services {
                set(&fake, n, "1s");
            }
            let known = Arc::<Known>::default();
            let metrics = Metrics::new().unwrap().catalog().clone();
            let source: Arc<dyn Catalog> = Arc::clone(&fake) as _;
            let follower = Follower::new(source, Arc::clone(&known), || None, metrics);
            Self {
                catalog: Arc::new(Remembering::new(Arc::clone(&fake), Arc::clone(&known))),
                task: tokio::spawn(follower.run()),
                fake,
                known,
            }
        }

        async fn get(&self, n: usize) -> Answer {
            self.catalog.get_service(&id(n)).await
        }

        async fn timeout(&self, n: usize) -> String {
            self.get(n).await.unwrap().timeout.clone().unwrap()
        }

        fn requests(&self) -> usize {
            let Calls {
                get_service,
                list_services,
                subscribe,
                ..
            } = self.fake.calls();
            get_service + list_services + subscribe
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_services_that_are_looked_at_every_30_s_cost_no_request() {
        let scene = Scene::with(1_000);
        // From the first moment on: all wait for the one list.
        for _ in 0..20 {
            let looks = join_all((0..1_000).map(|n| scene.get(n))).await;
            assert!(looks.iter().all(Result::is_ok));
            sleep(Duration::from_secs(30)).await;
        }
        assert_eq!(scene.requests(), 2, "one list and one stream");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_after_an_event_never_sees_an_older_record() {
        let scene = Scene::with(2);
        assert_eq!(scene.timeout(1).await, "1s");
        scene.fake.delay(Duration::from_millis(100));
        for n in 2..20 {
            set(&scene.fake, 1, &format!("{n}s"));
            // The event was heard; its record is being read.
            sleep(Duration::from_millis(1)).await;
            assert_eq!(scene.known.presence(&id(1)), Presence::Unknown);
            assert_eq!(scene.timeout(1).await, format!("{n}s"));
        }
        let gets = scene.fake.calls().get_service;
        assert_eq!(gets, 18, "the looks waited for the follower");
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_record_than_was_announced_is_refused_though_the_catalog_gave_it() {
        let scene = Scene::with(2);
        assert_eq!(scene.timeout(1).await, "1s");
        scene.fake.lag(true);
        set(&scene.fake, 1, "2s");
        sleep(Duration::from_millis(1)).await;
        let error = scene.get(1).await.unwrap_err().to_string();
        assert!(error.contains("older record"), "{error}");
        scene.fake.lag(false);
        assert_eq!(scene.timeout(1).await, "2s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_record_that_was_mended_is_not_taken_for_bad_though_the_catalog_gave_it() {
        let scene = Scene::with(2);
        assert_eq!(scene.timeout(1).await, "1s");
        scene.fake.set_bad("s1", "timeout", "is bad");
        sleep(Duration::from_secs(1)).await;
        assert!(matches!(
            scene.get(1).await,
            Err(CatalogError::BadRecord(_))
        ));
        scene.fake.lag(true);
        set(&scene.fake, 1, "2s");
        sleep(Duration::from_millis(1)).await;
        let error = scene.get(1).await.unwrap_err().to_string();
        assert!(error.contains("older record"), "{error}");
        scene.fake.lag(false);
        sleep(Duration::from_secs(31)).await;
        assert_eq!(scene.timeout(1).await, "2s");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_followed_is_asked_for() {
        let scene = Scene::with(2);
        assert_eq!(scene.timeout(1).await, "1s");
        scene.fake.silence_streams(true);
        set(&scene.fake, 1, "2s");
        sleep(Duration::from_secs(26)).await;
        assert!(!scene.known.is_live());
        assert_eq!(scene.timeout(1).await, "2s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_catalog_that_cannot_be_listed_is_asked_at_once() {
        let scene = Scene::with(2);
        let away = CatalogError::unavailable("away");
        scene.fake.away(Some(away.clone()));
        let begun = Instant::now();
        assert_eq!(scene.get(1).await, Err(away));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn while_reads_fail_however_many_look_one_request_in_a_second_or_two_is_sent() {
        let scene = Scene::with(1_000);
        assert_eq!(scene.timeout(1).await, "1s");
        scene.known.returned().await;
        let away = CatalogError::unavailable("away");
        scene.fake.away(Some(away.clone()));
        sleep(Duration::from_millis(1)).await;
        let before = scene.requests();
        for _ in 0..600 {
            let looks = join_all((0..100).map(|n| scene.get(n))).await;
            assert!(looks.iter().all(|look| *look == Err(away.clone())));
            sleep(Duration::from_secs(1)).await;
        }
        let requests = scene.requests() - before;
        assert!((200..=500).contains(&requests), "{requests}");
        scene.fake.away(None);
        scene.known.returned().await;
        assert_eq!(scene.timeout(1).await, "1s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_catalog_that_answers_but_cannot_be_followed_is_asked_each_time() {
        let scene = Scene::with(10);
        // As behind a proxy that lets no stream through, nor a long list.
        scene.task.abort();
        let metrics = Metrics::new().unwrap().catalog().clone();
        let deaf = Arc::new(FakeCatalog::new());
        deaf.away(Some(CatalogError::unavailable("no stream")));
        let follower = Follower::new(deaf, Arc::clone(&scene.known), || None, metrics);
        let follower = tokio::spawn(follower.run());
        for n in 0..10 {
            assert_eq!(scene.timeout(n).await, "1s");
            sleep(Duration::from_secs(30)).await;
        }
        assert_eq!(scene.fake.calls().get_service, 10);
        follower.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_cannot_be_read_keeps_no_other_waiting_for_long() {
        let scene = Scene::with(3);
        assert_eq!(scene.timeout(1).await, "1s");
        scene.fake.refuse_streams();
        let broken = CatalogError::unavailable("this one is broken");
        scene.fake.break_service("s0", broken.clone());
        sleep(Duration::from_secs(1)).await;
        let mut answered = [0; 3];
        for _ in 0..600 {
            for (n, answered) in answered.iter_mut().enumerate() {
                match scene.get(n).await {
                    Ok(_) => *answered += 1,
                    Err(error) => assert_eq!(error, broken),
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(answered[0], 0);
        assert!(answered[1..].iter().all(|n| *n >= 60), "{answered:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_service_is_absent_is_asked_twice_and_then_remembered() {
        let scene = Scene::with(2);
        assert_eq!(scene.timeout(1).await, "1s");
        let gets = || scene.fake.calls().get_service;
        for round in 1..3 {
            scene.fake.remove("s1");
            for asked in [1, 2, 2, 2] {
                sleep(DENIALS_APART).await;
                assert_eq!(scene.get(1).await, Err(CatalogError::NotFound));
                assert_eq!(gets(), asked + (round - 1) * 3);
            }
            set(&scene.fake, 1, "1s");
            sleep(Duration::from_millis(1)).await;
            assert_eq!(scene.timeout(1).await, "1s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_denials_at_once_are_one() {
        let scene = Scene::with(1);
        assert_eq!(scene.timeout(0).await, "1s");
        for _ in 0..5 {
            assert_eq!(scene.get(7).await, Err(CatalogError::NotFound));
        }
        assert_eq!(scene.fake.calls().get_service, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_known_and_denied_is_looked_for_in_a_list() {
        let scene = Scene::with(2);
        assert_eq!(scene.timeout(1).await, "1s");
        sleep(Duration::from_secs(60)).await;
        let lists = scene.fake.calls().list_services;
        scene.fake.silence_streams(true);
        scene.fake.cut_streams();
        scene.fake.forget_all();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(scene.get(1).await, Err(CatalogError::NotFound));
        assert!(matches!(scene.known.presence(&id(1)), Presence::Present(_)));
        scene.fake.silence_streams(false);
        sleep(Duration::from_secs(5)).await;
        assert!(matches!(
            scene.known.presence(&id(1)),
            Presence::Absent { .. }
        ));
        assert_eq!(scene.fake.calls().list_services, lists + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_whose_id_is_none_and_a_look_for_what_is_missing_cost_one_list_in_all() {
        let scene = Scene::with(1);
        scene.fake.set_bad("a/b", "id", "is none");
        for _ in 0..600 {
            assert_eq!(scene.get(7).await, Err(CatalogError::NotFound));
            // Looked at again as soon as it is told of, as a binding is.
            let _ = timeout(Duration::from_secs(1), scene.known.changed()).await;
        }
        assert_eq!(scene.known.presence(&id(7)), Presence::Unknown);
        assert_eq!(scene.fake.calls().list_services, 1);
    }

    /// A scene in which the first list, and reads, show none but the last
    /// service; with what else there is.
    async fn forgetful(services: usize) -> (Scene, Backup) {
        let scene = Scene::with(services);
        let whole = scene.fake.back_up();
        scene.fake.forget_all();
        set(&scene.fake, services, "1s");
        for _ in 0..3 {
            for n in 0..services {
                assert_eq!(scene.get(n).await, Err(CatalogError::NotFound));
            }
            sleep(DENIALS_APART).await;
        }
        scene.known.changed().await;
        (scene, whole)
    }

    #[tokio::test(start_paused = true)]
    async fn services_that_were_lacking_for_a_while_are_found_though_no_event_tells() {
        let (scene, whole) = forgetful(3).await;
        let lists = scene.fake.calls().list_services;
        scene.fake.remember(whole);
        let found = async {
            while scene.get(1).await.is_err() {
                sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(2 * DENIAL_HOLDS, found).await.unwrap();
        // The others, too, which nobody asks for.
        let changed = timeout(Duration::from_secs(60), scene.known.changed()).await;
        assert_eq!(changed, Ok(BTreeSet::from([id(0), id(1), id(2)])));
        for n in 0..3 {
            assert_eq!(scene.timeout(n).await, "1s");
        }
        assert_eq!(scene.fake.calls().list_services, lists + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_services_are_absent_one_a_second_is_asked_for_again() {
        let (scene, _) = forgetful(100).await;
        let before = scene.requests();
        for _ in 0..600 {
            let looks = join_all((0..100).map(|n| scene.get(n))).await;
            assert!(
                looks
                    .iter()
                    .all(|look| *look == Err(CatalogError::NotFound))
            );
            sleep(Duration::from_secs(1)).await;
        }
        let requests = scene.requests() - before;
        assert!((500..=600).contains(&requests), "{requests}");
    }

    /// A scene in which nothing has changed that was not told yet, and nothing
    /// is followed.
    async fn unfollowed(services: usize) -> Scene {
        let scene = Scene::with(services);
        assert_eq!(scene.timeout(0).await, "1s");
        scene.known.changed().await;
        scene.fake.silence_streams(true);
        sleep(Duration::from_secs(26)).await;
        assert!(!scene.known.is_live());
        scene
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_was_only_there_while_nothing_was_followed_is_told_to_who_saw_it() {
        for restored in [true, false] {
            let scene = unfollowed(1).await;
            let backup = scene.fake.back_up();
            set(&scene.fake, 7, "1s");
            assert_eq!(scene.timeout(7).await, "1s");
            if restored {
                scene.fake.restore(backup);
            } else {
                scene.fake.remove("s7");
                scene.fake.forget_history();
            }
            scene.fake.silence_streams(false);
            let changed = timeout(Duration::from_secs(60), scene.known.changed()).await;
            assert_eq!(changed, Ok(BTreeSet::from([id(7)])), "restored: {restored}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_was_only_seen_while_nothing_was_followed_is_looked_at_again() {
        let scene = unfollowed(1).await;
        let backup = scene.fake.back_up();
        set(&scene.fake, 0, "2s");
        assert_eq!(scene.timeout(0).await, "2s");
        scene.fake.restore(backup);
        scene.fake.silence_streams(false);
        let changed = timeout(Duration::from_secs(60), scene.known.changed()).await;
        assert_eq!(changed, Ok(BTreeSet::from([id(0)])));
        assert_eq!(scene.timeout(0).await, "1s");
    }

    #[tokio::test(start_paused = true)]
    async fn who_saw_what_is_known_anyway_is_not_told_of_it_again() {
        let scene = unfollowed(3).await;
        for n in 0..3 {
            assert_eq!(scene.timeout(n).await, "1s");
        }
        scene.fake.silence_streams(false);
        let changed = timeout(Duration::from_secs(60), scene.known.changed()).await;
        assert!(changed.is_err(), "{changed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_a_list_has_overtaken_is_not_believed() {
        let scene = unfollowed(1).await;
        let backup = scene.fake.back_up();
        set(&scene.fake, 7, "1s");
        let catalog = Arc::clone(&scene.catalog);
        scene.fake.answer_late(Duration::from_secs(5));
        let look = tokio::spawn(async move { catalog.get_service(&id(7)).await });
        sleep(Duration::from_millis(1)).await;
        scene.fake.answer_late(Duration::ZERO);
        scene.fake.restore(backup);
        scene.fake.silence_streams(false);
        assert_eq!(look.await.unwrap(), Err(CatalogError::NotFound));
    }
}
