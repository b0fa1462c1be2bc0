//! Ten endpoints serve behind every Service: what does the operator cost while
//! nothing changes, with no checks, with one a minute, and with one every ten
//! seconds? CPU, memory and writes, of its process alone.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::time::sleep;

use super::servers::Servers;
use crate::bed::{Bed, PATIENCE, PERIOD, Running};
use crate::endpoints;
use crate::fleet::for_each;
use crate::report::{Goal, Report};
use crate::support::wait;

const EACH: usize = 10;

/// Checks that are made at the same moment of the first round have to spread,
/// and what was needed to start has to be given back.
const SETTLED: Duration = Duration::from_secs(30);

/// How often an endpoint is checked.
const CHECKS: [(&str, Option<u64>); 3] = [
    ("no checks", None),
    ("checked every 60 s", Some(60)),
    ("checked every 10 s", Some(10)),
];

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let servers = Servers::start()?;
    let (size, span) = (bed.ours.names.len(), bed.options.span());
    endpoints::serve(&bed.rig.client, &bed.ours, EACH, servers.address.port()).await?;
    for (name, interval) in CHECKS {
        eprintln!("{name} ...");
        check(bed, interval).await?;
        let running = bed.in_force(PERIOD).await?;
        if interval.is_some() {
            healthy(&running, size * EACH).await?;
        }
        // Ten thousand bindings are told of their health one after the other.
        bed.calm(&running).await?;
        sleep(SETTLED).await;
        let peak = running.usage()?.peak_rss_mib;
        // One whole round at least.
        let span = span.max(Duration::from_secs(interval.unwrap_or_default()));
        let (mark, before) = (bed.mark().await?, running.usage()?);
        let made = checks(&running).await?;
        sleep(span).await;
        let (after, asked) = (running.usage()?, bed.requests(mark).await?);
        let made = checks(&running).await? - made;
        running.stop().await?;

        let seconds = span.as_secs_f64();
        let used = (after.cpu_seconds - before.cpu_seconds) * 1000.0 / seconds;
        let writes = asked.writes() - asked.writes_of("leases");
        report.add(&format!("{name}: checks"), "/s", made / seconds);
        report.add(&format!("{name}: CPU"), "m", used);
        report.add(
            &format!("{name}: writes but the Lease's"),
            "",
            writes as f64,
        );
        report.add(&format!("{name}: memory"), "MiB", after.rss_mib);
        report.add(
            &format!("{name}: memory at its peak, from the start"),
            "MiB",
            peak,
        );
        let share = peak / after.rss_mib;
        report.add(&format!("{name}: peak to settled"), "", share);
        goals(&mut report, name, interval, size);
    }
    report.note(format!(
        "{size} Services of {EACH} endpoints each, {} s or a whole round of checks with --period {PERIOD}, \
         {} s after all was written; connections are made anew for each check, as they are from 5 s up",
        span.as_secs(),
        SETTLED.as_secs()
    ));
    check(bed, None).await?;
    Ok(report)
}

/// What is asked for, of the sizes that something is asked for.
fn goals(report: &mut Report, name: &str, interval: Option<u64>, size: usize) {
    let mut goal = |what: &str, goal| report.goal(&format!("{name}: {what}"), goal);
    goal("writes but the Lease's", Goal::AtMost(0.0));
    goal("peak to settled", Goal::AtMost(1.3));
    match size {
        1_000 => goal("memory", Goal::AtMost(30.0)),
        10_000 => goal("memory", Goal::AtMost(140.0)),
        _ => {}
    }
    match interval {
        None => goal("CPU", Goal::AtMost(5.0)),
        Some(10) if size == 1_000 => goal("CPU", Goal::AtMost(130.0)),
        Some(_) => {}
    }
}

/// Has the catalog ask for a check of every service, or for none.
async fn check(bed: &Bed, interval: Option<u64>) -> Result<()> {
    for_each(&bed.ours.names, 16, async |name: &String| {
        let mut record = bed.ours.record(name, 1, 5);
        if let Some(seconds) = interval {
            record["healthCheck"] = json!({
                "endpoint": "/health",
                "interval": format!("{seconds}s"),
            });
        }
        bed.catalog.put(&record).await
    })
    .await
}

/// Waits until so many endpoints have answered.
async fn healthy(running: &Running, count: usize) -> Result<()> {
    wait::until("healthy endpoints", PATIENCE, async || {
        let metrics = running.metrics().await?;
        let healthy = metrics.sum("catalog_mesh_healthy_endpoints", &[]);
        ensure!(healthy == Some(count as f64), "{healthy:?} of {count} are");
        Ok(())
    })
    .await
}

/// How many checks were made so far.
async fn checks(running: &Running) -> Result<f64> {
    let metrics = running.metrics().await?;
    let made = metrics.sum("catalog_mesh_health_check_duration_seconds_count", &[]);
    made.context("checks are not counted")
}
