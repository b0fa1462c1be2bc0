//! Who keeps what is known of the catalog up to date? One task, which lists
//! once, follows the events from there, and reads again what they name. It
//! never gives up, and no failure makes it forget anything.

mod ask;
#[cfg(test)]
mod tests;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, sleep_until};

use ask::{Listed, Reads, list, read};

use super::Catalog;
use super::error::CatalogError;
use super::event::{CatalogEvent, EventKind, EventStream};
use super::known::Known;
use super::known::state::WhyList;
use crate::domain::names::CatalogServiceId;
use crate::domain::retry::{Backoff, STREAM};
use crate::metrics::catalog::CatalogMetrics;

/// A connection that lasted for so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Streams in a row that failed without saying anything, after which a list
/// finds out what comes next.
const STUCK_AFTER: u32 = 3;

/// Between two complete lists, however many reasons there are for one.
const LISTS: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(10),
};

/// After a complete list another one is taken, a tenth sooner or later: a record
/// that changed, or went, though no event and no revision said so is found by
/// that alone.
const SWEEP: Duration = Duration::from_secs(6 * 60 * 60);

/// Follows the catalog.
pub struct Follower {
    catalog: Arc<dyn Catalog>,
    known: Arc<Known>,
    cluster: Box<dyn Fn() -> Option<String> + Send + Sync>,
    metrics: CatalogMetrics,
    lists_in_a_row: u32,
    listed_at: Option<Instant>,
    /// When it is listed though nothing asks for that.
    sweep_at: Instant,
    /// When the stream that is listened to was opened.
    opened_at: Option<Instant>,
    stuck: u32,
    tries: u32,
}

/// What was asked for beside the stream, and its answer.
type Asked<T> = Option<BoxFuture<'static, T>>;

impl Follower {
    /// A follower that writes down what it learns in `known`. Changes of
    /// health that this cluster reported itself are passed over, as soon as
    /// its identity is known.
    pub fn new(
        catalog: Arc<dyn Catalog>,
        known: Arc<Known>,
        cluster: impl Fn() -> Option<String> + Send + Sync + 'static,
        metrics: CatalogMetrics,
    ) -> Self {
        Self {
            catalog,
            known,
            cluster: Box::new(cluster),
            metrics,
            lists_in_a_row: 0,
            listed_at: None,
            sweep_at: Instant::now() + until_sweep(),
            opened_at: None,
            stuck: 0,
            tries: 0,
        }
    }

    /// Follows for ever. A connection that fails is tried again within 3 s, or
    /// when the catalog asked for it.
    pub async fn run(mut self) {
        let mut attempt = 0;
        loop {
            self.opened_at = None;
            let began = Instant::now();
            let error = match self.connection().await {
                Err(error) => error,
                Ok(never) => match never {},
            };
            self.known.lost();
            self.known.tried();
            let lasted = self.opened_at.map(|at| at.elapsed());
            let good = lasted.is_some_and(|lasted| lasted >= GOOD_AFTER);
            attempt = if good { 1 } else { attempt + 1 };
            let mut delay = STREAM.spread(attempt, fastrand::f64());
            if lasted.is_none() {
                // Whoever waited in vain for an answer has paused.
                delay = delay.saturating_sub(began.elapsed());
            }
            if let CatalogError::RateLimited { retry_after, .. } = error {
                delay += retry_after;
            }
            if good {
                tracing::info!(%error, "the catalog's event stream ended; it is resumed");
            } else {
                tracing::warn!(%error, attempt, "the catalog cannot be followed; it is tried again every few seconds");
            }
            sleep(delay).await;
        }
    }

    /// One stream, from its beginning to its end. Each try costs a catalog that
    /// is away one request.
    async fn connection(&mut self) -> Result<std::convert::Infallible, CatalogError> {
        self.tries = self.tries.wrapping_add(1);
        if self.tries.is_multiple_of(2)
            && let Some(id) = self.known.next_try()
        {
            // Others wait to ask, which may work though nothing is streamed.
            let (ids, reads) = read(Arc::clone(&self.catalog), vec![id]).await;
            self.take_reads(&ids, reads)?;
        }
        if self.known.position().is_none() {
            self.list_alone(WhyList::First).await?;
        } else if self.stuck >= STUCK_AFTER {
            self.list_alone(WhyList::Stuck).await?;
        }
        let after = self.known.position();
        let stream = self.catalog.subscribe(after.as_ref()).await?;
        self.metrics.connected();
        self.opened_at = Some(Instant::now());
        self.known.resumed();
        self.stuck += 1;
        Err(self.listen(stream).await)
    }

    async fn list_alone(&mut self, why: WhyList) -> Result<(), CatalogError> {
        let listed = list(Arc::clone(&self.catalog), why).await;
        self.take_list(listed)
    }

    /// Takes events, and asks for what they make necessary, until the stream
    /// fails or ends.
    async fn listen(&mut self, mut stream: EventStream) -> CatalogError {
        let mut moved = self.known.watch();
        let mut listing: Asked<Listed> = None;
        let mut reading: Asked<(Vec<CatalogServiceId>, Result<Reads, CatalogError>)> = None;
        let mut failures = 0;
        // After a failure nothing is asked before then.
        let mut quiet_until = Instant::now();
        loop {
            moved.mark_unchanged();
            let now = Instant::now();
            let mut wake = None;
            if listing.is_none() {
                let needed = self.known.list_needed();
                let needed = needed.map(|why| (why, self.next_list_at()));
                let (why, due) = needed.unwrap_or((WhyList::Sweep, self.sweep_at));
                let due = quiet_until.max(due);
                if due <= now {
                    listing = Some(list(Arc::clone(&self.catalog), why));
                } else {
                    wake = Some(due);
                }
            }
            if reading.is_none() && quiet_until <= now {
                let mut ids = self.known.next_reads();
                if ids.is_empty() {
                    // Others wait to hear that reads work again.
                    ids.extend(self.known.next_try());
                }
                if !ids.is_empty() {
                    reading = Some(read(Arc::clone(&self.catalog), ids));
                }
            }
            if reading.is_none() {
                let failing = self.known.is_failing().then_some(now);
                let due = failing.or(self.known.next_read_at());
                let due = due.map(|at| at.max(quiet_until));
                wake = wake.into_iter().chain(due).min();
            }
            let failed = tokio::select! {
                event = stream.next() => {
                    match event {
                        Some(Ok(event)) => self.take_event(&event),
                        Some(Err(error)) => return error,
                        None => return CatalogError::unavailable("the event stream ended"),
                    }
                    None
                }
                listed = answer(&mut listing) => {
                    listing = None;
                    self.take_list(listed).err()
                }
                (ids, reads) = answer(&mut reading) => {
                    reading = None;
                    let failed = self.take_reads(&ids, reads).err();
                    if failed.is_none() {
                        failures = 0;
                    }
                    failed
                }
                _ = moved.changed() => None,
                () = at(wake) => None,
            };
            if let Some(error) = failed {
                failures += 1;
                quiet_until = Instant::now() + pause(failures, &error);
                tracing::warn!(%error, "the catalog's changes cannot be read; it is tried again");
            }
        }
    }

    /// When the next complete list may be taken: later the more there were.
    fn next_list_at(&self) -> Instant {
        let spacing = LISTS.delay(self.lists_in_a_row, 1.0);
        self.listed_at.map_or_else(Instant::now, |at| at + spacing)
    }

    fn take_event(&mut self, event: &CatalogEvent) {
        self.stuck = 0;
        self.metrics.heard(label(&event.kind));
        if let EventKind::Reset { reason } = &event.kind {
            tracing::info!(reason, position = %event.position, "the catalog's event stream was reset");
        }
        self.known.hear(event, (self.cluster)().as_deref());
    }

    fn take_list(&mut self, (why, list): Listed) -> Result<(), CatalogError> {
        let list = list?;
        let (services, position) = (list.services.len(), list.position.clone());
        self.known.list(list).map_err(CatalogError::unavailable)?;
        let quiet = self.listed_at.is_none_or(|at| at.elapsed() > 6 * LISTS.cap);
        self.lists_in_a_row = if quiet { 1 } else { self.lists_in_a_row + 1 };
        self.listed_at = Some(Instant::now());
        self.sweep_at = Instant::now() + until_sweep();
        self.stuck = 0;
        self.metrics.listed(reason(why));
        tracing::info!(reason = reason(why), services, %position, "the catalog was listed");
        Ok(())
    }

    fn take_reads(
        &self,
        ids: &[CatalogServiceId],
        reads: Result<Reads, CatalogError>,
    ) -> Result<(), CatalogError> {
        self.known.answered(ids, reads.as_ref().err());
        match reads {
            Ok(reads) => {
                self.known.read(reads);
                Ok(())
            }
            Err(error) => {
                self.known.not_read(ids);
                Err(error)
            }
        }
    }
}

fn until_sweep() -> Duration {
    SWEEP.mul_f64(0.9 + 0.2 * fastrand::f64())
}

fn pause(failures: u32, error: &CatalogError) -> Duration {
    let pause = STREAM.delay(failures, fastrand::f64());
    match error {
        CatalogError::RateLimited { retry_after, .. } => pause + *retry_after,
        _ => pause,
    }
}

async fn answer<T>(asked: &mut Asked<T>) -> T {
    match asked {
        Some(asked) => asked.await,
        None => pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

fn label(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::Registered(_) => "ServiceRegistered",
        EventKind::Updated(_) => "ServiceUpdated",
        EventKind::Deregistered(_) => "ServiceDeregistered",
        EventKind::HealthChanged { .. } => "HealthChanged",
        EventKind::Bookmark => "bookmark",
        EventKind::Reset { .. } => "reset",
        EventKind::Other => "other",
    }
}

fn reason(why: WhyList) -> &'static str {
    match why {
        WhyList::First => "first",
        WhyList::Reset => "reset",
        WhyList::Rewound => "rewound",
        WhyList::Gap => "gap",
        WhyList::Stuck => "stuck",
        WhyList::Denied => "denied",
        WhyList::Sweep => "sweep",
    }
}
