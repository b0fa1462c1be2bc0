//! The subset of Istio's VirtualService that we write.
//!
//! Field names are Istio's. What is absent is not serialised: an empty map or
//! list is either refused by istiod or owned by us for nothing.

use serde::Serialize;

/// How requests for a host are routed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// The hosts, fully qualified.
    pub hosts: Vec<String>,
    /// One route for each HTTP port.
    pub http: Vec<HttpRoute>,
}

/// What happens to the requests that match.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// Which requests this route is for.
    pub r#match: Vec<HttpMatchRequest>,
    /// Where they go.
    pub route: Vec<HttpRouteDestination>,
    /// How long a request may take, all attempts together. Istio refuses
    /// `0s`; absent means no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// How often a failed request is tried again; absent leaves it to the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<HttpRetry>,
}

/// Requests to one port of the host.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatchRequest {
    /// Port of the Service.
    pub port: u16,
}

/// Where requests go.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRouteDestination {
    /// Host and port.
    pub destination: Destination,
}

/// Host and port.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// The host, fully qualified.
    pub host: String,
    /// Port of the Service.
    pub port: PortSelector,
}

/// A port by its number.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortSelector {
    /// The number.
    pub number: u16,
}

/// How often, and when, a request is tried again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRetry {
    /// Attempts after the first; 0 switches the mesh's own retries off.
    pub attempts: u32,
    /// How long one attempt may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<String>,
    /// Envoy's conditions to retry on, separated by commas, without blanks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<String>,
}
