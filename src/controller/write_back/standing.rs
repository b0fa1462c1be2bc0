//! Where does this process stand as a writer: in which term of leadership,
//! with which number, and does somebody else write as this cluster? Plain
//! values.
//!
//! Only one process may report for a cluster. The catalog keeps the highest
//! position that it has seen, and answers a lower one with it. A leader that
//! finds it ahead before anything of its own was accepted holds a Lease that
//! was made anew, and moves above. One that is overtaken later is not alone.

/// Number of a term of leadership, and of a report within it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Position {
    pub(super) epoch: u64,
    pub(super) sequence: u64,
}

/// What it means that a report was too old.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Overtaken {
    /// A later one of our own was faster, or the term is over.
    ByOurselves,
    /// The catalog is ahead of a Lease that was made anew: move above this
    /// epoch.
    Behind {
        /// The catalog's epoch.
        epoch: u64,
    },
    /// Somebody else writes as this cluster.
    ByAnother,
}

/// Where this process stands as a writer.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The term, or the last one.
    term: Option<Term>,
    /// Whether it is certain at present that it lasts.
    certain: bool,
    sequence: u64,
}

#[derive(Debug)]
struct Term {
    epoch: u64,
    /// A report was accepted: the catalog was not ahead.
    proven: bool,
    /// The epoch was raised once; whoever is ahead now is ahead of that.
    raised: bool,
    /// Somebody else writes as this cluster, from this position.
    rival: Option<Position>,
}

impl Term {
    fn new(epoch: u64) -> Self {
        Self {
            epoch,
            proven: false,
            raised: false,
            rival: None,
        }
    }
}

impl Standing {
    /// Takes the number of the term, or that there is none. Whether another
    /// term than before has begun.
    ///
    /// Its reports are counted from `start`, a number by chance: two processes
    /// that count in step under one number would take each other's reports for
    /// their own.
    pub(super) fn lead(&mut self, epoch: Option<u64>, start: u64) -> bool {
        self.certain = epoch.is_some();
        let Some(epoch) = epoch else {
            // It may yet turn out to have lasted.
            return false;
        };
        if self.term.as_ref().is_some_and(|term| term.epoch == epoch) {
            return false;
        }
        self.sequence = start;
        self.term = Some(Term::new(epoch));
        true
    }

    /// Whoever else wrote as this cluster is gone. Where the catalog is now is
    /// found out as at the beginning of the term.
    pub(super) fn alone_again(&mut self) {
        if let Some(term) = &mut self.term {
            *term = Term::new(term.epoch);
        }
    }

    /// The epoch was raised to this one, in the same term.
    pub(super) fn raised(&mut self, epoch: u64) {
        if let Some(term) = &mut self.term {
            term.epoch = epoch;
            term.raised = true;
        }
    }

    /// The number of the term.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.present().map(|term| term.epoch)
    }

    /// Whether anything may be sent.
    pub(super) fn may_write(&self) -> bool {
        self.present().is_some_and(|term| term.rival.is_none())
    }

    /// Who else writes as this cluster, by the position that gave it away.
    pub(super) fn rival(&self) -> Option<Position> {
        self.present()?.rival
    }

    fn present(&self) -> Option<&Term> {
        self.term.as_ref().filter(|_| self.certain)
    }

    /// The number of the next report.
    pub(super) fn next(&mut self) -> Option<Position> {
        let epoch = self.present()?.epoch;
        self.sequence += 1;
        Some(Position {
            epoch,
            sequence: self.sequence,
        })
    }

    /// A report was accepted.
    pub(super) fn accepted(&mut self, sent: Position) {
        if let Some(term) = &mut self.term
            && term.epoch == sent.epoch
        {
            term.proven = true;
        }
    }

    /// A report was too old, since the catalog knows this position. `ours`
    /// says whether the catalog accepted something about that service in this
    /// term before.
    pub(super) fn overtaken(&mut self, sent: Position, known: Position, ours: bool) -> Overtaken {
        let Some(term) = &mut self.term else {
            return Overtaken::ByOurselves;
        };
        let most = Position {
            epoch: term.epoch,
            sequence: self.sequence,
        };
        if sent.epoch != term.epoch || known <= most {
            return Overtaken::ByOurselves;
        }
        let before_us = if known.epoch == term.epoch {
            !ours
        } else {
            !term.proven
        };
        if before_us && !term.raised {
            return Overtaken::Behind { epoch: known.epoch };
        }
        term.rival = Some(known);
        Overtaken::ByAnother
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, sequence: u64) -> Position {
        Position { epoch, sequence }
    }

    fn leading(epoch: u64) -> (Standing, Position) {
        let mut standing = Standing::default();
        assert!(standing.lead(Some(epoch), 0));
        let sent = standing.next().unwrap();
        (standing, sent)
    }

    #[test]
    fn without_a_term_nothing_is_sent() {
        let mut standing = Standing::default();
        assert!(!standing.may_write() && standing.next().is_none());
        standing.lead(Some(3), 0);
        assert!(standing.may_write());
        standing.lead(None, 0);
        assert!(!standing.may_write() && standing.next().is_none());
    }

    #[test]
    fn numbers_grow_within_a_term_and_begin_anew_with_the_next() {
        let (mut standing, first) = leading(3);
        assert_eq!((first, standing.next()), (at(3, 1), Some(at(3, 2))));
        assert!(!standing.lead(Some(3), 0), "the same term");
        assert!(standing.lead(Some(4), 0));
        assert_eq!(standing.next(), Some(at(4, 1)));
    }

    #[test]
    fn a_term_that_was_in_doubt_for_a_while_goes_on_as_it_was() {
        let (mut standing, sent) = leading(3);
        standing.lead(None, 0);
        assert!(!standing.lead(Some(3), 0));
        assert_eq!(standing.next(), Some(at(3, 2)));
        standing.accepted(sent);
        standing.overtaken(sent, at(4, 1), true);
        standing.lead(None, 0);
        standing.lead(Some(3), 0);
        assert!(!standing.may_write(), "whoever overtook us still does");
    }

    #[test]
    fn a_catalog_that_is_ahead_from_the_start_is_moved_above_once() {
        for known in [at(9, 1), at(3, 50)] {
            let (mut standing, sent) = leading(3);
            let epoch = known.epoch;
            assert_eq!(
                standing.overtaken(sent, known, false),
                Overtaken::Behind { epoch }
            );
            standing.raised(epoch + 1);
            assert!(!standing.lead(Some(epoch + 1), 0), "the same term goes on");
            assert!(standing.may_write());
            // What was under way meanwhile says nothing new.
            assert_eq!(
                standing.overtaken(sent, known, false),
                Overtaken::ByOurselves
            );
            let sent = standing.next().unwrap();
            assert_eq!(sent, at(epoch + 1, 2));
            let known = at(epoch + 7, 1);
            assert_eq!(standing.overtaken(sent, known, false), Overtaken::ByAnother);
        }
    }

    #[test]
    fn whoever_is_ahead_after_a_report_was_accepted_is_somebody_else() {
        let (mut standing, sent) = leading(3);
        standing.accepted(sent);
        assert_eq!(
            standing.overtaken(sent, at(4, 1), false),
            Overtaken::ByAnother
        );
        assert_eq!(standing.rival(), Some(at(4, 1)));
        assert!(!standing.may_write());
        assert!(standing.lead(Some(5), 0), "the next term finds out anew");
        assert!(standing.may_write() && standing.rival().is_none());
    }

    #[test]
    fn the_same_epoch_with_a_number_that_was_never_sent_is_somebody_else() {
        let (mut standing, sent) = leading(3);
        standing.accepted(sent);
        assert_eq!(
            standing.overtaken(sent, at(3, 1), true),
            Overtaken::ByOurselves
        );
        assert_eq!(
            standing.overtaken(sent, at(3, 2), true),
            Overtaken::ByAnother
        );
    }

    #[test]
    fn one_service_of_which_the_catalog_knows_more_from_before_proves_nobody_else() {
        // The Lease was made anew, and its first term has the number of one
        // of before: reports about other services were accepted.
        let (mut standing, sent) = leading(1);
        standing.accepted(sent);
        let known = at(1, 70);
        assert_eq!(
            standing.overtaken(sent, known, false),
            Overtaken::Behind { epoch: 1 }
        );
    }

    #[test]
    fn a_report_of_an_earlier_term_says_nothing_about_this_one() {
        let (mut standing, sent) = leading(3);
        standing.lead(Some(4), 0);
        assert_eq!(
            standing.overtaken(sent, at(9, 9), false),
            Overtaken::ByOurselves
        );
        standing.accepted(sent);
        let sent = standing.next().unwrap();
        let behind = Overtaken::Behind { epoch: 9 };
        assert_eq!(standing.overtaken(sent, at(9, 9), false), behind);
    }
}
