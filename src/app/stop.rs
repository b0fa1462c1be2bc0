//! When is the process told to stop?

use std::future::pending;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Becomes true with the first SIGTERM or SIGINT; the second ends the process.
pub(super) fn signals() -> anyhow::Result<watch::Receiver<bool>> {
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

pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender went with its task: no signal will come any more.
        pending::<()>().await;
    }
}
