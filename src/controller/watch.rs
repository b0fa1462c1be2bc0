//! One task per watched kind: it keeps the world in step with the API server
//! and asks the queue for a look at what a change concerns.
//!
//! A watch that fails slows down nobody else: it has its own back-off, and is
//! built anew, which lists again, when it keeps failing.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use kube::Api;
use kube_runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use crate::domain::retry;

/// Shorter than the 240 s after which some load balancers drop a silent
/// connection.
pub(crate) const WATCH_TIMEOUT: u32 = 200;

/// Objects per page of a list. With twice as many a start is no faster, and takes a
/// quarter more memory.
const PAGE: u32 = 250;

/// Failures in a row after which a watch is given up and listed anew.
const GIVE_UP_AFTER: u32 = 4;

/// A watch that went on for so long after a failure has recovered from it.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Follows one kind for ever. `api` is asked for anew with each list after a
/// watch was given up; `sink` takes each event; `failed` is told of each
/// failure and how many there were in a row.
///
/// How often a watch may start is the client's matter (see [`super::guard`]):
/// the library starts one that was closed without an error by itself.
pub async fn follow<K>(
    api: impl Fn() -> BoxFuture<'static, Api<K>>,
    sink: impl FnMut(Event<K>),
    failed: impl FnMut(&watcher::Error, u32),
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow_some(api, "", sink, failed).await;
}

/// The same for those objects alone that this field selector selects.
pub async fn follow_some<K>(
    api: impl Fn() -> BoxFuture<'static, Api<K>>,
    fields: &str,
    mut sink: impl FnMut(Event<K>),
    mut failed: impl FnMut(&watcher::Error, u32),
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut config = watcher::Config::default()
        .timeout(WATCH_TIMEOUT)
        .page_size(PAGE);
    if !fields.is_empty() {
        config = config.fields(fields);
    }
    let mut failures = Failures::default();
    loop {
        let mut events = std::pin::pin!(watcher(api().await, config.clone()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // A list proves nothing yet: it may end in a watch that
                    // fails, and so in the next list.
                    if matches!(event, Event::Apply(_) | Event::Delete(_)) {
                        failures = Failures::default();
                    }
                    sink(event);
                }
                Err(error) => {
                    let count = failures.one_more(Instant::now());
                    failed(&error, count);
                    sleep(retry::WATCH.delay(count, fastrand::f64())).await;
                    if count % GIVE_UP_AFTER == 0 || is_gone(&error) {
                        break;
                    }
                }
            }
        }
    }
}

/// Whether the server no longer knows the version that the watch was to start
/// from, or the kind: the library would ask for the same one for ever, and only
/// a list says what is so. Where the list itself is refused, the kind may be
/// there under another version.
fn is_gone(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 404 | 410)
        }
        refused => is_list_refused(refused),
    }
}

/// Whether the server says that it has no such kind, or not for us.
pub(super) fn is_list_refused(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status))
        if matches!(status.code, 403 | 404))
}

/// Failures of a watch in a row.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    last: Option<Instant>,
}

impl Failures {
    /// How many there are with this one.
    fn one_more(&mut self, now: Instant) -> u32 {
        // The pause that followed the last one is no recovery.
        let pause = retry::WATCH.delay(self.count, 1.0);
        if self
            .last
            .is_some_and(|last| now > last + pause + RECOVERED_AFTER)
        {
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
        self.count
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use axum::body::Body;
    use futures::{FutureExt, stream};
    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Service;
    use kube::client::ClientBuilder;
    use serde_json::{Value, json};
    use tokio::time::timeout;
    use tower::BoxError;

    use super::super::guard::Guard;
    use super::super::watches::failure;
    use super::*;
    use crate::metrics::Metrics;

    /// What the stub answers to.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Asked {
        List,
        Watch,
    }

    #[derive(Default)]
    struct Counts {
        lists: AtomicUsize,
        watches: AtomicUsize,
        queries: Mutex<Vec<String>>,
    }

    impl Counts {
        fn all(&self) -> (usize, usize) {
            let [lists, watches] =
                [&self.lists, &self.watches].map(|count| count.load(Ordering::Relaxed));
            (lists, watches)
        }
    }

    /// How many failures the metrics show.
    fn failures(metrics: &Metrics) -> usize {
        let text = metrics.exposition().unwrap();
        let mut lines = text.lines();
        let series = "catalog_mesh_watch_errors_total{kind=\"Service\"} ";
        let count = lines.find_map(|line| line.strip_prefix(series));
        count.map_or(0, |count| count.parse().unwrap())
    }

    fn answer(code: u16, body: &Value) -> Response<Body> {
        Response::builder()
            .status(code)
            .body(Body::from(body.to_string().into_bytes()))
            .unwrap()
    }

    fn listed() -> Response<Body> {
        let list = json!({
            "apiVersion": "v1", "kind": "ServiceList",
            "metadata": {"resourceVersion": "7"}, "items": [],
        });
        answer(200, &list)
    }

    fn refused(code: u16) -> Response<Body> {
        let status = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
            "reason": "Stub", "message": "no",
        });
        answer(code, &status)
    }

    /// Follows a stub of the API server for that time; `None` is no answer.
    async fn followed(
        span: Duration,
        stub: impl Fn(Asked) -> Option<Response<Body>> + Send + Clone + 'static,
    ) -> (usize, usize, usize) {
        let counts = Arc::new(Counts::default());
        let failures = counted(span, stub, &counts).await;
        let (lists, watches) = counts.all();
        (lists, watches, failures)
    }

    /// The same, with what was asked; says how many failures there were.
    async fn counted(
        span: Duration,
        stub: impl Fn(Asked) -> Option<Response<Body>> + Send + Clone + 'static,
        counts: &Arc<Counts>,
    ) -> usize {
        let counted = Arc::clone(counts);
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let watch = request
                .uri()
                .query()
                .is_some_and(|q| q.contains("watch=true"));
            let (asked, count) = if watch {
                (Asked::Watch, &counted.watches)
            } else {
                (Asked::List, &counted.lists)
            };
            count.fetch_add(1, Ordering::Relaxed);
            let query = request.uri().query().unwrap_or_default().to_owned();
            counted.queries.lock().unwrap().push(query);
            let answer = stub(asked);
            async move {
                match answer {
                    Some(answer) => Ok::<_, BoxError>(answer),
                    None => std::future::pending().await,
                }
            }
        });
        let client = ClientBuilder::new(service, "default")
            .with_layer(&Guard::default())
            .build();
        let api = || std::future::ready(Api::<Service>::all(client.clone())).boxed();
        let metrics = Metrics::new().unwrap();
        let failed = failure(&metrics, "Service");
        let _ = timeout(span, follow(api, |_| (), failed)).await;
        failures(&metrics)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    // trap 6
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_closed_at_once_is_started_once_a_second() {
        let (lists, watches, _) = followed(MINUTE, |asked| match asked {
            Asked::List => Some(listed()),
            Asked::Watch => Some(Response::new(Body::empty())),
        })
        .await;
        assert!((50..=61).contains(&watches), "{watches}");
        assert_eq!(lists, 1);
    }

    // trap 7
    #[tokio::test(start_paused = true)]
    async fn a_410_at_the_start_of_a_watch_leads_to_a_list_and_not_to_a_loop() {
        let (lists, watches, _) = followed(10 * MINUTE, |asked| match asked {
            Asked::List => Some(listed()),
            Asked::Watch => Some(refused(410)),
        })
        .await;
        assert!((50..=90).contains(&lists), "{lists}");
        assert_eq!(watches, lists, "each list is followed by one watch");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_goes_is_listed_at_once_which_says_that_it_is_gone() {
        let listed_before = Arc::new(AtomicUsize::default());
        let stub = move |asked| match asked {
            Asked::List if listed_before.fetch_add(1, Ordering::Relaxed) == 0 => Some(listed()),
            Asked::List | Asked::Watch => Some(refused(404)),
        };
        let (lists, watches, _) = followed(Duration::from_secs(3), stub).await;
        assert!(lists >= 2, "{lists}");
        assert_eq!(watches, 1);
    }

    // trap 7
    #[tokio::test(start_paused = true)]
    async fn a_410_as_a_watchs_only_event_leads_to_a_list_and_not_to_a_loop() {
        let (lists, watches, _) = followed(10 * MINUTE, |asked| match asked {
            Asked::List => Some(listed()),
            Asked::Watch => Some(answer(
                200,
                &json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
                    "status": "Failure", "code": 410, "reason": "Expired", "message": "old"}}),
            )),
        })
        .await;
        assert!((50..=90).contains(&lists), "{lists}");
        assert!(watches <= lists + 1, "{watches} watches for {lists} lists");
    }

    // trap 8
    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_refused_is_tried_less_and_less_often() {
        let (lists, _, failures) = followed(10 * MINUTE, |_| Some(refused(403))).await;
        assert!((50..=90).contains(&lists), "{lists}");
        assert!(failures + 1 >= lists, "{failures} of {lists}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_denied_shows_in_the_metric_and_lists_stand_in_for_it() {
        let (lists, watches, failures) = followed(10 * MINUTE, |asked| match asked {
            Asked::List => Some(listed()),
            Asked::Watch => Some(refused(403)),
        })
        .await;
        assert!((50..=90).contains(&watches), "{watches}");
        assert!(failures + 1 >= watches, "{failures} of {watches}");
        assert!((12..=23).contains(&lists), "{lists}");
    }

    // trap 4
    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_silent_is_a_failure_for_lists_and_for_watches() {
        let (lists, watches, failures) = followed(10 * MINUTE, |_| None).await;
        assert!((10..=30).contains(&lists), "{lists}");
        assert!(
            failures + 1 >= lists && watches == 0,
            "{failures} {watches}"
        );
        let (lists, watches, failures) = followed(10 * MINUTE, |asked| match asked {
            Asked::List => Some(listed()),
            Asked::Watch => None,
        })
        .await;
        assert!((10..=40).contains(&watches), "{watches}");
        assert!(
            failures + 1 >= watches && lists < watches,
            "{failures} {lists}"
        );
    }

    // trap 4
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_falls_silent_is_begun_anew_before_anybody_cuts_it() {
        let (lists, watches, failures) = followed(60 * MINUTE, |asked| match asked {
            Asked::List => Some(listed()),
            // The head comes, and nothing after it.
            Asked::Watch => Some(Response::new(Body::from_stream(
                stream::pending::<Silence>(),
            ))),
        })
        .await;
        assert!((15..=19).contains(&watches), "{watches}");
        assert_eq!((lists, failures), (1, 0));
    }

    /// What a body without a word would say.
    type Silence = Result<Vec<u8>, BoxError>;

    // traps 11, 12, 20, 23
    #[tokio::test(start_paused = true)]
    async fn lists_come_in_small_pages_and_a_watch_ends_before_a_load_balancer_ends_it() {
        let counts = Arc::new(Counts::default());
        let stub = |asked| match asked {
            Asked::List => Some(listed()),
            Asked::Watch => None,
        };
        counted(MINUTE, stub, &counts).await;
        let queries = counts.queries.lock().unwrap();
        let (watches, lists): (Vec<_>, Vec<_>) = queries
            .iter()
            .partition(|query| query.contains("watch=true"));
        assert!(!watches.is_empty() && !lists.is_empty());
        for list in lists {
            assert!(list.contains("limit=250"), "{list}");
            // With a version the limit would be ignored, or the list be stale.
            assert!(!list.contains("resourceVersion"), "{list}");
        }
        for watch in watches {
            // Some drop a connection that was silent for 240 s.
            assert!(watch.contains("timeoutSeconds=200"), "{watch}");
            // Not every server that is still in use knows how to stream a list.
            assert!(!watch.contains("sendInitialEvents"), "{watch}");
        }
    }

    // trap 8
    #[tokio::test(start_paused = true)]
    async fn failures_far_apart_are_not_in_a_row() {
        let mut failures = Failures::default();
        let mut now = Instant::now();
        for expected in [1, 2, 3] {
            assert_eq!(failures.one_more(now), expected);
            now += Duration::from_secs(10);
        }
        now += 2 * RECOVERED_AFTER;
        assert_eq!(failures.one_more(now), 1);
    }
}
