//! Watches for changes of the catalog, and forgets old ones. Does IO.
//!
//! A commit of this process and PostgreSQL's NOTIFY are hints to look at
//! once; without any, a look every second finds what others wrote.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::store::history::Retention;
use crate::store::{State, Store, StoreError};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const FORGET_EVERY: Duration = Duration::from_secs(60);
const DEADLINE: Duration = Duration::from_secs(10);

/// Publishes the catalog's state whenever it moves; never returns.
pub(crate) async fn watch(
    store: Arc<Store>,
    database_url: String,
    retention: Retention,
    news: watch::Sender<State>,
) {
    let mut announcements = Announcements {
        url: database_url,
        listener: None,
    };
    let mut forget_at = Instant::now();
    // Others wait while it is tried, so not again at once.
    let mut failed = false;
    loop {
        if store.announces_changes() {
            announcements.listen().await;
        }
        match answered(store.state()).await {
            Ok(state) => {
                let kept = state.revision - state.floor;
                let most = retention.revisions.saturating_add(retention.revisions / 10);
                let too_many = kept > most && !failed;
                news.send_if_modified(|last| {
                    let moved = *last != state;
                    *last = state;
                    moved
                });
                if too_many || forget_at <= Instant::now() {
                    forget_at = Instant::now() + FORGET_EVERY;
                    match answered(store.forget(retention)).await {
                        Ok(true) => failed = false,
                        Ok(false) => (failed, forget_at) = (false, Instant::now()),
                        Err(error) => {
                            failed = true;
                            complain(&error);
                        }
                    }
                }
            }
            Err(error) => complain(&error),
        }
        tokio::select! {
            () = store.written.notified() => {}
            () = announcements.next() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// A database that is gone says nothing for a quarter of an hour.
async fn answered<T>(ask: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    timeout(DEADLINE, ask)
        .await
        .unwrap_or(Err(StoreError::Silent))
}

fn complain(error: &StoreError) {
    tracing::error!(
        error = error as &dyn std::error::Error,
        "looking for changes failed"
    );
}

/// PostgreSQL's notifications, as long as there is a connection for them.
struct Announcements {
    url: String,
    listener: Option<PgListener>,
}

impl Announcements {
    async fn listen(&mut self) {
        if self.listener.is_some() {
            return;
        }
        let connecting = async {
            let mut listener = PgListener::connect(&self.url).await?;
            listener.listen("catalog_changes").await?;
            Ok::<_, sqlx::Error>(listener)
        };
        match tokio::time::timeout(LOOK_EVERY, connecting).await {
            Ok(Ok(listener)) => self.listener = Some(listener),
            Ok(Err(error)) => tracing::warn!(%error, "changes are polled: listening failed"),
            Err(_) => tracing::warn!("changes are polled: listening took too long"),
        }
    }

    async fn next(&mut self) {
        match &mut self.listener {
            Some(listener) => {
                if listener.recv().await.is_err() {
                    self.listener = None;
                }
            }
            None => std::future::pending().await,
        }
    }
}
