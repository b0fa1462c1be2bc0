//! Does a change in the catalog arrive by itself, and does nothing else cost a
//! request?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, Scene, VS};
use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::front::{Fault, Front};
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{CATALOG, OPERATOR, Stack};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    a_change_arrives_long_before_the_period_and_without_a_poll(60)
];

const FRONT: &str = "127.0.0.1:9081";
const SIZE: usize = 50;

/// Nobody may be looked at for its period's sake in any of these tests.
const PERIOD: &str = "10m";

/// Long for an event, and short for a period.
const SOON: Duration = Duration::from_secs(10);

async fn a_change_arrives_long_before_the_period_and_without_a_poll(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "pushed", CATALOG).await?;
    let front = Front::start(FRONT, &catalog.url)?;
    let args = [
        "run",
        "--catalog-url",
        &front.url,
        "--listen",
        OPERATOR,
        "--period",
        PERIOD,
        "--register=off",
    ];
    let operator = rig
        .operator("operator-pushed", Path::new(PROGRAM), args)
        .await?;
    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
    let fleet = Fleet::programmed(rig, &catalog, "pushed", SIZE).await?;

    // At rest nothing is asked.
    sleep(Duration::from_secs(1)).await;
    let quiet = Instant::now();
    sleep(Duration::from_secs(5)).await;
    let asked = read_since(&front, quiet);
    ensure!(asked.is_empty(), "{asked:?}");

    // The changes come one after the other, so that few are read together; none
    // costs more than a read of its own.
    let changed = Instant::now();
    fleet.put_records(&catalog, "7s").await?;
    fleet.wait_for_timeout(rig, "7s").await?;
    let took = changed.elapsed();
    let asked = read_since(&front, changed);
    eprintln!(
        "pushed: {SIZE} changes arrived within {took:?}, for {} requests",
        asked.len()
    );
    ensure!(took < SOON, "{took:?}");
    ensure!(asked.len() <= SIZE, "{} requests", asked.len());

    many_at_once(&catalog, &front, &operator, &fleet).await?;

    // What changed while the catalog could not be reached arrives with it.
    front.set(Fault::Refuse)?;
    fleet.put_records(&catalog, "8s").await?;
    sleep(Duration::from_secs(5)).await;
    front.set(Fault::None)?;
    let back = Instant::now();
    fleet.wait_for_timeout(rig, "8s").await?;
    let took = back.elapsed();
    eprintln!("pushed: {SIZE} changes arrived {took:?} after the catalog's return");
    ensure!(took < SOON, "{took:?}");
    let scene = Scene::beside(
        rig,
        std::sync::Arc::new(Stack { catalog, operator }),
        "gone",
    )
    .await?;
    scene.bound("web").await?;
    scene.bound("other").await?;
    let gone = Instant::now();
    scene.stack.catalog.delete(&scene.id("web")).await?;
    wait::until("the end of web's objects", SOON, async || {
        let left = scene.rules(VS).get_opt("web").await?;
        ensure!(left.is_none(), "{left:?}");
        Ok(())
    })
    .await?;
    eprintln!(
        "pushed: a service that went was gone from the mesh after {:?}",
        gone.elapsed()
    );
    scene.says("web", "CatalogSynced", "False Removed").await?;
    let mut record = scene.record("web");
    record["timeout"] = json!("9s");
    scene.put(&record).await?;
    scene.synced("web").await?;
    let route = scene.rule(VS, "web").await?;
    ensure!(
        route.data["spec"]["http"][0]["timeout"] == "9s",
        "{route:?}"
    );

    let url = format!("http://{OPERATOR}/metrics");
    let samples = scene.stack.operator.metrics(&url).await?;
    let connected = samples.sum("catalog_mesh_catalog_stream_connected", &[]);
    ensure!(connected.context("the metric")? == 1.0);
    fleet.clear(rig).await
}

/// Many changes that are heard of before the first of them is read: the rest
/// costs a list for each hundred.
async fn many_at_once(
    catalog: &Catalog,
    front: &Front,
    operator: &Operator,
    fleet: &Fleet,
) -> Result<()> {
    const MANY: usize = 300;
    let put = async |timeout: &str| -> Result<()> {
        for i in SIZE..SIZE + MANY {
            catalog.put(&fleet.record(i, timeout)).await?;
        }
        Ok(())
    };
    let unread = async |expected: f64| {
        wait::until("what is announced and not read", SOON, async || {
            let samples = operator
                .metrics(&format!("http://{OPERATOR}/metrics"))
                .await?;
            let unread = samples
                .sum("catalog_mesh_catalog_unread_services", &[])
                .context("the metric")?;
            ensure!(unread == expected, "{unread} are unread");
            Ok(())
        })
        .await
    };
    put("5s").await?;
    sleep(Duration::from_secs(2)).await;
    unread(0.0).await?;
    let held = Instant::now();
    front.hold_reads(true);
    put("7s").await?;
    unread(MANY as f64).await?;
    front.hold_reads(false);
    unread(0.0).await?;
    let (lists, gets): (Vec<_>, Vec<_>) = read_since(front, held)
        .into_iter()
        .filter(|path| path.contains("/services"))
        .partition(|path| path.ends_with("/services"));
    eprintln!(
        "pushed: {MANY} changes at once cost {} lists and {} gets",
        lists.len(),
        gets.len()
    );
    ensure!(lists.len() <= MANY / 100, "{} lists", lists.len());
    // The first one, which may be asked for a second time where that is slow.
    let alone: std::collections::BTreeSet<_> = gets.iter().collect();
    ensure!(alone.len() <= 1 && gets.len() <= 2, "{gets:?}");
    Ok(())
}

/// What the catalog was asked since then, but for what it was told.
fn read_since(front: &Front, then: Instant) -> Vec<String> {
    let seen = front.since(then).into_iter().map(|seen| seen.path);
    seen.filter(|path| !path.ends_with("/endpoints")).collect()
}
