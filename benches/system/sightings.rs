//! When did a change in the catalog reach the API server? Watches the
//! VirtualServices that come of it, or the bindings that go by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube_runtime::watcher::{self, Event, watcher};

use crate::bed::Bed;
use crate::support::wait;

/// How long the last change may take.
const LAST: Duration = Duration::from_secs(60);

/// A change that the catalog has confirmed.
pub(crate) struct Commit {
    pub(crate) name: String,
    /// The timeout, which grows from change to change.
    pub(crate) seconds: u32,
    pub(crate) at: Instant,
}

/// Which timeouts of each VirtualService were seen, and when.
type Seen = HashMap<String, Vec<(u32, Instant)>>;

/// A watch of the VirtualServices. Dropping it ends it.
pub(crate) struct Sightings {
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Sightings {
    pub(crate) fn watch(bed: &Bed) -> Self {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let (rules, sink) = (bed.ours.rules("VirtualService"), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(rules, watcher::Config::default()));
            while let Some(event) = events.next().await {
                if let Ok(Event::Apply(rule)) = event
                    && let Some(seconds) = timeout_seconds(&rule)
                {
                    let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    let of = seen.entry(rule.name_any()).or_default();
                    of.push((seconds, Instant::now()));
                }
            }
        });
        Self { seen, task }
    }

    /// From each commit to the sighting of it, or of a later one of the same
    /// binding, once there is one for each.
    pub(crate) async fn times(&self, commits: Vec<Commit>) -> Result<Vec<Duration>> {
        wait::until("the last change", LAST, async || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let sighted = |commit: &Commit| {
                let mut of = seen.get(&commit.name)?.iter();
                let (_, at) = of.find(|(seconds, _)| *seconds >= commit.seconds)?;
                Some(at.saturating_duration_since(commit.at))
            };
            let times: Vec<_> = commits.iter().filter_map(sighted).collect();
            let lost = commits.len() - times.len();
            ensure!(lost == 0, "{lost} changes have not arrived");
            Ok(times)
        })
        .await
    }
}

impl Drop for Sightings {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A watch of the ends of bindings. Dropping it ends it.
pub(crate) struct Ends {
    seen: Arc<Mutex<HashMap<String, Instant>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Ends {
    pub(crate) fn watch(bed: &Bed) -> Self {
        let seen = Arc::new(Mutex::new(HashMap::new()));
        let (bindings, sink) = (bed.ours.bindings(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(bindings, watcher::Config::default()));
            while let Some(event) = events.next().await {
                if let Ok(Event::Delete(binding)) = event {
                    let mut seen = sink.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.insert(binding.name_any(), Instant::now());
                }
            }
        });
        Self { seen, task }
    }

    /// From each of these moments to the end of the binding of that name, once
    /// all have ended.
    pub(crate) async fn times(&self, since: Vec<(String, Instant)>) -> Result<Vec<Duration>> {
        wait::until("the last end", LAST, async || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let ended = |(name, since): &(String, Instant)| {
                Some(seen.get(name)?.saturating_duration_since(*since))
            };
            let times: Vec<_> = since.iter().filter_map(ended).collect();
            let left = since.len() - times.len();
            ensure!(left == 0, "{left} bindings have not ended");
            Ok(times)
        })
        .await
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn timeout_seconds(rule: &DynamicObject) -> Option<u32> {
    let timeout = rule.data.pointer("/spec/http/0/timeout")?.as_str()?;
    timeout.strip_suffix('s')?.parse().ok()
}
