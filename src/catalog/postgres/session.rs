//! Who lends connections to the database? A bounded number for each role; an
//! idle one is used again while it is young and answers. Does IO.
//!
//! sqlx has a pool, which tries again by itself until its time is up, and
//! then no longer knows why there is no connection.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::error::classify;
use super::url::Target;
use crate::catalog::error::CatalogError;

/// Most connections of a role at once; a call that finds none waits.
const PLACES: usize = 4;
/// How long an idle connection is used again.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How long an idle connection may take to show that it is alive.
const PING: Duration = Duration::from_secs(1);

/// How long things may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Opening a connection, TLS and authentication included.
    pub(super) connect: Duration,
    /// A call.
    pub(super) call: Duration,
    /// A list of all services.
    pub(super) list: Duration,
    /// The beginning of a stream.
    pub(super) head: Duration,
}

/// What a session is set up with.
const READS: &str = "SET default_transaction_read_only = on;
    -- Rows that a policy hides would look like services that are gone.
    SET row_security = off;";
const REPORTS: &str = "SET row_security = off;";

/// The connections of one role.
pub(super) struct Role {
    options: PgConnectOptions,
    /// Host and port, for messages.
    pub(super) at: String,
    settings: String,
    connect_timeout: Duration,
    places: Semaphore,
    idle: Mutex<Vec<(Instant, PgConnection)>>,
}

/// A connection on loan. It is closed unless it is given back, so one that was
/// left in the midst of something is never used again.
pub(super) struct Lent<'a> {
    pub(super) connection: PgConnection,
    role: &'a Role,
    _place: SemaphorePermit<'a>,
}

impl Role {
    /// Who reads.
    pub(super) fn reader(target: Target, limits: Limits) -> Self {
        Self::new(target, limits, READS)
    }

    /// Who writes reports.
    pub(super) fn reporter(target: Target, limits: Limits) -> Self {
        Self::new(target, limits, REPORTS)
    }

    fn new(target: Target, limits: Limits, settings: &str) -> Self {
        // The server gives up a little before we do, so that its reason arrives.
        let most = limits.call.as_millis() * 4 / 5;
        Self {
            options: target.options,
            at: target.at,
            settings: format!(
                "SET statement_timeout = {most}; SET lock_timeout = {most};
                 SET idle_in_transaction_session_timeout = {most}; {settings}"
            ),
            connect_timeout: limits.connect,
            places: Semaphore::new(PLACES),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// A connection that is ready for statements.
    pub(super) async fn lend(&self) -> Result<Lent<'_>, CatalogError> {
        let place = self.places.acquire().await;
        let place = place.map_err(|_| CatalogError::unavailable("the connections are closed"))?;
        while let Some(mut connection) = self.take_idle() {
            if let Ok(Ok(())) = timeout(PING, connection.ping()).await {
                return Ok(self.lent(connection, place));
            }
        }
        Ok(self.lent(self.connect().await?, place))
    }

    fn lent<'a>(&'a self, connection: PgConnection, place: SemaphorePermit<'a>) -> Lent<'a> {
        Lent {
            connection,
            role: self,
            _place: place,
        }
    }

    async fn connect(&self) -> Result<PgConnection, CatalogError> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            connection.execute(self.settings()).await?;
            Ok(connection)
        };
        match timeout(self.connect_timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(_) => Err(self.failed(&sqlx::Error::PoolTimedOut)),
        }
    }

    /// What a connection is set up with: numbers and constants of ours.
    pub(super) fn settings(&self) -> AssertSqlSafe<String> {
        AssertSqlSafe(self.settings.clone())
    }

    /// How a connection is opened, but for its settings.
    pub(super) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// What a failure of one of this role's connections means.
    pub(super) fn failed(&self, error: &sqlx::Error) -> CatalogError {
        classify(&self.at, error)
    }

    fn take_idle(&self) -> Option<PgConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(since, _)| since.elapsed() < KEPT_FOR);
        idle.pop().map(|(_, connection)| connection)
    }
}

impl Lent<'_> {
    /// For the next call; only after everything was read that was asked for.
    pub(super) fn give_back(self) {
        let mut idle = self
            .role
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        idle.push((Instant::now(), self.connection));
    }
}
