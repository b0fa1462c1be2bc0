//! Is there always somebody left in the mesh? Endpoints that fail one by one
//! until none is well, and then come back by half.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::domain::health::ejection::most_out;
use futures::future::try_join_all;
use serde_json::json;

use crate::checked::{Checked, quicker};
use crate::scene::Scene;
use crate::support::endpoint::{Endpoint, HEALTH, Trouble};
use crate::support::envoy::{Envoy, Options};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::wait;

crate::tests![
    ; alone:
    endpoints_that_fail_one_by_one_are_never_out_beyond_the_floor(45)
];

/// Between two looks while others happen.
const LOOKS: Duration = Duration::from_millis(50);

/// Services by their size and the share that may be out.
const SERVICES: [(&str, usize, u8); 6] = [
    ("one", 1, 50),
    ("two", 2, 50),
    ("three", 3, 50),
    ("ten", 10, 50),
    ("a-quarter", 4, 25),
    ("nearly-all", 3, 100),
];

async fn endpoints_that_fail_one_by_one_are_never_out_beyond_the_floor(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "floor").await?;
    let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
    let all = SERVICES.map(|(name, size, percent)| one(&scene, &envoy, name, size, percent));
    let lines = try_join_all(all).await?;
    eprintln!("{}", lines.join("\n"));
    scene.unbind().await
}

async fn one(
    scene: &Scene<'_>,
    envoy: &Envoy,
    name: &str,
    size: usize,
    percent: u8,
) -> Result<String> {
    let checked = Checked::unbound(scene, name, size).await?;
    let breaker = json!({"maxEjectionPercent": percent});
    let record = json!({"healthCheck": quicker(), "circuitBreaker": breaker});
    checked.bind(record, json!({})).await?;
    checked.is_healthy().await?;
    let most = most_out(size, percent);
    let watched = watch(&checked, most);
    let steps = steps(envoy, &checked, most);
    let looks = tokio::select! {
        broken = watched => return Err(broken.context(name.to_owned())),
        steps = steps => steps.with_context(|| name.to_owned())?,
    };
    Ok(format!(
        "{name}: of {size} never more than {most} were out; {looks}"
    ))
}

/// Looks on, and returns only where more are out than may be.
async fn watch(checked: &Checked<'_>, most: usize) -> anyhow::Error {
    loop {
        let look = async {
            let out = checked.out().await?;
            ensure!(out.len() <= most, "{out:?} are out, and {most} may be");
            Ok(())
        };
        if let Err(error) = look.await {
            return error;
        }
        tokio::time::sleep(LOOKS).await;
    }
}

async fn steps(envoy: &Envoy, checked: &Checked<'_>, most: usize) -> Result<String> {
    let size = checked.endpoints.len();
    let mut bad = BTreeSet::new();
    let mut seen = Vec::new();
    for place in 0..size {
        checked.endpoints[place].fail(Trouble::Status(500)).await?;
        bad.insert(place);
        // Where none answers, all are in again.
        let out = if bad.len() == size {
            0
        } else {
            most.min(bad.len())
        };
        is_judged(&checked.endpoints[place]).await?;
        settles(envoy, checked, &bad, out).await?;
        seen.push(out);
    }
    checked.says("False Unhealthy").await?;
    for place in 0..size.div_ceil(2) {
        checked.endpoints[place].recover().await?;
        bad.remove(&place);
    }
    let out = most.min(bad.len());
    settles(envoy, checked, &bad, out).await?;
    seen.push(out);
    checked.counts(size, size - bad.len(), out).await?;
    Ok(format!("out by steps: {seen:?}"))
}

/// Waits until the endpoint has been checked more often than it takes to judge
/// it: an answer was dealt with before the next check.
async fn is_judged(endpoint: &Endpoint) -> Result<()> {
    let checks = || {
        endpoint
            .asked()
            .iter()
            .filter(|path| *path == HEALTH)
            .count()
    };
    let before = checks();
    wait::until("its checks", PATIENCE, async || {
        ensure!(checks() >= before + 4, "{} of {}", checks(), before + 4);
        Ok(())
    })
    .await
}

/// Waits until so many of those that are bad are out, and Envoy has all others:
/// whoever is well, and whoever has to stay. So a request finds somebody who
/// answers, if anybody does.
async fn settles(
    envoy: &Envoy,
    checked: &Checked<'_>,
    bad: &BTreeSet<usize>,
    count: usize,
) -> Result<()> {
    let size = checked.endpoints.len();
    let what = format!("{count} of {bad:?} out of {}", checked.name);
    wait::until(&what, PATIENCE, async || {
        let out = checked.out().await?;
        let settled = out.len() == count && out.is_subset(bad);
        ensure!(settled, "{out:?} are out, {}", checked.word().await?);
        let known = checked.in_envoy(envoy).await?;
        let expected: BTreeSet<_> = (0..size).filter(|place| !out.contains(place)).collect();
        ensure!(
            known == expected,
            "Envoy has {known:?}, and out are {out:?}"
        );
        Ok(())
    })
    .await
}
