//! What one giver says about the policy, parsed and within the bounds. No IO.
//!
//! Every value is read, also one that the other giver's will cover: a wrong
//! value is said when it is written, not when it comes to count.

use super::bounds::{Bounds, Limit};
use super::read::Reader;
use super::{ConnectionPool, Giver, HashKey, LocalityWay, PolicyError, field};
use crate::api::policy::{EjectionMode, HealthCheckScheme, SimpleAlgorithm};
use crate::api::service_binding::ServiceBindingSpec;
use crate::domain::duration::Millis;
use crate::domain::record::{RecordRetries, ServiceRecord};

/// What one giver says. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyLayer {
    pub(super) timeout: Option<Millis>,
    pub(super) retries: RetriesLayer,
    pub(super) circuit_breaker: Option<CircuitBreakerLayer>,
    pub(super) load_balancing: LoadBalancingLayer,
    pub(super) connection_pool: ConnectionPool,
    pub(super) health_check: Option<HealthCheckLayer>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RetriesLayer {
    pub(super) attempts: Option<u32>,
    pub(super) per_try_timeout: Option<Millis>,
    pub(super) retry_on: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CircuitBreakerLayer {
    pub(super) consecutive_errors: Option<u32>,
    pub(super) interval: Option<Millis>,
    pub(super) base_ejection_time: Option<Millis>,
    pub(super) max_ejection_percent: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LoadBalancingLayer {
    pub(super) algorithm: Option<AlgorithmLayer>,
    pub(super) warmup_duration: Option<Millis>,
    pub(super) warmup_percent: Option<u32>,
    pub(super) warmup_aggression: Option<u32>,
    pub(super) locality_enabled: Option<bool>,
    pub(super) locality_way: Option<LocalityWay>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum AlgorithmLayer {
    Simple(SimpleAlgorithm),
    /// The key may come from the other giver.
    Hash {
        key: Option<HashKey>,
        ring: Option<u32>,
    },
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HealthCheckLayer {
    pub(super) endpoint: Option<String>,
    pub(super) interval: Option<Millis>,
    pub(super) timeout: Option<Millis>,
    pub(super) port: Option<u16>,
    pub(super) scheme: Option<HealthCheckScheme>,
    pub(super) failure_threshold: Option<u32>,
    pub(super) success_threshold: Option<u32>,
    pub(super) confirm_interval: Option<Millis>,
    pub(super) ejection: Option<EjectionMode>,
}

impl PolicyLayer {
    /// What a record of the catalog says; else all that is wrong with it, at
    /// least one thing.
    pub fn from_record(record: &ServiceRecord, bounds: &Bounds) -> Result<Self, Vec<PolicyError>> {
        let mut reader = Reader::new(Giver::Catalog, bounds);
        let timeout = reader.time(field::TIMEOUT, Limit::Timeout, record.timeout.as_deref());
        let retries = match &record.retries {
            None => RetriesLayer::default(),
            Some(RecordRetries::Attempts(attempts)) => reader.retries(Some(*attempts), None, None),
            Some(RecordRetries::Policy(policy)) => reader.retries(
                policy.attempts,
                policy.per_try_timeout.as_deref(),
                policy.retry_on.as_deref(),
            ),
        };
        let layer = Self {
            timeout,
            retries,
            circuit_breaker: record
                .circuit_breaker
                .as_ref()
                .map(|b| reader.circuit_breaker(b)),
            load_balancing: reader.load_balancing(record.load_balancing.as_deref()),
            connection_pool: reader.connection_pool(record.connection_pool.as_deref()),
            health_check: record
                .health_check
                .as_ref()
                .map(|check| reader.health_check(check)),
        };
        reader.done(layer)
    }

    /// What a binding says; else all that is wrong with it, at least one thing.
    pub fn from_binding(
        spec: &ServiceBindingSpec,
        bounds: &Bounds,
    ) -> Result<Self, Vec<PolicyError>> {
        let mut reader = Reader::new(Giver::Binding, bounds);
        let mut layer = Self::default();
        if let Some(policy) = &spec.traffic_policy {
            layer.timeout = reader.time(field::TIMEOUT, Limit::Timeout, policy.timeout.as_deref());
            layer.retries = reader.retries(policy.retries, None, None);
            layer.circuit_breaker = policy
                .circuit_breaker
                .as_ref()
                .map(|b| reader.circuit_breaker(b));
            layer.load_balancing = reader.load_balancing(policy.load_balancing.as_ref());
            layer.connection_pool = reader.connection_pool(policy.connection_pool.as_ref());
        }
        layer.health_check = spec
            .health_check
            .as_ref()
            .map(|check| reader.health_check(check));
        reader.done(layer)
    }
}
