//! From the README's first command to the last one of the page on uninstalling,
//! in a cluster that has nothing of ours, with the operator started from its
//! Deployment: does it come up, look right, and leave nothing behind; and does a
//! client of the mesh notice anything?

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use crate::scene::{DR, PROGRAM, VS, rules};
use crate::support::backend::Behaviour;
use crate::support::catalog::Catalog;
use crate::support::envoy::{Envoy, Options};
use crate::support::kubelet::Kubelet;
use crate::support::operator::NAMESPACE;
use crate::support::rig::Rig;
use crate::support::shell;
use crate::support::stack::{self, CATALOG, PATIENCE};
use crate::support::tools::repository;
use crate::support::traffic::Traffic;
use crate::support::wait;
use crate::support::workload::{Workload, make_namespace};

crate::tests![
    ; alone:
    from_the_readmes_first_command_to_a_cluster_without_a_trace(60)
];

/// What the documents call the catalog.
pub(crate) const DOCUMENTED: &str = "http://catalog-api.aikernel.svc.cluster.local";
/// The namespace of the README's example, and the catalog's ID of its service.
const EXAMPLE: &str = "aikernel";
const ID: &str = "worker-service-001";
pub(crate) const PODS: &str = "app=catalog-mesh-controller";
pub(crate) const ROLLOUT: &str =
    "kubectl rollout status deployment/catalog-mesh-controller --timeout=60s";

async fn from_the_readmes_first_command_to_a_cluster_without_a_trace(rig: &Rig) -> Result<()> {
    let walked = async {
        clear(rig).await?;
        let _controllers = rig
            .api
            .more_controllers("-installed", "deployment,replicaset")?;
        let kubelet = Kubelet::new(rig, NAMESPACE, PODS, Path::new(PROGRAM))?;
        tokio::select! {
            ended = kubelet.run() => ended.context("an operator that was installed"),
            walked = walk(rig) => walked,
        }
    };
    let walked = walked.await;
    let restored = restore(rig, &[EXAMPLE]).await;
    // What failed first is why the other did.
    walked.and(restored)
}

async fn walk(rig: &Rig) -> Result<()> {
    let before = traces(rig).await?;
    // Another test may have left it.
    let namespaces = Api::<Namespace>::all(rig.client.clone());
    if namespaces.get_opt(EXAMPLE).await?.is_none() {
        make_namespace(&rig.client, EXAMPLE).await?;
    }
    let zones = ["zone-a", "zone-b", "zone-a", "zone-b"];
    let worker = rig.workload(EXAMPLE, "worker-service", &zones).await?;
    let envoy = rig.envoy(&Options::in_namespace(EXAMPLE)).await?;
    envoy.wait_for_endpoints(&worker.host(), 4).await?;
    let traffic = Traffic::start(&envoy, &worker.host(), Duration::from_millis(20))?;
    let database = format!("sqlite://{}", rig.folder().join("installed.db").display());
    let catalog = catalog(rig, &database).await?;

    install(rig, &catalog).await?;
    let pod = out_of_the_mesh(rig, &catalog, &worker, &envoy).await?;
    let _catalog = by_its_token(rig, catalog, &database).await?;
    uninstall(rig).await?;
    shell::ok(
        rig,
        "kubectl delete -f examples/catalog-token/catalog-rights.yaml",
    )
    .await?;

    envoy.wait_for_endpoints(&worker.host(), 4).await?;
    let left = rig
        .kubectl(&["get", "pod", "-n", EXAMPLE, &pod, "-o", "json"])
        .await?;
    ensure!(!left.contains("draining"), "{left}");
    let left = traces(rig).await?;
    let new: Vec<_> = left
        .iter()
        .filter(|(uid, _)| !before.contains_key(*uid))
        .collect();
    ensure!(new.is_empty(), "{new:#?}");
    let sent = traffic.stop().await?;
    let bad: Vec<_> = sent.iter().filter(|sent| !sent.is_good()).collect();
    ensure!(bad.is_empty() && sent.len() > 100, "{bad:?}");
    eprintln!("{} requests, and none failed", sent.len());
    rig.istiod.expect_no_nack().await
}

/// The one that the page for owners of catalogs begins with.
async fn catalog(rig: &Rig, database: &str) -> Result<Catalog> {
    let blocks = shell::blocks("docs/catalog-owners.md", "## Try it")?;
    let words = shell::arguments(&blocks[0], "cargo")?;
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let [
        "run",
        "--locked",
        "--example",
        "catalog-server",
        "--",
        "--listen",
        _,
        "--seed",
        seed,
    ] = words[..]
    else {
        bail!("it is started by {words:?}");
    };
    let seed = repository().join(seed);
    Catalog::seeded(rig.folder(), "installed", CATALOG, database, &seed).await
}

/// The README's commands, and what they show.
async fn install(rig: &Rig, catalog: &Catalog) -> Result<()> {
    let mut shown = String::new();
    for block in shell::blocks("README.md", "## Install")? {
        ensure!(!block.contains(&catalog.url));
        let said = shell::ok(rig, &block.replace(DOCUMENTED, &catalog.url)).await?;
        shown.push_str(&said);
    }
    eprintln!("{shown}");
    ensure!(shown.contains("servicebinding.aikernel.io/worker-service-binding condition met"));
    let table: Vec<_> = shown
        .lines()
        .skip_while(|l| !l.starts_with("NAME"))
        .collect();
    let columns: Vec<_> = table
        .first()
        .context("no table")?
        .split_whitespace()
        .collect();
    ensure!(
        columns
            == [
                "NAME",
                "READY",
                "SERVICE",
                "SYNC",
                "HEALTH",
                "ENDPOINTS",
                "AGE"
            ]
    );
    let name = "worker-service-binding";
    // The operator may have made one for the catalog before this one was there,
    // which then goes.
    let row = table.iter().find(|line| line.starts_with(name));
    let row: Vec<_> = row.context("no such row")?.split_whitespace().collect();
    ensure!(
        row[..4] == [name, "True", "worker-service", "Synced"],
        "{row:?}"
    );
    explained(rig).await
}

/// Every field says what it is.
async fn explained(rig: &Rig) -> Result<()> {
    for path in [
        "",
        ".spec",
        ".spec.trafficPolicy",
        ".spec.healthCheck",
        ".status",
    ] {
        let what = format!("servicebindings.aikernel.io{path}");
        let said = rig.kubectl(&["explain", &what]).await?;
        ensure!(!said.contains("<no description>"), "{what}: {said}");
        ensure!(said.contains("DESCRIPTION"), "{what}: {said}");
    }
    Ok(())
}

/// The catalog asks for quick checks, and one endpoint fails them: it leaves the
/// mesh by marks of ours, which are then to be taken back.
async fn out_of_the_mesh(
    rig: &Rig,
    catalog: &Catalog,
    worker: &Workload,
    envoy: &Envoy,
) -> Result<String> {
    catalog.put(&record()?).await?;
    stack::wait_for(
        rig,
        EXAMPLE,
        "worker-service-binding",
        "Healthy",
        "True Healthy",
    )
    .await?;
    worker.pods[0]
        .backend
        .behave_on("/health", Behaviour::Status(500));
    envoy.wait_for_endpoints(&worker.host(), 3).await?;
    for kind in [VS, DR] {
        rules(rig, kind, EXAMPLE).get("worker-service").await?;
    }
    Ok(worker.pods[0].name.clone())
}

/// The record of the example, with quick checks.
fn record() -> Result<Value> {
    let seed = std::fs::read_to_string(repository().join("examples/catalog-server/seed.json"))?;
    let mut record = serde_json::from_str::<Value>(&seed)?[0].take();
    ensure!(record["id"] == ID);
    record["healthCheck"] = json!({"endpoint": "/health", "interval": "500ms", "timeout": "400ms"});
    Ok(record)
}

/// The catalog comes to ask for tokens, as the page on authentication says, and
/// is told one after the patch of that page.
async fn by_its_token(rig: &Rig, open: Catalog, database: &str) -> Result<Catalog> {
    let page = "docs/authentication.md";
    let blocks = shell::blocks(page, "## The catalog's side")?;
    let program = "catalog-server";
    let (rights, _) = blocks[0]
        .split_once(&format!("\n{program}"))
        .context("no such command")?;
    shell::ok(rig, rights).await?;
    let flags = shell::arguments(&blocks[0], program)?;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let kubeconfig = rig.api.service_account_kubeconfig(EXAMPLE, program).await?;
    let key = rig.folder().join("installed.key");
    std::fs::write(&key, "the-owners")?;
    open.process.kill().await?;
    let (folder, env) = (rig.folder(), [("KUBECONFIG", kubeconfig.as_os_str())]);
    let guarded =
        Catalog::guarded_with(folder, "guarded", CATALOG, database, &key, &flags, &env).await?;

    let asked = reqwest::Client::builder().no_proxy().build()?;
    let asked = asked.get(format!("{}/api/v1/services/{ID}", guarded.url));
    let refused = asked.header("X-API-Key", "...").send().await?.status();
    ensure!(refused == 401, "the operator's key opens it: {refused}");

    let patch = shell::blocks(page, "## The operator's side")?.concat();
    shell::ok(rig, &format!("{patch}\n{ROLLOUT} -n {NAMESPACE}")).await?;
    let mut record = record()?;
    record["timeout"] = json!("7s");
    guarded.put(&record).await?;
    wait::until("the changed record", PATIENCE, async || {
        let rule = rules(rig, VS, EXAMPLE).get("worker-service").await?;
        let timeout = &rule.data["spec"]["http"][0]["timeout"];
        ensure!(timeout == "7s", "{timeout}");
        Ok(())
    })
    .await?;
    for (condition, expected) in [("Ready", "True Synced"), ("CatalogSynced", "True Synced")] {
        stack::wait_for(rig, EXAMPLE, "worker-service-binding", condition, expected).await?;
    }
    Ok(guarded)
}

/// The commands of the page, all but those for other cases.
async fn uninstall(rig: &Rig) -> Result<()> {
    // What people set for the operator.
    rig.kubectl(&[
        "annotate",
        "namespace",
        EXAMPLE,
        "catalog-mesh.aikernel.io/allow-bindings-from=x",
    ])
    .await?;
    rig.kubectl(&[
        "annotate",
        "service",
        "worker-service",
        "-n",
        EXAMPLE,
        "catalog-mesh.aikernel.io/ignore=false",
    ])
    .await?;
    for block in shell::blocks("docs/uninstall.md", "# Uninstall")? {
        let said = shell::ok(rig, &block).await?;
        eprintln!("{said}");
    }
    Ok(())
}

/// What in the cluster speaks of us, by its uid: all but Events, which go by
/// themselves.
async fn traces(rig: &Rig) -> Result<BTreeMap<String, Value>> {
    // A server goes on offering a kind for a moment after its definition has gone.
    let what = wait::until("an end of our kind", PATIENCE, async || {
        let kinds = rig
            .kubectl(&["api-resources", "--verbs=list", "-o", "name"])
            .await?;
        let kinds = kinds.lines().filter(|kind| !kind.starts_with("events"));
        let kinds: Vec<_> = kinds.collect();
        ensure!(kinds.len() > 30, "{kinds:?}");
        ensure!(
            !kinds.iter().any(|kind| kind.contains("aikernel")),
            "{kinds:?}"
        );
        Ok(kinds.join(","))
    })
    .await?;
    let args = ["get", &what, "-A", "-o", "json", "--show-managed-fields"];
    let all: Value = serde_json::from_str(&rig.kubectl(&args).await?)?;
    let objects = all["items"].as_array().context("no list")?;
    ensure!(objects.len() > 50, "{}", objects.len());
    let ours = |object: &&Value| {
        let text = object.to_string();
        ["catalog-mesh", "aikernel.io", NAMESPACE]
            .iter()
            .any(|word| text.contains(word))
    };
    let uid = |object: &Value| object["metadata"]["uid"].to_string();
    let found = objects.iter().filter(ours);
    Ok(found.map(|object| (uid(object), object.clone())).collect())
}

/// Takes everything of ours out of the cluster: other tests were here.
pub(crate) async fn clear(rig: &Rig) -> Result<()> {
    stack::forget_bindings(rig).await?;
    let marked = "app.kubernetes.io/managed-by=catalog-mesh-controller";
    let kinds = "virtualservices.networking.istio.io,destinationrules.networking.istio.io";
    rig.kubectl(&["delete", kinds, "-A", "-l", marked]).await?;
    let folders = ["-f", "deploy/", "-f", "rbac/", "-f", "crds/"].join(" ");
    shell::ok(rig, &format!("kubectl delete --ignore-not-found {folders}")).await?;
    Ok(())
}

/// As it was, for the tests that come next; also where this one failed.
pub(crate) async fn restore(rig: &Rig, namespaces: &[&str]) -> Result<()> {
    // What a failure left would stop the Namespaces from going.
    let forgotten = stack::forget_bindings(rig).await;
    for name in namespaces {
        // No kubelet would ever confirm a graceful end.
        let now = ["--grace-period=0", "--force"];
        let pods = ["delete", "pods", "--all", "-n", name];
        rig.kubectl(&[&pods[..], &now].concat()).await?;
        gone(rig, name).await?;
    }
    if forgotten.is_ok() {
        gone(rig, NAMESPACE).await?;
    }
    rig.api.apply_crds().await
}

async fn gone(rig: &Rig, name: &str) -> Result<()> {
    let namespaces = Api::<Namespace>::all(rig.client.clone());
    match namespaces.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        deleted => deleted.map(|_| ())?,
    }
    wait::until(
        "the end of a namespace",
        PATIENCE,
        async || match namespaces.get_opt(name).await? {
            None => Ok(()),
            Some(_) => bail!("{name} is still there"),
        },
    )
    .await
}
