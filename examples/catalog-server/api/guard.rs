//! What stands in front of every call: the key, the bounds and the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::App;
use crate::problem::Problem;

/// No call takes longer to answer than this.
const DEADLINE: Duration = Duration::from_secs(10);

/// The key that clients must send. Only its digest is kept, so that it cannot
/// be printed, and comparing takes the same time whatever was sent.
pub(crate) struct ApiKey([u8; 32]);

impl ApiKey {
    pub(crate) fn new(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    fn opens(&self, sent: &[u8]) -> bool {
        let sent: [u8; 32] = Sha256::digest(sent).into();
        let difference = self.0.iter().zip(sent).fold(0, |all, (a, b)| all | (a ^ b));
        difference == 0
    }
}

/// Lets a request pass that carries the key.
pub(super) async fn authenticate(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(key) = &app.key else {
        return next.run(request).await;
    };
    match request.headers().get("x-api-key") {
        Some(sent) if key.opens(sent.as_bytes()) => next.run(request).await,
        Some(_) => Problem::new(
            StatusCode::UNAUTHORIZED,
            "the API key in X-API-Key is wrong",
        )
        .into_response(),
        None => {
            Problem::new(StatusCode::UNAUTHORIZED, "send the API key in X-API-Key").into_response()
        }
    }
}

/// Turns requests away that are too many, and ends those that take too long.
pub(super) async fn bound(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Ok(_place) = app.requests.try_acquire() else {
        return Problem::unavailable("too many requests at once; try again").into_response();
    };
    match tokio::time::timeout(DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("the request took too long; try again").into_response(),
    }
}

/// One line per request.
pub(super) async fn log(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        duration = ?started.elapsed(),
        "request"
    );
    response
}

#[cfg(test)]
mod tests {
    use super::ApiKey;

    #[test]
    fn only_the_key_itself_opens() {
        let key = ApiKey::new("secret");
        assert!(key.opens(b"secret"));
        for wrong in ["", "secre", "secret ", "Secret"] {
            assert!(!key.opens(wrong.as_bytes()), "{wrong:?}");
        }
    }
}
