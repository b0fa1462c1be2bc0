//! What does a connection cost that is kept between two checks, and what does
//! one that is made anew? The prober with intervals on both sides of its limit,
//! and bare hyper, each with many connections that are idle nearly all the time.
//!
//! Each is a process of its own, so that nothing of the servers or of the one
//! before is counted. What the kernel holds of a socket is not in it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use catalog_mesh_controller::health::prober::Limits;
use catalog_mesh_controller::metrics::Metrics;
use tokio::process::Command;
use tokio::time::sleep;

use super::probe;
use crate::options::Options;
use crate::process::Usage;
use crate::report::Report;
use crate::support::metrics::Samples;

/// Set for a process of this program that is to be nothing but a client: who it
/// is, how many connections it has, and to which server.
const KEEP: &str = "CATALOG_MESH_BENCH_KEEP";

/// Connections; both ends of all of them are less than a process may have open.
const CONNECTIONS: u16 = 8_000;

/// Just short enough for a connection to be kept, and just too long.
const KEPT: Duration = Duration::from_millis(4_999);
const CLOSED: Duration = Duration::from_secs(5);

/// For so many intervals CPU is counted.
const INTERVALS: u32 = 3;

/// Adds what one round finds.
pub(super) async fn measure(
    options: &Options,
    server: SocketAddr,
    report: &mut Report,
) -> Result<()> {
    let count = if options.quick {
        CONNECTIONS / 8
    } else {
        CONNECTIONS
    };
    let each = |more: f64| more * 1024.0 / f64::from(count);
    let hyper = client("hyper", count, server).await?;
    report.add(
        "idle connection: bare hyper, memory",
        "KiB",
        each(hyper.memory),
    );
    let kept = client("kept", count, server).await?;
    let closed = client("closed", count, server).await?;
    report.add(
        "idle connection: prober, memory",
        "KiB",
        each(kept.memory - closed.memory),
    );
    report.add(
        "endpoint without a connection: prober, memory",
        "KiB",
        each(closed.memory),
    );
    for (name, of) in [
        ("every 4.999 s, kept", &kept),
        ("every 5 s, closed", &closed),
    ] {
        let name = format!("{name}: prober, CPU of a check");
        report.add(&name, "µs", of.cpu_of_one);
    }
    report.note(format!(
        "{count} idle connections; memory is what is resident beyond that of a process without any, \
         for the prober beyond that of one that closes them; the kernel's share is not in it"
    ));
    Ok(())
}

/// What such a process found of itself.
struct Found {
    /// In MiB, beyond what it had before.
    memory: f64,
    /// Of a check, in microseconds.
    cpu_of_one: f64,
}

/// Runs one and reads what it found.
async fn client(who: &str, count: u16, server: SocketAddr) -> Result<Found> {
    let output = Command::new(std::env::current_exe()?)
        .env(KEEP, format!("{who} {count} {server}"))
        .kill_on_drop(true)
        .output()
        .await?;
    let said = String::from_utf8(output.stdout)?;
    let failed = || format!("{who}: {said} {}", String::from_utf8_lossy(&output.stderr));
    let (memory, cpu) = said.trim().split_once(' ').with_context(failed)?;
    Ok(Found {
        memory: memory.parse().with_context(failed)?,
        cpu_of_one: cpu.parse().with_context(failed)?,
    })
}

/// Where this process is to be such a client and nothing else: says what it
/// costs itself.
pub(crate) fn keep_if_asked() -> Option<ExitCode> {
    let asked = std::env::var(KEEP).ok()?;
    let keep = || -> Result<Found> {
        let words: Vec<_> = asked.split(' ').collect();
        let [who, count, server] = words[..] else {
            bail!("{KEEP}={asked}");
        };
        let (count, server) = (count.parse()?, server.parse()?);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match who {
                "hyper" => hyper(count, server).await,
                "kept" => prober(count, server, KEPT).await,
                _ => prober(count, server, CLOSED).await,
            }
        })
    };
    Some(match keep() {
        Ok(found) => {
            let line = format!("{} {}\n", found.memory, found.cpu_of_one);
            let told = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
            told.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn usage() -> Result<Usage> {
    Usage::of(std::process::id())
}

/// Connections of bare hyper that have had one answer each.
async fn hyper(count: u16, server: SocketAddr) -> Result<Found> {
    let before = usage()?;
    let mut kept = Vec::new();
    for number in 0..count {
        let (service, host) = (number % probe::SERVICES, 1 + number / probe::SERVICES);
        let address = probe::address(service, host, server.port());
        let (mut sender, task) = probe::connect(address).await?;
        let response = sender.send_request(probe::request()?).await?;
        ensure!(response.status().is_success(), "{}", response.status());
        drop(response);
        sender.ready().await?;
        kept.push((sender, task));
    }
    let after = usage()?;
    ensure!(
        kept.iter().all(|(sender, _)| !sender.is_closed()),
        "a connection was closed"
    );
    Ok(Found {
        memory: after.rss_mib - before.rss_mib,
        cpu_of_one: (after.cpu_seconds - before.cpu_seconds) * 1e6 / f64::from(count),
    })
}

/// The prober with that many endpoints.
async fn prober(count: u16, server: SocketAddr, interval: Duration) -> Result<Found> {
    let before = usage()?;
    let metrics = Metrics::new()?;
    let limits = Limits::default();
    let (prober, _view, run) =
        catalog_mesh_controller::health::start(limits, None, metrics.health.clone())?;
    prober.set(probe::targets(count.into(), interval, server.port())?);
    tokio::spawn(run);
    let sum = |name| {
        let samples = Samples::parse(&metrics.exposition()?);
        samples.sum(name, &[]).context(name)
    };
    let checks = || sum("catalog_mesh_health_check_duration_seconds_count");
    // Everybody has been asked, and most of them twice.
    sleep(interval * 2).await;
    let (from, made) = (usage()?, checks()?);
    sleep(interval * INTERVALS).await;
    let (to, made) = (usage()?, checks()? - made);
    let kept = sum("catalog_mesh_health_connections_kept")?;
    let expected = if interval == KEPT {
        f64::from(count)
    } else {
        0.0
    };
    ensure!(
        (expected - kept).abs() <= f64::from(count) / 100.0,
        "{kept} connections are kept in place of {expected}"
    );
    Ok(Found {
        memory: to.rss_mib - before.rss_mib,
        cpu_of_one: (to.cpu_seconds - from.cpu_seconds) * 1e6 / made,
    })
}
