//! Does traffic cross zones as before? Only somebody's word about locality may
//! change that.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::support::policy::{Given, Mesh};
use crate::support::rig::Rig;
use crate::support::workload::{Workload, ZONES};

crate::tests![
    our_rules_do_not_move_traffic_between_zones,
    locality_that_is_asked_for_keeps_traffic_near,
];

const REQUESTS: usize = 200;
/// Half of the requests, give or take five standard deviations.
const EVEN: std::ops::RangeInclusive<usize> = 65..=135;

/// Two endpoints in the client's zone, two in the other.
async fn service(mesh: &Mesh<'_>, name: &str) -> Result<Workload> {
    let zones = [ZONES[0], ZONES[0], ZONES[1], ZONES[1]];
    mesh.rig.workload(&mesh.namespace, name, &zones).await
}

/// How many requests went to the other zone.
async fn far(mesh: &Mesh<'_>, service: &Workload) -> Result<usize> {
    mesh.envoy.wait_for_endpoints(&service.host(), 4).await?;
    mesh.envoy.tally(&service.host(), "/", REQUESTS).await?;
    Ok(service.pods[2..]
        .iter()
        .map(|pod| pod.backend.total())
        .sum())
}

fn breaker() -> Given {
    Given::catalog(json!({ "circuitBreaker": { "consecutiveErrors": 5 } }))
}

fn locality(locality: Value) -> Given {
    Given::catalog(json!({
        "circuitBreaker": {},
        "loadBalancing": { "locality": locality },
    }))
}

async fn our_rules_do_not_move_traffic_between_zones(rig: &Rig) -> Result<()> {
    let mesh = Mesh::with_client(rig, "even", |client| client.zone(ZONES[0])).await?;
    let plain = service(&mesh, "plain").await?;
    let before = far(&mesh, &plain).await?;
    ensure!(EVEN.contains(&before), "without a rule {before} crossed");
    for (name, given) in [
        ("breaker", breaker()),
        ("check", Given::catalog(json!({ "healthCheck": {} }))),
        (
            "turns",
            Given::catalog(json!({
                "circuitBreaker": {}, "loadBalancing": { "simple": "ROUND_ROBIN" },
            })),
        ),
    ] {
        let ours = service(&mesh, name).await?;
        mesh.program(&ours, &given).await?;
        let after = far(&mesh, &ours).await?;
        ensure!(
            EVEN.contains(&after),
            "{name}: {after} of {REQUESTS} crossed"
        );
    }
    mesh.expect_accepted().await
}

async fn locality_that_is_asked_for_keeps_traffic_near(rig: &Rig) -> Result<()> {
    let mesh = Mesh::with_client(rig, "near", |client| client.zone(ZONES[0])).await?;
    let shares = json!({ "distribute": [{
        "from": "region-1/zone-a/*",
        "to": { "region-1/zone-a/*": 90, "region-1/zone-b/*": 10 },
    }]});
    let cases = [
        ("mesh", breaker().mesh_locality(), 0..=0),
        ("asked", locality(json!({ "enabled": true })), 0..=0),
        ("refused", locality(json!({ "enabled": false })), EVEN),
        // 20, give or take five standard deviations; never none at all.
        ("shares", locality(shares), 1..=42),
    ];
    for (name, given, expected) in cases {
        let ours = service(&mesh, name).await?;
        mesh.program(&ours, &given).await?;
        let crossed = far(&mesh, &ours).await?;
        ensure!(
            expected.contains(&crossed),
            "{name}: {crossed} of {REQUESTS} crossed"
        );
    }
    mesh.expect_accepted().await
}
