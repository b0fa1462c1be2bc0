//! How does Envoy's own outlier detection help while an unhealthy endpoint has
//! to stay in the mesh?
//!
//! 1. While one does, Envoy takes out whoever answers a single request badly,
//!    looks every second, and may take out as many as are known to be bad, but
//!    never the last endpoint.
//! 2. Each change of these fields makes Envoy forget whom it took out, so they
//!    change once when the first has to stay and once when none has to any
//!    more for ten seconds, so that one that flaps does not change them each time.
//!    The share is half of the endpoints as long as no more are bad, as many as a
//!    policy allows that says nothing: one bad answer must not empty a service.
//!    Once more are, and the service with them unhealthy, it is the largest there
//!    is, until all is over.
//! 3. It is not for a check that has never worked: there it is not known who is
//!    bad. While verdicts are held all stays as it is, and the ten seconds begin
//!    anew afterwards.
//! 4. Nor is it for a service of which no endpoint answers: the policy alone holds
//!    at once. By then Envoy may have taken out whoever will be the first to be
//!    well again, for long, and keep those that are not. So it is made to forget
//!    when one is well again, also where no unhealthy one has to stay.
//! 5. Where Envoy may take out all endpoints, as one policy allows, it is told to
//!    use all of them once it has: or it would refuse every request, also when one
//!    of them is well again.
//! 6. Nothing gets looser than the policy has it, and a policy by which nobody
//!    is ever taken out stays as it is.
//! 7. A process that starts goes on with what was written before it, and holds it
//!    until it has judged all endpoints itself.

use std::collections::BTreeMap;
use std::time::Duration;

use super::ejection::{Plan, PodKey};
use super::judge::Verdict;
use super::round::{Checked, Known};
use crate::api::policy::EjectionMode;
use crate::domain::duration::Millis;
use crate::domain::names::BindingKey;
use crate::domain::policy::OutlierPolicy;

/// How often Envoy looks meanwhile.
const INTERVAL: Millis = Millis(1_000);

/// The share while no more than half are bad, in percent.
const HALF: u32 = 50;

/// How long no unhealthy endpoint has to stay before the policy alone holds.
pub const RESTORES: Duration = Duration::from_secs(10);

/// Largest share: with it one endpoint is left, however many there are.
const MOST: u32 = 99;

/// The share with which none may be left.
const EVERYBODY: u32 = 100;

/// The least share that has to be left before Envoy uses all: with it, one is
/// enough.
const ANYBODY: u32 = 1;

/// How detection is tightened, the least first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Tightened {
    /// No endpoint answers: as the policy has it, but that all are used where
    /// none is left.
    Open,
    /// Envoy may take out half of the endpoints.
    Half,
    /// Envoy may take out all endpoints but one.
    Most,
}

impl Tightened {
    /// All ways in which it ever is, the least first.
    pub const ALL: [Self; 3] = [Self::Open, Self::Half, Self::Most];

    /// The least share that Envoy may take out, in percent.
    const fn percent(self) -> u32 {
        match self {
            Self::Open => 0,
            Self::Half => HALF,
            Self::Most => MOST,
        }
    }
}

/// That it is, and since when none has to stay any more. Times count from any
/// fixed moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// What holds.
    pub tightened: Tightened,
    /// Since when it need not.
    pub free: Option<Duration>,
}

/// Who is in the mesh, as far as it matters.
#[derive(Clone, Copy, Debug, Default)]
struct InMesh {
    all: u32,
    /// The unhealthy ones that have to stay.
    staying: u32,
    /// Whether one of them was not judged yet.
    pending: bool,
    /// No endpoint answers, and all are in the mesh.
    open: bool,
}

/// What holds from now on, by what held until now. None is the policy alone.
fn held(before: Option<Held>, in_mesh: InMesh, now: Duration) -> Option<Held> {
    let free = None;
    if in_mesh.open {
        let tightened = Tightened::Open;
        return Some(Held { tightened, free });
    }
    let tightened = before.map(|held| held.tightened);
    if let Some(tightened) = next(tightened, in_mesh.staying, in_mesh.all) {
        return Some(Held { tightened, free });
    }
    let before = before?;
    if in_mesh.pending {
        return Some(Held { free, ..before });
    }
    let since = before.free.unwrap_or(now);
    (since + RESTORES > now).then_some(Held {
        // Where nobody answered until now, this is what makes Envoy forget.
        tightened: before.tightened.max(Tightened::Half),
        free: Some(since),
    })
}

fn next(held: Option<Tightened>, staying: u32, in_mesh: u32) -> Option<Tightened> {
    if staying == 0 {
        return None;
    }
    // Whoever cannot be spared needs no share.
    let spared = staying.min(in_mesh.saturating_sub(1));
    let needed = if share(spared, in_mesh) > HALF {
        Tightened::Most
    } else {
        Tightened::Half
    };
    Some(held.map_or(needed, |held| held.max(needed)))
}

/// What holds for all services from now on, by the plan of who is out, and by
/// what held until now. Who is missing has the policy alone.
pub fn all(
    known: &Known,
    plan: &Plan,
    before: &BTreeMap<BindingKey, Held>,
    now: Duration,
) -> BTreeMap<BindingKey, Held> {
    // Since when it need not hold is forgotten: ten seconds after that would pass,
    // and whoever waits for them would be woken all the time.
    let as_it_is = |binding: &BindingKey| {
        let free = None;
        before.get(binding).map(|known| Held { free, ..*known })
    };
    let of = |checked: &Checked| {
        let binding = &checked.service.binding;
        let is = if checked.service.held {
            as_it_is(binding)
        } else {
            let known = before.get(binding).copied();
            held(known, in_mesh(checked, plan), now)
        };
        is.map(|is| (binding.clone(), is))
    };
    let mut all: BTreeMap<_, _> = known
        .services
        .iter()
        .filter_map(|checked| of(checked))
        .collect();
    let unsettled = known.unsettled.iter();
    all.extend(unsettled.filter_map(|key| Some((key.clone(), as_it_is(key)?))));
    all
}

/// When the first of them need not hold any more.
pub fn due(all: &BTreeMap<BindingKey, Held>) -> Option<Duration> {
    let free = all.values().filter_map(|held| held.free);
    free.min().map(|since| since + RESTORES)
}

/// Who of its endpoints is in the mesh by this plan.
fn in_mesh(checked: &Checked, plan: &Plan) -> InMesh {
    let service = &checked.service;
    let members = service.members.iter();
    let is_out = |pod: &PodKey| plan.out.contains_key(pod) || plan.others.contains(pod);
    let in_mesh = members.filter(|m| m.ready && !is_out(&m.pod));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let all = count(in_mesh.clone().count());
    let helps = matches!(
        checked.mode,
        EjectionMode::Draining | EjectionMode::OutlierOnly
    );
    if !helps {
        return InMesh::default();
    }
    let is = |verdict: Verdict| in_mesh.clone().any(|m| m.verdict == verdict);
    let bad = in_mesh
        .clone()
        .filter(|m| matches!(m.verdict, Verdict::Unhealthy(_)));
    let bad = count(bad.count());
    let staying = if service.proven && is(Verdict::Healthy) {
        bad
    } else {
        0
    };
    InMesh {
        all,
        staying,
        pending: is(Verdict::Pending),
        open: service.proven && bad > 0 && plan.opened.contains(&service.binding),
    }
}

/// The policy as the DestinationRule gets it.
pub fn in_force(policy: &OutlierPolicy, tightened: Option<Tightened>) -> OutlierPolicy {
    let Some(tightened) = tightened.filter(|_| policy.max_ejection_percent > 0) else {
        return policy.clone();
    };
    let most = policy.max_ejection_percent.max(tightened.percent());
    let all = OutlierPolicy {
        max_ejection_percent: most,
        min_health_percent: (most == EVERYBODY).then_some(ANYBODY),
        ..policy.clone()
    };
    match tightened {
        Tightened::Open => all,
        Tightened::Half | Tightened::Most => OutlierPolicy {
            consecutive_errors: policy.consecutive_errors.min(1),
            interval: policy.interval.min(INTERVAL),
            ..all
        },
    }
}

/// By how much the policy was tightened where this is in force: the least that
/// fits. None where it is the policy itself, or comes from elsewhere.
pub fn told_by(in_force: &OutlierPolicy, policy: &OutlierPolicy) -> Option<Tightened> {
    let mut tightened = Tightened::ALL.into_iter();
    let fits = |one: &Tightened| self::in_force(policy, Some(*one)) == *in_force;
    tightened.find(fits).filter(|_| in_force != policy)
}

/// The smallest share, in percent, by which Envoy may take so many out.
fn share(of: u32, all: u32) -> u32 {
    if all == 0 {
        return 0;
    }
    let percent = (u64::from(of) * 100).div_ceil(u64::from(all));
    u32::try_from(percent).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::health::ejection::{Member, Out, PodId, Service, plan};
    use crate::domain::health::judge::Failure;

    fn policy(percent: u32) -> OutlierPolicy {
        OutlierPolicy {
            consecutive_errors: 5,
            interval: Millis(30_000),
            base_ejection_time: Millis(45_000),
            max_ejection_percent: percent,
            min_health_percent: None,
        }
    }

    /// How many Envoy takes out of so many, by this share.
    fn out(percent: u32, all: u32) -> u32 {
        percent * all / 100
    }

    #[test]
    fn while_an_unhealthy_endpoint_stays_one_bad_answer_is_enough() {
        let tight = in_force(&policy(10), next(None, 1, 3));
        assert_eq!(
            tight,
            OutlierPolicy {
                consecutive_errors: 1,
                interval: Millis(1_000),
                base_ejection_time: Millis(45_000),
                max_ejection_percent: 50,
                min_health_percent: None,
            }
        );
    }

    #[test]
    fn what_is_in_force_tells_by_how_much_it_was_tightened() {
        let policy = policy(30);
        use Tightened::{Half, Most};
        for (staying, in_mesh, least) in [(1, 1, Half), (1, 3, Half), (3, 4, Most), (9, 9, Most)] {
            let tightened = next(None, staying, in_mesh);
            let told = told_by(&in_force(&policy, tightened), &policy).unwrap();
            assert_eq!(told, least, "{staying} of {in_mesh}");
            assert_eq!(in_force(&policy, Some(told)), in_force(&policy, tightened));
        }
        assert_eq!(told_by(&policy, &policy), None);
        let theirs = OutlierPolicy {
            max_ejection_percent: 60,
            ..in_force(&policy, next(None, 1, 3))
        };
        assert_eq!(told_by(&theirs, &policy), None);
        // One that asks for as much itself was not tightened.
        let tight = in_force(&policy, next(None, 1, 3));
        assert_eq!(told_by(&tight, &tight), None);
    }

    #[test]
    fn when_none_stays_the_policy_is_what_it_was() {
        let policy = policy(50);
        let held = next(None, 2, 3);
        assert!(held.is_some());
        let after = next(held, 0, 3);
        assert_eq!(after, None);
        assert_eq!(in_force(&policy, after), policy);
    }

    #[test]
    fn as_many_as_are_bad_may_be_taken_out_and_never_the_last() {
        for all in 1..=100 {
            for bad in 1..=all {
                let held = next(None, bad, all).unwrap();
                let out = out(held.percent(), all);
                assert!(out >= bad.min(all - 1), "{bad} of {all}: {out}");
                assert!(out < all, "{bad} of {all}: all may be taken out");
            }
        }
    }

    #[test]
    fn a_service_whose_endpoints_fail_and_recover_one_by_one_changes_once_or_twice_and_back() {
        let percents = |most: u32| {
            let mut held = None;
            let mut seen = vec![held];
            for bad in (1..=most).chain((0..most).rev()) {
                let now = next(held, bad, 10);
                if now != held {
                    seen.push(now);
                }
                held = now;
            }
            let percents = seen.iter().map(|held| held.map(Tightened::percent));
            percents.collect::<Vec<_>>()
        };
        assert_eq!(percents(5), [None, Some(50), None]);
        assert_eq!(percents(10), [None, Some(50), Some(99), None]);
        // And as long as nothing changes, nothing does.
        let held = next(None, 6, 10);
        assert_eq!(next(held, 6, 10), held);
        assert_eq!(next(held, 1, 10), held);
        assert!(Tightened::ALL.contains(&held.unwrap()));
    }

    fn service(mode: EjectionMode, verdicts: &[Verdict]) -> Checked {
        let pod = |n: usize| ("shop".into(), format!("web-{n}").into());
        let member = |(n, verdict): (usize, &Verdict)| Member {
            pod: PodId::shared(pod(n), ""),
            ready: true,
            verdict: *verdict,
            since: jiff::Timestamp::UNIX_EPOCH.into(),
        };
        Checked {
            mode,
            service: Service {
                binding: key(),
                ejects: true,
                proven: true,
                held: false,
                percent: 50,
                members: verdicts.iter().enumerate().map(member).collect(),
            },
        }
    }

    fn key() -> BindingKey {
        BindingKey::new("shop", "web")
    }

    #[test]
    fn it_is_for_unhealthy_endpoints_that_stay_beside_healthy_ones() {
        use EjectionMode::{Draining, Observe, Off, OutlierOnly};
        const GOOD: Verdict = Verdict::Healthy;
        const BAD: Verdict = Verdict::Unhealthy(Failure::Refused);
        let nothing = BTreeMap::new();
        let decided = |checked: Checked, plan: &Plan, before: &BTreeMap<_, _>| {
            let known = Known {
                services: vec![std::sync::Arc::new(checked)],
                ..Known::default()
            };
            let all = all(&known, plan, before, Duration::ZERO);
            all.get(&key()).map(|held| held.tightened.percent())
        };
        let free = Plan::default();
        let mut out = Plan::default();
        out.out
            .insert(("shop".into(), "web-1".into()), [key()].into());
        for (mode, verdicts, plan, percent) in [
            (OutlierOnly, [GOOD, BAD, GOOD], &free, Some(50)),
            (Draining, [GOOD, BAD, GOOD], &free, Some(50)),
            (Draining, [GOOD, BAD, GOOD], &out, None),
            (Draining, [GOOD, BAD, BAD], &out, Some(50)),
            (OutlierOnly, [GOOD, BAD, BAD], &free, Some(99)),
            (Observe, [GOOD, BAD, GOOD], &free, None),
            (Off, [GOOD, BAD, GOOD], &free, None),
            (OutlierOnly, [BAD, BAD, BAD], &free, None),
            (OutlierOnly, [GOOD, GOOD, GOOD], &free, None),
        ] {
            let found = decided(service(mode, &verdicts), plan, &nothing);
            assert_eq!(found, percent, "{mode:?} {verdicts:?}");
        }
        let mut unproven = service(OutlierOnly, &[GOOD, BAD, GOOD]);
        unproven.service.proven = false;
        assert_eq!(decided(unproven, &free, &nothing), None);
        // While verdicts are held, and while nothing is known, all stays.
        let tightened = Tightened::Most;
        let held = Held {
            tightened,
            free: None,
        };
        let before = BTreeMap::from([(key(), held)]);
        for verdicts in [[GOOD, GOOD, GOOD], [GOOD, BAD, GOOD]] {
            let mut held = service(OutlierOnly, &verdicts);
            held.service.held = true;
            assert_eq!(decided(held.clone(), &free, &before), Some(99));
            assert_eq!(decided(held, &free, &nothing), None);
        }
        let unsettled = Known {
            unsettled: [key()].into(),
            ..Known::default()
        };
        let now = Duration::ZERO;
        let plan = Plan::default();
        assert_eq!(all(&unsettled, &plan, &before, now), before);
        assert_eq!(all(&Known::default(), &plan, &before, now), nothing);
    }

    #[test]
    fn it_is_not_for_one_that_somebody_else_took_out() {
        const GOOD: Verdict = Verdict::Healthy;
        const BAD: Verdict = Verdict::Unhealthy(Failure::Refused);
        let others = BTreeMap::from([(("shop".into(), "web-1".into()), Out::Others)]);
        let decided = |verdicts: &[Verdict]| {
            let checked = service(EjectionMode::Draining, verdicts);
            let plan = plan(std::slice::from_ref(&checked.service), &others);
            let known = Known {
                services: vec![std::sync::Arc::new(checked)],
                ..Known::default()
            };
            let all = all(&known, &plan, &BTreeMap::new(), Duration::ZERO);
            all.get(&key()).map(|held| held.tightened)
        };
        assert_eq!(decided(&[GOOD, BAD, GOOD]), None);
        // He counts as out, so that the floor keeps the other one in.
        assert_eq!(decided(&[GOOD, BAD, BAD]), Some(Tightened::Half));
        // Of those that are left none answers.
        assert_eq!(decided(&[BAD, GOOD, BAD]), Some(Tightened::Open));
    }

    fn bad(staying: u32) -> InMesh {
        InMesh {
            all: 3,
            staying,
            pending: false,
            open: false,
        }
    }

    #[test]
    fn it_holds_for_ten_seconds_after_the_last_one_had_to_stay() {
        let second = Duration::from_secs;
        let tight = held(None, bad(1), second(0));
        assert!(tight.is_some_and(|held| held.free.is_none()));
        let free = held(tight, bad(0), second(100));
        assert_eq!(free.and_then(|held| held.free), Some(second(100)));
        assert_eq!(held(free, bad(0), second(109)), free);
        // One that flaps begins anew, and changes nothing.
        assert_eq!(held(free, bad(1), second(109)), tight);
        assert_eq!(held(free, bad(0), second(110)), None);
        let all = BTreeMap::from([(key(), free.unwrap())]);
        assert_eq!(due(&all), Some(second(110)));
        assert_eq!(held(None, bad(0), second(1)), None);
    }

    #[test]
    fn the_ten_seconds_do_not_run_while_verdicts_are_held_or_nothing_is_known() {
        const GOOD: Verdict = Verdict::Healthy;
        let second = Duration::from_secs;
        let free = Held {
            tightened: Tightened::Half,
            free: Some(second(0)),
        };
        let before = BTreeMap::from([(key(), free)]);
        let mut checked = service(EjectionMode::OutlierOnly, &[GOOD, GOOD]);
        checked.service.held = true;
        let held = Known {
            services: vec![std::sync::Arc::new(checked)],
            ..Known::default()
        };
        let unsettled = Known {
            unsettled: [key()].into(),
            ..Known::default()
        };
        for known in [held, unsettled] {
            let now = all(&known, &Plan::default(), &before, second(500));
            assert_eq!(now[&key()].tightened, Tightened::Half);
            assert_eq!(due(&now), None, "{known:?}");
        }
    }

    #[test]
    fn what_was_written_before_holds_until_all_are_judged() {
        const GOOD: Verdict = Verdict::Healthy;
        const PENDING: Verdict = Verdict::Pending;
        const BAD: Verdict = Verdict::Unhealthy(Failure::Refused);
        let second = Duration::from_secs;
        let decided = |verdicts: &[Verdict], proven, before: Option<Held>, at: u64| {
            let mut checked = service(EjectionMode::OutlierOnly, verdicts);
            checked.service.proven = proven;
            let known = Known {
                services: vec![std::sync::Arc::new(checked)],
                ..Known::default()
            };
            let before = before.map(|held| (key(), held)).into_iter().collect();
            let all = all(&known, &Plan::default(), &before, second(at));
            all.get(&key()).copied()
        };
        let written = Some(Held {
            tightened: Tightened::Most,
            free: None,
        });
        for verdicts in [[PENDING; 3], [GOOD, PENDING, GOOD]] {
            assert_eq!(decided(&verdicts, false, written, 500), written);
            assert_eq!(decided(&verdicts, true, written, 500), written);
            assert_eq!(decided(&verdicts, true, None, 500), None);
        }
        // The worst is known again, or it is over.
        assert_eq!(decided(&[GOOD, BAD, PENDING], true, written, 500), written);
        let over = decided(&[GOOD, GOOD, GOOD], true, written, 500);
        assert_eq!(over.and_then(|held| held.free), Some(second(500)));
        assert_eq!(decided(&[GOOD, GOOD, GOOD], true, over, 510), None);
    }

    #[test]
    fn when_no_endpoint_answers_the_policy_holds_until_one_does_and_envoy_forgets() {
        let second = Duration::from_secs;
        let none = InMesh {
            open: true,
            ..bad(0)
        };
        let in_force = |held: Option<Held>| Some(in_force(&policy(50), Some(held?.tightened)));
        let own = Some(policy(50));
        let tight = held(None, bad(2), second(0));
        assert_ne!(in_force(tight), own);
        // At once, and for as long as it is so.
        let open = held(tight, none, second(1));
        assert_eq!(in_force(open), own);
        assert_eq!(held(open, none, second(100)), open);
        assert_eq!(due(&BTreeMap::from([(key(), open.unwrap())])), None);
        // One is well again, and others have to stay.
        assert_ne!(in_force(held(open, bad(1), second(101))), own);
        // Or none has to.
        let free = held(open, bad(0), second(101));
        assert_ne!(in_force(free), own);
        assert_eq!(held(free, bad(0), second(110)), free);
        assert_eq!(held(free, bad(0), second(111)), None);
    }

    #[test]
    fn it_is_told_by_the_plan_that_no_endpoint_answers() {
        const BAD: Verdict = Verdict::Unhealthy(Failure::Refused);
        let mut plan = Plan::default();
        plan.opened.insert(key());
        let is_open = |mode| in_mesh(&service(mode, &[BAD, BAD]), &plan).open;
        assert!(is_open(EjectionMode::Draining) && is_open(EjectionMode::OutlierOnly));
        assert!(!is_open(EjectionMode::Observe) && !is_open(EjectionMode::Off));
        let mut unproven = service(EjectionMode::Draining, &[BAD, BAD]);
        unproven.service.proven = false;
        assert!(!in_mesh(&unproven, &plan).open);
        assert!(
            !in_mesh(
                &service(EjectionMode::Draining, &[BAD, BAD]),
                &Plan::default()
            )
            .open
        );
    }

    #[test]
    fn nothing_gets_looser_than_the_policy_has_it() {
        let strict = OutlierPolicy {
            consecutive_errors: 1,
            interval: Millis(200),
            base_ejection_time: Millis(60_000),
            max_ejection_percent: 80,
            min_health_percent: None,
        };
        assert_eq!(in_force(&strict, next(None, 1, 10)), strict);
        let never = policy(0);
        for tightened in Tightened::ALL {
            assert_eq!(in_force(&never, Some(tightened)), never);
        }
    }

    #[test]
    fn where_envoy_may_take_out_all_it_uses_all_once_it_has() {
        for tightened in Tightened::ALL {
            for percent in 1..=100 {
                let policy = policy(percent);
                let in_force = in_force(&policy, Some(tightened));
                let none_may_be_left = in_force.max_ejection_percent == 100;
                assert_eq!(none_may_be_left, percent == 100);
                let least = none_may_be_left.then_some(1);
                assert_eq!(in_force.min_health_percent, least, "{tightened:?}");
            }
        }
        // And that it is so is told by what is written.
        let all = policy(100);
        let open = in_force(&all, Some(Tightened::Open));
        assert_eq!(told_by(&open, &all), Some(Tightened::Open));
        assert_eq!(open.consecutive_errors, all.consecutive_errors);
        assert_eq!(told_by(&all, &all), None);
    }
}
