//! One look at one binding.

use std::sync::Arc;

use tokio::time::Instant;

use super::apply::{self, Applied};
use super::context::{Context, Outage};
use super::error::WriteError;
use super::outcome::{Looked, Outcome, finish};
use super::queue::room::Room;
use super::queue::state::{Lane, Next};
use super::write_back::seam;
use super::{observe, report, withdraw};
use crate::api::service_binding::ServiceBinding;
use crate::domain::desired::MeshKind;
use crate::domain::health::outlier::{self, Tightened};
use crate::domain::inputs::{CatalogAnswer, Inputs};
use crate::domain::names::BindingKey;
use crate::domain::plan::{self, Plan};
use crate::domain::situation::Situation;
use crate::domain::status::Findings;
use crate::domain::target::Target;
use crate::domain::validate::{self, Valid};
use crate::domain::{build, ownership, reasons, status};

/// One look at one binding:
///
/// 1. observe: what the cluster holds, from caches;
/// 2. decide whether anything stands in the way before the catalog is asked;
/// 3. ask the catalog;
/// 4. validate and build what should be there;
/// 5. plan: what of it has to be written;
/// 6. apply the plan;
/// 7. report: status, Events, metrics, log.
pub(crate) async fn reconcile(ctx: &Context, key: &BindingKey) -> Outcome {
    let started = Instant::now();
    let Some(binding) = ctx.world.binding(key) else {
        return Outcome {
            next: Next::Gone,
            worked: Vec::new(),
            error: None,
        };
    };
    if binding.metadata.deletion_timestamp.is_some() {
        return withdraw::delete(ctx, &binding, started).await;
    }
    let binding = ctx.owed.known(key, binding);
    let look = look(ctx, &binding).await;
    finish(ctx, &binding, look, started).await
}

async fn look(ctx: &Context, binding: &Arc<ServiceBinding>) -> Looked {
    let settings = &ctx.options.settings;
    let target = match validate::target(binding) {
        Ok(target) => target,
        Err(situation) => return Looked::found(situation),
    };
    let mut inputs = ctx.world.inputs(Arc::clone(binding), &target);
    let key = validate::key(binding);
    if let Some(situation) = validate::before_the_catalog(&inputs, &target, settings) {
        seam::obstructed(ctx, &key, &target, &situation);
        let frozen = matches!(situation, Situation::Suspended { .. });
        if !frozen && !ctx.options.read_only && ownership::is_relieved(&inputs, &target.service) {
            return withdraw::relieved(ctx, binding).await;
        }
        return Looked::found(situation);
    }
    let before = ctx.known.position();
    inputs.catalog = observe::ask_catalog(ctx, &inputs, &target.catalog_id).await;
    let after = ctx.known.position();
    seam::answered(ctx, &key, &target, &inputs.catalog);
    if let CatalogAnswer::Record(record) = &inputs.catalog
        && !ctx.known.is_live()
    {
        ctx.monitor.recorded(&key, record);
    }
    let mut looked = match validate::validate(&inputs, &target, settings) {
        Ok(valid) => {
            let (valid, plan) = plan_of(ctx, &inputs, &target, valid);
            program(ctx, &inputs, &target, valid, plan).await
        }
        Err(Situation::Removed { .. }) => withdraw::gone_from_catalog(ctx, &inputs, &target).await,
        Err(situation) => Looked::found(situation),
    };
    if !matches!(
        inputs.catalog,
        CatalogAnswer::Unavailable { .. } | CatalogAnswer::NotAsked
    ) {
        looked.worked.push(Room::Catalog);
    }
    if let CatalogAnswer::Record(record) = &inputs.catalog {
        looked.findings.seen = observe::record_seen(before.as_ref(), record, after);
        ctx.memory
            .brake
            .shown(binding.metadata.uid.as_deref().unwrap_or_default());
    }
    looked.catalog = inputs.catalog;
    looked
}

/// What the binding comes to now, and what has to be written for that.
fn plan_of(ctx: &Context, inputs: &Inputs, target: &Target, mut valid: Valid) -> (Valid, Plan) {
    let key = validate::key(&inputs.binding);
    let plan = |valid: &Valid| plan::plan(inputs, &target.service, build::build(&valid.binding));
    let relaxed = plan(&valid);
    let is_stored = relaxed.keeps(MeshKind::DestinationRule);
    ctx.ejector.resume(&key, || {
        if is_stored {
            return None;
        }
        tightened_before(inputs, target, &valid)
    });
    if !tighten(ctx, &key, &mut valid) {
        return (valid, relaxed);
    }
    let tightened = plan(&valid);
    (valid, tightened)
}

/// Envoy's own detection as it is to be while an unhealthy endpoint has to stay. Says
/// whether that is another one.
pub(crate) fn tighten(ctx: &Context, key: &BindingKey, valid: &mut Valid) -> bool {
    let Some(policy) = valid.binding.policy.outlier_detection.as_mut() else {
        return false;
    };
    let in_force = outlier::in_force(policy, ctx.ejector.tightened(key));
    let other = *policy != in_force;
    *policy = in_force;
    other
}

/// How Envoy's own detection is tightened in the object that was written last, if it
/// is: each change makes Envoy forget whom it took out, so a restart changes nothing.
fn tightened_before(inputs: &Inputs, target: &Target, valid: &Valid) -> Option<Tightened> {
    let policy = valid.binding.policy.outlier_detection.as_ref()?;
    let is_stored = |tightened: &Tightened| {
        let mut binding = valid.binding.clone();
        binding.policy.outlier_detection = Some(outlier::in_force(policy, Some(*tightened)));
        let desired = build::build(&binding);
        plan::is_stored(inputs, &target.service, &desired.destination_rule)
    };
    Tightened::ALL.into_iter().find(is_stored)
}

/// Brings the mesh to what the valid binding says.
async fn program(
    ctx: &Context,
    inputs: &Inputs,
    target: &Target,
    valid: Valid,
    plan: Plan,
) -> Looked {
    let key = validate::key(&inputs.binding);
    let host = valid.binding.host.clone();
    let status = inputs.binding.status.as_ref();
    let beside = match &inputs.catalog {
        CatalogAnswer::Record(record) => ctx.registrar.beside(&target.service, record, status),
        _ => None,
    };
    let programmed = Situation::Programmed {
        mismatch: valid.mismatch,
        rival: ctx.write_back.rival(&key, status::tells_of_rival(status)),
        beside,
        notes: valid.notes,
    };
    let mut findings = Findings {
        policy: Some(valid.provenance),
        checked: Some(valid.checked),
        ..Findings::default()
    };
    if ctx.options.read_only {
        tracing::info!(binding = %key, writes = plan.writes.len(), "read-only: nothing is written");
        return Looked {
            findings,
            ..Looked::found(programmed)
        };
    }
    if !plan.writes.is_empty() && !ctx.queue.may_try(&key, Room::Writes) {
        let words = ctx.memory.outage(Room::Writes).message;
        return not_written(WriteError::Away(words), findings);
    }
    if let Err(error) = report::add_finalizer(ctx, &inputs.binding).await {
        return not_written(error, findings);
    }
    let Applied {
        children,
        written,
        failed,
    } = apply::perform(ctx, &key, &host, plan).await;
    findings.wrote = written > 0;
    if findings.wrote {
        // One that was made for the catalog goes when its objects are ours.
        let relieved = inputs.rivals.iter().filter(|rival| rival.made_for_catalog);
        relieved.for_each(|rival| ctx.queue.add(&rival.key, Lane::Normal));
    }
    findings.children = Some(children);
    match failed {
        Some(WriteError::Away(message)) => {
            let reason = reasons::WRITE_REFUSED;
            let Outage { message, .. } = ctx.memory.went_away(Room::Writes, reason, &message);
            not_written(WriteError::Away(message), findings)
        }
        Some(error) => not_written(error, findings),
        None => Looked {
            findings,
            // Where nothing had to be written, nothing was found out.
            worked: (written > 0).then_some(Room::Writes).into_iter().collect(),
            ..Looked::found(programmed)
        },
    }
}

/// The look whose write did not come about.
pub(crate) fn not_written(error: WriteError, findings: Findings) -> Looked {
    let situation = match &error {
        WriteError::Away(message) | WriteError::Refused(message) | WriteError::Denied(message) => {
            Situation::WriteRefused {
                reason: reasons::WRITE_REFUSED,
                message: message.clone(),
            }
        }
        WriteError::Fight { manager, fields } => Situation::Blocked {
            reason: reasons::FIELD_FIGHT,
            message: format!(
                "{manager} sets {fields} against us; take these fields out of its configuration, or delete the binding"
            ),
        },
        // Neither of these is told: see how a look ends.
        WriteError::Stale | WriteError::NotLeader => Situation::WriteRefused {
            reason: reasons::WRITE_REFUSED,
            message: error.to_string(),
        },
    };
    Looked {
        findings,
        again: Some(error),
        ..Looked::found(situation)
    }
}
