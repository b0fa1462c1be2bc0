//! The events after a revision, how long they are kept, and epochs. Does IO.

use std::time::Duration;

use sqlx::Row;

use super::{State, Store, StoreError, now};

/// Revisions that are forgotten at once.
const MOST_AT_ONCE: i64 = 20_000;

/// One change of the catalog.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Its revision.
    pub(crate) revision: i64,
    /// `ServiceRegistered` and its like.
    pub(crate) event: String,
    /// The event's data, JSON.
    pub(crate) data: String,
}

/// How much of the history is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Most revisions.
    pub(crate) revisions: i64,
    /// Oldest event.
    pub(crate) age: Duration,
}

impl Store {
    /// The state, and the first changes after a revision, read at one moment.
    pub(crate) async fn changes_after(
        &self,
        revision: i64,
        limit: i64,
    ) -> Result<(State, Vec<Change>), StoreError> {
        let rows = sqlx::query(
            "SELECT c.epoch, c.revision, c.floor,
                    coalesce(e.revision, -1), coalesce(e.type, ''), coalesce(e.data, '')
             FROM catalog_state c LEFT JOIN events e ON e.revision > $1
             ORDER BY e.revision LIMIT $2",
        )
        .bind(revision)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let mut state = State::default();
        let mut changes = Vec::with_capacity(rows.len());
        for row in rows {
            state = State {
                epoch: row.try_get(0)?,
                revision: row.try_get(1)?,
                floor: row.try_get(2)?,
            };
            let revision = row.try_get(3)?;
            if revision >= 0 {
                changes.push(Change {
                    revision,
                    event: row.try_get(4)?,
                    data: row.try_get(5)?,
                });
            }
        }
        Ok((state, changes))
    }

    /// Forgets what is older than the retention, and raises the floor; no more than
    /// so many revisions at once, since others wait meanwhile. Says whether that was all.
    pub(crate) async fn forget(&self, retention: Retention) -> Result<bool, StoreError> {
        let mut writing = self.begin().await?;
        let oldest = now() - i64::try_from(retention.age.as_millis()).unwrap_or(i64::MAX);
        let (floor, is_all): (i64, bool) = sqlx::query(
            "SELECT revision, floor, (SELECT coalesce(max(revision), 0) FROM events WHERE at < $1),
                    (SELECT coalesce(min(revision), 0) FROM events)
             FROM catalog_state",
        )
        .bind(oldest)
        .try_map(|row: sqlx::any::AnyRow| {
            let (revision, floor, aged): (i64, i64, i64) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let first: i64 = row.try_get(3)?;
            let wanted = aged.max(revision.saturating_sub(retention.revisions));
            let wanted = wanted.max(floor);
            // A new epoch raises the floor, and what is below is there still.
            let from = if first > 0 {
                floor.min(first - 1)
            } else {
                floor
            };
            let next = wanted.min(from.saturating_add(MOST_AT_ONCE));
            Ok((next, next >= wanted))
        })
        .fetch_one(&mut *writing.tx)
        .await?;
        for statement in [
            "DELETE FROM events WHERE revision <= $1",
            "DELETE FROM service_versions WHERE to_revision <= $1",
            "UPDATE catalog_state SET floor = $1 WHERE floor < $1",
        ] {
            sqlx::query(statement)
                .bind(floor)
                .execute(&mut *writing.tx)
                .await?;
        }
        writing.commit().await?;
        Ok(is_all)
    }

    /// Begins a new epoch: every position that readers hold is void.
    pub(crate) async fn new_epoch(&self) -> Result<State, StoreError> {
        let mut writing = self.begin().await?;
        let row = sqlx::query(self.dialect.new_epoch())
            .fetch_one(&mut *writing.tx)
            .await?;
        let revision = row.try_get(1)?;
        let state = State {
            epoch: row.try_get(0)?,
            revision,
            floor: revision,
        };
        writing.commit().await?;
        Ok(state)
    }
}
