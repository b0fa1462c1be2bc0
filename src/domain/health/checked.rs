//! From who is checked and what is held of them to what the ejection decides
//! by: each Pod behind the service once, also those that are not ready.

use std::sync::Arc;

use super::address::Address;
use super::at::At;
use super::ejection::{Member, Service};
use super::judge::Verdict;
use super::round::Checked;
use super::targets::Targets;
use crate::api::policy::EjectionMode;
use crate::domain::names::BindingKey;

/// What is known of a bound service as a whole.
#[derive(Clone, Debug)]
pub struct Bound {
    /// Its binding.
    pub binding: BindingKey,
    /// What happens to an unhealthy endpoint of it.
    pub mode: EjectionMode,
    /// Share of the ready endpoints that may be out, in percent.
    pub percent: u8,
    /// Whether an endpoint of it has ever answered this check as it should.
    pub proven: bool,
    /// Whether nothing moves: its verdicts are held, or the binding is suspended
    /// or paused.
    pub held: bool,
}

/// The service with its endpoints; `verdict` is what is held of the endpoint at
/// an address, and since when.
pub fn checked(
    bound: Bound,
    targets: &Targets,
    verdict: impl Fn(Address) -> Option<(Verdict, At)>,
) -> Checked {
    let unknown = (Verdict::Pending, At::default());
    let ready = targets.targets.iter().map(|target| {
        let (verdict, since) = verdict(target.address).unwrap_or(unknown);
        Member {
            pod: Arc::clone(&target.pod),
            ready: true,
            verdict,
            since,
        }
    });
    let unready = targets.unready().map(|pod| Member {
        pod: Arc::clone(pod),
        ready: false,
        verdict: unknown.0,
        since: unknown.1,
    });
    Checked {
        mode: bound.mode,
        service: Service {
            binding: bound.binding,
            ejects: bound.mode == EjectionMode::Draining,
            proven: bound.proven,
            held: bound.held,
            percent: bound.percent,
            members: ready.chain(unready).collect(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::health::ejection::PodId;
    use crate::domain::health::targets::{Excluded, Exclusion, Target};

    #[test]
    fn what_is_kept_of_each_endpoint_is_small() {
        assert!(size_of::<Member>() <= 24, "{}", size_of::<Member>());
        assert!(size_of::<Target>() <= 32, "{}", size_of::<Target>());
    }

    #[test]
    fn members_are_who_is_checked_with_what_is_held_of_them_and_who_is_not_ready() {
        let pod = |name: &str| ("shop".into(), name.into());
        let target = |name: &str, address: &str| Target {
            pod: PodId::shared(pod(name), format!("uid-of-{name}")),
            address: address.parse().unwrap(),
        };
        let excluded = |name: &str, address: &str, why| Exclusion {
            address: address.parse().unwrap(),
            pod: Some(PodId::shared(pod(name), "")),
            why,
        };
        let targets = Targets {
            targets: vec![target("a", "10.0.0.1:80"), target("b", "10.0.0.2:80")],
            excluded: vec![
                excluded("c", "10.0.0.3", Excluded::NotReady),
                excluded("d", "10.0.0.4", Excluded::Terminating),
            ],
            unlisted: 0,
        };
        let bound = Bound {
            binding: BindingKey::new("shop", "web"),
            mode: EjectionMode::Observe,
            percent: 50,
            proven: true,
            held: false,
        };
        let since = At::from(jiff::Timestamp::from_second(7).unwrap());
        let first = "10.0.0.1:80".parse().unwrap();
        let found = checked(bound, &targets, |address| {
            (address == first).then_some((Verdict::Healthy, since))
        });
        let members = found.service.members.iter();
        let members = members.map(|m| {
            (
                &*m.pod.1,
                m.pod.uid.to_string(),
                m.ready,
                m.verdict,
                m.since,
            )
        });
        let begin = At::default();
        assert_eq!(
            members.collect::<Vec<_>>(),
            [
                ("a", "uid-of-a".to_owned(), true, Verdict::Healthy, since),
                ("b", "uid-of-b".to_owned(), true, Verdict::Pending, begin),
                ("c", String::new(), false, Verdict::Pending, begin),
            ]
        );
        assert!(!found.service.ejects);
    }
}
