//! From record and binding to the objects of the mesh: the example of the
//! design to the last field, and rules that hold for whatever is given.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

#[path = "corpus/policy.rs"]
mod corpus;

use catalog_mesh_controller::api::service_binding::ServiceBindingSpec;
use catalog_mesh_controller::domain::build::{ValidBinding, build};
use catalog_mesh_controller::domain::desired::{Desired, MeshKind, OwnerRef};
use catalog_mesh_controller::domain::duration::Millis;
use catalog_mesh_controller::domain::names::{BindingKey, ClusterDomain};
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::policy::merge::Merged;
use catalog_mesh_controller::domain::policy::{EffectivePolicy, PolicyError, effective};
use catalog_mesh_controller::domain::ports::HttpPorts;
use catalog_mesh_controller::domain::record::ServiceRecord;
use catalog_mesh_controller::domain::target::Target;
use corpus::{record, spec};
use proptest::prelude::*;
use serde_json::{Value, json};

const ISTIO: &str = "networking.istio.io/v1";

fn merged(record: &Value, spec: &Value) -> Result<Merged, Vec<PolicyError>> {
    let record: ServiceRecord = serde_json::from_value(record.clone()).unwrap();
    let spec: ServiceBindingSpec = serde_json::from_value(spec.clone()).unwrap();
    effective(Some(&record), &spec, &Bounds::default())
}

fn valid(policy: EffectivePolicy) -> ValidBinding {
    let spec = ServiceBindingSpec {
        catalog_service_id: "worker-service-001".to_owned(),
        service_name: "worker-service".to_owned(),
        ..ServiceBindingSpec::default()
    };
    let service = Target::of("aikernel", &spec).unwrap().service;
    let name = "worker-service-binding".to_owned();
    let uid = "7a0c2e52-7a3f-4a3f-9a53-5f3f0e1f6a10".to_owned();
    ValidBinding {
        binding: BindingKey::new("aikernel", name.clone()),
        uid: uid.clone(),
        host: service.host(&ClusterDomain::parse("cluster.local").unwrap()),
        service,
        http_ports: HttpPorts::numbered([80, 8080]).unwrap(),
        policy,
        owner: Some(OwnerRef { name, uid }),
        mesh_locality: false,
    }
}

fn example() -> (Value, Value) {
    let record = json!({
        "id": "worker-service-001", "name": "worker-service", "namespace": "aikernel", "revision": 7
    });
    let spec = json!({
        "catalogServiceId": "worker-service-001",
        "serviceName": "worker-service",
        "namespace": "aikernel",
        "trafficPolicy": {
            "retries": 3,
            "timeout": "30s",
            "circuitBreaker": { "consecutiveErrors": 5, "interval": "30s" }
        },
        "healthCheck": { "endpoint": "/health", "interval": "10s", "timeout": "3s" }
    });
    (record, spec)
}

fn built(record: &Value, spec: &Value) -> Desired {
    build(&valid(merged(record, spec).unwrap().policy))
}

#[test]
fn the_example_of_the_design_becomes_these_two_objects() {
    let (record, spec) = example();
    let desired = built(&record, &spec);
    let metadata = json!({
        "name": "worker-service",
        "namespace": "aikernel",
        "labels": { "app.kubernetes.io/managed-by": "catalog-mesh-controller" },
        "annotations": {
            "catalog-mesh.aikernel.io/binding": "aikernel/worker-service-binding",
            "catalog-mesh.aikernel.io/binding-uid": "7a0c2e52-7a3f-4a3f-9a53-5f3f0e1f6a10"
        },
        "ownerReferences": [{
            "apiVersion": "aikernel.io/v1alpha1",
            "kind": "ServiceBinding",
            "name": "worker-service-binding",
            "uid": "7a0c2e52-7a3f-4a3f-9a53-5f3f0e1f6a10"
        }]
    });
    let host = "worker-service.aikernel.svc.cluster.local";
    assert_eq!(
        desired.destination_rule.manifest(ISTIO),
        json!({
            "apiVersion": ISTIO,
            "kind": "DestinationRule",
            "metadata": metadata,
            "spec": {
                "host": host,
                "trafficPolicy": {
                    "connectionPool": { "http": { "maxRetries": 3 } },
                    "loadBalancer": { "localityLbSetting": { "enabled": false } },
                    "outlierDetection": {
                        "consecutive5xxErrors": 5,
                        "interval": "30s",
                        "baseEjectionTime": "30s",
                        "maxEjectionPercent": 50
                    }
                }
            }
        })
    );
    let route = |port: u16| {
        json!({
            "match": [{ "port": port }],
            "route": [{ "destination": { "host": host, "port": { "number": port } } }],
            "timeout": "30s",
            "retries": { "attempts": 3 }
        })
    };
    assert_eq!(
        desired.virtual_service.manifest(ISTIO),
        json!({
            "apiVersion": ISTIO,
            "kind": "VirtualService",
            "metadata": metadata,
            "spec": { "hosts": [host], "http": [route(80), route(8080)] }
        })
    );
}

#[test]
fn every_field_has_istios_name() {
    let record = json!({
        "id": "i", "name": "n", "namespace": "n", "revision": 1,
        "timeout": "1500ms",
        "retries": { "attempts": 2, "perTryTimeout": "1m", "retryOn": "reset,503" },
        "circuitBreaker": {
            "consecutiveErrors": 7, "interval": "1s", "baseEjectionTime": "2s", "maxEjectionPercent": 100
        },
        "loadBalancing": {
            "consistentHash": { "httpCookie": { "name": "c", "path": "/", "ttl": "0s" }, "minimumRingSize": 1024 },
            "locality": { "enabled": true, "distribute": [{ "from": "eu/*", "to": { "eu/*": 80, "us/*": 20 } }] }
        },
        "connectionPool": {
            "tcp": { "maxConnections": 1, "connectTimeout": "2s", "idleTimeout": "0s" },
            "http": {
                "http1MaxPendingRequests": 2, "http2MaxRequests": 3, "maxRequestsPerConnection": 4,
                "maxRetries": 5, "idleTimeout": "1h"
            }
        }
    });
    let desired = built(&record, &example().1);
    let policy = desired.destination_rule.manifest(ISTIO)["spec"]["trafficPolicy"].clone();
    assert_eq!(
        policy,
        json!({
            "connectionPool": {
                "tcp": { "maxConnections": 1, "connectTimeout": "2s", "idleTimeout": "0s" },
                "http": {
                    "http1MaxPendingRequests": 2, "http2MaxRequests": 3, "maxRequestsPerConnection": 4,
                    "maxRetries": 5, "idleTimeout": "3600s"
                }
            },
            "loadBalancer": {
                "consistentHash": {
                    "httpCookie": { "name": "c", "path": "/", "ttl": "0s" },
                    "ringHash": { "minimumRingSize": 1024 }
                },
                "localityLbSetting": {
                    "enabled": true, "distribute": [{ "from": "eu/*", "to": { "eu/*": 80, "us/*": 20 } }]
                }
            },
            "outlierDetection": {
                "consecutive5xxErrors": 7, "interval": "1s", "baseEjectionTime": "2s", "maxEjectionPercent": 100
            }
        })
    );
    let route = desired.virtual_service.manifest(ISTIO)["spec"]["http"][0].clone();
    assert_eq!(route["timeout"], "1500ms");
    assert_eq!(
        route["retries"],
        json!({ "attempts": 2, "perTryTimeout": "60s", "retryOn": "reset,503" })
    );
}

#[test]
fn nothing_asked_for_leaves_the_mesh_as_it_is() {
    let desired = build(&valid(EffectivePolicy::default()));
    let rule = desired.destination_rule.manifest(ISTIO);
    assert_eq!(
        rule["spec"],
        json!({ "host": "worker-service.aikernel.svc.cluster.local" })
    );
    let route = &desired.virtual_service.manifest(ISTIO)["spec"]["http"][0];
    let fields: Vec<_> = route.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["match", "route"]);
}

#[test]
fn zero_percent_leaves_outlier_detection_out_and_locality_with_it() {
    let (mut record, _) = example();
    record["circuitBreaker"] = json!({ "maxEjectionPercent": 0 });
    let desired = built(&record, &example().1);
    let policy = &desired.destination_rule.manifest(ISTIO)["spec"]["trafficPolicy"];
    assert_eq!(
        policy,
        &json!({ "connectionPool": { "http": { "maxRetries": 3 } } })
    );
}

#[test]
fn the_meshs_own_locality_stays_where_the_operator_was_told_so() {
    let (record, spec) = example();
    let mut binding = valid(merged(&record, &spec).unwrap().policy);
    binding.mesh_locality = true;
    let policy = build(&binding).destination_rule.manifest(ISTIO)["spec"]["trafficPolicy"].clone();
    assert_eq!(policy.get("loadBalancer"), None);
    assert!(policy.get("outlierDetection").is_some());
}

#[test]
fn the_hash_follows_all_that_we_own_and_nothing_else() {
    let (record, spec) = example();
    let desired = built(&record, &spec);
    let rule = &desired.destination_rule;
    // Pinned: a new release must not apply every object of a cluster again.
    assert_eq!(rule.hash(), "4742dbbdb070ec182c9973ee3860c8ae");
    assert_eq!(rule.hash(), built(&record, &spec).destination_rule.hash());
    assert_ne!(rule.hash(), desired.virtual_service.hash());
    let mut others = Vec::new();
    for change in [
        |binding: &mut ValidBinding| binding.uid.push('1'),
        |binding: &mut ValidBinding| binding.binding = BindingKey::new("aikernel", "another"),
        |binding: &mut ValidBinding| binding.owner = None,
        |binding: &mut ValidBinding| binding.mesh_locality = true,
        |binding: &mut ValidBinding| binding.host.push('1'),
    ] {
        let mut binding = valid(merged(&record, &spec).unwrap().policy);
        change(&mut binding);
        others.push(build(&binding).destination_rule.hash());
    }
    others.push(rule.hash());
    others.sort_unstable();
    others.dedup();
    assert_eq!(others.len(), 6);
}

/// Whatever istiod would refuse, warn of, or own for nothing.
fn check_value(path: &str, value: &Value) -> Result<(), TestCaseError> {
    prop_assert!(!value.is_null(), "{path} is null");
    match value {
        Value::Object(fields) => {
            prop_assert!(!fields.is_empty(), "{path} is an empty map");
            for (name, value) in fields {
                let deprecated = [
                    "consecutiveErrors",
                    "tls",
                    "exportTo",
                    "warmupDurationSecs",
                    "gateways",
                ];
                prop_assert!(!deprecated.contains(&name.as_str()), "{path}.{name}");
                prop_assert!(
                    name != "minimumRingSize" || path.ends_with("ringHash"),
                    "{path}.{name}"
                );
                check_value(&format!("{path}.{name}"), value)?;
            }
        }
        Value::Array(items) => {
            prop_assert!(!items.is_empty(), "{path} is an empty list");
            for item in items {
                check_value(path, item)?;
            }
        }
        Value::String(text) => {
            prop_assert!(
                !text.is_empty() && !text.chars().any(char::is_control),
                "{path} is {text:?}"
            );
        }
        _ => {}
    }
    let last = path.rsplit('.').next().unwrap_or_default();
    if ["host", "hosts"].contains(&last) && value.is_string() {
        prop_assert_eq!(value, "worker-service.aikernel.svc.cluster.local");
    }
    let is_time = [
        "timeout",
        "perTryTimeout",
        "interval",
        "baseEjectionTime",
        "connectTimeout",
        "idleTimeout",
        "duration",
    ];
    if is_time.contains(&last) {
        let millis = Millis::parse(value.as_str().unwrap_or_default());
        let least = Millis(u64::from(!path.ends_with("tcp.idleTimeout")));
        prop_assert!(
            millis.is_ok_and(|millis| millis >= least),
            "{path} is {value}"
        );
    }
    Ok(())
}

/// What two fields of a policy must keep to.
fn check_policy(rule: &Value, route: &Value) -> Result<(), TestCaseError> {
    let policy = &rule["spec"]["trafficPolicy"];
    let balancer = &policy["loadBalancer"];
    prop_assert!(balancer.get("simple").is_none() || balancer.get("consistentHash").is_none());
    if let Some(hash) = balancer.get("consistentHash") {
        let keys = [
            "httpHeaderName",
            "httpCookie",
            "useSourceIp",
            "httpQueryParameterName",
        ];
        prop_assert_eq!(
            keys.iter().filter(|key| hash.get(**key).is_some()).count(),
            1
        );
    }
    if balancer.get("warmup").is_some() {
        let simple = balancer.get("simple").map(|simple| simple != "RANDOM");
        prop_assert!(balancer.get("consistentHash").is_none() && simple != Some(false));
    }
    let outlier = policy.get("outlierDetection");
    let locality = balancer.get("localityLbSetting");
    let fails_over = |locality: &Value| {
        locality
            .get("failover")
            .or(locality.get("failoverPriority"))
            .is_some()
    };
    prop_assert!(
        outlier.is_none() || locality.is_some(),
        "outlier detection would switch locality on"
    );
    prop_assert!(
        outlier.is_some() || !locality.is_some_and(fails_over),
        "failover that never happens"
    );
    prop_assert!(outlier.is_none_or(|outlier| outlier["maxEjectionPercent"] != 0));
    if let Some(retries) = route
        .get("retries")
        .filter(|retries| retries["attempts"] == 0)
    {
        prop_assert_eq!(retries, &json!({ "attempts": 0 }));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_given_is_refused_by_name_or_becomes_clean_objects(record in record(), spec in spec()) {
        match merged(&record, &spec) {
            Err(errors) => {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    let message = error.to_string();
                    prop_assert!(!error.field.is_empty() && !error.message.is_empty());
                    prop_assert!(message.len() < 1_000 && !message.chars().any(char::is_control), "{message}");
                }
            }
            Ok(merged) => {
                let desired = build(&valid(merged.policy));
                let (rule, service) = (desired.destination_rule, desired.virtual_service);
                prop_assert_eq!((rule.kind(), service.kind()), (MeshKind::DestinationRule, MeshKind::VirtualService));
                let (rule, service) = (rule.manifest(ISTIO), service.manifest(ISTIO));
                check_value("", &rule)?;
                check_value("", &service)?;
                for route in service["spec"]["http"].as_array().into_iter().flatten() {
                    check_policy(&rule, route)?;
                }
                let mut fields: Vec<_> = merged.entries.iter().map(|entry| &entry.field).collect();
                fields.sort_unstable();
                fields.dedup();
                prop_assert_eq!(fields.len(), merged.entries.len(), "a field is listed twice");
            }
        }
    }

    #[test]
    fn any_text_is_a_duration_that_reads_back_the_same_or_is_refused(text in "\\PC{0,40}|[0-9.]{0,22}(h|m|s|ms)?") {
        if let Ok(millis) = Millis::parse(&text) {
            prop_assert_eq!(Millis::parse(&millis.to_string()), Ok(millis));
        }
    }

    #[test]
    fn any_text_is_a_bound_or_is_refused(text in "\\PC{0,40}|(timeout|retries|x)=[0-9.]{1,8}(s|ms)?\\.\\.[0-9]{1,4}(s|ms)?") {
        if let Ok(bounds) = text.parse::<Bounds>() {
            prop_assert!(bounds == Bounds::default() || !text.trim().is_empty());
        }
    }
}
