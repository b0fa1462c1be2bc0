//! What stands behind a Service in the tests? An HTTP server of this very
//! process on a pod's address, which answers with that address, or as a test
//! tells it to, and counts.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The port that every test backend listens on.
pub const PORT: u16 = 8080;

/// How a backend answers.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// With this status.
    Status(u16),
    /// With 200, but only after this long.
    Delay(Duration),
    /// Never; the connection stays open.
    Hang,
}

/// A request as the backend saw it.
#[derive(Clone, Debug)]
pub struct Hit {
    pub method: Method,
    pub path: String,
    pub headers: http::HeaderMap,
    /// The port that it came to.
    pub port: u16,
    /// The other end of its connection: the same for all requests on one.
    pub peer: SocketAddr,
    pub at: tokio::time::Instant,
}

#[derive(Default)]
struct Script {
    everywhere: Option<Behaviour>,
    by_path: HashMap<String, Behaviour>,
    hits: Vec<Hit>,
}

struct Shared {
    address: Ipv4Addr,
    script: Mutex<Script>,
}

/// A running test backend. Dropping it closes its port.
pub struct Backend {
    shared: Arc<Shared>,
    servers: Mutex<Vec<JoinHandle<()>>>,
}

/// What a server of one port answers from.
#[derive(Clone)]
struct Served {
    shared: Arc<Shared>,
    port: u16,
}

impl Backend {
    pub async fn start(address: Ipv4Addr) -> Result<Self> {
        let backend = Self {
            shared: Arc::new(Shared {
                address,
                script: Mutex::default(),
            }),
            servers: Mutex::default(),
        };
        backend.start_again().await?;
        Ok(backend)
    }

    /// Listens again after [`Self::stop`].
    pub async fn start_again(&self) -> Result<()> {
        self.listen_on(PORT).await
    }

    /// Listens on a port more, and answers there in the same way.
    pub async fn listen_on(&self, port: u16) -> Result<()> {
        let address = (self.shared.address, port);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot bind {address:?}"))?;
        let app = Router::new()
            .fallback(answer)
            .with_state(Served {
                shared: self.shared.clone(),
                port,
            })
            .into_make_service_with_connect_info::<SocketAddr>();
        let server = tokio::spawn(async move {
            // It ends only by being aborted.
            let _ = axum::serve(listener, app).await;
        });
        lock(&self.servers).push(server);
        Ok(())
    }

    /// Refuses new connections from now on; open ones live on.
    pub fn stop(&self) {
        for server in lock(&self.servers).drain(..) {
            server.abort();
        }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.shared.address
    }

    /// Answers so on every path that has no behaviour of its own.
    pub fn behave(&self, behaviour: Behaviour) {
        lock(&self.shared.script).everywhere = Some(behaviour);
    }

    /// Answers so on this path.
    pub fn behave_on(&self, path: &str, behaviour: Behaviour) {
        lock(&self.shared.script)
            .by_path
            .insert(path.to_owned(), behaviour);
    }

    /// Answers normally again, everywhere.
    pub fn recover(&self) {
        let mut script = lock(&self.shared.script);
        script.everywhere = None;
        script.by_path.clear();
    }

    /// The requests so far, in the order of their arrival.
    pub fn hits(&self) -> Vec<Hit> {
        lock(&self.shared.script).hits.clone()
    }

    /// How many requests came for this path.
    pub fn count(&self, path: &str) -> usize {
        lock(&self.shared.script)
            .hits
            .iter()
            .filter(|hit| hit.path == path)
            .count()
    }

    /// How many requests came at all.
    pub fn total(&self) -> usize {
        lock(&self.shared.script).hits.len()
    }

    pub fn forget_hits(&self) {
        lock(&self.shared.script).hits.clear();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn answer(
    State(Served { shared, port }): State<Served>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    let behaviour = {
        let mut script = lock(&shared.script);
        script.hits.push(Hit {
            method: request.method().clone(),
            path: path.clone(),
            headers: request.headers().clone(),
            port,
            peer,
            at: tokio::time::Instant::now(),
        });
        script.by_path.get(&path).copied().or(script.everywhere)
    };
    let mut status = StatusCode::OK;
    match behaviour {
        None => {}
        Some(Behaviour::Status(code)) => {
            status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        }
        Some(Behaviour::Delay(delay)) => tokio::time::sleep(delay).await,
        Some(Behaviour::Hang) => std::future::pending().await,
    }
    (status, shared.address.to_string()).into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
