//! Endpoints that are well are checked while whoever checks is not: how often
//! is one taken for dead? The prober stands still, gets a tenth of its time, has
//! its network taken away, and is given more than it can do, in turns, with
//! rests in between. Needs nothing of the cluster.
//!
//! Prober and servers have a thread each, so that the one can be stopped and
//! not the other. At the end a server really dies, and comes back: whoever
//! takes nobody for dead is not to pass for careful.

use std::collections::{BTreeMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::domain::health::judge::{Thresholds, Verdict};
use catalog_mesh_controller::domain::names::{Namespace, ServiceKey, ServiceName};
use catalog_mesh_controller::health::prober::{Limits, Prober};
use catalog_mesh_controller::health::target::{Ask, Check, Scheme, ServiceTargets, Targets};
use catalog_mesh_controller::health::view::HealthView;
use catalog_mesh_controller::metrics::Metrics;
use tokio::runtime::{Builder, Runtime};

use super::servers::Servers;
use crate::options::Options;
use crate::report::Report;
use crate::support::cut::{Cut, Way};
use crate::support::metrics::Samples;

const SERVICES: u8 = 16;
/// Of each service. More would be more files than a process may have open.
const ENDPOINTS: u16 = 256;
const INTERVAL: Duration = Duration::from_secs(1);
/// More than can be done: 200,000 checks a second.
const TOO_OFTEN: Duration = Duration::from_millis(20);

/// What befalls whoever checks.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    None,
    /// He stands still all the time.
    StandsStill,
    /// He runs for a tenth of each of these times.
    Starves(Duration),
    /// His network is gone.
    Cut(Way),
    /// He is given more than he can do.
    Overload,
}

/// What happens, for how many seconds, over and over. Verdicts are held for a
/// third of a rest still.
const ROUND: [(Trouble, u64); 12] = [
    (Trouble::None, 15),
    (Trouble::StandsStill, 10),
    (Trouble::None, 15),
    (Trouble::Starves(Duration::from_millis(100)), 10),
    (Trouble::Starves(Duration::from_secs(1)), 10),
    (Trouble::None, 15),
    (Trouble::Cut(Way::Blocked), 10),
    (Trouble::None, 15),
    (Trouble::Cut(Way::Swallowed), 10),
    (Trouble::None, 15),
    (Trouble::Overload, 5),
    (Trouble::None, 15),
];

/// How many changes of verdicts are shown.
const MOST_SHOWN: usize = 20;

/// How long anything may take before a run is given up.
const PATIENCE: Duration = Duration::from_secs(120);

impl Trouble {
    fn name(self) -> String {
        match self {
            Self::None => "nothing".to_owned(),
            Self::StandsStill => "stands still".to_owned(),
            Self::Starves(each) => format!("a tenth of each {} ms", each.as_millis()),
            Self::Cut(Way::Blocked) => "network blocked".to_owned(),
            Self::Cut(Way::Swallowed) => "network swallows".to_owned(),
            Self::Overload => "more than can be done".to_owned(),
        }
    }
}

/// Why answers are set aside, as the metrics name it.
const REASONS: [&str; 5] = ["doubt", "late", "own", "unwitnessed", "unknown"];

/// What the metrics have counted.
struct Counted {
    checks: f64,
    /// Those of which something was made, so that a verdict could have moved.
    judged: f64,
    /// The others, by reason.
    aside: [f64; REASONS.len()],
}

/// What one kind of trouble saw.
#[derive(Default)]
struct Turns {
    checks: f64,
    judged: f64,
    took: Duration,
    held: bool,
}

/// The prober and what is known of it.
struct Soak {
    /// There until the end.
    runtime: Option<Runtime>,
    prober: Prober,
    view: HealthView,
    metrics: Metrics,
    port: u16,
    /// Endpoints of each service.
    each: u16,
    /// Changes of verdicts beside the first ones, each once.
    moved: Arc<Mutex<HashSet<String>>>,
}

pub(super) async fn run(options: &Options) -> Result<Report> {
    let servers = Servers::start()?;
    let each = if options.quick {
        ENDPOINTS / 4
    } else {
        ENDPOINTS
    };
    let soak = Soak::start(servers.address.port(), each)?;
    let all = usize::from(SERVICES) * usize::from(each);
    soak.wait("all to be healthy", |soak| soak.healthy() == all)
        .await?;
    let mut report = Report::new();
    let mut by_trouble: BTreeMap<String, Turns> = BTreeMap::new();
    let (began, first) = (Instant::now(), soak.counted()?);
    let mut rounds = 0;
    let mut judged = 0.0;
    while judged < options.probes() as f64 {
        rounds += 1;
        for (trouble, seconds) in ROUND {
            let span = Duration::from_secs(seconds) / if options.quick { 2 } else { 1 };
            let (from, at) = (soak.counted()?, Instant::now());
            let held = soak.suffer(trouble, span).await?;
            let now = soak.counted()?;
            let turns = by_trouble.entry(trouble.name()).or_default();
            turns.checks += now.checks - from.checks;
            turns.judged += now.judged - from.judged;
            turns.took += at.elapsed();
            turns.held |= held;
            eprintln!(
                "round {rounds}, {}: {} checks so far, {} judged, {} false, held: {held}",
                trouble.name(),
                now.checks - first.checks,
                now.judged - first.judged,
                soak.moved()
            );
        }
        soak.wait("verdicts to move again", |soak| soak.view.held().is_none())
            .await?;
        let now = soak.counted()?.judged - first.judged;
        ensure!(
            now > judged,
            "no check was judged in a round: this machine is too slow"
        );
        judged = now;
    }
    let (last, took) = (soak.counted()?, began.elapsed());
    let false_ones = soak.moved();
    report.add("checks", "", last.checks - first.checks);
    report.add("of these judged", "", last.judged - first.judged);
    for (reason, (now, before)) in REASONS.iter().zip(last.aside.iter().zip(first.aside)) {
        report.add(&format!("of these set aside: {reason}"), "", now - before);
    }
    report.add("time", "s", took.as_secs_f64());
    report.add(
        "verdicts that moved though nobody was ill",
        "",
        false_ones as f64,
    );
    if false_ones > 0 {
        report.wrong(format!("{false_ones} verdicts moved though nobody was ill"));
    }
    for (name, turns) in by_trouble {
        report.add(&format!("{name}: checks"), "", turns.checks);
        report.add(&format!("{name}: of these judged"), "", turns.judged);
        let rate = turns.checks / turns.took.as_secs_f64();
        report.add(&format!("{name}: checks a second"), "/s", rate);
        // Rests have something of the trouble before them.
        if name != Trouble::None.name() {
            let held = f64::from(u8::from(turns.held));
            report.add(&format!("{name}: verdicts held"), "", held);
        }
    }
    // Is whoever is really ill found?
    let ill = SocketAddr::from((address(7, 7), soak.port));
    servers.die(Some(address(7, 7)));
    let died = Instant::now();
    soak.wait("the death of a server", |soak| {
        matches!(soak.verdict(ill), Some(Verdict::Unhealthy(_)))
    })
    .await?;
    report.add("a death is found after", "s", died.elapsed().as_secs_f64());
    servers.die(None);
    soak.wait("its return", |soak| {
        soak.verdict(ill) == Some(Verdict::Healthy)
    })
    .await?;
    soak.wait("both to be noted, and nothing else", |soak| {
        soak.moved() == false_ones + 2
    })
    .await?;
    report.note(format!(
        "{rounds} rounds; {all} endpoints of {SERVICES} services, each checked every {} ms, \
         timeout 500 ms, 3 failures",
        INTERVAL.as_millis()
    ));
    Ok(report)
}

impl Soak {
    fn start(port: u16, each: u16) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("probing")
            .enable_all()
            .build()?;
        let metrics = Metrics::new()?;
        let started =
            catalog_mesh_controller::health::start(Limits::default(), None, metrics.health.clone());
        let (prober, view, run) = started?;
        prober.set(targets(port, each, INTERVAL)?);
        runtime.spawn(run);
        let moved = Arc::new(Mutex::new(HashSet::new()));
        tokio::spawn(note(view.clone(), Arc::clone(&moved)));
        Ok(Self {
            runtime: Some(runtime),
            prober,
            view,
            metrics,
            port,
            each,
            moved,
        })
    }

    /// Goes through a trouble; whether verdicts were held in it.
    async fn suffer(&self, trouble: Trouble, span: Duration) -> Result<bool> {
        let end = Instant::now() + span;
        let mut cut = None;
        match trouble {
            Trouble::None => {}
            Trouble::StandsStill => {
                self.spawn(async move { std::thread::sleep(span) });
            }
            Trouble::Starves(each) => {
                self.spawn(async move {
                    while Instant::now() < end {
                        std::thread::sleep(each * 9 / 10);
                        tokio::time::sleep(each / 10).await;
                    }
                });
            }
            Trouble::Cut(way) => {
                let networks: Vec<_> = (0..SERVICES).map(|of| (network(of), 16)).collect();
                cut = Some(Cut::make(way, &networks).await?);
            }
            Trouble::Overload => self.set(TOO_OFTEN)?,
        }
        let mut held = false;
        while Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(100)).await;
            held |= self.view.held().is_some();
        }
        if let Some(cut) = cut {
            cut.mend().await?;
        }
        if matches!(trouble, Trouble::Overload) {
            self.set(INTERVAL)?;
        }
        // That he stood still he notices when he moves again.
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(held | self.view.held().is_some())
    }

    /// Has every endpoint checked so often.
    fn set(&self, interval: Duration) -> Result<()> {
        self.prober.set(targets(self.port, self.each, interval)?);
        Ok(())
    }

    /// Runs this in the place of the prober.
    fn spawn(&self, what: impl Future<Output = ()> + Send + 'static) {
        if let Some(runtime) = &self.runtime {
            runtime.spawn(what);
        }
    }

    fn samples(&self) -> Result<Samples> {
        Ok(Samples::parse(&self.metrics.exposition()?))
    }

    fn counted(&self) -> Result<Counted> {
        let samples = self.samples()?;
        let checks = samples.sum("catalog_mesh_health_check_duration_seconds_count", &[]);
        let judged = samples.sum("catalog_mesh_health_check_total", &[]);
        let aside = REASONS.map(|reason| {
            let label = format!("reason=\"{reason}\"");
            let count = samples.sum("catalog_mesh_health_answers_set_aside_total", &[&label]);
            count.unwrap_or_default()
        });
        Ok(Counted {
            checks: checks.context("nothing is counted")?,
            judged: judged.context("nothing is judged")?,
            aside,
        })
    }

    fn healthy(&self) -> usize {
        let healthy = |of| {
            let report = service(of).ok().and_then(|key| self.view.service(&key));
            report.map_or(0, |report| report.counts.healthy as usize)
        };
        (0..SERVICES).map(healthy).sum()
    }

    fn verdict(&self, address: SocketAddr) -> Option<Verdict> {
        let endpoint = self.view.endpoint(&service(7).ok()?, address.into())?;
        Some(endpoint.verdict)
    }

    fn moved(&self) -> usize {
        let moved = self.moved.lock();
        moved.unwrap_or_else(PoisonError::into_inner).len()
    }

    async fn wait(&self, what: &str, is: impl Fn(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !is(self) {
            ensure!(Instant::now() < until, "waited in vain for {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Notes each change of a verdict, but for those by which all begins.
async fn note(view: HealthView, moved: Arc<Mutex<HashSet<String>>>) {
    loop {
        for key in view.changed().await {
            let endpoints = view.service(&key).map(|report| report.endpoints);
            for endpoint in endpoints.into_iter().flatten() {
                let address = endpoint.address;
                let changes = endpoint.history.into_iter();
                let changes = changes
                    .filter(|change| change.from != Verdict::Pending)
                    .map(|change| format!("{address} {change:?}"));
                let mut moved = moved.lock().unwrap_or_else(PoisonError::into_inner);
                for change in changes {
                    if !moved.contains(&change) && moved.len() < MOST_SHOWN {
                        eprintln!("{change}");
                    }
                    moved.insert(change);
                }
            }
        }
    }
}

fn service(of: u8) -> Result<ServiceKey> {
    Ok(ServiceKey {
        namespace: Namespace::parse("shop")?,
        name: ServiceName::parse(&format!("web-{of}"))?,
    })
}

/// All of 127.0.0.0/8 is this machine.
fn network(of: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 1 + of, 0, 0)
}

fn address(of: u8, number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    let [first, second, ..] = network(of).octets();
    Ipv4Addr::new(first, second, high, low)
}

fn targets(port: u16, each: u16, interval: Duration) -> Result<Targets> {
    let check = Check {
        ask: Ask {
            scheme: Scheme::Http,
            path: "/health".to_owned(),
            host: "web.shop.svc.cluster.local".to_owned(),
            timeout: Duration::from_millis(500),
        },
        thresholds: Thresholds {
            failures: 3,
            successes: 2,
            interval,
            confirm: INTERVAL / 4,
        },
    };
    let mut targets = Targets::new();
    for of in 0..SERVICES {
        let endpoints = (1..=each)
            .map(|number| SocketAddr::from((address(of, number), port)))
            .collect();
        let check = check.clone();
        targets.insert(
            service(of)?,
            ServiceTargets {
                check: check.into(),
                endpoints,
            },
        );
    }
    Ok(targets)
}
