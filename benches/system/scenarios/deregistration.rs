//! A service is taken out of the catalog: how long until the binding that was
//! made for it has gone, and so, before it, its VirtualService and its
//! DestinationRule? At a constant rate, whatever the operator does. Beside it,
//! the four requests of such an end by a bare client, at the same rate.

use std::time::Instant;

use anyhow::{Result, ensure};
use kube::api::ListParams;

use super::change::PERIOD;
use crate::bed::{Bed, settle};
use crate::fleet::Fleet;
use crate::load::open_loop;
use crate::raw::{Raw, Template};
use crate::report::{Goal, Report};
use crate::sightings::Ends;

/// The share of the services that are taken out, in percent. The brake counts
/// what went against what is left, so that it would hold all beyond a half.
const SHARE: usize = 40;

const PLOT: &str = "From a deregistration to the end of all";

/// Adds to the report. Leaves neither an operator nor bindings, and the
/// services are still taken out.
pub(super) async fn measure(bed: &Bed, template: &Template, report: &mut Report) -> Result<()> {
    let (rate, size) = (bed.options.rate(), bed.ours.names.len());
    let most = (f64::from(rate) * bed.options.span().as_secs_f64()) as usize;
    let count = most.min(size * SHARE / 100);
    ensure!(count > 0, "{size} bindings are too few");

    eprintln!("{count} ends by bare requests, {rate}/s ...");
    let bound = bed.raw.bind().await?;
    let payloads: Vec<_> = bound
        .iter()
        .map(|bound| template.payload(&bed.raw, bound))
        .collect::<Result<_>>()?;
    let raw = Raw::new(&bed.bare, &bed.raw.namespace);
    raw.write_all(&payloads, 8).await?;
    settle().await;
    let bare = raw.end_all(&payloads, rate, count).await?;
    bed.raw.clear().await?;
    report.add_times("four bare requests of an end", &bare);

    eprintln!("{count} services are taken out of the catalog, {rate}/s ...");
    let flags = ["--max-delete-percent", "100"];
    let running = bed.made_in_force(PERIOD, &flags).await?;
    let ends = Ends::watch(bed);
    bed.calm(&running).await?;
    let mark = bed.mark().await?;
    let committed = open_loop(rate, count, async |turn| {
        let name = &bed.ours.names[turn];
        bed.catalog.delete(&Fleet::catalog_id(name)).await?;
        Ok((name.clone(), Instant::now()))
    })
    .await?;
    let times = ends.times(committed).await?;
    let asked = bed.requests(mark).await?;
    running.stop().await?;
    for kind in ["VirtualService", "DestinationRule"] {
        let left = bed.ours.rules(kind).list(&ListParams::default()).await?;
        let left = left.items.len();
        ensure!(left == size - count, "{left} of {kind} are left of {size}");
    }
    bed.ours.clear().await?;

    report.add_times("catalog's deregistration to all gone", &times);
    report.goal(
        "catalog's deregistration to all gone max",
        Goal::NeverAbove(1000.0),
    );
    let writes = asked.writes() as f64 / count as f64;
    report.add("writes per deregistration", "", writes);
    asked.tell(report, "deregistration", count as f64);
    report.draw(PLOT, "four bare requests", &bare);
    report.draw(PLOT, "deregistration to all gone", &times);
    let refused = asked.answered(400..600) as f64;
    report.add("answers 4xx and 5xx to these", "", refused);
    report.note(format!(
        "{count} services are taken out, {rate}/s, whose bindings were made for the catalog; --max-delete-percent 100"
    ));
    Ok(())
}
