//! The ServiceBinding: what a user writes, and what the operator reports.

#![expect(
    unreachable_pub,
    reason = "KubeSchema keeps a copy of each struct inside of a function"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::policy::{CircuitBreaker, ConnectionPool, HealthCheck, LoadBalancing};
use super::schema;

/// Which service of the catalog is bound to which Kubernetes Service, and how
/// its requests and its health checks are handled.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "aikernel.io",
    version = "v1alpha1",
    kind = "ServiceBinding",
    plural = "servicebindings",
    singular = "servicebinding",
    shortname = "csb",
    category = "catalog-mesh",
    namespaced,
    doc = "Binds a service of the catalog to a Kubernetes Service in the mesh.",
    selectable = ".spec.catalogServiceId",
    selectable = ".spec.serviceName",
    printcolumn = r#"{
        "name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status",
        "description": "Whether the mesh has what catalog and binding say."}"#,
    printcolumn = r#"{
        "name": "Service", "type": "string", "jsonPath": ".spec.serviceName",
        "description": "Kubernetes Service that is bound."}"#,
    printcolumn = r#"{
        "name": "Sync", "type": "string", "jsonPath": ".status.syncStatus",
        "description": "Summary of the synchronisation."}"#,
    printcolumn = r#"{
        "name": "Health", "type": "string", "jsonPath": ".status.healthStatus",
        "description": "Health of the service by the operator's own checks."}"#,
    printcolumn = r#"{
        "name": "Endpoints", "type": "string", "jsonPath": ".status.endpoints.summary",
        "description": "Healthy endpoints of all that are checked."}"#,
    printcolumn = r#"{
        "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "Time since the binding was created."}"#,
    printcolumn = r#"{
        "name": "Catalog ID", "type": "string", "jsonPath": ".spec.catalogServiceId", "priority": 1,
        "description": "ID of the service in the catalog."}"#,
    printcolumn = r#"{
        "name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].reason", "priority": 1,
        "description": "Why Ready is what it is."}"#,
    printcolumn = r#"{
        "name": "Last Sync", "type": "date", "jsonPath": ".status.lastSync", "priority": 1,
        "description": "Time since something was last synchronised."}"#,
    status = "ServiceBindingStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[x_kube(
    validation = Rule::new("has(self.__namespace__) == has(oldSelf.__namespace__)")
        .message("cannot be added or removed; delete this binding and create another one")
        .field_path(".namespace")
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBindingSpec {
    /// ID of the service in the catalog: 1 to 253 characters of
    /// `A-Z a-z 0-9 . _ : ~ -`, the first a letter or digit.
    #[schemars(schema_with = "schema::catalog_service_id")]
    pub catalog_service_id: String,
    /// Kubernetes service name, a DNS label. It cannot be changed.
    #[schemars(schema_with = "schema::fixed_dns_label")]
    pub service_name: String,
    /// Kubernetes namespace of the service; by default the binding's own. It
    /// cannot be changed, added or removed. Another namespace has to allow it
    /// by its annotation `catalog-mesh.aikernel.io/allow-bindings-from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::fixed_dns_label")]
    pub namespace: Option<String>,
    /// Traffic policy; the catalog's values take precedence, field by field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<Box<TrafficPolicy>>,
    /// How endpoints are checked; the catalog's values take precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<Box<HealthCheck>>,
    /// Freezes everything that the operator does for this binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// What becomes of the VirtualService and DestinationRule when the
    /// binding is deleted; otherwise Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DeletionPolicy")]
    pub deletion_policy: Option<DeletionPolicy>,
}

/// The policy of the mesh for requests to this service.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// How often a failed request is tried again, 0 to 100 times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::attempts")]
    pub retries: Option<i32>,
    /// How long a request may take, all attempts together: 1ms to 1h, in whole
    /// milliseconds. There is no limit where neither catalog nor binding says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::timeout")]
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
    /// Summary of the synchronisation: Synced, Syncing, or Error, for which the
    /// conditions say more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SyncStatus")]
    pub sync_status: Option<SyncStatus>,
    /// When something was last synchronised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<Time>,
    /// Health of the service by the operator's own checks: Healthy where at
    /// least nine endpoints of ten passed, Degraded where half did, else
    /// Unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HealthStatus")]
    pub health_status: Option<HealthStatus>,
    /// Generation of the binding that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status::generation")]
    pub observed_generation: Option<i64>,
    /// Ready, CatalogSynced, MeshProgrammed, Healthy, Conflict, Suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::status::conditions")]
    pub conditions: Vec<Condition>,
    /// Where the record was last seen in the catalog's history, as
    /// `<epoch>.<revision>`. What was not seen in the present epoch is not
    /// removed without approval. Absent after a removal was in doubt, until
    /// the record is seen again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status::value_text")]
    pub record_seen: Option<String>,
    /// Endpoints of the service, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointCounts>,
    /// The last changes of endpoints, oldest first: each that became unhealthy,
    /// healthy again, or impossible to judge.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub endpoint_transitions: Vec<EndpointTransition>,
    /// Each effective value of the policy with its source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["field"]))]
    pub policy: Vec<PolicyEntry>,
    /// The objects that were applied, as the server stored them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["kind", "namespace", "name"]))]
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
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCounts {
    /// Endpoints that are checked.
    #[schemars(schema_with = "schema::count")]
    pub total: i32,
    /// Endpoints that passed.
    #[schemars(schema_with = "schema::count")]
    pub healthy: i32,
    /// Endpoints that the operator took out of the mesh.
    #[schemars(schema_with = "schema::count")]
    pub ejected: i32,
    /// Healthy endpoints of all, as in `9/10`: what `kubectl get` shows, since
    /// a column cannot put two numbers together.
    #[schemars(schema_with = "schema::status::short_text")]
    pub summary: String,
}

impl EndpointCounts {
    /// Counts whose summary agrees with them.
    pub fn new(total: i32, healthy: i32, ejected: i32) -> Self {
        Self {
            total,
            healthy,
            ejected,
            summary: format!("{healthy}/{total}"),
        }
    }
}

/// A change of what is held of an endpoint.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointTransition {
    /// Its address and port.
    #[schemars(schema_with = "schema::status::short_text")]
    pub address: String,
    /// The Pod that it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status::short_text")]
    pub pod: Option<String>,
    /// What is held of it since.
    pub to: EndpointState,
    /// How its check failed, or why nothing can be said; never what it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::status::short_text")]
    pub why: Option<String>,
    /// When.
    pub time: Time,
}

/// What is held of an endpoint.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum EndpointState {
    /// It answers as it should.
    Healthy,
    /// It does not.
    Unhealthy,
    /// It cannot be judged.
    Unknown,
}

/// One effective value of the policy.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyEntry {
    /// Path of the field, as in `trafficPolicy.circuitBreaker.interval`.
    #[schemars(schema_with = "schema::status::short_text")]
    pub field: String,
    /// The value as text.
    #[schemars(schema_with = "schema::status::value_text")]
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
    #[schemars(schema_with = "schema::status::short_text")]
    pub kind: String,
    /// Namespace of the object.
    #[schemars(schema_with = "schema::status::short_text")]
    pub namespace: String,
    /// Name of the object.
    #[schemars(schema_with = "schema::status::short_text")]
    pub name: String,
    /// Uid of the object, so that a recreated one is not taken for ours.
    #[schemars(schema_with = "schema::status::short_text")]
    pub uid: String,
    /// Generation after the last apply.
    #[schemars(schema_with = "schema::status::generation")]
    pub generation: i64,
    /// Hash of what was applied.
    #[schemars(schema_with = "schema::status::short_text")]
    pub hash: String,
}
