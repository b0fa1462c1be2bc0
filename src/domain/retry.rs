//! How long to wait before the next try.

use std::time::Duration;

/// A series of growing delays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// The first delay.
    pub base: Duration,
    /// The longest delay.
    pub cap: Duration,
}

/// Between two tries of one binding whose write was refused, or whose
/// reconciliation failed in a way that nobody foresaw.
pub const BINDING: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(60),
};

/// Between two tries of the one binding that finds out for all whether the
/// catalog, or the API server, is back: soon enough that all of some hundred
/// bindings are done within 5 s of its return.
pub const PROBE: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(2),
};

/// Between two requests of a watch that fails. Together with the deadline of one
/// that hangs it is less than half a minute, within which it is found out that
/// whatever it was is over. The first one is longer than a second: what makes one
/// watch fail makes all of them, at the same moment.
pub const WATCH: Backoff = Backoff {
    base: Duration::from_secs(2),
    cap: Duration::from_secs(12),
};

/// Between two tries to follow the catalog's events.
pub const STREAM: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(3),
};

/// Between two tries to tell an Alertmanager that is away.
pub const ALERTMANAGER: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(30),
};

impl Backoff {
    /// The delay before try number `attempt`, counted from 1, with full
    /// jitter: `chance` in 0..1 picks any point of the step. For what many
    /// replicas do to one server.
    pub fn spread(&self, attempt: u32, chance: f64) -> Duration {
        self.delay(attempt, 1.0).mul_f64(chance.clamp(0.0, 1.0))
    }

    /// The delay before try number `attempt`, counted from 1, with jitter:
    /// `chance` in 0..1 picks a point in the upper half of the step, so that
    /// many that fail together do not come back together.
    pub fn delay(&self, attempt: u32, chance: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        let step = self.base.saturating_mul(1 << doublings).min(self.cap);
        step.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_are_jittered_downwards() {
        let b = Backoff {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(1),
        };
        let top: Vec<u128> = (1..7).map(|n| b.delay(n, 1.0).as_millis()).collect();
        assert_eq!(top, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(b.delay(3, 0.0).as_millis(), 200);
        assert_eq!(b.delay(u32::MAX, 1.0).as_millis(), 1000);
        let spread = [0.0, 0.25, 1.0].map(|chance| b.spread(3, chance).as_millis());
        assert_eq!(spread, [0, 100, 400]);
    }
}
