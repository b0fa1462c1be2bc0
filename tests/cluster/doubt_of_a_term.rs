//! With the flags that are shipped a leader that is not well for ten seconds is
//! over: its process ends, and what comes after it knows nothing. Is an endpoint
//! ever written to on that account? The kubelet that starts the process again
//! is played here, one endpoint is out from the beginning, and a second operator
//! that only looks on, and so outlives the term, is not well in the same way.
//!
//! `make away SECONDS=60` has the API server away for longer.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::sleep;

use crate::checked::DRAINING;
use crate::patients::{Patients, quick, rest};
use crate::scene::PROGRAM;
use crate::support::audit::Mark;
use crate::support::backend::Behaviour;
use crate::support::operator::{ACCOUNT, LEASE, NAMESPACE, Operator};
use crate::support::rig::Rig;
use crate::support::shifted::Shifted;
use crate::support::stack::{self, OPERATOR, PATIENCE, Stack};
use crate::support::wait;

crate::tests![
    ; alone:
    a_leader_that_stands_still_for_its_term_or_whose_clock_jumps_touches_nobody(45),
    a_leader_whose_term_ends_without_an_api_server_touches_nobody(55)
];

/// As it is without any flag; said, so that the rig says nothing else.
const SHIPPED: [&str; 1] = ["--lease-duration=15s"];

/// Where the one that looks on listens.
const SECOND: &str = "127.0.0.1:9181";

const HOUR: i64 = 3600;

/// How many services there are, and endpoints of each; one of all is out.
const SERVICES: usize = 4;
const EACH: usize = 3;

/// A leader, whoever looks on, and what they look after.
struct Term<'a> {
    patients: Patients<'a>,
    /// It writes nothing, takes no Lease, and so does not end with one.
    looks_on: Operator,
    clock: Shifted,
    /// How often the leader ended and was started again.
    restarts: Cell<u32>,
}

/// What was there and was written up to here.
struct Before {
    mark: Mark,
    told: Vec<Value>,
}

impl<'a> Term<'a> {
    async fn start(rig: &'a Rig, name: &str) -> Result<Self> {
        let clock = Shifted::new(rig.folder(), Path::new(PROGRAM)).await?;
        let stack = Stack::start_with(rig, &clock.program, &SHIPPED).await?;
        let catalog = stack.catalog.url.clone();
        let patients = Patients::of(stack, rig, name, SERVICES, EACH, &quick()).await?;
        let args = ["run", "--read-only", "--register=off", "--period=2s"];
        let args = args
            .into_iter()
            .chain(["--listen", SECOND, "--catalog-url", &catalog]);
        let (folder, second) = (rig.folder(), format!("operator-{name}-looks-on"));
        let program = &clock.program;
        let looks_on = Operator::join(folder, &rig.api, ACCOUNT, &second, program, args).await?;
        let term = Self {
            patients,
            looks_on,
            clock,
            restarts: Cell::new(0),
        };
        term.patients.workloads[0].pods[0]
            .backend
            .behave(Behaviour::Status(500));
        term.is_out(true).await?;
        term.all_is_known().await?;
        wait::until("what the catalog hears of it", PATIENCE, async || {
            let told = term.told().await?;
            ensure!(told[0][0]["health"] == "Degraded", "{told:?}");
            Ok(())
        })
        .await?;
        // Where the Pod was out late, its status has said the one before the other.
        wait::until("what its status says of it", PATIENCE, async || {
            let binding = term.patients.scene.bindings().get("web-0").await?;
            let endpoints = serde_json::to_value(binding.status.and_then(|s| s.endpoints))?;
            ensure!(endpoints["ejected"] == 1, "{endpoints}");
            Ok(())
        })
        .await?;
        Ok(term)
    }

    fn leader(&self) -> &Operator {
        &self.patients.scene.stack.operator
    }

    /// Plays the kubelet for the leader; returns only where it cannot.
    async fn kubelet(&self) -> anyhow::Error {
        let process = &self.leader().process;
        loop {
            if process.has_ended().await.is_some() {
                if let Err(error) = process.start().await {
                    return error;
                }
                self.restarts.set(self.restarts.get() + 1);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until the leader has ended so often. What was started then does not
    /// have to wait for the end of the Lease that nobody renews any more.
    async fn begins_anew(&self, times: u32) -> Result<()> {
        wait::until("an end of the leader", PATIENCE, async || {
            let restarts = self.restarts.get();
            ensure!(restarts >= times, "{restarts} ends");
            Ok(())
        })
        .await?;
        self.leader().free_lease().await?;
        stack::leads(self.leader()).await
    }

    /// Whether the first endpoint is out, as soon as that is so.
    async fn is_out(&self, expected: bool) -> Result<()> {
        let workload = &self.patients.workloads[0];
        let (pods, name) = (workload.pods_api(), &workload.pods[0].name);
        wait::until(&format!("{name} out: {expected}"), PATIENCE, async || {
            let labels = pods.get(name).await?.metadata.labels.unwrap_or_default();
            let out = labels.contains_key(DRAINING);
            ensure!(out == expected, "{labels:?}");
            Ok(())
        })
        .await
    }

    /// Verdicts that it came to since its start: that somebody is healthy, and
    /// that he is not.
    async fn verdicts(&self, operator: &Operator, port: &str) -> Result<(f64, f64)> {
        let samples = operator.metrics(&format!("http://{port}/metrics")).await?;
        let to = |to: &str| {
            let name = "catalog_mesh_health_transitions_total";
            let count = samples.sum(name, &[&format!("to=\"{to}\"")]);
            count.with_context(|| format!("there is no {name}"))
        };
        Ok((to("healthy")?, to("unhealthy")?))
    }

    /// Both have found out about each endpoint, and that one is not well.
    async fn all_is_known(&self) -> Result<()> {
        let all = (SERVICES * EACH) as f64;
        for (operator, port) in [(self.leader(), OPERATOR), (&self.looks_on, SECOND)] {
            wait::until("what is held of each", PATIENCE, async || {
                let verdicts = self.verdicts(operator, port).await?;
                let known = verdicts.0 >= all - 1.0 && verdicts.1 >= 1.0;
                ensure!(known, "{verdicts:?} at {port}");
                Ok(())
            })
            .await?;
            self.well_are_well(operator, port).await?;
        }
        Ok(())
    }

    /// It holds nobody for unhealthy but the one that is.
    async fn well_are_well(&self, operator: &Operator, port: &str) -> Result<()> {
        let (_, unhealthy) = self.verdicts(operator, port).await?;
        ensure!(unhealthy <= 1.0, "{unhealthy} were unhealthy at {port}");
        Ok(())
    }

    async fn before(&self) -> Result<Before> {
        Ok(Before {
            mark: self.patients.scene.mark().await?,
            told: self.told().await?,
        })
    }

    /// What the catalog has of the services' health, but for the number of the
    /// term and of the report.
    async fn told(&self) -> Result<Vec<Value>> {
        let scene = &self.patients.scene;
        let mut all = Vec::new();
        for workload in &self.patients.workloads {
            let mut record = scene.stack.catalog.get(&scene.id(&workload.name)).await?;
            for view in record["health"].as_array_mut().context("no health")? {
                view["epoch"].take();
                view["sequence"].take();
            }
            all.push(record["health"].take());
        }
        Ok(all)
    }

    /// Whoever is well was touched by nobody, and who was out is out: nothing was
    /// written but words, and the catalog knows nothing else.
    async fn expect_untouched(&self, before: &Before) -> Result<()> {
        self.all_is_known().await?;
        self.patients.all_are_asked().await?;
        // What there is to say is said within this time.
        rest(1).await;
        let writes = self.patients.scene.writes(before.mark).await?;
        ensure!(writes.is_empty(), "{writes:?}");
        self.is_out(true).await?;
        let told = self.told().await?;
        ensure!(told == before.told, "{told:?} after {:?}", before.told);
        let ended = self.looks_on.process.has_ended().await;
        ensure!(ended.is_none(), "whoever looks on ended, {ended:?}");
        self.all_is_known().await
    }

    /// The one that was out comes back, and one that dies leaves.
    async fn ends_as_ever(self) -> Result<()> {
        self.patients.workloads[0].pods[0].backend.recover();
        self.is_out(false).await?;
        let scene = &self.patients.scene;
        scene.says("web-0", "Healthy", "True Healthy").await?;
        self.patients.one_that_dies_is_taken_out().await?;
        self.looks_on.process.kill().await?;
        self.patients.stop().await
    }

    /// Waits until the Lease is renewed by a clock that is off by about so much.
    async fn clock_is_off(&self, seconds: i64) -> Result<()> {
        let leases = Api::<Lease>::namespaced(self.patients.scene.rig.client.clone(), NAMESPACE);
        wait::until("a renewal by that clock", PATIENCE, async || {
            let renewed = leases
                .get(LEASE)
                .await?
                .spec
                .and_then(|spec| spec.renew_time);
            let renewed = renewed.context("it was never renewed")?.0;
            let off = renewed.duration_since(Timestamp::now()).as_secs();
            ensure!((off - seconds).abs() < 60, "it is off by {off} s");
            Ok(())
        })
        .await
    }
}

async fn a_leader_that_stands_still_for_its_term_or_whose_clock_jumps_touches_nobody(
    rig: &Rig,
) -> Result<()> {
    let term = Term::start(rig, "term").await?;
    let happens = async {
        let before = term.before().await?;
        let both = [&term.leader().process, &term.looks_on.process];
        for (seconds, restarts) in [(1, 0), (10, 1)] {
            for process in both {
                process.signal(Signal::SIGSTOP).await?;
            }
            rest(seconds).await;
            for process in both {
                process.signal(Signal::SIGCONT).await?;
            }
            wait::until("doubt of whoever looks on", PATIENCE, async || {
                let url = format!("http://{SECOND}/metrics");
                let samples = term.looks_on.metrics(&url).await?;
                let held = samples.sum("catalog_mesh_health_verdicts_held", &["reason=\"late\""]);
                ensure!(held == Some(1.0), "{held:?}");
                Ok(())
            })
            .await?;
            if restarts > 0 {
                term.begins_anew(restarts).await?;
            }
            term.patients.released().await?;
            term.expect_untouched(&before).await?;
        }
        // Forward looks like a machine that was suspended, so that the term is
        // over, unless it was renewed before anybody looked.
        term.clock.set(HOUR)?;
        term.clock_is_off(HOUR).await?;
        stack::leads(term.leader()).await?;
        term.expect_untouched(&before).await?;
        // Back, by two hours, is nothing.
        let restarts = term.restarts.get();
        ensure!(restarts <= 2, "{restarts} ends");
        term.clock.set(-HOUR)?;
        term.clock_is_off(-HOUR).await?;
        term.expect_untouched(&before).await?;
        let more = term.restarts.get() - restarts;
        ensure!(more == 0, "{more} ends by a clock that was set back");
        anyhow::Ok(())
    };
    tokio::select! {
        failed = term.kubelet() => return Err(failed),
        done = happens => done?,
    }
    term.ends_as_ever().await
}

async fn a_leader_whose_term_ends_without_an_api_server_touches_nobody(rig: &Rig) -> Result<()> {
    let seconds: u64 = match std::env::var("API_AWAY_SECONDS") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("API_AWAY_SECONDS={text}"))?,
        Err(_) => 20,
    };
    let term = Term::start(rig, "no-server").await?;
    let happens = async {
        let before = term.before().await?;
        // It hangs first, and is gone then.
        let server = &rig.api.server;
        server.signal(Signal::SIGSTOP).await?;
        rest(seconds / 2).await;
        term.patients.all_are_asked().await?;
        server.kill().await?;
        rest(seconds - seconds / 2).await;
        let away = async {
            // Whoever looks on has gone on all the time.
            term.patients.all_are_asked().await?;
            term.well_are_well(&term.looks_on, SECOND).await?;
            let restarts = term.restarts.get();
            ensure!(restarts == 1, "{restarts} ends while it was away");
            anyhow::Ok(())
        };
        let away = away.await;
        rig.api.start_again().await?;
        away?;
        term.begins_anew(1).await?;
        term.expect_untouched(&before).await
    };
    tokio::select! {
        failed = term.kubelet() => return Err(failed),
        done = happens => done?,
    }
    term.ends_as_ever().await
}
