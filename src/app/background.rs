//! What goes on beside the looks, as long as the process runs?

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;

use crate::controller::context::Context;
use crate::controller::write_back::sender::{Sender, Surroundings};

/// Tells the catalog what the cluster knows, once the cluster has a name.
pub(super) async fn write_back(ctx: Arc<Context>) {
    if ctx.options.read_only {
        return pending().await;
    }
    let cluster = ctx.cluster.settle(&ctx.clients.requests).await;
    let sender = Sender {
        write_back: Arc::clone(&ctx.write_back),
        catalog: Arc::clone(&ctx.catalog),
        cluster,
        leadership: ctx.leadership.clone(),
        metrics: ctx.metrics.clone(),
        surroundings: ctx as Arc<dyn Surroundings>,
    };
    sender.run().await;
}

/// Keeps the gauges that nothing else moves.
pub(super) async fn gauges(ctx: Arc<Context>) {
    let mut tick = interval(Duration::from_secs(2));
    loop {
        tick.tick().await;
        let counts = ctx.world.counts();
        ctx.metrics.objects(
            counts.bindings,
            counts.virtual_services,
            counts.destination_rules,
        );
        ctx.metrics.deletions_held(counts.deletions_held);
        for (reason, records) in ctx.registrar.problems() {
            ctx.metrics.unbound_records(reason, records);
        }
        let silent_for = ctx.known.heard_ago().map(|ago| ago.as_secs_f64());
        ctx.metrics
            .catalog()
            .stream(ctx.known.is_live(), silent_for);
        let leads = ctx.leadership.epoch();
        ctx.metrics.leads(leads);
        // What waits here while another replica leads is no backlog.
        let idle = leads.is_none() && !ctx.options.read_only;
        let (due, running) = if idle { (0, 0) } else { ctx.queue.depth() };
        ctx.metrics
            .queue(due, running, usize::from(ctx.options.concurrency));
    }
}
