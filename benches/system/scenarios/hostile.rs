//! Do endpoints that answer whatever they like keep the others waiting? Good
//! ones are checked beside a hundred that are good as well, and then beside the
//! same hundred at their worst, in turns. Needs nothing of the cluster.
//!
//! When a check comes is seen by whoever is asked: checks of an endpoint are
//! planned an interval apart, so that the earliest of a turn says when each of
//! the others was due. Prober and good servers have a thread each.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use catalog_mesh_controller::domain::health::judge::Thresholds;
use catalog_mesh_controller::domain::names::{Namespace, ServiceKey, ServiceName};
use catalog_mesh_controller::health::prober::Limits;
use catalog_mesh_controller::health::target::{Ask, Check, Scheme, ServiceTargets, Targets};
use catalog_mesh_controller::metrics::Metrics;
use tokio::runtime::Builder;

use super::servers::{Arrivals, Servers};
use crate::options::Options;
use crate::report::{Goal, Report, median, quantile};
use crate::support::answers::{OK, cases};
use crate::support::peer::{Peer, Step};

const SERVICES: u8 = 8;
const ENDPOINTS: u8 = 50;
const INTERVAL: Duration = Duration::from_secs(1);

/// How much later than beside good ones the good ones may be checked.
const MOST_RATIO: f64 = 2.0;
const RATIO: &str = "lateness of the good, p99: hostile, of well";

pub(super) async fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new();
    let arrivals = Arrivals::default();
    let servers = Servers::noting(&arrivals)?;
    let canary = Peer::new(Vec::new()).await;
    let cases = cases(&canary.address.to_string());
    let mut peers = Vec::new();
    for _ in &cases {
        peers.push(Peer::new(well()).await);
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("probing")
        .enable_all()
        .build()?;
    let metrics = Metrics::new()?;
    let started = catalog_mesh_controller::health::start(Limits::default(), None, metrics.health);
    let (prober, _view, run) = started?;
    prober.set(targets(servers.address.port(), &peers)?);
    runtime.spawn(run);

    let span = options.span();
    let mut p99: BTreeMap<bool, Vec<f64>> = BTreeMap::new();
    for round in 1..=options.runs {
        for hostile in [false, true] {
            for (peer, (_, steps, _)) in peers.iter().zip(&cases) {
                peer.behave(if hostile { steps.clone() } else { well() });
            }
            // Until everybody's connections are of this turn.
            tokio::time::sleep(span / 3).await;
            arrivals.take();
            let asked: usize = peers.iter().map(Peer::connections).sum();
            tokio::time::sleep(span).await;
            let late = lateness(arrivals.take());
            let name = if hostile { "hostile" } else { "well" };
            eprintln!("{name}, round {round} of {}", options.runs);
            let due = f64::from(SERVICES) * f64::from(ENDPOINTS) * span.as_secs_f64()
                / INTERVAL.as_secs_f64();
            report.add(
                &format!("{name}: good checks of those due"),
                "",
                late.len() as f64 / due,
            );
            for (share, label) in [(0.5, "p50"), (0.99, "p99"), (1.0, "most")] {
                let value = quantile(&late, share);
                if label == "p99" {
                    p99.entry(hostile).or_default().push(value);
                }
                report.add(
                    &format!("{name}: lateness of the good, {label}"),
                    "ms",
                    value,
                );
            }
            let now: usize = peers.iter().map(Peer::connections).sum();
            report.add(
                &format!("{name}: connections to the others"),
                "",
                (now - asked) as f64,
            );
        }
    }
    let middle = |hostile| p99.get(&hostile).map_or(f64::NAN, |all| median(all));
    report.add(RATIO, "", middle(true) / middle(false));
    report.goal(RATIO, Goal::NeverAbove(MOST_RATIO));
    ensure!(canary.connections() == 0, "a redirect was followed");
    report.note(format!(
        "{} good endpoints of {SERVICES} services, each checked every second, beside {} others of \
         one service",
        u32::from(SERVICES) * u32::from(ENDPOINTS),
        cases.len()
    ));
    runtime.shutdown_background();
    Ok(report)
}

fn well() -> Vec<Step> {
    vec![Step::Read, Step::Send(OK.into())]
}

/// How late each request was, in milliseconds and in order, where those of one
/// endpoint are due an interval apart and its first in time was the best.
fn lateness(arrivals: Vec<(u32, Instant)>) -> Vec<f64> {
    let mut by_endpoint: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
    for (who, at) in arrivals {
        by_endpoint.entry(who).or_default().push(at);
    }
    let mut late = Vec::new();
    for times in by_endpoint.values() {
        let Some(first) = times.first() else { continue };
        let offsets = times.iter().scan((0.0_f64, *first), |(slot, last), at| {
            let gap = at.duration_since(*last).as_secs_f64() / INTERVAL.as_secs_f64();
            *slot += gap.round();
            *last = *at;
            Some(at.duration_since(*first).as_secs_f64() - *slot * INTERVAL.as_secs_f64())
        });
        let offsets: Vec<f64> = offsets.collect();
        let best = offsets.iter().copied().fold(f64::INFINITY, f64::min);
        late.extend(offsets.iter().map(|offset| (offset - best) * 1e3));
    }
    late.sort_by(f64::total_cmp);
    late
}

fn targets(port: u16, peers: &[Peer]) -> Result<Targets> {
    let check = Check {
        ask: Ask {
            scheme: Scheme::Http,
            path: "/health".to_owned(),
            host: "web.shop.svc.cluster.local".to_owned(),
            timeout: INTERVAL / 2,
        },
        thresholds: Thresholds {
            failures: 3,
            successes: 2,
            interval: INTERVAL,
            confirm: INTERVAL / 4,
        },
    };
    let mut targets = Targets::new();
    for of in 0..SERVICES {
        let endpoints = (1..=ENDPOINTS).map(|number| {
            let address = Ipv4Addr::new(127, 1, of, number);
            SocketAddr::from((address, port))
        });
        let service = ServiceTargets {
            check: check.clone().into(),
            endpoints: endpoints.collect(),
        };
        targets.insert(key(&format!("good-{of}"))?, service);
    }
    let endpoints = peers.iter().map(|peer| peer.address).collect();
    targets.insert(
        key("hostile")?,
        ServiceTargets {
            check: check.into(),
            endpoints,
        },
    );
    Ok(targets)
}

fn key(name: &str) -> Result<ServiceKey> {
    Ok(ServiceKey {
        namespace: Namespace::parse("shop")?,
        name: ServiceName::parse(name)?,
    })
}
