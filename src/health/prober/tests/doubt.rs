//! Whoever checks is at fault himself: does a verdict move?

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::*;

/// A fleet that is as the seed makes it: services of one to four endpoints that
/// are asked every second or every minute, and take their time to answer.
fn fleet(random: &mut fastrand::Rng) -> Bed {
    let mut bed = Bed::new(512);
    let services = [3, 4, 10, 30][random.usize(..4)];
    for number in 0..services {
        let interval = [1, 2, 5, 10, 30, 60][random.usize(..6)];
        let endpoints = random.u16(1..5);
        let mut check = check();
        check.thresholds = Thresholds {
            failures: random.u32(1..5),
            successes: random.u32(1..3),
            interval: s(interval),
            confirm: ms([50, 250, 1000][random.usize(..3)]),
        };
        check.ask.timeout = ms([300, 1000, 3000, 8000][random.usize(..4)]).min(s(interval));
        for host in 0..endpoints {
            let most = check.ask.timeout.as_millis() as u64 * 8 / 10;
            let takes = [1, random.u64(1..most)][random.usize(..2)];
            let does = Does::Answers(Answer::Good, ms(takes));
            bed.net.state().some.insert(address(number, host), does);
        }
        let endpoints = (0..endpoints).map(|host| address(number, host)).collect();
        let targets = ServiceTargets {
            check: check.into(),
            endpoints,
        };
        bed.targets.insert(key(number), targets);
    }
    bed.prober.set(bed.targets.clone());
    bed
}

#[tokio::test(start_paused = true)]
async fn whenever_a_network_goes_and_comes_back_it_takes_nobody_with_it() {
    for seed in 0..3 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bed = fleet(&mut random);
        sleep(s(200)).await;
        assert_eq!(bed.verdicts(), ["Healthy".to_owned()].into(), "{seed}");
        for _ in 0..2 {
            sleep(ms(random.u64(1..60_000))).await;
            let gone = [Cut::Breaks, Cut::Swallows][random.usize(..2)];
            bed.net.state().cut = Some(gone);
            sleep(ms(random.u64(1..200_000))).await;
            bed.net.state().cut = None;
            sleep(s(100)).await;
            assert_eq!((bed.moves(), bed.view.held()), (0, None), "{seed} {gone:?}");
        }
        // And whoever really dies is found.
        let dead = address(random.u8(..bed.targets.len() as u8), 0);
        let does = [REFUSES, Does::Hangs][random.usize(..2)];
        bed.net.state().some.insert(dead, does);
        sleep(s(300)).await;
        assert_eq!(bed.moves(), 1, "{seed} {does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_asked_before_the_network_went_is_no_witness_of_it() {
    let mut bed = Bed::new(512);
    for number in 0..40 {
        bed.service(number, 1, s(10));
    }
    let slow = Does::Answers(Answer::Good, ms(900));
    bed.net.state().some.insert(address(0, 0), slow);
    sleep(s(40)).await;
    // The slow one is being asked, and others are heard meanwhile.
    let asked = bed.asked(address(0, 0)).len();
    while bed.asked(address(0, 0)).len() == asked {
        sleep(ms(1)).await;
    }
    sleep(ms(890)).await;
    bed.net.state().cut = Some(Cut::Breaks);
    sleep(s(60)).await;
    assert_eq!((bed.moves(), bed.view.held()), (0, Some(Doubt::AllAtOnce)));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_goes_is_doubted_however_seldom_its_endpoints_are_asked() {
    for (services, interval) in [(3, 60), (20, 600), (60, 600)] {
        for cut in [Cut::Breaks, Cut::Swallows] {
            let mut bed = Bed::new(512);
            for number in 0..services {
                bed.service(number, 1, s(interval));
            }
            sleep(s(3 * interval)).await;
            bed.net.state().cut = Some(cut);
            sleep(s(3 * interval)).await;
            assert_eq!((bed.moves(), bed.view.held()), (0, Some(Doubt::AllAtOnce)));
            bed.net.state().cut = None;
            sleep(s(3 * interval)).await;
            assert_eq!((bed.moves(), bed.view.held()), (0, None));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_outside_answers_either_few_services_are_not_judged() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bed = Bed::new(512);
        let services = random.u8(1..3);
        for number in 0..services {
            bed.service(number, random.u16(1..4), s([1, 10, 60][random.usize(..3)]));
        }
        // As a Lease is renewed every two seconds, while that can be reached.
        let (begin, there) = (Instant::now(), Arc::new(AtomicBool::new(true)));
        let renewed = Arc::new(AtomicU64::new(0));
        let (reaches, renews) = (Arc::clone(&there), Arc::clone(&renewed));
        tokio::spawn(async move {
            loop {
                if reaches.load(Relaxed) {
                    renews.store(begin.elapsed().as_millis() as u64, Relaxed);
                }
                sleep(s(2)).await;
            }
        });
        let ago = move || begin.elapsed().checked_sub(ms(renewed.load(Relaxed)));
        bed.view.hears_outside(ago);
        sleep(s(200)).await;
        assert_eq!(bed.verdicts(), ["Healthy".to_owned()].into(), "{seed}");

        let gone = [Cut::Breaks, Cut::Swallows][random.usize(..2)];
        for _ in 0..3 {
            sleep(ms(random.u64(1..60_000))).await;
            bed.net.state().cut = Some(gone);
            there.store(false, Relaxed);
            sleep(ms(random.u64(1..200_000))).await;
            bed.net.state().cut = None;
            there.store(true, Relaxed);
            sleep(s(100)).await;
            assert_eq!(bed.moves(), 0, "{seed} {gone:?}");
        }
        // Where somebody outside answers, all of them did die.
        bed.net.state().cut = Some(gone);
        sleep(s(200)).await;
        let endpoints: usize = bed.targets.values().map(|it| it.endpoints.len()).sum();
        assert_eq!(bed.moves(), endpoints, "{seed} {gone:?}");
        bed.net.state().cut = None;
        sleep(s(200)).await;
        assert_eq!(bed.verdicts(), ["Healthy".to_owned()].into(), "{seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_way_out_of_here_verdicts_are_held_and_that_is_said() {
    let mut bed = Bed::new(512);
    for number in 0..5 {
        bed.service(number, 2, s(10));
    }
    sleep(s(40)).await;
    bed.net.state().cut = Some(Cut::NoRoute);
    sleep(s(60)).await;
    assert_eq!((bed.moves(), bed.view.held()), (0, Some(Doubt::AllAtOnce)));
    bed.net.state().cut = None;
    sleep(s(30)).await;
    assert_eq!((bed.moves(), bed.view.held()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn who_gets_his_time_in_step_with_his_own_looks_notices_all_the_same() {
    let mut bed = Bed::new(512);
    bed.service(0, 20, s(1));
    sleep(s(5)).await;
    bed.net.state().all = Does::Hangs;
    for _ in 0..600 {
        sleep(ms(10)).await;
        advance(ms(90)).await;
    }
    assert_eq!(bed.moves(), 0);
    // Given its time again it finds what is to be found.
    sleep(s(20)).await;
    assert_eq!(bed.moves(), 20);
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_and_goes_while_the_network_is_gone_ends_no_doubt() {
    let mut bed = Bed::new(512);
    for number in 0..5 {
        bed.service(number, 2, s(10));
    }
    sleep(s(40)).await;
    bed.net.state().cut = Some(Cut::Breaks);
    for number in 5..20 {
        sleep(s(20)).await;
        bed.service(number, 1, s(10));
        bed.service(0, 2 + u16::from(number), s(10));
    }
    sleep(s(20)).await;
    assert_eq!((bed.moves(), bed.view.held()), (0, Some(Doubt::AllAtOnce)));
    bed.net.state().cut = None;
    sleep(s(60)).await;
    assert_eq!((bed.moves(), bed.view.held()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_doubt_ends_also_where_nobody_is_left_who_is_checked() {
    const HELD: &str = "catalog_mesh_health_verdicts_held{reason=\"all_at_once\"}";
    // Their services go as well, or they stay and no Pod of them is ready.
    for services_stay in [false, true] {
        let mut bed = Bed::new(512);
        for number in 0..5 {
            bed.service(number, 2, s(10));
        }
        sleep(s(40)).await;
        bed.net.state().cut = Some(Cut::Swallows);
        sleep(s(60)).await;
        assert_eq!(bed.view.held(), Some(Doubt::AllAtOnce));
        assert_eq!(bed.metric(HELD), 1.0);

        for it in bed.targets.values_mut() {
            it.endpoints = Addresses::default();
        }
        bed.targets.retain(|_, _| services_stay);
        bed.prober.set(bed.targets.clone());
        sleep(s(10)).await;
        assert_eq!((bed.view.held(), bed.metric(HELD)), (None, 0.0));
        let woken = bed.woken.load(Relaxed);
        sleep(s(3600)).await;
        assert_eq!(bed.woken.load(Relaxed), woken);
    }
}
