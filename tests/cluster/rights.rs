//! Does rbac/ grant what the operator uses, and nothing else?

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::ejection;
use crate::scene::{DR, IGNORE, PROGRAM, Scene, VS};
use crate::support::operator::{self, LEASE, NAMESPACE, Operator};
use crate::support::rig::Rig;
use crate::support::rights::Grants;
use crate::support::stack::{PATIENCE, Stack};
use crate::support::wait;

crate::tests![
    ; alone:
    what_rbac_grants_is_what_the_operator_uses
];

/// Where the replica that stands by is.
const STANDBY: &str = "127.0.0.1:9181";

async fn what_rbac_grants_is_what_the_operator_uses(rig: &Rig) -> Result<()> {
    let mark = rig.audit_mark().await?;
    // The first operator of a cluster makes the Lease.
    rig.kubectl(&[
        "delete",
        "lease",
        LEASE,
        "-n",
        NAMESPACE,
        "--ignore-not-found",
    ])
    .await?;
    let stack = Stack::start_with(rig, Path::new(PROGRAM), &["--register=on"]).await?;
    let scene = Scene::beside(rig, Arc::new(stack), "rights").await?;
    let standby = Operator::join(
        rig.folder(),
        &rig.api,
        operator::ACCOUNT,
        "operator-rights-standby",
        Path::new(PROGRAM),
        ["run", "--listen", STANDBY, "--pod-name", "standby"],
    )
    .await?;
    standby.ready(&format!("http://{STANDBY}/readyz")).await?;
    walk(&scene).await?;

    let grants = Grants::of_the_operator()?;
    wait::until("the use of every right", PATIENCE, async || {
        let entries = rig.api.audit.since(mark, &rig.client).await?;
        let ours = entries.iter().filter(|e| e.user.username == operator::USER);
        let (used, beyond) = grants.compare(ours.clone());
        let refused: Vec<_> = ours.filter(|e| e.response_status.code == 403).collect();
        let unused: Vec<_> = grants.0.difference(&used).collect();
        ensure!(
            unused.is_empty() && beyond.is_empty() && refused.is_empty(),
            "granted and not used: {unused:?}; used and not granted: {beyond:?}; refused: {refused:?}"
        );
        Ok(())
    })
    .await
}

/// Everything that a binding can live through.
pub(crate) async fn walk(scene: &Scene<'_>) -> Result<()> {
    ejection::left_over(scene, "left-over").await?;
    // One that the catalog makes and takes.
    scene.service("made").await?;
    scene.put(&scene.record("made")).await?;
    wait::until("the catalog's binding", PATIENCE, async || {
        scene.bindings().get("made").await?;
        Ok(())
    })
    .await?;
    scene.synced("made").await?;
    scene.stack.catalog.delete(&scene.id("made")).await?;
    scene.gone("made").await?;

    scene.service("web").await?;
    scene.create(&scene.binding("web")).await?;
    scene.put(&scene.record("web")).await?;
    scene.synced("web").await?;
    for kind in [VS, DR] {
        let rule = scene.rule(kind, "web").await?;
        let mut spec = rule.data["spec"].clone();
        match kind {
            VS => spec["http"][0]["timeout"] = json!("99s"),
            _ => spec["trafficPolicy"]["outlierDetection"]["consecutive5xxErrors"] = json!(99),
        }
        scene.edit(kind, "web", json!({"spec": spec})).await?;
        scene
            .until(kind, "web", "our field again", |now| {
                now.data["spec"] == rule.data["spec"]
            })
            .await?;
    }
    scene.synced("web").await?;
    // Else it would be made again.
    let ignore = json!({"metadata": {"annotations": {IGNORE: "true"}}});
    let services = scene.services();
    services
        .patch("web", &PatchParams::default(), &Patch::Merge(ignore))
        .await?;
    scene.delete_binding("web").await?;
    scene.gone("web").await
}
