//! Is there always somebody left in the mesh? Endpoints that fail one by one
//! until none is well, and then come back by half, while they are called.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::domain::health::ejection::most_out;
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::checked::{Checked, quicker};
use crate::scene::Scene;
use crate::support::endpoint::{Endpoint, HEALTH, Trouble};
use crate::support::envoy::{Envoy, Logged, Options};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::traffic::{self, Traffic};
use crate::support::wait;
use crate::support::workload::SERVICE_PORT;

crate::tests![
    a_pod_behind_two_services_leaves_where_both_floors_allow_it
    ; alone:
    endpoints_that_fail_one_by_one_are_never_out_beyond_the_floor(35)
];

/// How long it is watched that nothing happens.
const A_WHILE: Duration = Duration::from_secs(3);

/// Between two looks while others happen.
const LOOKS: Duration = Duration::from_millis(50);

/// How often each service is called.
const PACE: Duration = Duration::from_millis(25);

/// Requests that each step sees at least: more than it takes until the one that
/// is left has had its turn.
const SOME: usize = 12;

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
    let envoy = rig
        .envoy(&Options::in_namespace(&scene.namespace).logged())
        .await?;
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
    // Longer than the test: who is well again is not left out by Envoy either.
    let breaker = json!({"maxEjectionPercent": percent, "baseEjectionTime": "10m"});
    // A client that tries once more.
    let retries = json!({"attempts": 1, "retryOn": "5xx"});
    let record = json!({
        "healthCheck": quicker(), "circuitBreaker": breaker, "retries": retries,
    });
    checked.bind(record, json!({})).await?;
    checked.is_healthy().await?;
    let most = most_out(size, percent);
    envoy.wait_for_endpoints(&checked.host(), size).await?;
    let traffic = Traffic::start(envoy, &checked.host(), PACE)?;
    let watched = watch(&checked, most);
    let steps = steps(envoy, &checked, percent, &traffic);
    let (steps, nobody) = tokio::select! {
        broken = watched => return Err(broken.context(name.to_owned())),
        steps = steps => steps.with_context(|| name.to_owned())?,
    };
    let sent = traffic.stop().await?;
    let out: Vec<_> = steps.iter().map(|step| step.out).collect();
    let mut served = Vec::new();
    for step in &steps {
        let within = sent.iter().filter(|s| step.requests.contains(&s.number));
        let good = within.filter(|sent| sent.is_good()).count();
        ensure!(
            good > 0 || !step.anybody,
            "{name}: none of the requests {:?} was answered well with {} out",
            step.requests,
            step.out
        );
        served.push(good);
    }
    found_somebody(envoy, &checked, sent.len(), &nobody)
        .await
        .with_context(|| name.to_owned())?;
    Ok(format!(
        "{name}: of {size} never more than {most} were out; out by steps: {out:?}; requests answered well: {served:?} of {}",
        sent.len()
    ))
}

/// What one step came to.
struct Step {
    /// So many are out.
    out: usize,
    /// Whether anybody is well.
    anybody: bool,
    /// The numbers of the requests that went out while it was so.
    requests: Range<usize>,
}

/// Envoy had somebody to try for each request, whether that one answered well
/// or not, but for those of a time when nobody would have.
async fn found_somebody(
    envoy: &Envoy,
    checked: &Checked<'_>,
    sent: usize,
    but: &Range<usize>,
) -> Result<()> {
    let logged = wait::until("Envoy's log", PATIENCE, async || {
        let mut logged = envoy.requests()?;
        logged.retain(|request| {
            request.host == checked.host() && traffic::number(&request.path).is_some()
        });
        ensure!(logged.len() == sent, "{} of {sent} are there", logged.len());
        Ok(logged)
    })
    .await?;
    let lost = |request: &&Logged| {
        let number = traffic::number(&request.path);
        let exempt = number.is_some_and(|number| but.contains(&number));
        let found = request.tried.is_some() && !request.flags.contains("UH");
        !found && !exempt
    };
    let lost: Vec<_> = logged.iter().filter(lost).collect();
    ensure!(lost.is_empty(), "{lost:?}");
    Ok(())
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

/// What each step came to, and the requests of the time from which on nobody was
/// well until Envoy had heard that.
async fn steps(
    envoy: &Envoy,
    checked: &Checked<'_>,
    percent: u8,
    traffic: &Traffic,
) -> Result<(Vec<Step>, Range<usize>)> {
    let size = checked.endpoints.len();
    let most = most_out(size, percent);
    let mut bad = BTreeSet::new();
    let mut seen = Vec::new();
    let mut last = 0;
    for place in 0..size {
        last = traffic.first_to_see();
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
        seen.push(step(traffic, out, bad.len() < size).await?);
    }
    checked.says("False Unhealthy").await?;
    all_are_used(envoy, checked, percent).await?;
    let nobody = last..traffic.next();
    for place in 0..size.div_ceil(2) {
        checked.endpoints[place].recover().await?;
        bad.remove(&place);
    }
    let out = most.min(bad.len());
    settles(envoy, checked, &bad, out).await?;
    serves(envoy, checked).await?;
    seen.push(step(traffic, out, true).await?);
    checked.counts(size, size - bad.len(), out).await?;
    Ok((seen, nobody))
}

/// Waits until Envoy goes by what holds where no endpoint answers: the policy, and
/// that all are used where it may have taken out all of them.
async fn all_are_used(envoy: &Envoy, checked: &Checked<'_>, percent: u8) -> Result<()> {
    let expected = json!([2, percent, f64::from(u8::from(percent == 100))]);
    wait::until(&format!("{expected} in Envoy"), PATIENCE, async || {
        let cluster = envoy.cluster(&checked.host(), SERVICE_PORT).await?;
        let cluster = cluster.context("it does not know the Service")?;
        let detection = &cluster["outlier_detection"];
        let least = &cluster["common_lb_config"]["healthy_panic_threshold"]["value"];
        let found = json!([
            detection["consecutive_5xx"],
            detection["max_ejection_percent"],
            least.as_f64().unwrap_or_default(),
        ]);
        ensure!(found == expected, "{found}");
        Ok(())
    })
    .await
}

/// Waits until Envoy sends requests to those that are well again: it may have
/// taken them out itself.
async fn serves(envoy: &Envoy, checked: &Checked<'_>) -> Result<()> {
    wait::until("requests that are answered well", PATIENCE, async || {
        for _ in 0..3 {
            let answer = envoy.get(&checked.host(), "/").await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.body);
        }
        Ok(())
    })
    .await
}

/// Lets some requests go out before anything else happens.
async fn step(traffic: &Traffic, out: usize, anybody: bool) -> Result<Step> {
    let from = traffic.next();
    wait::until("requests", PATIENCE, async || {
        let sent = traffic.next() - from;
        ensure!(sent >= SOME, "{sent} went out");
        Ok(())
    })
    .await?;
    let requests = from..traffic.next();
    // On a slow machine they reach Envoy late, and then something else may be so.
    wait::until("their answers", PATIENCE, async || {
        let first = traffic.first_to_see();
        ensure!(
            first >= requests.end,
            "{first} of {requests:?} is under way"
        );
        Ok(())
    })
    .await?;
    Ok(Step {
        out,
        anybody,
        requests,
    })
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

/// Whether both let somebody go who is behind both.
async fn a_pod_behind_two_services_leaves_where_both_floors_allow_it(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "two-floors").await?;
    // Of these five two may be out, and of the first three one.
    let web = Checked::unbound(&scene, "web", 5).await?;
    let breaker = json!({"maxEjectionPercent": 40});
    let record = json!({"healthCheck": quicker(), "circuitBreaker": breaker});
    web.bind(record, json!({})).await?;
    for place in 0..3 {
        web.edit(place, json!({"labels": {"tier": "front"}}))
            .await?;
    }
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let spec = json!({"selector": {"tier": "front"}, "ports": ports});
    scene.service_with("front", spec).await?;
    let mut front = scene.record("front");
    front["healthCheck"] = quicker();
    scene.put(&front).await?;
    scene.create(&scene.binding("front")).await?;
    web.is_healthy().await?;
    scene.says("front", "Healthy", "True Healthy").await?;

    for place in [0, 1] {
        web.endpoints[place].fail(Trouble::Status(500)).await?;
    }
    web.counts(5, 3, 1).await?;
    scene.says("front", "Healthy", "False Unhealthy").await?;
    let stays = async |expected: &[usize], may: usize| {
        wait::throughout("both floors", A_WHILE, async || {
            let out = web.out().await?;
            let of = out.iter().filter(|place| expected.contains(place)).count();
            ensure!(out.len() == may && of == may, "{out:?} are out");
            Ok(())
        })
        .await
    };
    stays(&[0, 1], 1).await?;
    for place in web.out().await? {
        let both = ["front", "web"];
        wanted_by(&web, place, &both).await?;
    }

    try_join_all(web.endpoints.iter().map(Endpoint::recover)).await?;
    web.is_healthy().await?;
    for place in [3, 4] {
        web.endpoints[place].fail(Trouble::Status(500)).await?;
    }
    web.are_out(&[3, 4]).await?;
    // The other one would let it go.
    web.endpoints[0].fail(Trouble::Status(500)).await?;
    scene.says("front", "Healthy", "False Degraded").await?;
    web.counts(5, 2, 2).await?;
    stays(&[3, 4], 2).await?;
    for place in [3, 4] {
        wanted_by(&web, place, &["web"]).await?;
    }
    scene.unbind().await
}

/// Whether its Pod's annotation names just these bindings.
async fn wanted_by(web: &Checked<'_>, place: usize, names: &[&str]) -> Result<()> {
    let namespace = &web.scene.namespace;
    let names = names.iter().map(|name| format!("{namespace}/{name}"));
    let names: Vec<_> = names.collect();
    let marks = web.marks().await?;
    let (_, note) = marks.get(&web.pod(place)).context("no mark")?;
    let note: Value = serde_json::from_str(note.as_deref().context("no note")?)?;
    ensure!(note["bindings"] == json!(names), "{note}");
    Ok(())
}
