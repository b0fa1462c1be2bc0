//! The one port for machines that watch over the operator: `/metrics`,
//! `/livez`, `/readyz`; and `/debug/health` for people.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
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
    health: Arc<HealthPage>,
}

/// What is known of the health of all services, or of the named one, which may
/// not be checked.
pub type HealthPage = dyn Fn(Option<&str>) -> Option<Value> + Send + Sync;

/// Which service is asked for.
#[derive(Deserialize)]
struct Asked {
    service: Option<String>,
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
    health: Arc<HealthPage>,
) -> std::io::Result<()> {
    axum::serve(listener, router(metrics, readiness, health)).await
}

fn router(metrics: Metrics, readiness: Readiness, health: Arc<HealthPage>) -> Router {
    Router::new()
        .route("/metrics", get(exposition))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/debug/health", get(checks))
        .with_state(Served {
            metrics,
            readiness,
            health,
        })
}

async fn exposition(State(served): State<Served>) -> Response {
    match served.metrics.exposition() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn checks(State(served): State<Served>, Query(asked): Query<Asked>) -> Response {
    match (served.health)(asked.service.as_deref()) {
        Some(known) => Json(known).into_response(),
        None => {
            let why = "this Service is not checked; name it as <namespace>/<name>\n";
            (StatusCode::NOT_FOUND, why).into_response()
        }
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
