//! How do we wait for something without guessing how long it takes? Asks again
//! and again until a deadline; the error then carries the last answer.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Calls `look` until it succeeds and returns what it found, or fails with the
/// last error once `limit` has passed. One look that hangs is cut off there too.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    let mut last = anyhow::anyhow!("the first look did not come back");
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = error,
            Err(_) => break,
        }
        if Instant::now() + BETWEEN_LOOKS >= deadline {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Err(last).with_context(|| format!("waited {limit:?} in vain: {what}"))
}

/// Watches for `span` that `look` succeeds every time; fails with its first error.
pub async fn throughout<F, Fut>(what: &str, span: Duration, mut look: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let end = Instant::now() + span;
    while Instant::now() < end {
        look()
            .await
            .with_context(|| format!("did not hold for {span:?}: {what}"))?;
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Ok(())
}
