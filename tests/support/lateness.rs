//! By how much is this machine late? A promise of seconds is about a machine that
//! keeps time: what it stood still for is not the operator's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const TICK: Duration = Duration::from_millis(20);

/// Timers are this coarse everywhere: where the machine keeps time, the sum is nothing.
const GRAIN: Duration = Duration::from_millis(5);

/// Sums up how much later than asked for a task is woken up.
pub struct Lateness {
    micros: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Lateness {
    /// From now on.
    pub fn watch() -> Self {
        let micros = Arc::<AtomicU64>::default();
        let sum = Arc::clone(&micros);
        let task = tokio::spawn(async move {
            loop {
                let asked = Instant::now() + TICK;
                sleep(TICK).await;
                let late = asked.elapsed().saturating_sub(GRAIN).as_micros();
                let late = u64::try_from(late).unwrap_or(u64::MAX);
                sum.fetch_add(late, Ordering::Relaxed);
            }
        });
        Self { micros, task }
    }

    /// All together until now.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.task.abort();
    }
}
