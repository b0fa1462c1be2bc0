//! An endpoint dies: how long until its Pod is labelled and a proxy has dropped
//! it, and how long until it is back when it has healed? Beside it, what the mesh
//! alone takes for such a label. Endpoints die at times of their own,
//! and requests follow.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, PERIOD, settle};
use crate::report::Report;
use crate::support::backend::Behaviour;
use crate::support::envoy::{Envoy, Options};
use crate::support::wait;
use crate::support::workload::{SERVICE_PORT, Workload, ZONES};

const DRAINING: &str = "istio.io/draining";

/// How often is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(100);

/// How long is waited for anything of one endpoint.
const PATIENCE: Duration = Duration::from_secs(120);

/// Services for each way to fail and each setting.
const EACH: usize = 4;

/// How an endpoint is checked.
#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    interval_ms: u64,
    timeout_ms: u64,
}

/// As the example has it, and a quick one.
const SETTINGS: [Setting; 2] = [
    Setting {
        name: "10 s, 3 s",
        interval_ms: 10_000,
        timeout_ms: 3_000,
    },
    Setting {
        name: "1 s, 300 ms",
        interval_ms: 1_000,
        timeout_ms: 300,
    },
];

/// How it fails.
#[derive(Clone, Copy)]
enum Fault {
    Refuses,
    Answers500,
    Hangs,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Refuses => "refuses",
            Self::Answers500 => "answers 500",
            Self::Hangs => "hangs",
        }
    }
}

const FAULTS: [Fault; 3] = [Fault::Refuses, Fault::Answers500, Fault::Hangs];

/// What became of one endpoint.
struct Times {
    labelled: Duration,
    dropped: Duration,
    back: Duration,
    failed_after: usize,
    sent_after: usize,
}

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let namespace = bed.rig.namespace("dying").await?;
    let zones = [ZONES[0], ZONES[1], ZONES[0]];
    eprintln!(
        "making {} Services ...",
        EACH * FAULTS.len() * SETTINGS.len()
    );
    let mut cases = Vec::new();
    for setting in SETTINGS {
        for fault in FAULTS {
            for _ in 0..EACH {
                let name = format!("web-{}", cases.len());
                let workload = bed.rig.workload(&namespace, &name, &zones).await?;
                cases.push((setting, fault, workload));
            }
        }
    }
    let envoy = bed.rig.envoy(&Options::in_namespace(&namespace)).await?;
    for (_, _, workload) in &cases {
        envoy.wait_for_endpoints(&workload.host(), 3).await?;
    }

    eprintln!("labels by a bare client ...");
    let mut bare = Vec::new();
    for (_, _, workload) in &cases {
        bare.push(labelled_by_hand(&envoy, workload).await?);
    }
    report.add_times("a bare label until Envoy has dropped it", &bare);

    for (setting, _, workload) in &cases {
        bed.catalog.put(&record(workload, *setting)).await?;
    }
    let running = bed.operator(PERIOD).await?;
    running.listed().await?;
    eprintln!("waiting until every endpoint has answered ...");
    wait::until("healthy endpoints", PATIENCE, async || {
        let metrics = running.metrics().await?;
        let healthy = metrics.sum("catalog_mesh_healthy_endpoints", &[]);
        let all = 3 * cases.len();
        ensure!(healthy == Some(all as f64), "{healthy:?} of {all} are");
        Ok(())
    })
    .await?;
    settle().await;

    for round in 1..=bed.options.runs {
        eprintln!("round {round} of {} ...", bed.options.runs);
        let all = cases.iter().enumerate();
        let all = all.map(|(n, (setting, fault, workload))| {
            // Each at another point of its interval.
            let phase = setting.interval_ms * (n % EACH) as u64 / EACH as u64;
            die(&envoy, workload, *fault, Duration::from_millis(phase))
        });
        let times = try_join_all(all).await?;
        for setting in SETTINGS {
            for fault in FAULTS {
                let of = cases
                    .iter()
                    .zip(&times)
                    .filter(|((s, f, _), _)| s.name == setting.name && f.name() == fault.name());
                let of: Vec<_> = of.map(|(_, times)| times).collect();
                let name = format!("{}: {}", setting.name, fault.name());
                let list = |of: &[&Times], time: fn(&Times) -> Duration| {
                    of.iter().map(|times| time(times)).collect::<Vec<_>>()
                };
                report.add_times(&format!("{name}, labelled"), &list(&of, |t| t.labelled));
                report.add_times(&format!("{name}, dropped"), &list(&of, |t| t.dropped));
                report.add_times(&format!("{name}, back"), &list(&of, |t| t.back));
            }
        }
        let sum = |of: fn(&Times) -> usize| times.iter().map(of).sum::<usize>() as f64;
        report.add("requests after the drop", "", sum(|t| t.sent_after));
        report.add("of these failed", "", sum(|t| t.failed_after));
    }
    report.note(format!(
        "{EACH} Services of three endpoints each for every way to fail, all at once; looked at every \
         {} ms; a hundred requests through Envoy, one every 20 ms, follow each drop",
        LOOK.as_millis()
    ));
    running.stop().await?;
    for (_, _, workload) in &cases {
        bed.catalog.delete(&workload.name).await?;
    }
    Ok(report)
}

/// The entry of a Service in the catalog.
fn record(workload: &Workload, setting: Setting) -> Value {
    json!({
        "id": workload.name,
        "name": workload.name,
        "namespace": workload.namespace,
        "healthCheck": {
            "endpoint": "/health",
            "interval": format!("{}ms", setting.interval_ms),
            "timeout": format!("{}ms", setting.timeout_ms),
        },
    })
}

/// Lets one endpoint die and heal.
async fn die(envoy: &Envoy, workload: &Workload, fault: Fault, phase: Duration) -> Result<Times> {
    let bad = &workload.pods[1];
    sleep(phase).await;
    let died = Instant::now();
    match fault {
        Fault::Refuses => bad.backend.stop(),
        Fault::Answers500 => bad.backend.behave(Behaviour::Status(500)),
        Fault::Hangs => bad.backend.behave(Behaviour::Hang),
    }
    let labelled = async {
        until(async || Ok(label(workload).await?.is_some())).await?;
        anyhow::Ok(died.elapsed())
    };
    let dropped = async {
        until(async || Ok(count(envoy, workload).await? == 2)).await?;
        anyhow::Ok(died.elapsed())
    };
    let (labelled, dropped) = tokio::try_join!(labelled, dropped)?;
    let (mut sent_after, mut failed_after) = (0, 0);
    for _ in 0..100 {
        sent_after += 1;
        let answer = envoy.get(&workload.host(), "/").await?;
        failed_after += usize::from(answer.status != 200);
        sleep(Duration::from_millis(20)).await;
    }
    let healed = Instant::now();
    match fault {
        Fault::Refuses => bad.backend.start_again().await?,
        Fault::Answers500 | Fault::Hangs => bad.backend.recover(),
    }
    until(async || Ok(count(envoy, workload).await? == 3)).await?;
    Ok(Times {
        labelled,
        dropped,
        back: healed.elapsed(),
        failed_after,
        sent_after,
    })
}

/// What the mesh takes for a label alone.
async fn labelled_by_hand(envoy: &Envoy, workload: &Workload) -> Result<Duration> {
    set_label(workload, json!("bare")).await?;
    let began = Instant::now();
    until(async || Ok(count(envoy, workload).await? == 2)).await?;
    let took = began.elapsed();
    set_label(workload, Value::Null).await?;
    until(async || Ok(count(envoy, workload).await? == 3)).await?;
    Ok(took)
}

async fn set_label(workload: &Workload, value: Value) -> Result<()> {
    let patch = json!({"metadata": {"labels": {DRAINING: value}}});
    let patch = Patch::Merge(patch);
    let name = &workload.pods[1].name;
    pods(workload)
        .patch(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn label(workload: &Workload) -> Result<Option<String>> {
    let pod = pods(workload).get(&workload.pods[1].name).await?;
    Ok(pod.metadata.labels.unwrap_or_default().remove(DRAINING))
}

fn pods(workload: &Workload) -> Api<Pod> {
    workload.pods_api()
}

/// How many endpoints Envoy has, also of those that it leaves out itself.
async fn count(envoy: &Envoy, workload: &Workload) -> Result<usize> {
    let all = envoy.endpoints(&workload.host(), SERVICE_PORT).await?;
    Ok(all.len())
}

async fn until(is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so().await? {
        ensure!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain");
        sleep(LOOK).await;
    }
    Ok(())
}
