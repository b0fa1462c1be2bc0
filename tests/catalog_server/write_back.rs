//! The operator's reporter against the reference catalog: what both ends make
//! of positions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use catalog_mesh_controller::catalog::client::HttpCatalogConfig;
use catalog_mesh_controller::catalog::credentials::{AccessConfig, ApiUrl};
use catalog_mesh_controller::catalog::http::HttpCatalog;
use catalog_mesh_controller::catalog::report::{Endpoint, ReportedHealth};
use catalog_mesh_controller::controller::leadership::Leadership;
use catalog_mesh_controller::controller::write_back::endpoints::Listing;
use catalog_mesh_controller::controller::write_back::sender::{Sender, Surroundings};
use catalog_mesh_controller::controller::write_back::{HealthReporter, WriteBack};
use catalog_mesh_controller::domain::names::{
    BindingKey, CatalogServiceId, ClusterId, Namespace, ServiceKey, ServiceName,
};
use catalog_mesh_controller::domain::target::Target;
use catalog_mesh_controller::metrics::Metrics;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::server::{Catalog, Database, LIMIT};

on_both_databases!(
    two_clusters_keep_each_others_endpoints_and_health,
    a_late_report_of_an_old_leader_is_ignored_and_stops_it,
    a_leader_whose_lease_was_made_anew_is_heard,
);

/// Who serves, as tests would have it: the last byte of the address.
#[derive(Default)]
struct Cluster(Mutex<u8>);

impl Surroundings for Cluster {
    fn listing(&self, _: &(String, String)) -> Listing {
        let last = *self.0.lock().unwrap();
        let endpoint = Endpoint {
            address: [10, 0, 0, last].into(),
            port: 80,
            zone: None,
            ready: true,
        };
        Listing {
            endpoints: vec![endpoint],
            left_out: 0,
        }
    }

    fn is_paused(&self) -> bool {
        false
    }

    fn history(&self) -> Option<u64> {
        None
    }

    fn rival_changed(&self) {}
}

/// An operator's reporter at work, with the service `web` bound.
struct Operator {
    cluster: Arc<Cluster>,
    write_back: Arc<WriteBack>,
    leadership: Leadership,
    task: JoinHandle<()>,
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operator {
    fn start(server: &Catalog, cluster: &str, epoch: u64, serves: u8) -> Self {
        let config = HttpCatalogConfig::new(AccessConfig {
            api_url: ApiUrl::Given(server.url.clone()),
            report_url_file: None,
            api_key_file: None,
            token_file: None,
        });
        let surroundings = Arc::new(Cluster(Mutex::new(serves)));
        let (write_back, leadership) = (Arc::new(WriteBack::new(100)), Leadership::granted(epoch));
        let sender = Sender {
            write_back: Arc::clone(&write_back),
            catalog: Arc::new(HttpCatalog::new(config).unwrap()),
            cluster: ClusterId::parse(cluster).unwrap(),
            leadership: leadership.clone(),
            surroundings: Arc::clone(&surroundings) as Arc<dyn Surroundings>,
            metrics: Metrics::new().unwrap(),
        };
        let operator = Self {
            cluster: surroundings,
            write_back,
            leadership,
            task: tokio::spawn(sender.run()),
        };
        operator.write_back.claim(&key(), &target(), Some(1));
        operator
    }

    fn serve(&self, last: u8) {
        *self.cluster.0.lock().unwrap() = last;
        let service = ("ns".to_owned(), "web".to_owned());
        self.write_back.touched(&[service].into());
    }

    fn judge(&self, health: ReportedHealth) {
        let reporter = HealthReporter::new(Arc::clone(&self.write_back));
        reporter.set(&key(), &id(), health, 1, 2);
    }
}

fn id() -> CatalogServiceId {
    CatalogServiceId::parse("web-1").unwrap()
}

fn key() -> BindingKey {
    BindingKey::new("ns", "web")
}

fn target() -> Target {
    Target {
        catalog_id: id(),
        service: ServiceKey {
            namespace: Namespace::parse("ns").unwrap(),
            name: ServiceName::parse("web").unwrap(),
        },
    }
}

async fn serving(database: &Database) -> Catalog {
    let server = database.serve(&[]);
    let body = json!({ "name": "web", "namespace": "ns" });
    server
        .send(Method::PUT, "/api/v1/services/web-1", &body)
        .await;
    server
}

/// Cluster and last byte of every endpoint that the catalog has.
async fn endpoints(server: &Catalog) -> Vec<String> {
    let record = server.json("/api/v1/services/web-1").await;
    let line = |endpoint: &Value| {
        let address = endpoint["address"].as_str().unwrap();
        let last = address.rsplit('.').next().unwrap();
        format!("{} {last}", endpoint["cluster"].as_str().unwrap())
    };
    let endpoints = record["endpoints"].as_array().unwrap();
    endpoints.iter().map(line).collect()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !done().await {
        assert!(since.elapsed() < LIMIT, "waited for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_endpoints(server: &Catalog, expected: &[&str]) {
    until("the endpoints", async || {
        endpoints(server).await == expected
    })
    .await;
}

async fn two_clusters_keep_each_others_endpoints_and_health(database: Database) {
    let server = serving(&database).await;
    let east = Operator::start(&server, "east", 7, 1);
    let west = Operator::start(&server, "west", 1, 2);
    until_endpoints(&server, &["east 1", "west 2"]).await;
    east.judge(ReportedHealth::Unhealthy);
    west.judge(ReportedHealth::Healthy);
    until("the health of both", async || {
        let record = server.json("/api/v1/services/web-1").await;
        let health: Vec<_> = record["health"]
            .as_array()
            .unwrap()
            .iter()
            .map(|of| (of["cluster"].clone(), of["health"].clone()))
            .collect();
        health
            == [
                (json!("east"), json!("Unhealthy")),
                (json!("west"), json!("Healthy")),
            ]
    })
    .await;
    west.serve(3);
    until_endpoints(&server, &["east 1", "west 3"]).await;
    east.write_back.release(&key());
    until_endpoints(&server, &["west 3"]).await;
    for operator in [&east, &west] {
        assert!(!operator.write_back.has_rival());
    }
}

async fn a_late_report_of_an_old_leader_is_ignored_and_stops_it(database: Database) {
    let server = serving(&database).await;
    let old = Operator::start(&server, "east", 1, 1);
    until_endpoints(&server, &["east 1"]).await;
    let new = Operator::start(&server, "east", 2, 2);
    until_endpoints(&server, &["east 2"]).await;
    old.serve(9);
    until("the old leader's notice", async || {
        old.write_back.has_rival()
    })
    .await;
    assert_eq!(endpoints(&server).await, ["east 2"]);
    new.serve(3);
    until_endpoints(&server, &["east 3"]).await;
    assert!(!new.write_back.has_rival());
}

async fn a_leader_whose_lease_was_made_anew_is_heard(database: Database) {
    let server = serving(&database).await;
    let before = Operator::start(&server, "east", 8, 1);
    until_endpoints(&server, &["east 1"]).await;
    drop(before);
    let anew = Operator::start(&server, "east", 1, 2);
    until_endpoints(&server, &["east 2"]).await;
    assert_eq!(anew.leadership.epoch(), Some(9));
    assert!(!anew.write_back.has_rival());
}
