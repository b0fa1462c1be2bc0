//! Does a Pod stay out, without a moment in between, when the operator starts
//! anew or another one leads; and does whoever comes then bring it back?

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::checked::{Checked, quick, quicker, with};
use crate::leadership::{Pair, grant};
use crate::scene::{PROGRAM, Scene, cluster_id};
use crate::support::catalog::Catalog;
use crate::support::endpoint::Trouble;
use crate::support::envoy::{Envoy, Options};
use crate::support::lateness::Lateness;
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE, Stack};
use crate::support::tools::repository;
use crate::support::wait;
use crate::write_back::report;

crate::tests![
    ; alone:
    what_is_out_stays_out_through_restarts_and_comes_back_when_it_is_well(35),
    whoever_leads_next_goes_on_where_the_last_one_was(30),
    who_fails_as_the_leader_is_killed_is_out_16_s_later_at_the_latest(30)
];

const SECOND_PORT: &str = "127.0.0.1:9181";

/// Several rounds of checks.
const A_WHILE: Duration = Duration::from_secs(4);

/// A service with one out, and one whose endpoints all stay since none answers.
struct Two<'a> {
    web: Checked<'a>,
    dead: Checked<'a>,
    envoy: Envoy,
}

impl<'a> Two<'a> {
    async fn start(scene: &'a Scene<'a>) -> Result<Self> {
        let envoy = scene
            .rig
            .envoy(&Options::in_namespace(&scene.namespace))
            .await?;
        let slow = with(quicker(), json!({"interval": "1s"}));
        let web = Checked::start(scene, "web", 3, slow);
        let dead = Checked::start(scene, "dead", 2, quicker());
        let (web, dead) = tokio::try_join!(web, dead)?;
        web.endpoints[0].fail(Trouble::Status(500)).await?;
        for endpoint in &dead.endpoints {
            endpoint.fail(Trouble::Status(500)).await?;
        }
        web.are_out(&[0]).await?;
        web.envoy_has(&envoy, &[1, 2]).await?;
        web.counts(3, 2, 1).await?;
        dead.says("False Unhealthy").await?;
        dead.are_out(&[]).await?;
        dead.counts(2, 0, 0).await?;
        Ok(Self { web, dead, envoy })
    }

    /// While this happens, and for a while afterwards, the label is there at
    /// every look, Envoy does not have the endpoint, and nobody writes to any
    /// Pod.
    async fn stay<T>(&self, what: impl Future<Output = Result<T>>) -> Result<T> {
        let rig = self.web.scene.rig;
        let mark = rig.audit_mark().await?;
        let happens = async {
            let done = what.await?;
            tokio::time::sleep(A_WHILE).await;
            anyhow::Ok(done)
        };
        let done = tokio::select! {
            gone = self.watch() => return Err(gone),
            done = happens => done?,
        };
        let all = rig.api.audit.since(mark, &rig.client).await?;
        let writes = all.iter().filter(|entry| {
            let object = entry.object_ref.as_ref();
            let pod = object
                .is_some_and(|o| o.resource == "pods" && o.namespace == self.web.scene.namespace);
            pod && entry.is_write()
        });
        let writes: Vec<_> = writes.map(crate::scene::line).collect();
        ensure!(writes.is_empty(), "{writes:?}");
        Ok(done)
    }

    /// Looks on, and returns only where it is in the mesh.
    async fn watch(&self) -> anyhow::Error {
        loop {
            let look = async {
                let known = self.web.in_envoy(&self.envoy).await?;
                ensure!(!known.contains(&0), "Envoy has it");
                let out = self.web.out().await?;
                ensure!(out.contains(&0), "the label is gone");
                Ok(())
            };
            if let Err(error) = look.await {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// It is well again, and so are the others; and another one may fail.
    async fn go_on(&self) -> Result<()> {
        self.web.endpoints[0].recover().await?;
        for endpoint in &self.dead.endpoints {
            endpoint.recover().await?;
        }
        self.web.is_healthy().await?;
        self.dead.is_healthy().await?;
        // Whoever saw it first.
        self.web.changed(&[(0, false), (0, true)]).await?;
        self.web.envoy_has(&self.envoy, &[0, 1, 2]).await?;
        self.web.endpoints[1].fail(Trouble::Status(500)).await?;
        self.web.are_out(&[1]).await
    }
}

/// Waits until the operator has found out about the endpoint that is out.
pub(crate) async fn checks(operator: &Operator, port: &str, service: &str) -> Result<()> {
    wait::until("its own checks", PATIENCE, async || {
        let samples = operator.metrics(&format!("http://{port}/metrics")).await?;
        for status in ["success", "failure"] {
            let labels = [
                format!("service=\"{service}\""),
                format!("status=\"{status}\""),
            ];
            let labels = labels.each_ref().map(String::as_str);
            let count = samples.sum("catalog_mesh_health_check_total", &labels);
            ensure!(
                count.is_some_and(|count| count >= 4.0),
                "{status}: {count:?}"
            );
        }
        Ok(())
    })
    .await
}

async fn what_is_out_stays_out_through_restarts_and_comes_back_when_it_is_well(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "restarts").await?;
    let two = Two::start(&scene).await?;
    let service = format!("{}/web", scene.namespace);
    let operator = &scene.stack.operator;
    two.stay(async {
        let well = operator.process.terminate(PATIENCE).await?;
        ensure!(well, "it ended with a failure");
        operator.start_again().await?;
        checks(operator, OPERATOR, &service).await
    })
    .await?;
    two.stay(async {
        operator.process.kill().await?;
        operator.start_again().await?;
        checks(operator, OPERATOR, &service).await
    })
    .await?;
    // The catalog, whose records ask for the checks, is away meanwhile.
    two.stay(async {
        scene.stack.catalog.process.kill().await?;
        operator.process.kill().await?;
        operator.start_again().await?;
        stack::leads(operator).await
    })
    .await?;
    two.stay(async {
        scene.stack.catalog.process.start().await?;
        checks(operator, OPERATOR, &service).await
    })
    .await?;
    two.web.counts(3, 2, 1).await?;
    two.dead.counts(2, 0, 0).await?;
    two.go_on().await?;
    scene.unbind().await
}

async fn whoever_leads_next_goes_on_where_the_last_one_was(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "next", CATALOG).await?;
    let url = catalog.url.clone();
    let args = |port| {
        [
            "run",
            "--catalog-url",
            &url,
            "--listen",
            port,
            "--period=2s",
            "--register=off",
            "--lease-duration=4s",
            "--lease-renew-deadline=3s",
            "--lease-retry-period=1s",
        ]
    };
    let program = Path::new(PROGRAM);
    let operator = rig
        .operator("operator-next-1", program, args(OPERATOR))
        .await?;
    operator
        .leads(&format!("http://{OPERATOR}/metrics"))
        .await?;
    let stack = Arc::new(Stack { catalog, operator });
    let scene = Scene::beside(rig, stack, "next").await?;
    let two = Two::start(&scene).await?;
    let service = format!("{}/web", scene.namespace);
    let account = "second-of-health";
    grant(rig, account).await?;
    let name = "operator-next-2";
    let args = args(SECOND_PORT);
    let second = Operator::join(rig.folder(), &rig.api, account, name, program, args).await?;
    // Whoever stands by checks as well, and writes nothing.
    two.stay(checks(&second, SECOND_PORT, &service)).await?;
    let killed = Instant::now();
    two.stay(async {
        scene.stack.operator.process.kill().await?;
        second.leads(&format!("http://{SECOND_PORT}/metrics")).await
    })
    .await?;
    eprintln!(
        "another one led within {:.1} s",
        killed.elapsed().as_secs_f64()
    );
    two.go_on().await?;
    scene.unbind().await?;
    second.process.kill().await
}

/// The times are those of the default flags: who is killed cannot let go of the
/// Lease, so that another one leads 15 s later at the latest.
async fn who_fails_as_the_leader_is_killed_is_out_16_s_later_at_the_latest(
    rig: &Rig,
) -> Result<()> {
    let pair = Pair::start(rig, "failover").await?;
    let web = Checked::start(&pair.scene, "web", 4, quick()).await?;
    let calm = Checked::start(&pair.scene, "calm", 2, quick()).await?;
    calm.catalog_hears("Healthy", 2, 2).await?;
    web.catalog_hears("Healthy", 4, 4).await?;
    let service = format!("{}/web", pair.scene.namespace);
    judged(&pair.second, &service).await?;
    let (before, epoch) = told(&calm).await?;

    let mark = pair.scene.mark().await?;
    let late = Lateness::watch();
    pair.first().process.kill().await?;
    let killed = Instant::now();
    // Nobody leads, and who stands by goes on checking.
    web.endpoints[0].fail(Trouble::Status(500)).await?;
    web.are_out(&[0]).await?;
    let (took, late) = (killed.elapsed(), late.sum());
    eprintln!(
        "SIGKILL while an endpoint fails: it is out {:.1} s later",
        took.as_secs_f64()
    );
    ensure!(
        took < Duration::from_secs(16) + late,
        "{took:?}, on a machine that was late by {late:?}"
    );
    web.catalog_hears("Degraded", 3, 4).await?;

    // The new leader tells the catalog all of it again, which changes nothing.
    let after = wait::until("what the new leader tells", PATIENCE, async || {
        let (after, now) = told(&calm).await?;
        ensure!(now > epoch, "nothing of epoch {now}");
        Ok(after)
    })
    .await?;
    ensure!(before == after, "{before} {after}");
    // Nor does a report of the dead one that arrives late.
    let writer = json!({"cluster": cluster_id(rig).await?, "epoch": epoch, "sequence": 1_000_000});
    report(&pair.scene, "calm", writer).await?;
    ensure!(told(&calm).await?.0 == before, "an old report counts");
    // Nor is anything written again in the cluster.
    let writes = pair.scene.writes_and_events(mark).await?;
    let again = writes.iter().filter(|line| line.contains(" calm"));
    ensure!(again.count() == 0, "{writes:?}");
    web.endpoints[0].recover().await?;
    web.is_healthy().await
}

/// Waits until who stands by has judged the service's endpoints.
async fn judged(operator: &Operator, service: &str) -> Result<()> {
    wait::until("its own checks", PATIENCE, async || {
        let url = format!("http://{SECOND_PORT}/metrics");
        let samples = operator.metrics(&url).await?;
        let labels = format!("service=\"{service}\"");
        let count = samples.sum("catalog_mesh_health_check_total", &[&labels]);
        ensure!(count.is_some_and(|count| count >= 12.0), "{count:?}");
        Ok(())
    })
    .await
}

/// What the catalog has of the service, and the epoch that its health is of:
/// all the rest of a report is what it says.
async fn told(checked: &Checked<'_>) -> Result<(Value, u64)> {
    let scene = checked.scene;
    let mut record = scene.stack.catalog.get(&scene.id(&checked.name)).await?;
    let views = record["health"].as_array_mut().context("no health")?;
    let mut epoch = 0;
    for view in views {
        epoch = epoch.max(view["epoch"].take().as_u64().unwrap_or_default());
        view["sequence"].take();
    }
    Ok((record, epoch))
}
