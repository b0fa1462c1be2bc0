//! What a look found out, and what it means for the write-back: whose record
//! it is decides what is reported.

use super::endpoints::{self, Listing};
use super::sender::Surroundings;
use crate::api::service_binding::ServiceBinding;
use crate::controller::context::Context;
use crate::controller::mirror::Id;
use crate::controller::queue::state::Lane;
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::BindingKey;
use crate::domain::reasons as r;
use crate::domain::situation::Situation;
use crate::domain::target::Target;
use crate::domain::validate;

/// Something ended the look before the catalog was asked. Somebody else's rule
/// is no reason to take back what is known of the service.
pub(crate) fn obstructed(ctx: &Context, key: &BindingKey, situation: &Situation) {
    match situation {
        Situation::Suspended { .. } => ctx.write_back.hold(key),
        Situation::Blocked {
            reason: r::ANOTHER_BINDING | r::NAMESPACE_NOT_ALLOWED,
            ..
        } => {
            ctx.write_back.release(key);
        }
        _ => {}
    }
}

/// The catalog answered. What it did not say leaves everything as it is.
pub(crate) fn answered(ctx: &Context, key: &BindingKey, target: &Target, answer: &CatalogAnswer) {
    if ctx.options.read_only {
        return;
    }
    match answer {
        CatalogAnswer::Record(record) if validate::is_own(record, target) => {
            ctx.write_back.claim(key, target, record.revision);
        }
        CatalogAnswer::Record(_) => {
            ctx.write_back.release(key);
        }
        CatalogAnswer::NotFound { confirmed: true } => ctx.write_back.forget(key),
        CatalogAnswer::NotFound { confirmed: false }
        | CatalogAnswer::Unavailable { .. }
        | CatalogAnswer::Bad(_)
        | CatalogAnswer::NotAsked => {}
    }
}

/// The binding is being deleted.
pub(crate) fn deleted(ctx: &Context, binding: &ServiceBinding, target: &Target, frozen: bool) {
    let key = validate::key(binding);
    if frozen {
        ctx.write_back.forget(&key);
    } else if !ctx.write_back.release(&key) && was_reported(binding) {
        ctx.write_back.withdraw(&target.catalog_id);
    }
}

/// Whether an earlier leader may have reported for the binding, as far as its
/// status says: this process has not looked at it before it was deleted.
fn was_reported(binding: &ServiceBinding) -> bool {
    let conditions = binding.status.iter().flat_map(|status| &status.conditions);
    let is = |type_: &str| conditions.clone().find(|c| c.type_ == type_);
    let programmed = is(r::MESH_PROGRAMMED).is_some_and(|c| c.status == "True");
    let own = is(r::CATALOG_SYNCED).is_some_and(|c| c.reason != r::RECORD_MISMATCH);
    programmed && own
}

impl Surroundings for Context {
    fn listing(&self, service: &Id) -> Listing {
        let (service, slices) = self.world.served(service);
        endpoints::listing(service.as_ref(), &slices)
    }

    fn is_paused(&self) -> bool {
        self.world.is_paused()
    }

    fn history(&self) -> Option<String> {
        self.known.position().map(|position| position.epoch)
    }

    fn rival_changed(&self) {
        for key in self.world.keys() {
            self.queue.add(&key, Lane::Bulk);
        }
    }
}
