//! Everything that can go wrong between catalog and operator, one after the
//! other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use sqlx::{Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use super::super::catalog::Catalog;
use super::super::front::Fault;
use super::super::stack::OPERATOR;
use super::super::wait;
use super::journal::lock;
use super::{KEPT, PATIENCE, RESERVED, STANDBY, World};

/// The kinds of faults, as the report names them.
pub(super) const FAULTS: [&str; 7] = [
    "cut",
    "stall",
    "events twice, late or lost, reports twice",
    "catalog restarted",
    "below the floor",
    "operator killed",
    "backup restored",
];

/// How long a report is waited for that is to come twice.
const LONGEST_WITHOUT_REPORT: Duration = Duration::from_secs(20);

/// What it is called where an operator ends by itself.
const LEASE_LOST: &str = "Lease lost by itself";

impl World<'_> {
    /// One fault after the other until all changes are made.
    pub(super) async fn disturb(&self) -> Result<BTreeMap<&'static str, usize>> {
        let mut chance = fastrand::Rng::with_seed(self.options.seed);
        let mut done = BTreeMap::new();
        // Each kind comes as often as each other.
        let mut kinds: Vec<usize> = Vec::new();
        let mut round = 0;
        self.back_up().await?;
        while !self.over.load(Ordering::Relaxed) {
            if kinds.is_empty() {
                // The changes go on until each kind was there.
                self.all_met.store(round > 0, Ordering::Relaxed);
                kinds = (0..FAULTS.len()).collect();
                chance.shuffle(&mut kinds);
                round += 1;
            }
            let span = Duration::from_millis(chance.u64(50..1_500));
            let kind = kinds.pop().unwrap_or_default();
            match kind {
                0 => self.cut(span).await?,
                1 => {
                    self.front.set(Fault::Hang)?;
                    sleep(span).await;
                }
                2 => {
                    let seed = chance.u64(..);
                    self.cut(Duration::from_millis(10)).await?;
                    self.front.set(Fault::Events { seed })?;
                    let before = self.front.reports_again();
                    sleep(3 * span).await;
                    // Reports are rare: there may have been none in so short a time.
                    let none = || self.front.reports_again() == before;
                    let patience = Instant::now() + LONGEST_WITHOUT_REPORT;
                    while none() && Instant::now() < patience {
                        sleep(Duration::from_millis(50)).await;
                    }
                    // What was left out at the end nobody would ever tell.
                    self.cut(Duration::from_millis(10)).await?;
                }
                3 => {
                    self.catalog.process.kill().await?;
                    sleep(span).await;
                    self.catalog.process.start().await?;
                    self.catalog.ready().await?;
                }
                4 => self.fall_below_the_floor().await?,
                5 => {
                    let operator = &self.operators[round % 2];
                    operator.process.kill().await?;
                    operator.process.start().await?;
                }
                // Rarer than the others: it takes back what was changed.
                _ if round % 3 == 1 => {
                    self.restore().await?;
                    self.back_up().await?;
                }
                _ => continue,
            }
            *done.entry(FAULTS[kind]).or_default() += 1;
            self.front.set(Fault::None)?;
            *done.entry(LEASE_LOST).or_default() += self.revive().await?;
            self.count_resets().await;
            self.journal.expect_no_mistake()?;
            sleep(Duration::from_millis(chance.u64(100..2_000))).await;
        }
        Ok(done)
    }

    /// Starts an operator again that ended since it could not renew its Lease,
    /// as its Pod would: on a machine that is busy enough one may. It ends for
    /// no other reason.
    pub(super) async fn revive(&self) -> Result<usize> {
        let mut ended = 0;
        for operator in &self.operators {
            if operator.process.has_ended().await.is_none() {
                continue;
            }
            let log = operator.process.log();
            let text = std::fs::read_to_string(&log)?;
            let last = text.lines().rev().find(|line| line.starts_with("error: "));
            ensure!(
                last.is_some_and(|line| line.contains("no longer leads")),
                "an operator ended: {last:?}; see {}",
                log.display()
            );
            operator.process.start().await?;
            ended += 1;
        }
        Ok(ended)
    }

    /// Adds what the operators say of streams that could not be resumed. What
    /// one counted last before its end is lost.
    pub(super) async fn count_resets(&self) {
        for ((operator, listen), counted) in self
            .operators
            .iter()
            .zip([OPERATOR, STANDBY])
            .zip(&self.resets)
        {
            let url = format!("http://{listen}/metrics");
            let Ok(samples) = operator.metrics(&url).await else {
                continue;
            };
            let lists = "catalog_mesh_catalog_lists_total";
            let now = samples
                .sum(lists, &["reason=\"reset\""])
                .unwrap_or_default() as u64;
            let mut counted = lock(counted);
            // A process that is new counts from nothing.
            let before = Some(counted.last).filter(|last| *last <= now);
            counted.all += now - before.unwrap_or_default();
            counted.last = now;
        }
    }

    async fn cut(&self, span: Duration) -> Result<()> {
        self.front.set(Fault::Refuse)?;
        sleep(span).await;
        self.front.set(Fault::None)
    }

    /// Keeps the operators away until the catalog has forgotten where they are.
    async fn fall_below_the_floor(&self) -> Result<()> {
        let until = self.made.load(Ordering::Relaxed) + 2 * KEPT;
        self.front.set(Fault::Refuse)?;
        while self.made.load(Ordering::Relaxed) < until && !self.over.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn back_up(&self) -> Result<()> {
        let _turn = self.turn.write().await;
        let names = self.records().await?.into_keys().collect();
        self.with_the_catalog_down(async |admin| {
            for sql in [
                "DROP DATABASE IF EXISTS backup",
                "CREATE DATABASE backup TEMPLATE chaos",
            ] {
                sqlx::query(sql).execute(&mut *admin).await?;
            }
            Ok(())
        })
        .await?;
        lock(&self.model).backed_up(names);
        Ok(())
    }

    /// Restores the backup. It never holds those that no owner changes: what is
    /// made for them by now has to stay from now on, whatever happens.
    async fn restore(&self) -> Result<()> {
        for (name, millis) in RESERVED.into_iter().zip(1_000..) {
            self.insist(|| self.enter(name, millis, 0)).await?;
        }
        wait::until("what is made for the reserved", PATIENCE, async || {
            sleep(Duration::from_millis(200)).await;
            self.revive().await?;
            let (records, found) = (self.records().await?, self.found().await?);
            for name in RESERVED {
                found.made(name, &records[name])?;
            }
            Ok(())
        })
        .await?;
        let _turn = self.turn.write().await;
        let (records, found) = (self.records().await?, self.found().await?);
        // What is not as its record says may be on its way out, by its owner's
        // last word but one.
        let made = records
            .iter()
            .filter_map(|(name, record)| Some((name.clone(), found.made(name, record).ok()?)))
            .collect();
        let before: BTreeSet<_> = records.into_keys().collect();
        lock(&self.model).restores(&before, made);
        self.with_the_catalog_down(async |admin| {
            for sql in [
                "DROP DATABASE chaos",
                "CREATE DATABASE chaos TEMPLATE backup",
            ] {
                sqlx::query(sql).execute(&mut *admin).await?;
            }
            Catalog::restore_epoch(self.rig.folder(), &self.database).await
        })
        .await?;
        let after = self.records().await?.into_keys().collect();
        lock(&self.model).expect_present(&after)
    }

    /// Nobody may be changing the catalog.
    async fn with_the_catalog_down(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<()>,
    ) -> Result<()> {
        self.catalog.process.kill().await?;
        let url = self.database.replace("/chaos", "/postgres");
        let mut admin = PgConnection::connect(&url).await?;
        // A killed server's sessions take a moment to end.
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ('chaos', 'backup')")
            .execute(&mut admin)
            .await?;
        let worked = work(&mut admin).await;
        self.catalog.process.start().await?;
        self.catalog.ready().await?;
        worked
    }
}
