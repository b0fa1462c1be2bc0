//! What the operator's writes rely on, as the API server really does it:
//! preconditions of server-side apply, and the words of its conflicts.

use anyhow::{Result, bail, ensure};
use catalog_mesh_controller::domain::build::build;
use catalog_mesh_controller::domain::desired::{DesiredObject, MeshKind};
use catalog_mesh_controller::domain::labels::MANAGER;
use catalog_mesh_controller::domain::ports::ServicePort;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::Status;
use serde_json::{Value, json};

use crate::support::policy::{self, Given, ISTIO};
use crate::support::rig::Rig;

crate::tests![
    resource_version_1_creates_only_where_nothing_is,
    a_wrong_uid_neither_changes_nor_creates,
    a_hand_edit_is_a_conflict_that_names_editor_field_and_version,
    an_appliers_conflict_names_no_version,
    what_was_removed_by_hand_comes_back_without_force,
    what_others_own_beside_ours_survives_force,
    a_delete_with_a_wrong_uid_is_refused,
];

const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// What we would write for a Service named `web`, each kind.
fn ours(namespace: &str) -> Result<[DesiredObject; 2]> {
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: 80,
        ..ServicePort::default()
    };
    let given = Given::catalog(json!({
        "timeout": "1s",
        "circuitBreaker": { "consecutiveErrors": 3 },
    }));
    let desired = build(&given.valid(namespace, "web", vec![port])?.binding);
    Ok([desired.destination_rule, desired.virtual_service])
}

/// One object of ours, and where it is stored.
struct Subject {
    object: DesiredObject,
    api: Api<DynamicObject>,
}

impl Subject {
    async fn each(rig: &Rig, name: &str) -> Result<[Self; 2]> {
        let namespace = rig.namespace(name).await?;
        Ok(ours(&namespace)?.map(|object| Self {
            api: policy::rules(&rig.client, object.kind(), &namespace),
            object,
        }))
    }

    /// Applies it as the operator would, with these fields in its metadata.
    async fn apply(&self, force: bool, metadata: Value) -> kube::Result<DynamicObject> {
        let mut manifest = self.object.manifest(ISTIO);
        for (field, value) in metadata.as_object().into_iter().flatten() {
            manifest["metadata"][field] = value.clone();
        }
        let params = PatchParams {
            force,
            ..PatchParams::apply(MANAGER)
        };
        self.api
            .patch("web", &params, &Patch::Apply(manifest))
            .await
    }

    /// Stores it for the first time.
    async fn create(&self) -> Result<DynamicObject> {
        Ok(self.apply(false, json!({ "resourceVersion": "1" })).await?)
    }

    /// A field of ours with another value: a leaf in one kind, all that
    /// matters in the other.
    fn theirs(&self) -> (&'static str, Value) {
        match self.object.kind() {
            MeshKind::DestinationRule => (
                ".spec.trafficPolicy.outlierDetection.consecutive5xxErrors",
                json!({ "trafficPolicy": { "outlierDetection": { "consecutive5xxErrors": 9 } } }),
            ),
            MeshKind::VirtualService => {
                let mut http = self.object.manifest(ISTIO)["spec"]["http"].clone();
                http[0]["timeout"] = json!("9s");
                (".spec.http", json!({ "http": http }))
            }
        }
    }

    /// Changes that field as `kubectl edit` does.
    async fn edit(&self) -> Result<&'static str> {
        let (field, spec) = self.theirs();
        let params = PatchParams {
            field_manager: Some("kubectl-edit".to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(json!({ "spec": spec }));
        self.api.patch("web", &params, &patch).await?;
        Ok(field)
    }
}

fn refusal(answer: kube::Result<DynamicObject>) -> Result<Status> {
    match answer {
        Err(kube::Error::Api(status)) => Ok(*status),
        other => bail!("it was not refused: {other:?}"),
    }
}

/// The field and message of the one conflict that there is.
fn only_conflict(status: &Status) -> Result<(&str, &str)> {
    ensure!(status.code == 409, "{status:?}");
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let causes: Vec<_> = causes.collect();
    let [cause] = causes.as_slice() else {
        bail!("it has another number of causes: {status:?}")
    };
    ensure!(cause.reason == "FieldManagerConflict", "{cause:?}");
    Ok((&cause.field, &cause.message))
}

async fn resource_version_1_creates_only_where_nothing_is(rig: &Rig) -> Result<()> {
    for subject in Subject::each(rig, "create-only").await? {
        let first = subject.create().await?;
        for force in [false, true] {
            let again = refusal(
                subject
                    .apply(force, json!({ "resourceVersion": "1" }))
                    .await,
            )?;
            ensure!(again.code == 409, "{again:?}");
            let causes = again.details.iter().map(|details| details.causes.len());
            ensure!(
                causes.sum::<usize>() == 0,
                "a field is in conflict: {again:?}"
            );
        }
        let stored = subject.api.get("web").await?;
        ensure!(stored.metadata.resource_version == first.metadata.resource_version);
    }
    Ok(())
}

// trap 29
async fn a_wrong_uid_neither_changes_nor_creates(rig: &Rig) -> Result<()> {
    for subject in Subject::each(rig, "update-only").await? {
        for force in [false, true] {
            let absent = refusal(subject.apply(force, json!({ "uid": NOBODY })).await)?;
            ensure!(absent.code == 409, "{absent:?}");
            ensure!(
                subject.api.get_opt("web").await?.is_none(),
                "it was created"
            );
        }
        let first = subject.create().await?;
        for force in [false, true] {
            let other = refusal(subject.apply(force, json!({ "uid": NOBODY })).await)?;
            let causes = other.details.iter().flat_map(|details| &details.causes);
            let fields: Vec<_> = causes.map(|cause| cause.field.as_str()).collect();
            ensure!(
                other.code == 422 && fields.contains(&"metadata.uid"),
                "{other:?}"
            );
        }
        let stored = subject.api.get("web").await?;
        ensure!(stored.metadata.resource_version == first.metadata.resource_version);
        subject
            .apply(false, json!({ "uid": first.metadata.uid }))
            .await?;
    }
    Ok(())
}

async fn a_hand_edit_is_a_conflict_that_names_editor_field_and_version(rig: &Rig) -> Result<()> {
    for subject in Subject::each(rig, "edited").await? {
        let uid = subject.create().await?.metadata.uid;
        let field = subject.edit().await?;

        let status = refusal(subject.apply(false, json!({ "uid": uid })).await)?;

        let expected = format!("conflict with \"kubectl-edit\" using {ISTIO}");
        ensure!(only_conflict(&status)? == (field, &expected), "{status:?}");
        let forced = subject.apply(true, json!({ "uid": uid })).await?;
        ensure!(
            forced.data["spec"] == subject.object.manifest(ISTIO)["spec"],
            "{forced:?}"
        );
    }
    Ok(())
}

async fn an_appliers_conflict_names_no_version(rig: &Rig) -> Result<()> {
    for subject in Subject::each(rig, "applied").await? {
        let uid = subject.create().await?.metadata.uid;
        let (field, spec) = subject.theirs();
        let theirs = json!({
            "apiVersion": ISTIO,
            "kind": subject.object.kind().as_str(),
            "metadata": { "name": "web" },
            "spec": spec,
        });
        let params = PatchParams::apply("argocd-controller").force();
        subject
            .api
            .patch("web", &params, &Patch::Apply(theirs))
            .await?;

        let status = refusal(subject.apply(false, json!({ "uid": uid })).await)?;

        let expected = "conflict with \"argocd-controller\"";
        ensure!(only_conflict(&status)? == (field, expected), "{status:?}");
    }
    Ok(())
}

async fn what_was_removed_by_hand_comes_back_without_force(rig: &Rig) -> Result<()> {
    for subject in Subject::each(rig, "removed").await? {
        let uid = subject.create().await?.metadata.uid;
        let removal = Patch::Merge(match subject.object.kind() {
            MeshKind::DestinationRule => json!({
                "metadata": { "labels": null },
                "spec": { "trafficPolicy": { "outlierDetection": null } },
            }),
            MeshKind::VirtualService => json!({ "metadata": { "labels": null } }),
        });
        subject
            .api
            .patch("web", &PatchParams::default(), &removal)
            .await?;

        let back = subject.apply(false, json!({ "uid": uid })).await?;

        let ours = subject.object.manifest(ISTIO);
        ensure!(back.data["spec"] == ours["spec"], "{back:?}");
        ensure!(
            json!(back.metadata.labels) == ours["metadata"]["labels"],
            "{back:?}"
        );
    }
    Ok(())
}

async fn what_others_own_beside_ours_survives_force(rig: &Rig) -> Result<()> {
    for subject in Subject::each(rig, "beside").await? {
        let uid = subject.create().await?.metadata.uid;
        let beside = Patch::Merge(match subject.object.kind() {
            MeshKind::DestinationRule => json!({
                "metadata": { "annotations": { "their": "note" } },
                "spec": { "trafficPolicy": { "connectionPool": { "tcp": { "maxConnections": 7 } } } },
            }),
            MeshKind::VirtualService => json!({
                "metadata": { "annotations": { "their": "note" } },
                "spec": { "gateways": ["mesh"] },
            }),
        });
        let params = PatchParams {
            field_manager: Some("kubectl-edit".to_owned()),
            ..PatchParams::default()
        };
        subject.api.patch("web", &params, &beside).await?;

        let forced = subject.apply(true, json!({ "uid": uid })).await?;

        let spec = &forced.data["spec"];
        let survives = match subject.object.kind() {
            MeshKind::DestinationRule => {
                spec["trafficPolicy"]["connectionPool"]["tcp"]["maxConnections"] == 7
            }
            MeshKind::VirtualService => spec["gateways"] == json!(["mesh"]),
        };
        let annotations = forced.metadata.annotations.unwrap_or_default();
        ensure!(
            survives && annotations.contains_key("their"),
            "{spec} {annotations:?}"
        );
    }
    Ok(())
}

async fn a_delete_with_a_wrong_uid_is_refused(rig: &Rig) -> Result<()> {
    for subject in Subject::each(rig, "deleted").await? {
        subject.create().await?;
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(NOBODY.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let Err(kube::Error::Api(status)) = subject.api.delete("web", &params).await else {
            bail!("it was deleted")
        };
        ensure!(status.code == 409, "{status:?}");
        ensure!(subject.api.get_opt("web").await?.is_some(), "it is gone");
    }
    Ok(())
}
