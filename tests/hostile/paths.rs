//! A target where a path, a name or an ID is asked for: it is refused, or it is
//! sent to the endpoint that was going to be asked anyway.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog_mesh_controller::api::service_binding::ServiceBindingSpec;
use catalog_mesh_controller::domain::health::judge::{Thresholds, Verdict};
use catalog_mesh_controller::domain::names::{
    CatalogServiceId, ClusterDomain, Namespace, ServiceKey, ServiceName,
};
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::policy::effective;
use catalog_mesh_controller::domain::record::ServiceRecord;
use catalog_mesh_controller::domain::target::Target;
use catalog_mesh_controller::health;
use catalog_mesh_controller::health::prober::Limits;
use catalog_mesh_controller::health::target::{Ask, Check, Scheme, ServiceTargets};
use catalog_mesh_controller::metrics::Metrics;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::canary::Canary;
use crate::site::{Site, answer};
use crate::targets::{LEAST, targets};

fn spec(field: &str, value: &Value) -> ServiceBindingSpec {
    let mut spec = json!({"catalogServiceId": "id", "serviceName": "web"});
    spec[field] = value.clone();
    serde_json::from_value(spec).unwrap()
}

#[test]
fn an_endpoint_of_a_check_is_a_path_or_refused_whoever_gives_it() {
    let mut paths = Vec::new();
    for text in targets(8080) {
        let asked = json!({"endpoint": text});
        let of_the_binding = effective(None, &spec("healthCheck", &asked), &Bounds::default());
        let record = json!({
            "id": "id", "name": "web", "namespace": "shop", "revision": 1, "healthCheck": asked,
        });
        let record: ServiceRecord = serde_json::from_value(record).unwrap();
        let plain = spec("serviceName", &json!("web"));
        let of_the_catalog = effective(Some(&record), &plain, &Bounds::default());
        assert_eq!(of_the_binding.is_ok(), of_the_catalog.is_ok(), "{text:?}");
        let (Ok(binding), Ok(catalog)) = (of_the_binding, of_the_catalog) else {
            continue;
        };
        for merged in [binding, catalog] {
            assert_eq!(merged.policy.health_check.unwrap().endpoint, text);
        }
        let is_path = text.starts_with('/') && !text.starts_with("//");
        assert!(
            is_path && text.bytes().all(|b| b.is_ascii_graphic()),
            "{text:?}"
        );
        paths.push(text);
    }
    // Paths that look like more than that; the next test sends them.
    assert!((5..30).contains(&paths.len()), "{paths:?}");
}

#[test]
fn the_names_of_a_binding_make_no_other_host() {
    let domain = ClusterDomain::parse("cluster.local").unwrap();
    for text in targets(8080) {
        for field in ["serviceName", "namespace"] {
            let Ok(target) = Target::of("shop", &spec(field, &json!(text))) else {
                continue;
            };
            let host = target.service.host(&domain);
            let parts: Vec<_> = host.split('.').collect();
            assert_eq!(parts[2..], ["svc", "cluster", "local"], "{host}");
        }
        if let Ok(id) = CatalogServiceId::parse(&text) {
            // It is one segment of a path, whatever reads it.
            let url = url::Url::parse("http://catalog/api/v1/services/").unwrap();
            let joined = url.join(&format!("./{id}")).unwrap();
            assert_eq!(joined.host_str(), Some("catalog"), "{id}");
            assert_eq!(joined.path(), format!("/api/v1/services/{id}"));
        }
    }
}

/// Also what was refused is tried here, as if nothing had refused it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_path_and_host_a_check_has_the_endpoint_is_asked_and_nobody_else() {
    let canary = Canary::start().await;
    let site = Site::serve(|_, _| answer("200 OK", "Connection: close\r\n", "")).await;
    let metrics = Metrics::new().unwrap();
    let started = health::start(Limits::default(), None, metrics.health.clone());
    let (prober, view, run) = started.unwrap();
    let task = tokio::spawn(run);
    let texts = targets(canary.port);
    let mut wanted = BTreeMap::new();
    for (number, text) in texts.iter().enumerate() {
        let ask = |path: &str, host: &str| Ask {
            scheme: Scheme::Http,
            path: path.to_owned(),
            host: host.to_owned(),
            timeout: Duration::from_secs(2),
        };
        for (field, ask) in [("path", ask(text, "web")), ("host", ask("/health", text))] {
            let key = ServiceKey {
                namespace: Namespace::parse(field).unwrap(),
                name: ServiceName::parse(&format!("s-{number}")).unwrap(),
            };
            let thresholds = Thresholds {
                failures: 1,
                successes: 1,
                interval: Duration::from_secs(2),
                confirm: Duration::from_secs(1),
            };
            let targets = ServiceTargets {
                check: Check { ask, thresholds }.into(),
                endpoints: [site.address].into_iter().collect(),
            };
            wanted.insert(key, targets);
        }
    }
    prober.set(wanted.clone());
    let judged = timeout(Duration::from_secs(300), async {
        for key in wanted.keys() {
            let verdict = || view.endpoint(key, site.address.into()).map(|e| e.verdict);
            while verdict() != Some(Verdict::Healthy) {
                sleep(Duration::from_millis(5)).await;
            }
        }
    });
    judged.await.expect("each should be asked");
    task.abort();
    let requests = site.requests();
    assert!(requests.len() >= 2 * LEAST);
    for request in requests {
        // One line that asks, four that say who and how, and the end.
        let lines: Vec<_> = request.split("\r\n").collect();
        assert_eq!(lines.len(), 7, "{request:?}");
        let words: Vec<_> = lines[0].split(' ').collect();
        assert!(words[1].starts_with('/'), "{request:?}");
        assert_eq!([words[0], words[2]], ["GET", "HTTP/1.1"], "{request:?}");
        let known = ["Host", "User-Agent", "Accept", "Connection"];
        for (line, name) in lines[1..5].iter().zip(known) {
            assert!(line.starts_with(&format!("{name}: ")), "{request:?}");
        }
        assert!(!request.contains(|c: char| c.is_control() && c != '\r' && c != '\n'));
    }
    assert_eq!(canary.hits(), 0);
}
