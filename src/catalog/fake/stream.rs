//! What does a stream of the fake catalog say, and when?

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;

use super::state::State;
use crate::catalog::error::CatalogError;
use crate::catalog::event::{CatalogEvent, EventKind, EventStream};
use crate::catalog::silence;
use crate::domain::record::CatalogPosition;

/// Time between two bookmarks of a stream.
const BOOKMARK_EVERY: Duration = Duration::from_secs(5);

/// One stream: where it stands, and whether it has said that it caught up.
pub(super) struct Stream {
    state: Arc<Mutex<State>>,
    moved: watch::Receiver<()>,
    cuts: u64,
    said: usize,
    stands: CatalogPosition,
    told: bool,
}

/// A stream that goes on after the position.
pub(super) fn open(
    shared: &Arc<Mutex<State>>,
    state: &State,
    moved: watch::Receiver<()>,
    after: Option<&CatalogPosition>,
) -> EventStream {
    let stream = Stream {
        state: Arc::clone(shared),
        moved,
        cuts: state.cuts,
        said: state.said.len(),
        stands: after.cloned().unwrap_or_else(|| state.position()),
        told: false,
    };
    silence::bounded(futures::stream::unfold(stream, Stream::next).boxed())
}

impl Stream {
    async fn next(mut self) -> Option<(Result<CatalogEvent, CatalogError>, Self)> {
        loop {
            self.moved.mark_unchanged();
            let (event, silent) = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.cuts != self.cuts {
                    return None;
                }
                if let Some(event) = state.said.get(self.said) {
                    let event = event.clone();
                    drop(state);
                    self.said += 1;
                    return Some((Ok(event), self));
                }
                (state.after(&self.stands), state.silent)
            };
            let bookmark = || CatalogEvent {
                position: self.stands.clone(),
                kind: EventKind::Bookmark,
            };
            let event = match event {
                Some(event) => event,
                None if !silent && !self.told => {
                    self.told = true;
                    bookmark()
                }
                None => match tokio::time::timeout(BOOKMARK_EVERY, self.moved.changed()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) => return None,
                    Err(_) if silent => continue,
                    Err(_) => bookmark(),
                },
            };
            self.stands.clone_from(&event.position);
            return Some((Ok(event), self));
        }
    }
}
