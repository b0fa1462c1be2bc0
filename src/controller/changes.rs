//! From what changed in the catalog to the bindings that are looked at, and to
//! the Services that may get one.

use std::sync::Arc;

use super::context::Context;
use super::queue::room::Room;
use super::queue::state::Lane;
use crate::catalog::known::Presence;

/// Asks for a look at the bindings of each service that changed; never ends.
pub async fn follow(ctx: Arc<Context>) {
    loop {
        let changed = ctx.known.changed().await;
        ctx.registrar.records_changed(&changed, &ctx.known);
        for id in changed {
            let gone = matches!(ctx.known.presence(&id), Presence::Absent { .. });
            let lane = if gone { Lane::Urgent } else { Lane::Normal };
            let keys = ctx.world.naming(&id);
            for key in &keys {
                ctx.queue.add(key, lane);
            }
            ctx.monitor.records_changed(keys);
        }
    }
}

/// Lets those go on that wait for the catalog as soon as it is followed again,
/// also those whose service was denied before a list could say so; never ends.
pub async fn release(ctx: Arc<Context>) {
    loop {
        ctx.known.returned().await;
        ctx.queue.works(Room::Catalog);
        for key in ctx.world.denied() {
            ctx.queue.add(&key, Lane::Bulk);
        }
    }
}
