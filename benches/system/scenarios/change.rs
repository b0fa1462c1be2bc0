//! A change is committed in the catalog: how long until the API server tells
//! of the VirtualService that comes of it? Changes arrive at a constant rate,
//! whatever the operator does. Beside it, two sequential bare writes at the
//! same rate. The same for services that are taken out; and the other way, how
//! long until the catalog knows of a change in the cluster.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::{deregistration, scaling};
use crate::bed::{Bed, settle};
use crate::costs::Costs;
use crate::load::open_loop;
use crate::raw::{Raw, Template};
use crate::report::{Goal, Report, p99};
use crate::sightings::{Commit, Sightings};

/// So long that no change arrives by it, but by the catalog's events alone.
pub(super) const PERIOD: &str = "10m";

const PLOT: &str = "From a change in the catalog to the mesh";

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let (rate, span) = (bed.options.rate(), bed.options.span());
    let changes = (f64::from(rate) * span.as_secs_f64()) as usize;
    let size = bed.ours.names.len();
    // The timeout tells the changes of one binding apart.
    ensure!(
        changes / size < 50,
        "{changes} changes are too many for {size} bindings"
    );
    bed.in_force(PERIOD).await?.stop().await?;
    let template = Template::learn(&bed.ours).await?;

    eprintln!("{changes} pairs of bare writes, {rate}/s ...");
    let bound = bed.raw.bind().await?;
    let payloads: Vec<_> = bound
        .iter()
        .map(|bound| template.payload(&bed.raw, bound))
        .collect::<Result<_>>()?;
    let raw = Raw::new(&bed.bare, &bed.raw.namespace);
    raw.write_all(&payloads, 8).await?;
    settle().await;
    let spent = Costs::begin(bed).await?;
    let pairs = raw.change_all(&payloads, rate, changes).await?;
    let costs = spent.end(bed).await?;
    bed.raw.clear().await?;
    report.add_times("two bare writes", &pairs);
    costs.tell(&mut report, "bare", "change", changes as f64);

    eprintln!("{changes} changes in the catalog, {rate}/s ...");
    let running = bed.in_force(PERIOD).await?;
    let sightings = Sightings::watch(bed);
    bed.calm(&running).await?;
    let (mark, before) = (bed.mark().await?, running.usage()?);
    let spent = Costs::begin(bed).await?;
    let committed = open_loop(rate, changes, async |turn| {
        let name = &bed.ours.names[turn % size];
        let seconds = 2 + turn / size;
        let errors = u32::try_from(seconds)?;
        bed.catalog
            .put(&bed.ours.record(name, errors, errors))
            .await?;
        Ok(Commit {
            name: name.clone(),
            seconds: errors,
            at: Instant::now(),
        })
    })
    .await?;
    let times = sightings.times(committed).await?;
    let costs = spent.end(bed).await?;
    let (after, asked) = (running.usage()?, bed.requests(mark).await?);
    running.stop().await?;

    report.add_times("catalog's commit to the watch event", &times);
    report.draw(PLOT, "two bare writes", &pairs);
    report.draw(PLOT, "commit to watch event", &times);
    let asked_for = 1.5 * p99(&pairs) + 20.0;
    let share = "p99 to 1.5 × that of two bare writes and 20 ms";
    report.add(share, "", p99(&times) / asked_for);
    report.goal(share, Goal::AtMost(1.0));
    report.goal(
        "catalog's commit to the watch event max",
        Goal::AtMost(1000.0),
    );
    let changes = changes as f64;
    report.add("writes per change", "", asked.writes() as f64 / changes);
    asked.tell(&mut report, "change", changes);
    report.add("answers 4xx and 5xx", "", asked.answered(400..600) as f64);
    report.add(
        "CPU per change",
        "ms",
        (after.cpu_seconds - before.cpu_seconds) * 1000.0 / changes,
    );
    costs.tell(&mut report, "beside it", "change", changes);
    report.note(format!(
        "{rate} changes/s for {} s, one in {} s for each binding; each changes both objects",
        span.as_secs(),
        size as f64 / f64::from(rate)
    ));
    deregistration::measure(bed, &template, &mut report).await?;
    // The next scenario finds the entries as they were.
    bed.ours.enter(&bed.catalog).await?;
    scaling::measure(bed, &mut report).await?;
    Ok(report)
}
