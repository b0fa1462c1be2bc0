//! How do we wait for something without guessing how long it takes? Asks again
//! and again until a deadline; the error then carries the last answer.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

/// Between two looks, at least and at most. What has taken long is looked at less
/// often, a tenth of the time later: looks cost the machine what is waited for.
const BETWEEN_LOOKS: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(200)];

/// How long one look more may take when the time is over.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Calls `look` until it succeeds and returns what it found, or fails with the
/// last error once `limit` has passed. One look that hangs is cut off there too.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let started = Instant::now();
    let deadline = started + limit;
    let mut last = anyhow::anyhow!("the first look did not come back");
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = error,
            Err(_) => {
                // Where we stood still ourselves nobody has looked.
                if let Ok(looked) = tokio::time::timeout(LAST_LOOK, look()).await {
                    match looked {
                        Ok(found) => return Ok(found),
                        Err(error) => last = error,
                    }
                }
                break;
            }
        }
        let [least, most] = BETWEEN_LOOKS;
        let pause = (started.elapsed() / 10).clamp(least, most);
        if Instant::now() + pause >= deadline {
            break;
        }
        tokio::time::sleep(pause).await;
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
        tokio::time::sleep(BETWEEN_LOOKS[0]).await;
    }
    Ok(())
}
