//! Which changes of endpoints does a status show? The last of all endpoints of
//! the service, whoever of our replicas saw them. Plain values.
//!
//! 1. What this replica saw of an endpoint goes before what the status says of
//!    it from the same time on: both may have seen the same, moments apart.
//! 2. A change to what is said of the endpoint already is none. Of an endpoint
//!    that nothing is said of, healthy is no news.
//! 3. What is said of an endpoint of which nothing is known here stays until
//!    later changes push it out.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::address::Address;
use super::judge::{Transition, Verdict};
use crate::api::service_binding::{EndpointState, EndpointTransition};

/// Changes that a status shows at most.
pub const SHOWN: usize = 10;

/// What was seen of an endpoint of that Pod; nothing where it was not judged.
pub fn seen(
    address: Address,
    pod: Option<&str>,
    transition: &Transition,
) -> Option<EndpointTransition> {
    let (to, why) = match transition.to {
        Verdict::Pending => return None,
        Verdict::Healthy => (EndpointState::Healthy, None),
        Verdict::Unhealthy(failure) => (EndpointState::Unhealthy, Some(failure.to_string())),
        Verdict::Unknown(why) => (EndpointState::Unknown, Some(why.to_string())),
    };
    Some(EndpointTransition {
        address: address.to_string(),
        pod: pod.map(str::to_owned),
        to,
        why,
        time: Time(transition.at.timestamp()),
    })
}

/// What is shown, oldest first, of what the status says and of what was seen
/// here since.
pub fn shown(said: &[EndpointTransition], seen: &[EndpointTransition]) -> Vec<EndpointTransition> {
    // A status has whole seconds.
    let second = |transition: &EndpointTransition| transition.time.0.as_second();
    let mut first: BTreeMap<&str, i64> = BTreeMap::new();
    for transition in seen {
        let at = first.entry(&transition.address).or_insert(i64::MAX);
        *at = second(transition).min(*at);
    }
    let before = said.iter().filter(|transition| {
        let seen_from = first.get(&*transition.address);
        seen_from.is_none_or(|seen_from| second(transition) < *seen_from)
    });
    let mut all: Vec<_> = before.map(|transition| (transition, true)).collect();
    all.extend(seen.iter().map(|transition| (transition, false)));
    all.sort_by_key(|(transition, _)| second(transition));
    let mut held: BTreeMap<&str, EndpointState> = BTreeMap::new();
    let mut shown = Vec::new();
    for (transition, said) in all {
        let held = held.entry(&transition.address);
        let held = held.or_insert(EndpointState::Healthy);
        if said || *held != transition.to {
            shown.push(transition.clone());
        }
        *held = transition.to;
    }
    shown.split_off(shown.len().saturating_sub(SHOWN))
}

#[cfg(test)]
mod tests {
    use super::super::judge::Failure;
    use super::*;
    use crate::domain::fixtures::at;

    const BAD: Verdict = Verdict::Unhealthy(Failure::TimedOut);

    fn change(endpoint: u16, second: i64, to: Verdict) -> EndpointTransition {
        let address = Address::from(([10, 0, 0, 1], endpoint));
        let transition = Transition {
            at: at(second).into(),
            from: Verdict::Pending,
            to,
        };
        seen(address, Some("pod"), &transition).unwrap()
    }

    /// Each as its endpoint, its second and whether it is healthy then.
    fn brief(shown: &[EndpointTransition]) -> Vec<(String, i64, bool)> {
        let brief = shown.iter().map(|t| {
            let (_, endpoint) = t.address.rsplit_once(':').unwrap();
            let since = t.time.0.as_second() - at(0).as_second();
            (endpoint.to_owned(), since, t.to == EndpointState::Healthy)
        });
        brief.collect()
    }

    fn is(endpoint: u16, second: i64, healthy: bool) -> (String, i64, bool) {
        (endpoint.to_string(), second, healthy)
    }

    #[test]
    fn who_is_healthy_from_the_start_is_not_spoken_of() {
        let seen = [
            change(1, 1, Verdict::Healthy),
            change(2, 1, Verdict::Healthy),
        ];
        assert_eq!(shown(&[], &seen), []);
    }

    #[test]
    fn each_change_is_shown_with_its_time_and_why() {
        let seen = [
            change(1, 1, Verdict::Healthy),
            change(1, 5, BAD),
            change(2, 1, Verdict::Healthy),
            change(1, 9, Verdict::Healthy),
        ];
        let shown = shown(&[], &seen);
        assert_eq!(brief(&shown), [is(1, 5, false), is(1, 9, true)]);
        assert_eq!(shown[0].why.as_deref(), Some("no answer came in time"));
        assert_eq!(
            (shown[1].why.as_deref(), shown[1].pod.as_deref()),
            (None, Some("pod"))
        );
    }

    #[test]
    fn a_replica_that_starts_goes_on_where_the_status_is() {
        let said = [change(1, 5, BAD), change(2, 6, BAD)];
        let seen = [change(1, 20, BAD), change(2, 20, Verdict::Healthy)];
        let expected = [is(1, 5, false), is(2, 6, false), is(2, 20, true)];
        assert_eq!(brief(&shown(&said, &seen)), expected);
    }

    #[test]
    fn what_two_replicas_saw_is_shown_once() {
        let said = [change(1, 5, BAD), change(1, 9, Verdict::Healthy)];
        let seen = [
            change(1, 1, Verdict::Healthy),
            change(1, 6, BAD),
            change(1, 8, Verdict::Healthy),
            change(1, 12, BAD),
        ];
        let expected = [is(1, 6, false), is(1, 8, true), is(1, 12, false)];
        assert_eq!(brief(&shown(&said, &seen)), expected);
    }

    #[test]
    fn what_is_shown_again_is_the_same() {
        let seen: Vec<_> = (0..40)
            .map(|n| {
                let verdict = if n % 4 < 2 { BAD } else { Verdict::Healthy };
                change(u16::try_from(n % 2).unwrap(), n, verdict)
            })
            .collect();
        let first = shown(&[], &seen);
        assert_eq!(first.len(), SHOWN);
        assert_eq!(brief(&first).last(), Some(&is(1, 39, true)));
        assert_eq!(shown(&first, &seen), first);
        assert_eq!(shown(&first, &[]), first);
    }
}
