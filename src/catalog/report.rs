//! What the operator tells the catalog.

use std::net::IpAddr;

/// Who writes, and where it stands: a report with an older position than the
/// highest known for its cluster is ignored by the catalog.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WriterPosition {
    /// Identity of the cluster; by default the uid of kube-system.
    pub cluster: String,
    /// Number of the leadership.
    pub epoch: u64,
    /// Number of the report within the leadership.
    pub sequence: u64,
}

/// Health of a service as this cluster sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReportedHealth {
    /// At least nine endpoints of ten are healthy.
    Healthy,
    /// At least half are.
    Degraded,
    /// Fewer than half are.
    Unhealthy,
    /// Not judged.
    Unknown,
}

/// One item of a health report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthReport {
    /// ID of the service in the catalog.
    pub service_id: String,
    /// Its health.
    pub health: ReportedHealth,
    /// Endpoints that were judged healthy.
    pub healthy: u32,
    /// Endpoints that were judged.
    pub total: u32,
}

/// All endpoints that this cluster has for a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EndpointReport {
    /// ID of the service in the catalog.
    pub service_id: String,
    /// The endpoints; at most 1,000.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Address of the Pod.
    pub address: IpAddr,
    /// Port that serves.
    pub port: u16,
    /// Zone of the node, where it is known.
    pub zone: Option<String>,
    /// Whether Kubernetes calls it ready.
    pub ready: bool,
}

/// What the catalog did with one item.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ItemOutcome {
    /// Stored, or already known.
    Accepted,
    /// Ignored, since the catalog knows a later report of this cluster.
    Outdated {
        /// Epoch of the highest known report.
        epoch: u64,
        /// Sequence of the highest known report.
        sequence: u64,
    },
    /// The catalog has no such service.
    NotFound,
    /// Refused, with the catalog's reason, escaped and bounded.
    Invalid(String),
}
