//! The whole control loop beside an API server in memory, in paused time: what
//! one binding or one watch does must not be felt by the others.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::Method;
use kube_runtime::watcher::Event;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::LOOK_DEADLINE;
use super::fixtures::{Answer, Bed, Server, binding, record, service};
use super::queue::state::Lane;
use super::sources;
use crate::catalog::Catalog;
use crate::catalog::error::CatalogError;
use crate::catalog::event::EventStream;
use crate::catalog::fake::FakeCatalog;
use crate::catalog::follow::Follower;
use crate::catalog::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use crate::domain::labels::FINALIZER;
use crate::domain::liveness::{self, Ages, Lasting};
use crate::domain::names::{BindingKey, CatalogServiceId, Namespace};
use crate::domain::record::{CatalogPosition, ServiceFilter, ServiceList, ServiceRecord};
use crate::domain::served::Served;

const S: Duration = Duration::from_secs(1);

/// What asking for a service comes to, instead of its record.
#[derive(Clone, Copy)]
enum Ends {
    InPanic,
    Never,
    After(Duration),
}

/// A catalog that does worse than fail.
#[derive(Default)]
struct Trap {
    inner: FakeCatalog,
    ends: Mutex<HashMap<String, Ends>>,
}

impl Trap {
    fn with(names: &[&str]) -> Arc<Self> {
        let trap = Self::default();
        for name in names {
            trap.inner.set(record(name));
        }
        Arc::new(trap)
    }

    fn set(&self, name: &str, ends: Ends) {
        self.ends.lock().unwrap().insert(name.to_owned(), ends);
    }

    fn clear(&self) {
        self.ends.lock().unwrap().clear();
    }
}

impl Catalog for Trap {
    fn get_service<'a>(
        &'a self,
        id: &'a CatalogServiceId,
    ) -> BoxFuture<'a, Result<Arc<ServiceRecord>, CatalogError>> {
        let ends = self.ends.lock().unwrap().get(id.as_str()).copied();
        async move {
            match ends {
                Some(Ends::InPanic) => panic!("as the test wants it"),
                Some(Ends::Never) => pending().await,
                Some(Ends::After(time)) => sleep(time).await,
                None => {}
            }
            self.inner.get_service(id).await
        }
        .boxed()
    }

    fn list_services<'a>(
        &'a self,
        filter: &'a ServiceFilter,
    ) -> BoxFuture<'a, Result<ServiceList, CatalogError>> {
        self.inner.list_services(filter)
    }

    fn report_health<'a>(
        &'a self,
        writer: &'a WriterPosition,
        items: &'a [HealthReport],
    ) -> BoxFuture<'a, Result<Vec<ItemOutcome>, CatalogError>> {
        self.inner.report_health(writer, items)
    }

    fn report_endpoints<'a>(
        &'a self,
        writer: &'a WriterPosition,
        report: &'a EndpointReport,
    ) -> BoxFuture<'a, Result<ItemOutcome, CatalogError>> {
        self.inner.report_endpoints(writer, report)
    }

    fn subscribe<'a>(
        &'a self,
        after: Option<&'a CatalogPosition>,
    ) -> BoxFuture<'a, Result<EventStream, CatalogError>> {
        self.inner.subscribe(after)
    }
}

fn key(name: &str) -> BindingKey {
    BindingKey::new("shop", name.to_owned())
}

const PANICS: &str = "controller_runtime_reconcile_panics_total";
const LOOKS: &str =
    "controller_runtime_reconcile_time_seconds_count{controller=\"servicebinding\"}";

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_to_be_run_beyond_its_begin_and_a_key_is_run_again_right_after_its_end() {
    let names: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let catalog = Trap::with(&names);
    let bed = Bed::start(catalog.clone(), &names).await;
    for name in &names {
        bed.until(10 * S, name, "Ready", "True Synced").await;
    }
    sleep(S).await;
    let to_run = bed.names.store();
    assert!(to_run.is_empty(), "{:?}", to_run.state());

    // Asked for again under way: the next run begins with the end of the one before.
    catalog.set("s7", Ends::After(S));
    let looks = || bed.metric(LOOKS);
    let before = looks();
    for run in 0..5 {
        bed.ctx.queue.add(&key("s7"), Lane::Normal);
        sleep(S / 2).await;
        assert_eq!(bed.ctx.queue.depth(), (0, 1), "{run}");
        bed.ctx.queue.add(&key("s7"), Lane::Normal);
        sleep(S / 2 + S / 10).await;
        assert_eq!(bed.ctx.queue.depth(), (0, 1), "{run}");
        sleep(S).await;
        assert_eq!(bed.ctx.queue.depth(), (0, 0), "{run}");
        assert!(to_run.is_empty(), "{:?}", to_run.state());
    }
    assert_eq!(looks() - before, 10.0);
    // One that is gone before its run begins is found to be so.
    bed.ctx.queue.add(&key("nobody"), Lane::Normal);
    sleep(S).await;
    assert_eq!(bed.ctx.queue.standing(&key("nobody")), None);
    assert!(to_run.is_empty(), "{:?}", to_run.state());
}

// traps 4, 15
#[tokio::test(start_paused = true)]
async fn a_look_that_panics_or_hangs_is_its_own_bindings_failure() {
    let names = ["panics", "hangs", "web"];
    let catalog = Trap::with(&names);
    catalog.set("panics", Ends::InPanic);
    catalog.set("hangs", Ends::Never);
    let bed = Bed::start(catalog.clone(), &names).await;
    bed.until(S, "web", "Ready", "True Synced").await;
    sleep(4 * LOOK_DEADLINE).await;
    let panics = format!("{PANICS}{{controller=\"servicebinding\"}}");
    assert!(bed.metric(&panics) >= 5.0, "{}", bed.metric(&panics));
    assert!(bed.ctx.queue.longest_run() <= Some(LOOK_DEADLINE));
    assert_eq!(bed.says("hangs", "Ready"), "");
    assert!(!bed.work.is_finished());
    assert!(bed.names.store().is_empty());
    catalog.clear();
    for name in names {
        bed.until(2 * LOOK_DEADLINE, name, "Ready", "True Synced")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_thousand_and_one_that_is_wrong_a_thousand_come_into_force() {
    let names: Vec<_> = (0..1_001).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let catalog = Trap::with(&names);
    catalog.inner.set_bad("s7", "timeout", "must be a duration");
    let bed = Bed::start(catalog, &names).await;
    // One that cannot be decoded is there before any of them was looked at.
    let mut undecodable = binding("poison");
    undecodable["spec"]["serviceName"] = json!({"not": "a name"});
    bed.server().put("servicebindings", undecodable);
    sleep(60 * S).await;
    let says = |name: &&&str| bed.says(name, "Ready");
    let synced = names.iter().filter(|name| says(name) == "True Synced");
    assert_eq!(synced.count(), 1_000);
    assert_eq!(bed.says("s7", "Ready"), "False InvalidRecord");
    for kind in ["virtualservices", "destinationrules"] {
        let there = |name: &&&str| bed.server().get(kind, name).is_some();
        assert_eq!(names.iter().filter(there).count(), 1_000, "{kind}");
    }
    let undecodable = bed.metric("catalog_mesh_undecodable_total");
    assert!(undecodable >= 1.0, "{undecodable}");
}

#[tokio::test(start_paused = true)]
async fn what_many_need_in_the_mesh_goes_before_what_is_said_of_it_and_that_is_said_once() {
    let names: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let catalog = Trap::with(&names);
    let bed = Bed::start(catalog.clone(), &names).await;
    for name in &names {
        bed.until(10 * S, name, "Ready", "True Synced").await;
    }
    sleep(S).await;
    const LONG_AGO: &str = "2026-01-01T00:00:00Z";
    for name in &names {
        let mut binding = bed.server().get("servicebindings", name).unwrap();
        binding["status"]["lastSync"] = json!(LONG_AGO);
        bed.server().put("servicebindings", binding);
    }
    sleep(S).await;
    bed.server().asked.clear();
    for name in &names {
        let timeout = Some("7s".to_owned());
        let record = record(name);
        catalog.inner.set(ServiceRecord { timeout, ..record });
        bed.ctx.queue.add(&key(name), Lane::Normal);
    }
    sleep(5 * S).await;
    let asked = bed.server().asked.clone();
    let of = |part: &str| {
        let places = asked.iter().enumerate();
        let places = places.filter(|(_, line)| line.starts_with("PATCH") && line.contains(part));
        places.map(|(place, _)| place).collect::<Vec<_>>()
    };
    let (rules, said) = (of("/virtualservices/"), of("/status"));
    assert_eq!((rules.len(), said.len()), (40, 40), "{asked:#?}");
    let early = said.iter().filter(|place| *place < &rules[39]).count();
    assert!(early <= 2, "{early} were said before all was written");
    for name in &names {
        let binding = bed.server().get("servicebindings", name).unwrap();
        assert_ne!(binding["status"]["lastSync"], LONG_AGO, "{name}");
    }

    // One alone is said of at once.
    bed.server().asked.clear();
    let timeout = Some("8s".to_owned());
    let alone = record("s7");
    catalog.inner.set(ServiceRecord { timeout, ..alone });
    bed.ctx.queue.add(&key("s7"), Lane::Normal);
    sleep(S / 10).await;
    let asked = bed.server().asked.clone();
    let said = asked.iter().filter(|line| line.contains("/status"));
    assert_eq!(said.count(), 1, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_cannot_be_stored_has_nothing_written_to_the_mesh_again() {
    let catalog = Trap::with(&["web"]);
    let bed = Bed::start(catalog.clone(), &["web"]).await;
    bed.until(10 * S, "web", "Ready", "True Synced").await;
    let version = || bed.server().get("servicebindings", "web").unwrap()["metadata"].take();
    let before = version();
    bed.server().asked.clear();
    bed.server().misbehave(|method, path| {
        let refused = *method == Method::PATCH && path.contains("/status");
        refused.then_some(Answer::Status(500))
    });
    let timeout = Some("7s".to_owned());
    let record = record("web");
    catalog.inner.set(ServiceRecord { timeout, ..record });
    bed.ctx.queue.add(&key("web"), Lane::Normal);
    sleep(60 * S).await;
    let asked = |part: &str| {
        let asked = bed.server().asked.clone();
        let of = asked.iter().filter(|line| line.starts_with("PATCH"));
        of.filter(|line| line.contains(part)).count()
    };
    assert_eq!(version(), before, "it was stored");
    assert!(asked("/status") >= 3, "{} tries", asked("/status"));
    assert_eq!(asked("/virtualservices/"), 1);
    bed.server().behave();
    sleep(60 * S).await;
    assert_ne!(version(), before, "it was never stored");
    assert_eq!(asked("/virtualservices/"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_status_that_cannot_be_stored_has_nothing_written_to_the_mesh_again_either() {
    let bed = Bed::start(Trap::with(&["web"]), &["web"]).await;
    bed.server().misbehave(|method, path| {
        let refused = *method == Method::PATCH && path.contains("/status");
        refused.then_some(Answer::Status(500))
    });
    sleep(60 * S).await;
    let asked = |part: &str| {
        let asked = bed.server().asked.clone();
        let of = asked.iter().filter(|line| line.starts_with("PATCH"));
        of.filter(|line| line.contains(part)).count()
    };
    assert!(asked("/status") >= 3, "{} tries", asked("/status"));
    assert_eq!(asked("/virtualservices/"), 1);
    assert_eq!(asked("/destinationrules/"), 1);
    bed.server().behave();
    bed.until(60 * S, "web", "Ready", "True Synced").await;
    assert_eq!(asked("/virtualservices/"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_was_not_taken_back_is_not_counted_as_one() {
    let catalog = Trap::with(&["web"]);
    let bed = Bed::start(catalog.clone(), &["web"]).await;
    bed.until(10 * S, "web", "Ready", "True Synced").await;
    let in_between = AtomicBool::new(false);
    bed.server().misbehave(move |method, path| {
        if *method != Method::PATCH || !path.contains("/virtualservices/") {
            return None;
        }
        if !path.contains("force=true") {
            return Some(Answer::Edited);
        }
        // Somebody else wrote between the read and this.
        let first = !in_between.swap(true, Ordering::SeqCst);
        first.then_some(Answer::Status(409))
    });
    let timeout = Some("7s".to_owned());
    let changed = record("web");
    catalog.inner.set(ServiceRecord { timeout, ..changed });
    bed.ctx.queue.add(&key("web"), Lane::Normal);
    for _ in 0..100 {
        sleep(S / 10).await;
        assert_eq!(bed.says("web", "Ready"), "True Synced");
    }
    let rule = bed.server().get("virtualservices", "web").unwrap();
    assert_eq!(rule["spec"]["http"][0]["timeout"], "7s");
}

#[tokio::test(start_paused = true)]
async fn removals_that_were_refused_all_go_as_soon_as_one_does_and_nobody_is_refused_after_that() {
    let names: Vec<_> = (0..20).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (going, stays) = names.split_at(19);
    let catalog = Trap::with(&names);
    let bed = Bed::start(catalog.clone(), &names).await;
    for name in &names {
        bed.until(10 * S, name, "Ready", "True Synced").await;
    }
    bed.server().misbehave(|method, path| {
        let refused = *method == Method::DELETE && path.contains("/virtualservices/");
        refused.then_some(Answer::Status(503))
    });
    for name in going {
        let mut binding = bed.server().get("servicebindings", name).unwrap();
        binding["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
        bed.server().put("servicebindings", binding);
    }
    sleep(60 * S).await;
    let left = || {
        let held = |name: &&&str| {
            let binding = bed.server().get("servicebindings", name).unwrap();
            binding["metadata"]["finalizers"] != json!([])
        };
        going.iter().filter(held).count()
    };
    assert_eq!(left(), going.len());
    bed.server().behave();
    sleep(5 * S).await;
    assert_eq!(left(), 0);
    let timeout = Some("7s".to_owned());
    let changed = record(stays[0]);
    catalog.inner.set(ServiceRecord { timeout, ..changed });
    bed.ctx.queue.add(&key(stays[0]), Lane::Normal);
    for _ in 0..50 {
        sleep(S / 10).await;
        assert_eq!(bed.says(stays[0], "Ready"), "True Synced");
    }
    let rule = bed.server().get("virtualservices", stays[0]).unwrap();
    assert_eq!(rule["spec"]["http"][0]["timeout"], "7s");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_the_catalog_lost_is_not_checked_where_its_objects_are_gone_already() {
    let catalog = Trap::with(&[]);
    let bed = Bed::start(catalog.clone(), &["web"]).await;
    bed.until(10 * S, "web", "Ready", "False Removed").await;
    // As where the objects went and the word of it was not stored.
    let mut binding = bed.server().get("servicebindings", "web").unwrap();
    binding["status"]["children"] = json!([{
        "kind": "VirtualService", "namespace": "shop", "name": "web",
        "uid": "gone", "generation": 1, "hash": "h",
    }]);
    bed.server().put("servicebindings", binding);
    bed.ctx.queue.add(&key("web"), Lane::Normal);
    sleep(40 * S).await;
    let binding = bed.server().get("servicebindings", "web").unwrap();
    let children = &binding["status"]["children"];
    assert!(children.is_null() || *children == json!([]), "{children}");
}

/// A binding that is in force, of a catalog that is followed.
async fn followed() -> (Arc<Trap>, Bed) {
    let catalog = Trap::with(&["web"]);
    let bed = Bed::start(catalog.clone(), &["web"]).await;
    let (known, metrics) = (
        Arc::clone(&bed.ctx.known),
        bed.ctx.metrics.catalog().clone(),
    );
    let follower = Follower::new(catalog.clone(), known, || None, metrics);
    tokio::spawn(follower.run());
    bed.until(10 * S, "web", "Ready", "True Synced").await;
    sleep(120 * S).await;
    (catalog, bed)
}

#[tokio::test(start_paused = true)]
async fn a_period_costs_no_look_where_nothing_changed_and_finds_what_no_event_told() {
    let (catalog, bed) = followed().await;
    let looks = || catalog.inner.calls().get_service;
    let (before, counted) = (looks(), bed.metric(LOOKS));
    sleep(300 * S).await;
    assert_eq!(looks(), before, "a period cost a look");
    let counted = bed.metric(LOOKS) - counted;
    assert!((9.0..=11.0).contains(&counted), "{counted} periods");
    sleep(600 * S).await;
    assert_eq!(looks(), before + 1, "nothing but the one of ten minutes");

    // Nobody is told of what happens here.
    let mut changed = service("web");
    changed["metadata"]["namespace"] = json!("shop");
    changed["metadata"]["resourceVersion"] = json!("999999");
    changed["spec"]["clusterIP"] = json!("None");
    let changed = sources::service(serde_json::from_value(changed).unwrap());
    bed.ctx.world.services(Event::Apply(changed));
    bed.until(40 * S, "web", "Ready", "False Headless").await;
}

#[tokio::test(start_paused = true)]
async fn a_look_that_was_spared_since_all_is_in_force_counts_as_the_last_success() {
    let (catalog, bed) = followed().await;
    let last = || bed.metric("catalog_mesh_last_sync_success_timestamp_seconds");
    let looks = || catalog.inner.calls().get_service;
    let synced = || bed.metric("catalog_mesh_sync_total{status=\"success\"}");
    let (before, looked, counted) = (last(), looks(), synced());
    sleep(60 * S).await;
    assert_eq!((looks(), synced()), (looked, counted), "a whole look");
    assert!(last() > before, "{before}");
}

// trap 2
#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_holds_up_no_other() {
    let catalog = Trap::with(&["web", "new"]);
    let bed = Bed::start(catalog, &["web"]).await;
    bed.until(S, "web", "Ready", "True Synced").await;
    bed.server().misbehave(|_, path| {
        let of = ["/namespaces?", "/pods?", "/destinationrules?"];
        of.iter()
            .any(|of| path.contains(of))
            .then_some(Answer::Status(403))
    });
    for kind in ["namespaces", "pods", "destinationrules"] {
        bed.server().expire(kind);
    }
    sleep(300 * S).await;
    assert!(bed.metric("catalog_mesh_watch_errors_total{kind=\"Pod\"}") >= 10.0);
    bed.server().put("services", service("new"));
    bed.server().put("servicebindings", binding("new"));
    let stored = Instant::now();
    let is_there =
        |bed: &Bed| bed.server().get("servicebindings", "new").unwrap()["status"].is_object();
    while !is_there(&bed) {
        sleep(Duration::from_millis(10)).await;
        assert!(stored.elapsed() < S, "it was not looked at in time");
    }
}

// trap 14
#[tokio::test(start_paused = true)]
async fn a_list_that_brings_nothing_new_asks_for_no_look() {
    let names = ["a", "b", "c"];
    let bed = Bed::start(Trap::with(&names), &names).await;
    for name in names {
        bed.until(S, name, "Ready", "True Synced").await;
    }
    sleep(S).await;
    let (looks, asked) = (bed.metric(LOOKS), bed.server().asked.len());
    assert!(looks >= 3.0);
    for kind in [
        "servicebindings",
        "services",
        "namespaces",
        "virtualservices",
        "destinationrules",
    ] {
        bed.server().expire(kind);
    }
    // Less than a period, more than the pause after a failure.
    sleep(10 * S).await;
    let lists = {
        let server = bed.server();
        let since = server.asked[asked..].iter();
        since.filter(|line| line.contains("limit=")).count()
    };
    assert_eq!(lists, 5);
    assert_eq!(bed.metric(LOOKS), looks);
}

// trap 13
#[tokio::test(start_paused = true)]
async fn what_a_later_list_lacks_is_gone_though_no_watch_told() {
    let names = ["web", "other"];
    let bed = Bed::start(Trap::with(&names), &names).await;
    for name in names {
        bed.until(S, name, "Ready", "True Synced").await;
    }
    bed.server().forget("services", "web").unwrap();
    bed.server().forget("virtualservices", "other").unwrap();
    sleep(S).await;
    assert_eq!(bed.says("web", "Ready"), "True Synced");
    bed.server().expire("services");
    bed.server().expire("virtualservices");
    bed.until(5 * S, "web", "Ready", "False ServiceNotFound")
        .await;
    sleep(5 * S).await;
    assert_eq!(bed.says("other", "Ready"), "True Synced");
    assert!(bed.server().get("virtualservices", "other").is_some());
}

// trap 16
#[tokio::test(start_paused = true)]
async fn told_to_end_it_lets_running_looks_end_and_begins_none() {
    let names = ["slow", "web"];
    let catalog = Trap::with(&names);
    catalog.set("slow", Ends::After(3 * S));
    let mut bed = Bed::start(catalog, &names).await;
    bed.until(S, "web", "Ready", "True Synced").await;
    bed.stop();
    sleep(S).await;
    bed.server().delete("virtualservices", "web");
    timeout(10 * S, &mut bed.work).await.unwrap().unwrap();
    assert_eq!(bed.says("slow", "Ready"), "True Synced");
    assert!(bed.server().get("virtualservices", "web").is_none());
}

// trap 15
#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_an_hour_leaves_the_process_alive() {
    let names = ["web", "new"];
    let bed = Bed::start(Trap::with(&names), &["web"]).await;
    bed.until(S, "web", "Ready", "True Synced").await;
    let lasting = Lasting {
        request: 2 * S,
        term: 10 * S,
    };
    let overdue = |bed: &Bed| {
        let ages = Ages {
            control_loop: bed.ctx.queue.asked_ago(),
            look: bed.ctx.queue.longest_run(),
            election: bed.ctx.leadership.went_round_ago(),
            lease: bed.ctx.leadership.renewed_ago(),
        };
        assert!(ages.control_loop.is_some());
        liveness::overdue(&ages, lasting)
    };
    // It says no, and then it says nothing.
    for answer in [Answer::Status(503), Answer::Silence] {
        bed.server().misbehave(move |_, _| Some(answer));
        for kind in ["servicebindings", "services", "virtualservices"] {
            bed.server().expire(kind);
        }
        bed.server().forget("virtualservices", "web");
        for _ in 0..180 {
            sleep(10 * S).await;
            assert_eq!(overdue(&bed), Vec::<String>::new());
        }
    }
    bed.server().behave();
    bed.server().put("services", service("new"));
    bed.server().put("servicebindings", binding("new"));
    // Half a minute at most, without anybody's doing.
    bed.until(30 * S, "new", "Ready", "True Synced").await;
    sleep(30 * S).await;
    assert!(bed.server().get("virtualservices", "web").is_some());
    // Whoever no longer runs the looks is found out.
    bed.work.abort();
    sleep(61 * S).await;
    let overdue = overdue(&bed);
    assert_eq!(overdue.len(), 1, "{overdue:?}");
    assert!(overdue[0].starts_with("the control loop went round"));
}

#[tokio::test(start_paused = true)]
async fn while_no_right_is_there_little_is_asked_and_all_is_done_soon_after() {
    let names: Vec<_> = (0..50).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let catalog = Trap::with(&names);
    let bed = Bed::start(catalog.clone(), &names).await;
    for name in &names {
        bed.until(10 * S, name, "Ready", "True Synced").await;
    }
    bed.server().deny(|method, _| *method != Method::GET);
    for name in &names {
        let mut changed = record(name);
        changed.timeout = Some("7s".to_owned());
        catalog.inner.set(changed);
    }
    let writes = || {
        let server = bed.server();
        let writes = server.asked.iter().filter(|line| !line.starts_with("GET "));
        writes.count()
    };
    let tried = writes();
    // Each of them is looked at, within some seconds of each other.
    sleep(40 * S).await;
    let tried = writes() - tried;
    // One of them tries each second at most, and to say so in its status.
    assert!(
        tried <= 2 * 40,
        "{tried} writes of {} bindings",
        names.len()
    );
    sleep(560 * S).await;
    let asked = bed.server().asked.len();
    sleep(60 * S).await;
    let asked = bed.server().asked.len() - asked;
    assert!(asked <= 300, "{asked} requests in a minute");
    bed.server().behave();
    sleep(30 * S).await;
    for name in &names {
        let vs = bed.server().get("virtualservices", name).unwrap();
        assert_eq!(vs["spec"]["http"][0]["timeout"], "7s", "{name}");
    }
}

/// Somebody else changes an object.
fn edit(bed: &Bed, plural: &str, name: &str, edit: impl FnOnce(&mut Value)) {
    let mut object = bed.server().get(plural, name).unwrap();
    edit(&mut object);
    bed.server().put(plural, object);
}

#[tokio::test(start_paused = true)]
async fn while_letting_go_of_what_is_to_stay_meets_a_conflict_its_binding_stays_as_well() {
    let bed = Bed::start(Trap::with(&["web"]), &["web"]).await;
    bed.until(S, "web", "Ready", "True Synced").await;
    let metadata = |kind| bed.server().get(kind, "web").unwrap()["metadata"].take();
    let finalizers = || metadata("servicebindings")["finalizers"].take();
    bed.server().misbehave(|method, path| {
        let one = *method == Method::PATCH && path.contains("/virtualservices/");
        one.then_some(Answer::Status(409))
    });
    edit(&bed, "servicebindings", "web", |binding| {
        binding["spec"]["suspend"] = json!(true);
        binding["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
    });
    sleep(10 * S).await;
    assert_eq!(finalizers(), json!([FINALIZER]));
    // As by the write that it met: ours is no longer the first.
    edit(&bed, "virtualservices", "web", |rule| {
        let owners = rule["metadata"]["ownerReferences"].as_array_mut().unwrap();
        assert_eq!(owners.len(), 1);
        let mut other = owners[0].clone();
        other["uid"] = json!("another");
        owners.insert(0, other);
    });
    bed.server().behave();
    sleep(60 * S).await;
    assert_eq!(finalizers(), json!([]));
    let owners = metadata("virtualservices")["ownerReferences"].take();
    assert_eq!(
        (owners.as_array().unwrap().len(), &owners[0]["uid"]),
        (1, &json!("another"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_bindings_that_name_nothing_and_go_leave_nothing_in_memory() {
    let catalog = Trap::with(&[]);
    let names: Vec<_> = (0..1_000).map(|n| format!("s{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let bed = Bed::start(catalog.clone(), &names).await;
    bed.until(60 * S, "s999", "Ready", "False Removed").await;
    // The last ones go while the catalog is asked for them.
    let late = &names[990..];
    for name in late {
        catalog.set(name, Ends::After(S));
        edit(&bed, "servicebindings", name, |binding| {
            binding["spec"]["timeout"] = json!("7s");
        });
    }
    sleep(S / 2).await;
    for name in &names {
        bed.server().delete("servicebindings", name);
    }
    sleep(10 * S).await;
    assert_eq!(bed.ctx.memory.count_not_found(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_could_never_be_listed_is_not_taken_for_absent_when_its_binding_goes() {
    let names = ["web", "frozen"];
    let catalog = Trap::with(&names);
    let bed = Bed::start(catalog.clone(), &names).await;
    for name in names {
        bed.until(10 * S, name, "Ready", "True Synced").await;
    }
    bed.server()
        .deny(|_, path| path.contains("/virtualservices?"));
    let bed = bed.start_again(catalog).await;
    for name in names {
        let mut going = bed.server().get("servicebindings", name).unwrap();
        going["metadata"]["deletionTimestamp"] = json!("2026-02-01T00:00:00Z");
        going["spec"]["suspend"] = json!(name == "frozen");
        bed.server().put("servicebindings", going);
    }
    sleep(120 * S).await;
    let rule = |plural: &str, name: &str| bed.server().get(plural, name);
    let is_held = |name: &str| {
        let binding = bed.server().get("servicebindings", name).unwrap();
        let finalizers = binding["metadata"]["finalizers"].as_array().cloned();
        finalizers.is_some_and(|finalizers| !finalizers.is_empty())
    };
    for name in names {
        assert!(is_held(name), "{name} went, and left its objects");
        assert!(rule("destinationrules", name).is_some(), "{name}");
        assert_eq!(bed.says(name, "Ready"), "False WriteRefused");
    }
    bed.server().behave();
    sleep(20 * S).await;
    for plural in ["virtualservices", "destinationrules"] {
        assert!(rule(plural, "web").is_none(), "{plural}");
        let stays = rule(plural, "frozen").unwrap();
        assert_eq!(stays["metadata"]["ownerReferences"], json!([]), "{plural}");
    }
    assert!(!names.into_iter().any(is_held));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_refused_once_at_the_start_is_not_done_without() {
    let served = ["shop", "billing"].map(|name| Namespace::parse(name).unwrap());
    let mut server = Server::default();
    for name in ["operators", "shop", "billing"] {
        server.put("namespaces", json!({"metadata": {"name": name}}));
    }
    let mut theirs = binding("web");
    theirs["metadata"]["namespace"] = json!("billing");
    server.put("servicebindings", theirs);
    let first = Cell::new(true);
    server.deny(move |_, path| path.ends_with("/namespaces/billing") && first.replace(false));
    let bed = Bed::on(server, Trap::with(&[]), &Served::only(&served)).await;
    let key = BindingKey::new("billing", "web");
    let known = bed.ctx.world.binding(&key).is_some();
    assert!(known, "an API server that has just started was believed");
}
