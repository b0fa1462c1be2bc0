//! The part of an EndpointSlice that says who serves behind a Service. Unknown
//! fields, and of the metadata all but the identity and the labels, are
//! dropped while parsing: a slice in full costs ten times as much memory, most
//! of it for the bookkeeping of its fields' managers.

use std::collections::BTreeMap;

use kube::Resource;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer};

/// The label that names the Service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::discovery::v1::EndpointSlice")]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Namespace, name, uid, version and labels; nothing else.
    #[serde(deserialize_with = "slim")]
    pub metadata: ObjectMeta,
    /// IPv4, IPv6 or FQDN.
    pub address_type: String,
    /// Who serves.
    pub endpoints: Option<Vec<SliceEndpoint>>,
    /// Which ports they serve.
    pub ports: Option<Vec<SlicePort>>,
}

/// One that serves.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// Its addresses.
    pub addresses: Vec<String>,
    /// How it fares.
    pub conditions: Option<EndpointConditions>,
    /// Zone of its node.
    pub zone: Option<String>,
    /// What it is, a Pod as a rule.
    pub target_ref: Option<TargetRef>,
}

/// How an endpoint fares.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointConditions {
    /// Whether it takes traffic; absent is yes.
    pub ready: Option<bool>,
    /// Whether it is about to end; absent is no.
    pub terminating: Option<bool>,
}

/// An object behind an endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TargetRef {
    /// Its kind.
    pub kind: Option<String>,
    /// Its name.
    pub name: Option<String>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlicePort {
    /// Name of the Service's port; empty where that has none.
    pub name: Option<String>,
    /// The number; absent means any.
    pub port: Option<i32>,
    /// TCP, UDP or SCTP; absent is TCP.
    pub protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Identity {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

fn slim<'de, D: Deserializer<'de>>(metadata: D) -> Result<ObjectMeta, D::Error> {
    let identity = Identity::deserialize(metadata)?;
    Ok(ObjectMeta {
        name: identity.name,
        namespace: identity.namespace,
        uid: identity.uid,
        resource_version: identity.resource_version,
        labels: identity.labels,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    // trap 20
    #[test]
    fn of_a_slice_the_bookkeeping_is_dropped_and_what_says_who_serves_is_kept() {
        let stored = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web-x", "namespace": "shop", "uid": "u", "resourceVersion": "7",
                "labels": {SERVICE_NAME: "web"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "t"},
                "managedFields": [{"manager": "kube-controller-manager", "fieldsV1": {"f:x": {}}}],
            },
            "addressType": "IPv4",
            "endpoints": [{
                "addresses": ["10.1.0.1"], "hostname": "web-0", "zone": "a",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "name": "web-0", "uid": "p"},
            }],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        });
        let slice: EndpointSlice = serde_json::from_value(stored).unwrap();
        assert_eq!(slice.metadata.managed_fields, None);
        assert_eq!(slice.metadata.annotations, None);
        assert_eq!(slice.metadata.resource_version.as_deref(), Some("7"));
        let labels = slice.metadata.labels.unwrap();
        assert_eq!(labels[SERVICE_NAME], "web");
        let endpoint = &slice.endpoints.unwrap()[0];
        assert_eq!(endpoint.addresses, ["10.1.0.1"]);
        assert_eq!(endpoint.zone.as_deref(), Some("a"));
        assert_eq!(slice.ports.unwrap()[0].port, Some(8080));
    }

    #[test]
    fn a_slice_may_have_neither_endpoints_nor_ports() {
        let stored =
            json!({"metadata": {}, "addressType": "IPv4", "endpoints": null, "ports": null});
        let slice: EndpointSlice = serde_json::from_value(stored).unwrap();
        assert!(slice.endpoints.is_none() && slice.ports.is_none());
    }
}
