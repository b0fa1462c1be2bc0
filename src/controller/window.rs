//! How many writes may be under way at the API server at once? As many as it bears:
//! half as many where it turns requests away or slows down, and one more with each
//! second in which it did neither. Waits; no IO of its own.
//!
//! Labels and annotations of Pods never wait here: they take dead endpoints out of
//! the mesh, and are few.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::RETRY_AFTER;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// However hard it gets, so many writes may be under way at once.
const LEAST: usize = 4;
/// However well it goes, no more.
const MOST: usize = 64;
/// What takes longer says that the server has too much to do, where more than one
/// write in twenty does.
const SLOW: Duration = Duration::from_secs(1);
/// How long an answer to a change of the limit is waited for before the next one.
const TURN: Duration = Duration::from_secs(1);

/// The limit, and what was seen since its present turn began.
#[derive(Debug)]
struct Limit {
    writes: usize,
    began: Instant,
    answers: u32,
    slow: u32,
    halved: bool,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self::turn(MOST, now)
    }

    fn turn(writes: usize, began: Instant) -> Self {
        Self {
            writes,
            began,
            answers: 0,
            slow: 0,
            halved: false,
        }
    }

    /// A write was answered after so long, or was turned away.
    fn answered(&mut self, now: Instant, took: Duration, turned_away: bool) {
        self.answers += 1;
        self.slow += u32::from(took > SLOW);
        if turned_away && !self.halved {
            self.halve();
        }
        if now.duration_since(self.began) < TURN {
            return;
        }
        if !self.halved && self.slow * 20 > self.answers {
            self.halve();
        } else if !self.halved {
            self.writes = (self.writes + 1).min(MOST);
        }
        *self = Self::turn(self.writes, now);
    }

    fn halve(&mut self) {
        self.writes = (self.writes / 2).max(LEAST);
        self.halved = true;
    }
}

/// The places under the limit. Who waits is served in order.
#[derive(Clone, Debug)]
pub(crate) struct Window(Arc<Places>);

#[derive(Debug)]
struct Places {
    free: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limit: Limit,
    /// Places that are to go as soon as they are given back.
    surplus: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self(Arc::new(Places {
            free: Semaphore::new(MOST),
            state: Mutex::new(State {
                limit: Limit::new(Instant::now()),
                surplus: 0,
            }),
        }))
    }
}

/// A place, until it is dropped.
struct Place(Arc<Places>);

impl Places {
    fn answered(&self, took: Duration, turned_away: bool) {
        let mut state = self.state();
        let before = state.limit.writes;
        state.limit.answered(Instant::now(), took, turned_away);
        let now = state.limit.writes;
        if now < before {
            state.surplus += before - now - self.free.forget_permits(before - now);
            tracing::info!(
                writes = now,
                turned_away,
                "the API server has too much to do: fewer writes are sent at once"
            );
        } else if now > before {
            let (kept, new) = (state.surplus, now - before);
            state.surplus = kept.saturating_sub(new);
            self.free.add_permits(new.saturating_sub(kept));
        }
    }

    /// Each value in here is whole by itself, so a poisoned lock is used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    async fn place(&self) -> Option<Place> {
        // Nobody closes the semaphore.
        self.0.free.acquire().await.ok()?.forget();
        Some(Place(Arc::clone(&self.0)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if state.surplus > 0 {
            state.surplus -= 1;
        } else {
            self.0.free.add_permits(1);
        }
    }
}

impl<S> Layer<S> for Window {
    type Service = Windowed<S>;

    fn layer(&self, inner: S) -> Windowed<S> {
        Windowed {
            inner,
            window: self.clone(),
        }
    }
}

/// A client whose writes wait for a place.
pub(crate) struct Windowed<S> {
    inner: S,
    window: Window,
}

impl<S, B> Service<Request<Body>> for Windowed<S>
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
        let waits = waits(&request);
        // A future does nothing before it is awaited.
        let answer = self.inner.call(request);
        if !waits {
            return answer.map(|answer| answer.map_err(Into::into)).boxed();
        }
        let window = self.window.clone();
        async move {
            let place = window.place().await;
            let sent = Instant::now();
            let answer = answer.await.map_err(Into::into);
            // Who got no answer at all says nothing of how busy it is.
            if let (Some(place), Ok(answer)) = (&place, &answer) {
                place.0.answered(sent.elapsed(), turns_away(answer));
            }
            answer
        }
        .boxed()
    }
}

fn waits(request: &Request<Body>) -> bool {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    !reads && !request.uri().path().contains("/pods/")
}

fn turns_away<B>(answer: &Response<B>) -> bool {
    answer.status() == StatusCode::TOO_MANY_REQUESTS
        || answer.status().is_server_error() && answer.headers().contains_key(RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn seconds_of(limit: &mut Limit, seconds: u32, took: Duration, turned_away: bool) {
        let from = limit.began;
        for tenth in 1..=seconds * 10 {
            limit.answered(from + tenth * TURN / 10, took, turned_away);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_halved_once_a_second_at_the_most_and_never_below_the_least() {
        let mut limit = Limit::new(Instant::now());
        for _ in 0..9 {
            limit.answered(limit.began + TURN / 2, MS, true);
        }
        assert_eq!(limit.writes, MOST / 2);
        seconds_of(&mut limit, 1, MS, true);
        assert_eq!(
            limit.writes,
            MOST / 2,
            "the second is not over before its end"
        );
        seconds_of(&mut limit, 30, MS, true);
        assert_eq!(limit.writes, LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_by_one_with_each_good_second_up_to_the_most() {
        let mut limit = Limit::new(Instant::now());
        seconds_of(&mut limit, 30, MS, true);
        seconds_of(&mut limit, 7, MS, false);
        assert_eq!(limit.writes, LEAST + 7);
        seconds_of(&mut limit, 100, MS, false);
        assert_eq!(limit.writes, MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_slows_down_is_spared_and_a_single_slow_write_in_many_is_nothing() {
        let mut limit = Limit::new(Instant::now());
        seconds_of(&mut limit, 2, 2 * SLOW, false);
        assert_eq!(limit.writes, MOST / 4);
        let from = limit.began;
        for n in 1..=100 {
            let took = if n == 50 { 2 * SLOW } else { MS };
            limit.answered(from + n * TURN / 100, took, false);
        }
        assert_eq!(limit.writes, MOST / 4 + 1);
    }

    /// A server that turns writes away or not, and how many it had at once.
    #[derive(Default)]
    struct Server {
        now: AtomicUsize,
        most: AtomicUsize,
        busy: AtomicUsize,
    }

    async fn write(server: Arc<Server>, window: Window, path: &'static str) {
        let service = tower::service_fn(move |_| {
            let server = Arc::clone(&server);
            async move {
                let now = server.now.fetch_add(1, Ordering::Relaxed) + 1;
                server.most.fetch_max(now, Ordering::Relaxed);
                sleep(100 * MS).await;
                server.now.fetch_sub(1, Ordering::Relaxed);
                let status = match server.busy.load(Ordering::Relaxed) {
                    0 => StatusCode::OK,
                    _ => StatusCode::TOO_MANY_REQUESTS,
                };
                let answer = Response::builder().status(status).body(());
                answer.map_err(BoxError::from)
            }
        });
        let request = Request::patch(path).body(Body::empty()).unwrap();
        let mut client = window.layer(service);
        client.call(request).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_under_way_than_the_limit_and_all_get_their_turn() {
        let (server, window) = (Arc::new(Server::default()), Window::default());
        let many = |path| {
            let writes = (0..300).map(|_| write(Arc::clone(&server), window.clone(), path));
            join_all(writes)
        };
        many("/x/vs").await;
        assert_eq!(server.most.swap(0, Ordering::Relaxed), MOST);
        server.busy.store(1, Ordering::Relaxed);
        for _ in 0..5 {
            many("/x/vs").await;
            advance(TURN).await;
        }
        server.most.store(0, Ordering::Relaxed);
        many("/x/vs").await;
        assert_eq!(server.most.swap(0, Ordering::Relaxed), LEAST);
        // What takes a dead endpoint out waits for none of them.
        many("/api/v1/namespaces/x/pods/y").await;
        assert_eq!(server.most.swap(0, Ordering::Relaxed), 300);
        server.busy.store(0, Ordering::Relaxed);
        for _ in 0..MOST {
            advance(TURN).await;
            many("/x/vs").await;
        }
        assert_eq!(server.most.load(Ordering::Relaxed), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_given_up_gives_its_place_back() {
        let (server, window) = (Arc::new(Server::default()), Window::default());
        for _ in 0..2 {
            let writes = (0..MOST).map(|_| write(Arc::clone(&server), window.clone(), "/x/vs"));
            let given_up = tokio::time::timeout(MS, join_all(writes)).await;
            assert!(given_up.is_err());
        }
        assert_eq!(window.0.free.available_permits(), MOST);
    }
}
