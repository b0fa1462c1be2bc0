//! When is it believed that the API server does not have a kind or a namespace, or
//! not for us?
//!
//! One that has just started knows neither its custom kinds nor its roles yet, and
//! says 404 and 403 like one that has none. It says by `/readyz` when it does; that
//! path is open to everybody, by a role of Kubernetes' own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use http::Request;
use kube::Client;
use tokio::time::timeout;

/// So many refusals in a row are believed also of a server that says nothing about
/// itself; they take more than ten seconds. That it could not be reached before is
/// none.
const CERTAIN: u32 = 6;

/// How long a server may take to say whether it is ready. One that has just refused a
/// list does answer.
const TO_SAY_SO: Duration = Duration::from_secs(2);

/// Nothing was refused last.
const NOTHING: u8 = 0;
/// It refused, and was not ready since.
const REFUSED: u8 = 1;
/// It refused, and was ready before it was asked again.
const READY: u8 = 2;

/// Whether the server was ready before it refused, and how often it did in a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    last: AtomicU8,
    in_a_row: AtomicU32,
}

impl Refusals {
    /// Asks, where the last list or read was refused, whether the server is ready
    /// for the next one.
    pub(super) async fn before_a_try(&self, client: &Client) {
        if self.0.last.load(Ordering::Relaxed) != NOTHING {
            let ready = timeout(TO_SAY_SO, is_ready(client)).await;
            let found = if ready == Ok(true) { READY } else { REFUSED };
            self.0.last.store(found, Ordering::Relaxed);
        }
    }

    /// It was refused. Says whether that is to be believed.
    pub(super) fn one_more(&self) -> bool {
        let known = self.0.last.swap(REFUSED, Ordering::Relaxed);
        let before = self.0.in_a_row.fetch_add(1, Ordering::Relaxed);
        known == READY || before.saturating_add(1) >= CERTAIN
    }

    /// It came, or it was something else that failed.
    pub(super) fn are_over(&self) {
        self.0.last.store(NOTHING, Ordering::Relaxed);
        self.0.in_a_row.store(0, Ordering::Relaxed);
    }
}

async fn is_ready(client: &Client) -> bool {
    let Ok(request) = Request::get("/readyz").body(Vec::new()) else {
        return false;
    };
    client.request_text(request).await.is_ok()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Response;
    use tower::BoxError;

    use super::*;

    /// A server that says so of itself, and how often it was asked.
    fn server(ready: bool) -> (Client, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            assert_eq!(request.uri().path(), "/readyz");
            counted.fetch_add(1, Ordering::Relaxed);
            let code = if ready { 200 } else { 500 };
            let answer = Response::builder().status(code).body(Body::from("ok"));
            std::future::ready(answer.map_err(BoxError::from))
        });
        (Client::new(service, "default"), asked)
    }

    #[tokio::test]
    async fn a_server_that_was_ready_before_it_refused_is_believed() {
        let (refusals, (client, asked)) = (Refusals::default(), server(true));
        refusals.before_a_try(&client).await;
        assert_eq!(asked.load(Ordering::Relaxed), 0, "asked for no reason");
        assert!(!refusals.one_more());
        refusals.before_a_try(&client).await;
        assert!(refusals.one_more());
    }

    #[tokio::test]
    async fn one_that_was_not_is_believed_only_where_it_goes_on_and_on() {
        let (refusals, (client, _)) = (Refusals::default(), server(false));
        for time in 1..CERTAIN {
            refusals.before_a_try(&client).await;
            assert!(!refusals.one_more(), "{time}");
        }
        refusals.before_a_try(&client).await;
        assert!(refusals.one_more());
    }

    #[tokio::test]
    async fn one_that_could_not_be_reached_in_between_is_asked_as_often_again() {
        let (refusals, (client, _)) = (Refusals::default(), server(false));
        for time in 0..2 * CERTAIN {
            if time % (CERTAIN - 1) == 0 {
                refusals.are_over();
            }
            refusals.before_a_try(&client).await;
            assert!(!refusals.one_more(), "{time}");
        }
    }

    #[tokio::test]
    async fn that_it_was_ready_once_says_nothing_of_the_list_after_the_next() {
        let (refusals, (client, _)) = (Refusals::default(), server(true));
        assert!(!refusals.one_more());
        refusals.before_a_try(&client).await;
        refusals.are_over();
        assert!(!refusals.one_more(), "a list came in between");
        refusals.before_a_try(&client).await;
        assert!(refusals.one_more());
        assert!(!refusals.one_more(), "it was not asked again");
    }
}
