//! Would an upgrade write anything by itself? What is applied, its fingerprint in
//! the status, and every name of ours in the cluster are pinned here, as the first
//! release had them. A change of these files is a write to every object of every
//! cluster: it needs an entry in the changelog that announces it.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use catalog_mesh_controller::api::service_binding::ServiceBindingSpec;
use catalog_mesh_controller::domain::build::{ValidBinding, build};
use catalog_mesh_controller::domain::desired::{Desired, DesiredObject, OwnerRef};
use catalog_mesh_controller::domain::names::{BindingKey, ClusterDomain};
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::policy::effective;
use catalog_mesh_controller::domain::ports::HttpPorts;
use catalog_mesh_controller::domain::record::ServiceRecord;
use catalog_mesh_controller::domain::target::Target;
use serde_json::{Value, json};

const ISTIO: &str = "networking.istio.io/v1";
const UID: &str = "7a0c2e52-7a3f-4a3f-9a53-5f3f0e1f6a10";

/// Both objects for a binding with nothing but this record.
fn objects(record: &Value) -> Desired {
    let mut record = record.clone();
    record["id"] = json!("worker-service-001");
    record["name"] = json!("worker-service");
    record["namespace"] = json!("aikernel");
    record["revision"] = json!(7);
    let record: ServiceRecord = serde_json::from_value(record).unwrap();
    let spec = ServiceBindingSpec {
        catalog_service_id: "worker-service-001".to_owned(),
        service_name: "worker-service".to_owned(),
        ..ServiceBindingSpec::default()
    };
    let merged = effective(Some(&record), &spec, &Bounds::default()).unwrap();
    let service = Target::of("aikernel", &spec).unwrap().service;
    let name = "worker-service-binding".to_owned();
    build(&ValidBinding {
        binding: BindingKey::new("aikernel", name.clone()),
        uid: UID.to_owned(),
        host: service.host(&ClusterDomain::parse("cluster.local").unwrap()),
        service,
        http_ports: HttpPorts::numbered([80, 8080]).unwrap(),
        policy: merged.policy,
        owner: Some(OwnerRef {
            name,
            uid: UID.to_owned(),
        }),
        mesh_locality: false,
    })
}

/// An object as it is applied, and as the status remembers it.
fn shown(object: &DesiredObject) -> String {
    let manifest = serde_json::to_string_pretty(&object.manifest(ISTIO)).unwrap();
    format!("hash {}\n{manifest}\n", object.hash())
}

/// The same of both, and of every kind of policy.
fn all_objects() -> String {
    let records = [
        ("nothing", json!({})),
        (
            "the example",
            json!({
                "timeout": "30s", "retries": 3,
                "circuitBreaker": {"consecutiveErrors": 5, "interval": "30s"},
                "loadBalancing": {"simple": "LEAST_REQUEST"},
                "healthCheck": {"endpoint": "/health", "interval": "10s", "timeout": "3s"},
            }),
        ),
        ("a check alone", json!({"healthCheck": {}})),
        (
            "a pool, a hash and all of retries",
            json!({
                "retries": {"attempts": 2, "perTryTimeout": "1500ms", "retryOn": "5xx,reset"},
                "loadBalancing": {"consistentHash": {
                    "httpCookie": {"name": "session", "path": "/", "ttl": "0s"},
                    "minimumRingSize": 2048,
                }},
                "connectionPool": {
                    "tcp": {"maxConnections": 100, "connectTimeout": "2s", "idleTimeout": "10m"},
                    "http": {
                        "http1MaxPendingRequests": 50, "http2MaxRequests": 200,
                        "maxRequestsPerConnection": 1000, "maxRetries": 10, "idleTimeout": "5m",
                    },
                },
            }),
        ),
        (
            "retries off, slow start and places",
            json!({
                "retries": 0,
                "loadBalancing": {
                    "warmup": {"duration": "30s", "minimumPercent": 20, "aggression": 2},
                    "locality": {"distribute": [{"from": "eu/a/*", "to": {"eu/a/*": 80, "eu/b/*": 20}}]},
                },
            }),
        ),
    ];
    let mut text = String::new();
    for (name, record) in records {
        let desired = objects(&record);
        let _ = writeln!(text, "# {name}");
        text += &shown(&desired.destination_rule);
        text += &shown(&desired.virtual_service);
    }
    text
}

/// Every constant of src/domain/labels.rs with its value, by its source: a new one
/// is in here without anybody's doing.
fn names() -> String {
    let source = fs::read_to_string(root().join("src/domain/labels.rs")).unwrap();
    let mut text = String::new();
    for line in source.lines() {
        let Some(rest) = line.strip_prefix("pub const ") else {
            continue;
        };
        let (name, rest) = rest.split_once(": &str").unwrap();
        let value = rest.split('"').nth(1).unwrap();
        let _ = writeln!(text, "{name} {value}");
    }
    text
}

/// Compares with a file, or writes it where `UPDATE_GOLDEN` is set.
fn compare(file: &str, now: &str) {
    let path = root().join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, now).unwrap();
        return;
    }
    let before = fs::read_to_string(&path).unwrap();
    for (before, now) in before.lines().zip(now.lines()) {
        assert_eq!(
            before, now,
            "{file}: an upgrade would write this to every cluster"
        );
    }
    assert_eq!(before, now, "{file}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

#[test]
fn what_is_applied_and_how_it_is_remembered_is_as_it_was_in_the_first_release() {
    compare("objects.txt", &all_objects());
}

#[test]
fn names_in_the_cluster_are_as_they_were() {
    compare("names.txt", &names());
}
