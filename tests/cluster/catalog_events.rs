//! Does a change in the catalog arrive by itself, and does nothing else cost a
//! request?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, Scene, VS, cluster_id};
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
    a_change_arrives_long_before_the_period_and_without_a_poll(35)
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

    // What is announced and cannot be read is counted.
    front.set(Fault::HangReads)?;
    catalog.put(&fleet.record(0, "8s")).await?;
    gauge(&operator, UNREAD, "is counted", |unread| unread == 1.0).await?;

    // What changed while the catalog could not be reached arrives with it.
    front.set(Fault::Refuse)?;
    fleet.put_records(&catalog, "8s").await?;
    sleep(Duration::from_secs(5)).await;
    gauge(&operator, AGE, "goes on", |age| age > 5.0).await?;
    gauge(&operator, CONNECTED, "is down", |connected| {
        connected == 0.0
    })
    .await?;
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

    let operator = &scene.stack.operator;
    gauge(operator, CONNECTED, "is up", |connected| connected == 1.0).await?;
    gauge(operator, AGE, "begins anew", |age| age < 10.0).await?;
    gauge(operator, UNREAD, "is none", |unread| unread == 0.0).await?;
    health_of_others_is_looked_at_and_our_own_is_not(&scene, &front).await?;
    fleet.clear(rig).await
}

async fn health_of_others_is_looked_at_and_our_own_is_not(
    scene: &Scene<'_>,
    front: &Front,
) -> Result<()> {
    let (catalog, id) = (&scene.stack.catalog, scene.id("web"));
    let mark = scene.mark().await?;
    let said = Instant::now();
    let [heard, looks] = heard_and_looks(scene).await?;
    let elsewhere = json!({"cluster": "elsewhere", "epoch": 1, "sequence": 1});
    catalog.report_health(&id, elsewhere, "Unhealthy").await?;
    wait::until("a look at what another said", SOON, async || {
        let now = heard_and_looks(scene).await?;
        ensure!(now == [heard + 1.0, looks + 1.0], "{now:?}");
        Ok(())
    })
    .await?;
    // A position far above our own: this is the last that this test reports.
    let own = json!({"cluster": cluster_id(scene.rig).await?, "epoch": 1_000_000, "sequence": 1});
    catalog.report_health(&id, own, "Unhealthy").await?;
    wait::until("the event of our own word", SOON, async || {
        let [now, _] = heard_and_looks(scene).await?;
        ensure!(now == heard + 2.0, "{now}");
        Ok(())
    })
    .await?;
    // A look would come at once; one that writes, a little later.
    sleep(Duration::from_secs(2)).await;
    let [_, now] = heard_and_looks(scene).await?;
    ensure!(now == looks + 1.0, "{now} looks, {looks} before");
    let asked = read_since(front, said);
    ensure!(asked.is_empty(), "{asked:?}");
    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    Ok(())
}

/// How many changes of health were announced, and how many looks have ended.
async fn heard_and_looks(scene: &Scene<'_>) -> Result<[f64; 2]> {
    let url = format!("http://{OPERATOR}/metrics");
    let samples = scene.stack.operator.metrics(&url).await?;
    let health = [r#"type="HealthChanged""#];
    let heard = samples.sum("catalog_mesh_catalog_events_total", &health);
    let looks = samples.sum("controller_runtime_reconcile_total", &[]);
    Ok([heard.context("the events")?, looks.context("the looks")?])
}

const CONNECTED: &str = "catalog_mesh_catalog_stream_connected";
const AGE: &str = "catalog_mesh_catalog_stream_age_seconds";
const UNREAD: &str = "catalog_mesh_catalog_unread_services";

/// Waits until a gauge says so.
async fn gauge(
    operator: &Operator,
    name: &str,
    what: &str,
    so: impl Fn(f64) -> bool,
) -> Result<()> {
    wait::until(&format!("{name} that {what}"), SOON, async || {
        let samples = operator
            .metrics(&format!("http://{OPERATOR}/metrics"))
            .await?;
        let value = samples.sum(name, &[]).context("the metric")?;
        ensure!(so(value), "it is {value}");
        Ok(())
    })
    .await
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
    let slow = held.elapsed();
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
    // The first one, which is asked for once more each 2.5 s that it was held.
    let alone: std::collections::BTreeSet<_> = gets.iter().collect();
    let most = 2 + slow.as_millis() / 2_500;
    ensure!(
        alone.len() <= 1 && gets.len() as u128 <= most,
        "in {slow:?} {gets:?}"
    );
    Ok(())
}

/// What the catalog was asked since then, but for what it was told.
fn read_since(front: &Front, then: Instant) -> Vec<String> {
    let seen = front.since(then).into_iter().map(|seen| seen.path);
    seen.filter(|path| !path.ends_with("/endpoints")).collect()
}
