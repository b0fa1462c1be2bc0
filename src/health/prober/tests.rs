//! Tests of the engine, in paused time, with endpoints that are values.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};

use tokio::time::{advance, sleep};

mod doubt;

use super::super::fixtures::{check, service};
use super::super::target::{Check, ServiceTargets};
use super::*;
use crate::domain::health::address::Address;
use crate::domain::health::by_address::Addresses;
use crate::domain::health::judge::{Failure, Thresholds, Verdict};
use crate::domain::names::ServiceKey;
use crate::metrics::Metrics;

/// What an endpoint does when it is asked.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Answers so, after this time.
    Answers(Answer, Duration),
    /// Nothing, until time is over.
    Hangs,
    /// Makes the check itself break.
    Panics,
}

/// How the way to all endpoints is gone.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Connections break and new ones are refused.
    Breaks,
    /// Nothing comes back.
    Swallows,
    /// No connection can be made at all from here.
    NoRoute,
}

const GOOD: Does = Does::Answers(Answer::Good, Duration::from_millis(1));
const REFUSES: Does = Does::Answers(Answer::Failed(Failure::Refused), Duration::ZERO);
const BREAKS: Does = Does::Answers(Answer::Failed(Failure::Answered5xx), Duration::ZERO);

/// A network of endpoints that all answer, unless it is said otherwise.
#[derive(Clone)]
struct Net(Arc<Mutex<NetState>>);

struct NetState {
    all: Does,
    some: BTreeMap<Address, Does>,
    cut: Option<Cut>,
    asked: Vec<(Instant, Address)>,
    running: usize,
    most_running: usize,
    reused: usize,
}

impl Net {
    fn state(&self) -> MutexGuard<'_, NetState> {
        self.0.lock().unwrap()
    }
}

impl Probe for Net {
    type Kept = SocketAddr;

    async fn probe(
        &self,
        check: Arc<Check>,
        address: SocketAddr,
        kept: Option<SocketAddr>,
    ) -> Outcome<SocketAddr> {
        let began = Instant::now();
        let does = {
            let mut net = self.state();
            net.asked.push((began, address.into()));
            net.running += 1;
            net.most_running = net.most_running.max(net.running);
            net.reused += usize::from(kept == Some(address));
            *net.some.get(&address.into()).unwrap_or(&net.all)
        };
        let timeout = check.ask.timeout;
        let deadline = began + timeout;
        let mut answer = match does {
            _ if self.state().cut.is_some() => Ok(Answer::Good),
            Does::Answers(answer, after) => {
                sleep(after).await;
                Ok(answer)
            }
            Does::Hangs => {
                sleep(timeout).await;
                Ok(Answer::Failed(Failure::TimedOut))
            }
            Does::Panics => {
                self.state().running -= 1;
                panic!("as it is meant to");
            }
        };
        // Also one that went while the answer was on its way.
        let cut = self.state().cut;
        match cut {
            Some(Cut::Breaks) => answer = Ok(Answer::Failed(Failure::Closed)),
            Some(Cut::Swallows) => {
                sleep_until(deadline).await;
                answer = Ok(Answer::Failed(Failure::TimedOut));
            }
            Some(Cut::NoRoute) => answer = Err(SetAside::Own),
            None => {}
        }
        self.state().running -= 1;
        Outcome {
            answer,
            took: began.elapsed(),
            kept: Some(address),
        }
    }
}

struct Bed {
    net: Net,
    prober: Prober,
    view: HealthView,
    metrics: Metrics,
    targets: Targets,
    /// How often the engine was woken up.
    woken: Arc<AtomicUsize>,
}

impl Bed {
    fn new(in_flight: usize) -> Self {
        let net = Net(Arc::new(Mutex::new(NetState {
            all: GOOD,
            some: BTreeMap::new(),
            cut: None,
            asked: Vec::new(),
            running: 0,
            most_running: 0,
            reused: 0,
        })));
        let limits = Limits {
            in_flight,
            ..Limits::default()
        };
        let metrics = Metrics::new().unwrap();
        let random = fastrand::Rng::with_seed(7);
        let (prober, view, engine) =
            Engine::new(net.clone(), limits, metrics.health.clone(), random);
        let woken = Arc::new(AtomicUsize::new(0));
        let (count, mut run) = (Arc::clone(&woken), Box::pin(engine.run()));
        tokio::spawn(poll_fn(move |context| {
            count.fetch_add(1, Relaxed);
            run.as_mut().poll(context)
        }));
        Self {
            net,
            prober,
            view,
            metrics,
            targets: Targets::new(),
            woken,
        }
    }

    /// Sets a service of so many endpoints, asked every so often.
    fn service(&mut self, number: u8, endpoints: u16, interval: Duration) {
        let mut check = check();
        check.thresholds.interval = interval;
        check.ask.timeout = check.ask.timeout.min(interval);
        let endpoints = (0..endpoints).map(|host| address(number, host)).collect();
        let targets = ServiceTargets {
            check: check.into(),
            endpoints,
        };
        self.targets.insert(key(number), targets);
        self.prober.set(self.targets.clone());
    }

    fn asked(&self, address: Address) -> Vec<Instant> {
        let net = self.net.state();
        let of = net.asked.iter().filter(|(_, asked)| *asked == address);
        of.map(|(at, _)| *at).collect()
    }

    fn verdicts(&self) -> BTreeSet<String> {
        let reports = self
            .targets
            .keys()
            .map(|key| self.view.service(key).unwrap());
        reports
            .flat_map(|report| report.endpoints)
            .map(|endpoint| format!("{:?}", endpoint.verdict))
            .collect()
    }

    /// Changes of verdicts beside those that a start makes.
    fn moves(&self) -> usize {
        let reports = self
            .targets
            .keys()
            .map(|key| self.view.service(key).unwrap());
        let changes = reports
            .flat_map(|report| report.endpoints)
            .flat_map(|e| e.history);
        changes
            .filter(|change| (change.from, change.to) != (Verdict::Pending, Verdict::Healthy))
            .count()
    }

    fn metric(&self, series: &str) -> f64 {
        let text = self.metrics.exposition().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value
            .unwrap_or_else(|| panic!("{series}"))
            .trim()
            .parse()
            .unwrap()
    }
}

fn key(number: u8) -> ServiceKey {
    service(&format!("s{number}"))
}

fn address(service: u8, host: u16) -> Address {
    let [high, low] = host.to_be_bytes();
    ([10, service, high, low], 80).into()
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[tokio::test(start_paused = true)]
async fn checks_that_are_due_within_a_tick_begin_together() {
    let mut bed = Bed::new(512);
    bed.service(1, 2_000, Duration::from_secs(1));
    sleep(Duration::from_secs(3)).await;
    bed.net.state().asked.clear();
    sleep(Duration::from_secs(1)).await;
    let net = bed.net.state();
    assert!(
        (1_900..=2_100).contains(&net.asked.len()),
        "{}",
        net.asked.len()
    );
    let begun: BTreeSet<_> = net.asked.iter().map(|(at, _)| *at).collect();
    assert!(begun.len() <= 101, "{}", begun.len());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_new_endpoints_are_asked_one_after_the_other() {
    let mut bed = Bed::new(512);
    bed.service(0, 1000, s(10));
    let start = Instant::now();
    sleep(s(10)).await;
    let mut seconds = [0; 10];
    for (at, _) in &bed.net.state().asked {
        seconds[usize::try_from((*at - start).as_secs().min(9)).unwrap()] += 1;
    }
    assert!(
        seconds.iter().all(|asked| (60..150).contains(asked)),
        "{seconds:?}"
    );
}

/// As after a restart: nothing is known of anybody, and all are there at once.
#[tokio::test(start_paused = true)]
async fn ten_thousand_endpoints_that_appear_at_once_are_asked_as_evenly_as_ever() {
    let mut bed = Bed::new(512);
    for number in 0..50 {
        let mut check = check();
        check.thresholds.interval = s(10);
        let endpoints = (0..200).map(|host| address(number, host)).collect();
        let targets = ServiceTargets {
            check: check.into(),
            endpoints,
        };
        bed.targets.insert(key(number), targets);
    }
    bed.prober.set(bed.targets.clone());
    let start = Instant::now();
    sleep(s(30)).await;
    let mut tenths = [0; 300];
    for (at, _) in &bed.net.state().asked {
        tenths[usize::try_from((*at - start).as_millis() / 100)
            .unwrap()
            .min(299)] += 1;
    }
    // A thousand a second: never more than 1.5 times as many, in any tenth.
    let most = tenths.iter().max().unwrap();
    assert!(*most <= 150, "{most} in a tenth of a second: {tenths:?}");
    for second in tenths.chunks(10) {
        let asked: i32 = second.iter().sum();
        assert!((850..=1150).contains(&asked), "{asked} in a second");
    }
    assert_eq!(bed.verdicts(), ["Healthy".to_owned()].into());
    assert_eq!((bed.moves(), bed.view.held()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn whoever_stays_keeps_his_place_in_time() {
    let mut bed = Bed::new(512);
    bed.service(0, 1, s(10));
    for number in 1..60 {
        sleep(s(1)).await;
        bed.service(number, 3, s(10));
    }
    let asked = bed.asked(address(0, 0));
    assert_eq!(asked.len(), 6);
    for pair in asked.windows(2) {
        let apart = (pair[1] - pair[0]).as_millis();
        assert!((9_998..=10_002).contains(&apart), "{apart}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_found_in_time_and_is_told_of_and_so_is_its_return() {
    for (does, most) in [(Does::Hangs, 22), (REFUSES, 13), (BREAKS, 13)] {
        let mut bed = Bed::new(512);
        for number in 0..5 {
            bed.service(number, 3, s(10));
        }
        sleep(s(40)).await;
        assert!(bed.view.changed().await.len() == 5);
        bed.net.state().some.insert(address(2, 1), does);
        let died = Instant::now();
        assert_eq!(bed.view.changed().await, [key(2)]);
        assert!(died.elapsed() < s(most), "{does:?}: {:?}", died.elapsed());
        let report = bed.view.service(&key(2)).unwrap();
        assert_eq!((report.counts.healthy, report.counts.unhealthy), (2, 1));
        assert!(report.proven && report.held.is_none());
        let endpoint = bed.view.endpoint(&key(2), address(2, 1)).unwrap();
        assert!(matches!(endpoint.verdict, Verdict::Unhealthy(_)));
        assert_eq!(endpoint.history.len(), 2);
        bed.net.state().some.clear();
        let healed = Instant::now();
        assert_eq!(bed.view.changed().await, [key(2)]);
        assert!(healed.elapsed() < s(21), "{does:?}: {:?}", healed.elapsed());
        assert_eq!(bed.moves(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_endpoints_all_hang_does_not_make_others_late() {
    let mut bed = Bed::new(16);
    bed.service(0, 2000, s(10));
    for host in 0..2000 {
        bed.net.state().some.insert(address(0, host), Does::Hangs);
    }
    for number in 1..5 {
        bed.service(number, 5, s(1));
    }
    sleep(s(120)).await;
    for number in 1..5 {
        for host in 0..5 {
            let asked = bed.asked(address(number, host));
            let apart = asked
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .max()
                .unwrap();
            assert!(apart < Duration::from_millis(1100), "{apart:?}");
        }
    }
    // It gets its quarter: 4 checks of 3 s each at a time.
    let net = bed.net.state();
    let hanging = net
        .asked
        .iter()
        .filter(|(_, asked)| asked.ip < address(1, 0).ip);
    let hanging = hanging.count();
    assert!((150..=164).contains(&hanging), "{hanging}");
    assert!(net.most_running <= 16);
}

#[tokio::test(start_paused = true)]
async fn twice_as_much_as_it_can_do_makes_it_late_and_counted_and_never_wrong() {
    let mut bed = Bed::new(10);
    bed.net.state().all = Does::Answers(Answer::Good, Duration::from_millis(100));
    for number in 0..10 {
        bed.service(number, 20, s(1));
    }
    sleep(s(120)).await;
    assert_eq!(bed.moves(), 0);
    assert_eq!(bed.verdicts(), ["Healthy".to_owned()].into());
    assert_eq!(bed.view.held(), None);
    let asked = bed.net.state().asked.len();
    assert!((11_500..=12_000).contains(&asked), "{asked}");
    // All are asked equally often, and no more wait than there are.
    for number in 0..10 {
        for host in 0..20 {
            let times = bed.asked(address(number, host)).len();
            assert!((55..=65).contains(&times), "{times}");
        }
    }
    let waiting = bed.metric("catalog_mesh_health_checks_waiting");
    assert!((50.0..=190.0).contains(&waiting), "{waiting}");
    let late = bed.metric("catalog_mesh_health_check_lateness_seconds_sum");
    assert!(late > 5_000.0, "{late}");
}

#[tokio::test(start_paused = true)]
async fn when_our_own_network_is_gone_no_verdict_moves() {
    for gone in [REFUSES, Does::Hangs] {
        let mut bed = Bed::new(512);
        for number in 0..10 {
            bed.service(number, 2, s(10));
        }
        sleep(s(40)).await;
        bed.view.changed().await;
        bed.net.state().all = gone;
        sleep(s(300)).await;
        assert_eq!((bed.moves(), bed.view.held()), (0, Some(Doubt::AllAtOnce)));
        assert_eq!(bed.view.changed().await.len(), 10);
        let held = "catalog_mesh_health_verdicts_held{reason=\"all_at_once\"}";
        assert!(bed.metric(held) == 1.0);
        bed.net.state().all = GOOD;
        sleep(s(60)).await;
        assert_eq!((bed.moves(), bed.view.held()), (0, None), "{gone:?}");
        // And one that died meanwhile is found.
        bed.net.state().some.insert(address(1, 1), gone);
        sleep(s(30)).await;
        assert_eq!(bed.moves(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn with_few_services_a_network_that_is_gone_takes_nobody_before_the_others() {
    for gone in [REFUSES, Does::Hangs] {
        let mut bed = Bed::new(512);
        bed.service(0, 3, s(10));
        sleep(s(40)).await;
        bed.view.changed().await;
        bed.net.state().all = gone;
        let cut = Instant::now();
        assert_eq!(bed.view.changed().await, [key(0)]);
        let counts = bed.view.service(&key(0)).unwrap().counts;
        assert_eq!((counts.healthy, counts.unhealthy), (0, 3), "{gone:?}");
        assert!(cut.elapsed() < s(30), "{:?}", cut.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_few_that_dies_is_found_in_time() {
    for (does, most) in [(Does::Hangs, 22), (REFUSES, 13)] {
        let mut bed = Bed::new(512);
        bed.service(0, 2, s(10));
        sleep(s(40)).await;
        bed.view.changed().await;
        bed.net.state().some.insert(address(0, 1), does);
        let died = Instant::now();
        assert_eq!(bed.view.changed().await, [key(0)]);
        assert!(died.elapsed() < s(most), "{does:?}: {:?}", died.elapsed());
        assert_eq!(bed.view.service(&key(0)).unwrap().counts.unhealthy, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn who_stood_still_judges_nobody_by_what_he_missed() {
    let mut bed = Bed::new(512);
    for number in 0..2 {
        bed.service(number, 50, s(1));
    }
    sleep(s(5)).await;
    for _ in 0..20 {
        // Nothing comes in time, and all of it is noticed late.
        bed.net.state().all = Does::Hangs;
        sleep(Duration::from_millis(500)).await;
        advance(s(10)).await;
        bed.net.state().all = GOOD;
        sleep(Duration::from_millis(600)).await;
        assert_eq!(bed.view.held(), Some(Doubt::Late));
    }
    sleep(s(10)).await;
    assert_eq!((bed.moves(), bed.view.held()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn who_gets_a_tenth_of_the_time_judges_nobody_by_his_own_delay() {
    let mut bed = Bed::new(512);
    bed.service(0, 20, s(1));
    sleep(s(5)).await;
    bed.net.state().all = Does::Hangs;
    for _ in 0..300 {
        sleep(Duration::from_millis(10)).await;
        advance(Duration::from_millis(190)).await;
    }
    assert_eq!(bed.moves(), 0);
    assert!(bed.metric("catalog_mesh_health_answers_set_aside_total{reason=\"late\"}") > 100.0);
    // Given its time again it finds what is to be found.
    sleep(s(20)).await;
    assert_eq!(bed.moves(), 20);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_who_is_not_among_the_targets() {
    let mut bed = Bed::new(512);
    bed.service(0, 3, s(2));
    bed.service(1, 3, s(2));
    sleep(s(10)).await;
    bed.targets.remove(&key(1));
    bed.service(0, 2, s(2));
    sleep(Duration::from_millis(5)).await;
    bed.net.state().asked.clear();
    sleep(s(60)).await;
    let asked: BTreeSet<_> = bed.net.state().asked.iter().map(|(_, a)| *a).collect();
    assert_eq!(asked, [address(0, 0), address(0, 1)].into());
    assert_eq!(bed.view.service(&key(1)), None);
    assert_eq!(bed.view.endpoint(&key(0), address(0, 2)), None);
    let text = bed.metrics.exposition().unwrap();
    assert!(text.contains("service=\"shop/s0\"") && !text.contains("service=\"shop/s1\""));
    assert!(bed.metric("catalog_mesh_health_endpoints") == 2.0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_for_a_target_that_went_meanwhile_changes_nothing() {
    let mut bed = Bed::new(4);
    bed.net.state().all = Does::Hangs;
    bed.service(0, 1, s(3));
    sleep(s(4)).await;
    for _ in 0..50 {
        bed.targets.clear();
        bed.prober.set(bed.targets.clone());
        sleep(Duration::from_millis(50)).await;
        bed.service(0, 1, s(3));
        sleep(s(2)).await;
    }
    bed.net.state().all = GOOD;
    sleep(s(20)).await;
    assert_eq!(bed.verdicts(), ["Healthy".to_owned()].into());
    assert_eq!(bed.metric("catalog_mesh_health_checks_in_flight"), 0.0);
    assert_eq!(bed.metric("catalog_mesh_health_checks_waiting"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn whoever_checks_nobody_is_not_woken_and_shows_no_check() {
    let mut bed = Bed::new(4);
    bed.net.state().all = Does::Hangs;
    bed.service(0, 9, s(1));
    sleep(s(3)).await;
    assert!(bed.metric("catalog_mesh_health_checks_in_flight") > 0.0);
    assert!(bed.metric("catalog_mesh_health_checks_waiting") > 0.0);
    bed.targets.clear();
    bed.prober.set(bed.targets.clone());
    sleep(s(5)).await;
    assert_eq!(bed.metric("catalog_mesh_health_checks_in_flight"), 0.0);
    assert_eq!(bed.metric("catalog_mesh_health_checks_waiting"), 0.0);
    let woken = bed.woken.load(Relaxed);
    sleep(s(3600)).await;
    assert_eq!(bed.woken.load(Relaxed), woken);
    assert_eq!(bed.view.held(), None);
}

#[tokio::test(start_paused = true)]
async fn where_something_else_is_asked_all_begins_anew() {
    let mut bed = Bed::new(512);
    bed.service(0, 3, s(10));
    sleep(s(40)).await;
    bed.view.changed().await;

    // When and how often is no other question.
    let targets = bed.targets.get_mut(&key(0)).unwrap();
    Arc::make_mut(&mut targets.check).thresholds.failures = 9;
    bed.service(0, 3, s(3));
    sleep(Duration::from_millis(10)).await;
    assert!(bed.view.service(&key(0)).unwrap().proven);
    bed.net.state().asked.clear();
    sleep(s(3)).await;
    assert!(bed.net.state().asked.len() >= 3);
    assert_eq!(bed.verdicts(), ["Healthy".to_owned()].into());

    let ask = |change: fn(&mut ServiceTargets)| {
        let mut changed = bed.targets.clone();
        change(changed.get_mut(&key(0)).unwrap());
        changed
    };
    let changes = [
        ask(|targets| Arc::make_mut(&mut targets.check).ask.path = "/other".to_owned()),
        ask(|targets| Arc::make_mut(&mut targets.check).ask.timeout = s(1)),
        ask(|targets| {
            let other = targets.endpoints.iter().map(|a| (a.ip, 81));
            targets.endpoints = other.collect();
        }),
    ];
    for changed in changes {
        bed.prober.set(changed);
        sleep(Duration::from_millis(1)).await;
        let report = bed.view.service(&key(0)).unwrap();
        assert!(!report.proven || report.counts.healthy == 0);
        assert_eq!((report.counts.total, report.counts.healthy), (3, 0));
        sleep(s(20)).await;
        assert_eq!(bed.view.service(&key(0)).unwrap().counts.healthy, 3);
    }
}

#[tokio::test(start_paused = true)]
async fn connections_are_kept_where_the_next_check_is_near_and_go_with_their_target() {
    let mut bed = Bed::new(512);
    bed.service(0, 2, s(1));
    bed.service(1, 2, s(10));
    sleep(s(20)).await;
    assert_eq!(bed.metric("catalog_mesh_health_connections_kept"), 2.0);
    let reused = bed.net.state().reused;
    assert!((36..=40).contains(&reused), "{reused}");
    bed.service(0, 1, s(1));
    sleep(s(1)).await;
    assert_eq!(bed.metric("catalog_mesh_health_connections_kept"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_breaks_says_nothing_and_stops_nobody() {
    let mut bed = Bed::new(2);
    bed.service(0, 3, s(2));
    bed.net.state().some.insert(address(0, 0), Does::Panics);
    sleep(s(60)).await;
    let report = bed.view.service(&key(0)).unwrap();
    assert_eq!((report.counts.healthy, report.counts.unhealthy), (2, 0));
    assert_eq!(
        bed.metric("catalog_mesh_health_answers_set_aside_total{reason=\"own\"}"),
        30.0
    );
}

#[tokio::test(start_paused = true)]
async fn the_label_of_the_service_can_be_left_out() {
    let metrics = Metrics::new().unwrap();
    let net = Bed::new(1).net;
    let limits = Limits {
        service_label: false,
        ..Limits::default()
    };
    let random = fastrand::Rng::with_seed(7);
    let (prober, _view, engine) = Engine::new(net, limits, metrics.health.clone(), random);
    tokio::spawn(engine.run());
    let endpoints = [address(0, 0)].into_iter().collect();
    let targets = ServiceTargets {
        check: check().into(),
        endpoints,
    };
    prober.set(Targets::from([
        (key(0), targets.clone()),
        (key(1), targets),
    ]));
    sleep(s(10)).await;
    let text = metrics.exposition().unwrap();
    let series = "catalog_mesh_health_check_total{service=\"\",status=\"success\"} 2";
    assert!(text.contains(series), "{text}");
}
