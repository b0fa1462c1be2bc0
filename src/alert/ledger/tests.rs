//! What is told when, without waiting for it.

use super::super::fixtures::{endpoint, taken_out};
use super::*;

/// A ledger and its time.
struct Told {
    ledger: Ledger,
    begin: Instant,
    now: Duration,
}

impl Told {
    fn new() -> Self {
        Self {
            ledger: Ledger::new(REPEAT),
            begin: Instant::now(),
            now: Duration::ZERO,
        }
    }

    fn moment(&self) -> Moment {
        Moment {
            steady: self.begin + self.now,
            wall: Timestamp::UNIX_EPOCH + self.now,
        }
    }

    fn fires(&mut self, alerts: impl IntoIterator<Item = Alert>) {
        self.follows(alerts, true);
    }

    fn follows(&mut self, alerts: impl IntoIterator<Item = Alert>, alone: bool) {
        let alerts = alerts.into_iter();
        let firing = alerts.map(|alert| (alert.subject(), Arc::new(alert)));
        let now = self.moment();
        self.ledger.follow(&Arc::new(firing.collect()), now, alone);
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let same = Arc::clone(&self.ledger.followed);
        let now = self.moment();
        self.ledger.follow(&same, now, true);
    }

    /// What is due, as it gets to nobody.
    fn lost(&mut self) -> Vec<(Subject, i64)> {
        let now = self.moment();
        seconds(&self.ledger.batch(now))
    }

    /// What is due, as it is taken: whom it is about, and the second of its end.
    fn taken(&mut self) -> Vec<(Subject, i64)> {
        let now = self.moment();
        let batch = self.ledger.batch(now);
        self.ledger.told(&batch, now.steady);
        seconds(&batch)
    }
}

fn seconds(batch: &[Posting]) -> Vec<(Subject, i64)> {
    let one = |posting: &Posting| (posting.subject.clone(), posting.ends.as_second());
    batch.iter().map(one).collect()
}

fn told(number: u32, ends: i64) -> (Subject, i64) {
    (endpoint(number).subject(), ends)
}

const NOTHING: Vec<(Subject, i64)> = Vec::new();

#[test]
fn what_fires_is_told_at_once_and_every_minute_with_an_end_ahead() {
    let mut t = Told::new();
    assert_eq!(t.taken(), NOTHING);
    t.fires([endpoint(1)]);
    assert_eq!(t.taken(), [told(1, 300)]);
    assert_eq!(t.taken(), NOTHING);
    t.pass(59);
    assert_eq!(t.taken(), NOTHING);
    t.pass(1);
    assert_eq!(t.taken(), [told(1, 360)]);
    t.pass(60);
    assert_eq!(t.taken(), [told(1, 420)]);
}

#[test]
fn what_ended_is_told_until_the_end_that_was_announced_has_passed() {
    let mut t = Told::new();
    t.fires([endpoint(1)]);
    assert_eq!(t.taken(), [told(1, 300)]);
    t.pass(30);
    t.fires([]);
    let mut times = 0;
    for second in 30..400 {
        let taken = t.taken();
        if !taken.is_empty() {
            assert_eq!(taken, [told(1, 30)]);
            assert!(second < 300, "told at {second} s");
            times += 1;
        }
        t.pass(1);
    }
    assert_eq!(times, 5);
    assert!(t.ledger.entries.is_empty());
}

#[test]
fn an_end_that_is_lost_is_told_until_it_is_taken() {
    let mut t = Told::new();
    t.fires([endpoint(1)]);
    t.taken();
    t.pass(30);
    t.fires([]);
    assert_eq!(t.lost(), [told(1, 30)]);
    assert_eq!(t.lost(), [told(1, 30)]);
    t.pass(100);
    assert_eq!(t.taken(), [told(1, 30)]);
    assert_eq!(t.taken(), NOTHING);
}

#[test]
fn the_end_is_told_of_what_may_have_been_taken_without_an_answer() {
    let mut t = Told::new();
    t.fires([endpoint(1)]);
    assert_eq!(t.lost(), [told(1, 300)]);
    t.pass(2);
    t.fires([]);
    assert_eq!(t.taken(), [told(1, 2)]);
}

#[test]
fn what_began_and_ended_before_it_was_told_is_not_told() {
    let mut t = Told::new();
    t.fires([endpoint(1)]);
    t.fires([]);
    assert_eq!(t.taken(), NOTHING);
    assert!(t.ledger.entries.is_empty());
}

#[test]
fn what_fires_again_is_news() {
    let mut t = Told::new();
    t.fires([endpoint(1)]);
    t.taken();
    t.pass(1);
    t.fires([]);
    assert_eq!(t.taken(), [told(1, 1)]);
    t.pass(1);
    t.fires([endpoint(1)]);
    assert_eq!(t.taken(), [told(1, 302)]);
}

#[test]
fn another_text_waits_a_little_since_the_last_telling() {
    let mut t = Told::new();
    t.fires([endpoint(1)]);
    t.taken();
    t.pass(1);
    t.fires([taken_out(endpoint(1))]);
    assert_eq!(t.taken(), NOTHING);
    t.pass(4);
    assert_eq!(t.taken(), [told(1, 305)]);
    t.pass(59);
    assert_eq!(t.taken(), NOTHING);
}

#[test]
fn what_is_due_soon_goes_along_and_news_go_first() {
    let mut t = Told::new();
    t.fires([endpoint(1)]);
    t.taken();
    t.pass(10);
    t.fires([endpoint(1), endpoint(2)]);
    assert_eq!(t.taken(), [told(2, 310)]);
    t.pass(45);
    t.fires([endpoint(1), endpoint(2), endpoint(3)]);
    assert_eq!(t.taken(), [told(3, 355), told(1, 355)]);
}

#[test]
fn a_batch_is_bounded_and_the_next_one_has_the_rest() {
    let mut t = Told::new();
    let most = u32::try_from(BATCH).unwrap();
    t.fires((0..most + 1).map(endpoint));
    assert_eq!(t.taken().len(), BATCH);
    assert_eq!(t.taken().len(), 1);
    assert_eq!(t.taken(), NOTHING);
}

#[test]
fn who_begins_to_lead_ends_what_another_replica_may_have_told() {
    let mut t = Told::new();
    t.follows([endpoint(1), endpoint(2)], false);
    t.pass(20);
    t.follows([endpoint(2)], false);
    t.pass(1);
    let now = t.moment();
    t.ledger.tell_anew(now);
    t.fires([]);
    assert_eq!(t.taken(), [told(1, 20), told(2, 21)]);
}

#[test]
fn what_ended_under_another_leader_long_ago_is_forgotten() {
    let mut t = Told::new();
    t.follows([endpoint(1)], false);
    t.follows([], false);
    t.pass(299);
    assert_eq!(t.ledger.entries.len(), 1);
    t.pass(1);
    assert!(t.ledger.entries.is_empty());
}

#[test]
fn however_many_end_only_the_latest_are_kept() {
    let mut t = Told::new();
    let most = u32::try_from(MOST).unwrap();
    for round in 0..3 {
        t.follows((round * most..(round + 1) * most).map(endpoint), false);
        t.pass(1);
    }
    t.follows([], false);
    assert_eq!(t.ledger.entries.len(), 2 * MOST);
    assert!(t.ledger.entries.contains_key(&endpoint(most).subject()));
}

#[test]
fn all_that_can_fire_can_end_at_once() {
    let mut t = Told::new();
    let most = u32::try_from(MOST).unwrap();
    t.follows((0..2 * most).map(endpoint), false);
    t.follows([], false);
    assert_eq!(t.ledger.entries.len(), 2 * MOST);
}
