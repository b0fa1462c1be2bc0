//! Does somebody take back what we say in statuses? Plain values with time as
//! an argument.
//!
//! Whoever stopped reporting, since another reports as this cluster, says so
//! in each binding's status. Where that other is an operator in this very
//! cluster, it sees nothing of the kind and says that all is well. Two that
//! write by turns would do so for ever: so a word that was taken back is said
//! again later each time. And one that stands, where it used to be taken back,
//! shows that the other is gone.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::names::BindingKey;
use crate::domain::retry::Backoff;

/// Between two times that the same is said of one binding.
const AGAIN: Backoff = Backoff {
    base: Duration::from_secs(5),
    cap: Duration::from_secs(600),
};

/// How often a word must have been taken back to tell of an operator that
/// does that. Once may be chance: a status that somebody restored.
const CERTAIN: u32 = 2;

/// How long a word stands before that operator is taken to be gone: longer
/// than it takes another replica of it to lead.
const STANDS: Duration = Duration::from_secs(30);

/// What a look at a binding finds to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Say that another process reports.
    Say,
    /// Leave the status to whoever took it back.
    Leave,
    /// The other operator is gone.
    Alone,
}

/// What was said of each binding.
#[derive(Debug, Default)]
pub(super) struct Dispute(HashMap<BindingKey, Word>);

#[derive(Debug)]
struct Word {
    said: Instant,
    /// It was not taken back yet.
    stands: bool,
    /// How often it was.
    taken_back: u32,
}

impl Dispute {
    /// It was said of this binding.
    pub(super) fn said(&mut self, key: &BindingKey, now: Instant) {
        let word = self.0.entry(key.clone()).or_insert(Word {
            said: now,
            stands: true,
            taken_back: 0,
        });
        word.said = now;
        word.stands = true;
    }

    /// What follows from what the binding's status says now.
    pub(super) fn look(&mut self, key: &BindingKey, says_it: bool, now: Instant) -> Verdict {
        let Some(word) = self.0.get_mut(key) else {
            return Verdict::Say;
        };
        if says_it {
            let alone = word.taken_back >= CERTAIN && now >= word.said + STANDS;
            return if alone { Verdict::Alone } else { Verdict::Say };
        }
        if word.stands {
            word.stands = false;
            word.taken_back = word.taken_back.saturating_add(1);
        }
        if now >= word.said + AGAIN.delay(word.taken_back, 1.0) {
            Verdict::Say
        } else {
            Verdict::Leave
        }
    }

    /// The binding is no longer ours to speak of.
    pub(super) fn forget(&mut self, key: &BindingKey) {
        self.0.remove(key);
    }

    /// Nobody else reports, as far as is known.
    pub(super) fn end(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn key() -> BindingKey {
        BindingKey::new("shop", "web")
    }

    /// Looks every second for so long while somebody takes back at once what
    /// is said; gives when it was said.
    fn contradicted(dispute: &mut Dispute, from: Instant, span: Duration) -> Vec<u64> {
        let mut said = Vec::new();
        let mut now = from;
        while now < from + span {
            if dispute.look(&key(), false, now) == Verdict::Say {
                dispute.said(&key(), now);
                said.push((now - from).as_secs());
            }
            now += SECOND;
        }
        said
    }

    #[test]
    fn what_is_taken_back_is_said_again_later_each_time() {
        let mut dispute = Dispute::default();
        let said = contradicted(&mut dispute, Instant::now(), HOUR);
        assert_eq!(said[..6], [0, 5, 15, 35, 75, 155]);
        assert!(said.len() < 15, "{said:?}");
    }

    #[test]
    fn a_word_that_nobody_ever_took_back_stands_and_says_nothing_of_the_other() {
        let mut dispute = Dispute::default();
        let now = Instant::now();
        dispute.said(&key(), now);
        assert_eq!(dispute.look(&key(), true, now + 24 * HOUR), Verdict::Say);
        // A status that was restored once.
        let later = now + 25 * HOUR;
        assert_eq!(dispute.look(&key(), false, later), Verdict::Say);
        dispute.said(&key(), later);
        assert_eq!(dispute.look(&key(), true, later + HOUR), Verdict::Say);
    }

    #[test]
    fn a_word_that_used_to_be_taken_back_and_stands_for_long_ends_it() {
        let mut dispute = Dispute::default();
        let now = Instant::now();
        assert_eq!(contradicted(&mut dispute, now, 15 * SECOND), [0, 5]);
        let said = now + 15 * SECOND;
        assert_eq!(dispute.look(&key(), false, said), Verdict::Say);
        dispute.said(&key(), said);
        for (after, verdict) in [(0, Verdict::Say), (29, Verdict::Say), (30, Verdict::Alone)] {
            let at = said + after * SECOND;
            assert_eq!(dispute.look(&key(), true, at), verdict, "{after}");
        }
        dispute.end();
        assert_eq!(dispute.look(&key(), false, said), Verdict::Say);
    }

    #[test]
    fn a_status_that_was_seen_without_it_twice_was_taken_back_once() {
        let mut dispute = Dispute::default();
        let now = Instant::now();
        dispute.said(&key(), now);
        for after in 1..5 {
            let at = now + after * SECOND;
            assert_eq!(dispute.look(&key(), false, at), Verdict::Leave);
        }
        dispute.said(&key(), now);
        assert_eq!(dispute.look(&key(), true, now + HOUR), Verdict::Say);
    }
}
