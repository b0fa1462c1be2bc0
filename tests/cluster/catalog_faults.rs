//! What happens to the mesh, and to the catalog, while the catalog misbehaves?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::{Instant, sleep};

use crate::support::catalog::Catalog;
use crate::support::fleet::{Fleet, PATIENCE, peak};
use crate::support::front::{Fault, Front};
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    a_catalog_that_is_away_at_the_start_is_waited_for(25),
    a_catalog_that_asks_for_peace_is_left_alone(30),
    answers_without_end_leave_the_mesh_as_it_is(45),
    answers_that_are_none_leave_the_mesh_as_it_is(75),
    a_catalog_that_hangs_or_refuses_leaves_the_mesh_as_it_is(80),
    a_catalog_that_trickles_leaves_the_mesh_as_it_is(60)
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_catalog-mesh-controller");
const FRONT: &str = "127.0.0.1:9081";
const CANARY: &str = "127.0.0.1:9082";
const SIZE: usize = 50;

/// Looks that the operator has under way at most, by default.
const AT_ONCE: usize = 16;

/// How long each fault is watched.
const SPAN: Duration = Duration::from_secs(6);

/// The same for those where a request waits: longer than its deadline.
const LONG_SPAN: Duration = Duration::from_secs(15);

/// How soon a catalog that is well again is asked: the longest pause is 3 s, and a
/// machine may do much else. How fast all that it says is written then is up to the
/// machine alone; what is promised of both is held by the run of a long outage.
const SOON: Duration = Duration::from_secs(15);

/// What the operator's memory may grow by, in KiB.
const GROWTH: u64 = 10 * 1024;

/// The operator, with the front between it and its catalog.
struct Scene {
    catalog: Catalog,
    front: Front,
    operator: Operator,
}

impl Scene {
    async fn start(rig: &Rig, name: &str, fault: Fault) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let catalog = Catalog::start(rig.folder(), name, CATALOG).await?;
        let front = Front::start(FRONT, &catalog.url)?;
        front.set(fault)?;
        let program = Path::new(PROGRAM);
        let operator =
            stack::operator(rig, &format!("operator-{name}"), program, &front.url, &[]).await?;
        Ok(Self {
            catalog,
            front,
            operator,
        })
    }

    /// The most memory that it ever had.
    async fn memory(&self) -> Result<u64> {
        peak(self.operator.process.pid().await.context("it runs")?)
    }

    async fn expect_no_growth(&self, before: u64) -> Result<()> {
        let after = self.memory().await?;
        eprintln!("at most {before} KiB before, {after} KiB after");
        ensure!(
            after.saturating_sub(before) <= GROWTH,
            "memory grew from {before} to {after} KiB"
        );
        Ok(())
    }

    /// How long after this the catalog was asked first, which has to be soon.
    fn asked_again(&self, healed: Instant) -> Result<Duration> {
        let seen = self.front.since(healed);
        let first = seen.first().context("nobody asked")?.at - healed;
        ensure!(first <= SOON, "it was asked {first:?} after it healed");
        Ok(first)
    }

    async fn panics(&self) -> Result<f64> {
        self.sum("controller_runtime_reconcile_panics_total").await
    }

    async fn sum(&self, name: &str) -> Result<f64> {
        let url = format!("http://{}/metrics", stack::OPERATOR);
        let samples = self.operator.metrics(&url).await?;
        samples.sum(name, &[]).context("the metric")
    }
}

async fn a_catalog_that_is_away_at_the_start_is_waited_for(rig: &Rig) -> Result<()> {
    let scene = Scene::start(rig, "away-at-start", Fault::Refuse).await?;
    let fleet = Fleet::prepare(rig, "away-at-start", SIZE).await?;
    fleet.put_records(&scene.catalog, "5s").await?;
    let mark = rig.audit_mark().await?;
    fleet.bind(rig).await?;
    for type_ in ["Ready", "CatalogSynced", "MeshProgrammed"] {
        fleet
            .wait_for(rig, type_, "False CatalogUnavailable")
            .await?;
    }
    sleep(SPAN).await;
    let writes = fleet.writes(rig, mark).await?;
    writes.expect_none_of_rules()?;
    writes.expect_statuses(1)?;

    scene.front.set(Fault::None)?;
    let healed = Instant::now();
    fleet.wait_for(rig, "Ready", "True Synced").await?;
    let took = healed.elapsed();
    let first = scene.asked_again(healed)?;
    eprintln!(
        "away at the start: asked {:.1} s after it healed, {SIZE} bindings synced after {:.1} s",
        first.as_secs_f64(),
        took.as_secs_f64()
    );
    ensure!(scene.panics().await? == 0.0);
    fleet.clear(rig).await
}

async fn answers_that_are_none_leave_the_mesh_as_it_is(rig: &Rig) -> Result<()> {
    let faults = [
        Fault::InternalError,
        Fault::Html,
        Fault::HtmlNotFound,
        Fault::Truncated,
        Fault::Redirect(format!("http://{CANARY}/api/v1/services/x")),
    ];
    go_through(rig, "no-answers", &faults, SPAN).await
}

async fn answers_without_end_leave_the_mesh_as_it_is(rig: &Rig) -> Result<()> {
    let faults = [Fault::HugeChunked, Fault::HugeWithLength];
    go_through(rig, "endless", &faults, SPAN).await
}

async fn a_catalog_that_hangs_or_refuses_leaves_the_mesh_as_it_is(rig: &Rig) -> Result<()> {
    go_through(rig, "hanging", &[Fault::Hang, Fault::Refuse], LONG_SPAN).await
}

async fn a_catalog_that_trickles_leaves_the_mesh_as_it_is(rig: &Rig) -> Result<()> {
    go_through(rig, "trickling", &[Fault::Trickle], LONG_SPAN).await
}

/// Lets a catalog that worked misbehave in one way after the other.
async fn go_through(rig: &Rig, name: &str, faults: &[Fault], span: Duration) -> Result<()> {
    let scene = Scene::start(rig, name, Fault::None).await?;
    let canary = Front::start(CANARY, &scene.catalog.url)?;
    let fleet = Fleet::programmed(rig, &scene.catalog, name, SIZE).await?;
    // A few periods, so that the memory is what it is in ordinary work.
    sleep(SPAN).await;
    let before = scene.memory().await?;
    let begun = Instant::now();
    for (i, fault) in faults.iter().enumerate() {
        let timeout = format!("{}s", i + 6);
        outage(rig, &scene, &fleet, fault, span, &timeout)
            .await
            .with_context(|| format!("{fault:?}"))?;
    }
    scene.expect_no_growth(before).await?;
    ensure!(scene.panics().await? == 0.0);
    let seen = canary.since(begun);
    ensure!(seen.is_empty(), "a redirect was followed: {seen:?}");
    fleet.clear(rig).await
}

/// One outage: nothing is written but each status once, few ask, and what
/// changed in the catalog meanwhile arrives afterwards.
async fn outage(
    rig: &Rig,
    scene: &Scene,
    fleet: &Fleet,
    fault: &Fault,
    span: Duration,
    timeout: &str,
) -> Result<()> {
    let (mark, before) = (rig.audit_mark().await?, scene.memory().await?);
    scene.front.set(fault.clone())?;
    fleet.put_records(&scene.catalog, timeout).await?;
    fleet
        .wait_for(rig, "CatalogSynced", "False CatalogUnavailable")
        .await?;
    let settled = Instant::now();
    sleep(span).await;
    let asked = scene.front.since(settled).len();
    // One every 1.5 s on average. The pauses have full jitter, any length up to
    // 3 s, so chance alone makes it more than one a second in one of ten runs;
    // more than two a second in one of a million. Each binding for itself
    // would be ten times as many.
    let most = 1 + 2 * usize::try_from(span.as_secs())?;
    ensure!(asked <= most, "{asked} requests in {span:?}");
    let writes = fleet.writes(rig, mark).await?;
    writes.expect_none_of_rules()?;
    if *fault == Fault::Refuse {
        // What was under way is cut, which is another fault than the refusal
        // that follows, and reads differently: only so many were under way.
        writes.expect_statuses(2)?;
        let all = writes.of_statuses();
        ensure!(all <= SIZE + AT_ONCE, "{all} writes of {SIZE} statuses");
    } else {
        writes.expect_statuses(1)?;
    }
    if matches!(fault, Fault::Hang | Fault::Trickle) {
        scene.expect_no_growth(before).await?;
        ensure!(scene.panics().await? == 0.0);
        restarted(rig, scene, fleet).await?;
    }
    // What is in force is of this generation, and says so.
    fleet
        .wait_for(rig, "MeshProgrammed", "True Programmed")
        .await?;
    fleet.wait_for(rig, "Ready", "True Synced").await?;

    scene.front.set(Fault::None)?;
    let healed = Instant::now();
    fleet.wait_for_timeout(rig, timeout).await?;
    let stored = healed.elapsed().as_secs_f64();
    fleet.wait_for(rig, "CatalogSynced", "True Synced").await?;
    let said = healed.elapsed();
    let first = scene.asked_again(healed)?;
    eprintln!(
        "{fault:?}: {asked} requests in {} s; after it healed the first came at {:.1} s, \
         all {SIZE} were stored at {stored:.1} s and said so at {:.1} s",
        span.as_secs(),
        first.as_secs_f64(),
        said.as_secs_f64()
    );
    Ok(())
}

/// The operator is killed while the catalog is slow: the new one looks at
/// everything, is told nothing, and writes nothing.
async fn restarted(rig: &Rig, scene: &Scene, fleet: &Fleet) -> Result<()> {
    let mark = rig.audit_mark().await?;
    scene.operator.process.kill().await?;
    scene.operator.start_again().await?;
    wait::until("a look at each", PATIENCE, async || {
        let looks = scene.sum("controller_runtime_reconcile_total").await?;
        ensure!(looks >= SIZE as f64, "{looks} looks");
        Ok(())
    })
    .await?;
    sleep(Duration::from_secs(2)).await;
    let writes = fleet.writes(rig, mark).await?;
    ensure!(writes.0.is_empty(), "{writes:?}");
    Ok(())
}

async fn a_catalog_that_asks_for_peace_is_left_alone(rig: &Rig) -> Result<()> {
    const PEACE: u64 = 12;
    let scene = Scene::start(rig, "peace", Fault::None).await?;
    let fleet = Fleet::programmed(rig, &scene.catalog, "peace", SIZE).await?;
    let mark = rig.audit_mark().await?;
    let begun = Instant::now();
    scene.front.set(Fault::TooMany(PEACE))?;
    fleet
        .wait_for(rig, "CatalogSynced", "False CatalogRateLimited")
        .await?;
    let asked = scene.front.since(begun);
    let first = asked.first().context("nobody asked")?.at;
    // It heals soon, and nobody may find that out before the time is over.
    // Nothing is read either, so that nothing can be written however late we look.
    scene.front.hold_reads(true);
    scene.front.set(Fault::None)?;
    fleet.put_records(&scene.catalog, "9s").await?;
    tokio::time::sleep_until(first + Duration::from_secs(PEACE)).await;
    // What was on its way when the first answer came could not know.
    let later = first + Duration::from_secs(1);
    let early: Vec<_> = scene.front.since(later);
    ensure!(
        early
            .iter()
            .all(|seen| seen.at >= first + Duration::from_secs(PEACE)),
        "asked too early: {:?}",
        early.iter().map(|seen| seen.at - first).collect::<Vec<_>>()
    );
    let writes = fleet.writes(rig, mark).await?;
    writes.expect_none_of_rules()?;
    writes.expect_statuses(2)?;
    scene.front.hold_reads(false);
    fleet.wait_for(rig, "CatalogSynced", "True Synced").await?;
    fleet.wait_for_timeout(rig, "9s").await?;
    ensure!(scene.panics().await? == 0.0);
    eprintln!(
        "429: {} requests before the wait, recovered {:.1} s after it was over",
        asked.len(),
        (Instant::now() - first).as_secs_f64() - PEACE as f64
    );
    fleet.clear(rig).await
}
