//! Is whatever the product writes taken by all who read it: the API server,
//! istiod, istioctl and Envoy?

#[path = "../corpus/policy.rs"]
mod corpus;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, anyhow, ensure};
use catalog_mesh_controller::domain::build::build;
use catalog_mesh_controller::domain::desired::DesiredObject;
use catalog_mesh_controller::domain::labels::MANAGER;
use catalog_mesh_controller::domain::ports::ServicePort;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{Patch, PatchParams, ValidationDirective};
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::scene::PROGRAM;
use crate::support::generated::{analyze, make_services};
use crate::support::policy::{self, Given, ISTIO, Mesh};
use crate::support::rig::Rig;
use crate::support::tools::repository;

crate::tests![
    any_policy_passes_the_webhook_and_istioctl,
    policies_at_their_bounds_are_taken_by_envoy,
    what_render_prints_of_the_example_passes_istioctl,
];

const POLICIES: usize = 300;
/// Of these, so many are stored, twice.
const STORED: usize = 40;
const AT_ONCE: usize = 8;

/// The objects for policies at the bounds, and for any others that the product
/// takes, each for a Service of its own.
fn policies(namespace: &str) -> Result<Vec<[DesiredObject; 2]>> {
    let port = |name: &str, port| ServicePort {
        name: Some(name.to_owned()),
        port,
        ..ServicePort::default()
    };
    let ports = vec![port("http", 80), port("grpc", 9090), port("tcp", 5432)];
    let mut runner = TestRunner::deterministic();
    let strategy = (corpus::record(), corpus::spec());
    let mut found = Vec::new();
    let mut take = |given: Given| {
        let name = format!("web-{}", found.len());
        let desired = build(&given.valid(namespace, &name, ports.clone())?.binding);
        found.push([desired.destination_rule, desired.virtual_service]);
        anyhow::Ok(())
    };
    for record in extremes() {
        take(Given::catalog(record))?;
    }
    let (mut taken, mut tried) = (0, 0);
    while taken < POLICIES {
        let tree = strategy
            .new_tree(&mut runner)
            .map_err(|reason| anyhow!("{reason}"))?;
        let (record, spec) = tree.current();
        taken += usize::from(take(Given::catalog(record).binding(spec)).is_ok());
        tried += 1;
        ensure!(
            tried < POLICIES * 20,
            "only {taken} of {tried} policies were good"
        );
    }
    Ok(found)
}

/// Paths of all fields in a value, without places in lists and names in maps.
fn fields(path: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) if !path.ends_with(".to") => {
            for (name, value) in map {
                fields(&format!("{path}.{name}"), value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(path, item, found)),
        _ => {
            found.insert(path.trim_start_matches('.').to_owned());
        }
    }
}

// trap 27
async fn any_policy_passes_the_webhook_and_istioctl(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("any").await?;
    let policies = policies(&namespace)?;

    let dry = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply(MANAGER)
    };
    let client = &rig.client;
    let objects = || stream::iter(policies.iter().flatten().map(anyhow::Ok));
    objects()
        .try_for_each_concurrent(AT_ONCE, async |object| {
            let manifest = object.manifest(ISTIO);
            policy::rules(client, object.kind(), &object.namespace)
                .patch(&object.name, &dry, &Patch::Apply(&manifest))
                .await
                .with_context(|| format!("{manifest}"))?;
            Ok(())
        })
        .await?;
    // Of a namespace that nobody calls: Envoys would hear of each.
    objects()
        .take(STORED * 2)
        .try_for_each_concurrent(AT_ONCE, async |object| {
            policy::apply(client, object).await.map(drop)
        })
        .await?;

    let ports = vec![
        json!({ "name": "http", "port": 80 }),
        json!({ "name": "grpc", "port": 9090 }),
        json!({ "name": "tcp", "port": 5432 }),
    ];
    let names = policies.iter().map(|[rule, _]| rule.name.clone());
    let services: BTreeMap<_, _> = names.map(|name| (name, ports.clone())).collect();
    let manifests = policies
        .iter()
        .flatten()
        .map(|object| object.manifest(ISTIO));
    let manifests: Vec<Value> = manifests.collect();
    // It does look: without their Services the same objects are wrong.
    let without = analyze(rig, &namespace, &manifests).await;
    let said = without
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default();
    ensure!(
        said.contains("IST0174") && said.contains("IST0101"),
        "it said {said:?}"
    );
    make_services(client, &namespace, &services).await?;
    analyze(rig, &namespace, &manifests).await?;

    let mut seen = BTreeSet::new();
    for object in policies.iter().flatten() {
        fields("", &object.manifest(ISTIO)["spec"], &mut seen);
    }
    let missing: Vec<_> = FIELDS
        .iter()
        .filter(|field| !seen.contains(**field))
        .collect();
    ensure!(missing.is_empty(), "none of the policies had {missing:?}");
    ensure!(
        seen.len() == FIELDS.len(),
        "the list of fields is not complete: {seen:?}"
    );
    Ok(())
}

/// Every field that we write.
const FIELDS: &[&str] = &[
    "host",
    "hosts",
    "http.match.port",
    "http.retries.attempts",
    "http.retries.perTryTimeout",
    "http.retries.retryOn",
    "http.route.destination.host",
    "http.route.destination.port.number",
    "http.timeout",
    "trafficPolicy.connectionPool.http.http1MaxPendingRequests",
    "trafficPolicy.connectionPool.http.http2MaxRequests",
    "trafficPolicy.connectionPool.http.idleTimeout",
    "trafficPolicy.connectionPool.http.maxRequestsPerConnection",
    "trafficPolicy.connectionPool.http.maxRetries",
    "trafficPolicy.connectionPool.tcp.connectTimeout",
    "trafficPolicy.connectionPool.tcp.idleTimeout",
    "trafficPolicy.connectionPool.tcp.maxConnections",
    "trafficPolicy.loadBalancer.consistentHash.httpCookie.name",
    "trafficPolicy.loadBalancer.consistentHash.httpCookie.path",
    "trafficPolicy.loadBalancer.consistentHash.httpCookie.ttl",
    "trafficPolicy.loadBalancer.consistentHash.httpHeaderName",
    "trafficPolicy.loadBalancer.consistentHash.httpQueryParameterName",
    "trafficPolicy.loadBalancer.consistentHash.ringHash.minimumRingSize",
    "trafficPolicy.loadBalancer.consistentHash.useSourceIp",
    "trafficPolicy.loadBalancer.localityLbSetting.distribute.from",
    "trafficPolicy.loadBalancer.localityLbSetting.distribute.to",
    "trafficPolicy.loadBalancer.localityLbSetting.enabled",
    "trafficPolicy.loadBalancer.localityLbSetting.failover.from",
    "trafficPolicy.loadBalancer.localityLbSetting.failover.to",
    "trafficPolicy.loadBalancer.localityLbSetting.failoverPriority",
    "trafficPolicy.loadBalancer.simple",
    "trafficPolicy.loadBalancer.warmup.aggression",
    "trafficPolicy.loadBalancer.warmup.duration",
    "trafficPolicy.loadBalancer.warmup.minimumPercent",
    "trafficPolicy.outlierDetection.baseEjectionTime",
    "trafficPolicy.outlierDetection.consecutive5xxErrors",
    "trafficPolicy.outlierDetection.interval",
    "trafficPolicy.outlierDetection.maxEjectionPercent",
];

/// Policies whose values are the smallest, the largest and the oddest that the
/// product takes.
fn extremes() -> Vec<Value> {
    let odd_name = "!#$%&'*+-.^_`|~09azAZ";
    let path = format!("/{}", "p".repeat(1_023));
    let every_condition = "5xx,gateway-error,reset,reset-before-request,connect-failure,\
        retriable-4xx,refused-stream,retriable-status-codes,retriable-headers,envoy-ratelimited,\
        http3-post-connect-failure,cancelled,deadline-exceeded,internal,resource-exhausted,\
        unavailable,100,103,200,226,308,418,421,451,500,511";
    let hash = |key: Value| json!({ "loadBalancing": { "consistentHash": key } });
    let locality = |locality: Value| json!({ "circuitBreaker": {}, "loadBalancing": { "locality": locality } });
    vec![
        json!({
            "timeout": "1ms",
            "retries": { "attempts": 1, "perTryTimeout": "1ms", "retryOn": every_condition },
            "circuitBreaker": {
                "consecutiveErrors": 1, "interval": "100ms", "baseEjectionTime": "1ms",
                "maxEjectionPercent": 1,
            },
            "connectionPool": {
                "tcp": { "maxConnections": 1, "connectTimeout": "1ms", "idleTimeout": "0s" },
                "http": {
                    "http1MaxPendingRequests": 1, "http2MaxRequests": 1,
                    "maxRequestsPerConnection": 1, "maxRetries": 1, "idleTimeout": "1ms",
                },
            },
            "loadBalancing": {
                "simple": "LEAST_REQUEST",
                "warmup": { "duration": "1ms", "minimumPercent": 1, "aggression": 1 },
            },
        }),
        json!({
            "timeout": "1h",
            "retries": { "attempts": 100, "perTryTimeout": "1h", "retryOn": "5xx" },
            "circuitBreaker": {
                "consecutiveErrors": 100, "interval": "1h", "baseEjectionTime": "24h",
                "maxEjectionPercent": 100,
            },
            "connectionPool": {
                "tcp": {
                    "maxConnections": 2_147_483_647, "connectTimeout": "1h", "idleTimeout": "720h",
                },
                "http": {
                    "http1MaxPendingRequests": 2_147_483_647, "http2MaxRequests": 2_147_483_647,
                    "maxRequestsPerConnection": 2_147_483_647, "maxRetries": 2_147_483_647,
                    "idleTimeout": "720h",
                },
            },
            "loadBalancing": {
                "simple": "ROUND_ROBIN",
                "warmup": { "duration": "24h", "minimumPercent": 100, "aggression": 100 },
            },
        }),
        // The catalog alone may say 0 percent.
        json!({ "loadBalancing": { "warmup": { "duration": "1s", "minimumPercent": 0 } } }),
        json!({ "circuitBreaker": { "maxEjectionPercent": 0 } }),
        json!({ "retries": 0 }),
        json!({ "retries": 100 }),
        json!({ "loadBalancing": { "simple": "RANDOM" } }),
        hash(json!({ "httpHeaderName": odd_name, "minimumRingSize": 1 })),
        hash(json!({ "httpHeaderName": "h".repeat(256), "minimumRingSize": 8_388_608 })),
        hash(json!({ "httpCookie": { "name": odd_name, "path": path, "ttl": "8760h" } })),
        hash(json!({ "httpCookie": { "name": "c".repeat(256), "path": "/\"a,=\\", "ttl": "0s" } })),
        hash(json!({ "httpCookie": { "name": "c" } })),
        hash(json!({ "httpQueryParameterName": "._~!$'()*,;:@%/?-" })),
        hash(json!({ "httpQueryParameterName": "q".repeat(256) })),
        hash(json!({ "useSourceIp": true })),
        locality(json!({ "enabled": true })),
        locality(json!({ "distribute": [
            { "from": "region-1/zone-a/sub", "to": { "region-1/*": 1, "r.2_x": 99 } },
            { "from": "region-1/zone-b/*", "to": { "*": 100 } },
            { "from": "region-2", "to": { "region-1/zone-a": 50, "region-1/zone-b/s": 50 } },
        ]})),
        locality(json!({ "failover": [{ "from": "region-1", "to": "region-2" }] })),
        locality(json!({ "failoverPriority": [
            "topology.istio.io/network", "topology.kubernetes.io/zone", "version=v1",
        ]})),
    ]
}

async fn policies_at_their_bounds_are_taken_by_envoy(rig: &Rig) -> Result<()> {
    let mesh = Mesh::with_client(rig, "extremes", |client| client.zone("zone-a")).await?;
    let given = stream::iter(extremes().into_iter().enumerate().map(anyhow::Ok));
    given
        .try_for_each_concurrent(AT_ONCE, async |(place, record)| {
            let name = format!("extreme-{place}");
            let what = format!("{record}");
            mesh.service(&name, 0, &Given::catalog(record))
                .await
                .context(what)?;
            Ok(())
        })
        .await?;
    mesh.expect_accepted().await
}

/// By the program itself, as a pipeline would have it.
async fn what_render_prints_of_the_example_passes_istioctl(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("rendered").await?;
    let example = |file: &str| std::fs::read_to_string(repository().join("examples").join(file));
    let binding = example("bindings/worker-service.yaml")?;
    let binding = binding.replace("namespace: aikernel", &format!("namespace: {namespace}"));
    let catalog = example("catalog-server/seed.json")?;
    let catalog = catalog.replace("\"aikernel\"", &format!("\"{namespace}\""));
    let render = async |binding: &str| {
        let (yaml, json) = ("rendered.yaml", "rendered.json");
        std::fs::write(rig.folder().join(yaml), binding)?;
        std::fs::write(rig.folder().join(json), &catalog)?;
        let mut program = tokio::process::Command::new(PROGRAM);
        program.args(["render", "-f", yaml, "--catalog", json, "--port", "80"]);
        let output = program.current_dir(rig.folder()).output().await?;
        anyhow::Ok(output)
    };
    let output = render(&binding).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {said}", output.status);
    let printed = String::from_utf8(output.stdout)?;
    let objects: Result<Vec<Value>, _> = printed
        .split("---\n")
        .filter(|object| !object.trim().is_empty())
        .map(serde_saphyr::from_str)
        .collect();
    let objects = objects.with_context(|| printed.clone())?;
    let kinds: Vec<_> = objects.iter().map(|object| &object["kind"]).collect();
    ensure!(kinds == ["DestinationRule", "VirtualService"], "{printed}");
    let port = vec![json!({ "name": "http", "port": 80 })];
    let services = BTreeMap::from([("worker-service".to_owned(), port)]);
    make_services(&rig.client, &namespace, &services).await?;
    analyze(rig, &namespace, &objects).await?;

    let wrong = binding.replace("timeout: \"30s\"", "timeout: \"never\"");
    let output = render(&wrong).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && said.contains("timeout") && output.stdout.is_empty(),
        "{} {said}",
        output.status
    );
    Ok(())
}
