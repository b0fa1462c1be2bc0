//! Does what holds for a catalog that is reached by its API hold for one whose
//! tables are read and written directly? The same scenes, one after the other,
//! over PostgreSQL with the two roles of docs/catalog-schema.md.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, Scene, clear_all_bindings};
use crate::support::catalog::Catalog;
use crate::support::operator::Operator;
use crate::support::postgres::Postgres;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE, Stack};
use crate::support::wait;
use crate::two_way::{DATABASE, Kept, Source, grant_rights};
use crate::{catalog_sync, write_back};

crate::tests![
    ; alone:
    a_catalog_read_in_its_tables_is_followed_told_and_doubted_like_any_other(45)
];

/// As many as were promised.
const SERVICES: usize = 1_000;

async fn a_catalog_read_in_its_tables_is_followed_told_and_doubted_like_any_other(
    rig: &Rig,
) -> Result<()> {
    let kept = Kept::begin(rig, "tables", Source::Tables).await?;
    let secret = kept
        .secret
        .to_str()
        .context("a path of the rig")?
        .to_owned();
    let operator = async |name: &str, register: &str| -> Result<Operator> {
        let by = ["--catalog-credentials", &secret];
        stack::operator_by(rig, name, Path::new(PROGRAM), by, &[register]).await
    };
    let stack = Arc::new(Stack {
        catalog: kept.catalog,
        operator: operator("registering", "--register=on").await?,
    });
    let scene = async |name: &str| Scene::beside(rig, Arc::clone(&stack), name).await;
    let life = catalog_sync::comes_and_goes(scene("registered").await?);
    life.await.context("a service comes and goes")?;

    // From here on the bindings are written by hand.
    let stack = Arc::into_inner(stack).context("a scene is left")?;
    stack.operator.process.kill().await?;
    let stack = Arc::new(Stack {
        catalog: stack.catalog,
        operator: operator("following", "--register=off").await?,
    });
    let scene = async |name: &str| Scene::beside(rig, Arc::clone(&stack), name).await;
    let told = write_back::follows_who_serves(scene("follows").await?);
    told.await.context("the list follows who serves")?;
    let rest = is_left_alone_at_rest(scene("rest").await?, &kept.postgres);
    rest.await.context("1,000 services at rest")?;
    let share = catalog_sync::a_share_goes(scene("share").await?);
    share.await.context("a share goes")?;

    drop(kept.database);
    clear_all_bindings(rig).await?;
    let forgets = scene("forgot").await?;
    for name in ["a", "b", "c"] {
        forgets.bound(name).await?;
    }
    let forgot =
        catalog_sync::is_kept_when_forgotten(forgets, async || anew(rig, &kept.postgres).await);
    forgot.await.context("a new database")
}

/// Nobody else uses the database: the server of the API is away.
async fn is_left_alone_at_rest(scene: Scene<'_>, postgres: &Postgres) -> Result<()> {
    scene.bound("web").await?;
    let catalog = &scene.stack.catalog;
    let records = (0..SERVICES).map(|n| scene.record(&format!("s{n}")));
    stream::iter(records)
        .map(async |record| catalog.put(&record).await)
        .buffer_unordered(16)
        .try_collect::<()>()
        .await?;
    catalog.process.kill().await?;
    let mut admin = PgConnection::connect(&postgres.url_of("postgres")).await?;
    // Its own counters are behind by seconds.
    for statement in [
        "ALTER SYSTEM SET log_statement = 'all'",
        "ALTER SYSTEM SET log_line_prefix = '%a '",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::query(statement).execute(&mut admin).await?;
    }
    wait::until("all services read", PATIENCE, async || {
        let url = format!("http://{OPERATOR}/metrics");
        let samples = scene.stack.operator.metrics(&url).await?;
        let unread = samples.sum("catalog_mesh_catalog_unread_services", &[]);
        ensure!(unread == Some(0.0), "{unread:?} are unread");
        Ok(())
    })
    .await?;
    sleep(Duration::from_secs(2)).await;
    let (before, since) = (statements(postgres)?, Instant::now());
    sleep(Duration::from_secs(10)).await;
    let asked = statements(postgres)? - before;
    let seconds = since.elapsed().as_secs_f64();
    eprintln!("{SERVICES} services at rest: {asked} statements in {seconds:.1} s");
    ensure!(asked > 0, "it does not follow");
    // One at either end.
    ensure!(asked as f64 <= seconds + 1.0, "{asked} in {seconds:.1} s");
    catalog.process.start().await?;
    catalog.ready().await
}

/// How many statements of the operator the server has logged.
fn statements(postgres: &Postgres) -> Result<usize> {
    let log = std::fs::read_to_string(postgres.process.log())?;
    let ours = "catalog-mesh-controller LOG:";
    Ok(log.lines().filter(|line| line.starts_with(ours)).count())
}

/// Another catalog in another database of the same name, where the operator
/// finds first none, then one without tables, then tables that it may not read.
async fn anew(rig: &Rig, postgres: &Postgres) -> Result<Catalog> {
    let mut admin = PgConnection::connect(&postgres.url_of("postgres")).await?;
    sqlx::query(AssertSqlSafe(format!(
        "DROP DATABASE {DATABASE} WITH (FORCE)"
    )))
    .execute(&mut admin)
    .await?;
    let url = postgres.create_database(DATABASE).await?;
    let catalog = Catalog::over(rig.folder(), "empty", CATALOG, &url).await?;
    grant_rights(&mut PgConnection::connect(&url).await?).await?;
    Ok(catalog)
}
