//! From the API server's objects to the values that the world keeps.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use smallvec::SmallVec;

use super::mirror::Seen;
use crate::api::mesh_rule::MeshRule;
use crate::api::service::Service;
use crate::api::service_binding::ServiceBinding;
use crate::domain::desired::MeshKind;
use crate::domain::inputs::{NamespaceView, ServiceView};
use crate::domain::labels;
use crate::domain::names::ObjectKey;
use crate::domain::ports::ServicePort;
use crate::domain::rule::Rule;
use crate::domain::uid::Uid;

/// The object's identity around what is remembered of it.
pub(crate) fn seen<V>(metadata: &ObjectMeta, value: V) -> Seen<V> {
    Seen {
        id: (
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        ),
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        version: version(metadata),
        value,
    }
}

/// Resource versions are numbers that grow; one that is not counts as 0,
/// which is never taken for older or newer.
fn version(metadata: &ObjectMeta) -> u64 {
    metadata
        .resource_version
        .as_deref()
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// A binding, without the bookkeeping of its fields' managers.
pub(crate) fn binding(mut binding: ServiceBinding) -> Seen<Arc<ServiceBinding>> {
    binding.metadata.managed_fields = None;
    let seen = seen(&binding.metadata, ());
    seen.map(|()| Arc::new(binding))
}

/// What the decision needs of a Service.
pub(crate) fn service(service: Service) -> Seen<ServiceView> {
    let spec = service.spec.unwrap_or_default();
    let external = spec.type_.as_deref() == Some("ExternalName");
    let ports = spec.ports.unwrap_or_default().into_iter();
    let mut view = ServiceView {
        headless: spec.cluster_ip.as_deref() == Some("None"),
        external_name: external.then(|| spec.external_name.clone().unwrap_or_default()),
        ignored: is_true(&service.metadata, labels::ANNOTATION_IGNORE),
        labels: service
            .metadata
            .labels
            .as_ref()
            .map(Into::into)
            .unwrap_or_default(),
        ports: ports.map(port).collect(),
    };
    // It is the list that was read, of far larger ports.
    view.ports.shrink_to_fit();
    seen(&service.metadata, view)
}

fn port(port: k8s_openapi::api::core::v1::ServicePort) -> ServicePort {
    ServicePort {
        name: port.name,
        app_protocol: port.app_protocol,
        port: u16::try_from(port.port).unwrap_or_default(),
        // What it is without a word.
        protocol: port.protocol.filter(|protocol| protocol != "TCP"),
    }
}

/// What the decision needs of a Namespace.
pub(crate) fn namespace(namespace: PartialObjectMeta<Namespace>) -> Seen<NamespaceView> {
    let listed = annotation(&namespace.metadata, labels::ANNOTATION_ALLOW_FROM).unwrap_or_default();
    let allow_from: BTreeSet<_> = listed
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    let view = NamespaceView {
        allow_from,
        paused: is_true(&namespace.metadata, labels::ANNOTATION_PAUSED),
        terminating: namespace.metadata.deletion_timestamp.is_some(),
    };
    seen(&namespace.metadata, view)
}

/// What the decision needs of a VirtualService or DestinationRule.
pub(crate) fn rule(kind: MeshKind, object: &MeshRule) -> Seen<Arc<Rule>> {
    let spec = &object.spec;
    let hosts = spec.hosts.iter().chain(&spec.host);
    let hosts = hosts.map(|host| host.as_str().into()).collect();
    let mesh = spec.gateways.is_empty() || spec.gateways.iter().any(|gateway| gateway == "mesh");
    rule_from(kind, &object.metadata, hosts, mesh)
}

/// The same from an answer that carries metadata only.
pub(crate) fn rule_from(
    kind: MeshKind,
    metadata: &ObjectMeta,
    hosts: SmallVec<[Box<str>; 1]>,
    mesh: bool,
) -> Seen<Arc<Rule>> {
    let label = |name: &str| {
        metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(name))
            .map(String::as_str)
    };
    let owners = metadata.owner_references.iter().flatten();
    let mut rule = Rule {
        kind,
        id: ObjectKey::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        ),
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        generation: metadata.generation.unwrap_or_default(),
        resource_version: metadata
            .resource_version
            .as_deref()
            .unwrap_or_default()
            .into(),
        managed: label(labels::LABEL_MANAGED_BY) == Some(labels::MANAGER),
        binding_uid: annotation(metadata, labels::ANNOTATION_BINDING_UID).map(Uid::from),
        adopt: is_true(metadata, labels::ANNOTATION_ADOPT),
        owners: owners.map(|owner| owner.uid.as_str().into()).collect(),
        hosts,
        mesh,
    };
    rule.owners.shrink_to_fit();
    rule.hosts.shrink_to_fit();
    seen(metadata, Arc::new(rule))
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn is_true(metadata: &ObjectMeta, name: &str) -> bool {
    annotation(metadata, name) == Some("true")
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn what_is_kept_has_no_room_to_spare() {
        let service: Service = from_value(json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"ports": [{"port": 80, "protocol": "TCP"}]},
        }))
        .unwrap();
        let ports = super::service(service).value.ports;
        assert_eq!((ports.capacity(), &ports[0].protocol), (1, &None));

        let owner =
            json!({"apiVersion": "v1", "kind": "ServiceBinding", "name": "web", "uid": "1"});
        let rule: MeshRule = from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "ownerReferences": [owner]},
            "spec": {"hosts": ["web"]},
        }))
        .unwrap();
        let rule = super::rule(MeshKind::VirtualService, &rule).value;
        assert!(!rule.owners.spilled() && !rule.hosts.spilled());
    }
}
