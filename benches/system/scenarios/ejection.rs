//! An endpoint dies: how long is it still sent requests, and how long until it
//! serves again when it has healed? Both by Envoy's access log, under requests
//! at a fixed pace. Beside it: when its Pod is labelled, when Envoy no longer
//! has it, and what the mesh alone takes for such a label. Endpoints die in
//! every way that the tests know, at times of their own.

mod case;
mod log;
mod seen;

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::bed::{Bed, PERIOD, settle};
use crate::report::{Goal, Report};
use crate::support::envoy::Options;
use crate::support::traffic::Traffic;
use crate::support::wait;
use case::{Case, KINDS, LIMIT, SETTINGS};
use log::Log;
use seen::{LOOK, PATIENCE, Sight};

/// How often each Service is called. Its three endpoints take turns.
const PACE: Duration = Duration::from_millis(100);

/// Services for each way to fail and each setting.
const EACH: usize = 4;

/// Services that are made at once.
const AT_ONCE: usize = 8;

/// Labels that are set by hand.
const BARE: usize = 24;

/// How long requests are watched once an endpoint is out, and once it is back.
const WATCHED: Duration = Duration::from_secs(3);

/// What happened to one endpoint, and when.
struct Times {
    failed: SystemTime,
    labelled: SystemTime,
    dropped: SystemTime,
    healed: SystemTime,
}

/// What became of it, from the failure or the healing on.
struct Outcome {
    labelled: Duration,
    dropped: Duration,
    served: Duration,
    back: Duration,
    failed_before: usize,
    sent_after: usize,
    failed_after: usize,
    tried_after: usize,
}

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let each = if bed.options.quick { 1 } else { EACH };
    let namespace = bed.rig.namespace("dying").await?;
    let kinds = SETTINGS
        .iter()
        .flat_map(|setting| KINDS.iter().map(move |kind| (setting, kind)));
    let kinds: Vec<_> = kinds
        .flat_map(|of| std::iter::repeat_n(of, each))
        .enumerate()
        .collect();
    eprintln!("making {} Services ...", kinds.len());
    let cases = futures::stream::iter(kinds)
        .map(|(number, (setting, kind))| Case::make(&bed.rig, &namespace, number, setting, kind));
    let cases: Vec<Case> = cases.buffered(AT_ONCE).try_collect().await?;
    let client = bed.rig.namespace("calling").await?;
    let envoy = bed
        .rig
        .envoy(&Options::in_namespace(&client).logged())
        .await?;
    for case in &cases {
        envoy.wait_for_endpoints(&case.host(), 3).await?;
    }
    let sight = Sight::of(&envoy, cases[0].pods());

    let look = async {
        eprintln!("labels by a bare client ...");
        let mut bare = Vec::new();
        for case in cases.iter().take(BARE) {
            bare.push(labelled_by_hand(&sight, case).await?);
        }
        report.add_times("a bare label until Envoy has dropped it", &bare);
        for case in &cases {
            bed.catalog.put(&case.record()).await?;
        }
        let running = bed.operator(PERIOD).await?;
        running.listed().await?;
        eprintln!("waiting until every endpoint has answered ...");
        wait::until("healthy endpoints", PATIENCE, async || {
            let metrics = running.metrics().await?;
            let healthy = metrics.sum("catalog_mesh_healthy_endpoints", &[]);
            let all = 3 * cases.len();
            ensure!(healthy == Some(all as f64), "{healthy:?} of {all} are");
            Ok(())
        })
        .await?;
        let mut traffic = Vec::new();
        for case in &cases {
            traffic.push(Traffic::start(&envoy, &case.host(), PACE)?);
            sleep(PACE / u32::try_from(cases.len())?).await;
        }
        settle().await;
        for round in 1..=bed.options.runs {
            eprintln!("round {round} of {} ...", bed.options.runs);
            let all = cases.iter().enumerate().map(|(number, case)| {
                // Each at another point of its interval.
                let phase = case.setting.interval * (number % each) as u32 / each as u32;
                die(&sight, case, phase)
            });
            let times = try_join_all(all).await?;
            // A request is written down when it has ended.
            sleep(LIMIT + WATCHED).await;
            let log = Log::read(&envoy)?;
            let outcomes: Result<Vec<_>> = cases
                .iter()
                .zip(&times)
                .map(|(case, times)| outcome(&log, case, times))
                .collect();
            tell(&mut report, &cases, &outcomes?);
        }
        for traffic in traffic {
            traffic.stop().await?;
        }
        running.stop().await
    };
    tokio::select! {
        failed = sight.keep() => failed?,
        done = look => done?,
    }
    hold_to_bounds(&mut report);
    report.note(format!(
        "{each} Services of three endpoints each for every way to fail, all at once. Each Service is \
         called every {} ms, its endpoints in turns and nothing is tried again, so that the last \
         request served is known to {} ms; where clients see failures, Envoy leaves the endpoint \
         out by itself before it is dropped. Drop and label are looked for every {} ms",
        PACE.as_millis(),
        3 * PACE.as_millis(),
        LOOK.as_millis()
    ));
    for case in &cases {
        bed.catalog.delete(&case.name()).await?;
    }
    Ok(report)
}

/// Lets one endpoint die and heal.
async fn die(sight: &Sight<'_>, case: &Case, phase: Duration) -> Result<Times> {
    sleep(phase).await;
    let failed = SystemTime::now();
    case.fail().await?;
    let labelled = async {
        sight.until(|seen| seen.labelled(case)).await?;
        anyhow::Ok(SystemTime::now())
    };
    let dropped = async {
        sight.until(|seen| !seen.in_envoy(case)).await?;
        anyhow::Ok(SystemTime::now())
    };
    let (labelled, dropped) = tokio::try_join!(labelled, dropped)?;
    sleep(WATCHED).await;
    let healed = SystemTime::now();
    case.recover().await?;
    sight.until(|seen| seen.in_envoy(case)).await?;
    sleep(WATCHED).await;
    Ok(Times {
        failed,
        labelled,
        dropped,
        healed,
    })
}

/// What the log says of it.
fn outcome(log: &Log, case: &Case, times: &Times) -> Result<Outcome> {
    let since = |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
    let of = log.of(case)?;
    let out = times.failed..times.healed;
    let served = of.last_at_the_bad(&out)?;
    Ok(Outcome {
        labelled: since(times.failed, times.labelled),
        dropped: since(times.failed, times.dropped),
        served: since(times.failed, served),
        back: since(times.healed, of.first_served_after(times.healed)?),
        failed_before: of.failed(&(times.failed..times.dropped)),
        sent_after: of.sent(times.dropped),
        failed_after: of.failed(&(times.dropped..SystemTime::now())),
        tried_after: of.at_the_bad(&(times.dropped..times.healed)),
    })
}

/// What is said of each way to fail.
type Figure = (&'static str, fn(&Outcome) -> Duration);

const SERVED: &str = "last request served";
const DROPPED: &str = "dropped";
const BACK: &str = "serves again";

const FIGURES: [Figure; 3] = [
    (SERVED, |of| of.served),
    (DROPPED, |of| of.dropped),
    (BACK, |of| of.back),
];

/// Adds one round's figures.
fn tell(report: &mut Report, cases: &[Case], outcomes: &[Outcome]) {
    for setting in &SETTINGS {
        let of_setting = cases.iter().zip(outcomes);
        let of_setting = of_setting.filter(|(case, _)| case.setting.name == setting.name);
        for kind in &KINDS {
            let of = of_setting.clone().filter(|(c, _)| c.kind.name == kind.name);
            for (what, time) in FIGURES {
                let times: Vec<_> = of.clone().map(|(_, outcome)| time(outcome)).collect();
                let name = format!("{}: {}, {what}", setting.name, kind.name);
                report.add_middle_and_most(&name, &times);
            }
        }
        let spread = of_setting.map(|(_, of)| of.dropped.saturating_sub(of.labelled));
        let spread: Vec<_> = spread.collect();
        let name = format!("{}: from the label to the drop", setting.name);
        report.add_middle_and_most(&name, &spread);
    }
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>() as f64;
    report.add(
        "requests failed before the drop",
        "",
        sum(|t| t.failed_before),
    );
    report.add("requests after the drop", "", sum(|t| t.sent_after));
    report.add(FAILED_AFTER, "", sum(|t| t.failed_after));
    report.add(TRIED_AFTER, "", sum(|t| t.tried_after));
}

const FAILED_AFTER: &str = "of these failed";
const TRIED_AFTER: &str = "of these tried at the endpoint that was out";

/// Says which of the bounds were missed.
fn hold_to_bounds(report: &mut Report) {
    for setting in &SETTINGS {
        for kind in &KINDS {
            for (what, most) in [
                (SERVED, setting.most_served(kind)),
                (DROPPED, setting.most_served(kind)),
                (BACK, setting.most_back()),
            ] {
                let name = format!("{}: {}, {what} max", setting.name, kind.name);
                report.goal(&name, Goal::NeverAbove(most.as_secs_f64() * 1e3));
            }
        }
    }
    report.goal(FAILED_AFTER, Goal::NeverAbove(0.0));
    report.goal(TRIED_AFTER, Goal::NeverAbove(0.0));
}

/// What the mesh takes for a label alone.
async fn labelled_by_hand(sight: &Sight<'_>, case: &Case) -> Result<Duration> {
    case.label(json!("bare")).await?;
    let began = Instant::now();
    sight.until(|seen| !seen.in_envoy(case)).await?;
    let took = began.elapsed();
    case.label(Value::Null).await?;
    sight.until(|seen| seen.in_envoy(case)).await?;
    Ok(took)
}
