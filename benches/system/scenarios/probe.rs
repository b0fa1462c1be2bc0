//! How many endpoints can be checked, and what does a check cost? The prober,
//! and beside it bare hyper that sends the same request, against the same
//! servers on loopback, in turns; and what a connection costs that is kept
//! between two checks. Needs nothing of the cluster.
//!
//! Whoever checks has one thread, the servers another one, so that on two cores
//! neither is in the other's way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use catalog_mesh_controller::domain::health::judge::Thresholds;
use catalog_mesh_controller::domain::names::{Namespace, ServiceKey, ServiceName};
use catalog_mesh_controller::health::prober::Limits;
use catalog_mesh_controller::health::target::{Ask, Check, Scheme, ServiceTargets, Targets};
use catalog_mesh_controller::metrics::Metrics;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use super::kept;
use super::servers::Servers;
use crate::options::Options;
use crate::process;
use crate::report::{Goal, Report};

/// Name of the thread that checks, by which its time is told apart.
const PROBING: &str = "probing";

/// Checks at once: where bare hyper is at its best, or near.
const AT_ONCE: usize = 16;
pub(super) const SERVICES: u16 = 8;

/// Whether connections are kept between two checks.
#[derive(Clone, Copy)]
enum Connections {
    Kept,
    New,
}

impl Connections {
    fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept connections",
            Self::New => "new connections",
        }
    }

    /// More checks than can be made, 200,000 and 20,000 a second: so many endpoints,
    /// so often. (Up to 5 s connections are kept.)
    fn load(self) -> (u32, Duration) {
        match self {
            Self::Kept => (4_000, Duration::from_millis(20)),
            Self::New => (100_000, Duration::from_secs(5)),
        }
    }
}

pub(super) async fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new();
    let span = options.span() / 3;
    let servers = Servers::start()?;
    let address = servers.address;
    for round in 1..=options.runs {
        for connections in [Connections::Kept, Connections::New] {
            eprintln!("{}, round {round} of {}", connections.name(), options.runs);
            let name = connections.name();
            let ours = measured(span, |runtime| prober(connections, address, runtime)).await?;
            let bare = measured(span, |runtime| hyper(connections, address, runtime)).await?;
            for (who, rate, cost) in [("prober", ours.0, ours.1), ("bare hyper", bare.0, bare.1)] {
                report.add(&format!("{name}: {who}"), "/s", rate);
                report.add(&format!("{name}: {who}, CPU of one"), "µs", cost);
            }
            report.add(&format!("{name}: share of bare hyper"), "", ours.0 / bare.0);
        }
        goals(&mut report);
        eprintln!("idle connections, round {round} of {}", options.runs);
        kept::measure(options, address, &mut report).await?;
    }
    report.note(format!(
        "one thread that checks, {AT_ONCE} at once, and one that answers; the prober is given \
         more than it can do, and judges, counts and keeps time besides"
    ));
    Ok(report)
}

/// What is asked for.
fn goals(report: &mut Report) {
    for (connections, rate, share, cost) in [
        (Connections::Kept, 25_000.0, 0.5, 35.0),
        (Connections::New, 8_000.0, 0.6, 120.0),
    ] {
        let name = connections.name();
        report.goal(&format!("{name}: prober"), Goal::AtLeast(rate));
        report.goal(
            &format!("{name}: share of bare hyper"),
            Goal::AtLeast(share),
        );
        report.goal(&format!("{name}: prober, CPU of one"), Goal::AtMost(cost));
    }
}

/// Checks in a second, and CPU of each in microseconds, after a while to warm
/// up.
async fn measured(
    span: Duration,
    start: impl FnOnce(&Runtime) -> Result<Counted>,
) -> Result<(f64, f64)> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(PROBING)
        .enable_all()
        .build()?;
    let counted = start(&runtime)?;
    tokio::time::sleep(span / 4).await;
    let (began, before) = (Instant::now(), counted()?);
    let cpu = process::threads(PROBING)?;
    tokio::time::sleep(span).await;
    let (took, made) = (began.elapsed(), (counted()? - before) as f64);
    let cpu = process::threads(PROBING)? - cpu;
    runtime.shutdown_background();
    // The next one's threads have the same name.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok((made / took.as_secs_f64(), cpu * 1e6 / made))
}

type Counted = Box<dyn Fn() -> Result<u64> + Send>;

fn prober(connections: Connections, server: SocketAddr, runtime: &Runtime) -> Result<Counted> {
    let metrics = Metrics::new()?;
    let limits = Limits {
        // A quarter of these is for each service; there are enough of those.
        in_flight: AT_ONCE,
        ..Limits::default()
    };
    let (prober, _, run) =
        catalog_mesh_controller::health::start(limits, None, metrics.health.clone())?;
    let (endpoints, interval) = connections.load();
    prober.set(targets(endpoints, interval, server.port())?);
    runtime.spawn(async move {
        // The handle lives as long as the task does.
        let _prober = prober;
        run.await;
    });
    Ok(Box::new(move || {
        let text = metrics.exposition()?;
        let series = "catalog_mesh_health_check_duration_seconds_count ";
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        Ok(value.context("nothing is counted")?.parse()?)
    }))
}

/// So many endpoints, each checked so often.
pub(super) fn targets(endpoints: u32, interval: Duration, port: u16) -> Result<Targets> {
    let of_each = u16::try_from(endpoints / u32::from(SERVICES))?;
    let check = Check {
        ask: Ask {
            scheme: Scheme::Http,
            path: "/health".to_owned(),
            host: "web.shop.svc.cluster.local".to_owned(),
            timeout: Duration::from_secs(3),
        },
        thresholds: Thresholds {
            failures: 3,
            successes: 2,
            interval,
            confirm: interval,
        },
    };
    let mut targets = Targets::new();
    for service in 0..SERVICES {
        let endpoints = (1..=of_each)
            .map(|host| address(service, host, port))
            .collect();
        let key = ServiceKey {
            namespace: Namespace::parse("shop")?,
            name: ServiceName::parse(&format!("web-{service}"))?,
        };
        let check = check.clone();
        targets.insert(
            key,
            ServiceTargets {
                check: check.into(),
                endpoints,
            },
        );
    }
    Ok(targets)
}

/// All of 127.0.0.0/8 is this machine.
pub(super) fn address(service: u16, host: u16, port: u16) -> SocketAddr {
    let [high, low] = host.to_be_bytes();
    let ip = Ipv4Addr::new(127, 1 + service.to_be_bytes()[1], high, low);
    SocketAddr::from((ip, port))
}

fn hyper(connections: Connections, server: SocketAddr, runtime: &Runtime) -> Result<Counted> {
    let made = Arc::new(AtomicU64::new(0));
    for _ in 0..AT_ONCE {
        let made = Arc::clone(&made);
        runtime.spawn(async move {
            loop {
                if let Err(error) = ask(connections, server, &made).await {
                    eprintln!("bare hyper: {error:#}");
                    return;
                }
            }
        });
    }
    Ok(Box::new(move || Ok(made.load(Ordering::Relaxed))))
}

/// One connection of bare hyper.
async fn ask(connections: Connections, server: SocketAddr, made: &AtomicU64) -> Result<()> {
    let (mut sender, task) = connect(server).await?;
    loop {
        let response = sender.send_request(request()?).await?;
        anyhow::ensure!(response.status().is_success());
        made.fetch_add(1, Ordering::Relaxed);
        match connections {
            Connections::Kept => {
                // The next request waits for the end of this answer.
                drop(response);
                sender.ready().await?;
            }
            Connections::New => break,
        }
    }
    task.abort();
    Ok(())
}

/// Sends requests of bare hyper.
pub(super) type Sender = SendRequest<String>;

/// A connection of bare hyper, and the task that works on it.
pub(super) async fn connect(server: SocketAddr) -> Result<(Sender, JoinHandle<hyper::Result<()>>)> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    let (sender, connection) = handshake::<_, String>(TokioIo::new(stream)).await?;
    Ok((sender, tokio::spawn(connection)))
}

pub(super) fn request() -> Result<hyper::Request<String>> {
    Ok(hyper::Request::get("/health")
        .header("Host", "web.shop.svc.cluster.local")
        .header("User-Agent", "bench")
        .header("Accept", "*/*")
        .body(String::new())?)
}
