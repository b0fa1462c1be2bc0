//! Where the catalog is kept: PostgreSQL, or an SQLite file. Does IO.
//!
//! The statements are the same for both but for the few in `dialect`. Each
//! write is one transaction that takes the next revision, changes the rows
//! and adds the event. Writers take turns until their commit is visible, so
//! the order of revisions is the order of commits, and whoever has read up to
//! a revision never finds a lower one later.

pub(crate) mod dialect;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod reports;
pub(crate) mod services;

use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyPool, Executor, Row, Transaction};
use tokio::sync::{Mutex, MutexGuard, Notify};

use dialect::Dialect;

/// Why the store did not answer. Carries no credential of the database URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The URL is none that we know.
    #[error("--database-url must start with sqlite:// or postgres://")]
    UnknownDatabase,
    /// The database refused, or could not be reached.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The database did not answer in time.
    #[error("the database does not answer")]
    Silent,
    /// The tables could not be brought to this version.
    #[error("the migration failed")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A stored record is not what we wrote.
    #[error("a stored record is damaged")]
    Damaged(#[from] serde_json::Error),
}

/// The catalog's database.
pub(crate) struct Store {
    pool: AnyPool,
    dialect: Dialect,
    /// One writer of this process at a time. The database would order them
    /// too, but each would hold a connection while it waits.
    turn: Mutex<()>,
    /// Rung after each commit of this process.
    pub(crate) written: Notify,
}

/// A place in the catalog's history, and how far back it reaches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct State {
    /// Changes when a backup is restored.
    pub(crate) epoch: String,
    /// Revision of the newest change.
    pub(crate) revision: i64,
    /// Everything after this revision can still be replayed.
    pub(crate) floor: i64,
}

/// A transaction that has its turn to write.
struct Writing<'a> {
    tx: Transaction<'static, Any>,
    store: &'a Store,
    _turn: MutexGuard<'a, ()>,
}

impl Store {
    /// Connects, and brings the tables to this version.
    pub(crate) async fn open(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let dialect = Dialect::of(url).ok_or(StoreError::UnknownDatabase)?;
        let pool = AnyPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(5))
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    connection.execute(dialect.session_settings()).await?;
                    Ok(())
                })
            })
            .connect(&dialect.connect_url(url))
            .await?;
        dialect.migrator().run(&pool).await?;
        Ok(Self {
            pool,
            dialect,
            turn: Mutex::new(()),
            written: Notify::new(),
        })
    }

    /// Whether changes of other processes are announced on a channel of the
    /// database.
    pub(crate) fn announces_changes(&self) -> bool {
        self.dialect == Dialect::Postgres
    }

    /// Where the catalog stands.
    pub(crate) async fn state(&self) -> Result<State, StoreError> {
        let row = sqlx::query("SELECT epoch, revision, floor FROM catalog_state")
            .fetch_one(&self.pool)
            .await?;
        Ok(State {
            epoch: row.try_get(0)?,
            revision: row.try_get(1)?,
            floor: row.try_get(2)?,
        })
    }

    async fn begin(&self) -> Result<Writing<'_>, StoreError> {
        let turn = self.turn.lock().await;
        let mut tx = self.pool.begin_with(self.dialect.begin()).await?;
        if let Some(take_turn) = self.dialect.take_turn() {
            sqlx::query(take_turn).execute(&mut *tx).await?;
        }
        Ok(Writing {
            tx,
            store: self,
            _turn: turn,
        })
    }
}

impl Writing<'_> {
    /// Takes the next revision; the event of that revision must follow.
    async fn next_revision(&mut self) -> Result<(String, i64), StoreError> {
        let row = sqlx::query(
            "UPDATE catalog_state SET revision = revision + 1 RETURNING epoch, revision",
        )
        .fetch_one(&mut *self.tx)
        .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// Gives the turn back with nothing written, and passes an answer on.
    async fn abandon<T>(self, answer: T) -> Result<T, StoreError> {
        self.tx.rollback().await?;
        Ok(answer)
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await?;
        self.store.written.notify_one();
        Ok(())
    }
}

/// Milliseconds since 1970.
fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
