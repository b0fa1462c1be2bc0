//! Bindings, Services and catalog entries exist, and the operator starts: how
//! long until all are Ready? Beside it, a bare client makes the same four
//! writes for as many bindings of another namespace.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use crate::bed::{Bed, PATIENCE, PERIOD, settle};
use crate::costs::Costs;
use crate::raw::{Payload, Raw, Template, WRITES};
use crate::ready::Readiness;
use crate::report::{Goal, Report, median};

pub(super) async fn run(bed: &Bed) -> Result<Report> {
    let mut report = Report::new();
    let mut rates = Rates::default();
    let mut template = None;
    for round in 1..=bed.options.runs {
        eprintln!("cold start, round {round} of {}", bed.options.runs);
        rates.ours.push(ours(bed, &mut report).await?);
        let template = match &template {
            Some(template) => template,
            None => template.insert(Template::learn(&bed.ours).await?),
        };
        for in_flight in &bed.options.in_flight {
            let rate = bare(bed, &mut report, template, *in_flight).await?;
            rates.raw.entry(*in_flight).or_default().push(rate);
        }
    }
    rates.compare(&mut report);
    report.note(
        "bare: finalizer, DestinationRule, VirtualService and status of as many bindings, \
         by one client of the same account; bindings/s counts from the start of the process",
    );
    Ok(report)
}

/// One start of the operator; bindings per second.
async fn ours(bed: &Bed, report: &mut Report) -> Result<f64> {
    let size = bed.ours.names.len();
    bed.ours.clear().await?;
    bed.ours.bind().await?;
    settle().await;
    let mark = bed.mark().await?;
    let mut ready = Readiness::watch(&bed.ours);
    let spent = Costs::begin(bed).await?;
    let running = bed.operator(PERIOD).await?;
    let listed = running.listed().await? - running.started;
    let all = ready.wait(size, PATIENCE).await? - running.started;
    let (usage, looks) = (running.usage()?, running.looks().await?);
    let costs = spent.end(bed).await?;
    let asked = bed.requests(mark).await?;
    running.stop().await?;

    let (size, took) = (size as f64, all.as_secs_f64());
    report.add("all Ready", "s", took);
    report.add(
        "of it until the first lists were complete",
        "s",
        listed.as_secs_f64(),
    );
    report.add("bindings", "/s", size / took);
    report.add("writes", "/s", asked.writes() as f64 / took);
    report.add("writes per binding", "", asked.writes() as f64 / size);
    report.add("of it Events", "", asked.writes_of("events") as f64 / size);
    report.add("looks per binding", "", looks / size);
    report.add("reads per binding", "", asked.reads() as f64 / size);
    report.add("answers 429", "", asked.answered(429..430) as f64);
    report.goal("answers 429", Goal::AtMost(0.0));
    report.add("answers 4xx and 5xx", "", asked.answered(400..600) as f64);
    report.add("CPU per binding", "ms", usage.cpu_seconds * 1000.0 / size);
    costs.tell(report, "beside it", "binding", size);
    report.add("memory at its peak", "MiB", usage.peak_rss_mib);
    Ok(size / took)
}

/// The same writes by the bare client; bindings per second.
async fn bare(
    bed: &Bed,
    report: &mut Report,
    template: &Template,
    in_flight: usize,
) -> Result<f64> {
    bed.raw.clear().await?;
    let bound = bed.raw.bind().await?;
    let payloads: Vec<Payload> = bound
        .iter()
        .map(|bound| template.payload(&bed.raw, bound))
        .collect::<Result<_>>()?;
    settle().await;
    // The same watch as beside the operator, for it costs the server as well.
    let mut ready = Readiness::watch(&bed.raw);
    let spent = Costs::begin(bed).await?;
    let took: Duration = Raw::new(&bed.bare, &bed.raw.namespace)
        .write_all(&payloads, in_flight)
        .await?;
    ready.wait(bound.len(), PATIENCE).await?;
    let costs = spent.end(bed).await?;
    costs.tell(report, "bare", "binding", bound.len() as f64);
    drop(ready);
    // The operator must not see any of it.
    bed.raw.clear().await?;
    Ok(bound.len() as f64 / took.as_secs_f64())
}

/// Bindings per second, one value for each round.
#[derive(Default)]
struct Rates {
    ours: Vec<f64>,
    /// By the number of bindings in flight.
    raw: BTreeMap<usize, Vec<f64>>,
}

impl Rates {
    fn compare(&self, report: &mut Report) {
        for (in_flight, rates) in &self.raw {
            for rate in rates {
                report.add(
                    &format!("bare, {in_flight} in flight: bindings"),
                    "/s",
                    *rate,
                );
            }
        }
        let best = self
            .raw
            .values()
            .max_by(|a, b| median(a).total_cmp(&median(b)));
        let Some(best) = best else { return };
        for (ours, raw) in self.ours.iter().zip(best) {
            report.add("bare at its best: writes", "/s", raw * WRITES as f64);
            report.add("ratio to bare at its best", "", ours / raw);
        }
        report.goal("ratio to bare at its best", Goal::AtLeast(0.8));
    }
}
