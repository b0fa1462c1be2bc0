//! The operator's way to the API server, which can be disturbed: stands between
//! the two, passes requests on with the operator's own token, counts them, and
//! makes trouble where a test asks for it.
//!
//! It runs on a thread and runtime of its own, so that a refusal is a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::{StreamExt as _, stream};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

use super::apiserver;
use super::rig::Rig;

/// What happens on the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// Nothing.
    None,
    /// No request arrives before it is over.
    Hold,
    /// Each request arrives so much later.
    Slow(Duration),
    /// A watch that begins now ends after this time: one properly, the next one
    /// in the middle.
    Cut(Duration),
}

struct Shared {
    http: reqwest::Client,
    trouble: Mutex<Trouble>,
    /// Moves with the trouble, which ends every watch.
    cut: watch::Sender<()>,
    asked: Mutex<Vec<Asked>>,
    watches: AtomicU64,
    gone: AtomicU64,
    /// Resources whose next watch is told that its version is too old.
    expired: Mutex<BTreeSet<String>>,
}

/// A request that came.
#[derive(Debug)]
struct Asked {
    at: Instant,
    what: String,
    /// It changed something, and that was to be changed.
    stored: bool,
}

/// Most requests in any second, beside those that stored something.
pub const RATE: usize = 20;

/// The way. Dropping it closes it.
pub struct Way {
    address: SocketAddr,
    shared: Arc<Shared>,
    _listening: Listening,
}

/// Ends with this.
struct Listening {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Way {
    /// Leads from this address to the rig's API server.
    pub fn open(rig: &Rig, address: &str) -> Result<Self> {
        let authority = reqwest::Certificate::from_pem(rig.pki.authority().as_bytes())?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([authority])
            .build()?;
        let shared = Arc::new(Shared {
            http,
            trouble: Mutex::new(Trouble::None),
            cut: watch::Sender::default(),
            asked: Mutex::default(),
            watches: AtomicU64::default(),
            gone: AtomicU64::default(),
            expired: Mutex::default(),
        });
        let address = address.parse()?;
        Ok(Self {
            address,
            _listening: listen(address, Arc::clone(&shared))?,
            shared,
        })
    }

    /// A kubeconfig for this account of the operator's namespace that takes the
    /// way. It has the account's real token.
    pub async fn kubeconfig(&self, rig: &Rig, namespace: &str, account: &str) -> Result<PathBuf> {
        let direct = rig
            .api
            .service_account_kubeconfig(namespace, account)
            .await?;
        let mut content: Value = serde_json::from_str(&std::fs::read_to_string(&direct)?)?;
        content["clusters"][0]["cluster"] = json!({"server": format!("http://{}", self.address)});
        let path = direct.with_extension(format!("{}.kubeconfig", self.address.port()));
        std::fs::write(&path, content.to_string())?;
        Ok(path)
    }

    /// From now on this happens. Watches that there are end.
    pub fn set(&self, trouble: Trouble) {
        *lock(&self.shared.trouble) = trouble;
        self.cut();
    }

    /// Ends all watches that there are.
    pub fn cut(&self) {
        self.shared.cut.send_replace(());
    }

    /// Ends all watches that there are, and has the next one of this resource
    /// told that its version is too old, after which only a list helps.
    pub fn expire(&self, resource: &str) {
        lock(&self.shared.expired).insert(resource.to_owned());
        self.cut();
    }

    /// Whether that has been told.
    pub fn has_expired(&self, resource: &str) -> bool {
        !lock(&self.shared.expired).contains(resource)
    }

    /// Fails where more requests than [`RATE`] came in any second since the begin of a
    /// trouble, those aside that stored something: what is to be stored is stored at
    /// once, and how much that may be, others say. Prints how many of all came a second
    /// until all was well.
    pub fn expect_calm(&self, then: Instant, well: Instant, during: &str) -> Result<()> {
        let asked = lock(&self.shared.asked);
        let all = asked.iter().filter(|asked| asked.at >= then);
        let until_well = all.clone().filter(|asked| asked.at <= well).count();
        let average = until_well as f64 / well.duration_since(then).as_secs_f64();
        let others: Vec<_> = all.filter(|asked| !asked.stored).collect();
        let within = |from: usize| {
            let end = others[from].at + Duration::from_secs(1);
            others[from..]
                .iter()
                .take_while(move |asked| asked.at < end)
        };
        let busiest = (0..others.len()).max_by_key(|from| within(*from).count());
        let mut of_it = BTreeMap::<_, usize>::new();
        for asked in busiest.into_iter().flat_map(within) {
            *of_it.entry(asked.what.as_str()).or_default() += 1;
        }
        let most: usize = of_it.values().sum();
        eprintln!(
            "{during}: {average:.1} requests a second until all was well; beside those that stored something {}, {most} in the busiest second",
            others.len()
        );
        ensure!(
            most <= RATE,
            "{during}: {most} requests in a second: {of_it:?}"
        );
        Ok(())
    }

    /// How often a watch was told that its version is too old.
    pub fn told_gone(&self) -> u64 {
        self.shared.gone.load(Ordering::Relaxed)
    }
}

fn listen(address: SocketAddr, shared: Arc<Shared>) -> Result<Listening> {
    let listener = std::net::TcpListener::bind(address)
        .with_context(|| format!("the way's port {address}"))?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let app = Router::new().fallback(answer).with_state(shared);
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
    Ok(Listening {
        stop: Some(stop),
        thread: Some(thread),
    })
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let what = format!("{} {}", request.method(), kind_of(&path));
    let is_read = request.method() == Method::GET;
    let number = {
        let mut asked = lock(&shared.asked);
        asked.push(Asked {
            at: Instant::now(),
            what,
            stored: false,
        });
        asked.len() - 1
    };
    let trouble = *lock(&shared.trouble);
    if let Trouble::Slow(time) = trouble {
        sleep(time).await;
    }
    let over = |_: &()| *lock(&shared.trouble) != Trouble::Hold;
    // Fails only without a sender, which lives as long as all this.
    let _ = shared.cut.subscribe().wait_for(over).await;
    match pass_on(&shared, trouble, request).await {
        Ok(answer) => {
            let stores = !is_read && !path.contains("/leases");
            if let Some(asked) = lock(&shared.asked).get_mut(number) {
                asked.stored = stores && answer.status().is_success();
            }
            answer
        }
        Err(error) => {
            let mut answer = Response::new(Body::from(format!("{error:#}")));
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    }
}

/// What a path is about, without the names in it.
fn kind_of(path: &str) -> String {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    let named = |at: usize| matches!(parts[at - 1], "namespaces" | "servicebindings" | "leases");
    let rules = |at: usize| matches!(parts[at - 1], "virtualservices" | "destinationrules");
    let kept = (0..parts.len()).filter(|at| *at == 0 || !(named(*at) || rules(*at)));
    kept.map(|at| parts[at]).collect::<Vec<_>>().join("/")
}

async fn pass_on(shared: &Arc<Shared>, trouble: Trouble, request: Request) -> Result<Response> {
    let (parts, sent) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let is_watch = path.contains("watch=true");
    let resource = parts.uri.path().rsplit('/').next().unwrap_or_default();
    if is_watch && lock(&shared.expired).remove(resource) {
        return Ok(gone());
    }
    let mut headers = parts.headers;
    headers.remove(header::HOST);
    let sent = axum::body::to_bytes(sent, 16 * 1024 * 1024).await?;
    let mut cut = shared.cut.subscribe();
    let got = shared
        .http
        .request(parts.method, format!("{}{path}", apiserver::URL))
        .headers(headers)
        .body(sent)
        .send()
        .await?;
    let (status, mut headers) = (got.status(), got.headers().clone());
    headers.remove(header::TRANSFER_ENCODING);
    if status == StatusCode::GONE {
        shared.gone.fetch_add(1, Ordering::Relaxed);
    }
    let body = if is_watch && status.is_success() {
        let number = shared.watches.fetch_add(1, Ordering::Relaxed);
        let ends = async move {
            let time = match trouble {
                Trouble::Cut(time) => time,
                _ => Duration::MAX,
            };
            tokio::select! {
                _ = cut.changed() => {}
                () = sleep(time) => {}
            }
        };
        let counted = Arc::clone(shared);
        let told = got.bytes_stream().map(move |bytes| {
            if let Ok(bytes) = &bytes
                && is_gone(bytes)
            {
                counted.gone.fetch_add(1, Ordering::Relaxed);
            }
            bytes.map_err(anyhow::Error::from)
        });
        let told = told.take_until(Box::pin(ends));
        let broken = (number % 2 == 1).then(|| Err(anyhow!("cut in the middle")));
        Body::from_stream(told.chain(stream::iter(broken)).map(into_io))
    } else {
        Body::from(got.bytes().await?)
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// As the API server says that a version is too old.
fn gone() -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": 410, "reason": "Expired", "message": "too old resource version",
    });
    let mut answer = Response::new(Body::from(status.to_string()));
    *answer.status_mut() = StatusCode::GONE;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

fn into_io(bytes: Result<Bytes>) -> std::io::Result<Bytes> {
    bytes.map_err(std::io::Error::other)
}

/// Whether a piece of a watch says that its version is too old.
fn is_gone(bytes: &[u8]) -> bool {
    let said = br#""code":410"#;
    bytes.windows(said.len()).any(|window| window == said)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
