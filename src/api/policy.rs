//! The policy blocks that a ServiceBinding and a catalog record share.
//!
//! Durations stay text here, in Go's syntax with whole milliseconds (`30s`,
//! `1m30s`, `500ms`); `domain::policy` parses and bounds them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When Envoy takes a failing endpoint out by itself (`outlierDetection`).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Answers of 5xx in a row after which an endpoint is taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_errors: Option<i32>,
    /// Time between two sweeps of Envoy's outlier detection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long an endpoint stays out the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<String>,
    /// Largest share of the endpoints that may be out at once, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ejection_percent: Option<i32>,
}

/// How requests are spread over the endpoints.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// A standard algorithm; excludes consistentHash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simple: Option<SimpleAlgorithm>,
    /// Stickiness by a property of the request; excludes simple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// Slow start of new endpoints; for ROUND_ROBIN and LEAST_REQUEST only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Preference for endpoints in the client's own zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// Istio's standard algorithms.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleAlgorithm {
    /// Each endpoint in turn.
    RoundRobin,
    /// The less loaded of two endpoints picked at random.
    LeastRequest,
    /// Any endpoint.
    Random,
}

/// What the request is hashed by: exactly one of the four.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsistentHash {
    /// Hash by this request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_header_name: Option<String>,
    /// Hash by this cookie, which Envoy sets where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_cookie: Option<HttpCookie>,
    /// Hash by the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_source_ip: Option<bool>,
    /// Hash by this query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_query_parameter_name: Option<String>,
    /// Smallest number of entries in the hash ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_ring_size: Option<i64>,
}

/// A cookie that requests are hashed by.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCookie {
    /// Name of the cookie.
    pub name: String,
    /// Path of the cookie that Envoy sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Lifetime of the cookie that Envoy sets; `0s` is a session cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
}

/// Slow start of endpoints that have just appeared.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warmup {
    /// How long an endpoint's share grows.
    pub duration: String,
    /// Share of the full load to begin with, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_percent: Option<i32>,
    /// Exponent of the growth; 1 is linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggression: Option<i32>,
}

/// Istio's `localityLbSetting`; at most one of distribute, failover and
/// failoverPriority.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Locality {
    /// Whether locality counts at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Shares by place of the client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<LocalityDistribute>,
    /// Where traffic of a region goes when that region fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<LocalityFailover>,
    /// Labels by which nearer endpoints are preferred, most important first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover_priority: Vec<String>,
}

/// Shares of the traffic that comes from one place.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityDistribute {
    /// Place of the client, `region/zone/*`.
    pub from: String,
    /// Place of the endpoints to percent; the shares add up to 100.
    pub to: BTreeMap<String, i32>,
}

/// Fail over from one region to another.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityFailover {
    /// The failing region.
    pub from: String,
    /// The region that takes over.
    pub to: String,
}

/// Limits on connections and requests to the service.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionPool {
    /// Limits that hold for TCP and HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpPool>,
    /// Limits that hold for HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPool>,
}

/// Limits on TCP connections, per client proxy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpPool {
    /// Most connections at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i32>,
    /// How long a connection may take to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<String>,
    /// How long a connection may be idle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
}

/// Limits on HTTP requests, per client proxy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpPool {
    /// Most requests that wait for a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http1_max_pending_requests: Option<i32>,
    /// Most requests at once, for HTTP/1 too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2_max_requests: Option<i32>,
    /// Requests after which a connection is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<i32>,
    /// Most retries at once, over all endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<i32>,
    /// How long a connection without requests stays open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<String>,
}

/// How the operator itself checks each endpoint.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Path of the check, `/health` by default. Never a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Time between two checks of an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// How long one check may take; at most the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Port of the check; by default the Service's target port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// HTTP, HTTPS, or MTLS with a mesh certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<HealthCheckScheme>,
    /// Failed checks in a row that make an endpoint unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<i32>,
    /// Good checks in a row that make an endpoint healthy again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<i32>,
    /// How soon a failed check is repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_interval: Option<String>,
    /// What happens to an unhealthy endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejection: Option<EjectionMode>,
}

/// How the check connects.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HealthCheckScheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
    /// HTTP over the mesh's mutual TLS.
    Mtls,
}

/// How an unhealthy endpoint leaves the mesh.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EjectionMode {
    /// The Pod is labelled, and every proxy drops it.
    Draining,
    /// Envoy's outlier detection alone.
    OutlierOnly,
    /// Nothing is changed; the operator says what it would do.
    Observe,
    /// Checks only.
    Off,
}
