//! The pages for people, below `/debug/`: on a port of their own, which listens
//! on loopback and nowhere else. Whoever may `kubectl port-forward` to the Pod
//! gets there; neither the network nor the mesh does.

use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;

/// What is known of the health of all services, or of the named one, which may
/// not be checked.
pub type HealthPage = dyn Fn(Option<&str>) -> Option<Value> + Send + Sync;

/// What is known of all bindings.
pub type BindingsPage = dyn Fn() -> Value + Send + Sync;

/// What is known of the binding of this namespace and name, which may not be
/// there.
pub type BindingPage = dyn Fn(String, String) -> Option<Value> + Send + Sync;

/// What the pages show. Cloning shares it.
#[derive(Clone)]
pub struct Pages {
    /// `/debug/health`
    pub health: Arc<HealthPage>,
    /// `/debug/bindings`
    pub bindings: Arc<BindingsPage>,
    /// `/debug/bindings/{namespace}/{name}`
    pub binding: Arc<BindingPage>,
}

/// Which service is asked for.
#[derive(Deserialize)]
struct Asked {
    service: Option<String>,
}

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener, pages: Pages) -> std::io::Result<()> {
    axum::serve(listener, router(pages)).await
}

fn router(pages: Pages) -> Router {
    Router::new()
        .route("/debug/health", get(health))
        .route("/debug/bindings", get(bindings))
        .route("/debug/bindings/{namespace}/{name}", get(binding))
        .layer(from_fn(by_its_own_name))
        .with_state(pages)
}

/// A page of the web that has its own name lead here must not read these in the
/// browser of whoever forwards the port.
async fn by_its_own_name(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    if host.is_none_or(|host| is_loopback(host.as_bytes())) {
        return next.run(request).await;
    }
    let why = "these pages answer to localhost, 127.0.0.1 and [::1] only\n";
    (StatusCode::FORBIDDEN, why).into_response()
}

fn is_loopback(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else {
        return false;
    };
    let host = authority.host();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let address = address.parse::<std::net::IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

async fn health(State(pages): State<Pages>, Query(asked): Query<Asked>) -> Response {
    let why = "this Service is not checked; name it as <namespace>/<name>\n";
    found((pages.health)(asked.service.as_deref()), why)
}

async fn bindings(State(pages): State<Pages>) -> Response {
    Json((pages.bindings)()).into_response()
}

async fn binding(
    State(pages): State<Pages>,
    Path((namespace, name)): Path<(String, String)>,
) -> Response {
    let why = "there is no such ServiceBinding, or it cannot be read\n";
    found((pages.binding)(namespace, name), why)
}

fn found(page: Option<Value>, otherwise: &'static str) -> Response {
    match page {
        Some(page) => Json(page).into_response(),
        None => (StatusCode::NOT_FOUND, otherwise).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_answer_to_names_of_loopback_only() {
        for good in [
            "localhost",
            "LocalHost:8081",
            "127.0.0.1:8081",
            "[::1]:8081",
            "127.9.9.9",
        ] {
            assert!(is_loopback(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1:8081",
            "0.0.0.0",
            "[::2]",
        ] {
            assert!(!is_loopback(bad.as_bytes()), "{bad}");
        }
    }
}
