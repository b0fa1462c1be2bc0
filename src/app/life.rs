//! How long the process lives: until a signal, or until a part of it ends.

use std::future::pending;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Becomes true with the first SIGTERM or SIGINT; the second ends the process.
pub(super) fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if first {
                tracing::info!("stopping; a second signal ends at once");
                sender.send_replace(true);
            } else {
                std::process::exit(130);
            }
        }
    });
    Ok(receiver)
}

/// Waits for the first signal.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender went with its task: no signal will come any more.
        pending::<()>().await;
    }
}

/// Tasks that run as long as the process does. One that ends is an error.
#[derive(Default)]
pub(super) struct Tasks(JoinSet<&'static str>);

impl Tasks {
    /// Starts another.
    pub(super) fn add(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// The name of the first task that ends.
    pub(super) async fn ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(panic)) => format!("task that panicked ({panic})"),
            None => pending().await,
        }
    }
}
