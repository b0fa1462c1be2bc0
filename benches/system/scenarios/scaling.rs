//! A Service is scaled: how long until the catalog lists the endpoints that
//! serve now? One Service after the other at a constant rate, whatever the
//! operator does. Beside it, a report of the same list by a bare client.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::change::PERIOD;
use crate::bed::{Bed, settle};
use crate::fleet::Fleet;
use crate::load::open_loop;
use crate::report::{Goal, Report};
use crate::support::workload;

/// How many a second at most: the catalog is asked for each all the while.
const RATE: u32 = 20;

/// Between two looks into the catalog, and so how exact a time is.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long one may take.
const LAST: Duration = Duration::from_secs(60);

/// Where the endpoints of this program are from here on.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);

/// Adds to the report. Leaves no operator running; the bindings and the
/// endpoints stay.
pub(super) async fn measure(bed: &Bed, report: &mut Report) -> Result<()> {
    let (rate, size) = (bed.options.rate().min(RATE), bed.ours.names.len());
    let most = (f64::from(rate) * bed.options.span().as_secs_f64()) as usize;
    let count = most.min(size);

    let running = bed.in_force(PERIOD).await?;
    eprintln!("{count} reports by a bare client, {rate}/s ...");
    let bare = open_loop(rate, count, async |turn| {
        let since = Instant::now();
        report_bare(bed, turn).await?;
        is_listed(bed, turn, true, since).await
    })
    .await?;

    eprintln!("{count} Services are scaled, {rate}/s ...");
    settle().await;
    let times = open_loop(rate, count, async |turn| {
        let (client, namespace) = (&bed.rig.client, &bed.ours.namespace);
        let endpoint = [(address(turn)?.to_string(), true)];
        workload::serve_by_hand(client, namespace, &bed.ours.names[turn], &endpoint).await?;
        is_listed(bed, turn, false, Instant::now()).await
    })
    .await?;
    running.stop().await?;

    report.add_times("bare report to the catalog's list", &bare);
    report.add_times("API server's answer to the catalog's list", &times);
    report.goal(
        "API server's answer to the catalog's list max",
        Goal::NeverAbove(1000.0),
    );
    report.note(format!(
        "{count} Services get an endpoint, {rate}/s; the catalog's list is looked at every {LOOK_EVERY:?}"
    ));
    Ok(())
}

/// The endpoint of the Service whose turn it is.
fn address(turn: usize) -> Result<Ipv4Addr> {
    Ok(Ipv4Addr::from_bits(FIRST.to_bits() + u32::try_from(turn)?))
}

/// Tells the catalog of it as another cluster would.
async fn report_bare(bed: &Bed, turn: usize) -> Result<()> {
    let id = Fleet::catalog_id(&bed.ours.names[turn]);
    let body = json!({
        "writer": {"cluster": "bare", "epoch": 1, "sequence": turn + 1},
        "endpoints": [{"address": address(turn)?, "port": 8080, "ready": true}],
    });
    bed.catalog.report_endpoints(&id, &body).await
}

/// How long it takes until a cluster's endpoint stands in the catalog: that of
/// the bare client, or any other.
async fn is_listed(bed: &Bed, turn: usize, bare: bool, since: Instant) -> Result<Duration> {
    let id = Fleet::catalog_id(&bed.ours.names[turn]);
    let address = json!(address(turn)?);
    let is_it = |of: &Value| of["address"] == address && (of["cluster"] == "bare") == bare;
    while since.elapsed() < LAST {
        let record = bed.catalog.get(&id).await?;
        if record["endpoints"]
            .as_array()
            .is_some_and(|all| all.iter().any(is_it))
        {
            return Ok(since.elapsed());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    bail!("{id} is not listed after {LAST:?}")
}
