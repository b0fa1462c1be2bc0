//! Why a write to the API server did not come about, classified so that the
//! retry can follow from it.

use kube::core::Status;

use super::leadership::NotLeader;

/// Why a write did not come about.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WriteError {
    /// The server, or a webhook behind it, is away for now: all writes fail.
    #[error("{0}")]
    Away(String),
    /// The server refused this write, and will again until somebody acts.
    #[error("{0}")]
    Refused(String),
    /// The operator lacks a right, which the server's words name: all writes
    /// of this kind fail, there or everywhere, until somebody grants it.
    #[error("{0}")]
    Denied(String),
    /// What we had seen is no longer so: look again.
    #[error("the object changed under way")]
    Stale,
    /// This process may no longer write; nothing was.
    #[error("{NotLeader}")]
    NotLeader,
    /// Somebody else holds, or keeps taking, a field of ours.
    #[error("{manager} holds {fields}")]
    Fight {
        /// The other field manager.
        manager: String,
        /// The fields in question.
        fields: String,
    },
}

impl WriteError {
    /// Classifies an error of the library. A 409 is looked at by the caller.
    pub fn from_kube(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::from_status(status),
            refused if not_leader(refused) => Self::NotLeader,
            other => Self::Away(format!("no answer of the API server: {}", chain(other))),
        }
    }

    fn from_status(status: &Status) -> Self {
        let message = brief(&status.message);
        // A 500 says little: a failing webhook answers with it, and so does
        // an apply with an unknown field. The words decide.
        let webhook_away = status.message.contains("failed calling webhook");
        // So does a 422: besides a value, it refuses a precondition (a JSON
        // patch's test; the uid, where another object took the name), and an
        // admission policy answers with it.
        let precondition = ["the server rejected our request", "metadata.uid:"]
            .iter()
            .any(|words| status.message.contains(words));
        // RBAC's own words; quotas and policies answer 403 as well.
        let lacks_a_right = ["is forbidden: User ", " cannot "]
            .iter()
            .all(|words| status.message.contains(words));
        let ends = "custom resource definition is terminating";
        match status.code {
            // The kind goes, with all objects of it.
            403 | 405 if status.message.contains(ends) => Self::Away(message),
            403 if lacks_a_right => Self::Denied(message),
            409 => Self::Stale,
            422 if precondition => Self::Stale,
            404 if status.details.as_ref().is_none_or(|d| d.name.is_empty()) => Self::Away(
                format!("the API server does not serve this kind: {message}"),
            ),
            404 => Self::Stale,
            429 | 502..=504 => Self::Away(message),
            500 if webhook_away => Self::Away(message),
            _ => Self::Refused(message),
        }
    }
}

/// Whether the permit is what refused the request.
fn not_leader(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(cause) if cause.is::<NotLeader>())
}

/// The error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    brief(&text)
}

/// A server's words, bounded and on one line.
pub(crate) fn brief(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> WriteError {
        WriteError::from_status(&Status {
            code,
            message: message.to_owned(),
            ..Status::default()
        })
    }

    #[test]
    fn a_failing_webhook_is_an_outage_and_its_refusal_is_not() {
        let down = "Internal error occurred: failed calling webhook \"validation.istio.io\": connection refused";
        assert!(matches!(status(500, down), WriteError::Away(_)));
        let denied = "admission webhook \"validation.istio.io\" denied the request: bad host";
        assert!(matches!(status(400, denied), WriteError::Refused(_)));
    }

    #[test]
    fn a_500_alone_is_a_refusal_of_this_write() {
        let unknown = "failed to create typed patch object: .spec.x: field not declared in schema";
        assert!(matches!(status(500, unknown), WriteError::Refused(_)));
    }

    #[test]
    fn a_precondition_that_failed_is_no_refusal_and_an_admission_policy_s_denial_is() {
        for stale in [
            "the server rejected our request due to an error in our request",
            "VirtualService \"web\" is invalid: metadata.uid: Invalid value: \"x\": field is immutable",
        ] {
            assert_eq!(status(422, stale), WriteError::Stale);
        }
        let denied = "virtualservices \"web\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no";
        assert!(matches!(status(422, denied), WriteError::Refused(_)));
    }

    #[test]
    fn overload_is_an_outage_and_so_is_a_kind_that_is_being_taken_away() {
        for (code, words) in [
            (429, "too many requests"),
            (
                403,
                "\"web\" is forbidden: create not allowed while custom resource definition is terminating",
            ),
        ] {
            assert!(matches!(status(code, words), WriteError::Away(_)), "{code}");
        }
    }

    #[test]
    fn a_right_that_is_missing_is_told_from_other_refusals_and_named() {
        let lacking = "virtualservices.networking.istio.io \"web\" is forbidden: User \"system:serviceaccount:a:b\" cannot patch resource \"virtualservices\" in API group \"networking.istio.io\" in the namespace \"shop\"";
        assert_eq!(status(403, lacking), WriteError::Denied(lacking.to_owned()));
        for other in [
            "virtualservices \"web\" is forbidden: exceeded quota: few",
            "virtualservices \"web\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: User x cannot",
        ] {
            assert_eq!(status(403, other), WriteError::Refused(other.to_owned()));
        }
    }
}
