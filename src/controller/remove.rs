//! Performs one step of a removal: deletes a VirtualService or DestinationRule by
//! its uid, or takes our ownerReference off one that is to stay.

use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};

use super::apply::{api, in_time};
use super::audit;
use super::context::Context;
use super::error::WriteError;
use crate::domain::names::BindingKey;
use crate::domain::plan::Removal;

/// Performs one step of a removal. An object that is already gone is gone.
///
/// Writes; when cancelled, the next look finds out.
pub(crate) async fn remove(
    ctx: &Context,
    binding: &BindingKey,
    step: &Removal,
) -> Result<(), WriteError> {
    let (verb, kind, namespace, name, reason) = match step {
        Removal::Delete {
            kind,
            namespace,
            name,
            ..
        } => {
            let reason = "the binding, or its service in the catalog, is gone";
            ("delete", *kind, namespace, name, reason)
        }
        Removal::Release {
            kind,
            namespace,
            name,
            ..
        } => {
            let reason = "the binding goes, and this object is to stay";
            ("patch", *kind, namespace, name, reason)
        }
    };
    let deletes = matches!(step, Removal::Delete { .. });
    let api = api(ctx, kind, namespace);
    let answer = match step {
        Removal::Delete { uid, .. } => {
            let guard = Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            };
            let params = DeleteParams {
                preconditions: Some(guard),
                ..DeleteParams::default()
            };
            in_time(api.delete(name, &params)).await.map(|_| ())
        }
        Removal::Release { owner, index, .. } => {
            let place = format!("/metadata/ownerReferences/{index}");
            let patch: json_patch::Patch = json_patch_of(json!([
                {"op": "test", "path": format!("{place}/uid"), "value": owner},
                {"op": "remove", "path": place},
            ]))?;
            in_time(api.patch_metadata(name, &PatchParams::default(), &Patch::<()>::Json(patch)))
                .await
                .map(|_| ())
        }
    };
    audit::Write {
        verb,
        kind: kind.as_str(),
        namespace,
        name,
        binding: Some(&binding.to_string()),
        reason,
    }
    .ended(&answer);
    let answer = match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // Another uid: not the object that we meant. A patch names none: there
        // it only says that somebody else wrote as well, and nothing was done.
        Err(kube::Error::Api(status)) if status.code == 409 && deletes => Ok(()),
        answer => answer.map_err(|e| WriteError::from_kube(&e)),
    };
    ctx.metrics.wrote(kind.as_str(), answer.is_ok());
    answer
}

fn json_patch_of(value: Value) -> Result<json_patch::Patch, WriteError> {
    serde_json::from_value(value).map_err(|e| WriteError::Refused(e.to_string()))
}
