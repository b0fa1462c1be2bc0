//! Is the process alive, or does only a new one help?
//!
//! What counts as a sign of life is what no outage can delay: that a loop went
//! round, waiting included, and never that somebody answered. So an API server
//! or a catalog that is away restarts nobody: a new process would know less,
//! and would list everything at the moment when the server can bear it least.
//! The age of the Lease counts for who leads: one that cannot renew it ends by
//! itself, so that one that goes on all the same is broken.

use std::time::Duration;

/// How long a loop may show no sign. It goes round every few seconds; the rest
/// is for a machine that has no time for it.
pub const LOOP: Duration = Duration::from_secs(60);

/// How long one look may run. It is cut off long before.
pub const LOOK: Duration = Duration::from_secs(150);

/// How long a leader may live on after the time at which it must have ended.
pub const AFTER_THE_TERM: Duration = Duration::from_secs(30);

/// How old the signs of life are; nothing where none is due.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Ages {
    /// Since the control loop went round. It runs where this replica leads.
    pub control_loop: Option<Duration>,
    /// Since the look that has run longest began.
    pub look: Option<Duration>,
    /// Since the loop of the election went round.
    pub election: Option<Duration>,
    /// Since the Lease was renewed that this replica holds.
    pub lease: Option<Duration>,
}

/// How long a request about the Lease, and a term without renewal, may last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lasting {
    /// One request.
    pub request: Duration,
    /// A term.
    pub term: Duration,
}

/// What is not as it is in a process that lives, in words. Nothing where it
/// does.
pub fn overdue(ages: &Ages, lasting: Lasting) -> Vec<String> {
    let signs = [
        ("the control loop went round", ages.control_loop, LOOP),
        ("a look began that has not ended", ages.look, LOOK),
        (
            "the election went round",
            ages.election,
            // A round may wait for two answers.
            LOOP.saturating_add(lasting.request.saturating_mul(2)),
        ),
        (
            "the Lease was renewed",
            ages.lease,
            lasting.term.saturating_add(AFTER_THE_TERM),
        ),
    ];
    let overdue = signs.into_iter().filter_map(|(what, age, limit)| {
        let age = age.filter(|age| *age > limit)?;
        Some(format!("{what} {} s ago", age.as_secs()))
    });
    overdue.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);
    const LASTING: Lasting = Lasting {
        request: Duration::from_millis(2500),
        term: Duration::from_secs(10),
    };

    fn found(ages: Ages) -> Vec<String> {
        overdue(&ages, LASTING)
    }

    #[test]
    fn who_owes_no_sign_is_alive() {
        assert!(found(Ages::default()).is_empty());
    }

    // trap 15
    #[test]
    fn each_sign_that_is_too_old_is_named_with_its_age_and_no_other() {
        let good = Ages {
            control_loop: Some(LOOP),
            look: Some(LOOK),
            election: Some(LOOP + 5 * S),
            lease: Some(40 * S),
        };
        assert!(found(good).is_empty());
        let more = |age: Option<Duration>| age.map(|age| age + S);
        let all = Ages {
            control_loop: more(good.control_loop),
            look: more(good.look),
            election: more(good.election),
            lease: more(good.lease),
        };
        let bad = [
            (
                Ages {
                    control_loop: all.control_loop,
                    ..good
                },
                "the control loop went round 61 s ago",
            ),
            (
                Ages {
                    look: all.look,
                    ..good
                },
                "a look began that has not ended 151 s ago",
            ),
            (
                Ages {
                    election: all.election,
                    ..good
                },
                "the election went round 66 s ago",
            ),
            (
                Ages {
                    lease: all.lease,
                    ..good
                },
                "the Lease was renewed 41 s ago",
            ),
        ];
        for (ages, said) in bad {
            assert_eq!(found(ages), [said]);
        }
        assert_eq!(found(all).len(), 4);
    }

    #[test]
    fn whose_lease_may_last_long_is_given_the_time() {
        let ages = Ages {
            lease: Some(120 * S),
            ..Ages::default()
        };
        let long = Lasting {
            term: 100 * S,
            ..LASTING
        };
        assert!(overdue(&ages, long).is_empty());
        assert_eq!(overdue(&ages, LASTING).len(), 1);
    }
}
