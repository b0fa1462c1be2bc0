//! A load that does not wait for the one that it is put on: each turn begins
//! at its time, however long the earlier ones take. No IO of its own.

use std::time::Duration;

use anyhow::Result;
use futures::stream::{FuturesUnordered, TryStreamExt as _};
use tokio::time::{Instant, sleep_until};

/// Starts `turns` turns, `rate` of them a second, and collects what they
/// return. A turn that is due while others still run starts all the same.
pub(crate) async fn open_loop<T>(
    rate: u32,
    turns: usize,
    work: impl AsyncFn(usize) -> Result<T>,
) -> Result<Vec<T>> {
    let begin = Instant::now();
    let work = &work;
    let running: FuturesUnordered<_> = (0..turns)
        .map(|turn| async move {
            let due = begin + Duration::from_secs_f64(turn as f64 / f64::from(rate));
            sleep_until(due).await;
            work(turn).await
        })
        .collect();
    running.try_collect().await
}
