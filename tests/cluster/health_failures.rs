//! Does an endpoint that fails leave the mesh, however it fails, without a
//! client noticing once it has left; and does it come back when it is well?

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::checked::{Checked, EJECTED, quick, with};
use crate::scene::{PROGRAM, Scene};
use crate::support::alertmanager::Alertmanager;
use crate::support::endpoint::{Endpoint, TLS_PORT, Trouble};
use crate::support::envoy::{Envoy, Logged, Options};
use crate::support::rig::Rig;
use crate::support::stack::{PATIENCE, Stack};
use crate::support::traffic::{self, Sent, Traffic};
use crate::support::wait;

crate::tests![
    ; alone:
    whoever_fails_leaves_and_no_request_fails_after_that_until_it_is_back(25)
];

/// How often each service is called by each client, where it has few endpoints
/// and where it has many.
const PACE: Duration = Duration::from_millis(100);
const QUICK_PACE: Duration = Duration::from_millis(25);

/// Requests that each phase sees at least, of each client and endpoint.
const SOME: usize = 7;

/// Which of the endpoints fails.
const BAD: usize = 1;

/// A way to fail, by the name of the service where it happens.
struct Case {
    name: &'static str,
    trouble: Trouble,
    size: usize,
}

const fn of_three(name: &'static str, trouble: Trouble) -> Case {
    Case {
        name,
        trouble,
        size: 3,
    }
}

/// All ways to fail, and one beside many that are well.
const CASES: [Case; 11] = [
    of_three("refuses", Trouble::Refused),
    of_three("resets", Trouble::Reset),
    of_three("hangs", Trouble::Hang),
    of_three("slow-head", Trouble::SlowHead),
    of_three("answers-500", Trouble::Status(500)),
    of_three("answers-404", Trouble::Status(404)),
    of_three("no-http", Trouble::NoHttp),
    of_three("broken-tls", Trouble::BrokenTls),
    of_three("half-open", Trouble::HalfOpen),
    of_three("stopped", Trouble::Stopped),
    Case {
        name: "of-fifty",
        trouble: Trouble::Status(500),
        size: 50,
    },
];

/// Who looks on: a client in the services' own namespace, one in another, and
/// an Alertmanager.
struct Watchers {
    clients: [Envoy; 2],
    alertmanager: Alertmanager,
}

/// Requests to one of the services, by one of the clients.
struct Calls<'a> {
    envoy: &'a Envoy,
    traffic: Traffic,
}

async fn whoever_fails_leaves_and_no_request_fails_after_that_until_it_is_back(
    rig: &Rig,
) -> Result<()> {
    let folder = rig.folder().join("failing-alerts");
    std::fs::create_dir_all(&folder)?;
    let address: SocketAddr = "127.0.0.1:9193".parse()?;
    // Nobody has to be told by it.
    let alertmanager = Alertmanager::start(&folder, address, "", "http://127.0.0.1:9194/").await?;
    let url = alertmanager.url();
    let flags = ["--alertmanager-url", url.as_str()];
    let stack = Stack::start_with(rig, Path::new(PROGRAM), &flags).await?;
    let scene = Scene::beside(rig, Arc::new(stack), "failing").await?;
    // Rules and endpoints are for clients anywhere.
    let elsewhere = rig.namespace("calling").await?;
    let watchers = Watchers {
        clients: [
            rig.envoy(&Options::in_namespace(&scene.namespace).logged())
                .await?,
            rig.envoy(&Options::in_namespace(&elsewhere).logged())
                .await?,
        ],
        alertmanager,
    };
    let lines = CASES.iter().map(|case| one(&scene, &watchers, case));
    let lines = try_join_all(lines).await?;
    eprintln!("{}", lines.join("\n"));
    for envoy in &watchers.clients {
        envoy.expect_all_accepted().await?;
    }
    scene.unbind().await
}

/// One of the services. Says how long what took.
async fn one(scene: &Scene<'_>, watchers: &Watchers, case: &Case) -> Result<String> {
    let Case { name, size, .. } = *case;
    let checked = service(scene, case).await?;
    let host = checked.host();
    // One of many does not make a service unwell.
    let (health, said) = if size > 10 {
        ("Healthy", "True Healthy")
    } else {
        ("Degraded", "False Degraded")
    };
    let (all, good) = (u32::try_from(size)?, u32::try_from(size - 1)?);
    let places: Vec<_> = (0..size).collect();
    let others: Vec<_> = (0..size).filter(|place| *place != BAD).collect();
    let mut calls = Vec::new();
    for envoy in &watchers.clients {
        envoy.wait_for_endpoints(&host, size).await?;
        let pace = if size > 10 { QUICK_PACE } else { PACE };
        let traffic = Traffic::start(envoy, &host, pace)?;
        calls.push(Calls { envoy, traffic });
    }
    checked.catalog_hears("Healthy", all, all).await?;
    ensure!(
        alerts(watchers, &checked).await?.is_empty(),
        "{name}: something fires"
    );
    go_on(&calls, &[0, 0], size).await?;

    let bad = &checked.endpoints[BAD];
    bad.fail(case.trouble).await?;
    let failed = Instant::now();
    all_have(&calls, &checked, &others).await?;
    let left_after = failed.elapsed();
    let left = next(&calls);
    checked.says(said).await?;
    checked.counts(size, size - 1, 1).await?;
    checked.are_out(&[BAD]).await?;
    let why = note(&checked).await?;
    checked.is_told("Warning EndpointUnhealthy").await?;
    let notes = checked.notes("EndpointUnhealthy").await?;
    for word in [&checked.address(BAD), &checked.pod(BAD), &why] {
        ensure!(notes[0].contains(word), "{notes:?} does not say {word}");
    }
    checked.catalog_hears(health, good, all).await?;
    fires(watchers, &checked, &why).await?;
    let told_after = failed.elapsed();
    go_on(&calls, &left, size).await?;

    let healed = next(&calls);
    bad.recover().await?;
    let since = Instant::now();
    all_have(&calls, &checked, &places).await?;
    let back_after = since.elapsed();
    let back = next(&calls);
    checked.is_healthy().await?;
    checked.is_told("Normal EndpointHealthy").await?;
    checked.changed(&[(BAD, false), (BAD, true)]).await?;
    checked.catalog_hears("Healthy", all, all).await?;
    wait::until("the end of the alert", PATIENCE, async || {
        let alerts = alerts(watchers, &checked).await?;
        ensure!(alerts.is_empty(), "{name}: these fire: {alerts:?}");
        Ok(())
    })
    .await?;
    go_on(&calls, &back, size).await?;
    ensure!(checked.marks().await?.is_empty(), "a mark is left");
    ensure!(
        checked.told("Warning EndpointUnhealthy").await? == 1,
        "more than one failed: {:?}",
        scene.events(name).await?
    );
    is_logged(&checked, health, &why)?;
    // Its own word; whoever is a process of its own has none. Both clients have
    // the same numbers.
    let out = left.iter().max().copied()..healed.iter().min().copied();
    let asked = bad.asked().into_iter();
    let asked = asked.filter_map(|path| traffic::number(&path));
    let asked: Vec<_> = asked
        .filter(|number| out.contains(&Some(*number)))
        .collect();
    ensure!(asked.is_empty(), "{name}: it was asked for {asked:?}");
    let (mut failed, mut sent) = (0, 0);
    for (number, Calls { envoy, traffic }) in calls.into_iter().enumerate() {
        let all = traffic.stop().await?;
        let (left, healed, back) = (left[number], healed[number], back[number]);
        tried(envoy, &checked, &all, left..healed, back)
            .await
            .with_context(|| format!("{name}: left at {left}, well at {healed}, back at {back}"))?;
        failed += all.iter().filter(|sent| !sent.is_good()).count();
        sent += all.len();
    }
    Ok(format!(
        "{name}: out of Envoy {:.1} s after it failed, told everywhere after {:.1} s, back {:.1} s after it was well; {failed} of {sent} requests failed; {why}",
        left_after.as_secs_f64(),
        told_after.as_secs_f64(),
        back_after.as_secs_f64(),
    ))
}

/// The numbers of the clients' next requests.
fn next(calls: &[Calls<'_>]) -> Vec<usize> {
    calls.iter().map(|calls| calls.traffic.next()).collect()
}

/// Waits until each client has just these endpoints.
async fn all_have(calls: &[Calls<'_>], checked: &Checked<'_>, places: &[usize]) -> Result<()> {
    for calls in calls {
        checked.envoy_has(calls.envoy, places).await?;
    }
    Ok(())
}

/// The alerts about this service that fire.
async fn alerts(watchers: &Watchers, checked: &Checked<'_>) -> Result<Vec<Value>> {
    let mut alerts = watchers.alertmanager.active().await?;
    alerts.retain(|alert| {
        let labels = &alert["labels"];
        labels["namespace"] == checked.scene.namespace && labels["service"] == checked.name
    });
    Ok(alerts)
}

/// Waits until one fires, of the endpoint that fails, and says that it is out.
async fn fires(watchers: &Watchers, checked: &Checked<'_>, why: &str) -> Result<()> {
    wait::until("the alert", PATIENCE, async || {
        let alerts = alerts(watchers, checked).await?;
        let [alert] = &alerts[..] else {
            anyhow::bail!("these fire: {alerts:?}");
        };
        let (labels, said) = (&alert["labels"], &alert["annotations"]["description"]);
        ensure!(
            labels["alertname"] == "CatalogMeshEndpointUnhealthy",
            "{alert}"
        );
        ensure!(labels["pod"] == checked.pod(BAD), "{alert}");
        let said = said.as_str().context("it has no description")?;
        ensure!(said.contains(why) && said.contains("taken out"), "{alert}");
        Ok(())
    })
    .await
}

/// The log has one line for each of the two transitions, with all its keys.
fn is_logged(checked: &Checked<'_>, health: &str, why: &str) -> Result<()> {
    let scene = checked.scene;
    let log = std::fs::read_to_string(scene.stack.operator.process.log())?;
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let lines: Vec<Value> = lines
        .filter(|line: &Value| {
            line["namespace"] == scene.namespace
                && line["serviceName"] == checked.name
                && line["msg"]
                    .as_str()
                    .is_some_and(|msg| msg.starts_with("Endpoint is "))
        })
        .collect();
    let [bad, good] = &lines[..] else {
        anyhow::bail!("these lines are there: {lines:?}");
    };
    let endpoint = format!("{}:", checked.address(BAD));
    for (line, level, msg, health) in [
        (bad, "warn", "Endpoint is unhealthy", health),
        (good, "info", "Endpoint is healthy again", "Healthy"),
    ] {
        let named = line["endpoint"].as_str();
        ensure!(
            line["level"] == level
                && line["msg"] == msg
                && line["healthStatus"] == health
                && line["catalogServiceId"] == scene.id(&checked.name)
                && line["pod"] == checked.pod(BAD)
                && named.is_some_and(|named| named.starts_with(&endpoint)),
            "{line}"
        );
    }
    ensure!(bad["why"] == why, "{bad} does not say: {why}");
    Ok(())
}

/// Healthy endpoints, one of which can be in that trouble; checked by the
/// record, or by the binding.
async fn service<'a>(scene: &'a Scene<'a>, case: &Case) -> Result<Checked<'a>> {
    let Case {
        name,
        trouble,
        size,
    } = *case;
    let rig = scene.rig;
    let mut endpoints = Vec::new();
    for place in 0..size {
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

/// Waits until each client has sent some more requests for each endpoint.
async fn go_on(calls: &[Calls<'_>], since: &[usize], size: usize) -> Result<()> {
    let some = if size > 10 { 2 * size } else { SOME * size };
    wait::until("requests", PATIENCE, async || {
        for (calls, since) in calls.iter().zip(since) {
            let sent = calls.traffic.next().saturating_sub(*since);
            ensure!(sent >= some, "{sent} went out");
        }
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
