//! Writes to the binding itself: its finalizer and its status. Nothing is
//! written that is already so.

use std::sync::Arc;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::apply::in_time;
use super::audit;
use super::context::Context;
use super::denials::Subject;
use super::error::WriteError;
use super::events::About;
use super::sources;
use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
use crate::domain::labels::{BINDING_API_VERSION, BINDING_KIND, FINALIZER, MANAGER};
use crate::domain::{status, validate};

/// The status as audit records and metrics name it.
const STATUS: &str = "ServiceBinding/status";

/// Whether the binding carries our finalizer.
pub(crate) fn has_finalizer(binding: &ServiceBinding) -> bool {
    binding
        .metadata
        .finalizers
        .iter()
        .flatten()
        .any(|f| f == FINALIZER)
}

/// Adds our finalizer where it is missing. Writes at most once.
pub(crate) async fn add_finalizer(
    ctx: &Context,
    binding: &ServiceBinding,
) -> Result<(), WriteError> {
    if has_finalizer(binding) {
        return Ok(());
    }
    let add = match &binding.metadata.finalizers {
        Some(list) if !list.is_empty() => {
            json!({"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER})
        }
        _ => json!({"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}),
    };
    let reason = "what is made for it is to go before it does";
    edit(ctx, binding, add, reason).await
}

/// Takes our finalizer off. The binding may be gone afterwards.
pub(crate) async fn remove_finalizer(
    ctx: &Context,
    binding: &ServiceBinding,
) -> Result<(), WriteError> {
    let Some(index) = binding
        .metadata
        .finalizers
        .iter()
        .flatten()
        .position(|f| f == FINALIZER)
    else {
        return Ok(());
    };
    let remove = json!({"op": "remove", "path": format!("/metadata/finalizers/{index}")});
    edit(ctx, binding, remove, "nothing is left to be taken back").await
}

/// Changes the binding's metadata if it is still the one that we saw.
async fn edit(
    ctx: &Context,
    binding: &ServiceBinding,
    operation: Value,
    reason: &str,
) -> Result<(), WriteError> {
    let version = &binding.metadata.resource_version;
    let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
    let patch = serde_json::from_value(json!([test, operation]))
        .map_err(|e| WriteError::Refused(e.to_string()))?;
    let key = validate::key(binding);
    let api = Api::<ServiceBinding>::namespaced(ctx.clients.requests.clone(), &key.namespace);
    let (params, patch) = (PatchParams::default(), Patch::<()>::Json(patch));
    let answer = in_time(api.patch(&key.name, &params, &patch)).await;
    audit::Write {
        verb: "patch",
        kind: BINDING_KIND,
        namespace: &key.namespace,
        name: &key.name,
        binding: Some(&key.to_string()),
        reason,
    }
    .ended(&answer);
    let answer = answer
        .map(|stored| {
            let ends = stored.metadata.deletion_timestamp.is_some() && !has_finalizer(&stored);
            let stored = sources::binding(stored);
            if ends {
                ctx.world.ended_binding(stored);
            } else {
                ctx.world.wrote_binding(stored);
            }
        })
        .map_err(|error| WriteError::from_kube(&error));
    ctx.metrics.wrote(BINDING_KIND, answer.is_ok());
    answer
}

/// Stores the status where it differs, and tells what changed by Events.
pub(crate) async fn store_status(
    ctx: &Context,
    binding: &Arc<ServiceBinding>,
    next: ServiceBindingStatus,
) -> Result<(), WriteError> {
    if binding.status.as_ref() == Some(&next) {
        return Ok(());
    }
    let key = validate::key(binding);
    let subject = Subject {
        kind: STATUS,
        creates: false,
        namespace: key.namespace.clone(),
    };
    ctx.memory.denials.of(&subject, &key.name)?;
    let body = json!({
        "apiVersion": BINDING_API_VERSION,
        "kind": BINDING_KIND,
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": binding.metadata.uid},
        "status": next,
    });
    let api = Api::<ServiceBinding>::namespaced(ctx.clients.requests.clone(), &key.namespace);
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&body);
    let answer = in_time(api.patch_status(&key.name, &params, &patch)).await;
    audit::Write {
        verb: "patch",
        kind: STATUS,
        namespace: &key.namespace,
        name: &key.name,
        binding: Some(&key.to_string()),
        reason: status::why_ready(&next),
    }
    .ended(&answer);
    let answer = answer.map_err(|e| WriteError::from_kube(&e));
    ctx.memory.denials.answered(&subject, &key.name, &answer);
    ctx.metrics.wrote(STATUS, answer.is_ok());
    let stored = answer?;
    let told = status::tells_of_rival(Some(&next));
    if told && !status::tells_of_rival(binding.status.as_ref()) {
        ctx.write_back.told_of_rival(&key);
    }
    for transition in status::transitions(binding.status.as_ref(), &next) {
        ctx.events.tell(about(binding), transition);
    }
    ctx.world.wrote_binding(sources::binding(stored));
    Ok(())
}

/// The binding, for an Event.
pub(crate) fn about(binding: &ServiceBinding) -> About {
    About {
        namespace: binding.metadata.namespace.clone().unwrap_or_default(),
        name: binding.metadata.name.clone().unwrap_or_default(),
        uid: binding.metadata.uid.clone().unwrap_or_default(),
    }
}
