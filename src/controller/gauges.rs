//! The gauges that nothing else moves. To count costs as much as there are
//! bindings, so it is done for whoever asks, and only then.

use super::context::Context;

/// Brings them up to date.
pub fn bring_up_to_date(ctx: &Context) {
    let counts = ctx.world.counts();
    ctx.metrics.objects(
        counts.bindings,
        counts.virtual_services,
        counts.destination_rules,
    );
    ctx.metrics.bindings().deletions_held(counts.deletions_held);
    ctx.metrics.bindings().by_ready(&ctx.world.by_ready());
    for (reason, records) in ctx.registrar.problems() {
        ctx.metrics.bindings().unbound_records(reason, records);
    }
    ctx.write_back.count(&ctx.metrics.reports);
    let silent_for = ctx.known.heard_ago().map(|ago| ago.as_secs_f64());
    let catalog = ctx.metrics.catalog();
    catalog.stream(ctx.known.is_live(), silent_for);
    catalog.unread(ctx.known.unread());
    let leads = ctx.leadership.epoch();
    ctx.metrics.leads(leads);
    // What waits here while another replica leads is no backlog.
    let idle = leads.is_none() && !ctx.options.read_only;
    let (due, running) = if idle { (0, 0) } else { ctx.queue.depth() };
    ctx.metrics.workqueue.depth(due);
    let most = usize::from(ctx.options.concurrency);
    ctx.metrics.reconciles.workers(running, most);
    let (all, longest) = ctx.queue.under_way();
    ctx.metrics.workqueue.under_way(all, longest);
}
