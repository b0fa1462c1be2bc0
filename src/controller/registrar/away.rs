//! Where can no binding be made at present, and when is it tried again? Plain values
//! with time as an argument.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::names::Namespace;
use crate::domain::retry;

/// How long it is remembered. Where any binding is due it is tried more often.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Everywhere (`None`) or in one namespace → until when nobody tries again there, and
/// how often in a row that has been so.
#[derive(Debug, Default)]
pub(super) struct Away(HashMap<Option<Namespace>, (Instant, u32)>);

impl Away {
    /// None could be made. Says when it is tried again: those that come due together
    /// then find out for all. `chance` in 0..1 spreads that.
    pub(super) fn note(
        &mut self,
        within: Option<&Namespace>,
        chance: f64,
        now: Instant,
    ) -> Instant {
        // Whoever has been asked for nothing since then begins anew.
        self.0
            .retain(|_, (until, _)| *until + FORGOTTEN_AFTER > now);
        let (until, times) = self.0.entry(within.cloned()).or_insert((now, 0));
        *times = times.saturating_add(1);
        *until = now + retry::PROBE.delay(*times, chance);
        *until
    }

    /// When it is tried again in that namespace, where nobody is to try before.
    pub(super) fn until(&self, namespace: &Namespace, now: Instant) -> Option<Instant> {
        let both = [None, Some(namespace.clone())];
        let away = both.iter().filter_map(|within| self.0.get(within));
        let until = away.map(|(until, _)| *until).max();
        until.filter(|until| *until > now)
    }

    /// One was made in that namespace, so that others can be.
    pub(super) fn is_over(&mut self, namespace: &Namespace) {
        for within in [None, Some(namespace.clone())] {
            self.0.remove(&within);
        }
    }
}
