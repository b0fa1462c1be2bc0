//! What the library leaves out between two requests of a watch: the answer's
//! head has a deadline, and a watch that the server closes at once is not
//! started in a loop. No IO of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use tokio::time::{Instant, sleep_until, timeout};
use tower::{BoxError, Layer, Service};

use crate::domain::retry;

/// How long the head of an answer may take. A watch's head comes at once; a
/// page of a list is read from memory.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);

// Whatever hung when it was mended, half a minute later it is asked for anew.
const _: () = assert!(HEAD_DEADLINE.as_secs() + retry::WATCH.cap.as_secs() < 30);

/// Least time between two starts of a watch on the same resource.
pub(crate) const BETWEEN_STARTS: Duration = Duration::from_secs(1);

/// Puts the guard in front of a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// Resource → when its next watch may start.
    starts: Arc<Mutex<HashMap<String, Instant>>>,
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            guard: self.clone(),
        }
    }
}

/// A client behind the guard.
pub(crate) struct Guarded<S> {
    inner: S,
    guard: Guard,
}

impl<S, B> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let start = self.guard.start(&request);
        // A future does nothing before it is awaited.
        let answer = self.inner.call(request);
        async move {
            if let Some(start) = start {
                sleep_until(start).await;
            }
            match timeout(HEAD_DEADLINE, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(format!(
                    "the API server did not answer within {} s",
                    HEAD_DEADLINE.as_secs()
                )
                .into()),
            }
        }
        .boxed()
    }
}

/// Whether the request is that of a watch.
pub(super) fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = query.split('&');
    pairs.any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

impl Guard {
    /// When the request may start, where it is that of a watch.
    fn start(&self, request: &Request<Body>) -> Option<Instant> {
        if !is_watch(request) {
            return None;
        }
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let next = starts
            .entry(request.uri().path().to_owned())
            .or_insert_with(Instant::now);
        let start = (*next).max(Instant::now());
        *next = start + BETWEEN_STARTS;
        Some(start)
    }
}
