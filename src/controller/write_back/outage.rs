//! May a report be sent now, or is the catalog away? Plain values with time as
//! an argument.
//!
//! One report that fails proves nothing: it alone may be at fault. Three in a
//! row are an outage; from then on one at a time finds out for all.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::retry;

/// Failures in a row that are an outage.
const DOUBTS: u32 = 3;

/// How long one that finds out may take. A catalog that hung leaves requests
/// behind that are never answered, while a new one would be. Every fourth may
/// take as long as the catalog's client lets it, for a catalog that is slow.
const PROBE_DEADLINE: Duration = Duration::from_secs(3);

/// What is known of the catalog's taking reports.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Failures with no success in between.
    failures: u32,
    /// When the next may be sent, while the catalog is away or wants peace.
    next: Option<Instant>,
}

impl Outage {
    pub(super) fn is_away(&self) -> bool {
        self.failures >= DOUBTS
    }

    /// Whether a report may be sent beside those that are under way.
    pub(super) fn may_send(&self, under_way: usize, now: Instant) -> bool {
        self.next.is_none_or(|next| next <= now) && (!self.is_away() || under_way == 0)
    }

    /// When it is worth looking again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// How long the next report may take; none where the client decides.
    pub(super) fn deadline(&self) -> Option<Duration> {
        deadline(self.failures)
    }

    /// A report was answered. Whether that ends an outage.
    pub(super) fn answered(&mut self) -> bool {
        let ended = self.is_away();
        *self = Self::default();
        ended
    }

    /// A report failed; `chance` in 0..1.
    pub(super) fn failed(&mut self, chance: f64, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.is_away() {
            let attempt = self.failures - DOUBTS + 1;
            self.next = Some(now + retry::PROBE.delay(attempt, chance));
        }
    }

    /// The catalog asked to be left alone for so long.
    pub(super) fn wants_peace(&mut self, span: Duration, now: Instant) {
        let until = now + span;
        self.next = Some(self.next.map_or(until, |next| next.max(until)));
    }
}

/// How long a report may take after so many failures in a row; none where the
/// client decides.
pub(super) fn deadline(failures: u32) -> Option<Duration> {
    (failures >= DOUBTS && !failures.is_multiple_of(4)).then_some(PROBE_DEADLINE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_failure_keeps_nobody_waiting_and_three_in_a_row_keep_all_but_one() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        outage.failed(1.0, now);
        outage.failed(1.0, now);
        assert!(outage.may_send(3, now));
        outage.failed(1.0, now);
        assert!(!outage.may_send(0, now));
        assert!(outage.may_send(0, now + SECOND));
        assert!(!outage.may_send(1, now + SECOND));
        assert!(outage.answered());
        assert!(outage.may_send(3, now));
        assert!(!outage.answered(), "it has ended before");
    }

    #[test]
    fn successes_in_between_are_no_outage() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        for _ in 0..20 {
            outage.failed(1.0, now);
            outage.answered();
        }
        assert!(outage.may_send(3, now));
    }

    #[test]
    fn however_long_it_lasts_the_next_try_is_at_most_two_seconds_away() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        for _ in 0..1_000 {
            outage.failed(1.0, now);
        }
        assert!(outage.may_send(0, now + 2 * SECOND));
    }

    #[test]
    fn a_probe_is_cut_short_but_for_every_fourth() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        assert_eq!(outage.deadline(), None);
        let mut cut = Vec::new();
        for _ in 0..8 {
            outage.failed(1.0, now);
            cut.push(outage.deadline().is_some());
        }
        assert_eq!(cut, [false, false, true, false, true, true, true, false]);
    }

    #[test]
    fn peace_is_kept_for_as_long_as_was_asked() {
        let (mut outage, now) = (Outage::default(), Instant::now());
        outage.wants_peace(30 * SECOND, now);
        outage.wants_peace(5 * SECOND, now);
        assert!(!outage.may_send(0, now + 29 * SECOND));
        assert!(outage.may_send(3, now + 30 * SECOND), "it is no outage");
    }
}
