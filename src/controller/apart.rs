//! Lists and watches on connections of their own. A connection keeps the room that it
//! needed for its largest answer. Behind a list a watch would keep it for as long as it
//! lives, in which next to nothing comes; a connection that only lists came by is closed by
//! the API server when nobody asks there for a while. No IO of its own.

use std::task::{Context, Poll};

use axum::body::{Body as Either, Bytes, HttpBody};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower::{BoxError, Layer, Service};

use super::guard::is_watch;

/// Sends all but watches to this client.
#[derive(Clone)]
pub(super) struct Apart(pub(super) Client);

impl<S> Layer<S> for Apart {
    type Service = OfWatches<S>;

    fn layer(&self, watches: S) -> OfWatches<S> {
        let lists = self.0.clone();
        OfWatches { watches, lists }
    }
}

/// A service of watches, and the client of everything else.
pub(super) struct OfWatches<S> {
    watches: S,
    lists: Client,
}

impl<S, B> Service<Request<Body>> for OfWatches<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Either>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.watches.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_watch(&request) {
            let answer = self.watches.call(request);
            return async move { Ok(answer.await.map_err(Into::into)?.map(Either::new)) }.boxed();
        }
        let lists = self.lists.clone();
        async move { Ok(lists.send(request).await?.map(Either::new)) }.boxed()
    }
}
