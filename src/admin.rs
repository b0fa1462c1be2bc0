//! The one port for machines that watch over the operator: `/metrics`,
//! `/livez`, `/readyz`. The pages for people have [another](debug).

pub mod debug;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Whether a gate is open now.
type IsOpen = Box<dyn Fn() -> bool + Send + Sync>;

/// Named gates that must all be open before the operator calls itself ready.
/// Whoever asks looks at each; cloning shares them.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<(&'static str, IsOpen)>>>);

impl Readiness {
    /// Adds a gate. The name says what is waited for while it is closed.
    pub fn gate(&self, name: &'static str, is_open: impl Fn() -> bool + Send + Sync + 'static) {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.push((name, Box::new(is_open)));
    }

    /// The gates that are closed.
    pub fn closed(&self) -> Vec<&'static str> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = gates.iter().filter(|(_, is_open)| !is_open());
        closed.map(|(name, _)| *name).collect()
    }
}

/// What is wrong with this process so that only a new one helps, a line for
/// each; nothing where it is alive.
pub type Liveness = dyn Fn() -> Vec<String> + Send + Sync;

/// Brings up to date what nobody counts until it is asked for.
pub type Counting = dyn Fn() + Send + Sync;

#[derive(Clone)]
struct Served {
    metrics: Metrics,
    counting: Arc<Counting>,
    liveness: Arc<Liveness>,
    readiness: Readiness,
}

/// What Linux answers where it was started without IPv6 (`EAFNOSUPPORT`).
const NO_SUCH_FAMILY: i32 = 97;

/// Opens the port.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) => match without_ipv6(address, &error) {
            Some(instead) => TcpListener::bind(instead).await,
            None => Err(error),
        },
        bound => bound,
    }
}

/// What to listen on instead where there is no IPv6: every address is then every
/// one of IPv4. Who asks for a certain address gets that one or none.
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let is_without = error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(NO_SUCH_FAMILY);
    let is_every = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    (is_without && is_every).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// Serves until the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    counting: Arc<Counting>,
    liveness: Arc<Liveness>,
    readiness: Readiness,
) -> io::Result<()> {
    let served = Served {
        metrics,
        counting,
        liveness,
        readiness,
    };
    axum::serve(listener, router(served)).await
}

fn router(served: Served) -> Router {
    Router::new()
        .route("/metrics", get(exposition))
        .route("/livez", get(alive))
        .route("/readyz", get(ready))
        .with_state(served)
}

async fn alive(State(served): State<Served>) -> Response {
    let wrong = (served.liveness)();
    if wrong.is_empty() {
        return "ok\n".into_response();
    }
    let wrong = wrong.join("; ");
    // Whoever restarts the process for it does not say why.
    tracing::error!(wrong, "this process is stuck and wants to be started anew");
    (StatusCode::SERVICE_UNAVAILABLE, format!("{wrong}\n")).into_response()
}

async fn exposition(State(served): State<Served>) -> Response {
    (served.counting)();
    match served.metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(served): State<Served>) -> Response {
    let closed = served.readiness.closed();
    if closed.is_empty() {
        return "ok\n".into_response();
    }
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("waiting for: {}\n", closed.join(", ")),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use axum::body::{Body, to_bytes};
    use clap::Parser as _;
    use http::Request;
    use tokio::net::TcpStream;
    use tower::ServiceExt;

    use super::*;
    use crate::args::Cli;

    async fn asked(served: &Served, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router(served.clone()).oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = to_bytes(answer.into_body(), 1_000_000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn by_default_it_is_reached_over_ipv4_and_ipv6() {
        let mut listen = Cli::try_parse_from(["x"]).unwrap().run.listen;
        listen.set_port(0);
        let listener = bind(listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut hosts = vec!["127.0.0.1"];
        // Not every machine that runs this has it.
        if TcpListener::bind("[::1]:0").await.is_ok() {
            hosts.push("::1");
        }
        for host in hosts {
            let reached = TcpStream::connect((host, port)).await;
            assert!(reached.is_ok(), "{host}: {reached:?}");
        }
    }

    #[test]
    fn without_ipv6_every_address_is_every_one_of_ipv4() {
        let instead = |address: &str, error: io::Error| {
            let instead = without_ipv6(address.parse().unwrap(), &error);
            instead.map(|address| address.to_string())
        };
        let without = || io::Error::from_raw_os_error(NO_SUCH_FAMILY);
        let ipv4 = Some("0.0.0.0:8080".to_owned());
        assert_eq!(instead("[::]:8080", without()), ipv4);
        let unavailable = io::ErrorKind::AddrNotAvailable.into();
        assert_eq!(instead("[::]:8080", unavailable), ipv4);
        assert_eq!(instead("[::1]:8080", without()), None);
        let taken = io::ErrorKind::AddrInUse.into();
        assert_eq!(instead("[::]:8080", taken), None);
    }

    #[tokio::test]
    async fn it_is_ready_when_every_gate_is_open_and_names_those_that_are_not() {
        let readiness = Readiness::default();
        let open = Arc::new(AtomicBool::new(false));
        let is_open = Arc::clone(&open);
        readiness.gate("first list of Pods", move || {
            is_open.load(Ordering::Relaxed)
        });
        readiness.gate("something else", || true);
        let served = Served {
            metrics: Metrics::new().unwrap(),
            counting: Arc::new(|| ()),
            liveness: Arc::new(Vec::new),
            readiness,
        };
        let (status, said) = asked(&served, "/readyz").await;
        assert_eq!(
            (status, said.as_str()),
            (503, "waiting for: first list of Pods\n")
        );
        open.store(true, Ordering::Relaxed);
        assert_eq!(asked(&served, "/readyz").await, (200, "ok\n".to_owned()));
    }

    #[tokio::test]
    async fn it_is_alive_until_something_is_stuck_which_it_names() {
        let stuck = Arc::new(AtomicBool::new(false));
        let is_stuck = Arc::clone(&stuck);
        let wrong = move || {
            let stuck = is_stuck.load(Ordering::Relaxed);
            stuck.then(|| "a 61 s ago".to_owned()).into_iter().collect()
        };
        let served = Served {
            metrics: Metrics::new().unwrap(),
            counting: Arc::new(|| ()),
            liveness: Arc::new(wrong),
            readiness: Readiness::default(),
        };
        assert_eq!(asked(&served, "/livez").await, (200, "ok\n".to_owned()));
        stuck.store(true, Ordering::Relaxed);
        let said = asked(&served, "/livez").await;
        assert_eq!(said, (503, "a 61 s ago\n".to_owned()));
    }

    #[tokio::test]
    async fn metrics_are_counted_whenever_they_are_asked_for_and_only_then() {
        let metrics = Metrics::new().unwrap();
        let (counted, bindings) = (Arc::new(AtomicUsize::new(0)), metrics.clone());
        let times = Arc::clone(&counted);
        let served = Served {
            metrics,
            counting: Arc::new(move || {
                let times = times.fetch_add(1, Ordering::Relaxed) + 1;
                bindings.objects(times, 0, 0);
            }),
            liveness: Arc::new(Vec::new),
            readiness: Readiness::default(),
        };
        asked(&served, "/readyz").await;
        assert_eq!(counted.load(Ordering::Relaxed), 0);
        for times in 1..=2 {
            let (_, text) = asked(&served, "/metrics").await;
            let line = format!("catalog_mesh_servicebindings {times}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
