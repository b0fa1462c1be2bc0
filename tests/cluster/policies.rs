//! Does the API server refuse what the admission policies of deploy/ are there
//! to refuse, and nothing else?

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::scene::{ADOPT, DR, MANAGED_BY, UID, VS, rules};
use crate::support::apiserver;
use crate::support::operator::{ACCOUNT, NAMESPACE};
use crate::support::rig::Rig;
use crate::support::stack;
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::workload::make_pod;
use catalog_mesh_controller::api::service_binding::ServiceBinding;

crate::tests![
    who_binds_into_another_namespace_may_make_bindings_there,
    the_operators_account_changes_no_rule_that_is_not_its_own,
    the_operators_account_changes_nothing_of_a_pod_but_its_own_marks,
];

/// A client of the operator's own account, with what rbac/ grants.
async fn ours(rig: &Rig) -> Result<kube::Client> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let api = &rig.api;
    let kubeconfig = api.service_account_kubeconfig(NAMESPACE, ACCOUNT).await?;
    apiserver::client(&kubeconfig).await
}

/// The answer is a refusal by this policy.
fn refused<T: std::fmt::Debug>(answer: kube::Result<T>, policy: &str) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            let named = format!("ValidatingAdmissionPolicy '{policy}'");
            ensure!(status.message.contains(&named), "{status:?}");
            Ok(())
        }
        other => bail!("not refused: {other:?}"),
    }
}

async fn who_binds_into_another_namespace_may_make_bindings_there(rig: &Rig) -> Result<()> {
    const POLICY: &str = "catalog-mesh-bindings-elsewhere";
    let (own, other) = (
        rig.namespace("author").await?,
        rig.namespace("owner").await?,
    );
    let may_bind = ["--verb=create", "--resource=servicebindings.aikernel.io"];
    let grant = async |namespace: &str| -> Result<()> {
        let role = ["create", "role", "binder", "-n", namespace];
        rig.kubectl(&[&role[..], &may_bind].concat()).await?;
        let account = format!("--serviceaccount={own}:author");
        let to = [
            "create",
            "rolebinding",
            "binder",
            "--role=binder",
            "-n",
            namespace,
        ];
        rig.kubectl(&[&to[..], &[&account]].concat()).await?;
        Ok(())
    };
    let kubeconfig = rig.api.service_account_kubeconfig(&own, "author").await?;
    let author = apiserver::client(&kubeconfig).await?;
    grant(&own).await?;
    let create = async |name: &str, namespace: Option<&str>| {
        let mut binding = stack::binding(&own, name, "x");
        if let Some(namespace) = namespace {
            binding["spec"]["namespace"] = json!(namespace);
        }
        let binding = serde_json::from_value(binding).map_err(kube::Error::SerdeError)?;
        let api = Api::<ServiceBinding>::namespaced(author.clone(), &own);
        api.create(&PostParams::default(), &binding).await
    };

    wait::until("the first right", stack::PATIENCE, async || {
        create("at-home", None).await?;
        Ok(())
    })
    .await?;
    refused(create("elsewhere", Some(&other)).await, POLICY)?;
    create("at-home-by-name", Some(&own)).await?;
    grant(&other).await?;
    wait::until("the new right", stack::PATIENCE, async || {
        create("elsewhere", Some(&other)).await?;
        Ok(())
    })
    .await
}

async fn the_operators_account_changes_no_rule_that_is_not_its_own(rig: &Rig) -> Result<()> {
    const POLICY: &str = "catalog-mesh-only-own-rules";
    let namespace = rig.namespace("rules").await?;
    let us = ours(rig).await?;
    for (kind, spec) in [
        (
            VS,
            json!({"hosts": ["a.example"], "http": [{"route": [{"destination": {"host": "a.example"}}]}]}),
        ),
        (DR, json!({"host": "a.example"})),
    ] {
        let theirs = rules(rig, kind, &namespace);
        let api = {
            let gvk = kube::api::GroupVersionKind::gvk("networking.istio.io", "v1", kind);
            let resource = kube::api::ApiResource::from_gvk(&gvk);
            Api::<DynamicObject>::namespaced_with(us.clone(), &namespace, &resource)
        };
        let make = async |name: &str, labels: Value, annotations: Value| {
            let metadata = json!({"name": name, "labels": labels, "annotations": annotations});
            let object = json!({
                "apiVersion": "networking.istio.io/v1", "kind": kind,
                "metadata": metadata, "spec": spec,
            });
            let object = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
            theirs.create(&PostParams::default(), &object).await
        };
        make("foreign", json!({}), json!({})).await?;
        make(
            "theirs",
            json!({MANAGED_BY: "helm"}),
            json!({ADOPT: "false"}),
        )
        .await?;
        make(
            "labelled",
            json!({MANAGED_BY: "catalog-mesh-controller"}),
            json!({}),
        )
        .await?;
        make("annotated", json!({}), json!({UID: "u"})).await?;
        make("handed-over", json!({}), json!({ADOPT: "true"})).await?;

        // It takes no marks of its own either.
        let change = json!({"metadata": {"labels": {MANAGED_BY: "catalog-mesh-controller"}}});
        let forced = PatchParams::apply("catalog-mesh-controller").force();
        for name in ["foreign", "theirs"] {
            let patch = Patch::Merge(change.clone());
            let answer = api.patch(name, &PatchParams::default(), &patch).await;
            refused(answer, POLICY)?;
            let whole = json!({
                "apiVersion": "networking.istio.io/v1", "kind": kind,
                "metadata": {"name": name, "labels": change["metadata"]["labels"]}, "spec": spec,
            });
            refused(api.patch(name, &forced, &Patch::Apply(whole)).await, POLICY)?;
            refused(
                api.delete(name, &Default::default()).await.map(|_| ()),
                POLICY,
            )?;
            // Whoever else may do so does.
            theirs
                .patch(
                    name,
                    &PatchParams::default(),
                    &Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}})),
                )
                .await?;
            theirs.delete(name, &Default::default()).await?;
        }
        for name in ["labelled", "annotated", "handed-over"] {
            let patch = Patch::Merge(change.clone());
            api.patch(name, &PatchParams::default(), &patch).await?;
            api.delete(name, &Default::default()).await?;
        }
    }
    Ok(())
}

async fn the_operators_account_changes_nothing_of_a_pod_but_its_own_marks(rig: &Rig) -> Result<()> {
    const POLICY: &str = "catalog-mesh-only-own-marks";
    const DRAINING: &str = "istio.io/draining";
    const EJECTED: &str = "catalog-mesh.aikernel.io/ejected";
    let namespace = rig.namespace("pods").await?;
    let us = ours(rig).await?;
    let theirs = Api::<Pod>::namespaced(rig.client.clone(), &namespace);
    let pods = Api::<Pod>::namespaced(us, &namespace);
    let params = PatchParams::default();
    let patched =
        async |api: &Api<Pod>, patch: Value| api.patch("web", &params, &Patch::Merge(patch)).await;
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    let annotations = |annotations: Value| json!({"metadata": {"annotations": annotations}});
    make_pod(&theirs, "web", "web", "zone-a").await?;
    patched(&theirs, annotations(json!({"note": "theirs"}))).await?;

    // What it does: out of the mesh, and back.
    let out = json!({"metadata": {
        "labels": {DRAINING: "catalog-mesh"}, "annotations": {EJECTED: "x"},
    }});
    patched(&pods, out).await?;
    let back = json!({"metadata": {"labels": {DRAINING: null}, "annotations": {EJECTED: null}}});
    patched(&pods, back).await?;

    for wrong in [
        labels(json!({"app": "other"})),
        labels(json!({"app": null})),
        labels(json!({"new": "label"})),
        labels(json!({DRAINING: "something-else"})),
        annotations(json!({"note": "ours"})),
        annotations(json!({"note": null})),
        annotations(json!({"sidecar.istio.io/inject": "false"})),
        json!({"metadata": {"finalizers": ["example.org/held"]}}),
        json!({"metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "u"},
        ]}}),
        json!({"spec": {"containers": [{"name": "app", "image": "other"}]}}),
        json!({"spec": {"activeDeadlineSeconds": 1}}),
        // Beside something that it may.
        json!({"metadata": {"labels": {DRAINING: "catalog-mesh"}, "annotations": {"note": "ours"}}}),
    ] {
        let answer = patched(&pods, wrong.clone()).await;
        refused(answer, POLICY).map_err(|error| error.context(wrong.to_string()))?;
    }

    // Another one's draining is his.
    patched(&theirs, labels(json!({DRAINING: "maintenance"}))).await?;
    for value in [json!(null), json!("catalog-mesh")] {
        refused(
            patched(&pods, labels(json!({DRAINING: value}))).await,
            POLICY,
        )?;
    }
    // Our annotation beside it is ours.
    patched(&pods, annotations(json!({EJECTED: "x"}))).await?;
    patched(&pods, annotations(json!({EJECTED: null}))).await?;
    Ok(())
}
