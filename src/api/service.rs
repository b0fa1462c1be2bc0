//! The part of a Service that is read: its metadata and what was asked for.

use k8s_openapi::api::core::v1::ServiceSpec;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::Deserialize;

use super::unmanaged;

/// A Service.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = "k8s_openapi::api::core::v1::Service")]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// All but who manages which field.
    #[serde(deserialize_with = "unmanaged::metadata")]
    pub metadata: ObjectMeta,
    /// What was asked for.
    pub spec: Option<ServiceSpec>,
}
