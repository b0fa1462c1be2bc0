//! Values that the unit tests of the core start from: one binding `shop/web`
//! in a world where nothing is in its way.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use smallvec::SmallVec;

use super::desired::MeshKind;
use super::inputs::{CatalogAnswer, Inputs, NamespaceView, ServiceView, Settings};
use super::names::{ClusterDomain, ObjectKey};
use super::policy::bounds::Bounds;
use super::ports::ServicePort;
use super::record::ServiceRecord;
use super::rule::Rule;
use super::served::Served;
use super::target::Target;
use crate::api::service_binding::{ServiceBinding, ServiceBindingSpec};

pub(crate) const HOST: &str = "web.shop.svc.cluster.local";
pub(crate) const UID: &str = "uid-of-web";

pub(crate) fn binding() -> ServiceBinding {
    ServiceBinding {
        metadata: ObjectMeta {
            namespace: Some("shop".to_owned()),
            name: Some("web".to_owned()),
            uid: Some(UID.to_owned()),
            generation: Some(1),
            creation_timestamp: Some(Time(at(1000))),
            ..ObjectMeta::default()
        },
        spec: ServiceBindingSpec {
            catalog_service_id: "web-1".to_owned(),
            service_name: "web".to_owned(),
            ..ServiceBindingSpec::default()
        },
        status: None,
    }
}

pub(crate) fn record() -> ServiceRecord {
    ServiceRecord {
        id: "web-1".to_owned(),
        name: "web".to_owned(),
        namespace: "shop".to_owned(),
        timeout: Some("5s".to_owned()),
        revision: 1,
        ..ServiceRecord::default()
    }
}

pub(crate) fn inputs(binding: ServiceBinding) -> Inputs {
    let port = |name: &str, port| ServicePort {
        name: Some(name.to_owned()),
        app_protocol: None,
        port,
        protocol: None,
    };
    Inputs {
        binding: Arc::new(binding),
        catalog: CatalogAnswer::Record(Arc::new(record())),
        service: Some(ServiceView {
            ports: vec![port("http", 80), port("tcp-admin", 9000)],
            ..ServiceView::default()
        }),
        target: NamespaceView::default(),
        paused_by: None,
        rivals: Vec::new(),
        rules: Vec::new(),
        living: BTreeSet::from([UID.into()]),
        mesh_api_missing: None,
    }
}

pub(crate) fn settings() -> Settings {
    Settings {
        cluster_domain: ClusterDomain::parse("cluster.local").unwrap(),
        root_namespace: "istio-system".to_owned(),
        mesh_locality: false,
        served: Served::default(),
        bounds: Bounds::default(),
    }
}

pub(crate) fn target(inputs: &Inputs) -> Target {
    Target::of("shop", &inputs.binding.spec).unwrap()
}

/// Somebody else's rule.
pub(crate) fn foreign(kind: MeshKind, namespace: &str, name: &str, host: &str) -> Rule {
    Rule {
        kind,
        id: ObjectKey::new(namespace, name),
        uid: format!("uid-of-{namespace}-{name}").into(),
        generation: 1,
        resource_version: "7".into(),
        managed: false,
        binding_uid: None,
        adopt: false,
        owners: SmallVec::new(),
        hosts: [host.into()].into(),
        mesh: true,
    }
}

/// The rule that was written for `shop/web`.
pub(crate) fn ours(kind: MeshKind) -> Rule {
    Rule {
        managed: true,
        binding_uid: Some(UID.into()),
        owners: [UID.into()].into(),
        ..foreign(kind, "shop", "web", HOST)
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}
