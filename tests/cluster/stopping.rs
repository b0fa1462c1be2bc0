//! Does the operator end when it is told to, whatever it is doing?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::front::{Fault, Front};
use crate::support::process::Spec;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    it_ends_at_once_before_the_first_list,
    it_ends_in_time_while_the_catalog_hangs_and_at_once_when_told_twice
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_catalog-mesh-controller");
const FRONT: &str = "127.0.0.1:9081";

/// Generous against a busy machine, and far below any deadline of a request.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn it_ends_at_once_before_the_first_list(rig: &Rig) -> Result<()> {
    // An API server that takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let kubeconfig = rig.folder().join("silent.kubeconfig");
    let cluster = serde_json::json!({"server": format!("http://{}", silent.local_addr()?)});
    let content = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "users": [{"name": "c", "user": {}}],
    });
    std::fs::write(&kubeconfig, content.to_string())?;
    let process = Spec::new("operator-unheard", PROGRAM, rig.folder())
        .args([
            "run",
            "--catalog-url",
            "http://127.0.0.1:1",
            "--listen",
            OPERATOR,
            "--debug-listen=off",
        ])
        .env("KUBECONFIG", kubeconfig)
        .spawn()?;
    let (connection, _) = silent.accept().await?;
    let told = Instant::now();
    ensure!(process.terminate(AT_ONCE).await?, "it ended with a failure");
    eprintln!(
        "SIGTERM before the first list: {:.1} s",
        told.elapsed().as_secs_f64()
    );
    drop(connection);
    Ok(())
}

async fn it_ends_in_time_while_the_catalog_hangs_and_at_once_when_told_twice(
    rig: &Rig,
) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "stopping", CATALOG).await?;
    let front = Front::start(FRONT, &catalog.url)?;
    let operator = stack::operator(
        rig,
        "operator-stopping",
        Path::new(PROGRAM),
        &front.url,
        &[],
    )
    .await?;
    let fleet = Fleet::programmed(rig, &catalog, "stopping", 10).await?;

    for twice in [false, true] {
        let begun = Instant::now();
        front.set(Fault::Hang)?;
        wait::until("a request that hangs", stack::PATIENCE, async || {
            ensure!(!front.since(begun + Duration::from_millis(100)).is_empty());
            Ok(())
        })
        .await?;
        let told = Instant::now();
        let limit = if twice {
            operator.process.signal(Signal::SIGTERM).await?;
            sleep(Duration::from_millis(300)).await;
            AT_ONCE
        } else {
            Duration::from_secs(25)
        };
        let clean = operator.process.terminate(limit).await?;
        eprintln!(
            "SIGTERM{} while the catalog hangs: {:.1} s",
            if twice { " twice" } else { "" },
            told.elapsed().as_secs_f64()
        );
        ensure!(
            clean != twice,
            "a second signal cuts off, the first does not"
        );
        front.set(Fault::None)?;
        operator.start_again().await?;
        operator
            .ready(&format!("http://{OPERATOR}/readyz"))
            .await
            .context("again")?;
        // All of them are at work again, so that there is something to hang.
        fleet.wait_for(rig, "CatalogSynced", "True Synced").await?;
        sleep(Duration::from_secs(2)).await;
    }
    fleet.clear(rig).await
}
