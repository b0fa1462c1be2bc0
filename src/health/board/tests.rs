//! Tests of what follows from answers, with time as a value.

use super::super::fixtures::{check, service};
use super::*;

const GOOD: Answer = Answer::Good;
const REFUSED: Answer = Answer::Failed(Failure::Refused);
const BAD: Answer = Answer::Failed(Failure::Answered5xx);
const NO_CERTIFICATE: Answer = Answer::Unknown(Unknown::NoCertificate);

fn at(seconds: u64) -> Moment {
    Moment {
        at: Timestamp::from_second(seconds.try_into().unwrap()).unwrap(),
        clock: Duration::from_secs(seconds),
    }
}

fn address(host: u8) -> Address {
    ([10, 0, 0, host], 80).into()
}

fn targets(hosts: &[u8]) -> ServiceTargets {
    ServiceTargets {
        check: check().into(),
        endpoints: hosts.iter().copied().map(address).collect(),
    }
}

/// So many services of one endpoint each, which has answered.
fn healthy(services: u8) -> (Board, Vec<Arc<ServiceKey>>) {
    let mut board = Board::default();
    let keys: Vec<_> = (0..services)
        .map(|n| Arc::new(service(&format!("s{n}"))))
        .collect();
    for (host, key) in (0..).zip(&keys) {
        board.set(key, &targets(&[host]), true, at(0));
        for _ in 0..2 {
            told(&mut board, key, host, GOOD, 1);
        }
    }
    board.changed.clear();
    (board, keys)
}

fn told(board: &mut Board, key: &Arc<ServiceKey>, host: u8, answer: Answer, second: u64) -> Next {
    let told = Told {
        answer: Ok(answer),
        began: Duration::from_secs(second),
        witnesses: board.witnesses(key, address(host), || Some(Duration::from_secs(second))),
    };
    board.take(key, address(host), told, at(second))
}

fn verdict(board: &Board, key: &ServiceKey, host: u8) -> Verdict {
    board.services[key]
        .endpoints
        .get(address(host))
        .unwrap()
        .judge
        .verdict()
}

#[test]
fn what_is_held_of_an_endpoint_is_small() {
    assert!(size_of::<Endpoint>() <= 64, "{}", size_of::<Endpoint>());
}

#[test]
fn a_verdict_is_told_with_its_time_and_the_last_failure() {
    let (mut board, keys) = healthy(1);
    let next: Vec<_> = (10..13)
        .map(|second| told(&mut board, &keys[0], 0, BAD, second).soon)
        .collect();
    let confirm = Some(check().thresholds.confirm);
    assert_eq!(next, [confirm, confirm, None]);
    let endpoints = &board.services[&keys[0]].endpoints;
    let endpoint = endpoints.get(address(0)).unwrap();
    assert_eq!(endpoint.since, at(12).at.into());
    assert_eq!(
        endpoint.trouble().last_failure,
        Some((at(12).at, Failure::Answered5xx))
    );
    assert_eq!(board.changed.iter().collect::<Vec<_>>(), [&keys[0]]);
}

#[test]
fn a_check_has_proved_itself_from_the_first_good_answer_on() {
    let mut board = Board::default();
    let key = Arc::new(service("web"));
    board.set(&key, &targets(&[1, 2]), true, at(0));
    assert_eq!(board.changed.len(), 1);
    told(&mut board, &key, 1, BAD, 1);
    assert!(!board.services[&key].proven);
    board.changed.clear();
    told(&mut board, &key, 2, GOOD, 2);
    assert!(board.services[&key].proven);
    assert_eq!(board.changed.len(), 1);
    board.set(&key, &targets(&[2, 3]), false, at(3));
    assert!(board.services[&key].proven);
    board.set(&key, &targets(&[2, 3]), true, at(4));
    assert!(!board.services[&key].proven);
}

#[test]
fn nothing_is_told_where_nothing_changed() {
    let (mut board, keys) = healthy(1);
    told(&mut board, &keys[0], 0, GOOD, 9);
    told(&mut board, &keys[0], 0, BAD, 10);
    board.set(&keys[0], &targets(&[0]), false, at(11));
    board.look(at(12));
    assert!(board.changed.is_empty());
    board.set(&keys[0], &targets(&[0, 1]), false, at(13));
    assert_eq!(board.changed.len(), 1);
    board.changed.clear();
    board.remove(&keys[0], at(14));
    board.remove(&keys[0], at(14));
    assert_eq!(board.changed.len(), 1);
}

#[test]
fn a_silence_makes_a_verdict_once_another_service_was_heard_since() {
    let (mut board, keys) = healthy(3);
    for second in 10..15 {
        let next = told(&mut board, &keys[0], 0, REFUSED, second);
        let aside = (second >= 12).then_some(SetAside::Unwitnessed);
        assert_eq!((next.set_aside, next.ask_others), (aside, true), "{second}");
        assert_eq!(next.soon, Some(check().thresholds.confirm));
    }
    assert_eq!(verdict(&board, &keys[0], 0), Verdict::Healthy);
    told(&mut board, &keys[1], 1, BAD, 15);
    told(&mut board, &keys[0], 0, REFUSED, 16);
    assert_eq!(
        verdict(&board, &keys[0], 0),
        Verdict::Unhealthy(Failure::Refused)
    );
}

#[test]
fn whoever_was_unhealthy_with_all_others_has_to_fail_again_once_one_is_well() {
    let (mut board, keys) = healthy(1);
    let key = &keys[0];
    board.set(key, &targets(&[0, 1, 2]), false, at(2));
    for (host, second) in [(1, 3), (2, 3), (1, 4), (2, 4)] {
        told(&mut board, key, host, GOOD, second);
    }
    let unconfirmed = |board: &Board| -> Vec<_> {
        let all = board.services[key].endpoints.iter();
        let all = all.filter(|(_, endpoint)| endpoint.trouble().unconfirmed.is_some());
        all.map(|(address, _)| address).collect()
    };
    for answer in [REFUSED, BAD] {
        for second in 10..13 {
            for host in 0..3 {
                told(&mut board, key, host, answer, second);
            }
        }
        assert_eq!(board.services[key].counts().unhealthy, 3);
        // The first one is well again, and of the others it is not known yet.
        told(&mut board, key, 0, GOOD, 20);
        assert_eq!(unconfirmed(&board), []);
        told(&mut board, key, 0, GOOD, 21);
        assert_eq!(unconfirmed(&board), [address(1), address(2)]);
        // A check that began before says nothing of now.
        let late = Told {
            answer: Ok(answer),
            began: Duration::from_secs(20),
            witnesses: None,
        };
        board.take(key, address(2), late, at(22));
        told(&mut board, key, 1, GOOD, 22);
        assert_eq!(unconfirmed(&board), [address(1), address(2)]);
        board.changed.clear();
        told(&mut board, key, 2, answer, 23);
        assert_eq!(unconfirmed(&board), [address(1)]);
        assert_eq!(board.changed.len(), 1);
        told(&mut board, key, 1, GOOD, 23);
        assert_eq!(unconfirmed(&board), []);
        for second in 24..26 {
            told(&mut board, key, 2, GOOD, second);
        }
        assert_eq!(board.services[key].counts().healthy, 3);
    }
}

#[test]
fn an_answer_needs_no_witness() {
    let (mut board, keys) = healthy(3);
    for second in 10..13 {
        told(&mut board, &keys[0], 0, BAD, second);
    }
    assert_eq!(
        verdict(&board, &keys[0], 0),
        Verdict::Unhealthy(Failure::Answered5xx)
    );
}

#[test]
fn in_doubt_no_verdict_moves_and_all_services_are_told_of() {
    let (mut board, keys) = healthy(4);
    told(&mut board, &keys[0], 0, BAD, 9);
    told(&mut board, &keys[0], 0, BAD, 9);
    board.fired(Duration::from_secs(2), at(10));
    assert_eq!(board.look(at(10)), Some(Doubt::Late));
    assert_eq!(board.changed.len(), 4);
    for _ in 0..9 {
        let next = told(&mut board, &keys[0], 0, BAD, 11);
        assert_eq!(next.set_aside, Some(SetAside::Doubt));
    }
    board.changed.clear();
    assert_eq!(board.look(at(16)), None);
    assert_eq!(board.changed.len(), 4);
    // What was half decided before the doubt is not decided by what came after.
    told(&mut board, &keys[0], 0, BAD, 17);
    told(&mut board, &keys[0], 0, BAD, 18);
    assert_eq!(verdict(&board, &keys[0], 0), Verdict::Healthy);
    told(&mut board, &keys[0], 0, BAD, 19);
    assert_eq!(
        verdict(&board, &keys[0], 0),
        Verdict::Unhealthy(Failure::Answered5xx)
    );
}

#[test]
fn a_service_is_silent_when_none_of_its_endpoints_is_heard() {
    let (mut board, keys) = healthy(3);
    for (host, key) in (10..).zip(&keys) {
        board.set(key, &targets(&[host - 10, host]), false, at(2));
        told(&mut board, key, host, GOOD, 3);
        told(&mut board, key, host - 10, REFUSED, 4);
    }
    assert_eq!(board.look(at(4)), None);
    for (host, key) in (10..).zip(&keys) {
        told(&mut board, key, host, REFUSED, 5);
    }
    assert_eq!(board.look(at(5)), Some(Doubt::AllAtOnce));
    for key in &keys {
        board.remove(key, at(6));
    }
    assert_eq!(board.look(at(20)), None);
}

#[test]
fn a_service_whose_endpoints_were_heard_and_are_gone_raises_no_doubt() {
    let (mut board, keys) = healthy(3);
    for key in &keys {
        board.set(key, &targets(&[99]), false, at(2));
        told(&mut board, key, 99, REFUSED, 3);
    }
    assert_eq!(board.look(at(3)), None);
}

#[test]
fn targets_that_are_set_again_end_no_doubt() {
    let (mut board, keys) = healthy(3);
    for (host, key) in (0..).zip(&keys) {
        told(&mut board, key, host, REFUSED, 10);
    }
    assert_eq!(board.look(at(10)), Some(Doubt::AllAtOnce));
    for (host, key) in (0..).zip(&keys) {
        board.set(key, &targets(&[host, host + 10]), false, at(11));
    }
    assert_eq!(board.look(at(60)), Some(Doubt::AllAtOnce));
    for (host, key) in (0..).zip(&keys) {
        told(&mut board, key, host, GOOD, 61);
    }
    assert_eq!(board.look(at(67)), None);
}

#[test]
fn a_silent_service_whose_last_endpoint_leaves_raises_no_doubt_any_more() {
    let (mut board, keys) = healthy(3);
    for (host, key) in (0..).zip(&keys) {
        told(&mut board, key, host, REFUSED, 10);
    }
    assert_eq!(board.look(at(10)), Some(Doubt::AllAtOnce));
    for key in &keys {
        board.set(key, &targets(&[]), false, at(11));
    }
    assert_eq!(board.look(at(600)), None);
}

#[test]
fn services_that_can_no_longer_be_asked_are_not_waited_for_as_witnesses() {
    let without: fn(&mut Board, &Arc<ServiceKey>, u8) = |board, key, host| {
        told(board, key, host, REFUSED, 10);
        board.set(key, &targets(&[]), false, at(11));
    };
    let unasked: fn(&mut Board, &Arc<ServiceKey>, u8) = |board, key, host| {
        told(board, key, host, NO_CERTIFICATE, 10);
    };
    for ends in [without, unasked] {
        let (mut board, keys) = healthy(3);
        board.set(&keys[0], &targets(&[0, 9]), false, at(2));
        for second in 3..5 {
            told(&mut board, &keys[0], 9, GOOD, second);
        }
        for host in 1..3 {
            ends(&mut board, &keys[usize::from(host)], host);
        }
        for second in 20..30 {
            told(&mut board, &keys[0], 0, REFUSED, second);
            told(&mut board, &keys[0], 9, GOOD, second);
        }
        assert_eq!(
            verdict(&board, &keys[0], 0),
            Verdict::Unhealthy(Failure::Refused)
        );
    }
}

#[test]
fn a_service_bears_witness_as_long_as_one_of_its_endpoints_is_heard() {
    let (mut board, keys) = healthy(3);
    for (host, key) in (0..).zip(&keys).skip(1) {
        board.set(key, &targets(&[host, host + 10]), false, at(2));
        told(&mut board, key, host + 10, GOOD, 3);
        told(&mut board, key, host, NO_CERTIFICATE, 4);
    }
    for second in 10..20 {
        let next = told(&mut board, &keys[0], 0, REFUSED, second);
        let aside = (second >= 12).then_some(SetAside::Unwitnessed);
        assert_eq!(next.set_aside, aside, "{second}");
    }
    told(&mut board, &keys[1], 11, GOOD, 20);
    told(&mut board, &keys[0], 0, REFUSED, 21);
    assert_eq!(
        verdict(&board, &keys[0], 0),
        Verdict::Unhealthy(Failure::Refused)
    );
}

#[test]
fn whoever_is_cut_off_is_so_still_when_a_certificate_runs_out_meanwhile() {
    let (mut board, keys) = healthy(3);
    for (host, key) in (0..).zip(&keys) {
        told(&mut board, key, host, REFUSED, 10);
    }
    assert_eq!(board.look(at(10)), Some(Doubt::AllAtOnce));
    for host in 1..3 {
        let key = &keys[usize::from(host)];
        told(&mut board, key, host, NO_CERTIFICATE, 20);
    }
    assert_eq!(board.look(at(600)), Some(Doubt::AllAtOnce));
}

#[test]
fn an_answer_of_an_endpoint_that_is_gone_is_for_nothing() {
    let (mut board, keys) = healthy(1);
    for _ in 0..3 {
        told(&mut board, &keys[0], 77, BAD, 3);
        told(&mut board, &Arc::new(service("gone")), 0, BAD, 3);
    }
    assert!(board.changed.is_empty());
}

#[test]
fn a_clock_on_the_wall_that_jumps_changes_no_verdict_and_no_doubt() {
    let answers = |jump: fn(u64) -> i64| {
        let (mut board, keys) = healthy(4);
        let mut said = Vec::new();
        for second in 2..120 {
            let wall = i64::try_from(second).unwrap() + jump(second);
            let now = Moment {
                at: Timestamp::from_second(wall).unwrap(),
                clock: Duration::from_secs(second),
            };
            let late = if second == 30 { 2 } else { 0 };
            board.fired(Duration::from_secs(late), now);
            for (host, key) in (0..).zip(&keys) {
                let dead = second > 60 && host == 1;
                let gone = (80..90).contains(&second);
                let told = Told {
                    answer: Ok(if dead || gone { REFUSED } else { GOOD }),
                    began: now.clock,
                    witnesses: board
                        .witnesses(key, address(host), || Some(Duration::from_secs(second))),
                };
                board.take(key, address(host), told, now);
                said.push((second, board.look(now), verdict(&board, key, host)));
            }
        }
        said
    };
    let straight = answers(|_| 0);
    let dead = Verdict::Unhealthy(Failure::Refused);
    assert!(straight.iter().any(|(_, _, verdict)| *verdict == dead));
    for doubt in [Doubt::Late, Doubt::AllAtOnce] {
        assert!(straight.iter().any(|(_, held, _)| *held == Some(doubt)));
    }
    let hour: fn(u64) -> i64 = |second| [0, 3_600, -3_600][usize::try_from(second % 3).unwrap()];
    for jump in [
        hour,
        |s| if s > 35 { 86_400 } else { 0 },
        |s| if s > 35 { -9_999_999 } else { 0 },
    ] {
        assert!(answers(jump) == straight);
    }
}
