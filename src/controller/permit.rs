//! Lets a request that changes something pass only while this process leads,
//! and cuts off those under way when that ends. No IO of its own.
//!
//! The API server knows no terms: a request that it has received is carried
//! out, whoever leads by then. So a term ends for us well before others may
//! take over (see [`crate::domain::election`]), and every write carries a
//! precondition besides.

use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use kube::client::Body;
use tower::{BoxError, Layer, Service};

use super::leadership::{Leadership, NotLeader};

/// Puts the permit in front of a client.
#[derive(Clone, Debug)]
pub(crate) struct Permit(pub(crate) Leadership);

impl<S> Layer<S> for Permit {
    type Service = Permitted<S>;

    fn layer(&self, inner: S) -> Permitted<S> {
        Permitted {
            inner,
            leadership: self.0.clone(),
        }
    }
}

/// A client that needs the permit.
pub(crate) struct Permitted<S> {
    inner: S,
    leadership: Leadership,
}

impl<S, B> Service<Request<Body>> for Permitted<S>
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
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        // A future does nothing before it is awaited.
        let answer = self.inner.call(request);
        if reads {
            return answer.map(|answer| answer.map_err(Into::into)).boxed();
        }
        let leadership = self.leadership.clone();
        async move {
            let _pass = leadership.pass()?;
            tokio::select! {
                biased;
                () = leadership.over() => Err(NotLeader.into()),
                answer = answer => answer.map_err(Into::into),
            }
        }
        .boxed()
    }
}
