//! How often is the catalog asked in a second?

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::scene::{PROGRAM, clear_all_bindings};
use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::front::{Fault, Front};
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR};
use crate::support::tools::repository;

crate::tests![
    ; alone:
    a_start_without_events_asks_no_faster_than_it_may
];

const FRONT: &str = "127.0.0.1:9081";
const SIZE: usize = 40;
const PER_SECOND: u32 = 5;

async fn a_start_without_events_asks_no_faster_than_it_may(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "paced", CATALOG).await?;
    // The bindings that other tests left would be asked for as well.
    let program = Path::new(PROGRAM);
    let before = stack::operator(rig, "before-paced", program, &catalog.url, &[]).await?;
    clear_all_bindings(rig).await?;
    before.process.kill().await?;

    let front = Front::start(FRONT, &catalog.url)?;
    // So each binding needs a read of its own.
    front.set(Fault::NoEvents)?;
    let fleet = Fleet::prepare(rig, "paced", SIZE).await?;
    fleet.put_records(&catalog, "5s").await?;
    fleet.bind(rig).await?;

    let begun = Instant::now();
    let per_second = PER_SECOND.to_string();
    let args = [
        "run",
        "--catalog-url",
        &front.url,
        "--catalog-qps",
        &per_second,
        "--listen",
        OPERATOR,
        // Nobody is looked at twice.
        "--period",
        "10m",
        "--register=off",
    ];
    let operator = rig.operator("operator-paced", program, args).await?;
    fleet.wait_for(rig, "Ready", "True Synced").await?;
    let seen = front.since(begun);
    eprintln!("paced: {} requests in {:?}", seen.len(), begun.elapsed());

    // Beside a read that hangs a second one of it may go, out of turn.
    let mut read = BTreeSet::new();
    let ids: BTreeSet<_> = (0..SIZE).map(|i| fleet.id(i)).collect();
    let in_turn = seen.iter().filter(|request| {
        let of = request.path.rsplit_once("/services/");
        let id = of.map(|(_, id)| id).filter(|id| ids.contains(*id));
        id.is_none_or(|id| read.insert(id))
    });
    // What arrived by then was sent by then, and nothing before the start, so
    // that a slow machine makes it fewer.
    for (before, request) in in_turn.enumerate() {
        let span = request.at - begun;
        let allowed = f64::from(PER_SECOND) * (span.as_secs_f64() + 1.0);
        ensure!(
            (before + 1) as f64 <= allowed,
            "{} requests within {span:?}: {seen:?}",
            before + 1
        );
    }
    // Those that would have waited for their turn went together.
    ensure!(read.len() < SIZE, "each was read by itself: {seen:?}");
    fleet.clear(rig).await?;
    drop(operator);
    Ok(())
}
