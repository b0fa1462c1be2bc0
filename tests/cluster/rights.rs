//! Does rbac/ grant what the operator uses, and nothing else?

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::ejection;
use crate::scene::{DR, IGNORE, PROGRAM, Scene, VS};
use crate::support::operator::{self, LEASE, NAMESPACE, Operator};
use crate::support::rig::Rig;
use crate::support::stack::{PATIENCE, Stack};
use crate::support::wait;

crate::tests![
    ; alone:
    what_rbac_grants_is_what_the_operator_uses
];

type Rights = BTreeSet<String>;

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

    let granted = granted(rig).await?;
    wait::until("the use of every right", PATIENCE, async || {
        let entries = rig.api.audit.since(mark, &rig.client).await?;
        let ours: Vec<_> = entries
            .iter()
            .filter(|entry| entry.user.username == operator::USER)
            .collect();
        for entry in &ours {
            ensure!(entry.response_status.code != 403, "refused: {entry:?}");
        }
        let mut used = Rights::new();
        for entry in ours {
            let Some(right) = entry.right() else { continue };
            used.insert(format!(
                "{} {} {}",
                right.verb, right.api_group, right.resource
            ));
            // An apply that creates asks for both.
            if right.verb == "patch" && entry.response_status.code == 201 {
                used.insert(format!("create {} {}", right.api_group, right.resource));
            }
        }
        let unused: Vec<_> = granted.difference(&used).collect();
        let lacking: Vec<_> = used.difference(&granted).collect();
        ensure!(
            unused.is_empty() && lacking.is_empty(),
            "granted and not used: {unused:?}; used and not granted: {lacking:?}"
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

/// The rules of the account's roles, one right a line.
async fn granted(rig: &Rig) -> Result<Rights> {
    let everywhere = ["get", "clusterrole", operator::ACCOUNT, "-o", "json"];
    let here = [
        "get",
        "role",
        operator::ACCOUNT,
        "-n",
        NAMESPACE,
        "-o",
        "json",
    ];
    let mut rights = rules(&rig.kubectl(&everywhere).await?)?;
    rights.extend(rules(&rig.kubectl(&here).await?)?);
    Ok(rights)
}

fn rules(role: &str) -> Result<Rights> {
    let role: Value = serde_json::from_str(role)?;
    let list = |rule: &Value, key: &str| -> Result<Vec<String>> {
        let list = rule[key].as_array().with_context(|| format!("no {key}"))?;
        Ok(list
            .iter()
            .filter_map(|item| item.as_str().map(str::to_owned))
            .collect())
    };
    let mut rights = Rights::new();
    for rule in role["rules"].as_array().context("no rules")? {
        for group in list(rule, "apiGroups")? {
            for resource in list(rule, "resources")? {
                for verb in list(rule, "verbs")? {
                    rights.insert(format!("{verb} {group} {resource}"));
                }
            }
        }
    }
    Ok(rights)
}
