//! Writes to one Pod: its label and our annotation, nothing else.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};

use super::reports::{names, verb};
use crate::controller::apply::in_time;
use crate::controller::audit;
use crate::controller::context::Context;
use crate::controller::error::WriteError;
use crate::controller::sources;
use crate::domain::health::mark::{Change, Step};
use crate::domain::labels::MANAGER;
use crate::metrics::ejections::Action;

/// Writes to the Pod, if it is still as it was seen. One that is gone is no
/// error. Writes at most once.
pub(super) async fn write(ctx: &Context, step: &Step) -> Result<(), WriteError> {
    let answer = patch(&ctx.clients.requests, step).await;
    ctx.metrics.wrote("Pod", answer.is_ok());
    let Some(stored) = answer? else {
        return Ok(());
    };
    match step.change {
        Change::Eject(_) => ctx.metrics.ejections.done(Action::Ejected),
        Change::Release => ctx.metrics.ejections.done(Action::Released),
        Change::Note(_) | Change::Forget => {}
    }
    let version = sources::seen(&stored.metadata, ()).version;
    let marks = step.change.marks_after(step.marks.as_deref());
    ctx.world.wrote_pod(&step.pod, &step.uid, version, marks);
    Ok(())
}

/// Sends the change; nothing comes back where the Pod is gone.
pub(super) async fn patch(
    client: &Client,
    step: &Step,
) -> Result<Option<PartialObjectMeta<Pod>>, WriteError> {
    if step.version == 0 {
        // The server takes this for "whatever version".
        let why =
            "the Pod's resource version is no number, so that it cannot be seen whether it changed";
        return Err(WriteError::Refused(why.to_owned()));
    }
    let (namespace, name) = &step.pod;
    let api = Api::<Pod>::namespaced(client.clone(), namespace);
    let params = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(step.change.patch(&step.uid, step.version));
    let answer = in_time(api.patch_metadata(name, &params, &patch)).await;
    audit::Write {
        verb: "patch",
        kind: "Pod",
        namespace,
        name,
        binding: Some(&names(&step.bindings)),
        reason: &reason(&step.change),
    }
    .ended(&answer);
    match answer {
        Ok(stored) => Ok(Some(stored)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(WriteError::from_kube(&error)),
    }
}

/// Why the Pod is written to.
fn reason(change: &Change) -> String {
    match change {
        Change::Eject(note) => format!("eject: {}", note.why),
        Change::Note(_) | Change::Release | Change::Forget => verb(change).to_owned(),
    }
}
