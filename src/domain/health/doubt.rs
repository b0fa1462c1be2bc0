//! When is whoever checks at fault himself? Then no verdict moves.
//!
//! 1. Timers fire late: this process gets no time to run, and an answer that
//!    came too late may be one that was read too late.
//! 2. Nearly all of several services stop answering at once: it is more likely
//!    that we are cut off than that they all died. That lasts until enough of
//!    them answer again.
//! 3. Until that is noticed, silence is believed only where somebody else was
//!    heard since it began: a network that has just gone looks to the first
//!    endpoint that is asked like an endpoint that died.
//! 4. Doubt ends when it has been well for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Timers that fire later than this are taken for a fault of ours.
pub const LATE: Duration = Duration::from_millis(500);

/// How long it has to be well before doubt ends.
pub const CALM: Duration = Duration::from_secs(5);

/// In which time failures count as at once.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Fewest services that have to be hit: one that breaks is its own fault.
const SERVICES: usize = 3;

/// Share of the services that answered until then, in percent.
const SHARE: usize = 80;

/// Why no verdict moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Doubt {
    /// Timers fire late.
    Late,
    /// Many services stopped answering at once.
    AllAtOnce,
}

/// What is known of our own health. Times count from any fixed moment.
#[derive(Debug)]
pub struct Doubts<K> {
    /// When a timer was late last.
    late: Option<Duration>,
    /// When too many services were silent last, while they no longer are.
    cut: Option<Duration>,
    /// Whether too many are silent now.
    is_cut: bool,
    answering: BTreeSet<K>,
    /// Services that stopped answering lately, or since we are cut off.
    stopped: BTreeMap<K, Duration>,
    /// The last service that answered, and the last one beside that.
    heard: [Option<(K, Duration)>; 2],
}

impl<K> Default for Doubts<K> {
    fn default() -> Self {
        Self {
            late: None,
            cut: None,
            is_cut: false,
            answering: BTreeSet::new(),
            stopped: BTreeMap::new(),
            heard: [None, None],
        }
    }
}

impl<K: Clone + Ord> Doubts<K> {
    /// Why no verdict may move at this time, if none may.
    pub fn doubt(&self, now: Duration) -> Option<Doubt> {
        let lasts = |since: Option<Duration>| since.is_some_and(|since| now < since + CALM);
        if self.is_cut || lasts(self.cut) {
            Some(Doubt::AllAtOnce)
        } else {
            lasts(self.late).then_some(Doubt::Late)
        }
    }

    /// A timer fired so much later than it was to.
    pub fn fired(&mut self, late: Duration, now: Duration) {
        if late > LATE {
            self.late = Some(now);
        }
    }

    /// An endpoint of the service answered, whatever it said.
    pub fn answered(&mut self, service: &K, now: Duration) {
        self.stopped.remove(service);
        self.answering.insert(service.clone());
        let [last, before] = &mut self.heard;
        match last {
            Some((known, at)) if known == service => *at = now,
            _ => *before = last.replace((service.clone(), now)),
        }
        self.count(now);
    }

    /// Whether another service answered since then, so that an endpoint of this
    /// one that is silent may be taken for dead. None where there are too few
    /// others to ask.
    pub fn is_witnessed(&self, service: &K, since: Duration) -> Option<bool> {
        let known = self.answering.iter().chain(self.stopped.keys());
        let mut others = known.filter(|known| *known != service);
        others.nth(SERVICES - 2)?;
        let mut heard = self.heard.iter().flatten();
        Some(heard.any(|(other, at)| other != service && *at >= since))
    }

    /// No endpoint of the service answers any more.
    pub fn stopped(&mut self, service: &K, now: Duration) {
        if self.answering.remove(service) {
            self.stopped.insert(service.clone(), now);
        }
        self.count(now);
    }

    /// Nobody checks the service any more.
    pub fn forget(&mut self, service: &K, now: Duration) {
        self.answering.remove(service);
        self.stopped.remove(service);
        self.count(now);
    }

    fn count(&mut self, now: Duration) {
        if !self.is_cut {
            self.stopped.retain(|_, at| *at + AT_ONCE > now);
        }
        let (stopped, answering) = (self.stopped.len(), self.answering.len());
        let enough = stopped >= SERVICES || (self.is_cut && stopped > 0);
        let was_cut = self.is_cut;
        self.is_cut = enough && stopped * 100 >= (stopped + answering) * SHARE;
        if was_cut {
            self.cut = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn answering(services: u32) -> Doubts<u32> {
        let mut doubts = Doubts::default();
        for service in 0..services {
            doubts.answered(&service, s(1));
        }
        doubts
    }

    #[test]
    fn timers_that_fire_late_are_doubted_until_it_is_calm_for_a_while() {
        let mut doubts = answering(1);
        doubts.fired(LATE, s(2));
        assert_eq!(doubts.doubt(s(2)), None);
        doubts.fired(s(1), s(3));
        doubts.fired(Duration::ZERO, s(6));
        assert_eq!(doubts.doubt(s(7)), Some(Doubt::Late));
        assert_eq!(doubts.doubt(s(8)), None);
    }

    #[test]
    fn many_services_that_stop_at_once_are_our_own_fault() {
        let mut doubts = answering(10);
        for service in 0..7 {
            doubts.stopped(&service, s(10));
            assert_eq!(doubts.doubt(s(10)), None, "{service}");
        }
        doubts.stopped(&7, s(11));
        assert_eq!(doubts.doubt(s(11)), Some(Doubt::AllAtOnce));
    }

    #[test]
    fn few_services_or_those_that_stop_one_after_the_other_are_their_own_fault() {
        let mut two = answering(2);
        two.stopped(&0, s(10));
        two.stopped(&1, s(10));
        assert_eq!(two.doubt(s(10)), None);
        let mut slow = answering(10);
        for service in 0..10 {
            slow.stopped(&service, s(10 + 6 * u64::from(service)));
        }
        assert_eq!(slow.doubt(s(64)), None);
    }

    #[test]
    fn who_was_silent_already_or_answers_again_does_not_count() {
        let mut doubts = answering(4);
        for _ in 0..9 {
            doubts.stopped(&99, s(10));
        }
        doubts.stopped(&0, s(10));
        doubts.stopped(&1, s(10));
        doubts.answered(&0, s(11));
        doubts.stopped(&2, s(11));
        assert_eq!(doubts.doubt(s(11)), None);
    }

    #[test]
    fn whoever_is_cut_off_doubts_until_enough_answer_again() {
        let mut doubts = answering(10);
        for service in 0..10 {
            doubts.stopped(&service, s(10));
        }
        assert_eq!(doubts.doubt(s(600)), Some(Doubt::AllAtOnce));
        for service in 0..2 {
            doubts.answered(&service, s(600));
        }
        assert_eq!(doubts.doubt(s(900)), Some(Doubt::AllAtOnce));
        doubts.answered(&2, s(901));
        assert_eq!(doubts.doubt(s(902)), Some(Doubt::AllAtOnce));
        assert_eq!(doubts.doubt(s(906)), None);
    }

    #[test]
    fn silence_is_believed_where_another_service_was_heard_since() {
        let mut doubts = answering(3);
        assert_eq!(doubts.is_witnessed(&0, s(2)), Some(false));
        doubts.answered(&0, s(3));
        assert_eq!(doubts.is_witnessed(&0, s(2)), Some(false));
        doubts.answered(&1, s(4));
        doubts.answered(&0, s(5));
        assert_eq!(doubts.is_witnessed(&0, s(2)), Some(true));
        assert_eq!(doubts.is_witnessed(&0, s(4)), Some(true));
        assert_eq!(doubts.is_witnessed(&0, s(5)), Some(false));
        assert_eq!(doubts.is_witnessed(&1, s(5)), Some(true));
    }

    #[test]
    fn where_there_are_few_others_nothing_can_be_said_of_that() {
        let mut doubts = answering(3);
        doubts.forget(&2, s(2));
        assert_eq!(doubts.is_witnessed(&0, s(9)), None);
    }

    #[test]
    fn services_that_are_checked_no_longer_end_the_doubt_that_they_raised() {
        let mut doubts = answering(3);
        for service in 0..3 {
            doubts.stopped(&service, s(10));
        }
        for service in 0..3 {
            doubts.forget(&service, s(20));
        }
        assert_eq!(doubts.doubt(s(60)), None);
    }
}
