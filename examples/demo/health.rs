//! What does the demo show of the health monitor? One replica fails; the
//! operator finds out, takes it out of the mesh and tells the catalog, while
//! requests go on all the time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::parts::{CATALOG_ID, NAMESPACE, Parts};
use crate::screen::Screen;
use crate::story::{binding, kubectl};
use crate::support::backend::Behaviour;
use crate::support::envoy::Envoy;
use crate::support::stack::PATIENCE;
use crate::support::wait;
use crate::support::workload::SERVICE_PORT;
use crate::view;

/// Time between two requests of the client that never stops.
const EVERY: Duration = Duration::from_millis(20);

/// Requests after which it shows that none fails.
const ENOUGH: usize = 50;

/// How the replica fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Fault {
    /// It answers 500.
    #[value(name = "500")]
    Answers500,
    /// It answers its health check no more; requests that reach it hang.
    Hangs,
    /// Nobody listens any more.
    Refuses,
    /// Its Pod is deleted.
    Disappears,
}

pub(crate) async fn show(screen: &Screen, parts: &Parts, faults: &[Fault]) -> Result<()> {
    let gone = faults.iter().position(|fault| *fault == Fault::Disappears);
    ensure!(
        gone.is_none_or(|place| place + 1 == faults.len()),
        "a replica that disappears can do nothing else afterwards"
    );
    screen.heading("8. One replica fails its health check: the operator takes it out of the mesh");
    let mut record = parts.catalog.get(CATALOG_ID).await?;
    let check = json!({"endpoint": "/health", "interval": "2s", "timeout": "500ms"});
    screen.command(&format!(
        "curl -X PUT $CATALOG/api/v1/services/{CATALOG_ID} \\\n      -d '{{…, \"healthCheck\": {check}}}'"
    ));
    record["healthCheck"] = check;
    parts.catalog.put(&owned(&record)).await?;
    screen
        .step(
            "every replica has answered",
            until_says(parts, "3/3", "Healthy"),
        )
        .await?;
    for fault in faults {
        one(screen, parts, *fault).await?;
    }
    Ok(())
}

/// One replica fails in one way, and is well again.
async fn one(screen: &Screen, parts: &Parts, fault: Fault) -> Result<()> {
    let client = Client::start(Arc::clone(&parts.envoy), parts.workload.host());
    let bad = &parts.workload.pods[1];
    let failed = Instant::now();
    match fault {
        Fault::Answers500 => bad.backend.behave(Behaviour::Status(500)),
        Fault::Hangs => bad.backend.behave(Behaviour::Hang),
        Fault::Refuses => bad.backend.stop(),
        Fault::Disappears => parts.workload.delete_pod(1).await?,
    }
    screen.say(&format!("{}: {}", bad.name, words(fault)));
    if matches!(fault, Fault::Disappears) {
        return gone(screen, parts, client).await;
    }
    let out = left_envoy(parts, 2, failed, screen).await?;
    screen
        .step(
            "the binding and the catalog say so",
            until_says(parts, "2/3", "Degraded"),
        )
        .await?;
    kubectl(screen, parts, &["get", "csb", "-n", NAMESPACE]).await?;
    let selector = ["get", "pods", "-n", NAMESPACE, "-L", "istio.io/draining"];
    kubectl(screen, parts, &selector).await?;
    show_events(screen, parts, fault).await?;
    show_record(screen, parts).await?;

    match fault {
        Fault::Refuses => bad.backend.start_again().await?,
        _ => bad.backend.recover(),
    }
    screen.say(&format!("{} answers again.", bad.name));
    left_envoy(parts, 3, Instant::now(), screen).await?;
    screen
        .step(
            "the binding and the catalog say so",
            until_says(parts, "3/3", "Healthy"),
        )
        .await?;
    end(screen, client, out, fault).await
}

/// A Pod that is deleted leaves by the cluster's own EndpointSlices.
async fn gone(screen: &Screen, parts: &Parts, client: Client) -> Result<()> {
    let out = left_envoy(parts, 2, Instant::now(), screen).await?;
    screen
        .step(
            "the binding and the catalog say so",
            until_says(parts, "2/2", "Healthy"),
        )
        .await?;
    show_record(screen, parts).await?;
    end(screen, client, out, Fault::Disappears).await
}

/// Waits until Envoy has that many endpoints.
async fn left_envoy(
    parts: &Parts,
    endpoints: usize,
    since: Instant,
    screen: &Screen,
) -> Result<Instant> {
    let host = parts.workload.host();
    // Also those count that Envoy itself leaves out for a while.
    wait::until("the endpoints that Envoy has", PATIENCE, async || {
        let found = parts.envoy.endpoints(&host, SERVICE_PORT).await?;
        ensure!(found.len() == endpoints, "it has {found:?}");
        Ok(())
    })
    .await?;
    let now = Instant::now();
    screen.holds(&format!(
        "Envoy has {endpoints} endpoints, {:.1} s later",
        (now - since).as_secs_f64()
    ));
    Ok(now)
}

/// Waits until the binding and the catalog say so.
async fn until_says(parts: &Parts, endpoints: &str, health: &str) -> Result<()> {
    wait::until("what binding and catalog say", PATIENCE, async || {
        let status = binding(parts).await?.status.unwrap_or_default();
        let counts = status.endpoints.map(|counts| counts.summary);
        let is = status.health_status.map(|health| format!("{health:?}"));
        let told = parts.catalog.get(CATALOG_ID).await?;
        let told = health_of(&told)["health"].clone();
        let found = format!("{counts:?} {is:?}, and the catalog {told}");
        ensure!(
            counts.as_deref() == Some(endpoints) && is.as_deref() == Some(health),
            "the binding says {found}"
        );
        ensure!(told == health, "the binding says {found}");
        Ok(())
    })
    .await
}

async fn show_events(screen: &Screen, parts: &Parts, fault: Fault) -> Result<()> {
    let why = match fault {
        Fault::Answers500 => "5xx",
        Fault::Hangs => "in time",
        Fault::Refuses | Fault::Disappears => "refused",
    };
    let only = "reason=EndpointUnhealthy";
    let columns = "custom-columns=TYPE:.type,MESSAGE:.message";
    let args = [
        "get",
        "events",
        "-n",
        NAMESPACE,
        "--field-selector",
        only,
        "-o",
        columns,
    ];
    wait::until("the Event", PATIENCE, async || {
        let events = parts.api.kubectl.ok(&args).await?;
        ensure!(events.contains(why), "there are these:\n{events}");
        Ok(())
    })
    .await?;
    screen.command(&format!(
        "kubectl get events -n {NAMESPACE} --field-selector {only} \\\n      -o {columns}"
    ));
    screen.block(&parts.api.kubectl.ok(&args).await?);
    Ok(())
}

async fn show_record(screen: &Screen, parts: &Parts) -> Result<()> {
    let record = parts.catalog.get(CATALOG_ID).await?;
    screen.command(&format!(
        "curl $CATALOG/api/v1/services/{CATALOG_ID} | jq -c '.health[] | {{health, healthy, total}}'"
    ));
    let told = health_of(&record);
    let part = |name: &str| told[name].clone();
    let told =
        json!({"health": part("health"), "healthy": part("healthy"), "total": part("total")});
    screen.block(&told.to_string());
    Ok(())
}

/// What the catalog was told, without who told it.
fn health_of(record: &Value) -> Value {
    let reports = record["health"].as_array();
    reports
        .and_then(|reports| reports.first())
        .cloned()
        .unwrap_or_default()
}

/// The part of the record that its owner writes.
fn owned(record: &Value) -> Value {
    let mut record = record.clone();
    if let Some(fields) = record.as_object_mut() {
        for reported in ["revision", "health", "endpoints", "createdAt", "updatedAt"] {
            fields.remove(reported);
        }
    }
    record
}

/// What the client that never stopped saw.
async fn end(screen: &Screen, client: Client, out: Instant, fault: Fault) -> Result<()> {
    client.has_sent_since(out, ENOUGH).await?;
    let seen = client.stop().await;
    let bad = |since: Option<Instant>| {
        let all = seen.iter().filter(|(_, status)| *status != 200);
        all.filter(|(at, _)| since.is_none_or(|since| *at >= since))
            .count()
    };
    let after = seen.iter().filter(|(at, _)| *at >= out).count();
    screen.holds(&format!(
        "{} requests meanwhile; of the {after} since it left Envoy not one failed",
        seen.len()
    ));
    let before = bad(None);
    if before > 0 {
        screen.say(&format!(
            "Of those before, {before} failed: {}, as long as nobody knew.",
            words(fault)
        ));
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (_, status) in &seen {
        *kinds.entry(format!("status {status}")).or_default() += 1;
    }
    screen.block(&view::tally(&kinds));
    ensure!(
        bad(Some(out)) == 0,
        "{} failed after it left",
        bad(Some(out))
    );
    Ok(())
}

fn words(fault: Fault) -> &'static str {
    match fault {
        Fault::Answers500 => "it answers 500",
        Fault::Hangs => "it hangs",
        Fault::Refuses => "nobody listens there",
        Fault::Disappears => "its Pod is deleted",
    }
}

/// Sends requests one after the other, each to be answered by anybody.
struct Client {
    task: JoinHandle<Vec<(Instant, u16)>>,
    /// When each request was sent.
    sent: tokio::sync::watch::Receiver<Vec<Instant>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Client {
    fn start(envoy: Arc<Envoy>, host: String) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (times, sent_at) = tokio::sync::watch::channel(Vec::new());
        let task = tokio::spawn(async move {
            let mut seen = Vec::new();
            while !*stopped.borrow() {
                let sent = Instant::now();
                let answer = envoy.get(&host, "/").await;
                seen.push((sent, answer.map_or(0, |answer| answer.status)));
                times.send_modify(|times| times.push(sent));
                tokio::time::sleep(EVERY).await;
            }
            seen
        });
        Self {
            task,
            sent: sent_at,
            stop,
        }
    }

    /// Waits until it has sent so many since then.
    async fn has_sent_since(&self, then: Instant, many: usize) -> Result<()> {
        let mut sent = self.sent.clone();
        let enough = sent.wait_for(|sent| sent.iter().filter(|at| **at >= then).count() >= many);
        let waited = tokio::time::timeout(PATIENCE, enough).await;
        waited.context("the client sends too little")??;
        Ok(())
    }

    async fn stop(self) -> Vec<(Instant, u16)> {
        self.stop.send_replace(true);
        self.task.await.unwrap_or_default()
    }
}
