//! The HTTP side: docs/catalog-api.yaml says what each call does.

mod body;
mod events;
pub(crate) mod guard;
mod list;
mod path;
mod reports;
mod services;
pub(crate) mod token;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post, put};
use tokio::sync::{Semaphore, watch};

use crate::problem::Problem;
use crate::store::{self, Store};
use guard::Access;

const RECORD_BYTES: usize = 1 << 20;
const BATCH_BYTES: usize = 16 << 20;

/// What every call may need.
pub(crate) struct App {
    pub(crate) store: Arc<Store>,
    /// What opens every call but `/healthz`.
    pub(crate) access: Access,
    /// Requests that may be worked on at once.
    pub(crate) requests: Semaphore,
    /// Event streams that may be open at once.
    pub(crate) streams: Arc<Semaphore>,
    /// After this time an event stream is ended, and its client resumes.
    pub(crate) stream_age: Duration,
    /// Where the catalog stood at the last look; streams read when it moves.
    pub(crate) news: watch::Receiver<store::State>,
    /// Turns true when the server is to stop.
    pub(crate) stopping: watch::Receiver<bool>,
}

type Shared = State<Arc<App>>;

/// All calls of the API.
pub(crate) fn router(app: Arc<App>) -> Router {
    let calls = Router::new()
        .route("/api/v1/services", get(list::list).post(services::create))
        .route(
            "/api/v1/services/{id}",
            get(services::read)
                .put(services::put)
                .delete(services::delete),
        )
        .layer(DefaultBodyLimit::max(RECORD_BYTES))
        .merge(
            Router::new()
                .route(
                    "/api/v1/services/{id}/endpoints",
                    put(reports::put_endpoints),
                )
                .route("/api/v1/health:batch", post(reports::report_health))
                .layer(DefaultBodyLimit::max(BATCH_BYTES)),
        )
        .route("/api/v1/events", get(events::follow))
        .layer(from_fn_with_state(app.clone(), guard::authenticate));
    Router::new()
        .route("/healthz", get(healthz))
        .merge(calls)
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has no such method",
            )
        })
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path"))
        .layer(from_fn_with_state(app.clone(), guard::bound))
        .layer(from_fn(guard::log))
        .with_state(app)
}

async fn healthz(State(app): Shared) -> Result<&'static str, Problem> {
    app.store.state().await?;
    Ok("ok\n")
}
