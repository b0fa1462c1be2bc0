//! Does the operator come up whichever way it is installed: by each overlay, and by
//! plain manifests in any order? With the rights that it is given there, and to
//! apply it again changes nothing.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::installation::{again_without_a_change, folders};
use crate::installed::{DOCUMENTED, PODS, ROLLOUT, clear, restore};
use crate::scene::PROGRAM;
use crate::support::catalog::Catalog;
use crate::support::kubelet::Kubelet;
use crate::support::operator::NAMESPACE;
use crate::support::rig::Rig;
use crate::support::shell;
use crate::support::stack::CATALOG;
use crate::support::tools::{prometheus_operator_crds, repository};
use crate::support::workload::make_namespace;

crate::tests![
    ; alone:
    each_overlay_installs_what_it_says(65),
    the_folders_apply_one_by_one_in_every_order(50)
];

/// The commands of the page on installation: each overlay comes up with the
/// rights that it brings, and goes again.
async fn each_overlay_installs_what_it_says(rig: &Rig) -> Result<()> {
    let walked = async {
        clear(rig).await?;
        let _controllers = rig
            .api
            .more_controllers("-overlays", "deployment,replicaset")?;
        let catalog = Catalog::start(rig.folder(), "overlays", CATALOG).await?;
        for heading in [
            "## The whole cluster",
            "### The image",
            "### The catalog and its credentials",
            "## Kustomize",
        ] {
            comes_up(rig, NAMESPACE, &commands(heading, &catalog)?).await?;
        }
        twice(rig, "cluster-wide").await?;
        monitored(rig, &catalog).await?;
        clear(rig).await?;
        for name in NAMESPACES {
            make_namespace(&rig.client, name).await?;
        }
        let some = commands("## Some namespaces only", &catalog)?;
        comes_up(rig, "shop", &some).await?;
        let everywhere =
            "kubectl get clusterrole,clusterrolebinding -l app=catalog-mesh-controller -o name";
        let said = shell::ok(rig, everywhere).await?;
        ensure!(said.is_empty(), "{said}");
        // Both have a Role in `shop`. (The operator of the second one is started
        // by another test, under a name of its own.)
        twice(rig, "one-namespace").await?;
        let page = shell::blocks("docs/uninstall.md", "## Some namespaces only")?;
        is_run(rig, "shop", &page.concat()).await?;
        let left = "kubectl get all,secrets,leases,roles -n shop -o name";
        let left = shell::ok(rig, left).await?;
        ensure!(!left.contains("catalog"), "{left}");
        twice(rig, "some-namespaces").await?;
        let delete = "kubectl delete --ignore-not-found -k deploy/overlays/some-namespaces";
        shell::ok(rig, delete).await?;
        Ok(())
    };
    let walked = walked.await;
    restore(rig, &NAMESPACES).await?;
    walked
}

/// The overlay, and once more: the commands of the page may have changed
/// something in between.
async fn twice(rig: &Rig, overlay: &str) -> Result<()> {
    let folder = repository().join("deploy/overlays").join(overlay);
    let folder = folder.to_str().context("a path of the repository")?;
    rig.kubectl(&["apply", "-k", folder]).await?;
    again_without_a_change(rig, &["-k", folder]).await
}

/// What the Prometheus Operator and Grafana are given, by the former's own kinds.
async fn monitored(rig: &Rig, catalog: &Catalog) -> Result<()> {
    let kinds = prometheus_operator_crds()?;
    let kinds = kinds.to_str().context("a path of the repository")?;
    rig.kubectl(&["apply", "--server-side", "-f", kinds])
        .await?;
    let applied = async {
        rig.kubectl(&["wait", "--for=condition=Established", "-f", kinds])
            .await?;
        shell::ok(rig, &commands("## Monitoring", catalog)?).await?;
        twice(rig, "monitoring").await
    };
    let applied = applied.await;
    rig.kubectl(&["delete", "-f", kinds]).await?;
    applied
}

/// What the page calls them.
const NAMESPACES: [&str; 2] = ["shop", "billing"];

/// All commands below a heading of the page on installation.
fn commands(heading: &str, catalog: &Catalog) -> Result<String> {
    let blocks = shell::blocks("docs/installation.md", heading)?;
    Ok(blocks.concat().replace(DOCUMENTED, &catalog.url))
}

/// Runs the commands, and waits until the operator of this namespace is as its
/// Deployment says.
async fn comes_up(rig: &Rig, namespace: &str, commands: &str) -> Result<()> {
    is_run(
        rig,
        namespace,
        &format!("{commands}\n{ROLLOUT} -n {namespace}\n"),
    )
    .await
}

/// Runs the commands while the Pods of this namespace run.
async fn is_run(rig: &Rig, namespace: &str, commands: &str) -> Result<()> {
    let kubelet = Kubelet::new(rig, namespace, PODS, Path::new(PROGRAM))?;
    tokio::select! {
        ended = kubelet.run() => ended.context(commands.to_owned()),
        done = shell::ok(rig, commands) => done.map(|_| ()),
    }
}

/// Each folder by itself, as the page on installation has it. With the last order,
/// in which the operator has neither rights nor its own kind at first, it starts.
async fn the_folders_apply_one_by_one_in_every_order(rig: &Rig) -> Result<()> {
    let walked = async {
        clear(rig).await?;
        let orders = [
            ["crds", "rbac", "deploy"],
            ["crds", "deploy", "rbac"],
            ["rbac", "crds", "deploy"],
            ["rbac", "deploy", "crds"],
            ["deploy", "crds", "rbac"],
        ];
        for order in orders {
            shell::ok(rig, &one_by_one(order)).await?;
            let [crds, rbac, deploy] = &folders();
            again_without_a_change(rig, &["-f", crds, "-f", rbac, "-f", deploy]).await?;
            clear_at_once(rig).await?;
        }
        let _controllers = rig
            .api
            .more_controllers("-orders", "deployment,replicaset")?;
        comes_up(rig, NAMESPACE, &one_by_one(["deploy", "rbac", "crds"])).await
    };
    let walked = walked.await;
    restore(rig, &[]).await?;
    walked
}

fn one_by_one(order: [&str; 3]) -> String {
    order
        .map(|folder| format!("kubectl apply -f {folder}/\n"))
        .concat()
}

/// What was just applied, and nothing else, so that nobody has to wait for the
/// controller of Namespaces, which begins after five seconds.
async fn clear_at_once(rig: &Rig) -> Result<()> {
    let finalize = format!("/api/v1/namespaces/{NAMESPACE}/finalize");
    let nothing_to_do = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE},
        "spec": {"finalizers": []},
    });
    let commands = format!(
        "kubectl delete --wait=false --ignore-not-found -f deploy/ -f rbac/
        # Unless that one was faster.
        echo '{nothing_to_do}' | kubectl replace --raw {finalize} -f - \\
            || ! kubectl get namespace {NAMESPACE}
        kubectl delete -f crds/"
    );
    shell::ok(rig, &commands).await.map(|_| ())
}
