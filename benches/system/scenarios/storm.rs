//! One service of the catalog changes 10,000 times a second: what does that
//! cost, and how long do the changes of the others take meanwhile? Beside it,
//! the same changes of the others with nothing else going on, and two
//! sequential bare writes at their rate.
//!
//! No catalog over a database commits as much, so that this one is synthetic.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::time::sleep;

use crate::bed::{Bed, PERIOD, Running, settle};
use crate::fleet::Fleet;
use crate::load::open_loop;
use crate::process::Usage;
use crate::raw::{Raw, Template};
use crate::report::{Goal, Report, p99};
use crate::sightings::{Commit, Sightings};
use crate::support::synthetic::{Synthetic, Values};
use crate::support::wait;

/// Where the synthetic catalog is.
const ADDRESS: &str = "127.0.0.1:9081";

/// Changes a second of the service that does not rest.
const RATE: u32 = 10_000;

/// Changes a second of all others together: now and then one.
const OTHERS: u32 = 10;

/// How long the operator may take to hear the last event, and to store what
/// came of it.
const LAST: Duration = Duration::from_secs(60);

const PLOT: &str = "Changes of other services";

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let span = bed.options.storm();
    let changes = (f64::from(OTHERS) * span.as_secs_f64()) as usize;
    let (hot, others) = bed.ours.names.split_first().context("no binding")?;
    ensure!(!others.is_empty(), "one binding is too few");
    bed.in_force(PERIOD).await?.stop().await?;
    let template = Template::learn(&bed.ours).await?;
    eprintln!("{changes} pairs of bare writes, {OTHERS}/s ...");
    report.add_times("two bare writes", &bare(bed, &template, changes).await?);

    let catalog = Synthetic::start(ADDRESS)?;
    for name in &bed.ours.names {
        let id = Fleet::catalog_id(name);
        catalog.register(&id, &bed.ours.namespace, name, others_values(1));
    }
    let running = bed.in_force_by(&catalog.url, PERIOD).await?;
    let sightings = Sightings::watch(bed);
    settle().await;

    eprintln!("{changes} changes, {OTHERS}/s, and nothing else ...");
    let change = async |turn: usize| {
        let name = &others[turn % others.len()];
        let seconds = u32::try_from(2 + turn / others.len())?;
        catalog.put(&Fleet::catalog_id(name), others_values(seconds))?;
        Ok(Commit {
            name: name.clone(),
            seconds,
            at: Instant::now(),
        })
    };
    let idle_before = running.usage()?;
    let idle = open_loop(OTHERS, changes, change).await?;
    let idle = sightings.times(idle).await?;
    settle().await;

    eprintln!("the same beside {RATE} changes/s of one service ...");
    let (mark, before, spent) = (bed.mark().await?, running.usage()?, bed.spent().await?);
    let (heard_before, reads) = (Heard::of(&running).await?, catalog.reads());
    let count = (f64::from(RATE) * span.as_secs_f64()) as u32;
    let hot_id = Fleet::catalog_id(hot);
    let mut most = before;
    let (took, times) = tokio::select! {
        both = async { tokio::try_join!(
            catalog.storm(&hot_id, RATE, count),
            open_loop(OTHERS, changes, async |turn| change(changes + turn).await),
        ) } => both?,
        failed = memory(&running, &mut most) => return Err(failed),
    };
    let ended = Instant::now();
    let (after, asked) = (running.usage()?, bed.requests(mark).await?);
    let heard = Heard::of(&running).await?;
    let all = f64::from(count) + changes as f64;
    wait::until("the storm's last event", LAST, async || {
        let heard = Heard::of(&running).await?.updates - heard_before.updates;
        ensure!(heard == all, "{heard} of {all} were heard");
        Ok(())
    })
    .await?;
    let last_heard = ended.elapsed();
    let last = Values::after(count).timeout_ms;
    wait::until("the storm's last change", LAST, async || {
        let rule = bed.ours.rules("VirtualService").get(hot).await?;
        let is = rule.data.pointer("/spec/http/0/timeout");
        let is = is.and_then(|timeout| timeout.as_str()).unwrap_or_default();
        let is = catalog_mesh_controller::domain::duration::Millis::parse(is)?;
        ensure!(is.0 == u64::from(last), "it is {is:?}, and not {last} ms");
        Ok(())
    })
    .await?;
    let last_stored = ended.elapsed();
    let times = sightings.times(times).await?;
    settle().await;
    let (rest, at_last) = (running.usage()?, Heard::of(&running).await?);
    let beside = bed.spent().await?;
    running.stop().await?;

    let seconds = took.as_secs_f64();
    report.add(
        "changes of the one service",
        "/s",
        f64::from(count) / seconds,
    );
    let updates = heard.updates - heard_before.updates;
    report.add("events heard while it lasted", "/s", updates / seconds);
    report.add("from its end to its last event heard", "ms", ms(last_heard));
    report.add(
        "from its end to its last value stored",
        "ms",
        ms(last_stored),
    );
    report.add(
        "lists and reconnections that it caused",
        "",
        at_last.again - heard_before.again,
    );
    let of_hot = asked.writes_to(hot) as f64;
    report.add("writes for the one service", "/s", of_hot / seconds);
    let leases = asked.writes_of("leases") as f64;
    report.add("writes for the Lease", "/s", leases / seconds);
    let of_others = asked.writes() as f64 - of_hot - leases;
    report.add(
        "writes per change of the others",
        "",
        of_others / changes as f64,
    );
    report.add("answers 4xx and 5xx", "", asked.answered(400..600) as f64);
    let reads = (catalog.reads() - reads) as f64;
    report.add("reads of the catalog", "/s", reads / seconds);
    report.add_times("others, nothing else going on:", &idle);
    report.add_times("others, in the storm:", &times);
    report.add("p99 in the storm to p99 idle", "", p99(&times) / p99(&idle));
    let used = |from: Usage, to: Usage| (to.cpu_seconds - from.cpu_seconds) * 1000.0;
    let rest_of_the_time = span.as_secs_f64();
    report.add(
        "CPU, nothing else going on",
        "m",
        used(idle_before, before) / rest_of_the_time,
    );
    report.add("CPU in the storm", "m", used(before, after) / seconds);
    report.add("memory before the storm", "MiB", before.rss_mib);
    report.add("memory after it", "MiB", rest.rss_mib);
    let most = most.rss_mib.max(after.rss_mib);
    report.add(
        "growth, at the most while it lasted",
        "MiB",
        most - before.rss_mib,
    );
    for ((name, was), (_, is)) in spent.into_iter().zip(beside) {
        let name = format!("beside it: CPU of {name}");
        report.add(&name, "m", (is - was) * 1000.0 / seconds);
    }
    report.goal("writes for the one service", Goal::AtMost(10.0));
    report.goal("p99 in the storm to p99 idle", Goal::AtMost(2.0));
    report.goal("growth, at the most while it lasted", Goal::AtMost(10.0));
    report.draw(PLOT, "nothing else going on", &idle);
    report.draw(PLOT, "in the storm", &times);
    report.note(format!(
        "{} s each; {OTHERS} changes/s of {} others, all of both objects; --period {PERIOD}",
        span.as_secs(),
        others.len()
    ));
    report.note("the catalog is synthetic and runs in this program");
    // The next scenario finds what the real catalog says.
    bed.in_force(PERIOD).await?.stop().await?;
    Ok(report)
}

/// As often and as many as the changes of the others.
async fn bare(bed: &Bed, template: &Template, changes: usize) -> Result<Vec<Duration>> {
    let bound = bed.raw.bind().await?;
    let payloads: Vec<_> = bound
        .iter()
        .map(|bound| template.payload(&bed.raw, bound))
        .collect::<Result<_>>()?;
    let raw = Raw::new(&bed.bare, &bed.raw.namespace);
    raw.write_all(&payloads, 8).await?;
    settle().await;
    let pairs = raw.change_all(&payloads, OTHERS, changes).await?;
    bed.raw.clear().await?;
    Ok(pairs)
}

/// What the others say: something else of both objects each time.
fn others_values(seconds: u32) -> Values {
    Values {
        timeout_ms: seconds * 1_000,
        errors: 1 + seconds % 100,
    }
}

/// Notes the most memory that it has, once a second; ends with a failure only.
async fn memory(running: &Running, most: &mut Usage) -> anyhow::Error {
    loop {
        match running.usage() {
            Ok(usage) if usage.rss_mib > most.rss_mib => *most = usage,
            Ok(_) => {}
            Err(error) => return error,
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// What the operator has heard of the catalog.
struct Heard {
    updates: f64,
    /// Complete lists and opened streams.
    again: f64,
}

impl Heard {
    async fn of(running: &Running) -> Result<Self> {
        let samples = running.metrics().await?;
        let sum = |name: &str, labels: &[&str]| samples.sum(name, labels).unwrap_or_default();
        let updated = [r#"type="ServiceUpdated""#];
        Ok(Self {
            updates: sum("catalog_mesh_catalog_events_total", &updated),
            again: sum("catalog_mesh_catalog_lists_total", &[])
                + sum("catalog_mesh_catalog_stream_connections_total", &[]),
        })
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
