//! One look at one binding.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::apply::{self, Applied};
use super::context::Context;
use super::error::WriteError;
use super::queue::room::Room;
use super::queue::state::Next;
use super::{observe, report};
use crate::api::service_binding::{DeletionPolicy, ServiceBinding};
use crate::domain::inputs::{CatalogAnswer, Inputs};
use crate::domain::names::BindingKey;
use crate::domain::situation::{InForce, Look, Situation};
use crate::domain::status::Findings;
use crate::domain::target::Target;
use crate::domain::validate::{self, Valid};
use crate::domain::{build, plan, reasons, status};
use crate::metrics::SyncResult;

/// What a look came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// When the next one is.
    pub next: Next,
    /// What it found working, for those who wait for it.
    pub worked: Vec<Room>,
    /// Why it is tried again, where something failed that no condition says.
    pub error: Option<String>,
}

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
            next: Next::Wait,
            worked: Vec::new(),
            error: None,
        };
    };
    if binding.metadata.deletion_timestamp.is_some() {
        return delete(ctx, &binding, started).await;
    }
    let look = look(ctx, &binding).await;
    finish(ctx, &binding, look, started).await
}

/// What a look found, and what it did.
struct Looked {
    situation: Situation,
    findings: Findings,
    worked: Vec<Room>,
    /// Something that is simply tried again, without a word to the user.
    again: Option<WriteError>,
}

impl Looked {
    fn found(situation: Situation) -> Self {
        Self {
            situation,
            findings: Findings::default(),
            worked: Vec::new(),
            again: None,
        }
    }
}

async fn look(ctx: &Context, binding: &Arc<ServiceBinding>) -> Looked {
    let settings = &ctx.options.settings;
    let target = match validate::target(binding) {
        Ok(target) => target,
        Err(situation) => return Looked::found(situation),
    };
    let mut inputs = ctx.world.inputs(Arc::clone(binding), &target);
    if let Some(situation) = validate::before_the_catalog(&inputs, &target, settings) {
        return Looked::found(situation);
    }
    inputs.catalog = observe::ask_catalog(ctx, &inputs, &target.catalog_id).await;
    let mut looked = match validate::validate(&inputs, &target, settings) {
        Ok(valid) => program(ctx, &inputs, &target, valid).await,
        Err(Situation::Removed { .. }) => withdraw_policy(ctx, &inputs, &target).await,
        Err(situation) => Looked::found(situation),
    };
    if !matches!(
        inputs.catalog,
        CatalogAnswer::Unavailable { .. } | CatalogAnswer::NotAsked
    ) {
        looked.worked.push(Room::Catalog);
    }
    looked
}

/// Brings the mesh to what the valid binding says.
async fn program(ctx: &Context, inputs: &Inputs, target: &Target, valid: Valid) -> Looked {
    let key = validate::key(&inputs.binding);
    let host = valid.binding.host.clone();
    let desired = build::build(&valid.binding);
    let plan = plan::plan(inputs, &target.service, desired);
    let programmed = Situation::Programmed {
        mismatch: valid.mismatch,
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
            situation: programmed,
            findings,
            worked: Vec::new(),
            again: None,
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
    findings.children = Some(children);
    match failed {
        Some(error) => {
            if let WriteError::Away(message) = &error {
                let reason = reasons::WRITE_REFUSED;
                ctx.memory.went_away(Room::Writes, reason, message);
            }
            not_written(error, findings)
        }
        None => Looked {
            situation: programmed,
            findings,
            // Where nothing had to be written, nothing was found out.
            worked: (written > 0).then_some(Room::Writes).into_iter().collect(),
            again: None,
        },
    }
}

/// Removes the objects of a service that the catalog no longer has, as far as
/// the brake lets it.
async fn withdraw_policy(ctx: &Context, inputs: &Inputs, target: &Target) -> Looked {
    let kept = |why: String| Looked::found(Situation::Removed { kept: Some(why) });
    if inputs.binding.spec.deletion_policy == Some(DeletionPolicy::Retain) {
        return kept("the catalog no longer has this service; its objects stay, since deletionPolicy is Retain".to_owned());
    }
    let steps = plan::withdrawal(inputs, &target.service);
    if steps.is_empty() || ctx.options.read_only {
        return Looked::found(Situation::Removed { kept: None });
    }
    let uid = inputs.binding.metadata.uid.as_deref().unwrap_or_default();
    let scope = ctx.world.counts().bindings;
    let share = ctx.options.max_delete_percent;
    let admitted = ctx
        .memory
        .brake()
        .admit(uid, scope, share, Instant::now().into_std());
    if let Err(held) = admitted {
        return kept(held.message());
    }
    let key = validate::key(&inputs.binding);
    for step in &steps {
        if let Err(error) = apply::remove(ctx, &key, step).await {
            return not_written(error, Findings::default());
        }
    }
    let findings = Findings {
        removed: true,
        wrote: true,
        ..Findings::default()
    };
    Looked {
        findings,
        ..Looked::found(Situation::Removed { kept: None })
    }
}

fn not_written(error: WriteError, findings: Findings) -> Looked {
    let situation = match &error {
        WriteError::Away(message) | WriteError::Refused(message) => Situation::WriteRefused {
            reason: reasons::WRITE_REFUSED,
            message: message.clone(),
        },
        WriteError::Fight { manager, fields } => Situation::Blocked {
            reason: reasons::FIELD_FIGHT,
            message: format!(
                "{manager} sets {fields} against us; take these fields out of its configuration, or delete the binding"
            ),
        },
        WriteError::Stale => Situation::WriteRefused {
            reason: reasons::WRITE_REFUSED,
            message: error.to_string(),
        },
    };
    Looked {
        situation,
        findings,
        worked: Vec::new(),
        again: Some(error),
    }
}

/// Removes, or lets go of, what was made for a binding that is being deleted.
/// The catalog is not asked.
async fn delete(ctx: &Context, binding: &Arc<ServiceBinding>, started: Instant) -> Outcome {
    let end = |next| Outcome {
        next,
        worked: Vec::new(),
        error: None,
    };
    if ctx.options.read_only || !report::has_finalizer(binding) {
        return end(Next::Wait);
    }
    ctx.memory
        .found(binding.metadata.uid.as_deref().unwrap_or_default());
    match withdraw(ctx, binding).await {
        Ok(()) => end(Next::Wait),
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

async fn withdraw(ctx: &Context, binding: &Arc<ServiceBinding>) -> Result<(), WriteError> {
    let key = validate::key(binding);
    if let Ok(target) = validate::target(binding) {
        let inputs = ctx.world.inputs(Arc::clone(binding), &target);
        let frozen = validate::frozen(&inputs).is_some();
        for step in plan::removal(&inputs, &target.service, frozen) {
            apply::remove(ctx, &key, &step).await?;
        }
    }
    report::remove_finalizer(ctx, binding).await
}

/// Reports what the look came to, and says when the next one is.
async fn finish(
    ctx: &Context,
    binding: &Arc<ServiceBinding>,
    looked: Looked,
    started: Instant,
) -> Outcome {
    let Looked {
        situation,
        findings,
        worked,
        again,
    } = looked;
    let wrote = findings.wrote;
    if matches!(again, Some(WriteError::Stale)) {
        // Not worth a word: the next look sees what is there now. The watch
        // asks for it as soon as it has told; until then waiting longer each
        // time keeps a watch that lags from making this a loop.
        return Outcome {
            next: Next::Stale,
            worked,
            error: None,
        };
    }
    // The finalizer was written meanwhile: the latest binding counts.
    let latest = ctx
        .world
        .binding(&validate::key(binding))
        .filter(|latest| latest.metadata.uid == binding.metadata.uid)
        .unwrap_or_else(|| Arc::clone(binding));
    let generation = binding.metadata.generation;
    let next_status = status::next(
        latest.status.as_ref(),
        generation,
        &situation,
        findings,
        Timestamp::now(),
    );
    let changed = latest.status.as_ref() != Some(&next_status);
    tell(
        ctx,
        &latest,
        &situation,
        Told { wrote, changed },
        started.elapsed(),
    );
    if !ctx.options.read_only
        && let Err(error) = report::store_status(ctx, &latest, next_status).await
    {
        let stale = error == WriteError::Stale;
        let next = if stale { Next::Stale } else { Next::Failed };
        return Outcome {
            next,
            worked,
            error: (!stale).then(|| error.to_string()),
        };
    }
    let refused = matches!(again, Some(WriteError::Refused(_)));
    let next = match situation.row(InForce::Nothing).look {
        Look::OnEvent => Next::Wait,
        Look::Period => Next::After(period(ctx.options.period)),
        Look::Confirm => Next::After(observe::CONFIRM_AFTER + Duration::from_millis(50)),
        Look::CatalogBack => Next::Park(Room::Catalog),
        Look::WritesBack if refused => Next::Failed,
        Look::WritesBack => Next::Park(Room::Writes),
    };
    Outcome {
        next,
        worked,
        // What is said by a condition and given up needs no word in the log.
        error: again
            .filter(|error| !matches!(error, WriteError::Fight { .. }))
            .map(|error| error.to_string()),
    }
}

/// The period, a little earlier or later for each, so that many bindings do
/// not come due together.
fn period(period: Duration) -> Duration {
    period.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// What decides how loudly a look is spoken of.
struct Told {
    /// An object of the mesh was written.
    wrote: bool,
    /// The status says something new.
    changed: bool,
}

/// Metrics and the log line of a look.
fn tell(
    ctx: &Context,
    binding: &ServiceBinding,
    situation: &Situation,
    told: Told,
    took: Duration,
) {
    let ok = match situation {
        Situation::Programmed { .. } => true,
        Situation::Suspended { .. } => return,
        _ => false,
    };
    ctx.metrics.synced(
        if ok {
            SyncResult::Success
        } else {
            SyncResult::Failure
        },
        took.as_secs_f64(),
    );
    let (namespace, name) = (
        binding.metadata.namespace.as_deref(),
        binding.metadata.name.as_deref(),
    );
    let id = &binding.spec.catalog_service_id;
    let service = &binding.spec.service_name;
    let target = binding.spec.namespace.as_deref().or(namespace);
    let duration = format!("{}ms", took.as_millis());
    if ok && (told.wrote || told.changed) {
        tracing::info!(
            audit = true,
            event = "Synced",
            catalogServiceId = id,
            serviceName = service,
            namespace = target,
            binding = name,
            syncDuration = duration,
            "Synced service"
        );
    } else if !told.changed {
        tracing::debug!(
            catalogServiceId = id,
            serviceName = service,
            namespace = target,
            "nothing changed"
        );
    } else {
        tracing::warn!(
            catalogServiceId = id,
            serviceName = service,
            namespace = target,
            binding = name,
            syncDuration = duration,
            situation = ?situation,
            "Not synced"
        );
    }
}
