//! Which policy holds for a service: what catalog, binding and defaults make
//! together. No IO.
//!
//! Each giver's text is read once into a [`layer::PolicyLayer`], where every
//! value has been parsed and is within [`bounds`]. [`merge::merge`] puts the
//! layers on top of each other, leaf field by leaf field: the catalog's value
//! counts before the binding's, the binding's before the default. What belongs
//! together is checked after that, so an [`EffectivePolicy`] cannot be wrong
//! and `build` has nothing left to refuse.
//!
//! Alternatives that exclude each other (`simple` or `consistentHash`; the key
//! of the hash; the way of locality) are one leaf: the catalog's choice
//! replaces the binding's instead of clashing with it.

pub mod bounds;
mod check;
pub mod field;
pub mod layer;
mod locality;
pub mod merge;
mod notes;
mod read;

use serde::Serialize;

use super::duration::Millis;
use super::record::ServiceRecord;
use crate::api::policy::{
    EjectionMode, HealthCheckScheme, LocalityDistribute, LocalityFailover, SimpleAlgorithm,
};
use crate::api::service_binding::{PolicySource, ServiceBindingSpec};
use bounds::Bounds;
use layer::PolicyLayer;
use merge::{Merged, merge};

/// The policy that record and binding make together; without a record the
/// binding's alone. Else all that is wrong, at least one thing.
pub fn effective(
    record: Option<&ServiceRecord>,
    spec: &ServiceBindingSpec,
    bounds: &Bounds,
) -> Result<Merged, Vec<PolicyError>> {
    let catalog = record.map_or_else(
        || Ok(PolicyLayer::default()),
        |record| PolicyLayer::from_record(record, bounds),
    );
    match (catalog, PolicyLayer::from_binding(spec, bounds)) {
        (Ok(catalog), Ok(binding)) => merge(&catalog, &binding, bounds),
        (catalog, binding) => Err(catalog
            .err()
            .into_iter()
            .chain(binding.err())
            .flatten()
            .collect()),
    }
}

/// Who can give a value that is wrong. A default never is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Giver {
    /// The catalog's record.
    Catalog,
    /// The ServiceBinding.
    Binding,
}

impl From<Giver> for PolicySource {
    fn from(giver: Giver) -> Self {
        match giver {
            Giver::Catalog => Self::Catalog,
            Giver::Binding => Self::Binding,
        }
    }
}

/// A value that cannot be used. `giver` decides between InvalidRecord and
/// InvalidBinding.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct PolicyError {
    /// Whose value it is.
    pub giver: Giver,
    /// Path of the field in that giver's document: `circuitBreaker.interval`
    /// of a record, `spec.trafficPolicy.circuitBreaker.interval` of a binding.
    pub field: String,
    /// What is wrong with it, and what is expected; escaped and bounded.
    pub message: String,
}

/// The policy in effect. Every value is within the bounds, and no two
/// contradict each other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EffectivePolicy {
    /// How long a request may take; none is no limit.
    pub timeout: Option<Millis>,
    /// How often it is tried again; none leaves it to the mesh.
    pub retries: Option<Retries>,
    /// When Envoy takes an endpoint out; there where circuitBreaker or
    /// healthCheck is given.
    pub outlier_detection: Option<OutlierPolicy>,
    /// How requests are spread.
    pub load_balancing: LoadBalancing,
    /// Limits on connections and requests.
    pub connection_pool: ConnectionPool,
    /// How endpoints are checked; none is not at all.
    pub health_check: Option<HealthCheck>,
}

/// How often a request is tried again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Retries {
    /// Never; the mesh's own retries are switched off.
    Off,
    /// So often.
    On {
        /// Attempts after the first, at least one.
        attempts: u32,
        /// How long one attempt may take; none is the whole timeout.
        per_try_timeout: Option<Millis>,
        /// Envoy's conditions; none leaves them to Istio.
        retry_on: Option<String>,
    },
}

/// When Envoy takes an endpoint out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutlierPolicy {
    /// Answers of 5xx in a row.
    pub consecutive_errors: u32,
    /// Time between two sweeps.
    pub interval: Millis,
    /// How long an endpoint stays out the first time.
    pub base_ejection_time: Millis,
    /// Largest share that may be out at once, in percent. 0, which only the
    /// catalog can ask for, means that nothing is ever taken out.
    pub max_ejection_percent: u32,
    /// Share of the endpoints, in percent, below which Envoy uses all of them.
    /// No policy can ask for it: none is what every policy has.
    pub min_health_percent: Option<u32>,
}

/// How requests are spread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadBalancing {
    /// The algorithm; none leaves it to the mesh.
    pub algorithm: Option<Algorithm>,
    /// Slow start.
    pub warmup: Option<Warmup>,
    /// Preference for near endpoints; none is "not asked for".
    pub locality: Option<Locality>,
}

/// The algorithm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// A standard one.
    Simple(SimpleAlgorithm),
    /// Stickiness by a property of the request.
    ConsistentHash {
        /// The property.
        key: HashKey,
        /// Smallest number of entries in the ring.
        minimum_ring_size: Option<u32>,
    },
}

/// What the request is hashed by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HashKey {
    /// A request header.
    Header(String),
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Its path.
        path: Option<String>,
        /// Its lifetime; `0s` is a session cookie, none means that Envoy sets
        /// no cookie itself.
        ttl: Option<Millis>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    QueryParameter(String),
}

/// Slow start of endpoints that have just appeared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warmup {
    /// How long an endpoint's share grows.
    pub duration: Millis,
    /// Share to begin with, in percent.
    pub minimum_percent: Option<u32>,
    /// Exponent of the growth.
    pub aggression: Option<u32>,
}

/// Preference for near endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Locality {
    /// Whether locality counts at all; none is Istio's "yes".
    pub enabled: Option<bool>,
    /// In which way; none is Istio's own: near ones first, by region and zone.
    pub way: Option<LocalityWay>,
}

/// Ways of locality, which exclude each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum LocalityWay {
    /// Shares by place of the client.
    Distribute(Vec<LocalityDistribute>),
    /// Where traffic of a failing region goes.
    Failover(Vec<LocalityFailover>),
    /// Labels by which nearer endpoints are preferred.
    Priority(Vec<String>),
}

/// Limits on connections and requests; none is the mesh's own.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectionPool {
    /// Limits that hold for TCP and HTTP.
    pub tcp: TcpPool,
    /// Limits that hold for HTTP.
    pub http: HttpPool,
}

/// Limits that hold for TCP and HTTP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TcpPool {
    /// Most connections at once.
    pub max_connections: Option<u32>,
    /// How long a connection may take to open.
    pub connect_timeout: Option<Millis>,
    /// How long a connection may be idle; `0s` is for ever.
    pub idle_timeout: Option<Millis>,
}

/// Limits that hold for HTTP.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HttpPool {
    /// Most requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Most requests at once.
    pub max_requests: Option<u32>,
    /// Requests after which a connection is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Most retries at once, over all endpoints.
    pub max_retries: Option<u32>,
    /// How long a connection without requests stays open.
    pub idle_timeout: Option<Millis>,
}

/// How endpoints are checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// Path of the check.
    pub endpoint: String,
    /// Time between two checks of an endpoint.
    pub interval: Millis,
    /// How long one check may take; at most the interval.
    pub timeout: Millis,
    /// Port of the check; none is the Service's target port.
    pub port: Option<u16>,
    /// How the check connects.
    pub scheme: HealthCheckScheme,
    /// Failed checks in a row that make an endpoint unhealthy.
    pub failure_threshold: u32,
    /// Good checks in a row that make it healthy again.
    pub success_threshold: u32,
    /// How soon a failed check is repeated.
    pub confirm_interval: Millis,
    /// What happens to an unhealthy endpoint; none is the operator's flag.
    pub ejection: Option<EjectionMode>,
}

#[cfg(test)]
mod tests;
