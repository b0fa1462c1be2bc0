//! The part of a Pod that says whether it may be checked, and who took it out
//! of the mesh. All else is dropped while parsing, of labels and annotations
//! all but one each: a Pod in full costs a hundred times as much memory.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// The label by which Istio leaves a Pod out of every proxy's endpoints.
pub const DRAINING: &str = "istio.io/draining";

/// Our own annotation on a Pod that we took out.
pub const EJECTED: &str = "catalog-mesh.aikernel.io/ejected";

/// A Pod.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Pod")]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Identity, version, end, and the two marks; nothing else.
    #[serde(deserialize_with = "slim")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    pub spec: PodSpec,
    /// How it is.
    pub status: PodStatus,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Whether it has its node's addresses.
    pub host_network: Option<bool>,
}

/// How a Pod is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Its addresses, the primary one first.
    #[serde(rename = "podIPs")]
    pub pod_ips: Option<Vec<PodIp>>,
    /// What is so of it.
    pub conditions: Option<Vec<PodCondition>>,
}

/// An address of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// Something that is so of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    /// What.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True` where it is so.
    pub status: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Identity {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    labels: Option<Labels>,
    annotations: Option<Annotations>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels {
    #[serde(rename = "istio.io/draining")]
    draining: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "catalog-mesh.aikernel.io/ejected")]
    ejected: Option<String>,
}

fn slim<'de, D: Deserializer<'de>>(metadata: D) -> Result<ObjectMeta, D::Error> {
    let identity = Identity::deserialize(metadata)?;
    let only = |name: &str, value: Option<String>| {
        value.map(|value| BTreeMap::from([(name.to_owned(), value)]))
    };
    Ok(ObjectMeta {
        name: identity.name,
        namespace: identity.namespace,
        uid: identity.uid,
        resource_version: identity.resource_version,
        deletion_timestamp: identity.deletion_timestamp,
        labels: only(DRAINING, identity.labels.and_then(|labels| labels.draining)),
        annotations: only(EJECTED, identity.annotations.and_then(|all| all.ejected)),
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // trap 20
    #[test]
    fn of_a_pod_only_what_is_needed_is_kept() {
        let stored = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "labels": {"app": "web", DRAINING: "x"},
                "annotations": {"big": "text", EJECTED: "{}"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "uid": "r", "apiVersion": "apps/v1"}],
                "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:x": {}}}],
            },
            "spec": {"hostNetwork": true, "containers": [{"name": "app", "env": [{"name": "KEY", "value": "v"}]}]},
            "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True", "message": "m"}]},
        });
        let pod: Pod = serde_json::from_value(stored).unwrap();
        let one =
            |name: &str, value: &str| Some(BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(pod.metadata.labels, one(DRAINING, "x"));
        assert_eq!(pod.metadata.annotations, one(EJECTED, "{}"));
        assert_eq!(pod.metadata.owner_references, None);
        assert_eq!(pod.metadata.managed_fields, None);
        assert_eq!(pod.spec.host_network, Some(true));
        assert_eq!(pod.status.pod_ips.unwrap()[1].ip, "fd00::1");
    }

    #[test]
    fn a_pod_that_has_just_been_made_has_no_status() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "web-0"}})).unwrap();
        assert!(pod.status.pod_ips.is_none() && pod.metadata.labels.is_none());
    }

    #[test]
    fn the_annotation_is_the_one_that_the_core_names() {
        assert_eq!(EJECTED, crate::domain::labels::ANNOTATION_EJECTED);
    }
}
