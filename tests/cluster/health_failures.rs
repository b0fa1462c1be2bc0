//! Does an endpoint that fails leave the mesh, however it fails, without a
//! client noticing once it has left; and does it come back when it is well?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::checked::{Checked, EJECTED, quick, with};
use crate::scene::Scene;
use crate::support::endpoint::{Endpoint, TLS_PORT, Trouble};
use crate::support::envoy::{Envoy, Logged, Options};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::traffic::{self, Sent, Traffic};
use crate::support::wait;

crate::tests![
    ; alone:
    whoever_fails_leaves_and_no_request_fails_after_that_until_it_is_back(20)
];

/// How often each service is called.
const PACE: Duration = Duration::from_millis(50);

/// Requests that each phase sees at least.
const SOME: usize = 40;

/// Which of the three endpoints fails.
const BAD: usize = 1;

/// All ways to fail, by the name of the service where it happens.
const TROUBLES: [(&str, Trouble); 10] = [
    ("refuses", Trouble::Refused),
    ("resets", Trouble::Reset),
    ("hangs", Trouble::Hang),
    ("slow-head", Trouble::SlowHead),
    ("answers-500", Trouble::Status(500)),
    ("answers-404", Trouble::Status(404)),
    ("no-http", Trouble::NoHttp),
    ("broken-tls", Trouble::BrokenTls),
    ("half-open", Trouble::HalfOpen),
    ("stopped", Trouble::Stopped),
];

async fn whoever_fails_leaves_and_no_request_fails_after_that_until_it_is_back(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "failing").await?;
    // Rules and endpoints are for clients anywhere.
    let client = rig.namespace("calling").await?;
    let envoy = rig.envoy(&Options::in_namespace(&client).logged()).await?;
    let cases = TROUBLES.into_iter();
    let cases = cases.map(|(name, trouble)| one(&scene, &envoy, name, trouble));
    let lines = try_join_all(cases).await?;
    eprintln!("{}", lines.join("\n"));
    envoy.expect_all_accepted().await?;
    scene.unbind().await
}

/// One of the services. Says how long what took.
async fn one(scene: &Scene<'_>, envoy: &Envoy, name: &str, trouble: Trouble) -> Result<String> {
    let checked = service(scene, name, trouble).await?;
    let host = checked.host();
    envoy.wait_for_endpoints(&host, 3).await?;
    checked.catalog_hears("Healthy", 3, 3).await?;
    let traffic = Traffic::start(envoy, &host, PACE)?;
    goes_on(&traffic, 0).await?;

    let bad = &checked.endpoints[BAD];
    bad.fail(trouble).await?;
    let failed = Instant::now();
    checked.envoy_has(envoy, &[0, 2]).await?;
    let left_after = failed.elapsed();
    let left = traffic.next();
    checked.says("False Degraded").await?;
    checked.counts(3, 2, 1).await?;
    checked.are_out(&[BAD]).await?;
    let why = note(&checked).await?;
    checked.is_told("Warning EndpointUnhealthy").await?;
    let notes = checked.notes("EndpointUnhealthy").await?;
    for word in [&checked.address(BAD), &checked.pod(BAD), &why] {
        ensure!(notes[0].contains(word), "{notes:?} does not say {word}");
    }
    checked.catalog_hears("Degraded", 2, 3).await?;
    let told_after = failed.elapsed();
    goes_on(&traffic, left).await?;

    let healed = traffic.next();
    bad.recover().await?;
    let since = Instant::now();
    checked.envoy_has(envoy, &[0, 1, 2]).await?;
    let back_after = since.elapsed();
    let back = traffic.next();
    checked.is_healthy().await?;
    checked.is_told("Normal EndpointHealthy").await?;
    checked.catalog_hears("Healthy", 3, 3).await?;
    goes_on(&traffic, back).await?;
    ensure!(checked.marks().await?.is_empty(), "a mark is left");
    ensure!(
        checked.told("Warning EndpointUnhealthy").await? == 1,
        "more than one failed: {:?}",
        scene.events(name).await?
    );
    let sent = traffic.stop().await?;
    tried(envoy, &checked, &sent, left..healed, back)
        .await
        .with_context(|| format!("{name}: left at {left}, well at {healed}, back at {back}"))?;
    Ok(format!(
        "{name}: out of Envoy {:.1} s after it failed, told everywhere after {:.1} s, back {:.1} s after it was well; {} of {} requests failed; {why}",
        left_after.as_secs_f64(),
        told_after.as_secs_f64(),
        back_after.as_secs_f64(),
        sent.iter().filter(|sent| !sent.is_good()).count(),
        sent.len(),
    ))
}

/// Three healthy endpoints, one of which can be in that trouble; checked by the
/// record, or by the binding.
async fn service<'a>(scene: &'a Scene<'a>, name: &str, trouble: Trouble) -> Result<Checked<'a>> {
    let rig = scene.rig;
    let mut endpoints = Vec::new();
    for place in 0..3 {
        let address = rig.addresses.next()?;
        endpoints.push(match trouble {
            Trouble::Stopped if place == BAD => Endpoint::process(rig.folder(), address).await?,
            Trouble::BrokenTls => Endpoint::start(address).await?.with_tls(&rig.pki).await?,
            _ => Endpoint::start(address).await?,
        });
    }
    let checked = Checked::of(scene, name, endpoints).await?;
    let check = if trouble == Trouble::BrokenTls {
        with(quick(), json!({"scheme": "HTTPS", "port": TLS_PORT}))
    } else {
        quick()
    };
    if matches!(trouble, Trouble::Hang | Trouble::Status(_)) {
        checked
            .bind(json!({}), json!({"healthCheck": check}))
            .await?;
    } else {
        checked
            .bind(json!({"healthCheck": check}), json!({}))
            .await?;
    }
    checked.is_healthy().await?;
    Ok(checked)
}

/// Waits until some more requests have gone out.
async fn goes_on(traffic: &Traffic, since: usize) -> Result<()> {
    wait::until("requests", PATIENCE, async || {
        let sent = traffic.next().saturating_sub(since);
        ensure!(sent >= SOME, "{sent} went out");
        Ok(())
    })
    .await
}

/// Why the endpoint is out, as its Pod says.
async fn note(checked: &Checked<'_>) -> Result<String> {
    let marks = checked.marks().await?;
    let (_, note) = marks.get(&checked.pod(BAD)).context("no mark")?;
    let note: Value = serde_json::from_str(note.as_deref().context("no annotation")?)?;
    let scene = checked.scene;
    ensure!(
        note["bindings"] == json!([format!("{}/{}", scene.namespace, checked.name)]),
        "{EJECTED}: {note}"
    );
    Ok(note["why"].as_str().context("no reason")?.to_owned())
}

/// From the moment it had left no request fails, and none is tried at the
/// endpoint before it is well; afterwards it serves like the others.
async fn tried(
    envoy: &Envoy,
    checked: &Checked<'_>,
    sent: &[Sent],
    out: std::ops::Range<usize>,
    back: usize,
) -> Result<()> {
    let failed: Vec<_> = sent
        .iter()
        .filter(|sent| sent.number >= out.start && !sent.is_good())
        .collect();
    ensure!(failed.is_empty(), "{failed:?}");
    let bad = checked.address(BAD);
    let by_bad = |sent: &&Sent| sent.outcome.ends_with(&bad);
    let served = sent.iter().filter(by_bad).map(|sent| sent.number);
    let served: Vec<_> = served.collect();
    ensure!(
        served.iter().any(|number| *number < out.start)
            && served.iter().any(|number| *number >= back),
        "it served {served:?}"
    );

    // Envoy's own word: what it tried besides the endpoint that answered.
    let last = sent.last().context("nothing was sent")?.number;
    for (number, request) in logged(envoy, &checked.host(), out.start..=last).await? {
        ensure!(request.status == 200 && request.flags == "-", "{request:?}");
        let tried = request.tried.as_deref().context("it tried nobody")?;
        let there = tried.contains(&format!("{bad}:"));
        ensure!(!there || !out.contains(&number), "{request:?}");
    }
    let asked = checked.endpoints[BAD].asked();
    let asked = asked.iter().filter_map(|path| traffic::number(path));
    let asked: Vec<_> = asked.filter(|number| out.contains(number)).collect();
    ensure!(asked.is_empty(), "it was asked for {asked:?}");
    Ok(())
}

/// What Envoy wrote down of these requests, once it has of all.
async fn logged(
    envoy: &Envoy,
    host: &str,
    numbers: std::ops::RangeInclusive<usize>,
) -> Result<Vec<(usize, Logged)>> {
    let all = numbers.clone().count();
    wait::until("Envoy's log", PATIENCE, async || {
        let mut logged = Vec::new();
        for request in envoy.requests()? {
            let number = traffic::number(&request.path);
            let number = number.filter(|n| numbers.contains(n) && request.host == host);
            logged.extend(number.map(|number| (number, request)));
        }
        ensure!(logged.len() == all, "{} of {all} are there", logged.len());
        Ok(logged)
    })
    .await
}
