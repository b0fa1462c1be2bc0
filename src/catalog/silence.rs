//! How long may an event stream say nothing? The contract has a bookmark at
//! least every 10 s, so that a connection that died without a word, or a
//! server that hangs, is told from a catalog in which nothing happens.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::timeout;

use super::error::CatalogError;
use super::event::EventStream;

/// Longest time from one event to the next: two and a half times what the
/// contract allows, so that one late bookmark is no failure.
const LONGEST: Duration = Duration::from_secs(25);

/// The stream, which fails where it is silent for too long, and ends with its
/// first failure. Only whole events count: a server that keeps sending
/// something else is as good as silent.
pub(super) fn bounded(stream: EventStream) -> EventStream {
    let next = |stream: Option<EventStream>| async {
        let mut stream = stream?;
        match timeout(LONGEST, stream.next()).await {
            Ok(Some(Ok(event))) => Some((Ok(event), Some(stream))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => {
                let error = CatalogError::unavailable(format!(
                    "the event stream was silent for {} s; a bookmark is due every 10 s",
                    LONGEST.as_secs()
                ));
                Some((Err(error), None))
            }
        }
    };
    futures::stream::unfold(Some(stream), next).boxed()
}

#[cfg(test)]
mod tests {
    use super::super::Catalog;
    use super::super::event::EventKind;
    use super::super::fake::FakeCatalog;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_says_nothing_fails_once_and_ends() {
        let catalog = FakeCatalog::new();
        let mut stream = catalog.subscribe(None).await.unwrap();
        for _ in 0..10 {
            let event = stream.next().await.unwrap().unwrap();
            assert_eq!(event.kind, EventKind::Bookmark);
        }
        catalog.silence_streams(true);
        let silent = tokio::time::Instant::now();
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("silent for 25 s"), "{error}");
        assert_eq!(silent.elapsed(), LONGEST);
        assert!(stream.next().await.is_none());
    }
}
