//! The policy blocks that a ServiceBinding and a catalog record share.
//!
//! Durations stay text here, in Go's syntax with whole milliseconds (`30s`,
//! `1m30s`, `500ms`); `domain::policy` parses and bounds them. The schema
//! bounds only what comes through the API server: a record does not.

#![expect(
    unreachable_pub,
    reason = "KubeSchema keeps a copy of each struct inside of a function"
)]

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// When Envoy takes a failing endpoint out by itself (`outlierDetection`).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Answers of 5xx in a row after which an endpoint is taken out, 1 to 100.
    /// Otherwise healthCheck.failureThreshold, and 5 where that is absent too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::threshold")]
    pub consecutive_errors: Option<i32>,
    /// Time between two sweeps of Envoy's outlier detection, 100ms to 1h;
    /// otherwise 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::interval")]
    pub interval: Option<String>,
    /// How long an endpoint stays out the first time, 1ms to 24h; otherwise 30s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::endpoint_time")]
    pub base_ejection_time: Option<String>,
    /// Largest share of the endpoints that may be out at once, 1 to 100
    /// percent; otherwise 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::percent")]
    pub max_ejection_percent: Option<i32>,
}

/// How requests are spread over the endpoints.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!(has(self.simple) && has(self.consistentHash))")
        .message("simple and consistentHash exclude each other; give one of them")
        .field_path(".consistentHash")
)]
#[x_kube(
    validation = Rule::new("!has(self.warmup) || (!has(self.consistentHash) && (!has(self.simple) || self.simple != 'RANDOM'))")
        .message("warmup works with ROUND_ROBIN and LEAST_REQUEST only, or without simple; not with RANDOM or consistentHash")
        .field_path(".warmup")
)]
pub struct LoadBalancing {
    /// A standard algorithm; excludes consistentHash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SimpleAlgorithm")]
    pub simple: Option<SimpleAlgorithm>,
    /// Stickiness by a property of the request; excludes simple.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// Slow start of new endpoints; not with RANDOM or consistentHash.
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
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.httpHeaderName) ? 1 : 0) + (has(self.httpCookie) ? 1 : 0)\
        + (has(self.useSourceIp) ? 1 : 0) + (has(self.httpQueryParameterName) ? 1 : 0) == 1")
        .message("give exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName")
)]
pub struct ConsistentHash {
    /// Hash by this request header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::http_token")]
    pub http_header_name: Option<String>,
    /// Hash by this cookie. Envoy sets it where it is missing, if a ttl is
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_cookie: Option<HttpCookie>,
    /// Hash by the client's address; true, or left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::only_true")]
    pub use_source_ip: Option<bool>,
    /// Hash by this query parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::query_parameter")]
    pub http_query_parameter_name: Option<String>,
    /// Smallest number of entries in the hash ring, 1 to 8388608.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::ring_size")]
    pub minimum_ring_size: Option<i64>,
}

/// A cookie that requests are hashed by.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpCookie {
    /// Name of the cookie.
    #[schemars(schema_with = "schema::http_token")]
    pub name: String,
    /// Path of the cookie that Envoy sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cookie_path")]
    pub path: Option<String>,
    /// Lifetime of the cookie that Envoy sets, up to 8760h; `0s` is a session
    /// cookie. Without it Envoy sets none: only clients that bring their own
    /// stick to an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::cookie_ttl")]
    pub ttl: Option<String>,
}

/// Slow start of endpoints that have just appeared.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warmup {
    /// How long an endpoint's share grows, 1ms to 24h.
    #[schemars(schema_with = "schema::duration::endpoint_time")]
    pub duration: String,
    /// Share of the full load to begin with, 1 to 100 percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::percent")]
    pub minimum_percent: Option<i32>,
    /// Exponent of the growth, 1 to 100; 1 is linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::threshold")]
    pub aggression: Option<i32>,
}

/// Istio's `localityLbSetting`; at most one of distribute, failover and
/// failoverPriority.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.distribute) && size(self.distribute) > 0 ? 1 : 0)\
        + (has(self.failover) && size(self.failover) > 0 ? 1 : 0)\
        + (has(self.failoverPriority) && size(self.failoverPriority) > 0 ? 1 : 0) <= 1")
        .message("distribute, failover and failoverPriority exclude each other; give one of them")
)]
pub struct Locality {
    /// Whether locality counts at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Shares by place of the client; at most 16 places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(
        validation = Rule::new(schema::locality::PLACES_APART)
            .message("each place of a client must be given once, and none within another")
    )]
    pub distribute: Vec<LocalityDistribute>,
    /// Where traffic of a region goes when that region fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub failover: Vec<LocalityFailover>,
    /// Labels by which nearer endpoints are preferred, most important first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::locality::failover_labels")]
    pub failover_priority: Vec<String>,
}

/// Shares of the traffic that comes from one place.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityDistribute {
    /// Place of the client: `region`, `region/zone` or `region/zone/subzone`,
    /// the last of which may be `*`.
    #[schemars(schema_with = "schema::locality::place")]
    pub from: String,
    /// Place of the endpoints to percent; the shares add up to 100.
    #[schemars(schema_with = "schema::locality::shares")]
    pub to: BTreeMap<String, i32>,
}

/// Fail over from one region to another.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.from != self.to")
        .message("must be another region than from")
        .field_path(".to")
)]
pub struct LocalityFailover {
    /// The failing region.
    #[schemars(schema_with = "schema::locality::region")]
    pub from: String,
    /// The region that takes over.
    #[schemars(schema_with = "schema::locality::region")]
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
    #[schemars(schema_with = "schema::pool_size")]
    pub max_connections: Option<i32>,
    /// How long a connection may take to open, 1ms to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::timeout")]
    pub connect_timeout: Option<String>,
    /// How long a connection may be idle, up to 720h; `0s` is for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::tcp_idle_timeout")]
    pub idle_timeout: Option<String>,
}

/// Limits on HTTP requests, per client proxy.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpPool {
    /// Most requests that wait for a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pool_size")]
    pub http1_max_pending_requests: Option<i32>,
    /// Most requests at once, for HTTP/1 too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pool_size")]
    pub http2_max_requests: Option<i32>,
    /// Requests after which a connection is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pool_size")]
    pub max_requests_per_connection: Option<i32>,
    /// Most retries at once, over all endpoints; otherwise
    /// trafficPolicy.retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pool_size")]
    pub max_retries: Option<i32>,
    /// How long a connection without requests stays open, 1ms to 720h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::http_idle_timeout")]
    pub idle_timeout: Option<String>,
}

/// How the operator itself checks each endpoint.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(schema::duration::TIMEOUT_WITHIN_INTERVAL)
        .message("must be at most healthCheck.interval")
        .field_path(".timeout")
)]
pub struct HealthCheck {
    /// Path of the check, never a URL; otherwise `/health`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::request_path")]
    pub endpoint: Option<String>,
    /// Time between two checks of an endpoint, 100ms to 1h; otherwise 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::interval")]
    pub interval: Option<String>,
    /// How long one check may take: at most the interval; otherwise 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::timeout")]
    pub timeout: Option<String>,
    /// Port of the check; otherwise the Service's target port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::port")]
    pub port: Option<i32>,
    /// HTTP, HTTPS, or MTLS with a mesh certificate; otherwise HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HealthCheckScheme")]
    pub scheme: Option<HealthCheckScheme>,
    /// Failed checks in a row that make an endpoint unhealthy, 1 to 100;
    /// otherwise 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::threshold")]
    pub failure_threshold: Option<i32>,
    /// Good checks in a row that make an endpoint healthy again, 1 to 100;
    /// otherwise 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::threshold")]
    pub success_threshold: Option<i32>,
    /// How soon a failed check is repeated, 10ms to 1h; otherwise a quarter of
    /// the interval, and 1s at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration::confirm_interval")]
    pub confirm_interval: Option<String>,
    /// What happens to an unhealthy endpoint; otherwise what the operator was
    /// started with. Quote "off", which YAML reads as false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "EjectionMode")]
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
