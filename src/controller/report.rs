//! Writes to the binding itself: its finalizer and its status. Nothing is
//! written that is already so.

use std::sync::Arc;

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::apply::{in_time, record};
use super::context::Context;
use super::error::WriteError;
use super::events::About;
use super::sources;
use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
use crate::domain::labels::{BINDING_API_VERSION, BINDING_KIND, FINALIZER, MANAGER};
use crate::domain::{status, validate};

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
    edit(ctx, binding, add).await
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
    edit(
        ctx,
        binding,
        json!({"op": "remove", "path": format!("/metadata/finalizers/{index}")}),
    )
    .await
}

/// Changes the binding's metadata if it is still the one that we saw.
async fn edit(ctx: &Context, binding: &ServiceBinding, operation: Value) -> Result<(), WriteError> {
    let version = &binding.metadata.resource_version;
    let test = json!({"op": "test", "path": "/metadata/resourceVersion", "value": version});
    let patch = serde_json::from_value(json!([test, operation]))
        .map_err(|e| WriteError::Refused(e.to_string()))?;
    let key = validate::key(binding);
    let api = Api::<ServiceBinding>::namespaced(ctx.clients.requests.clone(), &key.namespace);
    let (params, patch) = (PatchParams::default(), Patch::<()>::Json(patch));
    let answer = match in_time(api.patch(&key.name, &params, &patch)).await {
        Ok(stored) => {
            ctx.world.wrote_binding(sources::binding(stored));
            Ok(())
        }
        Err(error) => Err(WriteError::from_kube(&error)),
    };
    record(
        "patch",
        BINDING_KIND,
        &key,
        &key.namespace,
        &key.name,
        answer.as_ref().err(),
    );
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
    let body = json!({
        "apiVersion": BINDING_API_VERSION,
        "kind": BINDING_KIND,
        "metadata": {"name": key.name, "namespace": key.namespace, "uid": binding.metadata.uid},
        "status": next,
    });
    let api = Api::<ServiceBinding>::namespaced(ctx.clients.requests.clone(), &key.namespace);
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&body);
    let answer = in_time(api.patch_status(&key.name, &params, &patch))
        .await
        .map_err(|e| WriteError::from_kube(&e));
    record(
        "patch",
        "ServiceBinding/status",
        &key,
        &key.namespace,
        &key.name,
        answer.as_ref().err(),
    );
    ctx.metrics.wrote("ServiceBinding/status", answer.is_ok());
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
