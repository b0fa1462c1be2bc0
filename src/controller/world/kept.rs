//! How is a binding kept between two looks? Its status takes most of its room, and is
//! read by looks alone: so it is kept packed, and a look unpacks it. No IO.
//!
//! What all statuses have in common (the names of fields, conditions and reasons) is in
//! a dictionary, so that packed they take a sixth of the room or less
//! (docs/benchmarks/scale.md).

use std::sync::Arc;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};

use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
use crate::domain::situation::Truth;
use crate::domain::{readiness, status};

/// A binding, its status packed. Two are equal where the bindings are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept {
    /// All but the status.
    pub(super) binding: Arc<ServiceBinding>,
    status: Status,
    /// What the status says of Ready.
    pub(super) ready: (Truth, &'static str),
    /// Whether it says that the service was denied, and no more.
    pub(super) denied: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Status {
    Nothing,
    Packed(Arc<[u8]>),
    /// One that could not be packed.
    Plain(Arc<ServiceBindingStatus>),
}

impl Kept {
    pub(super) fn of(binding: Arc<ServiceBinding>) -> Self {
        let status = binding.status.as_ref();
        let (ready, denied) = (readiness::of(status), status::is_denied(status));
        let status = status.map_or(Status::Nothing, Status::of);
        Self {
            binding: without_status(binding),
            status,
            ready,
            denied,
        }
    }

    /// The binding as it was.
    pub(super) fn whole(&self) -> Arc<ServiceBinding> {
        let status = match &self.status {
            Status::Nothing => return Arc::clone(&self.binding),
            Status::Packed(packed) => unpack(packed),
            Status::Plain(status) => Some(ServiceBindingStatus::clone(status)),
        };
        Arc::new(ServiceBinding {
            status,
            ..ServiceBinding::clone(&self.binding)
        })
    }

    /// Whether both have the same status.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.status == other.status
    }
}

impl Status {
    fn of(status: &ServiceBindingStatus) -> Self {
        let packed = pack(status);
        let plain = || Self::Plain(Arc::new(status.clone()));
        packed.map_or_else(plain, |packed| Self::Packed(packed.into()))
    }
}

fn without_status(binding: Arc<ServiceBinding>) -> Arc<ServiceBinding> {
    if binding.status.is_none() {
        return binding;
    }
    let mut binding = Arc::unwrap_or_clone(binding);
    binding.status = None;
    Arc::new(binding)
}

/// What statuses have in common: one that says much of what can be said. It may be any
/// text: the better it is, the less room is taken. What is kept at one time is read with
/// the same text.
static COMMON: &[u8] = include_bytes!("kept/common.json");

/// Nothing where it cannot be written as JSON.
fn pack(status: &ServiceBindingStatus) -> Option<Vec<u8>> {
    let text = serde_json::to_vec(status).ok()?;
    Some(compress_prepend_size_with_dict(&text, COMMON))
}

fn unpack(packed: &[u8]) -> Option<ServiceBindingStatus> {
    let text = decompress_size_prepended_with_dict(packed, COMMON).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn binding(status: serde_json::Value) -> Arc<ServiceBinding> {
        let binding = json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": "u", "generation": 3},
            "spec": {"catalogServiceId": "shop:web", "serviceName": "web"},
            "status": status,
        });
        Arc::new(serde_json::from_value(binding).unwrap())
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> serde_json::Value {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": 3, "lastTransitionTime": "2026-11-28T08:15:30Z",
        })
    }

    /// As a binding has it whose service is checked.
    fn typical() -> serde_json::Value {
        let entry = |field: &str, value: &str, source: &str| json!({"field": field, "value": value, "source": source});
        let child = |kind: &str, uid: &str| {
            json!({
                "kind": kind, "namespace": "shop", "name": "web", "generation": 7,
                "uid": uid, "hash": "5f1c0d6ab93e4f21",
            })
        };
        json!({
            "syncStatus": "Synced", "lastSync": "2026-11-28T08:15:31Z", "healthStatus": "Healthy",
            "observedGeneration": 3, "recordSeen": "9f8e7d6c5b4a39281706f5e4d3c2b1a0.4711",
            "endpoints": {"total": 10, "healthy": 9, "ejected": 1, "summary": "9/10"},
            "conditions": [
                condition("Ready", "True", "Synced", ""),
                condition("CatalogSynced", "True", "Synced", ""),
                condition("MeshProgrammed", "True", "Programmed", ""),
                condition("Healthy", "True", "Healthy", "1 of 10 endpoints unhealthy"),
                condition("Conflict", "False", "NoConflict", ""),
                condition("Suspended", "False", "Active", ""),
            ],
            "policy": [
                entry("trafficPolicy.timeout", "750ms", "Catalog"),
                entry("trafficPolicy.retries.attempts", "4", "Binding"),
                entry("trafficPolicy.circuitBreaker.interval", "10s", "Default"),
                entry("healthCheck.interval", "10s", "Default"),
            ],
            "children": [
                child("DestinationRule", "0c6ab9f1-55d2-4b7e-9c43-1fe2d3c4b5a6"),
                child("VirtualService", "7d8e9fa0-b1c2-43d4-85e6-f708192a3b4c"),
            ],
        })
    }

    #[test]
    fn a_binding_comes_out_as_it_went_in() {
        let unusual = json!({
            "conditions": [condition("Another's", "Perhaps", "Ünüsual", &"long ".repeat(500))],
            "endpointTransitions": [{
                "address": "[fd00::1]:80", "to": "Unknown", "time": "2026-11-28T08:15:30Z",
            }],
        });
        for status in [json!(null), json!({}), typical(), unusual] {
            let binding = binding(status);
            let kept = Kept::of(Arc::clone(&binding));
            assert_eq!(kept.whole(), binding);
            assert_eq!(kept.binding.status, None);
            assert!(!matches!(kept.status, Status::Plain(_)));
        }
    }

    #[test]
    fn two_are_equal_where_the_bindings_are() {
        let mut other = typical();
        other["children"][0]["generation"] = json!(8);
        let [one, same, other, none] =
            [typical(), typical(), other, json!(null)].map(|status| Kept::of(binding(status)));
        assert!(one.says_the_same(&same));
        assert_eq!(one, same);
        for another in [other, none] {
            assert!(!one.says_the_same(&another));
            assert_ne!(one, another);
        }
    }

    #[test]
    fn a_typical_status_takes_a_quarter_of_its_text() {
        let kept = Kept::of(binding(typical()));
        let Status::Packed(packed) = kept.status else {
            panic!("it is not packed");
        };
        let text = serde_json::to_vec(&typical()).unwrap().len();
        assert!(4 * packed.len() <= text, "{} of {text}", packed.len());
    }

    #[test]
    fn what_is_in_common_is_a_status_that_says_all_that_a_typical_one_says() {
        let common: ServiceBindingStatus = serde_json::from_slice(COMMON).unwrap();
        let typical: ServiceBindingStatus = serde_json::from_value(typical()).unwrap();
        for condition in typical.conditions {
            let says = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                (c.type_.clone(), c.status.clone(), c.reason.clone())
            };
            let known = common.conditions.iter().map(says);
            assert!(known.into_iter().any(|known| known == says(&condition)));
        }
    }
}
