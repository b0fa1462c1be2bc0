//! Does a client of the mesh notice anything? Numbered requests through an
//! Envoy, one after the other at a fixed pace however long each takes, and what
//! became of each.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::MissedTickBehavior;

use super::envoy::Envoy;
use super::workload::SERVICE_PORT;

/// Longer than any policy of the tests lets a request take.
const LIMIT: Duration = Duration::from_secs(20);

/// A request that has ended.
#[derive(Clone, Debug)]
pub struct Sent {
    pub number: usize,
    /// Status and body, `200 10.240.0.12` say; or that there is none.
    pub outcome: String,
}

impl Sent {
    pub fn is_good(&self) -> bool {
        self.outcome.starts_with("200 ")
    }
}

/// The path of a request, by which a backend and Envoy's log know it.
pub fn path(number: usize) -> String {
    format!("/request/{number}")
}

/// The number of the request with this path, if it is one of these.
pub fn number(path: &str) -> Option<usize> {
    path.strip_prefix("/request/")?.parse().ok()
}

/// The numbers of those that have begun and not ended.
#[derive(Default)]
struct UnderWay(Mutex<BTreeSet<usize>>);

impl UnderWay {
    fn numbers(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Requests that go on until they are stopped.
pub struct Traffic {
    begun: Arc<AtomicUsize>,
    under_way: Arc<UnderWay>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Vec<Sent>>,
}

impl Traffic {
    /// Sends one to this host every so often.
    pub fn start(envoy: &Envoy, host: &str, every: Duration) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(LIMIT)
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let begun = Arc::new(AtomicUsize::new(0));
        let under_way = Arc::<UnderWay>::default();
        let known = (Arc::clone(&begun), Arc::clone(&under_way));
        let (url, host) = (envoy.url(SERVICE_PORT), host.to_owned());
        let task = tokio::spawn(send(http, url, host, every, known, stopped));
        Ok(Self {
            begun,
            under_way,
            stop,
            task,
        })
    }

    /// The number that the next request will have: whatever has happened by now
    /// has happened before it.
    pub fn next(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// The number of the first request that may see what happens from now on: it is
    /// under way, or the next one.
    pub fn first_to_see(&self) -> usize {
        // In this order: one that begins in between is later than both.
        let next = self.next();
        let first = self.under_way.numbers().first().copied();
        first.map_or(next, |first| first.min(next))
    }

    /// Sends no more, and returns all once the last one has ended.
    pub async fn stop(self) -> Result<Vec<Sent>> {
        self.stop.send_replace(true);
        Ok(self.task.await?)
    }
}

async fn send(
    http: reqwest::Client,
    url: String,
    host: String,
    every: Duration,
    (begun, known): (Arc<AtomicUsize>, Arc<UnderWay>),
    mut stopped: watch::Receiver<bool>,
) -> Vec<Sent> {
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut under_way = JoinSet::new();
    let mut all = Vec::new();
    loop {
        tokio::select! {
            // Also where nobody is left to stop it.
            _ = stopped.changed() => break,
            Some(ended) = under_way.join_next() => all.extend(ended.ok()),
            _ = pace.tick() => {
                // The number is taken before the request goes out.
                let number = {
                    let mut under_way = known.numbers();
                    let number = begun.fetch_add(1, Ordering::SeqCst);
                    under_way.insert(number);
                    number
                };
                let known = Arc::clone(&known);
                let request = http
                    .get(format!("{url}{}", path(number)))
                    .header(http::header::HOST, &host);
                under_way.spawn(async move {
                    let outcome = outcome(request).await.unwrap_or_else(|error| format!("{error:#}"));
                    known.numbers().remove(&number);
                    Sent { number, outcome }
                });
            }
        }
    }
    while let Some(ended) = under_way.join_next().await {
        all.extend(ended.ok());
    }
    all.sort_by_key(|sent| sent.number);
    all
}

async fn outcome(request: reqwest::RequestBuilder) -> Result<String> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    Ok(format!("{status} {}", answer.text().await?))
}
