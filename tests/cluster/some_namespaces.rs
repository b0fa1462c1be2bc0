//! An operator that serves some namespaces, with Roles in these alone: does it do
//! there what it does elsewhere, refuse what is out of its reach, and use just
//! the rights that it has?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::rights;
use crate::scene::{FINALIZER, GRANT, PAUSED, PROGRAM, Scene, annotate_namespace};
use crate::support::audit::Entry;
use crate::support::catalog::Catalog;
use crate::support::operator::{ACCOUNT, Operator};
use crate::support::rig::Rig;
use crate::support::rights::Grants;
use crate::support::stack::{CATALOG, OPERATOR, PATIENCE, Stack, leads};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::workload::make_namespace;

crate::tests![
    ; alone:
    some_namespaces_are_served_with_roles_in_these_alone(30)
];

/// Where the replica that stands by is.
const STANDBY: &str = "127.0.0.1:9181";

/// The overlay with other names in place of its own, and what it grants.
struct Overlay {
    own: String,
    grants: Grants,
}

impl Overlay {
    async fn apply(rig: &Rig, own: &str, shop: &str, billing: &str) -> Result<Self> {
        let mut overlay = Self {
            own: own.to_owned(),
            grants: Grants::default(),
        };
        let names = [("shop", shop), ("billing", billing)];
        overlay.add(rig, "overlays/some-namespaces", &names).await?;
        Ok(overlay)
    }

    /// Applies what kustomize makes of the folder, with these names in it.
    async fn add(&mut self, rig: &Rig, folder: &str, names: &[(&str, &str)]) -> Result<()> {
        let path = repository().join("deploy").join(folder);
        let path = path.to_str().context("path")?;
        let mut text = rig.kubectl(&["kustomize", path]).await?;
        text = text.replace("aikernel-infrastructure", &self.own);
        for (from, to) in names {
            text = text.replace(
                &format!("namespace: {from}\n"),
                &format!("namespace: {to}\n"),
            );
        }
        for object in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(object)?;
            if object["kind"] == "Role" {
                self.grants.add(&object)?;
            }
            ensure!(object["kind"] != "ClusterRole", "{object}");
        }
        let file = rig.folder().join("overlay.yaml");
        std::fs::write(&file, text)?;
        rig.api.apply_manifests(&file).await
    }
}

async fn some_namespaces_are_served_with_roles_in_these_alone(rig: &Rig) -> Result<()> {
    let mark = rig.audit_mark().await?;
    let own = rig.namespace("serving").await?;
    let shop = rig.namespace("served").await?;
    let billing = rig.namespace("served-too").await?;
    let other = rig.namespace("not-served").await?;
    // It is to come, and to get its Role, while the operator runs.
    let late = format!("late-{own}");
    let mut overlay = Overlay::apply(rig, &own, &shop, &billing).await?;

    let served = format!("--watch-namespaces={shop},{billing},{late}");
    let operator = async |name: &str, listen: &str, catalog: &str| {
        let own_namespace = format!("--own-namespace={own}");
        let args = [
            "run",
            &served,
            "--cluster-id=east",
            &own_namespace,
            "--catalog-url",
            catalog,
            "--listen",
            listen,
            "--pod-name",
            name,
            "--period=2s",
            "--lease-duration=2m",
            "--lease-renew-deadline=100s",
        ];
        let account = (own.as_str(), ACCOUNT);
        let (run, api) = (rig.folder(), &rig.api);
        let operator =
            Operator::join_from(run, api, account, name, Path::new(PROGRAM), args).await?;
        operator.ready(&format!("http://{listen}/readyz")).await?;
        anyhow::Ok(operator)
    };
    let catalog = Catalog::start(rig.folder(), "serving", CATALOG).await?;
    let leader = operator("serving-leader", OPERATOR, &catalog.url).await?;
    leads(&leader).await?;
    let standby = operator("serving-standby", STANDBY, &catalog.url).await?;
    let stack = Arc::new(Stack {
        catalog,
        operator: leader,
    });
    let scene = |namespace: &str| Scene {
        rig,
        stack: Arc::clone(&stack),
        namespace: namespace.to_owned(),
    };

    rights::walk(&scene(&shop)).await?;
    bound(&scene(&billing)).await?;
    what_is_out_of_reach(&scene(&shop), &scene(&other)).await?;
    what_a_namespace_says(&scene(&shop), &scene(&billing), &own).await?;

    make_namespace(&rig.client, &late).await?;
    // What the catalog has a record of is there before anybody may see it.
    let waiting = scene(&late);
    waiting.service("db").await?;
    waiting.put(&waiting.record("db")).await?;
    let watched = "overlays/some-namespaces/shop";
    overlay.add(rig, watched, &[("shop", &late)]).await?;
    waiting
        .says("db", "Ready", "True Synced")
        .await
        .context("the binding that was made for the catalog")?;
    bound(&waiting).await?;

    let user = format!("system:serviceaccount:{own}:{ACCOUNT}");
    wait::until("the use of every right", PATIENCE, async || {
        let entries = rig.api.audit.since(mark, &rig.client).await?;
        let ours = entries.iter().filter(|entry| entry.user.username == user);
        let (used, beyond) = overlay.grants.compare(ours.clone());
        let unused = overlay.grants.0.difference(&used);
        let unused: Vec<_> = unused.filter(|g| g.is_of(&own) || g.is_of(&shop)).collect();
        let of_the_late = |entry: &&Entry| {
            let object = entry.object_ref.as_ref();
            object.is_some_and(|object| object.resource == "namespaces" && object.name == late)
        };
        let refused = ours.filter(|entry| entry.response_status.code == 403);
        let refused: Vec<_> = refused.filter(|entry| !of_the_late(entry)).collect();
        ensure!(
            unused.is_empty() && beyond.is_empty() && refused.is_empty(),
            "granted and not used: {unused:?}; used and not granted: {beyond:?}; refused: {refused:?}"
        );
        Ok(())
    })
    .await?;

    standby.process.kill().await?;
    stack.operator.process.kill().await?;
    let kubeconfig = rig.api.service_account_kubeconfig(&own, ACCOUNT).await?;
    released(&scene(&billing), &served, &kubeconfig).await
}

/// A user's binding, which is there before the catalog would make one.
async fn bound(scene: &Scene<'_>) -> Result<()> {
    scene.service("web").await?;
    scene.create(&scene.binding("web")).await?;
    scene.put(&scene.record("web")).await?;
    scene.synced("web").await?;
    Ok(())
}

/// A Service of a namespace that is not served, and a binding in one.
async fn what_is_out_of_reach(shop: &Scene<'_>, other: &Scene<'_>) -> Result<()> {
    other.service("web").await?;
    other.put(&other.record("web")).await?;
    other
        .annotate_namespace(GRANT, Some(&shop.namespace))
        .await?;
    other.create(&other.binding("web")).await?;
    let mut into = shop.binding("elsewhere");
    into["spec"]["serviceName"] = json!("web");
    into["spec"]["namespace"] = json!(other.namespace);
    into["spec"]["catalogServiceId"] = json!(other.id("web"));
    shop.create(&into).await?;
    let naming = [other.namespace.as_str(), "--watch-namespaces"];
    shop.conflict("elsewhere", "NamespaceNotServed", &naming)
        .await?;
    // Whatever was to come of it would have come with that.
    let untouched = other.bindings().get("web").await?;
    ensure!(untouched.status.is_none() && untouched.metadata.finalizers.is_none());
    other.nothing_of("web").await?;
    shop.delete_binding("elsewhere").await?;
    shop.gone("elsewhere").await
}

/// Annotations of Namespaces are noticed, without a right to watch any.
async fn what_a_namespace_says(shop: &Scene<'_>, billing: &Scene<'_>, own: &str) -> Result<()> {
    billing.service("db").await?;
    billing.put(&billing.record("db")).await?;
    // The catalog's own binding would count before it is allowed.
    billing
        .says("db", "Ready", "True Synced")
        .await
        .context("the binding that was made for the catalog")?;
    let mut into = shop.binding("into");
    into["spec"]["serviceName"] = json!("db");
    into["spec"]["namespace"] = json!(billing.namespace);
    into["spec"]["catalogServiceId"] = json!(billing.id("db"));
    shop.create(&into).await?;
    shop.conflict("into", "NamespaceNotAllowed", &[&billing.namespace])
        .await?;
    billing
        .annotate_namespace(GRANT, Some(&shop.namespace))
        .await?;
    shop.synced("into").await?;

    annotate_namespace(shop.rig, own, PAUSED, Some("true")).await?;
    billing.says("web", "Suspended", "True Paused").await?;
    annotate_namespace(shop.rig, own, PAUSED, None).await?;
    billing.says("web", "Suspended", "False Active").await?;
    Ok(())
}

/// `release-all` needs no right elsewhere either.
async fn released(scene: &Scene<'_>, served: &str, kubeconfig: &PathBuf) -> Result<()> {
    let before = scene.bindings().get("web").await?.metadata.finalizers;
    ensure!(before == Some(vec![FINALIZER.to_owned()]), "{before:?}");
    let output = Command::new(PROGRAM)
        .args(["release-all", served])
        .env("KUBECONFIG", kubeconfig)
        .kill_on_drop(true)
        .output()
        .await?;
    ensure!(output.status.success(), "{output:?}");
    let after = scene.bindings().get("web").await?.metadata.finalizers;
    ensure!(after.is_none(), "{after:?}");
    Ok(())
}
