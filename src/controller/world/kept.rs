//! How is a binding kept between two looks? Looks alone read all of it: so it is kept
//! packed, and a look unpacks it. What decides which bindings a change concerns stands
//! beside. No IO.
//!
//! What all bindings have in common (the names of fields, conditions and reasons) is in
//! a dictionary, so that packed they take a quarter of the room or less
//! (docs/benchmarks/scale.md).

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use lz4_flex::block::{compress_prepend_size_with_dict, decompress_size_prepended_with_dict};
use serde::Deserialize as _;

use super::World;
use super::index::service_of;
use crate::api::service_binding::{EndpointTransition, ServiceBinding};
use crate::controller::mirror::object;
use crate::domain::inputs::Rival;
use crate::domain::names::{BindingKey, ObjectKey};
use crate::domain::situation::Truth;
use crate::domain::uid::Uid;
use crate::domain::{ownership, readiness, status};

/// A binding. Two are equal where all of them is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kept(Arc<Facts>);

/// What is known of a binding without unpacking it.
#[derive(Debug, PartialEq)]
pub(super) struct Facts {
    whole: Whole,
    /// The binding as the others for its Service see it.
    pub(super) rival: Rival,
    /// The Service that it names.
    pub(super) service: ObjectKey,
    /// The ID in the catalog that it names.
    pub(super) catalog_id: Arc<str>,
    generation: Option<i64>,
    /// When its deletion was asked for, as seconds since 1970.
    deletion: Option<i64>,
    /// Finalizers, annotations and status, as a number.
    rest: u64,
    /// What the status says of Ready.
    pub(super) ready: (Truth, &'static str),
    /// Whether it says that the service was denied, and no more.
    pub(super) denied: bool,
    /// What it says of other records that name the Service.
    pub(super) another_record: Option<Box<str>>,
    /// Whether it tells of changes of endpoints.
    tells_of_transitions: bool,
}

#[derive(Debug, PartialEq)]
enum Whole {
    Packed(Box<[u8]>),
    /// One that could not be packed.
    Plain(Box<ServiceBinding>),
}

impl Kept {
    pub(super) fn of(binding: Arc<ServiceBinding>) -> Self {
        let status = binding.status.as_ref();
        let (ready, denied) = (readiness::of(status), status::is_denied(status));
        let another_record = status::another_record(status).map(Into::into);
        let told = status.map(|status| &status.endpoint_transitions);
        let tells_of_transitions = told.is_some_and(|told| !told.is_empty());
        let deletion = binding.metadata.deletion_timestamp.as_ref();
        let deletion = deletion.map(|at| at.0.as_second());
        let generation = binding.metadata.generation;
        let rival = ownership::as_rival(&binding);
        let service = object(&service_of(&binding));
        let catalog_id = binding.spec.catalog_service_id.as_str().into();
        let (whole, rest) = Whole::of(binding);
        Self(Arc::new(Facts {
            whole,
            rival,
            service,
            catalog_id,
            generation,
            deletion,
            rest,
            ready,
            denied,
            another_record,
            tells_of_transitions,
        }))
    }

    /// The binding as it was.
    pub(super) fn whole(&self) -> Option<Arc<ServiceBinding>> {
        match &self.0.whole {
            Whole::Packed(packed) => unpack(packed).map(Arc::new),
            Whole::Plain(binding) => Some(Arc::new(ServiceBinding::clone(binding))),
        }
    }

    /// Whether its owner has changed nothing.
    pub(super) fn has_same_words(&self, other: &Self) -> bool {
        let words = |of: &Self| (of.rival.uid.clone(), of.generation, of.deletion);
        words(self) == words(other)
    }

    /// Whether nothing changed that a look would read.
    pub(super) fn is_same_to_us(&self, other: &Self) -> bool {
        self.has_same_words(other)
            && self.rest == other.rest
            && self.rival.made_for_catalog == other.rival.made_for_catalog
    }

    /// Whether it is being deleted.
    pub(super) fn is_deleted(&self) -> bool {
        self.deletion.is_some()
    }
}

impl std::ops::Deref for Kept {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl Whole {
    /// The binding, and its finalizers, annotations and status as a number.
    fn of(binding: Arc<ServiceBinding>) -> (Self, u64) {
        let mut binding = Arc::unwrap_or_clone(binding);
        let mut rest = DefaultHasher::new();
        let metadata = &binding.metadata;
        (&metadata.finalizers, &metadata.annotations).hash(&mut rest);
        let status = binding.status.take();
        let texts = serde_json::to_vec(&binding)
            .and_then(|words| Ok((words, serde_json::to_vec(&status)?)));
        binding.status = status;
        let Ok((mut text, said)) = texts else {
            format!("{:?}", binding.status).hash(&mut rest);
            return (Self::Plain(Box::new(binding)), rest.finish());
        };
        said.hash(&mut rest);
        text.extend(said);
        let packed = compress_prepend_size_with_dict(&text, COMMON);
        debug_assert_eq!(unpack(&packed).as_ref(), Some(&binding));
        (Self::Packed(packed.into()), rest.finish())
    }
}

/// What looks at nothing of a binding but these facts asks for no more.
impl World {
    /// Whether there is such a binding.
    pub fn has(&self, key: &BindingKey) -> bool {
        let id = (key.namespace.clone(), key.name.clone());
        self.read().bindings.get(&id).is_some()
    }

    /// Whether there is such a binding, which is being deleted.
    pub fn is_deleted(&self, key: &BindingKey) -> bool {
        let id = (key.namespace.clone(), key.name.clone());
        let inner = self.read();
        inner.bindings.get(&id).is_some_and(Kept::is_deleted)
    }

    /// What the binding's status says of other records that name its Service.
    pub fn another_record(&self, key: &BindingKey) -> Option<Box<str>> {
        let id = (key.namespace.clone(), key.name.clone());
        self.read().bindings.get(&id)?.another_record.clone()
    }

    /// The changes of endpoints that the binding's status tells of.
    pub fn transitions(&self, key: &BindingKey) -> Vec<EndpointTransition> {
        let id = (key.namespace.clone(), key.name.clone());
        let kept = self.read().bindings.get(&id).cloned();
        let kept = kept.filter(|kept| kept.tells_of_transitions);
        let status = kept.and_then(|kept| kept.whole()?.status.clone());
        status.map_or_else(Vec::new, |status| status.endpoint_transitions)
    }

    /// The binding as it is known now: the one at hand where that is of the same version.
    pub fn latest(
        &self,
        key: &BindingKey,
        at_hand: &Arc<ServiceBinding>,
    ) -> Option<Arc<ServiceBinding>> {
        let id = (key.namespace.clone(), key.name.clone());
        let seen = self.read().bindings.seen(&id)?;
        let metadata = &at_hand.metadata;
        let same = metadata.resource_version.as_deref() == Some(&*seen.version.to_string())
            && metadata.uid.as_deref().map(Uid::from) == Some(seen.uid);
        if same {
            return Some(Arc::clone(at_hand));
        }
        seen.value.whole()
    }
}

/// What bindings have in common: one whose status says much of what can be said. It may
/// be any text: the better it is, the less room is taken. What is kept at one time is read
/// with the same text.
static COMMON: &[u8] = include_bytes!("kept/common.txt");

/// The text is that of the binding without its status, and then that of the status.
fn unpack(packed: &[u8]) -> Option<ServiceBinding> {
    let text = decompress_size_prepended_with_dict(packed, COMMON).ok()?;
    read(&text)
}

fn read(text: &[u8]) -> Option<ServiceBinding> {
    let mut text = serde_json::Deserializer::from_slice(text);
    let binding = ServiceBinding::deserialize(&mut text).ok()?;
    let status = Option::deserialize(&mut text).ok()?;
    Some(ServiceBinding { status, ..binding })
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
            assert_eq!(kept.whole(), Some(binding));
            assert!(matches!(kept.whole, Whole::Packed(_)));
        }
    }

    #[test]
    fn two_are_equal_where_the_bindings_are() {
        let mut other = typical();
        other["children"][0]["generation"] = json!(8);
        let [one, same, other, none] =
            [typical(), typical(), other, json!(null)].map(|status| Kept::of(binding(status)));
        assert!(one.is_same_to_us(&same));
        assert_eq!(one, same);
        for another in [other, none] {
            assert!(one.has_same_words(&another));
            assert!(!one.is_same_to_us(&another));
            assert_ne!(one, another);
        }
    }

    #[test]
    fn a_typical_binding_takes_a_quarter_of_its_text() {
        let binding = binding(typical());
        let kept = Kept::of(Arc::clone(&binding));
        let Whole::Packed(packed) = &kept.whole else {
            panic!("it is not packed");
        };
        let text = serde_json::to_vec(&binding).unwrap().len();
        assert!(4 * packed.len() <= text, "{} of {text}", packed.len());
    }

    #[test]
    fn what_is_in_common_is_a_binding_that_says_all_that_a_typical_one_says() {
        let common = read(COMMON).and_then(|common| common.status).unwrap();
        let typical = binding(typical()).status.clone().unwrap();
        for condition in typical.conditions {
            let says = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                (c.type_.clone(), c.status.clone(), c.reason.clone())
            };
            let known = common.conditions.iter().map(says);
            assert!(known.into_iter().any(|known| known == says(&condition)));
        }
    }
}
