//! How a look ends: the binding's status, Events, metrics and log, and when it
//! is looked at again.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::context::Context;
use super::error::WriteError;
use super::looks;
use super::owed::Owed;
use super::queue::room::Room;
use super::queue::state::Next;
use super::write_back::seam;
use super::{observe, report};
use crate::api::service_binding::{HealthStatus, ServiceBinding};
use crate::domain::inputs::CatalogAnswer;
use crate::domain::situation::{InForce, Look, Situation};
use crate::domain::status::Findings;
use crate::domain::{status, validate};
use crate::metrics::SyncResult;

/// How long after a first denial the second read is, which confirms it.
const BEFORE_CONFIRMED: Duration = observe::CONFIRM_AFTER.saturating_add(Duration::from_millis(50));

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

/// What a look found, and what it did.
pub(crate) struct Looked {
    pub(crate) situation: Situation,
    pub(crate) findings: Findings,
    pub(crate) worked: Vec<Room>,
    /// Something that is simply tried again, without a word to the user.
    pub(crate) again: Option<WriteError>,
    /// What the catalog answered, if it was asked.
    pub(crate) catalog: CatalogAnswer,
}

impl Looked {
    pub(crate) fn found(situation: Situation) -> Self {
        Self {
            situation,
            findings: Findings::default(),
            worked: Vec::new(),
            again: None,
            catalog: CatalogAnswer::NotAsked,
        }
    }
}

/// Reports what the look came to, and says when the next one is.
pub(crate) async fn finish(
    ctx: &Context,
    binding: &Arc<ServiceBinding>,
    looked: Looked,
    started: Instant,
) -> Outcome {
    let Looked {
        situation,
        mut findings,
        mut worked,
        again,
        catalog,
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
    if matches!(again, Some(WriteError::NotLeader)) {
        return no_longer_leading(worked);
    }
    let key = validate::key(binding);
    if ctx.world.has(&key) {
        let look = looks::Look {
            at: Timestamp::now(),
            took: started.elapsed(),
            catalog,
            situation: situation.clone(),
            wrote,
            again: again.as_ref().map(ToString::to_string),
        };
        ctx.looks.ended(&key, look);
    }
    if situation.row(InForce::Nothing).look == Look::Confirm && !is_confirmed(ctx, binding) {
        // Not worth a word either: within a third of a second another read
        // tells, and most often the binding goes by that.
        return Outcome {
            next: Next::After(BEFORE_CONFIRMED),
            worked,
            error: None,
        };
    }
    // The finalizer was written meanwhile: the latest binding counts.
    let owed = ctx.owed.take(&key);
    let latest = match owed {
        // The one at hand says what its status is yet to say.
        Some(_) => ctx.world.binding(&key),
        None => ctx.world.latest(&key, binding),
    };
    let latest = latest
        .filter(|latest| latest.metadata.uid == binding.metadata.uid)
        .unwrap_or_else(|| Arc::clone(binding));
    findings.health = ctx.monitor.shown(&key);
    findings.transitions = ctx.monitor.transitions(&key);
    findings.wrote |= owed.is_some();
    seam::judged(ctx, &latest, &situation, findings.health.as_ref());
    let generation = binding.metadata.generation;
    let next_status = status::next(
        latest.status.as_ref(),
        generation,
        &situation,
        findings,
        Timestamp::now(),
    );
    let changed = latest.status.as_ref() != Some(&next_status);
    let before = latest.status.as_ref().map(|status| &status.conditions);
    let says_the_same = before == Some(&next_status.conditions);
    tell(
        ctx,
        &latest,
        &situation,
        Told {
            wrote,
            changed: changed && !(owed.is_some() && says_the_same),
            health: next_status.health_status,
        },
        started.elapsed(),
    );
    let may_wait = wrote && says_the_same && again.is_none() && Owed::may(owed);
    if may_wait && ctx.queue.is_busy() {
        let since = owed.unwrap_or_else(Instant::now);
        ctx.owed.give_way(&key, next_status.children, since);
        worked.push(Room::Rights);
        return Outcome {
            next: Next::Report,
            worked,
            error: None,
        };
    }
    let children = next_status.children.clone();
    if !ctx.options.read_only
        && let Err(error) = report::store_status(ctx, &latest, next_status).await
    {
        if error == WriteError::NotLeader {
            return no_longer_leading(worked);
        }
        if wrote || owed.is_some() {
            // What was written to the mesh is not to be written again for it.
            let since = owed.unwrap_or_else(Instant::now);
            ctx.owed.give_way(&key, children, since);
        }
        let next = match &error {
            WriteError::Stale => Next::Stale,
            WriteError::Denied(_) => Next::Park(Room::Rights),
            _ => Next::Failed,
        };
        return Outcome {
            next,
            worked,
            error: (error != WriteError::Stale).then(|| error.to_string()),
        };
    }
    if again.is_none() && (wrote || changed) {
        worked.push(Room::Rights);
    }
    let programmed = matches!(situation, Situation::Programmed { .. });
    let settled = programmed && again.is_none() && !wrote && !changed;
    let refused = matches!(again, Some(WriteError::Refused(_)));
    let next = match situation.row(InForce::Nothing).look {
        _ if matches!(again, Some(WriteError::Denied(_))) => Next::Park(Room::Rights),
        Look::OnEvent => Next::Wait,
        Look::Period if settled => Next::Settled(period(ctx.options.period)),
        // A second read came and did not confirm the first. Since nothing but
        // reads says that the service is gone, what is known of the catalog has
        // to change first.
        Look::Period | Look::Confirm => Next::After(period(ctx.options.period)),
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

/// Nothing more can be written, so nothing is said either: the next leader
/// looks at all bindings anew.
fn no_longer_leading(worked: Vec<Room>) -> Outcome {
    Outcome {
        next: Next::Failed,
        worked,
        error: None,
    }
}

/// Whether the catalog denied the service for long enough.
fn is_confirmed(ctx: &Context, binding: &ServiceBinding) -> bool {
    let uid = binding.metadata.uid.as_deref().unwrap_or_default();
    let key = validate::key(binding);
    ctx.memory.not_found_for(&key, uid) >= observe::CONFIRM_AFTER
}

/// The period, a little earlier or later for each, so that many bindings do
/// not come due all at once.
pub(super) fn period(period: Duration) -> Duration {
    period.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// What decides how loudly a look is spoken of.
struct Told {
    /// An object of the mesh was written.
    wrote: bool,
    /// The status says something new.
    changed: bool,
    /// Health of the service, where it is known.
    health: Option<HealthStatus>,
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
    let health = told.health.map(|health| format!("{health:?}"));
    if ok && (told.wrote || told.changed) {
        tracing::info!(
            audit = true,
            event = "Synced",
            catalogServiceId = id,
            serviceName = service,
            namespace = target,
            binding = name,
            syncDuration = duration,
            healthStatus = health,
            "Synced service"
        );
    } else if told.changed && matches!(situation, Situation::DeletionHeld(_)) {
        tracing::warn!(
            audit = true,
            event = "DeletionHeld",
            catalogServiceId = id,
            serviceName = service,
            namespace = target,
            binding = name,
            situation = ?situation,
            "The catalog lost this service; nothing is removed until it is beyond doubt or approved"
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
            audit = true,
            event = "SyncFailed",
            catalogServiceId = id,
            serviceName = service,
            namespace = target,
            binding = name,
            syncDuration = duration,
            healthStatus = health,
            situation = ?situation,
            "Not synced"
        );
    }
}
