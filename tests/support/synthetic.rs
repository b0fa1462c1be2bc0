//! A catalog that is nothing but memory, for more changes than one over a
//! database can commit. It answers by docs/catalog-api.yaml what the operator
//! asks for: lists, reads, the event stream. Reports are taken and not kept.
//!
//! It serves on a thread and runtime of its own, so that its streams do not
//! wait for whoever measures.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, put};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

const EPOCH: &str = "synthetic";

/// Longest silence on a stream; the contract says at most 10 s.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);

/// Most events that are written at once.
const CHUNK: usize = 500;

/// Changes that are kept for streams; one that falls further behind is reset.
const KEPT: usize = 1_000_000;

/// The part of a record that changes: something of each of the two objects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Values {
    pub timeout_ms: u32,
    pub errors: u32,
}

impl Values {
    /// Those after so many changes of a storm: never the same as before, and
    /// the timeout grows.
    pub fn after(changes: u32) -> Self {
        Self {
            timeout_ms: 1_000 + changes,
            errors: 1 + changes % 100,
        }
    }
}

/// The running catalog. Dropping it closes it.
pub struct Synthetic {
    pub url: String,
    shared: Arc<Shared>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// What is sent goes at once, and does not wait until the client has acknowledged
/// what went before.
fn at_once(stream: &mut tokio::net::TcpStream) {
    // Without it all is right, but late.
    let _ = stream.set_nodelay(true);
}

struct Shared {
    store: Mutex<Store>,
    revision: watch::Sender<u64>,
    reads: AtomicU64,
}

struct Service {
    id: String,
    namespace: String,
    name: String,
    values: Values,
    revision: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Registered,
    Updated,
}

#[derive(Default)]
struct Store {
    services: Vec<Service>,
    /// Where in `services` each ID is.
    by_id: BTreeMap<String, usize>,
    /// What each revision after the floor was about.
    log: VecDeque<(usize, Kind)>,
    /// Nothing up to this revision is kept.
    floor: u64,
    /// The list whose pages are being read, and its revision.
    pinned: (u64, Arc<Vec<Value>>),
}

impl Synthetic {
    /// An empty catalog on this address of the run's own network.
    pub fn start(address: &str) -> Result<Self> {
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            revision: watch::Sender::new(0),
            reads: AtomicU64::new(0),
        });
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("the catalog's port {address}"))?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let app = Router::new()
            .route("/api/v1/services", get(list))
            .route("/api/v1/services/{id}", get(read))
            .route("/api/v1/services/{id}/endpoints", put(accept))
            .route("/api/v1/events", get(events))
            .with_state(Arc::clone(&shared));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                    return;
                };
                tokio::select! {
                    _ = axum::serve(listener.tap_io(at_once), app) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            url: format!("http://{address}"),
            shared,
            running: Some((stop, thread)),
        })
    }

    /// Registers a service.
    pub fn register(&self, id: &str, namespace: &str, name: &str, values: Values) {
        let mut store = self.shared.store();
        let (at, revision) = (store.services.len(), store.revision() + 1);
        store.services.push(Service {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            values,
            revision,
        });
        store.by_id.insert(id.to_owned(), at);
        store.log(at, Kind::Registered);
        self.shared.revision.send_replace(revision);
    }

    /// Changes a service.
    pub fn put(&self, id: &str, values: Values) -> Result<()> {
        let mut store = self.shared.store();
        let at = *store.by_id.get(id).context("no such service")?;
        let revision = store.put(at, values);
        self.shared.revision.send_replace(revision);
        Ok(())
    }

    /// Changes this service `rate` times a second, until that has happened
    /// `changes` times, and says how long it took: longer than it should where
    /// the machine has no time for it.
    pub async fn storm(&self, id: &str, rate: u32, changes: u32) -> Result<Duration> {
        let begin = Instant::now();
        let mut ticks = interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut made = 0;
        while made < changes {
            ticks.tick().await;
            let due = begin.elapsed().as_secs_f64() * f64::from(rate);
            while made < changes && f64::from(made) < due {
                made += 1;
                self.put(id, Values::after(made))?;
            }
        }
        Ok(begin.elapsed())
    }

    /// How many requests for services there were, streams and reports aside.
    pub fn reads(&self) -> u64 {
        self.shared.reads.load(Ordering::Relaxed)
    }
}

impl Drop for Synthetic {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    fn revision(&self) -> u64 {
        self.floor + self.log.len() as u64
    }

    fn put(&mut self, at: usize, values: Values) -> u64 {
        let revision = self.revision() + 1;
        let service = &mut self.services[at];
        (service.values, service.revision) = (values, revision);
        self.log(at, Kind::Updated);
        revision
    }

    fn log(&mut self, at: usize, kind: Kind) {
        self.log.push_back((at, kind));
        if self.log.len() > KEPT {
            self.log.pop_front();
            self.floor += 1;
        }
    }

    /// Writes the events after this revision, as many as are written at once.
    fn write_events(&self, after: &mut u64, text: &mut String) {
        let from = (*after - self.floor) as usize;
        for (at, kind) in self.log.iter().skip(from).take(CHUNK) {
            *after += 1;
            let Service {
                id,
                namespace,
                name,
                ..
            } = &self.services[*at];
            let kind = match kind {
                Kind::Registered => "ServiceRegistered",
                Kind::Updated => "ServiceUpdated",
            };
            let data = format_args!(
                r#"{{"id":"{id}","name":"{name}","namespace":"{namespace}","revision":{after}}}"#
            );
            let _ = write!(text, "event: {kind}\nid: {EPOCH}.{after}\ndata: {data}\n\n");
        }
    }
}

impl Service {
    fn json(&self) -> Value {
        json!({
            "id": self.id, "namespace": self.namespace, "name": self.name,
            "revision": self.revision,
            "timeout": format!("{}ms", self.values.timeout_ms),
            "circuitBreaker": {"consecutiveErrors": self.values.errors},
        })
    }
}

async fn read(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    shared.reads.fetch_add(1, Ordering::Relaxed);
    let store = shared.store();
    let Some(service) = store.by_id.get(&id).map(|at| &store.services[*at]) else {
        return problem(StatusCode::NOT_FOUND, "no such service");
    };
    let etag = format!("\"{}\"", service.revision);
    let known = headers.get(header::IF_NONE_MATCH);
    if known.is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response();
    }
    ([(header::ETAG, etag)], Json(service.json())).into_response()
}

/// A page. Only the latest list that takes more than one is kept.
async fn list(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Vec<(String, String)>>,
) -> Response {
    shared.reads.fetch_add(1, Ordering::Relaxed);
    let (mut limit, mut from, mut ids) = (100, None, Vec::new());
    for (name, value) in &query {
        match (name.as_str(), value.parse::<usize>()) {
            ("limit", Ok(value)) => limit = value,
            ("id", _) => ids.push(value),
            ("cursor", _) => {
                let parts = value.split_once('.').map(|(a, b)| (a.parse(), b.parse()));
                let Some((Ok(revision), Ok(at))) = parts else {
                    return problem(StatusCode::GONE, "the cursor is none of ours");
                };
                from = Some((revision, at));
            }
            _ => return problem(StatusCode::BAD_REQUEST, "a filter that is not offered here"),
        }
    }
    let mut store = shared.store();
    let (revision, at): (u64, usize) = from.unwrap_or((store.revision(), 0));
    let items = if from.is_none() {
        let wanted = |id: &String| ids.is_empty() || ids.contains(&id);
        let found = store.by_id.iter().filter(|(id, _)| wanted(id));
        let found = found.map(|(_, at)| store.services[*at].json()).collect();
        Arc::new(found)
    } else if store.pinned.0 == revision {
        Arc::clone(&store.pinned.1)
    } else {
        return problem(StatusCode::GONE, "the list is no longer kept");
    };
    let page: Vec<_> = items.iter().skip(at).take(limit).collect();
    let end = at + page.len();
    let mut body = json!({"epoch": EPOCH, "revision": revision, "items": page});
    if end < items.len() {
        body["nextCursor"] = json!(format!("{revision}.{end}"));
        store.pinned = (revision, items);
    }
    Json(body).into_response()
}

/// Takes a report, and does not keep it.
async fn accept() -> Json<Value> {
    Json(json!({"status": "accepted"}))
}

async fn events(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let news = shared.revision.subscribe();
    let at = match headers.get("last-event-id") {
        None => shared.store().revision(),
        Some(token) => position(token.as_bytes()).unwrap_or(u64::MAX),
    };
    let stream = Stream {
        shared,
        news,
        at,
        bookmark: None,
    };
    let stream = futures::stream::unfold(stream, |mut stream| async {
        let text = stream.next().await;
        Some((Ok::<_, std::io::Error>(Bytes::from(text)), stream))
    });
    let kind = [(header::CONTENT_TYPE, "text/event-stream")];
    (kind, Body::from_stream(stream)).into_response()
}

/// The revision of a token, if it is one of ours.
fn position(token: &[u8]) -> Option<u64> {
    let token = std::str::from_utf8(token).ok()?;
    let revision = token.strip_prefix(EPOCH)?.strip_prefix('.')?;
    revision.parse().ok()
}

/// One client's stream: its own position in the log, so that a slow client
/// costs no memory.
struct Stream {
    shared: Arc<Shared>,
    news: watch::Receiver<u64>,
    at: u64,
    /// When the next bookmark is sent; none before the stream has caught up.
    bookmark: Option<Instant>,
}

impl Stream {
    /// The next events, as soon as there is one.
    async fn next(&mut self) -> String {
        let shared = Arc::clone(&self.shared);
        let mut text = String::new();
        loop {
            self.news.mark_unchanged();
            let caught_up = {
                let store = shared.store();
                let newest = store.revision();
                if !(store.floor..=newest).contains(&self.at) {
                    self.reset(newest, &mut text);
                }
                store.write_events(&mut self.at, &mut text);
                self.at == newest
            };
            let now = Instant::now();
            if self.bookmark.map_or(caught_up, |due| due <= now) {
                self.bookmark = Some(now + BOOKMARK_EVERY);
                self.say("bookmark", "", &mut text);
            }
            if !text.is_empty() {
                return text;
            }
            let until = self.bookmark.unwrap_or(now + BOOKMARK_EVERY);
            let _ = timeout_at(until, self.news.changed()).await;
        }
    }

    fn reset(&mut self, newest: u64, text: &mut String) {
        self.at = newest;
        self.say("reset", r#","reason":"not kept""#, text);
    }

    fn say(&self, kind: &str, more: &str, text: &mut String) {
        let at = self.at;
        let data = format_args!(r#"{{"epoch":"{EPOCH}","revision":{at}{more}}}"#);
        let _ = write!(text, "event: {kind}\nid: {EPOCH}.{at}\ndata: {data}\n\n");
    }
}

fn problem(status: StatusCode, title: &str) -> Response {
    let body = json!({"title": title, "status": status.as_u16()}).to_string();
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, body).into_response()
}
