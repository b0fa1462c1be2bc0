//! Everything is in force and nothing changes: what does the operator still do?

use anyhow::Result;

use crate::bed::{Bed, PERIOD};
use crate::report::{Goal, Report};

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let running = bed.in_force(PERIOD).await?;
    // Of ten thousand first looks the Events come for a while longer.
    bed.calm(&running).await?;
    let span = bed.options.span();
    eprintln!("{} s of nothing ...", span.as_secs());
    let (mark, before) = (bed.mark().await?, running.usage()?);
    tokio::time::sleep(span).await;
    let (after, asked) = (running.usage()?, bed.requests(mark).await?);
    running.stop().await?;

    let writes = asked.writes() - asked.writes_of("leases");
    report.add("writes but the Lease's", "", writes as f64);
    report.goal("writes but the Lease's", Goal::AtMost(0.0));
    report.add("reads that are not watches", "", asked.reads() as f64);
    let used = after.cpu_seconds - before.cpu_seconds;
    // As Kubernetes counts CPU: thousandths of a core.
    report.add("CPU", "m", used * 1000.0 / span.as_secs_f64());
    report.goal("CPU", Goal::AtMost(5.0));
    report.add("memory", "MiB", after.rss_mib);
    report.add("memory at its peak", "MiB", after.peak_rss_mib);
    report.note(format!(
        "{} s with --period {PERIOD}, its requests to the catalog included",
        span.as_secs()
    ));
    Ok(report)
}
