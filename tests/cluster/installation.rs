//! Does the API server take what a user applies to install the operator, and
//! does it come to what the manifests say?

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::{Value, json};

use crate::support::operator::NAMESPACE;
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    all_folders_apply_in_one_command_without_a_warning_and_again_without_a_change,
    the_namespace_admits_restricted_pods_alone
    ; alone:
    the_deployments_pods_are_admitted_and_people_get_their_rights(30)
];

/// As the README says.
async fn all_folders_apply_in_one_command_without_a_warning_and_again_without_a_change(
    rig: &Rig,
) -> Result<()> {
    apply(rig).await?;
    let [crds, rbac, deploy] = &folders();
    again_without_a_change(rig, &["-f", crds, "-f", rbac, "-f", deploy]).await
}

/// Applies once more what was applied by these arguments, and compares.
pub(crate) async fn again_without_a_change(rig: &Rig, what: &[&str]) -> Result<()> {
    let first = versions(rig, what).await?;
    ensure!(first.len() > 5, "{first:?}");
    rig.kubectl(&[&["apply"], what].concat()).await?;
    let second = versions(rig, what).await?;
    ensure!(first == second, "{first:?}\n{second:?}");
    Ok(())
}

/// What a user applies.
pub(crate) fn folders() -> [String; 3] {
    ["crds", "rbac", "deploy"]
        .map(|folder| repository().join(folder).to_string_lossy().into_owned())
}

async fn apply(rig: &Rig) -> Result<()> {
    let [crds, rbac, deploy] = &folders();
    let output = rig
        .api
        .apply(&["-f", crds, "-f", rbac, "-f", deploy])
        .await?;
    ensure!(output.success, "{output:?}");
    // The rig's own apply of the CRD and the policies was a server-side one.
    let warnings: Vec<_> = output
        .stderr
        .lines()
        .filter(|line| !line.contains("last-applied-configuration"))
        .collect();
    ensure!(warnings.is_empty(), "{warnings:?}");
    Ok(())
}

/// The version of each object, without what becomes of a Deployment by itself.
async fn versions(rig: &Rig, what: &[&str]) -> Result<BTreeMap<String, String>> {
    let args = [&["get", "-o", "json"], what].concat();
    let list: Value = serde_json::from_str(&rig.kubectl(&args).await?)?;
    let items = list["items"].as_array().context("no list")?;
    let versions = items.iter().map(|object| {
        let metadata = &object["metadata"];
        let name = format!(
            "{} {} {}",
            object["kind"], metadata["namespace"], metadata["name"]
        );
        let version = match object["kind"].as_str() {
            Some("Deployment") => &metadata["generation"],
            _ => &metadata["resourceVersion"],
        };
        (name, version.to_string())
    });
    Ok(versions.collect())
}

async fn the_namespace_admits_restricted_pods_alone(rig: &Rig) -> Result<()> {
    apply(rig).await?;
    let deployment = Api::<Deployment>::namespaced(rig.client.clone(), NAMESPACE)
        .get("catalog-mesh-controller")
        .await?;
    let template = serde_json::to_value(deployment.spec.template)?;
    let mut pod = json!({ "metadata": template["metadata"], "spec": template["spec"] });
    pod["metadata"]["name"] = json!("operator");
    admitted(rig, &pod).await?;

    // It is the namespace that is strict, and not the server that is not.
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let Err(kube::Error::Api(status)) = admitted(rig, &pod).await else {
        bail!("a laxer pod is admitted too");
    };
    ensure!(status.message.contains("restricted"), "{status:?}");
    Ok(())
}

async fn admitted(rig: &Rig, pod: &Value) -> kube::Result<()> {
    let pod: Pod = serde_json::from_value(pod.clone()).map_err(kube::Error::SerdeError)?;
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pods = Api::<Pod>::namespaced(rig.client.clone(), NAMESPACE);
    pods.create(&dry_run, &pod).await.map(|_| ())
}

/// By the real controllers of Deployments, ReplicaSets and aggregated roles,
/// which the rig has no use for otherwise.
async fn the_deployments_pods_are_admitted_and_people_get_their_rights(rig: &Rig) -> Result<()> {
    let controllers = rig.api.more_controllers(
        "-installation",
        "deployment,replicaset,clusterrole-aggregation",
    )?;
    apply(rig).await?;
    let pods = Api::<Pod>::namespaced(rig.client.clone(), NAMESPACE);
    let ours = ListParams::default().labels("app=catalog-mesh-controller");
    let made = wait::until("the Deployment's pods", PATIENCE, async || {
        let made = pods.list(&ours).await?.items;
        ensure!(made.len() == 2, "there are {}", made.len());
        Ok(made)
    })
    .await?;
    for pod in made {
        let of = pod.metadata.owner_references.iter().flatten();
        ensure!(of.map(|owner| owner.kind.as_str()).eq(["ReplicaSet"]));
    }
    people(rig).await?;

    // Who comes next has no Pods of an operator here.
    let name = ["deployment", "catalog-mesh-controller", "-n", NAMESPACE];
    rig.kubectl(&[&["delete", "--cascade=foreground"], &name[..]].concat())
        .await?;
    wait::until("the end of the pods", PATIENCE, async || {
        let left = pods.list(&ours).await?.items.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
    .await?;
    controllers.kill().await
}

/// Who has Kubernetes' own roles in a namespace, and what he may do there.
async fn people(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("people").await?;
    for role in ["view", "edit", "admin"] {
        let (to, who) = (format!("--clusterrole={role}"), format!("--user={role}er"));
        let args = ["create", "rolebinding", role, &to, &who, "-n", &namespace];
        rig.kubectl(&args).await?;
    }
    let asked = async |who: &str, verb: &str, namespace: &str, more: &[&str]| -> Result<bool> {
        let who = format!("--as={who}er");
        let what = "servicebindings.aikernel.io";
        let args = ["auth", "can-i", verb, what, &who, "-n", namespace];
        let args = [&args[..], more].concat();
        Ok(rig.api.kubectl.run(&args).await?.stdout.trim() == "yes")
    };
    let may = async |who: &str, verb: &str| asked(who, verb, &namespace, &[]).await;
    for who in ["view", "edit", "admin"] {
        wait::until("the aggregated rights", PATIENCE, async || {
            for verb in ["get", "list", "watch"] {
                ensure!(may(who, verb).await?, "{who} {verb}");
            }
            for verb in ["create", "update", "patch", "delete", "deletecollection"] {
                let allowed = may(who, verb).await?;
                ensure!(allowed == (who != "view"), "{who} {verb} {allowed}");
            }
            Ok(())
        })
        .await?;
        let status = asked(who, "patch", &namespace, &["--subresource=status"]).await?;
        ensure!(!status, "{who} may say what the operator says");
        ensure!(!asked(who, "list", "default", &[]).await?, "{who}");
    }
    Ok(())
}
