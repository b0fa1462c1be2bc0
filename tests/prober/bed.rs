//! A prober, one service after the other that it checks, and what it says.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use catalog_mesh_controller::domain::health::judge::{Thresholds, Verdict};
use catalog_mesh_controller::domain::names::{Namespace, ServiceKey, ServiceName};
use catalog_mesh_controller::health::prober::{Limits, Prober};
use catalog_mesh_controller::health::target::{Ask, Check, Scheme, ServiceTargets, Targets};
use catalog_mesh_controller::health::view::HealthView;
use catalog_mesh_controller::metrics::Metrics;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The longest that a test waits for a verdict.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Bed {
    pub(crate) prober: Prober,
    pub(crate) view: HealthView,
    pub(crate) metrics: Metrics,
    task: JoinHandle<()>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bed {
    pub(crate) fn new(certificates: Option<&Path>) -> Self {
        let metrics = Metrics::new().unwrap();
        let folder = certificates.map(Path::to_owned);
        let started = catalog_mesh_controller::health::start(
            Limits::default(),
            folder,
            metrics.health.clone(),
        );
        let (prober, view, run) = started.unwrap();
        let task = tokio::spawn(run);
        Self {
            prober,
            view,
            metrics,
            task,
        }
    }

    /// Checks these endpoints as service `shop/web`, and nothing else.
    pub(crate) fn check(&self, check: Check, endpoints: impl IntoIterator<Item = SocketAddr>) {
        let endpoints = endpoints.into_iter().collect();
        let targets = ServiceTargets {
            check: check.into(),
            endpoints,
        };
        self.prober.set(Targets::from([(key(), targets)]));
    }

    pub(crate) fn verdict(&self, address: SocketAddr) -> Verdict {
        let endpoint = self.view.endpoint(&key(), address.into());
        endpoint.map_or(Verdict::Pending, |endpoint| endpoint.verdict)
    }

    /// Waits for the endpoint to be judged so.
    pub(crate) async fn is(&self, address: SocketAddr, expected: Verdict) {
        let judged = timeout(PATIENCE, async {
            while self.verdict(address) != expected {
                sleep(Duration::from_millis(5)).await;
            }
        });
        let verdict = || self.verdict(address);
        assert!(judged.await.is_ok(), "{:?}, not {expected:?}", verdict());
    }

    /// Waits for the first verdict on an endpoint.
    pub(crate) async fn judged(&self, address: SocketAddr) -> Verdict {
        let judged = timeout(PATIENCE, async {
            while self.verdict(address) == Verdict::Pending {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(judged.await.is_ok(), "{address} is not judged");
        self.verdict(address)
    }

    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = self.metrics.exposition().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value
            .unwrap_or_else(|| panic!("{series}"))
            .trim()
            .parse()
            .unwrap()
    }
}

pub(crate) fn key() -> ServiceKey {
    ServiceKey {
        namespace: Namespace::parse("shop").unwrap(),
        name: ServiceName::parse("web").unwrap(),
    }
}

/// A check by which one answer makes a verdict.
pub(crate) fn check(scheme: Scheme, interval_ms: u64) -> Check {
    let interval = Duration::from_millis(interval_ms);
    Check {
        ask: Ask {
            scheme,
            path: "/health".to_owned(),
            host: "web.shop.svc.cluster.local".to_owned(),
            timeout: Duration::from_millis(1000),
        },
        thresholds: Thresholds {
            failures: 1,
            successes: 1,
            interval,
            confirm: interval,
        },
    }
}
