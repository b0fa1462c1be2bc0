//! What is taken back: objects whose service the catalog no longer has, a
//! binding that was made for the catalog and is not needed any more, and the
//! objects of a binding that is being deleted.

use std::sync::Arc;

use jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::Instant;

use super::apply::in_time;
use super::audit;
use super::brake::Refused;
use super::context::Context;
use super::error::WriteError;
use super::outcome::{Looked, Outcome, finish};
use super::queue::room::Room;
use super::queue::state::Next;
use super::write_back::seam;
use super::{observe, reconcile, remove, report, sources};
use crate::api::service_binding::{DeletionPolicy, ServiceBinding};
use crate::domain::brake::Removal;
use crate::domain::inputs::Inputs;
use crate::domain::labels::BINDING_KIND;
use crate::domain::situation::Situation;
use crate::domain::status::{Findings, Transition};
use crate::domain::target::Target;
use crate::domain::{ownership, plan, reasons, validate};
use crate::metrics::bindings::Bound;

/// Takes back what was made for a service that the catalog no longer has, as
/// far as the brake lets it: a binding that was made for the catalog goes
/// itself, a user's loses its objects.
pub(crate) async fn gone_from_catalog(ctx: &Context, inputs: &Inputs, target: &Target) -> Looked {
    let found = Looked::found;
    if inputs.binding.spec.deletion_policy == Some(DeletionPolicy::Retain) {
        let kept = "the catalog no longer has this service; its objects stay, since deletionPolicy is Retain";
        return found(Situation::Removed {
            kept: Some(kept.to_owned()),
        });
    }
    let made = ownership::made_for_catalog(&inputs.binding);
    if let Some(why) = ctx.world.never_listed(target.service.namespace.as_str()) {
        let kept = format!(
            "the catalog no longer has this service; what was made for it stays as long as it cannot be seen: {why}"
        );
        return found(Situation::Removed { kept: Some(kept) });
    }
    let steps = plan::withdrawal(inputs, &target.service);
    if steps.is_empty() && !made {
        // Nothing is left of what the status may still speak of.
        let findings = Findings {
            removed: true,
            ..Findings::default()
        };
        return Looked {
            findings,
            ..found(Situation::Removed { kept: None })
        };
    }
    if ctx.options.read_only {
        say_what_would_go(inputs, steps.len());
        return found(Situation::Removed { kept: None });
    }
    match admit(ctx, inputs, target).await {
        Ok(()) => {}
        Err(Refused::NotLeader) => return again(WriteError::NotLeader),
        Err(Refused::Held(held)) => {
            let findings = Findings {
                doubted: held.is_lasting(),
                ..Findings::default()
            };
            let key = validate::key(&inputs.binding);
            return Looked {
                findings,
                ..found(Situation::held(&held, &key))
            };
        }
    }
    if made {
        let note = "the catalog no longer has the service that this binding was made for";
        return drop_binding(ctx, &inputs.binding, reasons::REMOVED, note).await;
    }
    let key = validate::key(&inputs.binding);
    for step in &steps {
        if let Err(error) = remove::remove(ctx, &key, step).await {
            return reconcile::not_written(error, Findings::default());
        }
    }
    ctx.metrics.bindings().removed(Bound::ByUser);
    deregistered(&inputs.binding, "its objects were removed");
    let findings = Findings {
        removed: true,
        wrote: true,
        ..Findings::default()
    };
    Looked {
        findings,
        worked: vec![Room::Writes],
        ..found(Situation::Removed { kept: None })
    }
}

/// A word for the audit: the catalog lost a service, and this followed.
fn deregistered(binding: &ServiceBinding, what: &str) {
    let own = binding.metadata.namespace.as_deref();
    tracing::info!(
        audit = true,
        event = "ServiceDeregistered",
        catalogServiceId = binding.spec.catalog_service_id,
        serviceName = binding.spec.service_name,
        namespace = binding.spec.namespace.as_deref().or(own),
        binding = binding.metadata.name,
        "The catalog no longer has this service; {what}"
    );
}

async fn admit(ctx: &Context, inputs: &Inputs, target: &Target) -> Result<(), Refused> {
    let removal = Removal::of(&inputs.binding, ctx.world.bindings_known());
    let catalog = observe::catalog_view(&ctx.known, &target.catalog_id);
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let brake = &ctx.memory.brake;
    brake
        .admit(&ctx.leadership, &removal, &catalog, ctx.options.limits, now)
        .await
}

/// Deletes a binding that was made for the catalog and whose objects a user's
/// binding has taken over. Nothing in the mesh changes by it.
pub(crate) async fn relieved(ctx: &Context, binding: &ServiceBinding) -> Looked {
    let note = "another ServiceBinding, a user's, is for this service now";
    drop_binding(ctx, binding, reasons::ANOTHER_BINDING, note).await
}

/// Deletes a binding that was made for the catalog, if it is still as it was
/// seen: whoever took our label off meanwhile keeps it. The finalizer takes its
/// objects back.
///
/// Writes; when cancelled, the next look finds out.
async fn drop_binding(ctx: &Context, binding: &ServiceBinding, reason: &str, note: &str) -> Looked {
    let key = validate::key(binding);
    let api = Api::<ServiceBinding>::namespaced(ctx.clients.requests.clone(), &key.namespace);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: binding.metadata.uid.clone(),
            resource_version: binding.metadata.resource_version.clone(),
        }),
        ..DeleteParams::default()
    };
    let answer = in_time(api.delete(&key.name, &params)).await;
    audit::Write {
        verb: "delete",
        kind: BINDING_KIND,
        namespace: &key.namespace,
        name: &key.name,
        binding: Some(&key.to_string()),
        reason: note,
    }
    .ended(&answer);
    let answer = match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        answer => answer
            .map(|answer| answer.left())
            .map_err(|error| WriteError::from_kube(&error)),
    };
    ctx.metrics.wrote(BINDING_KIND, answer.is_ok());
    let going = match answer {
        Ok(going) => going,
        Err(error) => return reconcile::not_written(error, Findings::default()),
    };
    ctx.metrics.bindings().removed(Bound::ForCatalog);
    if reason == reasons::REMOVED {
        deregistered(binding, "the binding that was made for it was removed");
    }
    let transition = Transition {
        reason: reason.to_owned(),
        note: note.to_owned(),
        warning: false,
    };
    ctx.events.tell(report::about(binding), transition);
    let mut worked = Vec::new();
    if let Some(going) = going {
        let seen = sources::binding(going);
        let going = Arc::clone(&seen.value);
        ctx.world.wrote_binding(seen);
        // At once, so that nobody waits for the watch. Whatever fails here is
        // tried again, and said, by the look that the watch asks for.
        if report::has_finalizer(&going) {
            match end_of(ctx, &going).await {
                Ok(found_working) => worked = found_working,
                Err(error) => {
                    tracing::debug!(binding = %key, %error, "what was made for it goes with the next look");
                }
            }
        }
    }
    // There is nothing more to say in its status.
    Looked {
        worked,
        ..again(WriteError::Stale)
    }
}

fn again(error: WriteError) -> Looked {
    reconcile::not_written(error, Findings::default())
}

/// Removes, or lets go of, what was made for a binding that is being deleted.
/// The catalog is not asked.
pub(crate) async fn delete(
    ctx: &Context,
    binding: &Arc<ServiceBinding>,
    started: Instant,
) -> Outcome {
    let end = |next| Outcome {
        next,
        worked: Vec::new(),
        error: None,
    };
    if !report::has_finalizer(binding) {
        return end(Next::Wait);
    }
    if ctx.options.read_only {
        if let Ok(target) = validate::target(binding) {
            let inputs = ctx.world.inputs(Arc::clone(binding), &target);
            let frozen = validate::frozen(&inputs).is_some();
            say_what_would_go(
                &inputs,
                plan::removal(&inputs, &target.service, frozen).len(),
            );
        }
        return end(Next::Wait);
    }
    match end_of(ctx, binding).await {
        Ok(worked) => Outcome {
            worked,
            ..end(Next::Wait)
        },
        Err(WriteError::Stale) => end(Next::Stale),
        Err(error) => {
            let refused = Looked {
                again: Some(error.clone()),
                ..Looked::found(Situation::RemovalRefused(error.to_string()))
            };
            finish(ctx, binding, refused, started).await
        }
    }
}

fn say_what_would_go(inputs: &Inputs, removals: usize) {
    let binding = validate::key(&inputs.binding);
    tracing::info!(%binding, removals, "read-only: nothing is removed");
}

/// Hands back what it found working.
async fn end_of(ctx: &Context, binding: &Arc<ServiceBinding>) -> Result<Vec<Room>, WriteError> {
    let mut worked = vec![Room::Rights];
    let key = validate::key(binding);
    if let Ok(target) = validate::target(binding) {
        let inputs = ctx.world.inputs(Arc::clone(binding), &target);
        let frozen = validate::frozen(&inputs).is_some();
        seam::deleted(ctx, binding, &target, frozen);
        // What cannot be seen would stay for ever, or go with its owner though it
        // is to stay.
        if let Some(why) = ctx.world.never_listed(target.service.namespace.as_str()) {
            return Err(WriteError::Denied(why));
        }
        for step in plan::removal(&inputs, &target.service, frozen) {
            remove::remove(ctx, &key, &step).await?;
            worked = vec![Room::Rights, Room::Writes];
        }
    }
    // Its Pods come back first: the ejector asks for another look then.
    if ctx.world.keeps_out(&key) {
        return Err(ctx.ejector.failed(&key).unwrap_or(WriteError::Stale));
    }
    report::remove_finalizer(ctx, binding).await?;
    Ok(worked)
}
