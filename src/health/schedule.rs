//! Who is checked next? One wheel for the times of all, and behind it a queue
//! that is fair among services. Times come from outside: does no IO.
//!
//! 1. Whoever is due waits in the queue of his service; services take turns.
//! 2. Of the checks that may run at once a service has a quarter at most, so
//!    that one whose endpoints all hang cannot keep the others out.
//! 3. An endpoint stands in one place: on the wheel, in a queue, or he is being
//!    checked. So no more wait than there are endpoints, however late it gets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::names::ServiceKey;

/// Number of an endpoint. None is given twice.
pub(super) type Id = u64;

/// Whom to check next.
pub(super) struct Schedule {
    start: Instant,
    /// By nanoseconds since the start: half as large as instants.
    wheel: BTreeSet<(u64, Id)>,
    queues: BTreeMap<Arc<ServiceKey>, Queue>,
    /// Services whose turn comes, each once.
    turns: VecDeque<Arc<ServiceKey>>,
    waiting: usize,
    running: usize,
    most: usize,
    most_of_one: usize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Id, Instant)>,
    running: usize,
    has_turn: bool,
}

impl Schedule {
    /// One by which so many are checked at once. Nobody is due before `start`.
    pub(super) fn new(most: usize, start: Instant) -> Self {
        Self {
            start,
            wheel: BTreeSet::new(),
            queues: BTreeMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            running: 0,
            most: most.max(1),
            most_of_one: (most / 4).max(1),
        }
    }

    /// Sets the time of an endpoint that stands nowhere.
    pub(super) fn set(&mut self, id: Id, due: Instant) {
        self.wheel.insert((self.nanos(due), id));
    }

    /// Moves an endpoint on the wheel; says whether it was there.
    pub(super) fn hurry(&mut self, id: Id, from: Instant, to: Instant) -> bool {
        let there = self.wheel.remove(&(self.nanos(from), id));
        if there {
            self.wheel.insert((self.nanos(to), id));
        }
        there
    }

    /// Takes an endpoint out, wherever it stands but running.
    pub(super) fn forget(&mut self, id: Id, service: &ServiceKey, due: Instant) {
        if self.wheel.remove(&(self.nanos(due), id)) {
            return;
        }
        if let Some(queue) = self.queues.get_mut(service) {
            let before = queue.waiting.len();
            queue.waiting.retain(|(waiting, _)| *waiting != id);
            self.waiting -= before - queue.waiting.len();
        }
        self.tidy(service);
    }

    /// When the next endpoint is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.wheel.first().map(|(due, _)| self.instant(*due))
    }

    /// Whoever is due by now leaves the wheel.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Id, Instant)> {
        let until = self.nanos(now);
        let (due, id) = *self.wheel.first().filter(|(due, _)| *due <= until)?;
        self.wheel.pop_first();
        Some((id, self.instant(due)))
    }

    /// Puts an endpoint that is due in its service's queue.
    pub(super) fn enqueue(&mut self, id: Id, service: &Arc<ServiceKey>, due: Instant) {
        let queue = self.queues.entry(Arc::clone(service)).or_default();
        queue.waiting.push_back((id, due));
        self.waiting += 1;
        if queue.takes_turn(self.most_of_one) {
            self.turns.push_back(Arc::clone(service));
        }
    }

    /// Whom to check now, and since when he has been due; none while enough
    /// are being checked.
    pub(super) fn start(&mut self) -> Option<(Id, Instant)> {
        if self.running >= self.most {
            return None;
        }
        loop {
            let service = self.turns.pop_front()?;
            let Some(queue) = self.queues.get_mut(&service) else {
                continue;
            };
            queue.has_turn = false;
            if queue.running >= self.most_of_one {
                continue;
            }
            let Some(next) = queue.waiting.pop_front() else {
                self.tidy(&service);
                continue;
            };
            queue.running += 1;
            self.running += 1;
            self.waiting -= 1;
            if queue.takes_turn(self.most_of_one) {
                self.turns.push_back(service);
            }
            return Some(next);
        }
    }

    /// A check of an endpoint of this service has ended.
    pub(super) fn ended(&mut self, service: &Arc<ServiceKey>) {
        let Some(queue) = self.queues.get_mut(service) else {
            return;
        };
        queue.running = queue.running.saturating_sub(1);
        self.running = self.running.saturating_sub(1);
        if queue.takes_turn(self.most_of_one) {
            self.turns.push_back(Arc::clone(service));
        } else if queue.is_idle() {
            self.queues.remove(service);
        }
    }

    /// How many run, and how many are due and wait.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.running, self.waiting)
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn instant(&self, nanos: u64) -> Instant {
        self.start + Duration::from_nanos(nanos)
    }

    /// Forgets a queue that is empty. One that has a turn yet goes with it.
    fn tidy(&mut self, service: &ServiceKey) {
        if self.queues.get(service).is_some_and(Queue::is_idle) {
            self.queues.remove(service);
        }
    }
}

impl Queue {
    /// Whether the service gets a turn now that it did not have. It has it then.
    fn takes_turn(&mut self, most_of_one: usize) -> bool {
        let takes = !self.has_turn && !self.waiting.is_empty() && self.running < most_of_one;
        self.has_turn |= takes;
        takes
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running == 0 && !self.has_turn
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::service;
    use super::*;

    fn keys<const N: usize>() -> [Arc<ServiceKey>; N] {
        std::array::from_fn(|n| Arc::new(service(&format!("s{n}"))))
    }

    fn all(schedule: &mut Schedule) -> Vec<Id> {
        std::iter::from_fn(|| schedule.start())
            .map(|(id, _)| id)
            .collect()
    }

    #[test]
    fn whoever_is_due_first_is_first() {
        let start = Instant::now();
        let mut schedule = Schedule::new(8, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        schedule.set(1, at(3));
        schedule.set(2, at(1));
        schedule.set(3, at(2));
        assert_eq!(schedule.next(), Some(at(1)));
        assert_eq!(schedule.due(at(2)), Some((2, at(1))));
        assert_eq!(schedule.due(at(2)), Some((3, at(2))));
        assert_eq!(schedule.due(at(2)), None);
        assert!(schedule.hurry(1, at(3), at(2)));
        assert!(!schedule.hurry(1, at(3), at(2)));
        assert_eq!(schedule.due(at(2)), Some((1, at(2))));
    }

    #[test]
    fn services_take_turns_however_many_of_one_are_due() {
        let mut schedule = Schedule::new(400, Instant::now());
        let [busy, quiet] = keys();
        let now = Instant::now();
        for id in 0..50 {
            schedule.enqueue(id, &busy, now);
        }
        schedule.enqueue(100, &quiet, now);
        schedule.enqueue(101, &quiet, now);
        assert_eq!(all(&mut schedule)[..5], [0, 100, 1, 101, 2]);
    }

    #[test]
    fn a_service_that_hangs_leaves_three_quarters_to_the_others() {
        let mut schedule = Schedule::new(8, Instant::now());
        let [hangs, other] = keys();
        let now = Instant::now();
        for id in 0..100 {
            schedule.enqueue(id, &hangs, now);
        }
        assert_eq!(all(&mut schedule), [0, 1]);
        schedule.enqueue(200, &other, now);
        assert_eq!(all(&mut schedule), [200]);
        assert_eq!(schedule.load(), (3, 98));
        schedule.ended(&hangs);
        assert_eq!(all(&mut schedule), [2]);
    }

    #[test]
    fn no_more_run_than_may() {
        let mut schedule = Schedule::new(4, Instant::now());
        let keys: [_; 9] = keys();
        let now = Instant::now();
        for (id, key) in (0..).zip(&keys) {
            schedule.enqueue(id, key, now);
        }
        assert_eq!(all(&mut schedule), [0, 1, 2, 3]);
        schedule.ended(&keys[0]);
        assert_eq!(all(&mut schedule), [4]);
    }

    #[test]
    fn nothing_is_left_of_whoever_is_forgotten() {
        let mut schedule = Schedule::new(4, Instant::now());
        let [key] = keys();
        let now = Instant::now();
        schedule.set(1, now);
        schedule.enqueue(2, &key, now);
        schedule.enqueue(3, &key, now);
        schedule.forget(1, &key, now);
        schedule.forget(2, &key, now);
        assert_eq!(all(&mut schedule), [3]);
        schedule.ended(&key);
        schedule.forget(3, &key, now);
        assert_eq!(schedule.load(), (0, 0));
        assert!(schedule.queues.is_empty() && schedule.turns.is_empty());
        assert!(schedule.wheel.is_empty());
    }
}
