//! The operator itself is not well, or cannot see its endpoints: is one that
//! answers ever taken for dead? The real process is starved, cut off
//! and given too much, while all endpoints are well; after each, one really dies.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use catalog_mesh_controller::domain::health::doubt::LATE;

use crate::patients::{Patients, quick, rest};
use crate::scene::message;
use crate::support::cut::{Cut, Way};
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::wait;

crate::tests![
    ; alone:
    an_operator_that_gets_a_tenth_of_its_time_takes_nobody_for_dead(35),
    an_operator_whose_network_goes_takes_nobody_for_dead(55),
    an_operator_with_twice_as_much_as_it_can_do_takes_nobody_for_dead(25)
];

const DOUBTS: &str = "health checks are in doubt";
const NO_LONGER: &str = "health checks are no longer in doubt";

/// Waits until the condition says that verdicts are held, and why.
async fn said(patients: &Patients<'_>, why: &str) -> Result<()> {
    let name = &patients.workloads[0].name;
    let expected = format!("no verdict moves for now: {why}");
    wait::until("a word in the condition", PATIENCE, async || {
        let binding = patients.scene.bindings().get(name).await?;
        let message = message(&binding, "Healthy");
        ensure!(message.contains(&expected), "{message}");
        Ok(())
    })
    .await
}

async fn an_operator_that_gets_a_tenth_of_its_time_takes_nobody_for_dead(rig: &Rig) -> Result<()> {
    let patients = Patients::start(rig, "starved", 4, 3, &quick(), &[]).await?;
    let before = patients.before().await?;
    // As a container is given its share, and as badly as it can be dealt out.
    for (turn, span) in [(100, 8), (1000, 10)] {
        let turn = Duration::from_millis(turn);
        let end = Instant::now() + Duration::from_secs(span);
        let process = &patients.scene.stack.operator.process;
        while Instant::now() < end {
            process.signal(Signal::SIGSTOP).await?;
            sleep(turn * 9 / 10).await;
            process.signal(Signal::SIGCONT).await?;
            sleep(turn / 10).await;
        }
        if turn > LATE {
            // The long pauses are worth a word to whoever looks at a binding.
            said(&patients, "the operator comes late").await?;
        }
        patients.all_are_asked().await?;
        patients.released().await?;
        patients.expect_untouched(&before).await?;
    }
    ensure!(patients.log()?.contains(DOUBTS), "not a word");
    patients.one_that_dies_is_taken_out().await?;
    patients.stop().await
}

async fn an_operator_whose_network_goes_takes_nobody_for_dead(rig: &Rig) -> Result<()> {
    let mut patients = Patients::start(rig, "cut-off", 4, 3, &quick(), &[]).await?;
    let before = patients.before().await?;
    let networks: Vec<_> = patients.addresses().into_iter().map(|a| (a, 32)).collect();
    for (way, seconds) in [(Way::Blocked, 3), (Way::Swallowed, 12), (Way::Blocked, 1)] {
        let cut = Cut::make(way, &networks).await?;
        let since = Instant::now();
        patients.held("all_at_once").await?;
        sleep((since + Duration::from_secs(seconds)).saturating_duration_since(Instant::now()))
            .await;
        if seconds > 10 {
            // Held for so long, it is said to whoever looks at a binding.
            said(&patients, "many services stopped answering at once").await?;
        }
        let asked = patients.checks();
        cut.mend().await?;
        patients.released().await?;
        ensure!(patients.checks() > asked, "nobody is asked");
        patients.expect_untouched(&before).await?;
    }
    let log = patients.log()?;
    ensure!(
        log.contains(DOUBTS) && log.contains(NO_LONGER),
        "not a word"
    );
    // Too few are left to tell a dead network from dead endpoints, as long as
    // somebody outside answers: nobody leaves the mesh all the same.
    for services in [2, 1] {
        patients.keep(services).await?;
        few_are_cut_off(&patients).await?;
    }
    all_are_cut_off(&patients).await?;
    patients.one_that_dies_is_taken_out().await?;
    patients.stop().await
}

/// The way to all endpoints of few services goes, and comes back.
async fn few_are_cut_off(patients: &Patients<'_>) -> Result<()> {
    let before = patients.before().await?;
    let networks: Vec<_> = patients.addresses().into_iter().map(|a| (a, 32)).collect();
    let moved = async |to: &str| {
        let name = "catalog_mesh_health_transitions_total";
        patients.metric(name, &[&format!("to=\"{to}\"")]).await
    };
    let all = async |to: &str, from: f64| {
        wait::until(&format!("verdicts: {to}"), PATIENCE, async || {
            let count = moved(to).await? - from;
            ensure!(count == networks.len() as f64, "{count} moved");
            Ok(())
        })
        .await
    };
    let (bad, good) = (moved("unhealthy").await?, moved("healthy").await?);
    let cut = Cut::make(Way::Swallowed, &networks).await?;
    let silent = all("unhealthy", bad).await;
    cut.mend().await?;
    silent?;
    all("healthy", good).await?;
    patients.expect_no_pod_written(&before).await
}

/// With them the API server and the catalog are silent.
async fn all_are_cut_off(patients: &Patients<'_>) -> Result<()> {
    let name = &patients.workloads[0].name;
    patients.scene.says(name, "Healthy", "True Healthy").await?;
    let before = patients.before().await?;
    let networks: Vec<_> = patients.addresses().into_iter().map(|a| (a, 32)).collect();
    let stack = &patients.scene.stack;
    let others = [&patients.scene.rig.api.server, &stack.catalog.process];
    for process in others {
        process.signal(Signal::SIGSTOP).await?;
    }
    let cut = Cut::make(Way::Swallowed, &networks).await?;
    // Long enough to take all of them for dead, several times over.
    let aside = "catalog_mesh_health_answers_set_aside_total";
    let held = wait::until("answers without a witness", PATIENCE, async || {
        let unwitnessed = patients.metric(aside, &["reason=\"unwitnessed\""]).await?;
        ensure!(unwitnessed >= 20.0, "{unwitnessed}");
        Ok(())
    })
    .await;
    cut.mend().await?;
    for process in others {
        process.signal(Signal::SIGCONT).await?;
    }
    held?;
    patients.all_are_asked().await?;
    patients.expect_untouched(&before).await
}

async fn an_operator_with_twice_as_much_as_it_can_do_takes_nobody_for_dead(
    rig: &Rig,
) -> Result<()> {
    // Eight at once, each of which takes 200 ms: 40 a second. 80 are asked for.
    let check = json!({"endpoint": "/health", "interval": "500ms", "timeout": "450ms"});
    let flags = ["--health-concurrency", "8"];
    let patients = Patients::start(rig, "too-much", 4, 10, &check, &flags).await?;
    let before = patients.before().await?;
    let slow = crate::support::backend::Behaviour::Delay(Duration::from_millis(200));
    for pod in patients.workloads.iter().flat_map(|w| &w.pods) {
        pod.backend.behave(slow);
    }
    let lateness = "catalog_mesh_health_check_lateness_seconds";
    let (sum, count) = (format!("{lateness}_sum"), format!("{lateness}_count"));
    let from = (
        patients.metric(&sum, &[]).await?,
        patients.metric(&count, &[]).await?,
    );
    rest(15).await;
    let to = (
        patients.metric(&sum, &[]).await?,
        patients.metric(&count, &[]).await?,
    );
    let late = (to.0 - from.0) / (to.1 - from.1);
    // It comes late, which is counted, and leaves nobody out.
    ensure!(late > 0.1, "{late} s late");
    let waiting = patients
        .metric("catalog_mesh_health_checks_waiting", &[])
        .await?;
    ensure!(waiting > 0.0, "nobody waits");
    patients.all_are_asked().await?;
    patients.expect_untouched(&before).await?;
    for pod in patients.workloads.iter().flat_map(|w| &w.pods) {
        pod.backend.recover();
    }
    patients.one_that_dies_is_taken_out().await?;
    patients.stop().await
}
