//! One task per watched kind: it keeps the world in step with the API server
//! and asks the queue for a look at what a change concerns.
//!
//! A watch that fails slows down nobody else: it has its own back-off, and is
//! built anew, which lists again, when it keeps failing.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube_runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, sleep_until};

use crate::domain::retry;

/// Shorter than the 240 s after which some load balancers drop a silent
/// connection.
const WATCH_TIMEOUT: u32 = 200;

/// Objects per page of a list.
const PAGE: u32 = 250;

/// Failures in a row after which a watch is given up and listed anew: a server
/// that answers 410 to the start of a watch would be asked for ever otherwise.
const GIVE_UP_AFTER: u32 = 4;

/// Least time between two events that begin a list or follow a failure, so
/// that a server that closes each watch at once is not asked in a loop.
const LEAST_PAUSE: Duration = Duration::from_secs(1);

/// Follows one kind for ever. `sink` takes each event; `failed` is told of
/// each failure and how many there were in a row.
pub async fn follow<K>(
    api: impl Fn() -> Api<K>,
    mut sink: impl FnMut(Event<K>),
    mut failed: impl FnMut(&watcher::Error, u32),
) where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default()
        .timeout(WATCH_TIMEOUT)
        .page_size(PAGE);
    let mut failures = 0;
    loop {
        let started = Instant::now();
        let mut events = std::pin::pin!(watcher(api(), config.clone()));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // The beginning of a list is not yet a success.
                    if !matches!(event, Event::Init) {
                        failures = 0;
                    }
                    sink(event);
                }
                Err(error) => {
                    failures += 1;
                    failed(&error, failures);
                    sleep(retry::WATCH.delay(failures, fastrand::f64())).await;
                    if failures % GIVE_UP_AFTER == 0 {
                        break;
                    }
                }
            }
        }
        sleep_until(started + LEAST_PAUSE).await;
    }
}
