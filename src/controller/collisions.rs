//! Who is told in the cluster that records of the catalog are in each other's
//! way, or in that of a binding? Writes nothing itself: asks for looks, and for
//! Events.

use std::collections::BTreeSet;

use super::context::Context;
use super::queue::state::Lane;
use super::report;
use crate::domain::names::{BindingKey, CatalogServiceId};
use crate::domain::reasons;
use crate::domain::registration::{self, Problem, Surroundings};
use crate::domain::status::Transition;

/// Tells whoever has the name of the binding that would be made, where that is
/// the problem. That another record names the Service stands in a condition.
pub(crate) fn tell(ctx: &Context, holder: &BindingKey, news: &[(CatalogServiceId, Problem)]) {
    if ctx.options.read_only {
        return;
    }
    let taken = news.iter().filter(|(_, new)| *new == Problem::NameTaken);
    for (id, problem) in taken {
        // Of one that cannot be read something else is said already.
        let Some(holder) = ctx.world.binding(holder) else {
            continue;
        };
        let what = problem.message();
        let transition = Transition {
            reason: reasons::NAME_TAKEN.to_owned(),
            note: format!("record {id} of the catalog gets no binding: {what}"),
            warning: true,
        };
        ctx.events.tell(report::about(&holder), transition);
    }
}

/// Asks for a look at those bindings of a Service whose statuses do not say
/// which other records name it now.
pub(crate) fn look_again(ctx: &Context, around: &Surroundings, ids: &BTreeSet<CatalogServiceId>) {
    for (rival, of) in &around.bindings {
        let bound = CatalogServiceId::parse(of).ok();
        let now = bound.and_then(|id| registration::beside(ids, &id));
        if now.as_deref() != ctx.world.another_record(&rival.key).as_deref() {
            ctx.queue.add(&rival.key, Lane::Normal);
        }
    }
}
