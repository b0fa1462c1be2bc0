//! Does the API server take what a user applies to install the operator?

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::support::operator::NAMESPACE;
use crate::support::rig::Rig;
use crate::support::tools::repository;

crate::tests![
    all_folders_apply_in_one_command_without_a_warning,
    the_operators_pod_is_admitted_where_only_restricted_ones_are,
];

/// As the README says.
async fn all_folders_apply_in_one_command_without_a_warning(rig: &Rig) -> Result<()> {
    let folders = ["crds", "rbac", "deploy"]
        .map(|folder| repository().join(folder).to_string_lossy().into_owned());
    let [crds, rbac, deploy] = &folders;
    let args = ["apply", "-f", crds, "-f", rbac, "-f", deploy];
    let output = rig.api.kubectl.run(&args).await?;
    ensure!(output.success, "{output:?}");
    // The rig's own apply of the CRD was a server-side one.
    let warnings: Vec<_> = output
        .stderr
        .lines()
        .filter(|line| !line.contains("last-applied-configuration"))
        .collect();
    ensure!(warnings.is_empty(), "{warnings:?}");
    Ok(())
}

async fn the_operators_pod_is_admitted_where_only_restricted_ones_are(rig: &Rig) -> Result<()> {
    for folder in ["rbac", "deploy"] {
        rig.api.apply_manifests(&repository().join(folder)).await?;
    }
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
