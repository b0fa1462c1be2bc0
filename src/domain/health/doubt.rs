//! When is whoever checks at fault himself? Then no verdict moves.
//!
//! 1. Timers fire late: this process gets no time to run, and an answer that
//!    came too late may be one that was read too late.
//! 2. Nearly all of several services stop answering at once: it is more likely
//!    that we are cut off than that they all died. That lasts until enough of
//!    them answer again.
//! 3. Until that is noticed, silence is believed only where somebody else was
//!    asked and heard between its first failure and the check that decides: a
//!    network that has just gone looks to the first endpoint that is asked like
//!    an endpoint that died. Whoever was asked before that first failure had
//!    ended may have been heard before the network went, and whoever was heard
//!    after the last check had begun, since it came back.
//! 4. With too few services for that, and none of them heard since, whoever is
//!    outside is the witness: the API server or the catalog. Where they are
//!    silent too nothing is judged. It is more likely that we are cut off, and
//!    where we are not, it waits for the first of them.
//! 5. Doubt ends when it has been well for a while.

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

/// Who was heard, each with the time at which the check began that he answered:
/// the two of them whose time is the latest. Two, since nobody is his own
/// witness.
#[derive(Clone, Debug)]
pub struct Heard<K>([Option<(K, Duration)>; 2]);

impl<K> Default for Heard<K> {
    fn default() -> Self {
        Self([None, None])
    }
}

impl<K: Clone + Eq> Heard<K> {
    /// This one answered a check that began then.
    pub fn note(&mut self, who: &K, began: Duration) {
        let [last, before] = &mut self.0;
        match (&mut *last, &mut *before) {
            (Some((known, at)), _) if known == who => *at = began.max(*at),
            (Some((_, at)), Some((known, then))) if began < *at => {
                if known == who || began >= *then {
                    *before = Some((who.clone(), began.max(*then)));
                }
            }
            (Some((_, at)), None) if began < *at => *before = Some((who.clone(), began)),
            _ => *before = last.replace((who.clone(), began)),
        }
    }

    /// Whether anybody else answered a check that began no earlier.
    pub fn another_since(&self, but: &K, since: Duration) -> bool {
        let mut heard = self.0.iter().flatten();
        heard.any(|(who, began)| who != but && *began >= since)
    }

    /// Whether nobody else was heard since at all: none of these, and nobody
    /// outside, where the last request that was answered began at that time.
    pub fn is_cut_off(&self, but: &K, since: Duration, outside: Option<Duration>) -> bool {
        let answered = outside.is_some_and(|began| began >= since);
        !answered && !self.another_since(but, since)
    }
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
    /// Services that stopped answering: lately, or of which it is not decided
    /// what that means, or since we are cut off.
    stopped: BTreeMap<K, Stopped>,
    heard: Heard<K>,
}

/// That a service stopped answering.
#[derive(Clone, Copy, Debug)]
struct Stopped {
    at: Duration,
    /// Whether its endpoints are held for dead.
    is_decided: bool,
}

impl<K> Default for Doubts<K> {
    fn default() -> Self {
        Self {
            late: None,
            cut: None,
            is_cut: false,
            answering: BTreeSet::new(),
            stopped: BTreeMap::new(),
            heard: Heard::default(),
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

    /// An endpoint of the service answered, whatever it said, to a check that
    /// began then.
    pub fn answered(&mut self, service: &K, began: Duration, now: Duration) {
        self.stopped.remove(service);
        self.answering.insert(service.clone());
        self.heard.note(service, began);
        self.count(now);
    }

    /// Which services were heard so far.
    pub fn heard(&self) -> &Heard<K> {
        &self.heard
    }

    /// Whether an endpoint of this service that is silent since then may be
    /// taken for dead; `heard` is who had been heard when the check began that
    /// decides. None where there are too few others to ask.
    pub fn is_witnessed(&self, service: &K, since: Duration, heard: &Heard<K>) -> Option<bool> {
        let known = self.answering.iter().chain(self.stopped.keys());
        let mut others = known.filter(|known| *known != service);
        others.nth(SERVICES - 2)?;
        Some(heard.another_since(service, since))
    }

    /// No endpoint of the service answers any more.
    pub fn stopped(&mut self, service: &K, now: Duration) {
        if self.answering.remove(service) {
            let stopped = Stopped {
                at: now,
                is_decided: false,
            };
            self.stopped.insert(service.clone(), stopped);
        }
        self.count(now);
    }

    /// None of its endpoints is held for healthy, now that it is silent.
    pub fn decided(&mut self, service: &K, now: Duration) {
        if let Some(stopped) = self.stopped.get_mut(service) {
            stopped.is_decided = true;
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
        let is_new = |stopped: &Stopped| stopped.at + AT_ONCE > now;
        let answering = self.answering.len();
        let stopped = if self.is_cut {
            self.stopped.len()
        } else {
            self.stopped.retain(|_, it| !it.is_decided || is_new(it));
            // However slowly they went: nobody is left who could be asked.
            let nobody = answering == 0 && self.stopped.len() >= SERVICES;
            let counts = |it: &&Stopped| nobody || is_new(it);
            self.stopped.values().filter(counts).count()
        };
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
            doubts.answered(&service, s(1), s(1));
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
            let at = s(10 + 6 * u64::from(service));
            slow.stopped(&service, at);
            slow.decided(&service, at);
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
        doubts.answered(&0, s(11), s(11));
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
            doubts.answered(&service, s(600), s(600));
        }
        assert_eq!(doubts.doubt(s(900)), Some(Doubt::AllAtOnce));
        doubts.answered(&2, s(901), s(901));
        assert_eq!(doubts.doubt(s(902)), Some(Doubt::AllAtOnce));
        assert_eq!(doubts.doubt(s(906)), None);
    }

    #[test]
    fn who_stop_however_slowly_are_our_own_fault_where_nobody_is_left_to_ask() {
        let mut doubts = answering(5);
        for service in 0..5 {
            assert_eq!(doubts.doubt(s(9)), None);
            doubts.stopped(&service, s(10 + 60 * u64::from(service)));
        }
        assert_eq!(doubts.doubt(s(900)), Some(Doubt::AllAtOnce));
        doubts.answered(&3, s(900), s(901));
        assert_eq!(doubts.doubt(s(901)), Some(Doubt::AllAtOnce));
        doubts.answered(&4, s(902), s(902));
        assert_eq!(doubts.doubt(s(907)), None);
    }

    #[test]
    fn silence_is_believed_where_another_service_was_asked_and_heard_since() {
        let mut doubts = answering(3);
        let is = |doubts: &Doubts<u32>, service, since| {
            doubts.is_witnessed(&service, s(since), doubts.heard())
        };
        assert_eq!(is(&doubts, 0, 2), Some(false));
        doubts.answered(&0, s(3), s(3));
        assert_eq!(is(&doubts, 0, 2), Some(false));
        // It was asked before that, and may have been heard before it.
        doubts.answered(&1, s(1), s(4));
        assert_eq!(is(&doubts, 0, 2), Some(false));
        doubts.answered(&1, s(4), s(5));
        doubts.answered(&0, s(5), s(5));
        assert_eq!(is(&doubts, 0, 2), Some(true));
        assert_eq!(is(&doubts, 0, 4), Some(true));
        assert_eq!(is(&doubts, 0, 5), Some(false));
        assert_eq!(is(&doubts, 1, 5), Some(true));
        // What was not known when the last check began bears no witness of it.
        let earlier = doubts.heard().clone();
        doubts.answered(&2, s(8), s(8));
        assert_eq!(doubts.is_witnessed(&0, s(6), &earlier), Some(false));
        assert_eq!(is(&doubts, 0, 6), Some(true));
    }

    #[test]
    fn whoever_hears_nobody_since_neither_inside_nor_outside_is_cut_off() {
        let mut doubts = answering(2);
        let is = |doubts: &Doubts<u32>, outside: Option<u64>| {
            doubts.heard().is_cut_off(&0, s(5), outside.map(s))
        };
        assert!(is(&doubts, None) && is(&doubts, Some(4)));
        assert!(!is(&doubts, Some(5)));
        doubts.answered(&0, s(6), s(6));
        assert!(is(&doubts, Some(4)));
        doubts.answered(&1, s(6), s(6));
        assert!(!is(&doubts, Some(4)) && !is(&doubts, None));
    }

    #[test]
    fn those_that_are_remembered_are_the_two_that_were_asked_last() {
        let orders: [&[(u32, u64)]; 6] = [
            &[(1, 7), (2, 8), (3, 9)],
            &[(3, 9), (2, 8), (1, 7)],
            &[(2, 8), (3, 9), (1, 7)],
            &[(2, 3), (3, 9), (1, 7), (2, 8)],
            &[(2, 8), (2, 1), (3, 9), (3, 2)],
            &[(3, 9), (2, 8), (2, 1)],
        ];
        for order in orders {
            let mut heard = Heard::default();
            for (who, began) in order {
                heard.note(who, s(*began));
            }
            let known = heard
                .0
                .map(|known| known.map(|(who, at)| (who, at.as_secs())));
            assert_eq!(known, [Some((3, 9)), Some((2, 8))], "{order:?}");
        }
    }

    #[test]
    fn who_stopped_and_is_not_decided_could_still_be_asked() {
        let mut doubts = answering(3);
        doubts.stopped(&1, s(10));
        doubts.stopped(&2, s(30));
        assert_eq!(doubts.is_witnessed(&0, s(9), doubts.heard()), Some(false));
        doubts.decided(&1, s(40));
        assert_eq!(doubts.is_witnessed(&0, s(9), doubts.heard()), None);
    }

    #[test]
    fn where_there_are_few_others_nothing_can_be_said_of_that() {
        let mut doubts = answering(3);
        doubts.forget(&2, s(2));
        assert_eq!(doubts.is_witnessed(&0, s(9), doubts.heard()), None);
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
