//! Everything is in force, and the operator starts again: how long until it
//! has verified every binding? Beside it, the bare lists of what it watches.

use anyhow::Result;

use crate::bed::{Bed, PERIOD, settle};
use crate::raw::list_all;
use crate::report::{Goal, Report};

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let size = bed.ours.names.len();
    bed.in_force(PERIOD).await?.stop().await?;
    for round in 1..=bed.options.runs {
        eprintln!("warm restart, round {round} of {}", bed.options.runs);
        settle().await;
        let lists = list_all(&bed.bare).await?.as_secs_f64();
        let mark = bed.mark().await?;
        let running = bed.operator(PERIOD).await?;
        let listed = (running.listed().await? - running.started).as_secs_f64();
        let verified = (running.verified(size).await? - running.started).as_secs_f64();
        let looks = running.looks().await?;
        let (usage, asked) = (running.usage()?, bed.requests(mark).await?);
        running.stop().await?;

        report.add("all verified", "s", verified);
        report.add("of it until the first lists were complete", "s", listed);
        report.add("looks per binding", "", looks / size as f64);
        let writes = asked.writes() - asked.writes_of("leases");
        report.add("writes but the Lease's", "", writes as f64);
        report.add("reads that are not watches", "", asked.reads() as f64);
        report.add("CPU", "s", usage.cpu_seconds);
        report.add("memory at its peak", "MiB", usage.peak_rss_mib);
        report.add("bare lists", "s", lists);
        report.add("ratio to bare lists", "", verified / lists);
    }
    report.goal("writes but the Lease's", Goal::AtMost(0.0));
    report.goal("ratio to bare lists", Goal::AtMost(2.0));
    report.note("bare lists: the five kinds that the operator watches, all at once, unpaged");
    report.note("seen by asking /readyz and /metrics, a tenth of the time apart: 20 to 200 ms");
    Ok(report)
}
