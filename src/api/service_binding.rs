//! The ServiceBinding: what a user writes, and what the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::{CircuitBreaker, ConnectionPool, HealthCheck, LoadBalancing};

/// Binds a service of the catalog to a Kubernetes Service in the mesh.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "aikernel.io",
    version = "v1alpha1",
    kind = "ServiceBinding",
    plural = "servicebindings",
    singular = "servicebinding",
    shortname = "csb",
    namespaced,
    status = "ServiceBindingStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBindingSpec {
    /// ID of the service in the catalog.
    pub catalog_service_id: String,
    /// Kubernetes service name.
    pub service_name: String,
    /// Kubernetes namespace of the service; by default the binding's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Traffic policy; the catalog's values take precedence, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
    /// How endpoints are checked; the catalog's values take precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Freezes everything that the operator does for this binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// What becomes of the VirtualService and DestinationRule when the
    /// binding is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// The policy of the mesh for requests to this service.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// How often a failed request is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<i32>,
    /// How long a request may take, all attempts together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// When Envoy takes a failing endpoint out by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How requests are spread over the endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// Limits on connections and requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
}

/// What becomes of the objects in the mesh when the binding is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// They are removed, the VirtualService first.
    #[default]
    Delete,
    /// They stay as they are.
    Retain,
}

/// What the operator reports.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBindingStatus {
    /// Summary of the synchronisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_status: Option<SyncStatus>,
    /// When something was last synchronised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<Time>,
    /// Health of the service by the operator's own checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_status: Option<HealthStatus>,
    /// Generation of the binding that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, CatalogSynced, MeshProgrammed, Healthy, Conflict, Suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Endpoints of the service, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointCounts>,
    /// Each effective value of the policy with its source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policy: Vec<PolicyEntry>,
    /// The objects that were applied, as the server stored them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildStatus>,
}

/// Summary of the synchronisation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum SyncStatus {
    /// The mesh has what catalog and binding say.
    Synced,
    /// Not yet looked at.
    Syncing,
    /// See the conditions.
    Error,
}

/// Health of a service.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum HealthStatus {
    /// At least nine endpoints of ten are healthy.
    Healthy,
    /// At least half are.
    Degraded,
    /// Fewer than half are.
    Unhealthy,
}

/// Endpoints of the service, counted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCounts {
    /// Endpoints that are checked.
    pub total: i32,
    /// Endpoints that passed.
    pub healthy: i32,
    /// Endpoints that the operator took out of the mesh.
    pub ejected: i32,
}

/// One effective value of the policy.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyEntry {
    /// Path of the field, as in `trafficPolicy.circuitBreaker.interval`.
    pub field: String,
    /// The value as text.
    pub value: String,
    /// Where it comes from.
    pub source: PolicySource,
}

/// Where an effective value comes from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PolicySource {
    /// The catalog's record.
    Catalog,
    /// This binding.
    Binding,
    /// The operator's default.
    #[default]
    Default,
}

/// An object that was applied for this binding.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildStatus {
    /// VirtualService or DestinationRule.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Uid of the object, so that a recreated one is not taken for ours.
    pub uid: String,
    /// Generation after the last apply.
    pub generation: i64,
    /// Hash of what was applied.
    pub hash: String,
}
