//! How healthy is a service, as far as its endpoints were judged?

use super::judge::{Unknown, Verdict};

/// Share of the judged endpoints, in tenths, from which on a service is healthy.
const HEALTHY_FROM: u64 = 9;
/// And from which on it is degraded.
const DEGRADED_FROM: u64 = 5;

/// How healthy a service is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServiceHealth {
    /// No endpoint was judged yet.
    Probing,
    /// No endpoint can be judged, and why.
    Unknown(Unknown),
    /// No endpoint has ever answered this check as it should: the check may be
    /// wrong, and not the service.
    NeverSucceeded,
    /// At least nine of ten endpoints are healthy.
    Healthy,
    /// At least half are.
    Degraded,
    /// Fewer are.
    Unhealthy,
    /// There is no endpoint.
    NoEndpoints,
    /// There are endpoints, and none of them can be checked.
    Unchecked,
}

/// Endpoints of a service, counted by verdict.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// All that are checked.
    pub total: u32,
    /// Those that are healthy.
    pub healthy: u32,
    /// Those that are not.
    pub unhealthy: u32,
    /// Of those that cannot be judged, why; the first reason in order.
    pub unknown: Option<Unknown>,
}

impl Counts {
    /// Counts these.
    pub fn of(verdicts: impl IntoIterator<Item = Verdict>) -> Self {
        let mut counts = Self::default();
        for verdict in verdicts {
            counts.total = counts.total.saturating_add(1);
            match verdict {
                Verdict::Pending => {}
                Verdict::Unknown(why) => {
                    counts.unknown = Some(counts.unknown.map_or(why, |known| known.min(why)));
                }
                Verdict::Healthy => counts.healthy += 1,
                Verdict::Unhealthy(_) => counts.unhealthy += 1,
            }
        }
        counts
    }
}

/// Sums up. `proven` is whether an endpoint of the service has answered this
/// very check as it should, now or before.
pub fn health(counts: &Counts, proven: bool) -> ServiceHealth {
    let (healthy, unhealthy) = (u64::from(counts.healthy), u64::from(counts.unhealthy));
    let judged = healthy + unhealthy;
    if counts.total == 0 {
        return ServiceHealth::NoEndpoints;
    }
    if judged == 0 {
        return counts
            .unknown
            .map_or(ServiceHealth::Probing, ServiceHealth::Unknown);
    }
    if !proven && healthy == 0 {
        return ServiceHealth::NeverSucceeded;
    }
    if healthy * 10 >= judged * HEALTHY_FROM {
        ServiceHealth::Healthy
    } else if healthy * 10 >= judged * DEGRADED_FROM {
        ServiceHealth::Degraded
    } else {
        ServiceHealth::Unhealthy
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::Failure;
    use super::*;

    fn of(healthy: u32, unhealthy: u32, pending: u32) -> ServiceHealth {
        let counts = Counts {
            total: healthy + unhealthy + pending,
            healthy,
            unhealthy,
            unknown: None,
        };
        health(&counts, true)
    }

    #[test]
    fn nine_of_ten_are_healthy_half_are_degraded_and_fewer_are_not() {
        use ServiceHealth::{Degraded, Healthy, Unhealthy};
        for (healthy, unhealthy, expected) in [
            (10, 0, Healthy),
            (9, 1, Healthy),
            (8, 1, Degraded),
            (89, 11, Degraded),
            (90, 10, Healthy),
            (5, 5, Degraded),
            (1, 1, Degraded),
            (49, 51, Unhealthy),
            (0, 1, Unhealthy),
        ] {
            assert_eq!(of(healthy, unhealthy, 0), expected, "{healthy} {unhealthy}");
        }
    }

    #[test]
    fn only_those_that_were_judged_count() {
        assert_eq!(of(1, 0, 9), ServiceHealth::Healthy);
        assert_eq!(of(0, 0, 3), ServiceHealth::Probing);
        assert_eq!(of(0, 0, 0), ServiceHealth::NoEndpoints);
    }

    #[test]
    fn a_check_that_never_worked_says_nothing_against_the_service() {
        let counts = Counts::of([Verdict::Unhealthy(Failure::Answered4xx); 3]);
        assert_eq!(health(&counts, false), ServiceHealth::NeverSucceeded);
        assert_eq!(health(&counts, true), ServiceHealth::Unhealthy);
    }

    #[test]
    fn where_nobody_can_be_judged_it_says_why() {
        let verdicts = [Verdict::Unknown(Unknown::MtlsRequired), Verdict::Pending];
        let unknown = ServiceHealth::Unknown(Unknown::MtlsRequired);
        assert_eq!(health(&Counts::of(verdicts), false), unknown);
        let one = [Verdict::Unknown(Unknown::MtlsRequired), Verdict::Healthy];
        assert_eq!(health(&Counts::of(one), true), ServiceHealth::Healthy);
    }
}
