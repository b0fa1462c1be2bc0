//! The event stream.
//!
//! A stream keeps its own position and reads the store whenever the newest
//! revision has moved, so a slow client costs no memory and loses nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, Sse};
use futures::Stream;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{App, Shared};
use crate::problem::Problem;
use crate::store::history::Change;
use crate::store::{State as Place, StoreError};

/// Longest silence on a stream; the contract says at most 10 s.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);
/// How long reading events may take before the stream is ended.
const READ: Duration = Duration::from_secs(10);
/// Events read at once.
const CHUNK: i64 = 500;

pub(super) async fn follow(
    State(app): Shared,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let Ok(place) = app.streams.clone().try_acquire_owned() else {
        return Err(Problem::unavailable(
            "too many event streams are open; try again",
        ));
    };
    let now = app.store.state().await?;
    let mut follower = Follower::new(&app, place);
    match token(&headers, query.as_deref().unwrap_or_default()) {
        Some(token) => follower.resume(&token, &now),
        None => follower.start(&now),
    }
    Ok(Sse::new(futures::stream::unfold(follower, Follower::step)))
}

/// Where the client wants to go on, as it gave it.
fn token(headers: &HeaderMap, query: &str) -> Option<String> {
    let header = headers
        .get("last-event-id")
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let since = || {
        url::form_urlencoded::parse(query.as_bytes())
            .find(|(name, _)| name == "since")
            .map(|(_, value)| value.into_owned())
    };
    header.or_else(since).filter(|token| !token.is_empty())
}

/// Epoch and revision of a token; only our own spelling counts.
fn parse_token(token: &str) -> Option<(&str, i64)> {
    let (epoch, revision) = token.split_once('.')?;
    if revision.is_empty() || !revision.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((epoch, revision.parse().ok()?))
}

/// One client's stream.
struct Follower {
    app: Arc<App>,
    epoch: String,
    revision: i64,
    pending: VecDeque<Event>,
    news: watch::Receiver<Place>,
    stopping: watch::Receiver<bool>,
    ends: Instant,
    /// Whether everything that was there at the last look has been read.
    caught_up: bool,
    /// When the next bookmark is sent; none before the stream has caught up.
    bookmark: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    fn new(app: &Arc<App>, place: OwnedSemaphorePermit) -> Self {
        Self {
            app: app.clone(),
            epoch: String::new(),
            revision: 0,
            pending: VecDeque::new(),
            news: app.news.clone(),
            stopping: app.stopping.clone(),
            ends: Instant::now() + app.stream_age,
            caught_up: false,
            bookmark: None,
            _place: place,
        }
    }

    fn start(&mut self, now: &Place) {
        self.epoch.clone_from(&now.epoch);
        self.revision = now.revision;
    }

    fn resume(&mut self, token: &str, now: &Place) {
        let reason = match parse_token(token) {
            None => "the token is none of ours",
            Some((epoch, _)) if epoch != now.epoch => "the token is of another epoch",
            Some((_, revision)) if revision < now.floor => "the token is below the retention floor",
            Some((_, revision)) if revision > now.revision => "the token is ahead of the catalog",
            Some((epoch, revision)) => {
                self.epoch = epoch.to_owned();
                self.revision = revision;
                return;
            }
        };
        self.reset(now, reason);
    }

    /// The next event, or the end of the stream; the client then resumes.
    async fn step(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some((Ok(event), self));
            }
            let mut stopping = self.stopping.clone();
            let ends = self.ends;
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => return None,
                () = sleep_until(ends) => return None,
                looked = self.look() => if let Err(error) = looked {
                    tracing::error!(error = &error as &dyn std::error::Error, "an event stream ends");
                    return None;
                }
            }
        }
    }

    /// Waits for news where nothing is known to be unread, and reads.
    async fn look(&mut self) -> Result<(), StoreError> {
        if self.caught_up {
            let until = self.bookmark.unwrap_or_else(Instant::now);
            if let Ok(Err(_)) = timeout_at(until, self.news.changed()).await {
                // Nobody watches for news any more; look now and then.
                sleep_until(until).await;
            }
        }
        self.news.mark_unchanged();
        let reading = self.app.store.changes_after(self.revision, CHUNK);
        let read = timeout(READ, reading).await;
        let (state, changes) = read.unwrap_or(Err(StoreError::Silent))?;
        if state.epoch != self.epoch || state.revision < self.revision {
            self.reset(&state, "the catalog began a new epoch");
        } else if state.floor > self.revision {
            self.reset(&state, "the stream fell below the retention floor");
        } else {
            self.pass_on(changes, &state);
        }
        Ok(())
    }

    fn pass_on(&mut self, changes: Vec<Change>, state: &Place) {
        let read = changes.len();
        for change in changes {
            self.revision = change.revision;
            let event = self.event(&change.event).data(change.data);
            self.pending.push_back(event);
        }
        // Whatever the state says: where there was nothing to read, more has to come.
        self.caught_up = self.revision >= state.revision || read == 0;
        let due = match self.bookmark {
            None => self.caught_up,
            Some(at) => at <= Instant::now(),
        };
        if due {
            let data = json!({ "epoch": self.epoch, "revision": self.revision });
            let bookmark = self.event("bookmark").data(data.to_string());
            self.pending.push_back(bookmark);
            self.bookmark = Some(Instant::now() + BOOKMARK_EVERY);
        }
    }

    fn reset(&mut self, now: &Place, reason: &str) {
        self.start(now);
        self.caught_up = true;
        self.bookmark = Some(Instant::now() + BOOKMARK_EVERY);
        let data = json!({ "epoch": now.epoch, "revision": now.revision, "reason": reason });
        let reset = self.event("reset").data(data.to_string());
        self.pending.push_back(reset);
    }

    fn event(&self, kind: &str) -> Event {
        Event::default()
            .event(kind)
            .id(format!("{}.{}", self.epoch, self.revision))
    }
}

#[cfg(test)]
mod tests {
    use super::parse_token;

    #[test]
    fn only_our_own_spelling_is_a_token() {
        assert_eq!(parse_token("0badcafe.12"), Some(("0badcafe", 12)));
        for token in [
            "",
            "12",
            "a.",
            "a.-1",
            "a.+1",
            "a.1.2",
            "a. 1",
            "a.99999999999999999999",
        ] {
            assert_eq!(parse_token(token), None, "{token:?}");
        }
    }
}
