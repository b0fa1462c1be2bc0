//! The queue's rules, with time as a value.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::places::SPACING;
use super::room::Room;
use super::state::{Lane, Next, State};
use crate::domain::names::BindingKey;

/// The middle of every jitter.
const CHANCE: f64 = 0.5;

fn key(name: impl ToString) -> BindingKey {
    BindingKey::new("ns", name.to_string())
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A queue and its clock.
struct Clocked {
    state: State,
    now: Instant,
}

impl Clocked {
    fn new(limit: usize) -> Self {
        Self {
            state: State::new(limit),
            now: Instant::now(),
        }
    }

    fn add(&mut self, name: impl ToString, lane: Lane) {
        self.state.add(&key(name), lane, self.now);
    }

    fn edited(&mut self, name: impl ToString) {
        self.state.edited(&key(name), Lane::Normal, self.now);
    }

    fn release(&mut self) -> Option<String> {
        let started = self.state.release(CHANCE, self.now);
        started.map(|(key, _)| key.name.clone())
    }

    fn done(&mut self, name: impl ToString, next: Next, worked: &[Room]) {
        self.state.done(&key(name), next, worked, CHANCE, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// Runs what is released during that time; `run` says what comes of it.
    /// The names in order, with the time since the beginning.
    fn run_for(
        &mut self,
        span: Duration,
        mut run: impl FnMut(&mut State, &str) -> (Next, Vec<Room>),
    ) -> Vec<(String, Duration)> {
        let (begin, end) = (self.now, self.now + span);
        let mut released = Vec::new();
        loop {
            while let Some(name) = self.release() {
                let (next, worked) = run(&mut self.state, &name);
                self.done(&name, next, &worked);
                released.push((name, self.now - begin));
            }
            match self.state.next_wake() {
                Some(wake) if wake <= end => self.now = self.now.max(wake),
                _ => break,
            }
        }
        self.now = end;
        released
    }
}

/// A run that needs the catalog: what comes of it, and whether it was asked.
fn ask(state: &mut State, name: &str, works: bool, asked: &mut Vec<String>) -> (Next, Vec<Room>) {
    if !state.may_try(&key(name), Room::Catalog) {
        return (Next::Park(Room::Catalog), Vec::new());
    }
    asked.push(name.to_owned());
    if works {
        (Next::After(Duration::from_secs(30)), vec![Room::Catalog])
    } else {
        (Next::Park(Room::Catalog), Vec::new())
    }
}

#[test]
fn of_a_binding_that_is_gone_nothing_is_left_unless_it_was_asked_for_meanwhile() {
    let mut queue = Clocked::new(2);
    for name in ["gone", "made-again"] {
        queue.add(name, Lane::Normal);
        assert_eq!(queue.release().as_deref(), Some(name));
    }
    queue.add("made-again", Lane::Normal);
    for name in ["gone", "made-again"] {
        queue.done(name, Next::Gone, &[]);
    }
    assert_eq!(queue.state.standing(&key("gone")), None);
    queue.pass(SPACING);
    assert_eq!(queue.release().as_deref(), Some("made-again"));
}

// trap 1
#[test]
fn a_lane_is_first_in_first_out() {
    let mut queue = Clocked::new(100);
    for i in 0..50 {
        queue.add(i, Lane::Bulk);
    }
    for i in 0..50 {
        assert_eq!(queue.release(), Some(i.to_string()));
    }
}

#[test]
fn lanes_share_the_releases_32_to_16_to_4_to_1() {
    let mut queue = Clocked::new(1000);
    for i in 0..200 {
        queue.add(format!("bulk{i}"), Lane::Bulk);
        queue.add(format!("normal{i}"), Lane::Normal);
        queue.add(format!("urgent{i}"), Lane::Urgent);
        queue.add(format!("words{i}"), Lane::Words);
    }
    let mut shares = BTreeMap::<String, usize>::new();
    for _ in 0..106 {
        let name = queue.release().unwrap();
        let lane = name.trim_end_matches(|c: char| c.is_ascii_digit());
        *shares.entry(lane.to_owned()).or_default() += 1;
    }
    assert_eq!(
        ["urgent", "normal", "bulk", "words"].map(|lane| shares[lane]),
        [64, 32, 8, 2]
    );
}

#[test]
fn a_lane_that_is_alone_gets_every_release() {
    let mut queue = Clocked::new(1000);
    for i in 0..40 {
        queue.add(i, Lane::Bulk);
    }
    assert!((0..40).all(|_| queue.release().is_some()));
}

// trap 19
#[test]
fn no_more_run_than_the_limit_and_the_end_of_one_makes_room_for_the_next() {
    let mut queue = Clocked::new(2);
    for name in ["a", "b", "c"] {
        queue.add(name, Lane::Normal);
    }
    assert_eq!(queue.release().as_deref(), Some("a"));
    assert_eq!(queue.release().as_deref(), Some("b"));
    assert_eq!(queue.release(), None);
    assert_eq!(queue.state.depth(), (1, 2));
    queue.done("a", Next::Wait, &[]);
    assert_eq!(queue.release().as_deref(), Some("c"));
}

// trap 1
#[test]
fn nobody_starves_at_twice_the_load_that_can_be_served() {
    // 400 keys, each asked for every second in one lane or another; a run
    // takes 40 ms and 8 go on at once, so that 200 a second are served.
    let mut queue = Clocked::new(8);
    let mut runs = BTreeMap::<String, usize>::new();
    let mut running = Vec::new();
    for tick in 0..1500_u64 {
        for i in (0..400_u64).filter(|i| i % 25 == tick % 25) {
            let lane = [Lane::Urgent, Lane::Normal, Lane::Bulk][(i % 3) as usize];
            queue.add(i, lane);
        }
        for name in std::mem::take(&mut running) {
            queue.done(name, Next::Wait, &[]);
        }
        while let Some(name) = queue.release() {
            *runs.entry(name.clone()).or_default() += 1;
            running.push(name);
        }
        queue.pass(ms(40));
    }
    assert_eq!(runs.len(), 400, "every key ran");
    let least = runs.values().min().unwrap();
    assert!(*least >= 5, "the one that ran least ran {least} times");
}

// trap 18
#[test]
fn a_burst_runs_the_first_at_once_and_once_more_for_all_the_others() {
    let mut queue = Clocked::new(10);
    queue.add("a", Lane::Normal);
    assert_eq!(queue.release().as_deref(), Some("a"));
    queue.done("a", Next::Wait, &[]);
    for _ in 0..20 {
        queue.pass(ms(5));
        queue.add("a", Lane::Normal);
        assert_eq!(queue.release(), None);
    }
    queue.pass(SPACING - ms(100) - ms(1));
    assert_eq!(queue.release(), None);
    queue.pass(ms(1));
    assert_eq!(queue.release().as_deref(), Some("a"));
    queue.done("a", Next::Wait, &[]);
    queue.pass(Duration::from_secs(10));
    assert_eq!(queue.release(), None);
}

#[test]
fn a_change_does_not_wait_for_a_look_that_came_by_itself() {
    let mut queue = Clocked::new(10);
    queue.add("a", Lane::Normal);
    queue.release().unwrap();
    queue.done("a", Next::Settled(Duration::from_secs(30)), &[]);
    queue.now = queue.state.next_wake().unwrap();
    assert_eq!(queue.release().as_deref(), Some("a"));
    queue.done("a", Next::Settled(Duration::from_secs(30)), &[]);
    queue.pass(ms(1));
    queue.add("a", Lane::Normal);
    assert_eq!(queue.release().as_deref(), Some("a"));
    queue.done("a", Next::Wait, &[]);
    queue.add("a", Lane::Normal);
    assert_eq!(queue.release(), None);
}

#[test]
fn looks_that_come_by_themselves_keep_their_distance_however_short_the_period() {
    let mut queue = Clocked::new(10);
    queue.add("a", Lane::Normal);
    let period = Next::Settled(ms(1));
    let looks = queue.run_for(Duration::from_secs(3), |_, _| (period, Vec::new()));
    assert_eq!(looks.len(), 11);
}

#[test]
fn what_is_asked_for_during_a_run_comes_after_it_and_never_beside_it() {
    let mut queue = Clocked::new(10);
    queue.add("a", Lane::Bulk);
    queue.release().unwrap();
    queue.add("a", Lane::Bulk);
    queue.add("a", Lane::Urgent);
    queue.pass(Duration::from_secs(1));
    assert_eq!(queue.release(), None);
    queue.add("b", Lane::Normal);
    queue.done("a", Next::Wait, &[]);
    assert_eq!(
        queue.release().as_deref(),
        Some("a"),
        "as urgently as asked"
    );
}

// trap 17
#[test]
fn a_failing_key_backs_off_and_nothing_but_an_edit_cuts_that_short() {
    let mut queue = Clocked::new(10);
    queue.add("a", Lane::Normal);
    let failed = queue.run_for(Duration::from_secs(120), |_, _| (Next::Failed, Vec::new()));
    assert!((7..=11).contains(&failed.len()), "{failed:?}");

    for _ in 0..100 {
        queue.add("a", Lane::Urgent);
        assert_eq!(queue.release(), None);
        queue.pass(ms(10));
    }
    queue.edited("a");
    assert_eq!(queue.release().as_deref(), Some("a"));
    queue.done("a", Next::Failed, &[]);
    // The edit began a new row of failures.
    queue.pass(ms(500));
    assert_eq!(queue.release().as_deref(), Some("a"));
}

/// A run that needs a right.
fn write(granted: bool) -> (Next, Vec<Room>) {
    if granted {
        (Next::After(Duration::from_secs(3600)), vec![Room::Rights])
    } else {
        (Next::Park(Room::Rights), Vec::new())
    }
}

#[test]
fn those_who_lack_a_right_wait_while_one_finds_out_and_nobody_else_waits() {
    let mut queue = Clocked::new(16);
    let is_allowed = |name: &str| name.starts_with("allowed");
    for i in 0..1000 {
        queue.add(format!("denied{i}"), Lane::Normal);
    }
    let first = queue.run_for(SPACING, |_, name| write(is_allowed(name)));
    assert_eq!(
        first.len(),
        1000,
        "each finds out for itself that it lacks it"
    );
    // Whoever does not lack it goes on at once, and sends none of them back.
    for i in 0..100 {
        let name = format!("allowed{i}");
        queue.add(&name, Lane::Normal);
        let runs = queue.run_for(ms(50), |_, name| write(is_allowed(name)));
        assert!(
            runs.iter()
                .any(|(of, after)| *of == name && after.is_zero())
        );
        // Beside the three of whom it was not yet known.
        assert!(runs.len() <= 4, "{runs:?}");
    }
    // One every second or two.
    let tries = queue.run_for(Duration::from_secs(300), |_, name| write(is_allowed(name)));
    assert!((150..=1000).contains(&tries.len()), "{}", tries.len());
    let granted = queue.run_for(Duration::from_secs(5), |_, _| write(true));
    assert_eq!(granted.len(), 1000);
}

#[test]
fn an_edit_during_a_run_that_fails_is_looked_at_and_another_event_is_not() {
    for (edited, soon) in [(true, true), (false, false)] {
        let mut queue = Clocked::new(10);
        queue.add("a", Lane::Normal);
        queue.run_for(Duration::from_secs(60), |_, _| (Next::Failed, Vec::new()));
        queue.edited("a");
        queue.release().unwrap();
        for _ in 0..5 {
            queue.done("a", Next::Failed, &[]);
            queue.pass(Duration::from_secs(60));
            queue.release().unwrap();
        }
        if edited {
            queue.edited("a");
        } else {
            queue.add("a", Lane::Urgent);
        }
        queue.done("a", Next::Failed, &[]);
        queue.pass(SPACING);
        assert_eq!(queue.release().is_some(), soon);
    }
}

#[test]
fn what_changed_under_way_is_looked_at_soon_but_not_for_ever() {
    let mut queue = Clocked::new(10);
    queue.add("a", Lane::Normal);
    let looks = queue.run_for(Duration::from_secs(60), |_, _| (Next::Stale, Vec::new()));
    assert!(looks[3].1 <= ms(1000), "{looks:?}");
    assert!(looks.len() <= 14, "{looks:?}");
    // The event that says what is there now does not wait.
    queue.add("a", Lane::Normal);
    assert!(queue.release().is_some());
}

#[test]
fn one_that_fails_alone_neither_keeps_others_waiting_nor_spins() {
    let mut queue = Clocked::new(10);
    for i in 0..50 {
        queue.add(format!("good{i}"), Lane::Bulk);
        if i % 10 == 0 {
            queue.add(format!("bad{}", i / 10), Lane::Bulk);
        }
    }
    let mut asked = Vec::new();
    let looks = queue.run_for(Duration::from_secs(300), |state, name| {
        ask(state, name, name.starts_with("good"), &mut asked)
    });
    assert_eq!(looks.len(), asked.len(), "nobody was made to wait");
    let count = |name: &str| asked.iter().filter(|a| *a == name).count();
    assert!((0..50).all(|i| count(&format!("good{i}")) >= 10));
    for i in 0..5 {
        let tries = count(&format!("bad{i}"));
        assert!((8..=20).contains(&tries), "{tries}");
    }
}

#[test]
fn in_an_outage_few_find_out_and_all_are_released_by_the_first_success() {
    let mut queue = Clocked::new(16);
    for i in 0..200 {
        queue.add(i, Lane::Bulk);
    }
    let mut asked = Vec::new();
    queue.run_for(Duration::from_secs(60), |state, name| {
        ask(state, name, false, &mut asked)
    });
    assert!((30..=60).contains(&asked.len()), "{} requests", asked.len());

    let mut after = Vec::new();
    let looks = queue.run_for(Duration::from_secs(10), |state, name| {
        ask(state, name, true, &mut after)
    });
    let first = looks[0].1;
    assert!(first <= Duration::from_secs(2), "{first:?}");
    let soon = looks.iter().filter(|(_, at)| *at <= first + SPACING);
    assert!(soon.count() >= 150, "{looks:?}");
    assert_eq!(after.len(), 200);
    let last = looks.last().unwrap().1;
    assert!(last <= first + Duration::from_secs(2), "{last:?}");
}

#[test]
fn several_that_fail_alone_are_taken_for_an_outage_once_at_most() {
    let mut queue = Clocked::new(10);
    for i in 0..5 {
        queue.add(format!("bad{i}"), Lane::Bulk);
    }
    for i in 0..50 {
        queue.add(format!("good{i}"), Lane::Bulk);
    }
    let mut asked = Vec::new();
    let works = |name: &str| name.starts_with("good");
    queue.run_for(Duration::from_secs(60), |state, name| {
        ask(state, name, works(name), &mut asked)
    });
    asked.clear();
    let looks = queue.run_for(Duration::from_secs(300), |state, name| {
        ask(state, name, works(name), &mut asked)
    });
    assert_eq!(looks.len(), asked.len(), "nobody is made to wait any more");
}

#[test]
fn the_probes_go_round_and_those_that_failed_before_the_outage_come_last() {
    let mut queue = Clocked::new(16);
    for i in 0..10 {
        queue.add(i, Lane::Bulk);
    }
    queue.add("bad", Lane::Bulk);
    let mut asked = Vec::new();
    queue.run_for(Duration::from_secs(29), |state, name| {
        ask(state, name, name != "bad", &mut asked)
    });
    asked.clear();
    queue.run_for(Duration::from_secs(40), |state, name| {
        ask(state, name, false, &mut asked)
    });
    let probes = &asked[3..];
    let names: std::collections::BTreeSet<_> = probes.iter().collect();
    assert!(names.len() >= 10, "{probes:?}");
}

#[test]
fn a_single_binding_asks_every_few_seconds() {
    let mut queue = Clocked::new(16);
    queue.add("only", Lane::Bulk);
    let mut asked = Vec::new();
    let looks = queue.run_for(Duration::from_secs(60), |state, name| {
        ask(state, name, false, &mut asked)
    });
    assert!((30..=65).contains(&asked.len()), "{}", asked.len());
    let longest = looks.windows(2).map(|w| w[1].1 - w[0].1).max().unwrap();
    assert!(longest <= Duration::from_secs(2), "{longest:?}");
}

#[test]
fn a_probe_that_hangs_does_not_put_off_the_next_one() {
    let mut queue = Clocked::new(16);
    for i in 0..20 {
        queue.add(i, Lane::Bulk);
    }
    // Everything that was under way when the catalog began to hang fails.
    queue.run_for(ms(100), |_, _| (Next::Park(Room::Catalog), Vec::new()));
    let mut under_way = Vec::new();
    for _ in 0..100 {
        queue.pass(ms(100));
        while let Some(name) = queue.release() {
            if queue.state.may_try(&key(&name), Room::Catalog) {
                under_way.push(name);
            } else {
                queue.done(name, Next::Park(Room::Catalog), &[]);
            }
        }
    }
    assert!((4..=8).contains(&under_way.len()), "{under_way:?}");
    let last = under_way.pop().unwrap();
    queue.done(last, Next::Wait, &[Room::Catalog]);
    queue.pass(ms(500));
    let released = std::iter::from_fn(|| queue.release()).count();
    assert!(released >= 8, "{released}");
}

#[test]
fn an_edit_of_a_waiting_binding_is_looked_at_without_asking_the_catalog() {
    let mut queue = Clocked::new(16);
    for i in 0..20 {
        queue.add(i, Lane::Bulk);
    }
    let mut asked = Vec::new();
    queue.run_for(ms(100), |state, name| ask(state, name, false, &mut asked));
    let before = asked.len();
    queue.pass(SPACING);
    queue.edited(19);
    assert_eq!(queue.release().as_deref(), Some("19"));
    assert!(!queue.state.may_try(&key(19), Room::Catalog));
    assert_eq!(asked.len(), before);
}

#[test]
fn who_was_denied_while_the_outage_ended_looks_again_at_once() {
    let mut queue = Clocked::new(16);
    for i in 0..20 {
        queue.add(i, Lane::Bulk);
    }
    let mut asked = Vec::new();
    queue.run_for(ms(100), |state, name| ask(state, name, false, &mut asked));
    queue.pass(SPACING);
    queue.edited("late");
    queue.edited("probe");
    assert_eq!(queue.release().as_deref(), Some("late"));
    assert_eq!(queue.release().as_deref(), Some("probe"));
    assert!(!queue.state.may_try(&key("late"), Room::Catalog));
    queue.done("probe", Next::Wait, &[Room::Catalog]);
    queue.done("late", Next::Park(Room::Catalog), &[]);
    queue.pass(SPACING);
    let released: Vec<_> = std::iter::from_fn(|| queue.release()).collect();
    assert!(released.contains(&"late".to_owned()), "{released:?}");
}

#[test]
fn the_rooms_do_not_disturb_each_other() {
    let mut queue = Clocked::new(16);
    for i in 0..20 {
        queue.add(i, Lane::Bulk);
    }
    queue.run_for(ms(100), |_, _| {
        (Next::Park(Room::Writes), vec![Room::Catalog])
    });
    queue.pass(SPACING);
    queue.add("a", Lane::Urgent);
    assert_eq!(queue.release().as_deref(), Some("a"));
    assert!(queue.state.may_try(&key("a"), Room::Catalog));
    assert!(!queue.state.may_try(&key("a"), Room::Writes));
}

#[test]
fn looks_that_come_by_themselves_come_together_and_hardly_later() {
    let mut queue = Clocked::new(1_000);
    let mut due = BTreeMap::new();
    for n in 0..1_000 {
        let name = n.to_string();
        queue.add(&name, Lane::Normal);
        assert_eq!(queue.release().as_deref(), Some(&*name));
        queue.pass(ms(1));
        let delay = ms(27_000 + n * 7 % 6_000);
        queue.done(&name, Next::After(delay), &[]);
        due.insert(name, queue.now + delay);
    }
    let (mut wakes, mut looks) = (0, 0);
    while let Some(wake) = queue.state.next_wake() {
        queue.now = wake;
        wakes += 1;
        while let Some(name) = queue.release() {
            let late = wake - due[&name];
            assert!(late <= ms(1_100), "{name} is {late:?} late");
            queue.done(&name, Next::Wait, &[]);
            looks += 1;
        }
    }
    assert_eq!(looks, 1_000);
    assert!(wakes <= 10, "{wakes}");
}

// trap 30
#[test]
fn a_binding_that_is_gone_leaves_nothing_behind() {
    let mut queue = Clocked::new(16);
    for i in 0..20 {
        queue.add(i, Lane::Bulk);
    }
    let mut asked = Vec::new();
    queue.run_for(ms(100), |state, name| ask(state, name, false, &mut asked));
    queue.add("delayed", Lane::Normal);
    queue.add("running", Lane::Normal);
    while let Some(name) = queue.release() {
        if name != "running" {
            queue.done(name, Next::After(Duration::from_secs(9)), &[]);
        }
    }
    queue.add("queued", Lane::Normal);
    for name in ["delayed", "queued", "running"] {
        queue.state.forget(&key(name));
    }
    for i in 0..20 {
        queue.state.forget(&key(i));
    }
    queue.done("running", Next::Failed, &[]);
    assert_eq!(
        queue.run_for(Duration::from_secs(60), |_, _| (Next::Wait, vec![])),
        []
    );
    assert!(queue.state.is_empty());
}

// trap 28
#[test]
fn a_binding_made_anew_during_the_last_run_of_the_old_one_is_looked_at() {
    let mut queue = Clocked::new(16);
    queue.add("a", Lane::Normal);
    queue.release().unwrap();
    queue.state.forget(&key("a"));
    queue.edited("a");
    queue.done("a", Next::Failed, &[]);
    queue.pass(SPACING);
    assert_eq!(queue.release().as_deref(), Some("a"));
}

// trap 15
#[tokio::test(start_paused = true)]
async fn whoever_takes_the_keys_shows_a_sign_of_life_and_only_he() {
    let queue = super::Queue::new(1, crate::metrics::Metrics::new().unwrap().workqueue);
    assert_eq!(queue.asked_ago(), None);
    let hour = Duration::from_secs(3600);
    // Waiting counts, whether there is nothing to do or no room for it.
    for full in [false, true] {
        if full {
            queue.add(&key("a"), Lane::Normal);
            queue.add(&key("b"), Lane::Normal);
            assert_eq!(queue.next().await, (key("a"), Lane::Normal));
        }
        let waiting = tokio::time::timeout(hour, queue.next());
        let looks = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(7)).await;
                let ago = queue.asked_ago().unwrap();
                assert!(ago <= Duration::from_secs(5), "{ago:?}");
            }
        };
        tokio::select! {
            _ = waiting => panic!("there is none"),
            () = looks => {}
        }
        // Nobody asks any more.
        tokio::time::sleep(hour).await;
        assert!(queue.asked_ago() >= Some(hour));
    }
    assert!(queue.longest_run() >= Some(hour));
    queue.done(&key("a"), Next::Wait, &[]);
    assert_eq!(queue.longest_run(), None);
}

// A standby lists what there is hours before it leads and takes the first key.
#[tokio::test(start_paused = true)]
async fn a_key_has_not_waited_for_a_look_before_anybody_asked_for_keys() {
    let metrics = crate::metrics::Metrics::new().unwrap();
    let queue = super::Queue::new(1, metrics.workqueue.clone());
    let waited = || {
        let text = metrics.exposition().unwrap();
        let sums = text.lines();
        let mut sums = sums.filter(|line| line.starts_with("workqueue_queue_duration_seconds_sum"));
        let sum = sums.next().unwrap().rsplit(' ').next().unwrap();
        sum.parse::<f64>().unwrap().round()
    };
    queue.add(&key("a"), Lane::Bulk);
    queue.add(&key("b"), Lane::Bulk);
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert_eq!(queue.next().await.0, key("a"));
    assert_eq!(waited(), 0.0);

    // From then on, what waits has waited.
    tokio::time::advance(Duration::from_secs(30)).await;
    queue.add(&key("c"), Lane::Bulk);
    queue.done(&key("a"), Next::Wait, &[]);
    assert_eq!(queue.next().await.0, key("b"));
    assert_eq!(waited(), 30.0);
    tokio::time::advance(Duration::from_secs(20)).await;
    queue.done(&key("b"), Next::Wait, &[]);
    assert_eq!(queue.next().await.0, key("c"));
    assert_eq!(waited(), 50.0);
}

#[test]
fn how_long_a_key_was_due_and_runs_is_counted() {
    let mut queue = Clocked::new(1);
    queue.add("a", Lane::Bulk);
    queue.add("b", Lane::Bulk);
    // It is due already, only in a better lane.
    queue.pass(ms(100));
    queue.add("b", Lane::Normal);
    assert_eq!(queue.release().as_deref(), Some("b"));
    let tally = queue.state.take_tally();
    assert_eq!((tally.adds, tally.retries), (2, 0));
    assert_eq!(tally.waited, Some(ms(100)));

    queue.pass(ms(50));
    assert_eq!(queue.state.running_for(&key("b"), queue.now), Some(ms(50)));
    assert_eq!(queue.state.running_for(&key("a"), queue.now), None);
    assert_eq!(queue.state.under_way(queue.now), (ms(50), ms(50)));
    queue.done("b", Next::Failed, &[]);
    assert_eq!(queue.state.under_way(queue.now), (ms(0), ms(0)));
    assert_eq!(queue.state.take_tally().retries, 1);

    assert_eq!(queue.release().as_deref(), Some("a"));
    assert_eq!(queue.state.take_tally().waited, Some(ms(150)));
}

#[test]
fn what_a_key_waits_for_is_said() {
    let mut queue = Clocked::new(1);
    let says = |queue: &Clocked, name| {
        let standing = queue.state.standing(&key(name)).unwrap();
        (standing.place, standing.until, standing.failures)
    };
    assert_eq!(queue.state.standing(&key("a")), None);
    queue.add("a", Lane::Bulk);
    assert_eq!(says(&queue, "a"), ("is due", None, 0));
    queue.release();
    assert_eq!(says(&queue, "a"), ("is looked at", None, 0));
    queue.done("a", Next::Wait, &[]);
    assert_eq!(says(&queue, "a"), ("waits for a change", None, 0));
    queue.add("a", Lane::Bulk);
    let next = Some(queue.now + SPACING);
    assert_eq!(says(&queue, "a"), ("waits for its next look", next, 0));
    queue.pass(SPACING);
    queue.release();
    queue.done("a", Next::Failed, &[]);
    let (place, until, failures) = says(&queue, "a");
    assert_eq!((place, failures), ("backs off", 1));
    assert!(until > Some(queue.now));
}

#[test]
fn who_waits_for_the_catalog_says_so() {
    let mut queue = Clocked::new(10);
    for name in ["a", "b", "c"] {
        queue.add(name, Lane::Bulk);
        queue.release();
        queue.done(name, Next::Park(Room::Catalog), &[]);
    }
    let standing = queue.state.standing(&key("c")).unwrap();
    assert_eq!(standing.place, "waits for the catalog");
}
