//! Alerts and a real Alertmanager: what it is told, and what it passes on to
//! people. Everything is on loopback.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

#[path = "../support/alertmanager.rs"]
#[allow(dead_code, unreachable_pub, reason = "part of the rig")]
mod alertmanager;
#[path = "../support/process.rs"]
#[allow(dead_code, unreachable_pub, reason = "part of the rig")]
mod process;
#[path = "../support/tools.rs"]
#[allow(dead_code, unreachable_pub, reason = "part of the rig")]
mod tools;
#[path = "../support/wait.rs"]
#[allow(dead_code, unreachable_pub, reason = "part of the rig")]
mod wait;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alertmanager::Alertmanager;
use anyhow::{Result, ensure};
use axum::routing::post;
use axum::{Json, Router};
use catalog_mesh_controller::alert::value::{Alert, Service, What};
use catalog_mesh_controller::alert::{Alerts, Config, start};
use catalog_mesh_controller::domain::health::judge::Failure;
use catalog_mesh_controller::domain::names::{
    BindingKey, CatalogServiceId, ClusterId, Namespace, ServiceKey, ServiceName,
};
use catalog_mesh_controller::metrics::Metrics;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Generous: it bounds a hang, and nobody asserts on it.
const LIMIT: Duration = Duration::from_secs(60);

/// Who is told by an Alertmanager, and what he was told.
struct Webhook {
    url: String,
    told: Arc<Mutex<Vec<Value>>>,
    task: JoinHandle<()>,
}

impl Webhook {
    async fn start() -> Self {
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let heard = Arc::clone(&told);
        let take = async move |Json(message): Json<Value>| {
            let alerts = message["alerts"].as_array().unwrap().clone();
            heard.lock().unwrap().extend(alerts);
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = Router::new().route("/", post(take));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, told, task }
    }

    /// Waits until he was told that this alert, by its label `pod` or by its
    /// absence, fires or is resolved; returns it as it was told last.
    async fn hears(&self, pod: Option<&str>, status: &str) -> Value {
        wait::until("the webhook", LIMIT, async || {
            let told = self.told.lock().unwrap();
            let about = |alert: &&Value| alert["labels"]["pod"].as_str() == pod;
            let last = told.iter().rfind(about).cloned();
            last.filter(|alert| alert["status"] == status)
                .ok_or_else(|| anyhow::anyhow!("he was told {told:?}"))
        })
        .await
        .unwrap()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The operator's half.
struct Operator {
    alerts: Alerts,
    metrics: Metrics,
    task: JoinHandle<()>,
}

impl Operator {
    fn start(urls: &[String]) -> Self {
        let urls = urls.iter().map(|url| url.parse().unwrap());
        Self::with(Config::new(urls.collect()))
    }

    fn with(config: Config) -> Self {
        let metrics = Metrics::new().unwrap();
        let (alerts, run) = start(config, || true, metrics.alerts.clone()).unwrap();
        Self {
            alerts,
            metrics,
            task: tokio::spawn(run),
        }
    }

    fn counts(&self, line: &str) -> bool {
        let text = self.metrics.exposition().unwrap();
        text.lines().any(|counted| counted == line)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An Alertmanager below a path, who is told by it, and their folder.
async fn scene() -> (TempDir, Webhook, Alertmanager) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let webhook = Webhook::start().await;
    let address = free_address();
    let started = Alertmanager::start(folder.path(), address, "/am", &webhook.url);
    let alertmanager = started.await.unwrap();
    (folder, webhook, alertmanager)
}

fn free_address() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap()
}

fn web() -> Arc<Service> {
    Arc::new(Service {
        cluster: Some(ClusterId::parse("east").unwrap()),
        service: ServiceKey {
            namespace: Namespace::parse("shop").unwrap(),
            name: ServiceName::parse("web").unwrap(),
        },
        catalog_service_id: CatalogServiceId::parse("svc-1").unwrap(),
        binding: BindingKey::new("shop", "web"),
    })
}

fn endpoint(number: u8) -> Alert {
    Alert {
        service: web(),
        since: Timestamp::now(),
        what: What::Endpoint {
            pod: format!("web-{number}"),
            address: SocketAddr::from(([10, 0, 0, number], 8080)),
            failure: Failure::TimedOut,
            out: true,
        },
    }
}

fn whole_service() -> Alert {
    Alert {
        service: web(),
        since: Timestamp::now(),
        what: What::Service {
            healthy: 0,
            judged: 1,
        },
    }
}

/// Waits until just these Pods have active alerts in it.
async fn has(alertmanager: &Alertmanager, pods: &[&str]) -> Vec<Value> {
    wait::until("the alerts of Alertmanager", LIMIT, async || {
        let active = alertmanager.active().await?;
        let named = active
            .iter()
            .filter_map(|alert| alert["labels"]["pod"].as_str());
        let named: BTreeSet<&str> = named.collect();
        ensure!(named == pods.iter().copied().collect(), "it has {named:?}");
        Ok(active)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_real_alertmanager_has_what_fires_and_tells_people_of_it_and_of_its_end() {
    let (_folder, webhook, alertmanager) = scene().await;
    let operator = Operator::start(&[alertmanager.url()]);
    operator.alerts.set([endpoint(1), whole_service()]);

    let active = has(&alertmanager, &["web-1"]).await;
    assert_eq!(active.len(), 2);
    let alert = active
        .iter()
        .find(|alert| alert["labels"]["pod"] == "web-1");
    let alert = alert.unwrap();
    assert_eq!(
        alert["labels"],
        json!({
            "alertname": "CatalogMeshEndpointUnhealthy",
            "severity": "warning",
            "namespace": "shop",
            "service": "web",
            "pod": "web-1",
            "endpoint": "10.0.0.1:8080",
            "catalog_service_id": "svc-1",
            "binding": "shop/web",
            "cluster": "east",
        })
    );
    let ends: Timestamp = alert["endsAt"].as_str().unwrap().parse().unwrap();
    assert!(ends > Timestamp::now(), "it ends by itself, but not yet");

    let told = webhook.hears(Some("web-1"), "firing").await;
    assert_eq!(
        told["annotations"]["description"],
        "Its health check failed: no answer came in time. Pod web-1 was taken out of the mesh."
    );
    let told = webhook.hears(None, "firing").await;
    assert_eq!(told["labels"]["severity"], "critical");

    operator.alerts.set([whole_service()]);
    webhook.hears(Some("web-1"), "resolved").await;
    operator.alerts.set([]);
    webhook.hears(None, "resolved").await;
    assert_eq!(has(&alertmanager, &[]).await, Vec::<Value>::new());
    assert!(operator.counts("catalog_mesh_alertmanagers_failing 0"));
}

#[tokio::test]
async fn a_real_alertmanager_moves_the_end_of_what_it_is_told_again_and_tells_nobody_twice() {
    let (_folder, webhook, alertmanager) = scene().await;
    let operator = Operator::with(Config {
        repeat: Duration::from_secs(1),
        ..Config::new(vec![alertmanager.url().parse().unwrap()])
    });
    operator.alerts.set([endpoint(1)]);
    webhook.hears(Some("web-1"), "firing").await;
    let times = async || {
        let active = has(&alertmanager, &["web-1"]).await;
        let time = |name: &str| active[0][name].as_str().unwrap().parse::<Timestamp>();
        (time("startsAt").unwrap(), time("endsAt").unwrap())
    };
    let (starts, ends) = times().await;
    // Twice, so that it is no late answer of the first telling.
    for moved in [ends, ends + Duration::from_secs(1)] {
        let later = wait::until("a later end", LIMIT, async || {
            let now = times().await;
            ensure!(now.1 > moved, "it ends at {}", now.1);
            Ok(now)
        });
        assert_eq!(later.await.unwrap().0, starts);
    }
    let told = webhook.told.lock().unwrap().len();
    assert_eq!(told, 1, "people were told again");

    operator.alerts.set([]);
    webhook.hears(Some("web-1"), "resolved").await;
}

#[tokio::test]
async fn a_real_alertmanager_that_was_away_is_told_what_fires_then() {
    let (_folder, webhook, alertmanager) = scene().await;
    let operator = Operator::start(&[alertmanager.url()]);
    operator.alerts.set([endpoint(1), endpoint(2)]);
    has(&alertmanager, &["web-1", "web-2"]).await;

    alertmanager.process.kill().await.unwrap();
    operator.alerts.set([endpoint(1), endpoint(3)]);
    let failing = "catalog_mesh_alertmanagers_failing 1";
    let noticed = wait::until("a failure", LIMIT, async || {
        ensure!(operator.counts(failing), "none yet");
        Ok(())
    });
    noticed.await.unwrap();
    operator.alerts.set([endpoint(1), endpoint(4)]);

    // It keeps no alerts over a restart, so that even what fired before has to
    // be told again.
    alertmanager.process.start().await.unwrap();
    alertmanager.ready().await.unwrap();
    has(&alertmanager, &["web-1", "web-4"]).await;
    webhook.hears(Some("web-4"), "firing").await;
}

#[tokio::test]
async fn an_alert_of_an_operator_that_died_is_ended_by_the_next_one_that_knew_it() {
    let (_folder, webhook, alertmanager) = scene().await;
    let leader = Operator::start(&[alertmanager.url()]);
    leader.alerts.set([endpoint(1), endpoint(2)]);
    webhook.hears(Some("web-1"), "firing").await;
    drop(leader);
    has(&alertmanager, &["web-1", "web-2"]).await;

    let metrics = Metrics::new().unwrap();
    let config = Config::new(vec![alertmanager.url().parse().unwrap()]);
    let (leads, looked) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
    let (gate, look) = (Arc::clone(&leads), Arc::clone(&looked));
    let gate = move || {
        look.notify_one();
        gate.load(Ordering::Relaxed)
    };
    let (alerts, run) = start(config, gate, metrics.alerts.clone()).unwrap();
    alerts.set([endpoint(1), endpoint(2)]);
    let task = tokio::spawn(run);
    // It has seen both before one of them heals.
    looked.notified().await;
    alerts.set([endpoint(2)]);
    leads.store(true, Ordering::Relaxed);
    webhook.hears(Some("web-1"), "resolved").await;
    has(&alertmanager, &["web-2"]).await;
    task.abort();
}

#[tokio::test]
async fn every_member_of_a_cluster_is_told() -> Result<()> {
    let (_folder, _webhook, one) = scene().await;
    let (_other_folder, _other_webhook, two) = scene().await;
    let operator = Operator::start(&[one.url(), two.url()]);
    operator.alerts.set([endpoint(1)]);
    has(&one, &["web-1"]).await;
    has(&two, &["web-1"]).await;
    Ok(())
}
