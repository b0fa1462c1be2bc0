//! The follower beside a catalog that misbehaves, in paused time.

use futures::future::join_all;
use tokio::task::JoinHandle;

use super::*;
use crate::catalog::fake::{Calls, FakeCatalog};
use crate::catalog::known::Presence;
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceRecord};
use crate::metrics::Metrics;

/// A catalog of some services, and a follower of it; ended when dropped.
struct Scene {
    fake: Arc<FakeCatalog>,
    known: Arc<Known>,
    task: JoinHandle<()>,
    begun: Calls,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn id(n: usize) -> CatalogServiceId {
    CatalogServiceId::parse(&format!("s{n}")).unwrap()
}

fn away() -> CatalogError {
    CatalogError::unavailable("away")
}

async fn pass(time: Duration) {
    sleep(time).await;
}

async fn millis(millis: u64) {
    pass(Duration::from_millis(millis)).await;
}

impl Scene {
    /// Until it follows, and is quiet.
    async fn with(services: usize) -> Self {
        let fake = Arc::new(FakeCatalog::new());
        for n in 0..services {
            set(&fake, n, "1s");
        }
        let mut scene = Self::over(fake);
        scene.known.live().await;
        let _ = scene.known.changed().await;
        pass(LISTS.cap).await;
        scene.begun = scene.fake.calls();
        scene
    }

    fn over(fake: Arc<FakeCatalog>) -> Self {
        let known = Arc::<Known>::default();
        let metrics = Metrics::new().unwrap().catalog().clone();
        let catalog: Arc<dyn Catalog> = Arc::clone(&fake) as _;
        let ours = Some("ours".to_owned());
        let follower = Follower::new(catalog, Arc::clone(&known), move || ours.clone(), metrics);
        Self {
            task: tokio::spawn(follower.run()),
            begun: Calls::default(),
            fake,
            known,
        }
    }

    fn set(&self, n: usize, timeout: &str) {
        set(&self.fake, n, timeout);
    }

    /// Gets, lists and streams since it was quiet.
    fn asked(&self) -> (usize, usize, usize) {
        let (now, begun) = (self.fake.calls(), &self.begun);
        (
            now.get_service - begun.get_service,
            now.list_services - begun.list_services,
            now.subscribe - begun.subscribe,
        )
    }

    /// What is known is what the catalog has.
    async fn agrees(&self) {
        self.known.live().await;
        let mut known = self.known.records();
        known.sort_by(|a, b| a.id.cmp(&b.id));
        let list = self
            .fake
            .list_services(&ServiceFilter::default())
            .await
            .unwrap();
        let list: Vec<_> = list
            .services
            .into_iter()
            .map(|s| Arc::new(s.unwrap()))
            .collect();
        assert_eq!(known, list);
        for record in list {
            let id = CatalogServiceId::parse(&record.id).unwrap();
            assert_eq!(self.known.presence(&id), Presence::Present(record));
        }
        assert_eq!(self.known.position(), Some(self.fake.position()));
    }
}

fn set(fake: &FakeCatalog, n: usize, timeout: &str) {
    fake.set(ServiceRecord {
        id: id(n).to_string(),
        timeout: Some(timeout.to_owned()),
        ..Default::default()
    });
}

#[tokio::test(start_paused = true)]
async fn it_lists_once_and_from_then_on_a_change_costs_one_read() {
    let scene = Scene::with(1_000).await;
    let calls = scene.fake.calls();
    assert_eq!(
        (calls.list_services, calls.get_service, calls.subscribe),
        (1, 0, 1)
    );
    scene.set(7, "2s");
    assert_eq!(scene.known.changed().await, [id(7)].into());
    scene.fake.remove("s8");
    assert_eq!(scene.known.changed().await, [id(8)].into());
    assert!(matches!(
        scene.known.presence(&id(8)),
        Presence::Absent { .. }
    ));
    assert_eq!(scene.asked(), (1, 0, 0));
    scene.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn at_rest_it_asks_for_nothing() {
    let scene = Scene::with(1_000).await;
    pass(Duration::from_secs(600)).await;
    assert!(scene.known.is_live());
    assert_eq!(scene.asked(), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_many_costs_a_list_for_each_hundred() {
    for (many, most) in [(1_000, 10), (300, 3), (101, 1)] {
        let scene = Scene::with(1_000).await;
        scene.fake.delay(Duration::from_millis(20));
        for n in 0..many {
            scene.set(n, "2s");
        }
        millis(2_000).await;
        let (gets, lists, _) = scene.asked();
        // The first goes alone, before the others were heard of; they fill the
        // lists.
        assert!(
            gets <= 1 && lists <= most,
            "{many}: {gets} gets and {lists} lists"
        );
        scene.fake.delay(Duration::ZERO);
        scene.agrees().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_changed_without_a_word_is_found_by_a_list_every_few_hours() {
    let scene = Scene::with(10).await;
    scene.fake.slip("s3", |record| {
        record.timeout = Some("2s".to_owned());
        true
    });
    scene.fake.slip("s4", |_| false);
    pass(SWEEP.mul_f64(0.8)).await;
    assert_eq!(scene.asked(), (0, 0, 0));
    pass(SWEEP.mul_f64(0.4)).await;
    assert_eq!(scene.asked(), (0, 1, 0));
    // What is as it was concerns nobody.
    assert_eq!(scene.known.changed().await, [id(3), id(4)].into());
    assert!(matches!(
        scene.known.presence(&id(4)),
        Presence::Absent { .. }
    ));
    scene.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_day_costs_few_lists_and_one_that_fails_is_taken_again() {
    let scene = Scene::with(10).await;
    pass(4 * SWEEP).await;
    let lists = scene.asked().1;
    assert!((3..=4).contains(&lists), "{lists}");
    scene.fake.away(Some(away()));
    pass(2 * SWEEP).await;
    scene.fake.away(None);
    let lists = scene.asked().1;
    pass(Duration::from_secs(60)).await;
    assert_eq!(scene.asked().1, lists + 1);
}

#[tokio::test(start_paused = true)]
async fn one_service_that_never_rests_is_read_every_300_ms_and_delays_no_other() {
    let scene = Scene::with(2).await;
    scene.fake.delay(Duration::from_millis(5));
    for n in 0..3_000 {
        scene.set(0, &format!("{n}ms"));
        if n == 1_500 {
            scene.set(1, "2s");
        }
        if n == 1_520 {
            let Presence::Present(record) = scene.known.presence(&id(1)) else {
                panic!("the quiet one waits for the other");
            };
            assert_eq!(record.timeout.as_deref(), Some("2s"));
        }
        millis(1).await;
    }
    let (gets, lists, _) = scene.asked();
    assert!(
        (8..=13).contains(&(gets + lists)),
        "{gets} gets and {lists} lists"
    );
    scene.fake.delay(Duration::ZERO);
    millis(300).await;
    scene.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_resumed_within_a_second_and_nothing_is_listed() {
    let scene = Scene::with(10).await;
    for n in 0..20 {
        // Each connection was a good one.
        pass(GOOD_AFTER).await;
        scene.fake.cut_streams();
        scene.set(n % 10, &format!("{n}ms"));
        scene.fake.remove(&format!("s{}", (n + 5) % 10));
        millis(1_000).await;
        scene.agrees().await;
    }
    let (_, lists, streams) = scene.asked();
    // Those that this test itself takes, to compare.
    assert_eq!((lists, streams), (20, 20));
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_given_up_and_resumed() {
    let scene = Scene::with(10).await;
    scene.fake.silence_streams(true);
    scene.set(3, "2s");
    pass(Duration::from_secs(26)).await;
    assert!(!scene.known.is_live());
    scene.fake.silence_streams(false);
    scene.agrees().await;
    assert!(scene.asked().2 <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_reset_costs_one_list_and_tells_what_differs() {
    let scene = Scene::with(10).await;
    scene.fake.silence_streams(true);
    scene.set(3, "2s");
    scene.fake.remove("s4");
    scene.fake.forget_history();
    scene.fake.silence_streams(false);
    scene.fake.cut_streams();
    assert_eq!(scene.known.changed().await, [id(3), id(4)].into());
    assert_eq!(scene.asked(), (0, 1, 1));
    scene.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_epoch_and_a_rewound_catalog_cost_one_list_each() {
    let scene = Scene::with(10).await;
    scene.fake.new_epoch();
    millis(100).await;
    assert_eq!(scene.asked(), (0, 1, 0));
    scene.agrees().await;
    pass(Duration::from_secs(60)).await;
    scene.set(1, "2s");
    millis(100).await;
    let lists = scene.asked().1;
    scene.fake.rewind(4);
    millis(1_000).await;
    assert_eq!(scene.asked().1, lists + 1);
    scene.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn events_that_are_told_twice_left_out_or_out_of_order_end_in_what_is_true() {
    let scene = Scene::with(10).await;
    let position = |revision| CatalogPosition {
        epoch: scene.fake.position().epoch,
        revision,
    };
    let events = [
        (10, EventKind::Updated(id(1))),
        (10, EventKind::Updated(id(1))),
        // Registered, updated, deregistered and listed in no order at all; none
        // of it is true.
        (14, EventKind::Deregistered(id(2))),
        (12, EventKind::Updated(id(3))),
        (13, EventKind::Deregistered(id(4))),
        (2, EventKind::Bookmark),
        (99, EventKind::Other),
    ];
    for (revision, kind) in events {
        scene.fake.say(CatalogEvent {
            position: position(revision),
            kind,
        });
        millis(50).await;
    }
    scene.fake.cut_streams();
    pass(Duration::from_secs(60)).await;
    let (gets, lists, _) = scene.asked();
    assert!(gets <= 10 && lists <= 5, "{gets} gets and {lists} lists");
    scene.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_changes_nothing_and_is_taken_again() {
    let scene = Scene::with(10).await;
    scene.fake.delay(Duration::from_millis(200));
    scene.fake.forget_all();
    // As when the second page of it does not come.
    scene.fake.fail_next(3, away());
    scene.fake.new_epoch();
    millis(100).await;
    assert!(!scene.known.is_live());
    for _ in 0..3 {
        assert_eq!(scene.known.records().len(), 10);
        assert!(scene.known.listed_nothing_at(&id(3)).is_none());
        millis(200).await;
    }
    scene.known.live().await;
    assert!(scene.known.listed_nothing_at(&id(3)).is_some());
    assert!(
        matches!(scene.known.presence(&id(3)), Presence::Absent { since } if since.epoch == "1")
    );
    assert_eq!(scene.asked().1, 4);
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_without_a_catalog_one_list_or_one_stream_catches_up() {
    for resumable in [true, false] {
        let scene = Scene::with(1_000).await;
        scene.fake.away(Some(away()));
        scene.set(1, "2s");
        scene.fake.remove("s2");
        pass(Duration::from_secs(600)).await;
        assert!(!scene.known.is_live());
        assert_eq!(scene.known.records().len(), 1_000);
        let (gets, lists, streams) = scene.asked();
        assert_eq!((gets, lists), (0, 0));
        // Full jitter below 3 s: one in 1.5 s on the average.
        assert!((200..=500).contains(&streams), "{streams}");
        if !resumable {
            scene.fake.forget_history();
        }
        scene.fake.away(None);
        let back = Instant::now();
        scene.agrees().await;
        assert!(back.elapsed() < Duration::from_secs(5));
        let (gets, listed, opened) = scene.asked();
        // One list is this test's own.
        let caught_up = (gets, listed - 1, opened - streams);
        assert_eq!(caught_up, if resumable { (1, 0, 1) } else { (0, 1, 1) });
    }
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_was_never_there_is_tried_every_few_seconds_and_then_listed() {
    let fake = Arc::new(FakeCatalog::new());
    set(&fake, 1, "1s");
    fake.away(Some(away()));
    let scene = Scene::over(fake);
    scene.known.started().await;
    pass(Duration::from_secs(600)).await;
    let (gets, lists, streams) = scene.asked();
    assert_eq!((gets, streams), (0, 0));
    assert!((200..=500).contains(&lists), "{lists}");
    assert_eq!(scene.known.presence(&id(1)), Presence::Unknown);
    scene.fake.away(None);
    let back = Instant::now();
    scene.agrees().await;
    assert!(back.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn who_waited_in_vain_does_not_wait_again_before_the_next_try() {
    let fake = Arc::new(FakeCatalog::new());
    fake.away(Some(away()));
    fake.delay(Duration::from_secs(10));
    let scene = Scene::over(fake);
    pass(Duration::from_secs(605)).await;
    assert_eq!(scene.asked().1, 61);
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_asks_for_peace_gets_it() {
    let scene = Scene::with(10).await;
    scene.fake.away(Some(CatalogError::RateLimited {
        retry_after: Duration::from_secs(60),
        message: "status 429".to_owned(),
    }));
    pass(Duration::from_secs(600)).await;
    assert!((8..=11).contains(&scene.asked().2), "{:?}", scene.asked());
}

#[tokio::test(start_paused = true)]
async fn a_read_that_fails_is_made_again_and_what_it_was_for_stays_unknown() {
    let scene = Scene::with(10).await;
    scene.fake.fail_next(3, away());
    scene.set(1, "2s");
    millis(100).await;
    assert_eq!(scene.known.presence(&id(1)), Presence::Unknown);
    assert!(scene.known.is_live());
    assert_eq!(scene.known.changed().await, [id(1)].into());
    assert_eq!(scene.asked(), (4, 0, 0));
    scene.agrees().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_denied_to_somebody_is_looked_for_in_a_list() {
    let scene = Scene::with(10).await;
    // As a catalog that lost a service without a word.
    scene.fake.forget_all();
    pass(Duration::from_secs(60)).await;
    assert!(matches!(scene.known.presence(&id(1)), Presence::Present(_)));
    join_all((0..10).map(async |n| scene.known.denied(&id(n)))).await;
    assert_eq!(scene.known.changed().await.len(), 10);
    assert!(matches!(
        scene.known.presence(&id(1)),
        Presence::Absent { .. }
    ));
    assert_eq!(scene.asked(), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_never_says_anything_does_not_keep_it_from_listing() {
    let scene = Scene::with(10).await;
    scene.fake.silence_streams(true);
    scene.set(1, "2s");
    pass(Duration::from_secs(200)).await;
    let Presence::Present(record) = scene.known.presence(&id(1)) else {
        panic!("it is stuck");
    };
    assert_eq!(record.timeout.as_deref(), Some("2s"));
    assert!(!scene.known.is_live());
}

#[tokio::test(start_paused = true)]
async fn how_old_and_how_far_behind_what_is_known_is_can_be_told() {
    let scene = Scene::with(10).await;
    let age = || scene.known.heard_ago().unwrap();
    for _ in 0..60 {
        pass(Duration::from_secs(1)).await;
        assert!(age() <= Duration::from_secs(10), "{:?}", age());
    }
    assert_eq!(scene.known.unread(), 0);
    scene.fake.lag(true);
    scene.set(3, "2s");
    pass(Duration::from_secs(60)).await;
    assert_eq!(scene.known.unread(), 1);
    scene.fake.lag(false);
    scene.fake.silence_streams(true);
    pass(Duration::from_secs(20)).await;
    assert!(age() >= Duration::from_secs(20), "{:?}", age());
}
