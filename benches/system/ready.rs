//! When is every binding of a fleet Ready? Watches them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube_runtime::watcher::{self, Event, watcher};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fleet::Fleet;
use crate::support::stack::condition;

/// A watch of a fleet's bindings. Dropping it ends it.
pub(crate) struct Readiness {
    /// How many are Ready, and when that was seen.
    ready: watch::Receiver<(usize, Instant)>,
    task: JoinHandle<()>,
}

impl Readiness {
    pub(crate) fn watch(fleet: &Fleet) -> Self {
        let (sender, ready) = watch::channel((0, Instant::now()));
        let bindings = fleet.bindings();
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(bindings, watcher::Config::default()));
            let mut names = HashSet::new();
            while let Some(event) = events.next().await {
                // A watch that broke comes back by itself.
                let Ok(event) = event else { continue };
                match event {
                    Event::Apply(binding) | Event::InitApply(binding) if is_ready(&binding) => {
                        names.insert(binding.name_any());
                    }
                    Event::Apply(binding) | Event::InitApply(binding) | Event::Delete(binding) => {
                        names.remove(&binding.name_any());
                    }
                    Event::Init | Event::InitDone => {}
                }
                sender.send_replace((names.len(), Instant::now()));
            }
        });
        Self { ready, task }
    }

    /// Waits until so many are Ready and returns when that was.
    pub(crate) async fn wait(&mut self, count: usize, limit: Duration) -> Result<Instant> {
        let reached = self.ready.wait_for(|(ready, _)| *ready >= count);
        let reached = tokio::time::timeout(limit, reached)
            .await
            .map(|seen| seen.map(|seen| seen.1));
        match reached {
            Ok(seen) => seen.context("the watch of the bindings ended"),
            Err(_) => {
                let so_far = self.ready.borrow().0;
                bail!("{so_far} of {count} bindings are Ready after {limit:?}")
            }
        }
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_ready(binding: &ServiceBinding) -> bool {
    let observed = binding.status.as_ref().and_then(|s| s.observed_generation);
    observed == binding.metadata.generation
        && condition(binding, "Ready").is_some_and(|ready| ready.starts_with("True"))
}
