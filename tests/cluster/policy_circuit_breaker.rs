//! When does Envoy take an endpoint out, by the circuit breaker of catalog and
//! binding, and when does it come back?

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::support::backend::Behaviour;
use crate::support::policy::{Given, Mesh};
use crate::support::rig::Rig;
use crate::support::wait;
use crate::support::workload::{SERVICE_PORT, Workload};

crate::tests![
    an_endpoint_is_taken_out_after_exactly_the_set_number_of_errors,
    no_more_than_the_set_share_is_ever_out,
    an_endpoint_comes_back_after_its_ejection_time,
];

const OUT: &str = "/failed_outlier_check";
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for an ejection that should not happen to be seen.
const A_WHILE: Duration = Duration::from_millis(300);

/// A service whose endpoints take turns, so that each is soon asked.
fn breaker(fields: Value) -> Given {
    let mut record = json!({ "loadBalancing": { "simple": "ROUND_ROBIN" } });
    for (field, value) in fields.as_object().into_iter().flatten() {
        record[field] = value.clone();
    }
    Given::catalog(record)
}

/// Which pods Envoy has taken out.
async fn out(mesh: &Mesh<'_>, service: &Workload) -> Result<Vec<bool>> {
    let known = mesh.envoy.endpoints(&service.host(), SERVICE_PORT).await?;
    let is_out = |address: String| {
        let found = known
            .iter()
            .find(|endpoint| endpoint.address.starts_with(&address));
        found.is_some_and(|endpoint| endpoint.health == OUT)
    };
    let pods = service.pods.iter();
    Ok(pods
        .map(|pod| is_out(format!("{}:", pod.address())))
        .collect())
}

async fn wait_until_out(mesh: &Mesh<'_>, service: &Workload, expected: &[bool]) -> Result<()> {
    wait::until(&format!("{expected:?} out"), PATIENCE, async || {
        let found = out(mesh, service).await?;
        ensure!(found == expected, "{found:?} are out");
        Ok(())
    })
    .await
}

async fn stays_out(mesh: &Mesh<'_>, service: &Workload, expected: &[bool]) -> Result<()> {
    wait::throughout("nobody else is taken out", A_WHILE, async || {
        let found = out(mesh, service).await?;
        ensure!(found == expected, "{found:?} are out");
        Ok(())
    })
    .await
}

/// Sends requests until this pod has answered so many.
async fn ask_until(mesh: &Mesh<'_>, service: &Workload, pod: usize, hits: usize) -> Result<()> {
    let backend = &service.pods[pod].backend;
    wait::until("the pod's turn", PATIENCE, async || {
        if backend.total() < hits {
            mesh.envoy.get(&service.host(), "/").await?;
        }
        ensure!(
            backend.total() == hits,
            "it has answered {}",
            backend.total()
        );
        Ok(())
    })
    .await
}

async fn an_endpoint_is_taken_out_after_exactly_the_set_number_of_errors(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "breaker").await?;
    let cases = [
        (
            "set",
            json!({ "circuitBreaker": { "consecutiveErrors": 3 } }),
            3,
        ),
        (
            "one",
            json!({ "circuitBreaker": { "consecutiveErrors": 1 } }),
            1,
        ),
        (
            "by-check",
            json!({ "healthCheck": { "failureThreshold": 4 } }),
            4,
        ),
        ("unset", json!({ "circuitBreaker": {} }), 5),
        ("empty-check", json!({ "healthCheck": {} }), 5),
    ];
    try_join_all(cases.into_iter().map(async |(name, fields, errors)| {
        let service = mesh.service(name, 2, &breaker(fields)).await?;
        let bad = &service.pods[0].backend;
        bad.behave(Behaviour::Status(500));

        ask_until(&mesh, &service, 0, errors - 1).await?;
        stays_out(&mesh, &service, &[false, false]).await?;
        ask_until(&mesh, &service, 0, errors).await?;
        wait_until_out(&mesh, &service, &[true, false]).await?;

        let tally = mesh.envoy.tally(&service.host(), "/", 10).await?;
        let good = format!("200 {}", service.pods[1].address());
        ensure!(tally.get(&good) == Some(&10), "{name}: {tally:?}");
        ensure!(bad.total() == errors, "{name}: {:?}", bad.hits());
        anyhow::Ok(())
    }))
    .await?;
    mesh.expect_accepted().await
}

async fn no_more_than_the_set_share_is_ever_out(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "share").await?;
    // Of three endpoints: the share, how many are bad, how many are out.
    let cases = [
        ("a-third-less", Some(33), 1, 0),
        ("a-third", Some(34), 1, 1),
        ("unset", None, 2, 1),
        ("all", Some(100), 2, 2),
        // Istio would read 0 as 10.
        ("nothing", Some(0), 1, 0),
    ];
    try_join_all(
        cases
            .into_iter()
            .map(async |(name, percent, bad, expected)| {
                let mut fields = json!({ "consecutiveErrors": 1 });
                if let Some(percent) = percent {
                    fields["maxEjectionPercent"] = json!(percent);
                }
                let given = breaker(json!({ "circuitBreaker": fields }));
                let service = mesh.service(name, 3, &given).await?;
                for pod in &service.pods[..bad] {
                    pod.backend.behave(Behaviour::Status(500));
                }
                wait::until(&format!("{name}: {expected} out"), PATIENCE, async || {
                    mesh.envoy.get(&service.host(), "/").await?;
                    let found = out(&mesh, &service)
                        .await?
                        .into_iter()
                        .filter(|out| *out)
                        .count();
                    let asked = service.pods.iter().all(|pod| pod.backend.total() > 2);
                    ensure!(
                        found == expected && (asked || expected > 0),
                        "{found} are out"
                    );
                    Ok(())
                })
                .await?;

                wait::throughout(name, A_WHILE, async || {
                    mesh.envoy.get(&service.host(), "/").await?;
                    let found = out(&mesh, &service).await?;
                    let count = found.iter().filter(|out| **out).count();
                    ensure!(count == expected && !found[2], "{found:?} are out");
                    Ok(())
                })
                .await
            }),
    )
    .await?;
    mesh.expect_accepted().await
}

async fn an_endpoint_comes_back_after_its_ejection_time(rig: &Rig) -> Result<()> {
    let mesh = Mesh::start(rig, "back").await?;
    let given = breaker(json!({ "circuitBreaker": {
        "consecutiveErrors": 1, "interval": "100ms", "baseEjectionTime": "1s",
    }}));
    let web = mesh.service("web", 2, &given).await?;
    let sick = &web.pods[0].backend;
    sick.behave(Behaviour::Status(500));
    ask_until(&mesh, &web, 0, 1).await?;
    // It is out for a second only; whoever sees it late asks again.
    wait::until("the sick one is out", PATIENCE, async || {
        mesh.envoy.get(&web.host(), "/").await?;
        let found = out(&mesh, &web).await?;
        ensure!(found == [true, false], "{found:?} are out");
        Ok(())
    })
    .await?;
    sick.recover();
    sick.forget_hits();

    wait_until_out(&mesh, &web, &[false, false]).await?;

    ask_until(&mesh, &web, 0, 5).await?;
    stays_out(&mesh, &web, &[false, false]).await?;
    mesh.expect_accepted().await
}
