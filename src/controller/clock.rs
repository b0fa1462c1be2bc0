//! What time is it, by both clocks, and waiting: as the election sees it, so
//! that a test can let the clocks of two processes differ.

use std::fmt::Debug;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::domain::election::Moment;

/// The clocks of a process.
pub trait Clock: Debug + Send + Sync {
    /// Now.
    fn now(&self) -> Moment;

    /// Waits that long, by the steady clock.
    fn wait(&self, time: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Moment {
        Moment {
            steady: Instant::now().into_std(),
            wall: Timestamp::now(),
        }
    }

    fn wait(&self, time: Duration) -> BoxFuture<'static, ()> {
        sleep(time).boxed()
    }
}
