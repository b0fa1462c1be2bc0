//! Does the next leader hold to what the brake of the last one counted?

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::ListParams;
use tokio::time::sleep;

use crate::scene::{DR, PROGRAM, VS, approve_deletion, clear_all_bindings};
use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::replicas::Replicas;
use crate::support::rig::Rig;
use crate::support::stack::{CATALOG, PATIENCE, condition};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    the_share_of_removals_is_handed_from_leader_to_leader(30)
];

/// So many bindings, of which two may lose their objects in ten minutes.
const SIZE: usize = 10;

const SYNCED: &str = "True Synced";
const REMOVED: &str = "False Removed";
const HELD: &str = "False DeletionHeld";

struct World<'a> {
    rig: &'a Rig,
    catalog: Catalog,
    fleet: Fleet,
}

async fn the_share_of_removals_is_handed_from_leader_to_leader(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "handover", CATALOG).await?;
    let flags = ["--period", "2s", "--register=off"];
    let program = Path::new(PROGRAM);
    let replicas = Replicas::start(rig, "handover", program, &catalog.url, &flags).await?;
    // The share is of all bindings: none of another test may count.
    clear_all_bindings(rig).await?;
    let fleet = Fleet::programmed(rig, &catalog, "handover", SIZE).await?;
    let world = World {
        rig,
        catalog,
        fleet,
    };

    // One leader uses the share up.
    let first = replicas.leader().await?;
    world.take_out(0..2).await?;
    world
        .settles(&[REMOVED, REMOVED, SYNCED, SYNCED, SYNCED])
        .await?;

    // The next one knows of it, though it saw none of these go by its hand.
    replicas.kill(&[first]).await?;
    let second = replicas.leader().await?;
    ensure!(second != first, "the dead one leads");
    world.take_out(2..5).await?;
    world.settles(&[REMOVED, REMOVED, HELD, HELD, HELD]).await?;

    // So does one that was started since.
    replicas.revive(first).await?;
    replicas.end(second).await?;
    ensure!(replicas.leader().await? == first, "the ended one leads");
    world.settles(&[REMOVED, REMOVED, HELD, HELD, HELD]).await?;

    let held = world.fleet.bindings(rig).get("s3").await?;
    approve_deletion(rig, &held).await?;
    world
        .settles(&[REMOVED, REMOVED, HELD, REMOVED, HELD])
        .await
}

impl World<'_> {
    async fn take_out(&self, services: std::ops::Range<usize>) -> Result<()> {
        for n in services {
            self.catalog.delete(&self.fleet.id(n)).await?;
        }
        Ok(())
    }

    /// Waits until the first bindings say so and all others are in order, and
    /// until it has stayed like that for a few looks at each.
    async fn settles(&self, first: &[&str]) -> Result<()> {
        let looks = async || self.are(first).await;
        wait::until(&format!("{first:?}"), PATIENCE, looks).await?;
        let mark = self.rig.audit_mark().await?;
        sleep(Duration::from_secs(5)).await;
        self.are(first).await?;
        let writes = self.fleet.writes(self.rig, mark).await?;
        let rules = writes.of_rules();
        ensure!(rules.is_empty(), "{rules:?}");
        Ok(())
    }

    /// What the bindings say is so: who lost its objects, and nobody else, has
    /// none.
    async fn are(&self, first: &[&str]) -> Result<()> {
        let bindings = self.fleet.bindings(self.rig);
        let rules = [VS, DR].map(|kind| self.fleet.rules(self.rig, kind));
        for n in 0..SIZE {
            let (name, expected) = (format!("s{n}"), first.get(n).unwrap_or(&SYNCED));
            let said = condition(&bindings.get(&name).await?, "Ready");
            ensure!(said.as_deref() == Some(expected), "{name} is {said:?}");
            for rules in &rules {
                let there = rules.get_opt(&name).await?.is_some();
                ensure!(there == (*expected != REMOVED), "{name}: {there}");
            }
        }
        let all = bindings.list(&ListParams::default()).await?;
        ensure!(all.items.len() == SIZE, "{} bindings", all.items.len());
        Ok(())
    }
}
