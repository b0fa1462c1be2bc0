//! Lists and watches on connections of their own. A connection keeps the room that it
//! needed for its largest answer. Behind a list a watch would keep it for as long as it
//! lives, in which next to nothing comes; a connection that only lists came by is closed by
//! the API server when nobody asks there for a while. No IO of its own.

use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower::Service;

use super::guard::is_watch;

/// Two clients of the same API server.
#[derive(Clone)]
pub(super) struct Apart {
    /// The one of watches.
    pub(super) watches: Client,
    /// The one of everything else.
    pub(super) lists: Client,
}

impl Service<Request<Body>> for Apart {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, kube::Error>>;

    /// Each waits for its own connections.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = if is_watch(&request) {
            self.watches.clone()
        } else {
            self.lists.clone()
        };
        async move { client.send(request).await }.boxed()
    }
}
