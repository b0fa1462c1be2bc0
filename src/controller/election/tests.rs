use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::PostParams;
use kube::client::ClientBuilder;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, Layer, ServiceExt, service_fn};

use super::fixtures::{Machine, S, Way, World, lock};
use crate::controller::error::WriteError;
use crate::controller::leadership::{Leadership, NotLeader};
use crate::controller::permit::Permit;
use crate::domain::election::Lost;

/// Partitions in all, with as many faults of other kinds among them.
const PARTITIONS: u64 = 1000;

/// Faults in one world.
const FAULTS_IN_ONE: u64 = 10;

/// How long nobody may lead once all is well: the duration of the Lease by a
/// clock that is a tenth slow, an attempt that still hangs, and a pause.
const HEADLESS: Duration = Duration::from_secs(23);

// --- one elector or two ----------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn where_there_is_no_lease_it_is_made_and_where_nobody_holds_it_it_is_taken() {
    let world = Arc::new(World::default());
    let machine = world.machine(1.0);
    let (first, elector) = world.elector(&machine);
    let resign = Arc::clone(&machine);
    let run = tokio::spawn(elector.run(async move { resign.resign.notified().await }));
    assert_eq!(timeout(S, first.acquired()).await, Ok(1));

    machine.resign.notify_one();
    assert_eq!(run.await.unwrap(), Ok(()));
    assert_eq!(first.epoch(), None);
    let lease = lock(&world.server).lease.clone().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "");

    let (second, elector) = world.elector(&machine);
    tokio::spawn(elector.run(std::future::pending()));
    assert_eq!(timeout(S, second.acquired()).await, Ok(2));
    let lease = lock(&world.server).lease.clone().unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
    assert_eq!(lock(&world.server).annotation("epoch").unwrap(), "2");
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_takes_over_within_a_second_of_a_release() {
    let world = Arc::new(World::default());
    let [leader, standby] = [world.machine(1.0), world.machine(1.0)];
    let (led, elector) = world.elector(&leader);
    let resign = Arc::clone(&leader);
    tokio::spawn(elector.run(async move { resign.resign.notified().await }));
    led.acquired().await;
    let (leads, elector) = world.elector(&standby);
    tokio::spawn(elector.run(std::future::pending()));
    sleep(60 * S).await;
    assert_eq!(leads.epoch(), None);

    leader.resign.notify_one();
    assert_eq!(timeout(S, leads.acquired()).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn who_leads_and_who_stands_by_know_when_the_api_server_answered_last() {
    let world = Arc::new(World::default());
    let machines = [world.machine(1.0), world.machine(1.0)];
    let (led, elector) = world.elector(&machines[0]);
    assert_eq!(led.answered_ago(), None);
    tokio::spawn(elector.run(std::future::pending()));
    led.acquired().await;
    let (stands, elector) = world.elector(&machines[1]);
    tokio::spawn(elector.run(std::future::pending()));
    for _ in 0..20 {
        sleep(3 * S).await;
        for ago in [&led, &stands].map(Leadership::answered_ago) {
            assert!(ago.is_some_and(|ago| ago < 4 * S), "{ago:?}");
        }
    }
    for machine in &machines {
        lock(&machine.way).cut = true;
    }
    sleep(8 * S).await;
    for ago in [&led, &stands].map(Leadership::answered_ago) {
        assert!(ago.is_some_and(|ago| ago >= 8 * S), "{ago:?}");
    }
}

/// What ends a term, and with which word.
async fn ends_with(change: impl FnOnce(&World, &Machine)) -> (Result<(), Lost>, Duration) {
    let world = Arc::new(World::default());
    let machine = world.machine(1.0);
    let (leadership, elector) = world.elector(&machine);
    let run = tokio::spawn(elector.run(std::future::pending()));
    leadership.acquired().await;
    sleep(Duration::from_millis(500)).await;
    change(&world, &machine);
    let changed = Instant::now();
    let ended = timeout(60 * S, run).await.unwrap().unwrap();
    assert_eq!(leadership.epoch(), None);
    (ended, changed.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_somebody_took_or_deleted_ends_the_term_with_the_next_renewal() {
    let stolen = |world: &World, _: &Machine| {
        let thief = json!("thief");
        lock(&world.server).edit(|lease| lease["spec"]["holderIdentity"] = thief);
    };
    let (ended, after) = ends_with(stolen).await;
    assert_eq!(ended, Err(Lost::Taken("thief".into())));
    assert!(after < 2 * S, "{after:?}");

    let deleted = |world: &World, _: &Machine| lock(&world.server).delete();
    let (ended, after) = ends_with(deleted).await;
    assert_eq!(ended, Err(Lost::Deleted));
    assert!(after < 2 * S, "{after:?}");
}

// trap 24
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_ends_before_the_lease_does() {
    let cut = |_: &World, machine: &Machine| lock(&machine.way).cut = true;
    let (ended, after) = ends_with(cut).await;
    assert_eq!(ended, Err(Lost::Expired));
    assert!(after > 7 * S && after <= 13 * S, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_term_counts_from_before_its_renewal_was_sent_however_late_the_answer_is() {
    fastrand::seed(1);
    let world = Arc::new(World::default());
    let machine = world.machine(1.0);
    let (leadership, elector) = world.elector(&machine);
    tokio::spawn(elector.run(std::future::pending()));
    leadership.acquired().await;
    lock(&machine.way).slow = 2 * S;
    let (begun, mut renewed, mut known) = (Instant::now(), Instant::now(), 0);
    while leadership.epoch().is_some() {
        // What the server stored last was on its way already.
        let stored = version(&world);
        if stored != known {
            (renewed, known) = (Instant::now(), stored);
        }
        if begun.elapsed() > 20 * S {
            lock(&machine.way).cut = true;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert!(renewed.elapsed() <= 10 * S, "{:?}", renewed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_does_not_lead_when_it_wakes() {
    let suspended = |_: &World, machine: &Machine| machine.clock.set(SignedDuration::from_secs(60));
    let (ended, _) = ends_with(suspended).await;
    assert_eq!(ended, Err(Lost::Expired));
}

#[tokio::test(start_paused = true)]
async fn notes_are_stored_before_they_are_confirmed_and_outlive_their_leader() {
    let world = Arc::new(World::default());
    let machine = world.machine(1.0);
    let (leadership, elector) = world.elector(&machine);
    let resign = Arc::clone(&machine);
    let run = tokio::spawn(elector.run(async move { resign.resign.notified().await }));
    leadership.acquired().await;
    lock(&world.server).edit(|lease| lease["metadata"]["annotations"]["their/own"] = json!("x"));

    let before = version(&world);
    let notes = ["a", "b", "c"].map(|name| leadership.note(name, format!("of {name}")));
    for noted in futures::future::join_all(notes).await {
        noted.unwrap();
    }
    let stored = lock(&world.server).annotation("b");
    assert_eq!(stored.as_deref(), Some("of b"));
    assert_eq!(leadership.noted("c").as_deref(), Some("of c"));
    assert!(version(&world) <= before + 3, "they go together");
    machine.resign.notify_one();
    run.await.unwrap().unwrap();
    assert_eq!(leadership.note("a", String::new()).await, Err(NotLeader));

    let (next, elector) = world.elector(&machine);
    tokio::spawn(elector.run(std::future::pending()));
    next.acquired().await;
    assert_eq!(next.noted("a").as_deref(), Some("of a"));
    let lease = lock(&world.server).lease.clone().unwrap();
    assert_eq!(lease["metadata"]["annotations"]["their/own"], "x");
}

fn version(world: &World) -> u64 {
    let lease = lock(&world.server).lease.clone().unwrap();
    let version = lease["metadata"]["resourceVersion"].as_str().unwrap();
    version.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_finds_the_catalog_ahead_moves_above_it_for_good() {
    let world = Arc::new(World::default());
    let machine = world.machine(1.0);
    let (leadership, elector) = world.elector(&machine);
    let resign = Arc::clone(&machine);
    let run = tokio::spawn(elector.run(async move { resign.resign.notified().await }));
    leadership.acquired().await;
    assert_eq!(leadership.raise_epoch(41).await, Ok(42));
    assert_eq!(leadership.epoch(), Some(42));
    assert_eq!(lock(&world.server).annotation("epoch").unwrap(), "42");
    assert_eq!(leadership.raise_epoch(7).await, Ok(42));
    sleep(30 * S).await;
    assert_eq!(leadership.epoch(), Some(42), "renewals keep it");
    machine.resign.notify_one();
    run.await.unwrap().unwrap();

    let (next, elector) = world.elector(&machine);
    tokio::spawn(elector.run(std::future::pending()));
    assert_eq!(next.acquired().await, 43);
}

// --- the permit -------------------------------------------------------------------

/// Sends a request of that method through the permit; the server takes that long.
async fn sent(leadership: &Leadership, method: &str, takes: Duration) -> Result<(), BoxError> {
    let server = service_fn(move |_: Request<kube::client::Body>| async move {
        sleep(takes).await;
        Ok::<_, BoxError>(Response::new(()))
    });
    let request = Request::builder().method(method);
    let request = request.body(kube::client::Body::empty()).unwrap();
    let fenced = Permit(leadership.clone()).layer(server);
    fenced.oneshot(request).await.map(|_| ())
}

#[tokio::test(start_paused = true)]
async fn only_reads_pass_the_fence_of_who_does_not_lead() {
    let follower = Leadership::withheld();
    sent(&follower, "GET", S).await.unwrap();
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let refused = sent(&follower, method, S).await.unwrap_err();
        assert!(refused.is::<NotLeader>(), "{method}: {refused}");
        let leader = Leadership::granted(1);
        sent(&leader, method, S).await.unwrap();
    }
}

#[tokio::test]
async fn what_the_permit_refused_is_told_from_an_api_server_that_is_away() {
    let server = service_fn(async |_: Request<kube::client::Body>| {
        Err::<Response<kube::client::Body>, BoxError>("away".into())
    });
    for (leadership, expected) in [
        (Leadership::withheld(), true),
        (Leadership::granted(1), false),
    ] {
        let client = ClientBuilder::new(server, "here")
            .with_layer(&Permit(leadership))
            .build();
        let services = Api::<Service>::default_namespaced(client);
        let (params, service) = (PostParams::default(), Service::default());
        let error = services.create(&params, &service).await.unwrap_err();
        let error = WriteError::from_kube(&error);
        assert_eq!(error == WriteError::NotLeader, expected, "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_under_way_is_cut_off_at_the_end_of_the_term() {
    let world = Arc::new(World::default());
    let machine = world.machine(1.0);
    let (leadership, elector) = world.elector(&machine);
    tokio::spawn(elector.run(std::future::pending()));
    leadership.acquired().await;
    sleep(30 * S).await;
    // Longer than a term that is not renewed, and it is.
    sent(&leadership, "PATCH", 14 * S).await.unwrap();
    lock(&machine.way).cut = true;
    let begun = Instant::now();
    let cut = sent(&leadership, "PATCH", 14 * S).await.unwrap_err();
    assert!(cut.is::<NotLeader>(), "{cut}");
    assert!(begun.elapsed() <= 10 * S, "{:?}", begun.elapsed());
    sent(&leadership, "GET", 14 * S).await.unwrap();
}

// --- partitions ------------------------------------------------------------------

// trap 24
#[test]
fn in_a_thousand_partitions_never_do_two_write_at_once() {
    let replay = std::env::var("ELECTION_SEED").ok();
    let (seeds, least) = match replay.and_then(|seed| seed.parse().ok()) {
        Some(seed) => (seed..seed + 1, 0),
        None => (0..PARTITIONS, PARTITIONS),
    };
    let (mut writes, mut terms, mut stale) = (0, 0, 0);
    let (mut partitions, mut others) = (0, 0);
    for seed in seeds {
        if least > 0 && partitions >= least {
            break;
        }
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let world = Arc::new(World::default());
        for fault in runtime.block_on(live_through(&world, seed)) {
            match fault {
                Fault::Network => partitions += 1,
                Fault::Other | Fault::Alone => others += 1,
            }
        }
        let ledger = lock(&world.ledger);
        writes += ledger.writes;
        terms += ledger.terms;
        stale += ledger.stale_reports;
    }
    println!(
        "{partitions} partitions and {others} other faults: {terms} terms, {writes} writes, {stale} reports too late for the catalog"
    );
    assert!(partitions >= least, "{partitions} partitions");
    if least > 0 {
        // There were leaders, they wrote, and some of it came to the catalog when it
        // was overtaken already.
        assert!(
            terms > 0 && writes > terms,
            "{terms} terms, {writes} writes"
        );
        assert!(stale > 0, "nothing came too late");
    }
}

/// What kind of fault it was.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Messages were lost, late or repeated, or none came through.
    Network,
    /// A process, a machine, a clock, or somebody's hand.
    Other,
    /// One of these that must not meet another one.
    Alone,
}

/// Ends with all that was done to these.
async fn live_through(world: &Arc<World>, seed: u64) -> Vec<Fault> {
    let count = fastrand::usize(2..=3);
    let machines: Vec<_> = (0..count)
        .map(|_| world.machine(0.9 + 0.2 * fastrand::f64()))
        .collect();
    for machine in &machines {
        tokio::spawn(live(Arc::clone(world), Arc::clone(machine)));
    }
    let (mut told, mut faults) = (Vec::new(), Vec::new());
    for _ in 0..FAULTS_IN_ONE {
        let begun = Instant::now();
        while world.leaders() == 0 {
            assert!(
                begun.elapsed() < HEADLESS,
                "nobody leads {HEADLESS:?} after {:?}; ELECTION_SEED={seed}",
                words(&told)
            );
            sleep(Duration::from_millis(50)).await;
        }
        // Long enough for the others to have seen who leads.
        sleep(Duration::from_millis(fastrand::u64(100..5_000))).await;
        told = vec![strike(world, &machines).await];
        if told[0].0 != Fault::Alone && fastrand::bool() {
            told.push(strike(world, &machines).await);
        }
        faults.extend(told.iter().map(|(fault, _)| *fault));
        sleep(Duration::from_millis(fastrand::u64(0..40_000))).await;
        for machine in &machines {
            *lock(&machine.way) = Way::default();
            machine.gate.go_on();
        }
        let ledger = lock(&world.ledger);
        assert!(
            ledger.wrong.is_empty(),
            "{:?} after {:?}; ELECTION_SEED={seed}",
            ledger.wrong,
            words(&told)
        );
    }
    faults
}

fn words(told: &[(Fault, &'static str)]) -> Vec<&'static str> {
    told.iter().map(|(_, what)| *what).collect()
}

/// Does something bad.
async fn strike(world: &Arc<World>, machines: &[Arc<Machine>]) -> (Fault, &'static str) {
    let leads = |machine: &&Arc<Machine>| {
        let leadership = lock(&machine.leadership);
        leadership.as_ref().is_some_and(|l| l.epoch().is_some())
    };
    let any = &machines[fastrand::usize(..machines.len())];
    let leader = machines.iter().find(leads).unwrap_or(any);
    let time = Duration::from_millis(fastrand::u64(500..40_000));
    match fastrand::u32(..12) {
        0 | 1 => {
            lock(&leader.way).cut = true;
            (Fault::Network, "the leader is cut off")
        }
        2 => {
            lock(&any.way).cut = true;
            (Fault::Network, "somebody is cut off")
        }
        3 => {
            machines.iter().for_each(|m| lock(&m.way).cut = true);
            (Fault::Network, "the server is away")
        }
        4 | 5 => {
            for machine in machines {
                *lock(&machine.way) = Way {
                    cut: false,
                    lost: 0.4 * fastrand::f64(),
                    twice: 0.3,
                    slow: 3 * S,
                };
            }
            (Fault::Network, "messages are lost, late and repeated")
        }
        6 => {
            leader.gate.stop();
            sleep(time).await;
            leader.gate.go_on();
            (Fault::Other, "the leader was stopped")
        }
        7 => {
            // Its machine, rather: nothing on it saw the time go by.
            leader.gate.stop();
            sleep(time).await;
            leader.clock.suspended(time);
            leader.gate.go_on();
            (Fault::Other, "the leader's machine was suspended")
        }
        8 => {
            any.clock
                .set(SignedDuration::from_secs(fastrand::i64(-3600..3600)));
            (Fault::Other, "a wall clock was set")
        }
        9 if fastrand::bool() => {
            leader.kill.notify_one();
            (Fault::Other, "the leader was killed")
        }
        9 => {
            leader.resign.notify_one();
            (Fault::Other, "the leader was told to end")
        }
        10 if fastrand::bool() => {
            lock(&world.server).edit(|lease| lease["spec"]["holderIdentity"] = json!("thief"));
            (Fault::Other, "somebody took the Lease by hand")
        }
        10 => {
            // Whoever has never seen the Lease takes its absence for a first
            // start: so all have seen it, also those that start just now.
            sleep(8 * S).await;
            lock(&world.server).delete();
            sleep(16 * S).await;
            (Fault::Alone, "somebody deleted the Lease")
        }
        _ => {
            for n in 0..20 {
                lock(&world.server).edit(|lease| {
                    lease["metadata"]["annotations"]["somebody/counts"] = json!(n.to_string());
                });
                sleep(Duration::from_millis(fastrand::u64(1..300))).await;
            }
            (Fault::Other, "somebody annotates the Lease")
        }
    }
}

/// What runs on a machine: one process after the other.
async fn live(world: Arc<World>, machine: Arc<Machine>) {
    loop {
        let (leadership, elector) = world.elector(&machine);
        let on = Arc::clone(&machine);
        let process = async {
            tokio::select! {
                biased;
                ended = elector.run(on.resign.notified()) => drop(ended),
                () = write(&world, &machine, &leadership) => {}
                () = note(&world, &leadership) => {}
            }
        };
        tokio::select! {
            () = machine.gate.run(process) => {}
            () = machine.kill.notified() => {}
        }
        *lock(&machine.leadership) = None;
        // Its container is started again.
        sleep(Duration::from_millis(fastrand::u64(200..3_000))).await;
    }
}

/// Writes all the time, as long as the permit lets it.
async fn write(world: &Arc<World>, machine: &Arc<Machine>, leadership: &Leadership) {
    let epoch = leadership.acquired().await;
    let term = lock(&world.ledger).begins(epoch, lock(&world.server).uid());
    for sequence in 0.. {
        let (world, on, leads) = (Arc::clone(world), Arc::clone(machine), leadership.clone());
        let server = service_fn(move |_: Request<kube::client::Body>| {
            let (world, on, leads) = (Arc::clone(&world), Arc::clone(&on), leads.clone());
            async move {
                let epoch = leads.epoch().ok_or(NotLeader)?;
                world.write(&on, term, (epoch, sequence)).await;
                Ok::<_, NotLeader>(Response::new(()))
            }
        });
        let request = Request::post("/")
            .body(kube::client::Body::empty())
            .unwrap();
        let written = Permit(leadership.clone()).layer(server).oneshot(request);
        // Nobody waits for an answer for ever.
        let _ = timeout(15 * S, written).await;
        sleep(Duration::from_millis(400)).await;
    }
}

/// Counts in a note, from where the last leader stood.
async fn note(world: &World, leadership: &Leadership) {
    leadership.acquired().await;
    loop {
        let last: u64 = leadership.noted("count").map_or(0, |n| n.parse().unwrap());
        let (known, of) = lock(&world.ledger).noted.clone();
        // Who no longer leads knows of no notes, and a new Lease has none.
        if last < known && leadership.epoch().is_some() && of == lock(&world.server).uid() {
            let wrong = format!("{last} is noted, and {known} was confirmed");
            lock(&world.ledger).wrong.push(wrong);
        }
        let next = last + 1;
        if leadership.note("count", next.to_string()).await.is_ok() {
            lock(&world.ledger).noted = (next, lock(&world.server).uid());
        }
        sleep(3 * S).await;
    }
}

// --- signs of life -----------------------------------------------------------------

// trap 15
#[tokio::test(start_paused = true)]
async fn whoever_takes_part_shows_signs_of_life_whatever_the_server_answers() {
    let world = Arc::new(World::default());
    let [leader, standby] = [world.machine(1.0), world.machine(1.0)];
    let (led, elector) = world.elector(&leader);
    assert_eq!(led.went_round_ago(), None);
    tokio::spawn(elector.run(std::future::pending()));
    led.acquired().await;
    let (stands, elector) = world.elector(&standby);
    let task = tokio::spawn(elector.run(std::future::pending()));
    let quiet = async |who: &Leadership| {
        for _ in 0..60 {
            sleep(10 * S).await;
            let ago = who.went_round_ago().unwrap();
            // A request that hangs takes two and a half seconds.
            assert!(ago <= 8 * S, "{ago:?}");
        }
    };
    quiet(&led).await;
    assert!(led.renewed_ago().is_some_and(|ago| ago <= 3 * S));
    quiet(&stands).await;
    assert_eq!(stands.renewed_ago(), None, "it has none to renew");

    lock(&standby.way).cut = true;
    quiet(&stands).await;
    task.abort();
    sleep(60 * S).await;
    assert!(stands.went_round_ago().unwrap() >= 60 * S);
}
