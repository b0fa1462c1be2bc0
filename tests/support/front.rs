//! A catalog that misbehaves on command: stands in front of the real one,
//! passes requests on, or does to them what a test asks for, and counts them.
//!
//! It runs on a thread and runtime of its own, so that a refusal is a real one:
//! when the runtime goes, so do its port and every connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::stream;
use futures::{FutureExt as _, StreamExt as _};
use http::{Method, StatusCode, header};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// What happens to a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fault {
    /// It is passed on.
    None,
    /// Nobody listens.
    Refuse,
    /// 500 with this title in a problem document.
    InternalError,
    /// 429 with a Retry-After of so many seconds.
    TooMany(u64),
    /// 200 with a web page.
    Html,
    /// 200 with the first half of the real answer.
    Truncated,
    /// 200 with 1 GiB, in chunks.
    HugeChunked,
    /// 200 with 1 GiB, announced.
    HugeWithLength,
    /// 302 to this place.
    Redirect(String),
    /// The real answer, one byte a second.
    Trickle,
    /// No answer at all.
    Hang,
    /// No answer but the stream of events, which is passed on.
    HangReads,
    /// 404 with a web page, for everything.
    HtmlNotFound,
    /// 404 with a problem document, for everything.
    NotFound,
    /// No service but these: the catalog's own 404 for any other, and no list
    /// shows it. Its events go on.
    Only(Vec<String>),
    /// The same, and behind the first page of a list there is a 404.
    OnlyOnFirstPage(Vec<String>),
    /// The real answer, but this service's is replaced by this body.
    Replaced { id: String, body: String },
    /// It is passed on, but events of streams that begin now are told twice,
    /// after the next one, or not at all, as chance wills; and what is reported
    /// is delivered once more up to two seconds later, whatever was reported
    /// since.
    Events { seed: u64 },
    /// It is passed on, but the 404 with a problem document for the
    /// stream of events.
    NoEvents,
}

/// Shared with the thread.
struct Shared {
    upstream: String,
    http: reqwest::Client,
    fault: Mutex<Fault>,
    /// Moves with the fault, which ends every event stream: those have no end
    /// of their own at which the fault would show.
    cut: watch::Sender<()>,
    requests: Mutex<Vec<Seen>>,
    /// Whether reads of services wait.
    held: watch::Sender<bool>,
    /// Where what is delivered late waits: not on the front's own runtime, with
    /// which it would go. None: it is not delivered.
    late: Option<Handle>,
    reports_again: AtomicUsize,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub path: String,
}

/// The front. Dropping it closes it.
pub struct Front {
    pub url: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
}

struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Front {
    /// Stands in front of the catalog at `upstream`.
    pub fn start(address: &str, upstream: &str) -> Result<Self> {
        let front = Self {
            url: format!("http://{address}"),
            address: address.parse()?,
            shared: Arc::new(Shared {
                upstream: upstream.to_owned(),
                http: reqwest::Client::builder().no_proxy().build()?,
                fault: Mutex::new(Fault::None),
                cut: watch::Sender::default(),
                requests: Mutex::default(),
                held: watch::Sender::default(),
                late: Handle::try_current().ok(),
                reports_again: AtomicUsize::new(0),
            }),
            running: Mutex::new(None),
        };
        front.open()?;
        Ok(front)
    }

    /// From now on this happens to requests. What is under way goes on as it
    /// was, unless nobody listens any more; but event streams are cut.
    pub fn set(&self, fault: Fault) -> Result<()> {
        let refuse = fault == Fault::Refuse;
        *lock(&self.shared.fault) = fault;
        self.shared.cut.send_replace(());
        if refuse {
            self.close();
            Ok(())
        } else {
            self.open()
        }
    }

    /// Reads of services that arrive from now on wait until that ends; the
    /// events go on.
    pub fn hold_reads(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// The requests since then.
    pub fn since(&self, then: Instant) -> Vec<Seen> {
        let requests = lock(&self.shared.requests);
        requests.iter().filter(|r| r.at >= then).cloned().collect()
    }

    /// How many reports were delivered a second time.
    pub fn reports_again(&self) -> usize {
        self.shared.reports_again.load(Ordering::Relaxed)
    }

    fn open(&self) -> Result<()> {
        let mut running = lock(&self.running);
        if running.is_some() {
            return Ok(());
        }
        let listener = std::net::TcpListener::bind(self.address)
            .with_context(|| format!("the front's port {}", self.address))?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&self.shared));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
                    return;
                };
                tokio::select! {
                    _ = axum::serve(listener, app) => {}
                    _ = stopped => {}
                }
            });
        });
        *running = Some(Running { stop, thread });
        Ok(())
    }

    fn close(&self) {
        if let Some(Running { stop, thread }) = lock(&self.running).take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.close();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    lock(&shared.requests).push(Seen {
        at: Instant::now(),
        path: path.clone(),
    });
    if request.method() == Method::GET && path.contains("/services") {
        let mut held = shared.held.subscribe();
        // Fails only without a sender, which is shared with us.
        let _ = held.wait_for(|held| !held).await;
    }
    let fault = lock(&shared.fault).clone();
    match fault {
        Fault::None | Fault::Refuse | Fault::Events { .. } => forward(&shared, request).await,
        Fault::NoEvents if path.ends_with("/events") => problem(StatusCode::NOT_FOUND, "No events"),
        Fault::NoEvents => forward(&shared, request).await,
        Fault::InternalError => problem(StatusCode::INTERNAL_SERVER_ERROR, "Bad day"),
        Fault::TooMany(seconds) => {
            let mut answer = problem(StatusCode::TOO_MANY_REQUESTS, "Too many requests");
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
            answer
        }
        Fault::Html => page(StatusCode::OK),
        Fault::HtmlNotFound => page(StatusCode::NOT_FOUND),
        Fault::NotFound => problem(StatusCode::NOT_FOUND, "No such service"),
        Fault::Only(ids) => only(&shared, request, &ids, false).await,
        Fault::OnlyOnFirstPage(ids) => only(&shared, request, &ids, true).await,
        Fault::Truncated => {
            let whole = whole(&shared, request).await;
            json(Body::from(whole.slice(..whole.len() / 2)))
        }
        Fault::HugeChunked => json(Body::from_stream(huge())),
        Fault::HugeWithLength => {
            let mut answer = json(Body::from_stream(huge()));
            answer
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HUGE.into());
            answer
        }
        Fault::Redirect(to) => {
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::FOUND;
            if let Ok(to) = to.parse() {
                answer.headers_mut().insert(header::LOCATION, to);
            }
            answer
        }
        Fault::Trickle => {
            let whole = whole(&shared, request).await;
            let bytes = stream::iter(whole).then(|byte| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, std::io::Error>(Bytes::from(vec![byte]))
            });
            json(Body::from_stream(bytes))
        }
        Fault::HangReads if path.ends_with("/events") => forward(&shared, request).await,
        Fault::Hang | Fault::HangReads => std::future::pending().await,
        Fault::Replaced { id, body } if path.ends_with(&format!("/services/{id}")) => {
            json(Body::from(body))
        }
        Fault::Replaced { id, body } if path.ends_with("/services") => {
            let page = whole(&shared, request).await;
            json(Body::from(with_replaced(&page, &id, &body)))
        }
        Fault::Replaced { .. } => forward(&shared, request).await,
    }
}

/// The answer of a catalog that has these services and no other; `more` says
/// that its lists go on behind them, where nothing is.
async fn only(shared: &Arc<Shared>, request: Request, ids: &[String], more: bool) -> Response {
    let uri = request.uri();
    let is_behind = uri.query().is_some_and(|query| query.contains("cursor="));
    let named = uri.path().split_once("/services/");
    let named = named.map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    match named {
        Some(id) if ids.iter().any(|of| of == id) => forward(shared, request).await,
        Some(_) => problem(StatusCode::NOT_FOUND, "No such service"),
        None if is_behind => problem(StatusCode::NOT_FOUND, "No such page"),
        None if uri.path().ends_with("/services") => {
            let page = whole(shared, request).await;
            let Ok(mut page) = serde_json::from_slice::<serde_json::Value>(&page) else {
                return json(Body::from(page));
            };
            if let Some(items) = page["items"].as_array_mut() {
                items.retain(|item| ids.iter().any(|id| item["id"] == id.as_str()));
            }
            if more {
                page["nextCursor"] = "more".into();
            }
            json(Body::from(page.to_string()))
        }
        None => forward(shared, request).await,
    }
}

/// The page of a list with this service's record replaced.
fn with_replaced(page: &[u8], id: &str, body: &str) -> Vec<u8> {
    let parsed = (serde_json::from_slice(page), serde_json::from_str(body));
    let (Ok(mut page), Ok(body)) = parsed else {
        return page.to_vec();
    };
    replace_item(&mut page, id, &body);
    page.to_string().into_bytes()
}

fn replace_item(page: &mut serde_json::Value, id: &str, body: &serde_json::Value) {
    let items = page["items"].as_array_mut().into_iter().flatten();
    for item in items.filter(|item| item["id"] == id) {
        *item = body.clone();
    }
}

const HUGE: u64 = 1024 * 1024 * 1024;

/// 1 GiB that begins like a record.
fn huge() -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send {
    const PIECE: usize = 64 * 1024;
    let filler = Bytes::from(vec![b'a'; PIECE]);
    let head = Bytes::from(format!("{{\"id\":\"{}", "a".repeat(PIECE - 7)));
    let rest = stream::repeat(filler).take(HUGE as usize / PIECE - 1);
    stream::once(std::future::ready(head)).chain(rest).map(Ok)
}

async fn forward(shared: &Arc<Shared>, request: Request) -> Response {
    match pass_on(shared, request).await {
        Ok(answer) => answer,
        Err(error) => {
            let mut answer = page(StatusCode::BAD_GATEWAY);
            *answer.body_mut() = Body::from(format!("{error:#}"));
            answer
        }
    }
}

async fn pass_on(shared: &Arc<Shared>, request: Request) -> Result<Response> {
    let (parts, sent) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = parts.headers;
    headers.remove(header::HOST);
    let sent = axum::body::to_bytes(sent, 16 * 1024 * 1024).await?;
    let request = shared
        .http
        .request(parts.method, format!("{}{path}", shared.upstream))
        .headers(headers)
        .body(sent);
    deliver_again(shared, path, &request);
    let got = request.send().await?;
    let (status, mut headers) = (got.status(), got.headers().clone());
    headers.remove(header::TRANSFER_ENCODING);
    let is_stream = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|type_| type_ == "text/event-stream");
    let body = if is_stream {
        let mut cut = shared.cut.subscribe();
        let ended = async move {
            let _ = cut.changed().await;
        };
        let stream = got.bytes_stream().take_until(ended.boxed());
        Body::from_stream(events(Arc::clone(shared), stream))
    } else {
        Body::from(got.bytes().await?)
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// Delivers a report once more, some time after it comes.
fn deliver_again(shared: &Arc<Shared>, path: &str, request: &reqwest::RequestBuilder) {
    let Fault::Events { seed } = *lock(&shared.fault) else {
        return;
    };
    let reports = path.ends_with("/endpoints") || path.ends_with("/health:batch");
    let (true, Some(late), Some(request)) = (reports, &shared.late, request.try_clone()) else {
        return;
    };
    let number = lock(&shared.requests).len() as u64;
    let delay = fastrand::Rng::with_seed(seed ^ number).u64(..2_000);
    let shared = Arc::clone(shared);
    late.spawn(async move {
        tokio::time::sleep(Duration::from_millis(delay)).await;
        if request.send().await.is_ok() {
            shared.reports_again.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// A stream of events: silent while everything hangs, and disturbed if it
/// began when that was asked for.
fn events(
    shared: Arc<Shared>,
    stream: impl futures::Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
) -> impl futures::Stream<Item = reqwest::Result<Bytes>> + Send {
    let mut chance = match *lock(&shared.fault) {
        Fault::Events { seed } => Some(fastrand::Rng::with_seed(seed)),
        _ => None,
    };
    let (mut part, mut held) = (Vec::new(), Vec::new());
    let disturbed = stream.map(move |bytes| {
        let (Some(chance), Ok(bytes)) = (&mut chance, &bytes) else {
            return bytes;
        };
        part.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(end) = part.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = part.drain(..end + 2).collect();
            match chance.u8(..) {
                0..30 => out.extend(event.repeat(2)),
                30..60 if held.is_empty() => {
                    held = event;
                    continue;
                }
                60..75 => {}
                _ => out.extend(event),
            }
            out.append(&mut held);
        }
        Ok(Bytes::from(out))
    });
    disturbed.then(move |bytes| {
        let shared = Arc::clone(&shared);
        async move {
            while *lock(&shared.fault) == Fault::Hang {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bytes
        }
    })
}

/// The real answer's body, also where the client knows it already. An event
/// stream's is its first piece.
async fn whole(shared: &Arc<Shared>, mut request: Request) -> Bytes {
    request.headers_mut().remove(header::IF_NONE_MATCH);
    let answer = forward(shared, request).await;
    let is_stream = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|type_| type_ == "text/event-stream");
    if is_stream {
        let first = answer.into_body().into_data_stream().next().await;
        return first.and_then(Result::ok).unwrap_or_default();
    }
    axum::body::to_bytes(answer.into_body(), usize::MAX)
        .await
        .unwrap_or_default()
}

fn json(body: Body) -> Response {
    typed(StatusCode::OK, "application/json", body)
}

fn page(status: StatusCode) -> Response {
    let page = "<!doctype html><title>Portal</title><p>Please sign in.";
    typed(status, "text/html", Body::from(page))
}

fn problem(status: StatusCode, title: &str) -> Response {
    let problem = serde_json::json!({"title": title, "status": status.as_u16()}).to_string();
    typed(status, "application/problem+json", Body::from(problem))
}

fn typed(status: StatusCode, type_: &'static str, body: Body) -> Response {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(type_),
    );
    answer
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
