//! Following the catalog. Does IO, on a connection of the stream's own.
//!
//! What is true is read: the events after the position, in the order of their
//! revisions, with the state of the same moment. A notification only says when
//! it is worth looking; one that gets lost costs a second.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Executor as _, Row as _};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::columns;
use super::error::classify;
use super::session::{Limits, Role};
use crate::catalog::error::CatalogError;
use crate::catalog::event::{CatalogEvent, EventKind, EventStream};
use crate::domain::record::CatalogPosition;

/// Longest time between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two looks of a stream that has caught up: a burst of
/// changes is read at once, not by one statement each.
const REST: Duration = Duration::from_millis(25);
/// Longest silence on a stream; the contract says at most 10 s.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);
/// Events read at once.
const CHUNK: i64 = 500;
/// The longest `data` that is read of an event: some hundred bytes say who
/// reported health, and of other events nothing is needed.
const LONGEST_DATA: i32 = 64 * 1024;

/// A place in the catalog's history, and how far back it reaches.
struct State {
    epoch: String,
    revision: i64,
    floor: i64,
}

/// One row of `events`.
struct Change {
    revision: i64,
    kind: EventKind,
}

/// Begins a stream. Fails where the database cannot be read.
pub(super) async fn follow(
    reader: &Role,
    after: Option<&CatalogPosition>,
    limits: Limits,
) -> Result<EventStream, CatalogError> {
    let mut follower = Follower {
        listener: listen(reader, limits).await?,
        at: reader.at.clone(),
        look_deadline: limits.call,
        epoch: String::new(),
        revision: 0,
        pending: VecDeque::new(),
        caught_up: false,
        look_at: Instant::now(),
        bookmark: None,
        over: false,
    };
    let (state, _) = follower.read(i64::MAX).await?;
    follower.resume(after, &state);
    Ok(stream::unfold(follower, Follower::step).boxed())
}

/// A connection that gets the catalog's notifications. Connecting by
/// ourselves first tells why it cannot be done, which a pool would not.
async fn listen(reader: &Role, limits: Limits) -> Result<PgListener, CatalogError> {
    reader.lend().await?.give_back();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(limits.connect)
        .max_lifetime(None)
        .idle_timeout(None)
        .test_before_acquire(false)
        .connect_lazy_with(reader.options());
    let listening = async {
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        listener.execute(reader.settings()).await?;
        listener.listen("catalog_changes").await?;
        Ok(listener)
    };
    match timeout(limits.connect, listening).await {
        Ok(listener) => listener.map_err(|error| reader.failed(&error)),
        Err(_) => Err(reader.failed(&sqlx::Error::PoolTimedOut)),
    }
}

/// One stream.
struct Follower {
    listener: PgListener,
    /// Host and port, for messages.
    at: String,
    look_deadline: Duration,
    epoch: String,
    revision: i64,
    pending: VecDeque<CatalogEvent>,
    /// Whether everything that was there at the last look has been read.
    caught_up: bool,
    /// When the next look is due without a notification.
    look_at: Instant,
    /// When the next bookmark is sent; none before the stream has caught up.
    bookmark: Option<Instant>,
    /// After a failure there is nothing more.
    over: bool,
}

impl Follower {
    fn start(&mut self, now: &State) {
        self.epoch.clone_from(&now.epoch);
        self.revision = now.revision;
    }

    fn resume(&mut self, after: Option<&CatalogPosition>, now: &State) {
        let Some(after) = after else {
            return self.start(now);
        };
        let revision = i64::try_from(after.revision).unwrap_or(i64::MAX);
        let reason = if after.epoch != now.epoch {
            "the token is of another epoch"
        } else if revision < now.floor {
            "the token is below the retention floor"
        } else if revision > now.revision {
            "the token is ahead of the catalog"
        } else {
            self.epoch.clone_from(&after.epoch);
            self.revision = revision;
            return;
        };
        self.reset(now, reason);
    }

    /// The next event, or a failure and the end.
    async fn step(mut self) -> Option<(Result<CatalogEvent, CatalogError>, Self)> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some((Ok(event), self));
            }
            if self.over {
                return None;
            }
            if let Err(error) = self.look().await {
                self.over = true;
                return Some((Err(error), self));
            }
        }
    }

    /// Waits for news where nothing is known to be unread, and reads.
    async fn look(&mut self) -> Result<(), CatalogError> {
        if self.caught_up {
            self.wait().await?;
        }
        self.look_at = Instant::now() + LOOK_EVERY;
        // Whatever was announced until now is found by this look. Nothing
        // bounds what waits here, also while there is much to catch up with.
        while self.listener.next_buffered().is_some() {}
        let (state, changes) = self.read(self.revision).await?;
        if state.epoch != self.epoch || state.revision < self.revision {
            self.reset(&state, "the catalog began a new epoch");
        } else if state.floor > self.revision {
            self.reset(&state, "the stream fell below the retention floor");
        } else if changes.is_empty() && state.revision > self.revision {
            // It would be looked for at once, for ever.
            self.reset(&state, "events of the catalog are missing");
        } else {
            self.pass_on(changes, &state);
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), CatalogError> {
        sleep_until(self.look_at - LOOK_EVERY + REST).await;
        match timeout_at(self.look_at, self.listener.try_recv()).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => {
                return Err(CatalogError::unavailable(format!(
                    "the connection to PostgreSQL at {} was lost",
                    self.at
                )));
            }
            Ok(Err(error)) => return Err(classify(&self.at, &error)),
            Err(_) => {}
        }
        Ok(())
    }

    /// The state, and the first changes after a revision, of one moment.
    async fn read(&mut self, after: i64) -> Result<(State, Vec<Change>), CatalogError> {
        let query = sqlx::query(
            "SELECT c.epoch, c.revision, c.floor,
                    coalesce(e.revision, -1), coalesce(e.type, ''),
                    coalesce(e.service_id, ''),
                    CASE WHEN e.type = 'HealthChanged' AND octet_length(e.data) <= $3
                         THEN e.data ELSE '' END
             FROM catalog_state c LEFT JOIN events e ON e.revision > $1
             ORDER BY e.revision LIMIT $2",
        );
        let query = query.bind(after).bind(CHUNK).bind(LONGEST_DATA);
        let query = query.fetch_all(&mut self.listener);
        let rows = match timeout(self.look_deadline, query).await {
            Ok(rows) => rows.and_then(|rows| match rows.is_empty() {
                true => Err(sqlx::Error::RowNotFound),
                false => decoded(&rows),
            }),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        };
        rows.map_err(|error| classify(&self.at, &error))
    }

    fn pass_on(&mut self, changes: Vec<Change>, state: &State) {
        for change in changes {
            self.revision = change.revision;
            self.push(change.kind);
        }
        self.caught_up = self.revision >= state.revision;
        let due = match self.bookmark {
            None => self.caught_up,
            Some(at) => at <= Instant::now(),
        };
        if due {
            self.push(EventKind::Bookmark);
            self.bookmark = Some(Instant::now() + BOOKMARK_EVERY);
        }
    }

    fn reset(&mut self, now: &State, reason: &str) {
        self.start(now);
        self.caught_up = true;
        self.bookmark = Some(Instant::now() + BOOKMARK_EVERY);
        self.push(EventKind::Reset {
            reason: reason.to_owned(),
        });
    }

    fn push(&mut self, kind: EventKind) {
        let position = CatalogPosition {
            epoch: self.epoch.clone(),
            revision: self.revision.unsigned_abs(),
        };
        self.pending.push_back(CatalogEvent { position, kind });
    }
}

/// Each row has the state, and all but those of an empty answer an event.
fn decoded(rows: &[sqlx::postgres::PgRow]) -> Result<(State, Vec<Change>), sqlx::Error> {
    let mut state = State {
        epoch: String::new(),
        revision: 0,
        floor: 0,
    };
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        state = State {
            epoch: row.try_get(0)?,
            revision: row.try_get(1)?,
            floor: row.try_get(2)?,
        };
        let revision = row.try_get(3)?;
        if revision >= 0 {
            let kind = columns::event(row.try_get(4)?, row.try_get(5)?, row.try_get(6)?);
            changes.push(Change { revision, kind });
        }
    }
    Ok((state, changes))
}
