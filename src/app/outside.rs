//! Who else is heard, where no endpoint answers? The API server and the catalog:
//! the checks believe in the silence of all only while one of those answers.

use std::sync::Arc;
use std::time::Duration;

use crate::controller::context::Context;
use crate::health::view::HealthView;

/// Longest that an event of the catalog is taken to be on its way.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Has the checks ask for them.
pub(super) fn listen(checks: &HealthView, ctx: &Arc<Context>) {
    let (leadership, known) = (ctx.leadership.clone(), Arc::clone(&ctx.known));
    checks.hears_outside(move || {
        let catalog = known.heard_ago().map(|ago| ago + UNDER_WAY);
        leadership.answered_ago().into_iter().chain(catalog).min()
    });
}
