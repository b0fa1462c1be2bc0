//! What follows from what is wanted and what is held, as plain values.

use std::sync::Arc;
use std::time::Duration;

use super::announce::others;
use super::entry::{Entry, Snapshot};
use super::fleet::Fleet;
use crate::api::policy::EjectionMode;
use crate::domain::fixtures::{binding, inputs, settings, target};
use crate::domain::health::address::Address;
use crate::domain::health::by_address::ByAddress;
use crate::domain::health::doubt::Doubt;
use crate::domain::health::ejection::{PodId, Stays};
use crate::domain::health::judge::{Failure, Unknown, Verdict};
use crate::domain::health::service::Counts;
use crate::domain::health::summary::Shown;
use crate::domain::health::targets::{Target, Targets};
use crate::domain::health::wanted::{Wanted, wanted};
use crate::domain::names::BindingKey;
use crate::health::view::Verdicts;
use jiff::Timestamp;

const GOOD: Verdict = Verdict::Healthy;
const BAD: Verdict = Verdict::Unhealthy(Failure::Refused);

fn key(name: &str) -> BindingKey {
    BindingKey::new("shop", name.to_owned())
}

fn web() -> (String, String) {
    ("shop".to_owned(), "web".to_owned())
}

/// What a binding with a check wants.
fn check() -> Wanted {
    let mut binding = binding();
    binding.spec.health_check = Some(Box::default());
    let inputs = inputs(binding);
    wanted(&inputs, &target(&inputs), &settings()).unwrap()
}

fn address(n: usize) -> Address {
    format!("10.0.0.{}:80", n + 1).parse().unwrap()
}

/// A binding with that many endpoints, of which this is held.
fn with(fleet: &mut Fleet, verdicts: &[Verdict]) {
    fleet.want(&key("web"), Some(check()));
    of_web(fleet, |entry| judge(entry, verdicts));
}

/// It has that many endpoints, of which this is held.
fn judge(entry: &mut Entry, verdicts: &[Verdict]) {
    let targets = Targets {
        targets: (0..verdicts.len())
            .map(|n| Target {
                pod: PodId::shared(("shop".into(), format!("web-{n}").into()), n.to_string()),
                address: address(n),
            })
            .collect(),
        ..Targets::default()
    };
    let since = Timestamp::UNIX_EPOCH;
    let mut endpoints = ByAddress::default();
    let mut next = verdicts.iter();
    let come = |_| (*next.next().unwrap(), since.into());
    endpoints.become_of(&(0..verdicts.len()).map(address).collect(), come);
    let verdicts = Verdicts {
        counts: Counts::of(verdicts.iter().copied()),
        proven: true,
        endpoints,
        unconfirmed: std::collections::BTreeSet::new(),
    };
    entry.found(targets);
    entry.judged(verdicts);
}

/// Changes what is known of the binding web.
fn of_web<T>(fleet: &mut Fleet, change: impl FnOnce(&mut Entry) -> T) -> T {
    fleet.change(&key("web"), change).unwrap()
}

/// What could be said of it.
fn snapshot(fleet: &mut Fleet, held: Option<Doubt>) -> Option<Snapshot> {
    of_web(fleet, |entry| entry.snapshot(Stays::default(), held))
}

#[test]
fn who_is_unhealthy_by_what_was_found_while_nobody_was_well_is_not_judged_for_the_ejector() {
    let mut fleet = Fleet::default();
    with(&mut fleet, &[GOOD, BAD, BAD]);
    of_web(&mut fleet, |entry| {
        let mut verdicts = entry.verdicts().clone();
        verdicts.unconfirmed = [address(2)].into();
        entry.judged(verdicts);
    });
    let known = fleet.known(EjectionMode::Draining, false);
    let members = known.services[0].service.members.iter();
    let verdicts: Vec<_> = members.map(|member| member.verdict).collect();
    assert_eq!(verdicts, [GOOD, BAD, Verdict::Pending]);
}

#[test]
fn nothing_is_said_before_every_endpoint_was_judged_once_and_everything_after_that() {
    let mut fleet = Fleet::default();
    with(&mut fleet, &[GOOD, Verdict::Pending]);
    let said = |fleet: &mut Fleet| snapshot(fleet, None);
    assert_eq!(said(&mut fleet), None);
    with(&mut fleet, &[GOOD, BAD]);
    let snapshot = said(&mut fleet).unwrap();
    assert_eq!(snapshot.unhealthy, [address(1)].into());
    with(&mut fleet, &[GOOD, GOOD, Verdict::Pending]);
    let Some(Shown::Service(summary)) = said(&mut fleet).map(|s| s.shown) else {
        panic!("nothing is said of an endpoint that was added");
    };
    assert_eq!((summary.counts.healthy, summary.counts.total), (2, 3));

    // Another check is another question.
    let Wanted::Check(mut other) = check() else {
        panic!()
    };
    other.check.endpoint = "/other".to_owned();
    fleet.want(&key("web"), Some(Wanted::Check(other)));
    assert_eq!(said(&mut fleet), None);
}

#[test]
fn what_the_ejector_is_told_is_kept_as_long_as_it_holds() {
    let mut fleet = Fleet::default();
    with(&mut fleet, &[GOOD, BAD]);
    let told = |fleet: &mut Fleet, flag, held| fleet.known(flag, held).services.remove(0);
    let first = told(&mut fleet, EjectionMode::Draining, false);
    let again = told(&mut fleet, EjectionMode::Draining, false);
    assert!(std::sync::Arc::ptr_eq(&first, &again));
    assert_eq!(
        told(&mut fleet, EjectionMode::Observe, false).mode,
        EjectionMode::Observe
    );
    assert!(told(&mut fleet, EjectionMode::Draining, true).service.held);
    let members = |fleet: &mut Fleet| {
        let told = told(fleet, EjectionMode::Draining, false);
        let members = told.service.members.iter();
        members.map(|member| member.verdict).collect::<Vec<_>>()
    };
    assert_eq!(members(&mut fleet), [GOOD, BAD]);
    with(&mut fleet, &[BAD, GOOD, GOOD]);
    assert_eq!(members(&mut fleet), [BAD, GOOD, GOOD]);
    of_web(&mut fleet, |entry| entry.judged(Verdicts::default()));
    assert_eq!(members(&mut fleet), [Verdict::Pending; 3]);
    of_web(&mut fleet, |entry| entry.found(Targets::default()));
    assert!(members(&mut fleet).is_empty());
}

#[test]
fn what_a_binding_wanted_stays_while_it_is_not_known() {
    let mut fleet = Fleet::default();
    fleet.want(&key("new"), None);
    with(&mut fleet, &[GOOD]);
    fleet.want(&key("web"), None);
    let known = fleet.known(EjectionMode::Draining, false);
    assert_eq!(known.unsettled, [key("new")].into());
    assert_eq!(known.services.len(), 1);
    assert_eq!(fleet.checking(&web()), [key("web")].into());
}

#[test]
fn who_is_out_for_a_binding_that_is_frozen_stays_out_though_nobody_is_checked_for_it() {
    let mut fleet = Fleet::default();
    with(&mut fleet, &[GOOD, BAD]);
    let ended = Box::new(Wanted::NotConfigured);
    fleet.want(&key("web"), Some(Wanted::Frozen(ended)));
    let known = fleet.known(EjectionMode::Draining, false);
    assert_eq!(known.unsettled, [key("web")].into());
    assert!(known.services.is_empty() && fleet.checking(&web()).is_empty());
    assert_eq!(snapshot(&mut fleet, None), None);
}

#[test]
fn a_binding_that_is_gone_or_wants_nothing_is_neither_checked_nor_ejects() {
    for end in [Some(Wanted::NotConfigured), Some(Wanted::NotInForce), None] {
        let mut fleet = Fleet::default();
        with(&mut fleet, &[GOOD]);
        match end {
            Some(wanted) => fleet.want(&key("web"), Some(wanted)),
            None => fleet.forget(&key("web")),
        }
        assert!(fleet.checks("cluster.local").is_empty());
        let known = fleet.known(EjectionMode::Draining, false);
        assert!(known.services.is_empty() && known.unsettled.is_empty());
        assert!(fleet.checking(&web()).is_empty());
    }
}

#[test]
fn what_is_checked_as_before_is_in_memory_once_whatever_else_changes() {
    let mut fleet = Fleet::default();
    with(&mut fleet, &[GOOD, GOOD]);
    let checks = |fleet: &mut Fleet| fleet.checks("cluster.local").into_values().next();
    let before = checks(&mut fleet).unwrap();
    let Wanted::Check(mut subject) = check() else {
        panic!("it is checked");
    };
    subject.percent += 1;
    fleet.want(&key("web"), Some(Wanted::Check(subject.clone())));
    let same = checks(&mut fleet).unwrap();
    assert!(Arc::ptr_eq(&same.check, &before.check));
    subject.check.failure_threshold += 1;
    fleet.want(&key("web"), Some(Wanted::Check(subject)));
    let after = checks(&mut fleet).unwrap();
    assert_eq!(
        after.check.thresholds.failures,
        before.check.thresholds.failures + 1
    );
}

#[test]
fn a_service_is_checked_for_one_binding() {
    let mut fleet = Fleet::default();
    with(&mut fleet, &[GOOD, GOOD]);
    fleet.want(&key("web-again"), Some(check()));
    let checked = fleet.checks("cluster.local");
    assert_eq!(checked.len(), 1);
    let (_, targets) = checked.first_key_value().unwrap();
    assert_eq!(targets.endpoints.len(), 2);
}

#[test]
fn in_doubt_and_while_the_binding_is_frozen_nothing_moves() {
    let mut fleet = Fleet::default();
    with(&mut fleet, &[GOOD]);
    let held = |fleet: &mut Fleet, doubt| {
        fleet.known(EjectionMode::Draining, doubt).services[0]
            .service
            .held
    };
    assert!(!held(&mut fleet, false));
    assert!(held(&mut fleet, true));
    let Wanted::Check(mut frozen) = check() else {
        panic!()
    };
    frozen.frozen = true;
    fleet.want(&key("web"), Some(Wanted::Check(frozen)));
    assert!(held(&mut fleet, false));
    let snapshot = snapshot(&mut fleet, Some(Doubt::Late)).unwrap();
    let message = snapshot.shown.fact().message;
    assert!(message.contains("no verdict moves"), "{message}");
}

#[test]
fn healthy_again_is_who_was_unhealthy_and_is_healthy_now() {
    const UNKNOWN: Verdict = Verdict::Unknown(Unknown::MtlsRequired);
    let mut fleet = Fleet::default();
    let mut snapshot = |verdicts: &[Verdict]| {
        with(&mut fleet, verdicts);
        super::tests::snapshot(&mut fleet, None).unwrap()
    };
    let before = snapshot(&[GOOD, BAD, BAD, BAD]);
    let after = snapshot(&[BAD, GOOD, UNKNOWN, Verdict::Pending]);
    let entry = fleet.get(&key("web")).unwrap();
    let (bad, good) = others(entry, Some(&before), &after);
    assert_eq!(bad, [address(0)]);
    assert_eq!(good, [address(1)]);
}

/// What is kept of all together, found out by a walk through all.
fn walked(fleet: &Fleet) -> ((u32, u32), Vec<BindingKey>, Option<Duration>) {
    let keys = fleet.keys();
    let entries = || keys.iter().map(|key| (key, fleet.get(key).unwrap()));
    let counts = |(_, entry): (_, &Entry)| entry.verdicts().counts;
    let all = entries()
        .map(counts)
        .fold((0, 0), |(healthy, unhealthy), of| {
            (healthy + of.healthy, unhealthy + of.unhealthy)
        });
    let failing = entries().filter(|(_, entry)| entry.unhealthy().next().is_some());
    let due = entries().filter_map(|(_, entry)| entry.telling.due());
    (
        all,
        failing.map(|(key, _)| key.clone()).collect(),
        due.min(),
    )
}

#[test]
fn what_is_kept_of_all_together_is_what_a_walk_through_all_would_find() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut fleet = Fleet::default();
    for second in 0..2_000 {
        let (now, name) = (
            Duration::from_secs(second),
            key(&random.u8(..5).to_string()),
        );
        match random.u8(..6) {
            0 => fleet.forget(&name),
            1 => fleet.want(&name, Some(Wanted::NotConfigured)),
            2 => fleet.want(&name, Some(check())),
            3 => {
                let held = (0..3).map(|_| if random.bool() { GOOD } else { BAD });
                let held: Vec<_> = held.collect();
                fleet.change(&name, |entry| judge(entry, &held));
            }
            4 => {
                fleet.change(&name, |entry| {
                    if let Some(snapshot) = entry.snapshot(Stays::default(), None) {
                        entry.telling.is(Box::new(snapshot), now);
                    }
                });
            }
            _ => {
                for due in fleet.standing().due_by(now) {
                    let said = fleet.change(&due, |entry| entry.telling.say(now).is_some());
                    assert_eq!(said, Some(true));
                }
            }
        }
        let standing = fleet.standing();
        let kept = (
            standing.endpoints(),
            standing.failing().cloned().collect(),
            standing.next_due(),
        );
        assert_eq!(kept, walked(&fleet));
    }
}
