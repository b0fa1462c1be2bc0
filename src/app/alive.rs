//! How old are the signs of life of this process? They are read here, and
//! judged by [`crate::domain::liveness`].

use std::sync::Arc;

use crate::controller::context::Context;
use crate::domain::election::Timing;
use crate::domain::liveness::{self, Ages, Lasting};

/// What is wrong with this process, whenever it is asked for.
pub(super) fn liveness(
    ctx: &Arc<Context>,
    timing: Timing,
) -> impl Fn() -> Vec<String> + Send + Sync + use<> {
    let ctx = Arc::clone(ctx);
    let lasting = Lasting {
        request: timing.attempt(),
        term: timing.certain(),
    };
    move || liveness::overdue(&ages(&ctx), lasting)
}

fn ages(ctx: &Context) -> Ages {
    Ages {
        control_loop: ctx.queue.asked_ago(),
        look: ctx.queue.longest_run(),
        election: ctx.leadership.went_round_ago(),
        lease: ctx.leadership.renewed_ago(),
    }
}
