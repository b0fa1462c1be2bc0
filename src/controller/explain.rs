//! What is known of one binding, for whoever asks why something is not as he
//! expects: what would be computed now, from what, and what became of it.
//! Reads what is cached; asks neither cluster nor catalog, and writes nothing.

use std::sync::Arc;

use serde_json::Value;

use super::context::Context;
use super::looks::Look;
use super::queue::state::Standing;
use super::reconcile;
use crate::api::service_binding::{PolicyEntry, ServiceBinding};
use crate::catalog::known::Presence;
use crate::domain::health::ejection::Stays;
use crate::domain::health::summary::Shown;
use crate::domain::inputs::{CatalogAnswer, Inputs};
use crate::domain::names::BindingKey;
use crate::domain::plan::Guard;
use crate::domain::record::CatalogPosition;
use crate::domain::situation::Situation;
use crate::domain::target::Target;
use crate::domain::validate::Valid;
use crate::domain::{build, plan, validate};

/// All that is known of a binding.
pub struct Explained {
    /// As it is cached.
    pub binding: Arc<ServiceBinding>,
    /// The two services that it names, where its names are good.
    pub target: Option<Target>,
    /// What the catalog says of the service, as far as it is known.
    pub catalog: CatalogAnswer,
    /// Whether the catalog is followed, and up to where.
    pub followed: Option<CatalogPosition>,
    /// What would be there if all went well, or what stands in the way.
    pub computed: Result<Computed, Situation>,
    /// The last look of this process.
    pub last: Option<Look>,
    /// What it waits for.
    pub standing: Option<Standing>,
    /// What is shown of the service's health.
    pub shown: Option<Shown>,
    /// Why unhealthy endpoints stay in the mesh, where they do.
    pub stays: Stays,
    /// Why a Pod could not be taken out or brought back, where that failed last.
    pub pod_failed: Option<String>,
}

/// What would be there.
pub struct Computed {
    /// Each effective value with its source.
    pub policy: Vec<PolicyEntry>,
    /// What the user should know about the policy.
    pub notes: Vec<String>,
    /// The name that clients call the service by.
    pub host: String,
    /// The objects, the one that is applied first first.
    pub objects: Vec<Object>,
}

/// An object that would be there.
pub struct Object {
    /// As it would be applied.
    pub manifest: Value,
    /// Under which precondition it would be written; none where it is so.
    pub missing: Option<Guard>,
}

/// What is known of the binding; none where there is no such binding.
pub fn explain(ctx: &Context, key: &BindingKey) -> Option<Explained> {
    let binding = ctx.world.binding(key)?;
    let last = ctx.looks.last(key);
    let target = validate::target(&binding);
    let mut catalog = CatalogAnswer::NotAsked;
    let computed = match &target {
        Err(situation) => Err(situation.clone()),
        Ok(target) => {
            let mut inputs = ctx.world.inputs(Arc::clone(&binding), target);
            catalog = says(ctx, target, last.as_ref());
            inputs.catalog = catalog.clone();
            compute(ctx, key, &inputs, target)
        }
    };
    Some(Explained {
        target: target.ok(),
        catalog,
        followed: ctx.known.position().filter(|_| ctx.known.is_live()),
        computed,
        last,
        standing: ctx.queue.standing(key),
        shown: ctx.monitor.shown(key),
        stays: ctx.ejector.stays(key),
        pod_failed: ctx.ejector.failed(key).map(|error| error.to_string()),
        binding,
    })
}

/// What the stream has told, where it is followed; else what the last look was
/// answered.
fn says(ctx: &Context, target: &Target, last: Option<&Look>) -> CatalogAnswer {
    let last = || last.map_or(CatalogAnswer::NotAsked, |last| last.catalog.clone());
    if !ctx.known.is_live() {
        return last();
    }
    match ctx.known.presence(&target.catalog_id) {
        Presence::Present(record) => CatalogAnswer::Record(record),
        Presence::Unreadable(bad) => CatalogAnswer::Bad(bad),
        Presence::Absent { .. } => CatalogAnswer::NotFound { confirmed: false },
        Presence::Unknown => last(),
    }
}

/// The decision of a look, without what follows from it.
fn compute(
    ctx: &Context,
    key: &BindingKey,
    inputs: &Inputs,
    target: &Target,
) -> Result<Computed, Situation> {
    let settings = &ctx.options.settings;
    if let Some(situation) = validate::before_the_catalog(inputs, target, settings) {
        return Err(situation);
    }
    let mut valid = validate::validate(inputs, target, settings)?;
    reconcile::tighten(ctx, key, &mut valid);
    let desired = build::build(&valid.binding);
    let both = [
        desired.destination_rule.clone(),
        desired.virtual_service.clone(),
    ];
    let plan = plan::plan(inputs, &target.service, desired);
    let version = ctx.mesh_api.api_version();
    let objects = both.map(|object| {
        let write = plan.writes.iter().find(|write| write.object == object);
        Object {
            manifest: object.manifest(&version),
            missing: write.map(|write| write.guard.clone()),
        }
    });
    let Valid {
        provenance,
        notes,
        binding,
        ..
    } = valid;
    Ok(Computed {
        policy: provenance,
        notes,
        host: binding.host,
        objects: objects.into(),
    })
}
