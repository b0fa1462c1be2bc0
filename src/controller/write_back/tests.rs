//! Is the catalog told what it should be, when it should be, and nothing
//! else? In paused time, over a catalog in memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::endpoints::Listing;
use super::sender::{Sender, Surroundings};
use super::*;
use crate::catalog::Catalog;
use crate::catalog::error::CatalogError;
use crate::catalog::fake::FakeCatalog;
use crate::catalog::gated::Gated;
use crate::catalog::patient::Patience;
use crate::catalog::report::{Endpoint, EndpointReport};
use crate::controller::leadership::Leadership;
use crate::domain::names::{ClusterId, Namespace, ServiceKey, ServiceName};
use crate::domain::record::ServiceRecord;
use crate::metrics::Metrics;

const CLUSTER: &str = "east";
/// Calls that the catalog takes in a second.
const CALLS: u32 = 100;
const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// What the rest of the operator knows, as tests would have it.
#[derive(Default)]
struct Cluster {
    /// Service → addresses of its endpoints, the last byte of each.
    serving: Mutex<HashMap<String, Vec<u8>>>,
    paused: AtomicBool,
    history: Mutex<Option<u64>>,
    rival_changed: AtomicUsize,
}

impl Surroundings for Cluster {
    fn listing(&self, service: &Id) -> Listing {
        let serving = self.serving.lock().unwrap();
        let endpoint = |last: &u8| Endpoint {
            address: [10, 0, 0, *last].into(),
            port: 8080,
            zone: None,
            ready: true,
        };
        let endpoints = serving.get(&service.1).into_iter().flatten();
        Listing {
            endpoints: endpoints.map(endpoint).collect(),
            left_out: 0,
        }
    }

    fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    fn history(&self) -> Option<u64> {
        *self.history.lock().unwrap()
    }

    fn rival_changed(&self) {
        self.rival_changed.fetch_add(1, Ordering::Relaxed);
    }
}

/// An operator's write-back at work.
struct Scene {
    fake: Arc<Gated<Patience, FakeCatalog>>,
    cluster: Arc<Cluster>,
    write_back: Arc<WriteBack>,
    leadership: Leadership,
    metrics: Metrics,
    task: JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    /// A catalog with these services, and nothing claimed.
    fn start(services: &[&str]) -> Self {
        let fake = FakeCatalog::new();
        for name in services {
            fake.set(ServiceRecord {
                id: id(name).to_string(),
                ..ServiceRecord::default()
            });
        }
        Self::beside(Arc::new(Gated::new(Patience::default(), fake)), 1)
    }

    fn beside(fake: Arc<Gated<Patience, FakeCatalog>>, epoch: u64) -> Self {
        let cluster = Arc::<Cluster>::default();
        let write_back = Arc::new(WriteBack::new(CALLS));
        let leadership = Leadership::granted(epoch);
        let metrics = Metrics::new().unwrap();
        let sender = Sender {
            write_back: Arc::clone(&write_back),
            catalog: Arc::clone(&fake) as Arc<dyn Catalog>,
            cluster: ClusterId::parse(CLUSTER).unwrap(),
            leadership: leadership.clone(),
            surroundings: Arc::clone(&cluster) as Arc<dyn Surroundings>,
            metrics: metrics.clone(),
        };
        Self {
            task: tokio::spawn(sender.run()),
            fake,
            cluster,
            write_back,
            leadership,
            metrics,
        }
    }

    fn catalog(&self) -> &FakeCatalog {
        &self.fake.inner
    }

    /// A look at the binding of that name found all to be well.
    fn look(&self, name: &str) {
        self.look_at(name, Some(1));
    }

    /// The same, where the catalog's service came then.
    fn look_at(&self, name: &str, came: Option<u64>) {
        self.write_back.claim(&key(name), &target(name), came);
    }

    /// These serve from now on, and the watch says so.
    fn serve(&self, name: &str, addresses: &[u8]) {
        let mut serving = self.cluster.serving.lock().unwrap();
        serving.insert(name.to_owned(), addresses.to_vec());
        drop(serving);
        let service = ("shop".to_owned(), name.to_owned());
        self.write_back.touched(&[service].into());
    }

    /// What the catalog was told, as `web 1 2`.
    fn told(&self) -> Vec<String> {
        let line = |report: &EndpointReport| {
            let last = report.endpoints.iter().map(|e| match e.address {
                IpAddr::V4(address) => format!(" {}", address.octets()[3]),
                IpAddr::V6(address) => address.to_string(),
            });
            let name = report.service_id.trim_start_matches("id-");
            format!("{name}{}", last.collect::<String>())
        };
        let reports = self.catalog().endpoint_reports();
        reports.iter().map(|(_, report)| line(report)).collect()
    }

    fn requests(&self) -> usize {
        let calls = self.catalog().calls();
        calls.report_endpoints + calls.report_health
    }

    /// Every request fails for that long.
    async fn outage(&self, span: Duration) {
        let before = self.requests();
        let away = CatalogError::unavailable("away");
        self.catalog().away(Some(away));
        sleep(span).await;
        self.catalog().away(None);
        let tries = self.requests() - before;
        let most = usize::try_from(span.as_secs()).unwrap() + 10;
        assert!(tries <= most, "{tries} tries in {span:?}");
    }

    fn metric(&self, line: &str) -> bool {
        self.write_back.count(&self.metrics.reports);
        let text = self.metrics.exposition().unwrap();
        text.lines().any(|known| known == line)
    }
}

fn id(name: &str) -> CatalogServiceId {
    CatalogServiceId::parse(&format!("id-{name}")).unwrap()
}

fn key(name: &str) -> BindingKey {
    BindingKey::new("shop", name.to_owned())
}

fn target(name: &str) -> Target {
    Target {
        catalog_id: id(name),
        service: ServiceKey {
            namespace: Namespace::parse("shop").unwrap(),
            name: ServiceName::parse(name).unwrap(),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_at_once_and_a_burst_as_one_more_with_the_latest_state() {
    let scene = Scene::start(&["web"]);
    scene.serve("web", &[1]);
    scene.look("web");
    sleep(MS).await;
    assert_eq!(scene.told(), ["web 1"]);
    sleep(SECOND).await;
    for last in 2..100 {
        scene.serve("web", &[1, last]);
        sleep(MS).await;
    }
    assert_eq!(scene.told(), ["web 1", "web 1 2"]);
    sleep(SECOND).await;
    assert_eq!(scene.told(), ["web 1", "web 1 2", "web 1 99"]);
}

// trap 18
#[tokio::test(start_paused = true)]
async fn a_service_that_changes_all_the_time_is_told_every_300_ms() {
    let scene = Scene::start(&["web"]);
    scene.look("web");
    for n in 0..10_000_u32 {
        scene.serve("web", &[u8::try_from(n % 250).unwrap()]);
        sleep(MS).await;
    }
    let told = scene.told().len();
    assert!((30..=35).contains(&told), "{told} in 10 s");
}

#[tokio::test(start_paused = true)]
async fn at_rest_nothing_is_sent_and_a_new_leader_tells_each_service_once() {
    let names: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let first = Scene::start(&names);
    for name in &names {
        first.serve(name, &[1]);
        first.look(name);
    }
    sleep(MINUTE).await;
    assert_eq!(first.requests(), 50);
    for _ in 0..10 {
        names.iter().for_each(|name| first.look(name));
        sleep(MINUTE).await;
    }
    assert_eq!(first.requests(), 50, "looks that find nothing new");

    let second = Scene::beside(Arc::clone(&first.fake), 2);
    drop(first);
    for name in &names {
        second.serve(name, &[1]);
        second.look(name);
    }
    sleep(MINUTE).await;
    assert_eq!(second.requests(), 100);
    sleep(10 * MINUTE).await;
    assert_eq!(second.requests(), 100);
}

#[tokio::test(start_paused = true)]
async fn what_is_told_again_takes_a_third_of_the_calls_and_news_does_not_wait_behind_it() {
    let names: Vec<String> = (0..1_000).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let scene = Scene::start(&names);
    scene.catalog().delay(5 * MS);
    names.iter().for_each(|name| scene.look(name));
    sleep(3 * SECOND).await;
    let told = scene.requests();
    assert!(
        (95..=101).contains(&told),
        "{told} of {CALLS} a second in 3 s"
    );
    scene.serve("s999", &[7]);
    sleep(50 * MS).await;
    assert!(scene.told().contains(&"s999 7".to_owned()));
    sleep(30 * SECOND).await;
    assert_eq!(scene.requests(), 1_000);
    assert!(scene.catalog().calls().most_at_once <= 4);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_latest_of_each_is_delivered_within_seconds() {
    let names: Vec<String> = (0..500).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let scene = Scene::start(&names);
    names.iter().for_each(|name| scene.look(name));
    sleep(MINUTE).await;
    scene.catalog().delay(5 * MS);
    let before = scene.told().len();
    let changes = async {
        for last in 1..=100 {
            names.iter().for_each(|name| scene.serve(name, &[last]));
            sleep(5 * SECOND).await;
        }
    };
    tokio::join!(scene.outage(10 * MINUTE), changes);
    assert_eq!(scene.told().len(), before);
    sleep(5 * SECOND).await;
    let mut told = scene.told().split_off(before);
    told.sort_unstable();
    let mut wanted: Vec<_> = names.iter().map(|name| format!("{name} 100")).collect();
    wanted.sort_unstable();
    assert_eq!(told, wanted);
    sleep(2 * SECOND).await;
    assert!(scene.metric("catalog_mesh_reports_pending{kind=\"endpoints\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn how_much_the_catalog_lacks_and_for_how_long_is_counted() {
    let scene = Scene::start(&["a", "b"]);
    scene.look("a");
    scene.look("b");
    scene.outage(MINUTE).await;
    assert!(scene.metric("catalog_mesh_reports_pending{kind=\"endpoints\"} 2"));
    let text = scene.metrics.exposition().unwrap();
    let age = text
        .lines()
        .find_map(|line| line.strip_prefix("catalog_mesh_reports_oldest_seconds "))
        .unwrap();
    let age: f64 = age.parse().unwrap();
    assert!((55.0..=61.0).contains(&age), "{age}");
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_hangs_keeps_three_requests_and_one_place_for_news() {
    let scene = Scene::start(&["a", "b", "c", "d"]);
    scene.catalog().delay(60 * MINUTE);
    for name in ["a", "b", "c", "d"] {
        scene.look(name);
    }
    // The catalog's client has a deadline of its own, which the fake lacks.
    sleep(10 * SECOND).await;
    assert_eq!(
        scene.catalog().calls().most_at_once,
        3,
        "one place is for news"
    );
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_asks_for_peace_is_left_alone() {
    let scene = Scene::start(&["a", "b"]);
    let wait = CatalogError::RateLimited {
        retry_after: MINUTE,
        message: "status 429".to_owned(),
    };
    scene.catalog().fail_next(1, wait);
    scene.look("a");
    sleep(SECOND).await;
    scene.look("b");
    sleep(58 * SECOND).await;
    assert_eq!(scene.requests(), 1);
    sleep(3 * SECOND).await;
    assert_eq!(scene.told().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_the_catalog_refuses_is_told_again_when_it_changes_and_holds_up_nobody() {
    let scene = Scene::start(&["bad", "good"]);
    scene.catalog().refuse_reports("id-bad", "no");
    for _ in 0..10 {
        scene.look("bad");
        scene.look("good");
        sleep(30 * SECOND).await;
    }
    assert_eq!(scene.told(), ["bad", "good"]);
    scene.serve("bad", &[1]);
    scene.serve("good", &[1]);
    sleep(SECOND).await;
    assert_eq!(scene.told().len(), 4);
    assert!(scene.metric("catalog_mesh_reports_total{kind=\"endpoints\",outcome=\"invalid\"} 2"));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_went_is_dropped_and_told_again_when_it_is_back() {
    let scene = Scene::start(&["web"]);
    scene.catalog().remove("id-web");
    scene.look("web");
    sleep(MINUTE).await;
    assert_eq!(scene.requests(), 1);
    // A look that finds it gone, and later one that finds it again.
    scene.write_back.forget(&key("web"));
    sleep(MINUTE).await;
    assert!(scene.write_back.state().is_empty());
    scene.catalog().set(ServiceRecord {
        id: id("web").to_string(),
        ..ServiceRecord::default()
    });
    scene.look_at("web", Some(9));
    sleep(SECOND).await;
    assert_eq!(scene.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_came_anew_and_a_history_that_began_anew_are_told_again() {
    let scene = Scene::start(&["a", "b"]);
    *scene.cluster.history.lock().unwrap() = Some(1);
    scene.look("a");
    scene.look("b");
    sleep(MINUTE).await;
    assert_eq!(scene.requests(), 2);
    scene.look_at("a", Some(2));
    sleep(MINUTE).await;
    assert_eq!(scene.told(), ["a", "b", "a"]);
    // Where nothing is known of that, nothing has changed.
    scene.look_at("a", None);
    scene.look_at("a", Some(2));
    sleep(MINUTE).await;
    assert_eq!(scene.requests(), 3);
    // A pause of the stream is no other history.
    *scene.cluster.history.lock().unwrap() = None;
    sleep(MINUTE).await;
    *scene.cluster.history.lock().unwrap() = Some(1);
    sleep(MINUTE).await;
    assert_eq!(scene.requests(), 3);
    *scene.cluster.history.lock().unwrap() = Some(2);
    sleep(MINUTE).await;
    assert_eq!(scene.requests(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_goes_withdraws_its_endpoints_and_leaves_nothing_behind() {
    let scene = Scene::start(&["web"]);
    scene.serve("web", &[1, 2]);
    scene.look("web");
    sleep(SECOND).await;
    scene.write_back.release(&key("web"));
    sleep(2 * SECOND).await;
    assert_eq!(scene.told(), ["web 1 2", "web"]);
    scene.serve("web", &[3]);
    sleep(MINUTE).await;
    assert_eq!(scene.told().len(), 2);
    assert!(scene.write_back.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_outlasts_an_outage_and_memory_is_bounded_meanwhile() {
    let names: Vec<String> = (0..100).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let scene = Scene::start(&names);
    for name in &names {
        scene.serve(name, &[1]);
        scene.look(name);
    }
    sleep(MINUTE).await;
    let before = scene.told().len();
    let churn = async {
        for _ in 0..200 {
            for name in &names {
                scene.write_back.release(&key(name));
                scene.look(name);
                scene.write_back.release(&key(name));
            }
            assert!(scene.write_back.state().services.len() <= 100);
            sleep(SECOND).await;
        }
    };
    tokio::join!(scene.outage(5 * MINUTE), churn);
    sleep(5 * SECOND).await;
    let told = scene.told().split_off(before);
    assert_eq!(told.len(), 100);
    assert!(told.iter().all(|line| !line.contains(' ')), "{told:?}");
    assert!(scene.write_back.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_takes_over_at_once_withdraws_nothing() {
    let scene = Scene::start(&["web"]);
    scene.serve("web", &[1]);
    scene.look("web");
    sleep(SECOND).await;
    scene.write_back.release(&key("web"));
    sleep(500 * MS).await;
    scene
        .write_back
        .claim(&key("heir"), &target("web"), Some(1));
    sleep(MINUTE).await;
    assert_eq!(scene.told(), ["web 1"]);
    scene.serve("web", &[2]);
    sleep(SECOND).await;
    assert_eq!(scene.told(), ["web 1", "web 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_names_another_entry_moves_its_endpoints_there() {
    let scene = Scene::start(&["old", "new"]);
    scene.serve("old", &[1]);
    scene.look("old");
    sleep(SECOND).await;
    let moved = Target {
        catalog_id: id("new"),
        ..target("old")
    };
    scene.write_back.claim(&key("old"), &moved, Some(1));
    sleep(2 * SECOND).await;
    assert_eq!(scene.told(), ["old 1", "new 1", "old"]);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_binding_says_nothing_until_it_thaws_and_nothing_when_it_goes() {
    let scene = Scene::start(&["web"]);
    scene.serve("web", &[1]);
    scene.look("web");
    sleep(SECOND).await;
    scene.write_back.hold(&key("web"));
    scene.serve("web", &[2]);
    sleep(MINUTE).await;
    assert_eq!(scene.told(), ["web 1"]);
    assert!(scene.metric("catalog_mesh_reports_pending{kind=\"endpoints\"} 0"));
    scene.look("web");
    sleep(SECOND).await;
    assert_eq!(scene.told(), ["web 1", "web 2"]);
    scene.write_back.hold(&key("web"));
    scene.write_back.release(&key("web"));
    sleep(MINUTE).await;
    assert_eq!(scene.told(), ["web 1", "web 2"]);
    assert!(scene.write_back.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn where_everything_is_paused_nothing_is_sent() {
    let scene = Scene::start(&["web"]);
    scene.cluster.paused.store(true, Ordering::Relaxed);
    scene.look("web");
    sleep(MINUTE).await;
    assert_eq!(scene.requests(), 0);
    scene.cluster.paused.store(false, Ordering::Relaxed);
    sleep(2 * SECOND).await;
    assert_eq!(scene.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_lease_was_made_anew_moves_above_the_catalog() {
    let scene = Scene::start(&["a", "b"]);
    scene.catalog().overtake(CLUSTER, 9, 70);
    scene.serve("a", &[1]);
    scene.look("a");
    scene.look("b");
    sleep(5 * SECOND).await;
    assert_eq!(scene.leadership.epoch(), Some(10));
    let taken = scene.catalog().taken_endpoints(CLUSTER);
    assert_eq!(taken.get("id-a"), Some(&1));
    assert!(!scene.write_back.has_rival());
    let requests = scene.requests();
    assert!(requests <= 4, "{requests}");
    sleep(MINUTE).await;
    assert_eq!(scene.requests(), requests);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_overtaken_stops_for_its_term_and_says_so() {
    for (epoch, sequence) in [(4, 1), (1, 1 << 40)] {
        let scene = Scene::start(&["a", "b"]);
        scene.look("a");
        scene.look("b");
        sleep(SECOND).await;
        scene.catalog().overtake(CLUSTER, epoch, sequence);
        scene.serve("a", &[1]);
        sleep(SECOND).await;
        let requests = scene.requests();
        assert!(scene.write_back.has_rival(), "{epoch} {sequence}");
        assert_eq!(scene.cluster.rival_changed.load(Ordering::Relaxed), 1);
        assert!(scene.metric("catalog_mesh_duplicate_writer 1"));
        scene.serve("b", &[2]);
        scene.look("a");
        sleep(10 * MINUTE).await;
        assert_eq!(scene.requests(), requests);
        assert_eq!(scene.leadership.epoch(), Some(1), "it does not fight");
        // The next term finds out anew.
        scene.leadership.raise_epoch(epoch).await.unwrap();
        sleep(5 * SECOND).await;
        assert!(!scene.write_back.has_rival());
        assert!(scene.metric("catalog_mesh_duplicate_writer 0"));
        assert_eq!(scene.catalog().taken_endpoints(CLUSTER)["id-b"], 1);
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_other_operator_of_this_cluster_is_gone_reports_go_on_above_it() {
    let scene = Scene::start(&["a"]);
    scene.look("a");
    sleep(SECOND).await;
    let key = key("a");
    assert_eq!(scene.write_back.rival(&key, false), None);
    scene.catalog().overtake(CLUSTER, 4, 1);
    scene.serve("a", &[1]);
    sleep(SECOND).await;
    // What is said in the status the other takes back, twice.
    for again in [5, 10] {
        assert!(scene.write_back.rival(&key, false).is_some());
        scene.write_back.told_of_rival(&key);
        assert_eq!(scene.write_back.rival(&key, false), None);
        sleep(again * SECOND).await;
    }
    assert!(scene.write_back.rival(&key, false).is_some());
    scene.write_back.told_of_rival(&key);
    sleep(29 * SECOND).await;
    assert!(scene.write_back.rival(&key, true).is_some());
    assert!(scene.write_back.has_rival());
    let requests = scene.requests();
    sleep(SECOND).await;
    assert_eq!(scene.requests(), requests);
    // Nobody takes it back any more.
    assert_eq!(scene.write_back.rival(&key, true), None);
    sleep(5 * SECOND).await;
    assert!(!scene.write_back.has_rival());
    assert!(scene.metric("catalog_mesh_duplicate_writer 0"));
    assert_eq!(scene.leadership.epoch(), Some(5));
    assert_eq!(scene.catalog().taken_endpoints(CLUSTER)["id-a"], 1);
    // Whoever comes later is found as the first was.
    scene.catalog().overtake(CLUSTER, 9, 1);
    scene.serve("a", &[1, 2]);
    sleep(SECOND).await;
    assert!(scene.write_back.has_rival());
}

#[tokio::test(start_paused = true)]
async fn two_operators_with_one_identity_are_not_both_writing_for_long() {
    let first = Scene::start(&["a"]);
    first.look("a");
    sleep(SECOND).await;
    let second = Scene::beside(Arc::clone(&first.fake), 1);
    second.serve("a", &[2]);
    second.look("a");
    sleep(5 * SECOND).await;
    for n in 0..20 {
        first.serve("a", &[n]);
        second.serve("a", &[100 + n]);
        sleep(5 * SECOND).await;
    }
    let stopped = [&first, &second].map(|scene| scene.write_back.has_rival());
    assert_eq!(stopped, [true, false]);
    let requests = first.requests();
    for n in 0..20 {
        first.serve("a", &[50 + n]);
        sleep(5 * SECOND).await;
    }
    assert_eq!(first.requests(), requests);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_that_could_not_be_delivered_is_left_to_the_next_leader() {
    let scene = Scene::start(&["gone", "back"]);
    for name in ["gone", "back"] {
        scene.serve(name, &[1]);
        scene.look(name);
    }
    sleep(SECOND).await;
    let away = CatalogError::unavailable("away");
    scene.catalog().away(Some(away));
    scene.write_back.release(&key("gone"));
    scene.write_back.release(&key("back"));
    sleep(SECOND).await;
    assert_eq!(scene.leadership.noted(noted::NOTE), None, "not at once");
    sleep(3 * SECOND).await;
    let note = scene.leadership.noted(noted::NOTE);
    assert_eq!(note.as_deref(), Some("id-back id-gone"));
    scene.catalog().away(None);
    scene.task.abort();

    let heir = Scene::beside(Arc::clone(&scene.fake), 2);
    heir.leadership
        .note(noted::NOTE, note.unwrap())
        .await
        .unwrap();
    heir.serve("back", &[1]);
    heir.look("back");
    let before = scene.told().len();
    sleep(MINUTE).await;
    assert_eq!(heir.told().split_off(before), ["back 1", "gone"]);
    sleep(10 * SECOND).await;
    assert_eq!(heir.leadership.noted(noted::NOTE).as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_came_anew_while_its_report_was_under_way_is_told_again() {
    let scene = Scene::start(&["web"]);
    scene.catalog().delay(5 * SECOND);
    scene.look("web");
    sleep(SECOND).await;
    // Its owner took it out and registered it again; what the catalog took may
    // have gone with the old one.
    scene.look_at("web", Some(2));
    sleep(MINUTE).await;
    assert_eq!(scene.told(), ["web", "web"]);
}

#[tokio::test(start_paused = true)]
async fn news_without_end_does_not_keep_the_others_waiting_for_ever() {
    let flapping: Vec<String> = (0..60).map(|n| format!("s{n}")).collect();
    let mut names: Vec<&str> = flapping.iter().map(String::as_str).collect();
    names.push("quiet");
    let scene = Scene::start(&names);
    // Four at once make 50 in a second, which is fewer than there are news.
    scene.catalog().delay(80 * MS);
    names.iter().for_each(|name| scene.look(name));
    for n in 0..100 {
        for name in &flapping {
            scene.serve(name, &[n]);
        }
        sleep(100 * MS).await;
    }
    assert!(scene.told().contains(&"quiet".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_is_bound_anew_during_an_outage_is_not_withdrawn_when_it_ends() {
    let scene = Scene::start(&["web", "other", "gone"]);
    for name in ["web", "other", "gone"] {
        scene.serve(name, &[1]);
        scene.look(name);
    }
    sleep(SECOND).await;
    let before = scene.told().len();
    let again = async {
        for name in ["web", "other", "gone"] {
            scene.write_back.release(&key(name));
        }
        for _ in 0..60 {
            // The catalog does not say whether it is their service's.
            for name in ["web", "other"] {
                scene.write_back.undecided(&key(name), &target(name));
            }
            sleep(SECOND).await;
        }
    };
    tokio::join!(scene.outage(MINUTE), again);
    sleep(5 * SECOND).await;
    assert_eq!(scene.told().split_off(before), ["gone"]);
    // Now it does: one is, the other is not.
    scene.look("web");
    scene.write_back.release(&key("other"));
    sleep(MINUTE).await;
    assert_eq!(scene.told().split_off(before), ["gone", "other"]);
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_without_a_catalog_under_five_leaders_end_in_one_report_of_each() {
    let names: Vec<String> = (0..20).map(|n| format!("s{n}")).collect();
    let (gone, bound) = names.split_first().unwrap();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut scene = Scene::start(&all);
    for name in &names {
        scene.serve(name, &[1]);
        scene.look(name);
    }
    sleep(MINUTE).await;
    let away = CatalogError::unavailable("away");
    scene.catalog().away(Some(away));
    let before = (scene.told().len(), scene.requests());
    // Of two that are deleted, one is bound anew.
    scene.write_back.release(&key(gone));
    scene.write_back.release(&key(&bound[0]));
    sleep(5 * SECOND).await;
    for epoch in 2..=6 {
        let note = scene.leadership.noted(noted::NOTE).unwrap();
        scene = Scene::beside(Arc::clone(&scene.fake), epoch);
        let noted = scene.leadership.note(noted::NOTE, note);
        noted.await.unwrap();
        for _ in 0..12 {
            for name in bound {
                scene.serve(name, &[u8::try_from(epoch).unwrap()]);
                scene.write_back.undecided(&key(name), &target(name));
            }
            sleep(10 * SECOND).await;
        }
    }
    let tries = scene.requests() - before.1;
    assert!(tries <= 610, "{tries} tries");
    scene.catalog().away(None);
    bound.iter().for_each(|name| scene.look(name));
    sleep(5 * SECOND).await;
    let mut told = scene.told().split_off(before.0);
    told.sort();
    let mut wanted: Vec<_> = bound.iter().map(|name| format!("{name} 6")).collect();
    wanted.push(gone.clone());
    wanted.sort();
    assert_eq!(told, wanted);
}

#[tokio::test(start_paused = true)]
async fn what_was_noted_waits_its_time_also_where_the_catalog_is_away() {
    let scene = Scene::start(&["web", "other"]);
    scene.look("other");
    sleep(SECOND).await;
    scene.write_back.state().take_over("id-web", Instant::now());
    scene.serve("other", &[1]);
    scene.outage(10 * SECOND).await;
    sleep(5 * SECOND).await;
    assert_eq!(scene.told(), ["other", "other 1"]);
    sleep(MINUTE).await;
    assert_eq!(scene.told(), ["other", "other 1", "web"]);
}

#[tokio::test(start_paused = true)]
async fn who_lets_go_of_the_lease_leaves_every_withdrawal_to_the_next_leader() {
    let scene = Scene::start(&["web", "api"]);
    for name in ["web", "api"] {
        scene.serve(name, &[1]);
        scene.look(name);
    }
    sleep(SECOND).await;
    scene.write_back.release(&key("web"));
    scene.write_back.bequeath(&scene.leadership).await;
    let note = || scene.leadership.noted(noted::NOTE);
    assert_eq!(note().as_deref(), Some("id-web"));
    scene
        .catalog()
        .away(Some(CatalogError::unavailable("away")));
    sleep(10 * SECOND).await;
    assert_eq!(
        note().as_deref(),
        Some("id-web"),
        "it stays until it is told"
    );
}

// --- health -----------------------------------------------------------------

impl Scene {
    fn judge(&self, name: &str, healthy: u32) {
        self.judge_for(name, name, healthy);
    }

    /// What is held of the service that the binding names, by the binding.
    fn judge_for(&self, binding: &str, name: &str, healthy: u32) {
        let health = if healthy == 10 {
            ReportedHealth::Healthy
        } else {
            ReportedHealth::Unhealthy
        };
        let reporter = HealthReporter::new(Arc::clone(&self.write_back));
        reporter.set(&key(binding), &id(name), health, healthy, 10);
    }

    /// What the catalog was told of health, as `web 9`.
    fn judged(&self) -> Vec<String> {
        let reports = self.catalog().health_reports();
        let line = |report: &HealthReport| {
            let name = report.service_id.trim_start_matches("id-");
            format!("{name} {}", report.healthy)
        };
        reports.iter().map(|(_, report)| line(report)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn health_is_told_in_batches_of_what_came_within_100_ms_and_the_last_state_wins() {
    let scene = Scene::start(&["a", "b"]);
    scene.look("a");
    scene.look("b");
    sleep(SECOND).await;
    for healthy in 0..5 {
        scene.judge("a", healthy);
        scene.judge("b", 10);
        sleep(10 * MS).await;
    }
    sleep(SECOND).await;
    assert_eq!(scene.judged(), ["a 4", "b 10"]);
    assert_eq!(scene.catalog().calls().report_health, 1);
    scene.judge("a", 4);
    sleep(MINUTE).await;
    assert_eq!(scene.catalog().calls().report_health, 1, "nothing new");
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_at_most_a_thousand_items_and_one_is_under_way_at_most() {
    let names: Vec<String> = (0..2_500).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let scene = Scene::start(&names);
    names.iter().for_each(|name| scene.look(name));
    sleep(MINUTE).await;
    scene.catalog().delay(SECOND);
    names.iter().for_each(|name| scene.judge(name, 3));
    sleep(10 * SECOND).await;
    assert_eq!(scene.catalog().calls().report_health, 3);
    let reports = scene.catalog().health_reports();
    let mut sizes: HashMap<u64, usize> = HashMap::new();
    for (writer, _) in &reports {
        *sizes.entry(writer.sequence).or_default() += 1;
    }
    let mut sizes: Vec<_> = sizes.into_values().collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [500, 1_000, 1_000]);
}

#[tokio::test(start_paused = true)]
async fn health_that_changed_during_an_outage_is_delivered_soon_after_it() {
    let scene = Scene::start(&["a"]);
    scene.look("a");
    sleep(SECOND).await;
    let flapping = async {
        for n in 0..600 {
            scene.judge("a", n % 10);
            sleep(SECOND).await;
        }
    };
    tokio::join!(scene.outage(10 * MINUTE), flapping);
    assert_eq!(scene.judged(), Vec::<String>::new());
    sleep(5 * SECOND).await;
    assert_eq!(scene.judged(), ["a 9"]);
}

#[tokio::test(start_paused = true)]
async fn health_that_may_have_been_forgotten_while_it_was_under_way_is_told_again() {
    let scene = Scene::start(&["a", "b"]);
    scene.look("a");
    scene.look("b");
    sleep(SECOND).await;
    scene.catalog().delay(5 * SECOND);
    scene.judge("a", 1);
    scene.judge("b", 1);
    sleep(SECOND).await;
    scene.look_at("a", Some(2));
    sleep(MINUTE).await;
    assert_eq!(scene.judged(), ["a 1", "b 1", "a 1"]);
}

#[tokio::test(start_paused = true)]
async fn a_catalog_that_takes_no_health_still_gets_endpoints_at_once() {
    let scene = Scene::start(&["a"]);
    scene.look("a");
    scene.judge("a", 1);
    for n in 0..60 {
        scene.catalog().fail_health(true);
        scene.serve("a", &[n]);
        sleep(SECOND).await;
        assert_eq!(scene.told().last().unwrap(), &format!("a {n}"));
    }
    let tries = scene.catalog().calls().report_health;
    assert!((20..=60).contains(&tries), "{tries} in a minute");
}

#[tokio::test(start_paused = true)]
async fn health_is_told_only_of_services_whose_endpoints_are_and_ends_with_them() {
    let scene = Scene::start(&["a", "stranger"]);
    scene.look("a");
    sleep(SECOND).await;
    scene.judge("stranger", 1);
    scene.judge("a", 7);
    sleep(SECOND).await;
    assert_eq!(scene.judged(), ["a 7"]);
    scene.write_back.hold(&key("a"));
    scene.judge("a", 6);
    sleep(MINUTE).await;
    assert_eq!(scene.judged(), ["a 7"]);
    scene.look("a");
    sleep(SECOND).await;
    assert_eq!(scene.judged(), ["a 7", "a 6"]);
    scene.write_back.release(&key("a"));
    sleep(2 * SECOND).await;
    let (_, last) = scene.catalog().health_reports().pop().unwrap();
    assert_eq!((last.health, last.total), (ReportedHealth::Unknown, 0));
    assert!(scene.write_back.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_names_another_service_s_record_says_nothing_of_its_health() {
    let scene = Scene::start(&["web"]);
    scene.look("web");
    scene.judge("web", 10);
    sleep(SECOND).await;
    scene.judge_for("other", "web", 3);
    sleep(SECOND).await;
    assert_eq!(scene.judged(), ["web 10"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_leader_told_of_a_service_s_health_is_withdrawn_with_its_endpoints() {
    let scene = Scene::start(&["web"]);
    scene.write_back.withdraw(&id("web"));
    sleep(10 * SECOND).await;
    assert_eq!(scene.told(), ["web"]);
    let last = scene.catalog().health_reports().pop().map(|(_, last)| last);
    let last = last.map(|last| (last.health, last.total));
    assert_eq!(last, Some((ReportedHealth::Unknown, 0)));
    assert!(scene.write_back.state().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_outdated_item_counts_as_the_sign_of_another_writer_too() {
    let scene = Scene::start(&["a"]);
    scene.look("a");
    scene.judge("a", 1);
    sleep(SECOND).await;
    scene.catalog().overtake(CLUSTER, 5, 1);
    scene.judge("a", 2);
    sleep(SECOND).await;
    assert!(scene.write_back.has_rival());
}
