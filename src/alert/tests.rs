//! What an Alertmanager in memory is told when, in paused time.

use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::fixtures::{endpoint, service, taken_out};
use super::ledger::Posting;
use super::post::{Post, Trouble};
use super::*;
use crate::metrics::Metrics;

/// How the Alertmanager answers.
#[derive(Clone, Copy)]
enum Mood {
    Takes,
    Refuses,
    Fails,
    /// After so many seconds.
    TakesLate(u64),
}

/// When a request came, and its alerts.
type Request = (Duration, Vec<Value>);

/// An Alertmanager: how it answers, and what it was told when.
#[derive(Clone)]
struct Fake {
    mood: Arc<Mutex<Mood>>,
    begin: Instant,
    told: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    fn new() -> Self {
        Self {
            mood: Arc::new(Mutex::new(Mood::Takes)),
            begin: Instant::now(),
            told: Arc::default(),
        }
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// When each request since the last look came, and what it said: the Pod or
    /// `service`, with a minus where it has ended.
    fn told(&self) -> Vec<(u128, String)> {
        let requests = std::mem::take(&mut *self.told.lock().unwrap());
        let line = |(at, alerts): Request| {
            let alerts: Vec<_> = alerts.iter().map(|alert| brief(alert, at)).collect();
            (at.as_millis(), alerts.join(" "))
        };
        requests.into_iter().map(line).collect()
    }
}

fn brief(alert: &Value, at: Duration) -> String {
    let ends: Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
    let fires = ends > Timestamp::UNIX_EPOCH + at;
    let name = alert["labels"]["pod"].as_str().unwrap_or("service");
    format!("{}{name}", if fires { "" } else { "-" })
}

impl Post for Fake {
    fn post<'a>(&'a self, alerts: &'a [Posting]) -> BoxFuture<'a, Result<(), Trouble>> {
        async move {
            let body = serde_json::to_value(wire::body(alerts)).unwrap();
            let request = (self.begin.elapsed(), body.as_array().unwrap().clone());
            self.told.lock().unwrap().push(request);
            let mood = *self.mood.lock().unwrap();
            match mood {
                Mood::Takes => Ok(()),
                Mood::Refuses => Err(Trouble::Refused("no".to_owned())),
                Mood::Fails => Err(Trouble::Failed("no".to_owned())),
                Mood::TakesLate(seconds) => {
                    sleep(Duration::from_secs(seconds)).await;
                    Ok(())
                }
            }
        }
        .boxed()
    }
}

/// Alerts that are told to a fake.
struct Bed {
    alerts: Alerts,
    fake: Fake,
    open: Arc<AtomicBool>,
    metrics: Metrics,
    task: JoinHandle<()>,
}

impl Bed {
    async fn new(open: bool) -> Self {
        let metrics = Metrics::new().unwrap();
        let alerts = Alerts::new(metrics.alerts.clone());
        let fake = Fake::new();
        let open = Arc::new(AtomicBool::new(open));
        let task = tokio::spawn(messenger(&alerts, &fake, &open).run());
        // It looks for the first time.
        sleep(Duration::from_millis(1)).await;
        Self {
            alerts,
            fake,
            open,
            metrics,
            task,
        }
    }

    fn counts(&self, series: &str) -> String {
        let text = self.metrics.exposition().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap().trim().to_owned()
    }
}

fn messenger(alerts: &Alerts, fake: &Fake, open: &Arc<AtomicBool>) -> Messenger<Fake> {
    let (gate, begin) = (Arc::clone(open), fake.begin);
    Messenger {
        post: fake.clone(),
        name: "http://am:9093".to_owned(),
        firing: alerts.firing.clone(),
        gate: Arc::new(move || gate.load(Ordering::Relaxed)),
        calendar: Arc::new(move || Timestamp::UNIX_EPOCH + begin.elapsed()),
        repeat: super::ledger::REPEAT,
        metrics: alerts.metrics.clone(),
    }
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

fn request(at: u128, what: &str) -> (u128, String) {
    (at, what.to_owned())
}

#[tokio::test(start_paused = true)]
async fn what_fires_within_a_tenth_of_a_second_is_told_in_one_request() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1)]);
    sleep(Duration::from_millis(50)).await;
    bed.alerts.set([endpoint(1), endpoint(2), service()]);
    seconds(30).await;
    assert_eq!(bed.fake.told(), [request(101, "service web-1 web-2")]);
}

#[tokio::test(start_paused = true)]
async fn what_fires_is_told_every_minute_and_its_end_is_told() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1)]);
    seconds(130).await;
    assert_eq!(
        bed.fake.told(),
        [
            request(101, "web-1"),
            request(60_101, "web-1"),
            request(120_101, "web-1")
        ]
    );
    bed.alerts.set([]);
    seconds(1).await;
    assert_eq!(bed.fake.told(), [request(130_101, "-web-1")]);
    seconds(600).await;
    let again: Vec<_> = (1..5)
        .map(|n| request(130_101 + n * 60_000, "-web-1"))
        .collect();
    assert_eq!(bed.fake.told(), again);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_lost_is_told_again() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1)]);
    seconds(1).await;
    bed.fake.becomes(Mood::Fails);
    bed.alerts.set([]);
    seconds(60).await;
    let lost = bed.fake.told();
    assert!(lost.len() > 2, "{lost:?}");
    assert!(
        lost[1..].iter().all(|(_, what)| what == "-web-1"),
        "{lost:?}"
    );
    bed.fake.becomes(Mood::Takes);
    seconds(31).await;
    let told = bed.fake.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, "-web-1");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_away_is_told_what_fires_then_and_no_more() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1), endpoint(2)]);
    seconds(1).await;
    assert_eq!(bed.fake.told(), [request(101, "web-1 web-2")]);
    bed.fake.becomes(Mood::Fails);
    for number in 3..40 {
        bed.alerts.set([endpoint(1), endpoint(number)]);
        seconds(5).await;
    }
    let tries = bed.fake.told();
    let pauses = tries.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(pauses.clone().all(|pause| pause <= 30_200), "{tries:?}");
    assert!(pauses.max() > Some(1_000), "{tries:?}");
    assert_eq!(bed.counts("catalog_mesh_alertmanagers_failing"), "1");
    bed.alerts.set([endpoint(1), endpoint(50)]);
    bed.fake.becomes(Mood::Takes);
    seconds(31).await;
    assert_eq!(bed.counts("catalog_mesh_alertmanagers_failing"), "0");
    let told: Vec<String> = bed.fake.told().into_iter().map(|(_, what)| what).collect();
    let words: Vec<&str> = told.iter().flat_map(|what| what.split(' ')).collect();
    // What it had been told before is told again too: it may be a new one.
    assert!(
        words.contains(&"web-1") && words.contains(&"web-50"),
        "{told:?}"
    );
    assert!(words.contains(&"-web-2"), "{told:?}");
    let firing = words.iter().filter(|word| !word.starts_with('-'));
    assert!(
        firing
            .clone()
            .all(|word| ["web-1", "web-50"].contains(word)),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_back_is_told_again_what_it_may_have_forgotten() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1)]);
    seconds(1).await;
    bed.fake.becomes(Mood::Fails);
    bed.alerts.set([endpoint(1), endpoint(2)]);
    sleep(Duration::from_millis(200)).await;
    let told = bed.fake.told();
    assert!(
        told[1..].iter().all(|(_, what)| what == "web-2"),
        "{told:?}"
    );
    bed.fake.becomes(Mood::Takes);
    seconds(31).await;
    let told: Vec<String> = bed.fake.told().into_iter().map(|(_, what)| what).collect();
    assert_eq!(told, ["web-2", "web-1"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_is_told_with_the_next_repetition() {
    let bed = Bed::new(true).await;
    bed.fake.becomes(Mood::Refuses);
    bed.alerts.set([endpoint(1), endpoint(2)]);
    seconds(65).await;
    assert_eq!(
        bed.fake.told(),
        [request(101, "web-1 web-2"), request(60_101, "web-1 web-2")]
    );
    let series = "catalog_mesh_alerts_sent_total{status=\"refused\"}";
    assert_eq!(bed.counts(series), "4");
    assert_eq!(bed.counts("catalog_mesh_alertmanagers_failing"), "0");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_slow_is_asked_one_thing_at_a_time_and_the_last_state_wins() {
    let bed = Bed::new(true).await;
    bed.fake.becomes(Mood::TakesLate(8));
    bed.alerts.set([endpoint(1)]);
    seconds(1).await;
    for number in 2..60 {
        bed.alerts.set([endpoint(number)]);
        sleep(Duration::from_millis(100)).await;
    }
    seconds(20).await;
    assert_eq!(
        bed.fake.told(),
        [request(101, "web-1"), request(8_201, "-web-1 web-59")]
    );
}

#[tokio::test(start_paused = true)]
async fn another_text_is_told_too() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1)]);
    seconds(1).await;
    bed.alerts.set([taken_out(endpoint(1))]);
    seconds(10).await;
    let requests = bed.fake.told.lock().unwrap().clone();
    let text = |n: usize| requests[n].1[0]["annotations"]["description"].as_str();
    assert_eq!(requests.len(), 2);
    assert_ne!(text(0), text(1));
}

#[tokio::test(start_paused = true)]
async fn many_go_in_several_requests() {
    let bed = Bed::new(true).await;
    bed.alerts.set((0..1_200).map(endpoint));
    seconds(1).await;
    let requests = bed.fake.told();
    let sizes = requests.iter().map(|(_, what)| what.split(' ').count());
    assert_eq!(sizes.collect::<Vec<_>>(), [500, 500, 200]);
    let series = "catalog_mesh_alerts_sent_total{status=\"success\"}";
    assert_eq!(bed.counts(series), "1200");
}

#[tokio::test(start_paused = true)]
async fn only_who_leads_tells_and_a_new_leader_ends_what_the_old_one_told() {
    let bed = Bed::new(false).await;
    bed.alerts.set([endpoint(1), endpoint(2)]);
    seconds(600).await;
    bed.alerts.set([endpoint(1)]);
    seconds(60).await;
    assert_eq!(bed.fake.told(), []);
    bed.open.store(true, Ordering::Relaxed);
    seconds(2).await;
    let told: Vec<String> = bed.fake.told().into_iter().map(|(_, what)| what).collect();
    assert_eq!(told, ["web-1 -web-2"]);
    bed.open.store(false, Ordering::Relaxed);
    bed.alerts.set([]);
    seconds(600).await;
    assert_eq!(bed.fake.told(), []);
}

#[tokio::test(start_paused = true)]
async fn what_heals_just_as_this_replica_begins_to_lead_is_ended() {
    let bed = Bed::new(false).await;
    bed.alerts.set([endpoint(1)]);
    seconds(5).await;
    bed.open.store(true, Ordering::Relaxed);
    bed.alerts.set([]);
    seconds(2).await;
    let told: Vec<String> = bed.fake.told().into_iter().map(|(_, what)| what).collect();
    assert_eq!(told, ["-web-1"]);
}

#[tokio::test(start_paused = true)]
async fn who_leads_again_tells_all_at_once() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1)]);
    seconds(1).await;
    bed.open.store(false, Ordering::Relaxed);
    bed.alerts.set([endpoint(1), endpoint(2)]);
    seconds(1).await;
    assert_eq!(bed.fake.told(), [request(101, "web-1")]);
    bed.open.store(true, Ordering::Relaxed);
    seconds(2).await;
    let told: Vec<String> = bed.fake.told().into_iter().map(|(_, what)| what).collect();
    assert_eq!(told, ["web-1 web-2"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_says_nothing() {
    let bed = Bed::new(true).await;
    bed.alerts.set([endpoint(1)]);
    seconds(1).await;
    bed.task.abort();
    drop(bed.alerts);
    seconds(600).await;
    assert_eq!(bed.fake.told(), [request(101, "web-1")]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_away_keeps_no_other_waiting() {
    let bed = Bed::new(true).await;
    let other = Fake::new();
    tokio::spawn(messenger(&bed.alerts, &other, &bed.open).run());
    bed.fake.becomes(Mood::TakesLate(1_000));
    sleep(Duration::from_millis(1)).await;
    bed.alerts.set([endpoint(1)]);
    seconds(1).await;
    bed.alerts.set([]);
    seconds(1).await;
    let told: Vec<String> = other.told().into_iter().map(|(_, what)| what).collect();
    assert_eq!(told, ["web-1", "-web-1"]);
}

#[tokio::test(start_paused = true)]
async fn without_an_alertmanager_what_fires_is_counted() {
    let metrics = Metrics::new().unwrap();
    let started = start(Config::new(Vec::new()), || true, metrics.alerts.clone());
    let (alerts, run) = started.unwrap();
    let task = tokio::spawn(run);
    alerts.set((0..10_002).map(endpoint).chain([service()]));
    seconds(60).await;
    assert!(!task.is_finished());
    let text = metrics.exposition().unwrap();
    for line in [
        "catalog_mesh_alerts_firing{about=\"endpoint\"} 10000",
        "catalog_mesh_alerts_firing{about=\"service\"} 1",
        "catalog_mesh_alerts_left_out 2",
        "catalog_mesh_alerts_sent_total{status=\"success\"} 0",
    ] {
        assert!(text.contains(line), "{line}");
    }
}
