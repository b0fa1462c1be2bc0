//! What a binding's status says of the health of its service.

use super::doubt::Doubt;
use super::ejection::Stays;
use super::judge::{Failure, Unknown};
use super::service::{Counts, ServiceHealth, health};
use super::targets::Excluded;
use crate::api::service_binding::{EndpointCounts, HealthStatus};
use crate::domain::reasons as r;
use crate::domain::situation::{Fact, Truth};

/// What is shown of a binding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Shown {
    /// Neither catalog nor binding asks for checks.
    NotConfigured,
    /// The binding is not in force, so that nothing is checked for it.
    NotInForce,
    /// Its service is checked.
    Service(Summary),
}

/// What is known of a service as a whole.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Summary {
    /// Its endpoints by verdict.
    pub counts: Counts,
    /// Whether one of them has ever answered this check as it should.
    pub proven: bool,
    /// How the check failed, where it never worked.
    pub failure: Option<Failure>,
    /// Why an endpoint that serves is not checked, where one is not.
    pub unchecked: Option<Excluded>,
    /// Why no verdict moves, where none did for a while.
    pub held: Option<Doubt>,
    /// Who left the mesh, and who could not.
    pub stays: Stays,
}

impl Summary {
    /// How healthy the service is.
    pub fn health(&self) -> ServiceHealth {
        match health(&self.counts, self.proven) {
            ServiceHealth::NoEndpoints if self.unchecked.is_some() => ServiceHealth::Unchecked,
            health => health,
        }
    }

    /// Its endpoints, counted.
    pub fn endpoints(&self) -> EndpointCounts {
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        EndpointCounts::new(
            count(self.counts.total),
            count(self.counts.healthy),
            count(self.stays.ejected),
        )
    }

    /// The condition Healthy.
    fn fact(&self) -> Fact {
        let (truth, reason, message) = match self.health() {
            ServiceHealth::Probing => (Truth::Unknown, r::PROBING, String::new()),
            ServiceHealth::Unchecked => (Truth::Unknown, r::NOT_CHECKABLE, self.why_unchecked()),
            ServiceHealth::Unknown(why) => (Truth::Unknown, reason(why), why.to_string()),
            ServiceHealth::NeverSucceeded => {
                (Truth::Unknown, r::CHECK_NEVER_SUCCEEDED, self.why_never())
            }
            ServiceHealth::Healthy => (Truth::True, r::MOST_HEALTHY, self.unhealthy()),
            ServiceHealth::Degraded => (Truth::False, r::DEGRADED, self.unhealthy()),
            ServiceHealth::Unhealthy => (Truth::False, r::UNHEALTHY, self.unhealthy()),
            ServiceHealth::NoEndpoints => (
                Truth::False,
                r::NO_ENDPOINTS,
                "the Service has no endpoint that is ready".to_owned(),
            ),
        };
        let parts = [message, self.why_they_stay(), self.why_held()];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Fact {
            truth,
            reason,
            message: parts.join("; "),
        }
    }

    fn unhealthy(&self) -> String {
        match self.counts.unhealthy {
            0 => String::new(),
            n => format!("{n} of {} endpoints unhealthy", self.counts.total),
        }
    }

    fn why_never(&self) -> String {
        let how = self.failure.map(|failure| format!(" ({failure})"));
        format!(
            "no endpoint has answered this check as it should yet{}, so it may be wrong, and nobody leaves the mesh by it; see that path, port and scheme are right, and that the operator may connect to the Pods",
            how.unwrap_or_default()
        )
    }

    fn why_unchecked(&self) -> String {
        let why = self.unchecked.map(|why| why.to_string());
        format!("no endpoint can be checked: {}", why.unwrap_or_default())
    }

    fn why_they_stay(&self) -> String {
        if self.stays.opened && self.counts.unhealthy > 0 && self.proven {
            return "no endpoint answers, so that all stay in the mesh".to_owned();
        }
        match self.stays.floored {
            0 => String::new(),
            n => format!(
                "{n} of them must stay in the mesh, since no more than circuitBreaker.maxEjectionPercent may be out, and never the last one"
            ),
        }
    }

    fn why_held(&self) -> String {
        let why = match self.held {
            None => return String::new(),
            Some(Doubt::Late) => "the operator comes late with its checks",
            Some(Doubt::AllAtOnce) => "many services stopped answering at once",
        };
        format!("no verdict moves for now: {why}")
    }
}

impl Shown {
    /// The condition Healthy.
    pub fn fact(&self) -> Fact {
        let unknown = |reason| Fact {
            truth: Truth::Unknown,
            reason,
            message: String::new(),
        };
        match self {
            Self::NotConfigured => unknown(r::NOT_CONFIGURED),
            Self::NotInForce => unknown(r::NOT_IN_FORCE),
            Self::Service(summary) => summary.fact(),
        }
    }

    /// `healthStatus`; nothing where it is not known.
    pub fn status(&self) -> Option<HealthStatus> {
        let Self::Service(summary) = self else {
            return None;
        };
        match summary.health() {
            ServiceHealth::Healthy => Some(HealthStatus::Healthy),
            ServiceHealth::Degraded => Some(HealthStatus::Degraded),
            ServiceHealth::Unhealthy | ServiceHealth::NoEndpoints => Some(HealthStatus::Unhealthy),
            ServiceHealth::Probing
            | ServiceHealth::Unknown(_)
            | ServiceHealth::Unchecked
            | ServiceHealth::NeverSucceeded => None,
        }
    }

    /// `endpoints`; nothing where none are checked.
    pub fn endpoints(&self) -> Option<EndpointCounts> {
        match self {
            Self::Service(summary) => Some(summary.endpoints()),
            Self::NotConfigured | Self::NotInForce => None,
        }
    }
}

fn reason(why: Unknown) -> &'static str {
    match why {
        Unknown::MtlsRequired => r::MTLS_REQUIRED,
        Unknown::NoCertificate => r::NO_MESH_CERTIFICATE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(healthy: u32, unhealthy: u32) -> Summary {
        Summary {
            counts: Counts {
                total: healthy + unhealthy,
                healthy,
                unhealthy,
                unknown: None,
            },
            proven: true,
            ..Summary::default()
        }
    }

    fn said(summary: Summary) -> (&'static str, &'static str, Option<HealthStatus>) {
        let shown = Shown::Service(summary);
        let fact = shown.fact();
        (fact.truth.as_str(), fact.reason, shown.status())
    }

    #[test]
    fn every_state_of_a_service_has_its_reason() {
        use HealthStatus::{Degraded, Healthy, Unhealthy};
        let never = Summary {
            proven: false,
            ..summary(0, 3)
        };
        let unknown = |why| Summary {
            counts: Counts {
                total: 2,
                unknown: Some(why),
                ..Counts::default()
            },
            ..Summary::default()
        };
        let pending = Summary {
            counts: Counts {
                total: 2,
                ..Counts::default()
            },
            ..Summary::default()
        };
        let on_nodes = Summary {
            unchecked: Some(Excluded::HostNetwork),
            ..Summary::default()
        };
        for (summary, expected) in [
            (summary(3, 0), ("True", "Healthy", Some(Healthy))),
            (summary(2, 1), ("False", "Degraded", Some(Degraded))),
            (summary(1, 2), ("False", "Unhealthy", Some(Unhealthy))),
            (summary(0, 0), ("False", "NoEndpoints", Some(Unhealthy))),
            (never, ("Unknown", "CheckNeverSucceeded", None)),
            (pending, ("Unknown", "Probing", None)),
            (
                unknown(Unknown::MtlsRequired),
                ("Unknown", "MTLSRequired", None),
            ),
            (
                unknown(Unknown::NoCertificate),
                ("Unknown", "NoMeshCertificate", None),
            ),
            (on_nodes, ("Unknown", "NotCheckable", None)),
        ] {
            assert_eq!(said(summary.clone()), expected, "{summary:?}");
        }
    }

    #[test]
    fn the_message_says_who_had_to_stay_and_that_verdicts_are_held() {
        let mut floored = summary(1, 2);
        floored.stays = Stays {
            ejected: 1,
            floored: 1,
            opened: false,
        };
        floored.held = Some(Doubt::Late);
        let endpoints = floored.endpoints();
        assert_eq!((endpoints.total, endpoints.ejected), (3, 1));
        let message = Shown::Service(floored).fact().message;
        for part in [
            "2 of 3 endpoints unhealthy",
            "1 of them must stay",
            "no verdict moves",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let mut opened = summary(0, 2);
        opened.stays.opened = true;
        let message = Shown::Service(opened).fact().message;
        assert!(message.contains("all stay in the mesh"), "{message}");
        assert_eq!(Shown::Service(summary(3, 0)).fact().message, "");
    }

    #[test]
    fn a_check_that_never_worked_says_how_it_failed_and_what_to_look_at() {
        let never = Summary {
            proven: false,
            failure: Some(Failure::Answered4xx),
            ..summary(0, 2)
        };
        let message = Shown::Service(never).fact().message;
        assert!(message.contains("(the answer is a 4xx)"), "{message}");
        assert!(message.contains("path, port and scheme"), "{message}");
    }
}
