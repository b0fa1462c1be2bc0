//! Does the operator recover by itself from whatever the API server goes
//! through, soon, without a storm of requests, and by writing what differs and
//! little more?

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::DeleteParams;
use tokio::time::{Instant, sleep};

use crate::scene::{PROGRAM, VS};
use crate::support::audit::Mark;
use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::operator::{ACCOUNT, NAMESPACE, Operator};
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::way::{Trouble, Way};

crate::tests![
    ; alone:
    it_recovers_by_itself_from_what_the_api_server_goes_through(50)
];

const WAY: &str = "127.0.0.1:9443";

/// Bindings, each with two objects and a status.
const SIZE: usize = 30;

/// How long each trouble lasts.
const SPAN: Duration = Duration::from_secs(6);

/// By when all has to be as it should after a repair.
const LIMIT: Duration = Duration::from_secs(30);

/// What has to be stored for a binding whose record changed: both objects, and
/// the status that says so. No other status is needed: while the API server takes
/// nothing, nothing can be said, and when it does, what was wrong is over.
const NEEDED: usize = 3;

struct Scene<'a> {
    rig: &'a Rig,
    way: Way,
    catalog: Catalog,
    operator: Operator,
    fleet: Fleet,
}

async fn it_recovers_by_itself_from_what_the_api_server_goes_through(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "recovery", CATALOG).await?;
    let way = Way::open(rig, WAY)?;
    let kubeconfig = way.kubeconfig(rig, NAMESPACE, ACCOUNT).await?;
    let kubeconfig = kubeconfig.to_str().context("path")?;
    let flags = ["--kubeconfig", kubeconfig];
    let program = Path::new(PROGRAM);
    let operator = stack::operator(rig, "operator-recovery", program, &catalog.url, &flags).await?;
    let fleet = Fleet::programmed(rig, &catalog, "recovery", SIZE).await?;
    let scene = Scene {
        rig,
        way,
        catalog,
        operator,
        fleet,
    };

    scene
        .through("watches cut each second", "11s", async || {
            scene.way.set(Trouble::Cut(Duration::from_secs(1)));
            scene.owners_work("11s").await?;
            sleep(SPAN).await;
            scene.way.set(Trouble::None);
            Ok(())
        })
        .await?;

    scene
        .through(
            "an API server that takes 5 s for each answer",
            "12s",
            async || {
                scene.way.set(Trouble::Slow(Duration::from_secs(5)));
                scene.owners_work("12s").await?;
                sleep(SPAN).await;
                scene.way.set(Trouble::None);
                Ok(())
            },
        )
        .await?;

    scene
        .through("no rights at all", "13s", async || {
            let binding = ["clusterrolebinding", ACCOUNT];
            rig.kubectl(&[&["delete"], &binding[..]].concat()).await?;
            scene.way.cut();
            scene.owners_work("13s").await?;
            sleep(SPAN).await;
            let rbac = repository().join("rbac/30-clusterrolebinding.yaml");
            rig.api.apply_manifests(&rbac).await
        })
        .await?;

    let gone = scene.way.told_gone();
    scene
        .through("a restart behind a compaction", "14s", async || {
            // Held rather than refused: a watch that fails a few times in a row is
            // given up, and lists without being told anything.
            scene.way.set(Trouble::Hold);
            // What happens now is told by no watch, and after the compaction
            // neither etcd nor a server that starts later remembers it.
            let rules = scene.fleet.rules(rig, VS);
            rules.delete("s0", &DeleteParams::default()).await?;
            rig.api.compact().await?;
            rig.api.server.kill().await?;
            rig.api.start_again().await?;
            wait::until("the API server", PATIENCE, async || {
                scene.fleet.bindings(rig).get("s0").await?;
                Ok(())
            })
            .await?;
            scene.way.set(Trouble::None);
            let repaired = Instant::now();
            wait::until("watches whose version is too old", PATIENCE, async || {
                ensure!(scene.way.told_gone() > gone, "none was told so");
                Ok(())
            })
            .await?;
            wait::until("what went unseen put back", LIMIT, async || {
                rules.get("s0").await.map(|_| ()).context("s0")
            })
            .await?;
            let took = repaired.elapsed();
            ensure!(took <= LIMIT, "{took:?} until it was back");
            // Not before: how long a server takes to start must not matter, and a
            // write that is held for 15 s is given up, and that is said. What is
            // written while everything is listed anew may be written twice.
            sleep(SPAN).await;
            scene.owners_work("14s").await
        })
        .await?;
    Ok(())
}

impl Scene<'_> {
    /// The catalog's owners change every record.
    async fn owners_work(&self, timeout: &str) -> Result<()> {
        self.fleet.put_records(&self.catalog, timeout).await
    }

    /// Goes through a trouble, during which every record comes to have this
    /// timeout; when it returns, it is over.
    async fn through(
        &self,
        what: &str,
        timeout: &str,
        trouble: impl AsyncFnOnce() -> Result<()>,
    ) -> Result<()> {
        let mark = self.quiet().await?;
        let begun = Instant::now();
        trouble().await.with_context(|| what.to_owned())?;
        let repaired = Instant::now();
        self.is_alive().await.with_context(|| what.to_owned())?;
        self.fleet.wait_for_timeout(self.rig, timeout).await?;
        self.fleet
            .wait_for(self.rig, "Ready", "True Synced")
            .await?;
        let well = Instant::now();
        let took = well - repaired;
        self.quiet().await?;
        let calm = self.way.expect_calm(begun, well, what);
        let writes = self.fleet.writes(self.rig, mark).await?;
        let (stored, refused) = (writes.stored(), writes.refused());
        let needed = NEEDED * SIZE;
        eprintln!(
            "{what}: all as it should be {:.1} s after the repair, {stored} writes where {needed} are needed, {refused} refused: {:?}",
            took.as_secs_f64(),
            writes.by_kind()
        );
        calm?;
        ensure!(took <= LIMIT, "{what}: {took:?}");
        // Those under way when the first was refused, and who finds out for all.
        ensure!(refused <= SIZE, "{what}: {refused} writes were refused");
        ensure!(
            stored * 10 <= needed * 11,
            "{what}: {stored} writes for {needed}"
        );
        Ok(())
    }

    /// Neither stuck nor restarted.
    async fn is_alive(&self) -> Result<()> {
        let ended = self.operator.process.has_ended().await;
        ensure!(ended.is_none(), "the operator {ended:?}");
        let http = reqwest::Client::builder().no_proxy().build()?;
        let livez = http.get(format!("http://{OPERATOR}/livez"));
        let answer = livez.send().await?;
        ensure!(answer.status().is_success(), "{}", answer.text().await?);
        Ok(())
    }

    /// Waits until nothing is written any more, and marks that place.
    async fn quiet(&self) -> Result<Mark> {
        wait::until("an end of the writes", PATIENCE, async || {
            let mark = self.rig.audit_mark().await?;
            sleep(Duration::from_secs(1)).await;
            let writes = self.fleet.writes(self.rig, mark).await?.0;
            ensure!(writes.is_empty(), "{} writes", writes.len());
            Ok(mark)
        })
        .await
    }
}
