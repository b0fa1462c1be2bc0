//! What the condition Ready says, as one of few values, so that bindings can be
//! counted by it. No IO.

use super::reasons as r;
use super::situation::Truth;
use crate::api::service_binding::ServiceBindingStatus;

/// Every reason that Ready may have.
pub const REASONS: [&str; 21] = [
    r::PROGRESSING,
    r::SYNCED,
    r::CATALOG_UNAVAILABLE,
    r::CATALOG_RATE_LIMITED,
    r::CATALOG_UNAUTHORIZED,
    r::NOT_FOUND,
    r::REMOVED,
    r::DELETION_HELD,
    r::INVALID_RECORD,
    r::INVALID_BINDING,
    r::NOT_OURS,
    r::ANOTHER_BINDING,
    r::NAMESPACE_NOT_ALLOWED,
    r::NAMESPACE_NOT_SERVED,
    r::FOREIGN_RULE,
    r::FIELD_FIGHT,
    r::WRITE_REFUSED,
    r::MESH_API_MISSING,
    r::SERVICE_NOT_FOUND,
    r::HEADLESS,
    r::NO_HTTP_PORT,
];

/// What a status says that is none of ours.
pub const OTHER: &str = "Other";

/// What the status says of Ready. A binding that nobody has looked at yet is
/// not Ready, since it progresses.
pub fn of(status: Option<&ServiceBindingStatus>) -> (Truth, &'static str) {
    let mut conditions = status.iter().flat_map(|status| &status.conditions);
    let Some(ready) = conditions.find(|c| c.type_ == r::READY) else {
        return (Truth::False, r::PROGRESSING);
    };
    let truths = [Truth::True, Truth::False];
    let truth = truths.into_iter().find(|t| t.as_str() == ready.status);
    let reason = REASONS.into_iter().find(|reason| *reason == ready.reason);
    (truth.unwrap_or(Truth::Unknown), reason.unwrap_or(OTHER))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn saying(type_: &str, status: &str, reason: &str) -> ServiceBindingStatus {
        let condition = Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            message: String::new(),
            observed_generation: None,
        };
        ServiceBindingStatus {
            conditions: vec![condition],
            ..ServiceBindingStatus::default()
        }
    }

    #[test]
    fn what_ready_says_is_one_of_few_values_whatever_a_status_holds() {
        let says = |type_, status, reason| of(Some(&saying(type_, status, reason)));
        assert_eq!(of(None), (Truth::False, "Progressing"));
        assert_eq!(says("Ready", "True", "Synced"), (Truth::True, "Synced"));
        assert_eq!(says("Ready", "False", "NotOurs"), (Truth::False, "NotOurs"));
        assert_eq!(says("Ready", "Perhaps", "x\ny"), (Truth::Unknown, OTHER));
        assert_eq!(says("Healthy", "True", "x"), (Truth::False, "Progressing"));
    }
}
