//! What stands in front of every call: who may, the bounds and the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::App;
use super::token::{Refusal, Tokens};
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

/// What opens the catalog: any of these. Where there is none, nobody is asked.
pub(crate) struct Access {
    /// Asked for in `X-API-Key`.
    pub(crate) key: Option<ApiKey>,
    /// Asked for in `Authorization`.
    pub(crate) tokens: Option<Arc<Tokens>>,
}

impl Access {
    async fn check(&self, headers: &HeaderMap) -> Result<(), Problem> {
        if self.key.is_none() && self.tokens.is_none() {
            return Ok(());
        }
        let mut refused = None;
        if let (Some(key), Some(sent)) = (&self.key, headers.get("x-api-key")) {
            if key.opens(sent.as_bytes()) {
                return Ok(());
            }
            refused = Some("the API key in X-API-Key is wrong");
        }
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer(headers)) {
            refused = Some(match tokens.check(token).await {
                Ok(()) => return Ok(()),
                Err(Refusal::Unknown) => {
                    return Err(Problem::unavailable(
                        "the API server does not say whose token this is; try again",
                    ));
                }
                Err(Refusal::Invalid) => {
                    "the token in Authorization is not valid: it is over, revoked, or not for this catalog"
                }
                Err(Refusal::Stranger) => {
                    "the token in Authorization is of an account that is not let in"
                }
            });
        }
        let asked_for = match (&self.key, &self.tokens) {
            (Some(_), Some(_)) => {
                "send an API key in X-API-Key, or a service account's token in Authorization"
            }
            (None, Some(_)) => "send a service account's token as Authorization: Bearer",
            _ => "send the API key in X-API-Key",
        };
        Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            refused.unwrap_or(asked_for),
        ))
    }

    /// The ways in, for whoever was not let in.
    fn challenges(&self) -> impl Iterator<Item = HeaderValue> {
        let key = self.key.is_some().then_some("ApiKey");
        let token = self.tokens.is_some().then_some("Bearer");
        key.into_iter().chain(token).map(HeaderValue::from_static)
    }
}

/// What is sent as `Authorization: Bearer`, of which case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let sent = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = sent.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim_start_matches(' '))
}

/// Lets a request pass that carries what opens the catalog.
pub(super) async fn authenticate(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    match app.access.check(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                for way in app.access.challenges() {
                    response.headers_mut().append(header::WWW_AUTHENTICATE, way);
                }
            }
            response
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
    use super::*;

    #[test]
    fn only_the_key_itself_opens() {
        let key = ApiKey::new("secret");
        assert!(key.opens(b"secret"));
        for wrong in ["", "secre", "secret ", "Secret"] {
            assert!(!key.opens(wrong.as_bytes()), "{wrong:?}");
        }
    }
    #[test]
    fn a_token_is_what_follows_the_word_bearer() {
        for (sent, expected) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  a.b.c", Some("a.b.c")),
            ("Bearer", None),
            ("Basic a.b.c", None),
            ("a.b.c", None),
        ] {
            let value = HeaderValue::from_static(sent);
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            assert_eq!(bearer(&headers), expected, "{sent}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
