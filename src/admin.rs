//! The one port for machines that watch over the operator: `/metrics`,
//! `/livez`, `/readyz`. The pages for people have [another](debug).

pub mod debug;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics::Metrics;

/// Named gates that must all be open before the operator calls itself ready.
/// Cloning shares them.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<(&'static str, bool)>>>);

impl Readiness {
    /// Opens or closes a gate. A gate that was never named does not count.
    pub fn set(&self, gate: &'static str, open: bool) {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match gates.iter_mut().find(|(name, _)| *name == gate) {
            Some(known) => known.1 = open,
            None => gates.push((gate, open)),
        }
    }

    /// The gates that are closed.
    pub fn closed(&self) -> Vec<&'static str> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates
            .iter()
            .filter(|(_, open)| !open)
            .map(|(name, _)| *name)
            .collect()
    }
}

#[derive(Clone)]
struct Served {
    metrics: Metrics,
    readiness: Readiness,
}

/// Opens the port.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    readiness: Readiness,
) -> std::io::Result<()> {
    axum::serve(listener, router(metrics, readiness)).await
}

fn router(metrics: Metrics, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(exposition))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Served { metrics, readiness })
}

async fn exposition(State(served): State<Served>) -> Response {
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
