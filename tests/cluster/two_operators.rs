//! Two operators that both lead, each by a Lease of its own, with one identity
//! in one cluster and before one catalog: who reports, who stops, and who is
//! told of it?

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::leadership;
use crate::scene::{PROGRAM, Scene, VS, line};
use crate::support::audit::{Entry, Mark};
use crate::support::operator::{NAMESPACE, Operator, USER};
use crate::support::rig::Rig;
use crate::support::stack::{OPERATOR, PATIENCE};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::workload::{Workload, make_namespace};
use crate::write_back::{bind, lists};

crate::tests![
    ; alone:
    of_two_that_lead_the_one_that_is_overtaken_stops_and_says_so_until_the_other_is_gone(55)
];

const SECOND_PORT: &str = "127.0.0.1:9181";
/// Namespace and account of the second installation.
pub(crate) const ELSEWHERE: &str = "installed-twice";

/// Both, and the service that they both see.
struct Two<'a> {
    scene: Scene<'a>,
    second: Operator,
    web: Workload,
    expected: BTreeSet<String>,
    /// Length of the first one's log before the second came: other tests'
    /// operators wrote to the same file.
    logged: usize,
}

async fn of_two_that_lead_the_one_that_is_overtaken_stops_and_says_so_until_the_other_is_gone(
    rig: &Rig,
) -> Result<()> {
    let mut two = Two::start(rig).await?;
    let mark = rig.audit_mark().await?;
    two.is_scaled_up().await?;
    two.wait_for_duplicate(1.0).await?;
    two.first_says_so().await?;

    // The other goes on, and the first tells the catalog nothing more.
    let silent = two.reports_of_first().await?;
    two.is_scaled_up().await?;
    two.policy_is_followed("7s").await?;
    ensure!(two.reports_of_first().await? == silent, "it reports on");
    let second = two.duplicate(&two.second, SECOND_PORT).await?;
    ensure!(second == 0.0, "both stopped");

    // They do not write what the other wrote by turns.
    wait::until("a word that was taken back twice", PATIENCE, async || {
        let [first, second] = two.statuses(mark).await?;
        ensure!(first >= 2 && second >= 2, "{first} {second}");
        Ok(())
    })
    .await?;
    let mark = rig.audit_mark().await?;
    sleep(Duration::from_secs(8)).await;
    let [first, second] = two.statuses(mark).await?;
    ensure!(
        first <= 2 && second <= 2,
        "they fight: {first} {second} in 8 s"
    );

    two.second.process.kill().await?;
    let since = Instant::now();
    two.wait_for_duplicate(0.0).await?;
    eprintln!("alone: reported again after {:.0?}", since.elapsed());
    two.is_scaled_up().await?;
    two.scene
        .says("web", "CatalogSynced", "True Synced")
        .await?;
    Ok(())
}

impl<'a> Two<'a> {
    async fn start(rig: &'a Rig) -> Result<Self> {
        let scene = Scene::alone(rig, "doubled").await?;
        let web = rig.workload(&scene.namespace, "web", &["zone-a"]).await?;
        bind(&scene, "web").await?;
        let expected = BTreeSet::from([format!("{} true", web.pods[0].address())]);
        lists(&scene, "web", &expected).await?;
        let logged = std::fs::read_to_string(scene.stack.operator.process.log())?.len();
        let second = install_again(rig, &scene.stack.catalog.url, &[]).await?;
        // Each finds out what the other did when it next has something to say.
        wait::until("a report of the second", PATIENCE, async || {
            let url = format!("http://{SECOND_PORT}/metrics");
            let samples = second.metrics(&url).await?;
            let taken = ["kind=\"endpoints\"", "outcome=\"accepted\""];
            let taken = samples.sum("catalog_mesh_reports_total", &taken);
            ensure!(taken.is_some_and(|taken| taken >= 1.0), "{taken:?}");
            Ok(())
        })
        .await?;
        Ok(Self {
            scene,
            second,
            web,
            expected,
            logged,
        })
    }

    /// There is one pod more, which comes to stand in the catalog.
    async fn is_scaled_up(&mut self) -> Result<()> {
        let place = self
            .web
            .add_pod(&self.scene.rig.addresses, "zone-b")
            .await?;
        let address = self.web.pods[place].address();
        self.expected.insert(format!("{address} true"));
        lists(&self.scene, "web", &self.expected).await?;
        Ok(())
    }

    async fn policy_is_followed(&self, timeout: &str) -> Result<()> {
        let mut record = self.scene.record("web");
        record["timeout"] = json!(timeout);
        self.scene.put(&record).await?;
        let there =
            |vs: &kube::api::DynamicObject| vs.data["spec"]["http"][0]["timeout"] == json!(timeout);
        self.scene
            .until(VS, "web", "the new timeout", there)
            .await?;
        Ok(())
    }

    /// In the log once, by the metric, and by an Event of the binding: its
    /// condition the other writes anew at once.
    async fn first_says_so(&self) -> Result<()> {
        let log = std::fs::read_to_string(self.scene.stack.operator.process.log())?;
        let said: Vec<_> = log[self.logged..]
            .lines()
            .filter(|line| line.contains(r#""level":"error""#))
            .collect();
        ensure!(said.len() == 1, "{said:?}");
        for word in ["DuplicateWriter", "--cluster-id"] {
            ensure!(said[0].contains(word), "{said:?}");
        }
        wait::until("the Event", PATIENCE, async || {
            let events = self.scene.events("web").await?;
            let told = events.iter().any(|of| of == "Warning DuplicateWriter");
            ensure!(told, "{events:?}");
            Ok(())
        })
        .await
    }

    async fn wait_for_duplicate(&self, expected: f64) -> Result<()> {
        wait::until("catalog_mesh_duplicate_writer", 3 * PATIENCE, async || {
            let said = self.duplicate(&self.scene.stack.operator, OPERATOR).await?;
            ensure!(said == expected, "the first says {said}");
            Ok(())
        })
        .await
    }

    async fn duplicate(&self, operator: &Operator, port: &str) -> Result<f64> {
        let samples = operator.metrics(&format!("http://{port}/metrics")).await?;
        let said = samples.sum("catalog_mesh_duplicate_writer", &[]);
        said.context("the metric")
    }

    async fn reports_of_first(&self) -> Result<Option<f64>> {
        let url = format!("http://{OPERATOR}/metrics");
        let samples = self.scene.stack.operator.metrics(&url).await?;
        Ok(samples.sum("catalog_mesh_reports_total", &[]))
    }

    /// How often each of them stored a status since the mark.
    async fn statuses(&self, since: Mark) -> Result<[usize; 2]> {
        let rig = self.scene.rig;
        let second = format!("system:serviceaccount:{NAMESPACE}:{ELSEWHERE}");
        let mut counts = [0; 2];
        for (count, user) in counts.iter_mut().zip([USER, &second]) {
            let writes = rig.api.audit.writes_by(user, since, &rig.client).await?;
            let here = |entry: &&Entry| {
                let object = entry.object_ref.as_ref();
                object.is_some_and(|object| object.namespace == self.scene.namespace)
            };
            let lines = writes.iter().filter(here).map(line);
            *count = lines
                .filter(|line| line.starts_with("patch servicebindings/status web"))
                .count();
        }
        Ok(counts)
    }
}

/// As if somebody had applied everything once more for another namespace: one
/// more operator that leads, with the rights of the first.
pub(crate) async fn install_again(rig: &Rig, catalog: &str, more: &[&str]) -> Result<Operator> {
    leadership::grant(rig, ELSEWHERE).await?;
    make_namespace(&rig.client, ELSEWHERE).await?;
    let role = std::fs::read_to_string(repository().join("rbac/40-role.yaml"))?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": ELSEWHERE, "namespace": ELSEWHERE},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "Role",
            "name": "catalog-mesh-controller",
        },
        "subjects": [{"kind": "ServiceAccount", "name": ELSEWHERE, "namespace": NAMESPACE}],
    });
    for (name, manifest) in [
        ("role.yaml", role.replace(NAMESPACE, ELSEWHERE)),
        ("role-binding.json", binding.to_string()),
    ] {
        let file = rig.folder().join(format!("{ELSEWHERE}-{name}"));
        std::fs::write(&file, manifest)?;
        rig.api.apply_manifests(&file).await?;
    }
    run_second(rig, catalog, more).await
}

/// The operator of the second installation, which is there.
pub(crate) async fn run_second(rig: &Rig, catalog: &str, more: &[&str]) -> Result<Operator> {
    let args = [
        "run",
        "--catalog-url",
        catalog,
        "--period",
        "2s",
        "--register=off",
    ];
    let own = ["--own-namespace", ELSEWHERE, "--listen", SECOND_PORT];
    let program = Path::new(PROGRAM);
    let operator = Operator::join(
        rig.folder(),
        &rig.api,
        ELSEWHERE,
        "operator-elsewhere",
        program,
        args.iter().chain(&own).chain(more),
    )
    .await?;
    operator
        .leads(&format!("http://{SECOND_PORT}/metrics"))
        .await?;
    Ok(operator)
}
