use super::super::judge::{Failure, Unknown};
use super::*;
use crate::domain::fixtures::at;

const BAD: Verdict = Verdict::Unhealthy(Failure::TimedOut);
const GOOD: Verdict = Verdict::Healthy;
const PENDING: Verdict = Verdict::Pending;

fn binding(name: &str) -> BindingKey {
    BindingKey::new("shop", name.to_owned())
}

fn pod(n: usize) -> PodKey {
    ("shop".into(), format!("p{n}").into())
}

/// A service with a ready Pod for each verdict; those of a higher number are
/// unhealthy for longer.
fn service(name: &str, verdicts: &[Verdict]) -> Service {
    let members = verdicts.iter().enumerate().map(|(n, verdict)| Member {
        pod: PodId::shared(pod(n), ""),
        ready: true,
        verdict: *verdict,
        since: at(1_000 - n as i64).into(),
    });
    Service {
        binding: binding(name),
        ejects: true,
        proven: true,
        held: false,
        percent: 50,
        members: members.collect(),
    }
}

fn ours(pods: &[usize]) -> BTreeMap<PodKey, Out> {
    let of = BTreeSet::from([binding("web")]);
    pods.iter()
        .map(|n| (pod(*n), Out::Ours(of.clone())))
        .collect()
}

/// Numbers of the Pods that are to be out.
fn out(services: &[Service], now_out: &BTreeMap<PodKey, Out>) -> Vec<usize> {
    let plan = plan(services, now_out);
    let number = |(_, name): &PodKey| name[1..].parse().unwrap();
    plan.out.keys().map(number).collect()
}

#[test]
fn an_unhealthy_endpoint_goes_and_comes_back_when_it_is_healthy() {
    let sick = [service("web", &[GOOD, BAD, GOOD])];
    assert_eq!(out(&sick, &ours(&[])), [1]);
    assert_eq!(out(&sick, &ours(&[1])), [1]);
    let well = [service("web", &[GOOD, GOOD, GOOD])];
    assert_eq!(out(&well, &ours(&[1])), [0; 0]);
}

#[test]
fn at_most_half_go_and_never_the_last_one() {
    for (ready, most) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (10, 5)] {
        assert_eq!(most_out(ready, 50), most, "{ready}");
    }
    assert_eq!((most_out(1, 100), most_out(3, 100)), (0, 2));
    // One after the other until all but one are bad.
    for sick in 0..10 {
        let mut verdicts = vec![BAD; sick];
        verdicts.resize(10, GOOD);
        let services = [service("web", &verdicts)];
        assert_eq!(out(&services, &ours(&[])).len(), sick.min(5));
        let floored = plan(&services, &ours(&[])).floored;
        let expected = u32::try_from(sick.saturating_sub(5)).unwrap();
        assert_eq!(floored.get(&binding("web")).copied().unwrap_or(0), expected);
    }
}

#[test]
fn who_is_out_stays_before_somebody_new_goes_and_of_the_new_the_longest_ill() {
    let services = [service("web", &[BAD, BAD, BAD, GOOD, GOOD, GOOD])];
    let one = [Service {
        percent: 17,
        ..services[0].clone()
    }];
    assert_eq!(out(&one, &ours(&[])), [2]);
    assert_eq!(out(&one, &ours(&[0])), [0]);
    // Scaled down: the floor is lower, and some come back.
    let two = [Service {
        percent: 34,
        ..services[0].clone()
    }];
    assert_eq!(out(&two, &ours(&[0, 1, 2])), [1, 2]);
}

#[test]
fn where_nobody_answers_all_come_back_and_then_the_ill_go_again() {
    let none = [service("web", &[BAD, BAD, BAD, BAD])];
    assert_eq!(out(&none, &ours(&[0, 1])), [0; 0]);
    assert!(plan(&none, &ours(&[])).opened.contains(&binding("web")));
    let half = [service("web", &[BAD, GOOD, BAD, GOOD])];
    assert_eq!(out(&half, &ours(&[])), [0, 2]);
    let unknown = [service(
        "web",
        &[BAD, Verdict::Unknown(Unknown::MtlsRequired)],
    )];
    assert_eq!(out(&unknown, &ours(&[0])), [0; 0]);
}

#[test]
fn after_a_restart_who_was_out_stays_out_until_he_is_judged() {
    let unjudged = [Service {
        proven: false,
        ..service("web", &[PENDING, PENDING, PENDING])
    }];
    assert_eq!(out(&unjudged, &ours(&[1])), [1]);
    let still = [service("web", &[GOOD, BAD, GOOD])];
    assert_eq!(out(&still, &ours(&[1])), [1]);
}

#[test]
fn a_check_that_never_worked_takes_nobody_out() {
    let wrong = [Service {
        proven: false,
        ..service("web", &[BAD, BAD, PENDING])
    }];
    assert_eq!(out(&wrong, &ours(&[])), [0; 0]);
    // Nor does one that works nowhere at the moment.
    let unsure = [service("web", &[BAD, BAD, PENDING])];
    assert_eq!(out(&unsure, &ours(&[])), [0; 0]);
}

#[test]
fn while_verdicts_are_held_nobody_goes_and_nobody_comes_back() {
    let held = [Service {
        held: true,
        ..service("web", &[GOOD, BAD, BAD, BAD])
    }];
    assert_eq!(out(&held, &ours(&[0])), [0]);
    assert!(plan(&held, &ours(&[0])).opened.is_empty());
    // Not even beyond the floor, or where nobody answers.
    let all = [Service {
        held: true,
        ..service("web", &[BAD, BAD])
    }];
    assert_eq!(out(&all, &ours(&[0, 1])), [0, 1]);
}

#[test]
fn who_ejects_no_longer_gets_all_of_his_back() {
    let off = [Service {
        ejects: false,
        ..service("web", &[GOOD, BAD, GOOD])
    }];
    assert_eq!(out(&off, &ours(&[1])), [0; 0]);
    assert_eq!(out(&[], &ours(&[1])), [0; 0]);
}

#[test]
fn what_others_took_out_is_not_ours_and_counts() {
    let services = [service("web", &[BAD, BAD, GOOD, GOOD])];
    let mut now_out = ours(&[]);
    now_out.insert(pod(0), Out::Others);
    assert_eq!(out(&services, &now_out), [1]);
    now_out.insert(pod(3), Out::Others);
    assert_eq!(out(&services, &now_out), [0; 0]);
}

#[test]
fn one_that_answers_and_that_somebody_else_took_out_is_nobody_to_send_requests_to() {
    let others = BTreeMap::from([(pod(0), Out::Others)]);
    let decided = |verdicts: &[Verdict]| {
        let web = Service {
            percent: 100,
            ..service("web", verdicts)
        };
        let plan = plan(&[web], &others);
        (plan.out.len(), plan.opened.len())
    };
    assert_eq!(decided(&[GOOD, BAD, BAD]), (0, 1));
    // Nor is it waited for.
    assert_eq!(decided(&[PENDING, BAD, BAD]), (0, 1));
    assert_eq!(decided(&[GOOD, BAD, PENDING]), (0, 0));
    assert_eq!(decided(&[BAD, BAD, GOOD]), (1, 0));
    // Nobody is left who could be let in or out.
    assert_eq!(decided(&[GOOD]), (0, 0));
}

#[test]
fn a_pod_that_is_not_ready_does_not_count_and_stays_as_it_is() {
    let mut one = service("web", &[BAD, BAD, GOOD, GOOD]);
    one.members[0].ready = false;
    assert_eq!(out(&[one.clone()], &ours(&[])), [1]);
    assert_eq!(out(&[one.clone()], &ours(&[0])), [0, 1]);
    one.members[2].ready = false;
    one.members[3].ready = false;
    assert_eq!(out(&[one], &ours(&[])), [0; 0], "it is the last one");
}

#[test]
fn a_pod_behind_two_services_goes_only_where_both_floors_let_it() {
    let web = service("web", &[GOOD, BAD, GOOD, GOOD]);
    let mut api = service("api", &[GOOD, GOOD, GOOD, GOOD]);
    let both = plan(&[web.clone(), api.clone()], &ours(&[]));
    assert_eq!(both.out[&pod(1)], BTreeSet::from([binding("web")]));
    // The other service has it as its only ready endpoint.
    for member in &mut api.members {
        member.ready = member.pod.key == pod(1);
    }
    let floored = plan(&[web.clone(), api.clone()], &ours(&[]));
    assert!(floored.out.is_empty() && floored.floored.contains_key(&binding("web")));
    // Or nobody knows how many of its endpoints answer.
    let mut held = service("api", &[GOOD, GOOD, GOOD, GOOD]);
    held.held = true;
    assert_eq!(out(&[web, held], &ours(&[])), [0; 0]);
}

#[test]
fn both_bindings_that_want_a_pod_out_are_named() {
    let web = service("web", &[GOOD, BAD, GOOD]);
    let api = service("api", &[GOOD, BAD, GOOD]);
    let plan = plan(&[web, api], &ours(&[]));
    let both = BTreeSet::from([binding("api"), binding("web")]);
    assert_eq!(plan.out[&pod(1)], both);
}

/// Whatever is judged in whatever order: nobody who is healthy goes, the floors
/// hold, and what was planned is what is planned next.
#[test]
fn no_healthy_endpoint_goes_no_floor_is_broken_and_a_plan_is_stable() {
    let mut chance = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let pods = chance.usize(1..8);
        let services: Vec<_> = ["api", "web"]
            .iter()
            .map(|name| {
                let verdicts: Vec<_> = (0..pods)
                    .map(|_| [GOOD, BAD, PENDING][chance.usize(..3)])
                    .collect();
                let mut service = service(name, &verdicts);
                service.proven = chance.u8(..4) > 0;
                service.ejects = chance.u8(..4) > 0;
                service.percent = chance.u8(1..=100);
                for member in &mut service.members {
                    member.ready = chance.u8(..5) > 0;
                }
                service
            })
            .collect();
        let mut now_out = BTreeMap::new();
        for n in 0..pods {
            match chance.u8(..6) {
                0 => now_out.extend([(pod(n), Out::Others)]),
                1 => now_out.extend(ours(&[n])),
                _ => {}
            }
        }
        let first = plan(&services, &now_out);
        for service in &services {
            let gone = |member: &&Member| {
                member.ready && (first.out.contains_key(&member.pod) || is_others(&now_out, member))
            };
            let ready = service.members.iter().filter(|m| m.ready).count();
            let gone = service.members.iter().filter(gone).count();
            let others = service
                .members
                .iter()
                .filter(|m| m.ready && is_others(&now_out, m));
            let most = most_out(ready, service.percent).max(others.count());
            assert!(gone <= most, "{service:?} {now_out:?} {first:?}");
        }
        for (pod, bindings) in &first.out {
            assert_ne!(now_out.get(pod), Some(&Out::Others));
            for service in services.iter().filter(|s| bindings.contains(&s.binding)) {
                let member = service.members.iter().find(|m| m.pod.key == *pod).unwrap();
                assert_ne!(member.verdict, GOOD);
            }
        }
        now_out.retain(|_, out| *out == Out::Others);
        let planned = first
            .out
            .iter()
            .map(|(pod, of)| (pod.clone(), Out::Ours(of.clone())));
        now_out.extend(planned);
        assert_eq!(plan(&services, &now_out).out, first.out);
    }
}
