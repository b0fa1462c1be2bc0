//! Does a check that says nothing about the endpoints leave them alone: one
//! that has never worked, one that stops to work for all at once, one that
//! cannot be made?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};

use crate::checked::{Checked, quick, quicker, with};
use crate::scene::{PROGRAM, Scene};
use crate::support::audit::Mark;
use crate::support::cut::{Cut, Way};
use crate::support::endpoint::{Endpoint, TLS_PORT, Trouble};
use crate::support::envoy::{Envoy, Options};
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, OPERATOR, PATIENCE};
use crate::support::traffic::Traffic;
use crate::support::wait;

crate::tests![
    ; alone:
    a_check_that_never_worked_ejects_nobody_and_says_why_also_after_a_restart(15),
    a_check_that_breaks_for_all_endpoints_at_once_leaves_all_in(25)
];

/// Long enough for several more failures of each endpoint.
const A_WHILE: Duration = Duration::from_secs(4);

/// A service whose check says nothing, and what is said of that.
struct Case {
    name: &'static str,
    check: Value,
    trouble: Option<Trouble>,
    says: &'static str,
    /// Whether the checks count as failed.
    fails: bool,
    /// Whether what is sent to the endpoints is lost, as by a NetworkPolicy.
    /// Here nobody else reaches them either.
    dropped: bool,
}

fn cases() -> [Case; 7] {
    let case = |name, more, trouble, says, fails| Case {
        name,
        check: with(quick(), more),
        trouble,
        says,
        fails,
        dropped: false,
    };
    let never = "Unknown CheckNeverSucceeded";
    [
        case(
            "wrong-path",
            json!({}),
            Some(Trouble::Checks(404)),
            never,
            true,
        ),
        case(
            "forbidden",
            json!({}),
            Some(Trouble::Checks(403)),
            never,
            true,
        ),
        case("wrong-port", json!({"port": 9}), None, never, true),
        case("no-tls", json!({"scheme": "HTTPS"}), None, never, true),
        case(
            "wants-tls",
            json!({"port": TLS_PORT}),
            None,
            "Unknown MTLSRequired",
            false,
        ),
        case(
            "no-certificate",
            json!({"scheme": "MTLS", "port": TLS_PORT}),
            None,
            "Unknown NoMeshCertificate",
            false,
        ),
        Case {
            dropped: true,
            ..case("dropped", json!({}), None, never, true)
        },
    ]
}

async fn a_check_that_never_worked_ejects_nobody_and_says_why_also_after_a_restart(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "never-worked").await?;
    let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
    let cases = cases();
    let mark = rig.audit_mark().await?;
    // One whose check works shows that checks are made.
    let well = Checked::start(&scene, "well", 3, quick());
    let others = try_join_all(cases.iter().map(|case| bound(&scene, case)));
    let (well, bound) = tokio::try_join!(well, others)?;
    let (others, cuts): (Vec<_>, Vec<_>) = bound.into_iter().unzip();
    let all = || cases.iter().zip(&others);
    for (case, checked) in all() {
        stays_in(&scene.stack.operator, &envoy, case, checked, mark).await?;
    }

    scene.stack.operator.process.kill().await?;
    let url = &scene.stack.catalog.url;
    let operator = stack::operator(rig, "restarted", Path::new(PROGRAM), url, &[]).await?;
    for (case, checked) in all() {
        stays_in(&operator, &envoy, case, checked, mark).await?;
    }
    tokio::time::sleep(A_WHILE).await;
    for (case, checked) in all() {
        stays_in(&operator, &envoy, case, checked, mark).await?;
    }
    // The one that did work may fail.
    well.is_healthy().await?;
    well.endpoints[0].fail(Trouble::Status(500)).await?;
    well.are_out(&[0]).await?;
    for cut in cuts.into_iter().flatten() {
        cut.mend().await?;
    }
    scene.unbind().await?;
    operator.process.kill().await
}

/// Bound after its trouble began, and the cut that is to be mended.
async fn bound<'a>(scene: &'a Scene<'a>, case: &Case) -> Result<(Checked<'a>, Option<Cut>)> {
    let mut endpoints = Vec::new();
    for _ in 0..3 {
        let endpoint = Endpoint::start(scene.rig.addresses.next()?).await?;
        let endpoint = endpoint.with_tls(&scene.rig.pki).await?;
        if let Some(trouble) = case.trouble {
            endpoint.fail(trouble).await?;
        }
        endpoints.push(endpoint);
    }
    let checked = Checked::of(scene, case.name, endpoints).await?;
    let mut cut = None;
    if case.dropped {
        let each = checked.endpoints.iter().map(|e| (e.address(), 32));
        let addresses: Vec<_> = each.collect();
        cut = Some(Cut::make(Way::Swallowed, &addresses).await?);
    }
    checked
        .bind(json!({"healthCheck": case.check}), json!({}))
        .await?;
    Ok((checked, cut))
}

/// It is said why nothing is known of them, and nobody has touched them.
async fn stays_in(
    operator: &Operator,
    envoy: &Envoy,
    case: &Case,
    checked: &Checked<'_>,
    since: Mark,
) -> Result<()> {
    let check = async {
        if case.fails {
            fails(operator, checked, 9.0).await?;
        }
        let binding = checked.says(case.says).await?;
        let status = binding.status.context("no status")?;
        ensure!(status.health_status.is_none(), "{status:?}");
        checked.counts(3, 0, 0).await?;
        checked.envoy_has(envoy, &[0, 1, 2]).await?;
        let writes = checked.pod_writes(since).await?;
        ensure!(writes.is_empty(), "{writes:?}");
        if !case.dropped {
            let answer = envoy.get(&checked.host(), "/").await?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        Ok(())
    };
    check.await.with_context(|| case.name.to_owned())
}

/// Waits until so many checks of the service have failed.
async fn fails(operator: &Operator, checked: &Checked<'_>, count: f64) -> Result<()> {
    let service = format!("service=\"{}/{}\"", checked.scene.namespace, checked.name);
    wait::until("failed checks", PATIENCE, async || {
        let samples = operator
            .metrics(&format!("http://{OPERATOR}/metrics"))
            .await?;
        let of = |status: &str| {
            let labels = [service.as_str(), status];
            samples.sum("catalog_mesh_health_check_total", &labels)
        };
        let failed = of("status=\"failure\"").unwrap_or_default();
        ensure!(failed >= count, "{failed} have failed");
        let good = of("status=\"success\"").unwrap_or_default();
        ensure!(good == 0.0, "{good} have succeeded");
        Ok(())
    })
    .await
}

/// As where a rollout takes the path of the check away.
async fn a_check_that_breaks_for_all_endpoints_at_once_leaves_all_in(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "breaks").await?;
    let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
    // Others answer on, so that it is the service and not the operator.
    let well = try_join_all(["one", "two"].map(|name| Checked::start(&scene, name, 2, quicker())));
    let web = Checked::start(&scene, "web", 4, quicker());
    let (well, web) = tokio::try_join!(well, web)?;
    let all = [0, 1, 2, 3];
    web.envoy_has(&envoy, &all).await?;
    let traffic = Traffic::start(&envoy, &web.host(), Duration::from_millis(50))?;

    let broken = Trouble::Checks(404);
    try_join_all(web.endpoints.iter().map(|endpoint| endpoint.fail(broken))).await?;
    web.says("False Unhealthy").await?;
    web.counts(4, 0, 0).await?;
    web.are_out(&[]).await?;
    web.envoy_has(&envoy, &all).await?;
    web.stay_out(&[], A_WHILE).await?;
    web.catalog_hears("Unhealthy", 0, 4).await?;

    try_join_all(web.endpoints.iter().map(Endpoint::recover)).await?;
    web.is_healthy().await?;
    web.stay_out(&[], A_WHILE).await?;
    for checked in &well {
        checked.is_healthy().await?;
    }
    let sent = traffic.stop().await?;
    let failed: Vec<_> = sent.iter().filter(|sent| !sent.is_good()).collect();
    ensure!(
        failed.is_empty() && sent.len() > 100,
        "{failed:?} of {}",
        sent.len()
    );
    scene.unbind().await
}
