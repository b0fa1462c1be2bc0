//! Catalog over binding over default, leaf field by leaf field, and the rules
//! for what belongs together. No IO.
//!
//! A rule that the merged values break is blamed on the giver of the later
//! value. The catalog's word comes first, so the later value is the binding's
//! as soon as one of the two is the binding's; a record is blamed for what it
//! does alone or with a default.

use serde::Serialize;
use serde_json::Value;

use super::bounds::{Bounds, Limit};
use super::layer::{CircuitBreakerLayer, HealthCheckLayer, PolicyLayer, RetriesLayer};
use super::{EffectivePolicy, Giver, HealthCheck, OutlierPolicy, PolicyError, Retries};
use super::{field, notes};
use crate::api::policy::HealthCheckScheme;
use crate::api::service_binding::{PolicyEntry, PolicySource};
use crate::domain::duration::Millis;

/// What came of the layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The policy in effect.
    pub policy: EffectivePolicy,
    /// Each value of it with its source, in the order of the binding's schema.
    pub entries: Vec<PolicyEntry>,
    /// What is allowed, but hardly what was meant.
    pub notes: Vec<String>,
}

const DEFAULT_ENDPOINT: &str = "/health";
const DEFAULT_CHECK_INTERVAL: Millis = Millis::from_secs(10);
const DEFAULT_CHECK_TIMEOUT: Millis = Millis::from_secs(3);
const DEFAULT_CONFIRM_INTERVAL: Millis = Millis::from_secs(1);
const DEFAULT_FAILURES: u32 = 3;
const DEFAULT_SUCCESSES: u32 = 2;
const DEFAULT_ERRORS: u32 = 5;
const DEFAULT_SWEEP: Millis = Millis::from_secs(30);
const DEFAULT_EJECTION: Millis = Millis::from_secs(30);
const DEFAULT_EJECTION_PERCENT: u32 = 50;

/// Merges the layers; else says all that does not go together, at least one
/// thing.
pub fn merge(
    catalog: &PolicyLayer,
    binding: &PolicyLayer,
    bounds: &Bounds,
) -> Result<Merged, Vec<PolicyError>> {
    let mut merge = Merge { bounds, entries: Vec::new(), errors: Vec::new() };
    let timeout = merge.leaf(field::TIMEOUT, catalog.timeout.as_ref(), binding.timeout.as_ref());
    let retries = merge.retries(&catalog.retries, &binding.retries);
    let attempts = retries.as_ref().map(|retries| retries.attempts());
    let outlier_detection = merge.outlier_detection(catalog, binding);
    let load_balancing = merge.load_balancing(
        &catalog.load_balancing,
        &binding.load_balancing,
        outlier_detection.as_ref(),
    );
    let connection_pool =
        merge.connection_pool(&catalog.connection_pool, &binding.connection_pool, attempts);
    let health_check =
        merge.health_check(catalog.health_check.as_ref(), binding.health_check.as_ref());
    if !merge.errors.is_empty() {
        return Err(merge.errors);
    }
    let policy = EffectivePolicy {
        timeout: timeout.map(|timeout| timeout.value),
        retries: retries.map(|retries| retries.policy),
        outlier_detection,
        load_balancing,
        connection_pool,
        health_check,
    };
    let notes = notes::of(&policy);
    Ok(Merged { policy, entries: merge.entries, notes })
}

/// A value and who gave it.
#[derive(Clone, Debug)]
pub(super) struct Sourced<T> {
    pub(super) value: T,
    pub(super) source: PolicySource,
}

/// The catalog's value where there is one, else the binding's.
pub(super) fn first<T: Clone>(catalog: Option<&T>, binding: Option<&T>) -> Option<Sourced<T>> {
    let from = |source| move |value: &T| Sourced { value: value.clone(), source };
    catalog.map(from(PolicySource::Catalog)).or_else(|| binding.map(from(PolicySource::Binding)))
}

/// Who gave the later of two values; a default is never to blame.
pub(super) fn later(one: PolicySource, other: PolicySource) -> Giver {
    let binding = [one, other].contains(&PolicySource::Binding);
    if binding { Giver::Binding } else { Giver::Catalog }
}

/// A merge under way: what is in effect so far, and what does not go together.
pub(super) struct Merge<'a> {
    pub(super) bounds: &'a Bounds,
    entries: Vec<PolicyEntry>,
    errors: Vec<PolicyError>,
}

struct SourcedRetries {
    policy: Retries,
    source: PolicySource,
}

impl SourcedRetries {
    fn attempts(&self) -> Sourced<u32> {
        let value = match self.policy {
            Retries::Off => 0,
            Retries::On { attempts, .. } => attempts,
        };
        Sourced { value, source: self.source }
    }
}

impl Merge<'_> {
    /// Puts a value that is in effect on the list.
    pub(super) fn record<T: Serialize>(&mut self, field: &str, value: &T, source: PolicySource) {
        let value = match serde_json::to_value(value) {
            Ok(Value::String(text)) => text,
            Ok(value) => value.to_string(),
            Err(error) => error.to_string(),
        };
        self.entries.push(PolicyEntry { field: field.to_owned(), value, source });
    }

    /// A leaf without a default.
    pub(super) fn leaf<T: Clone + Serialize>(
        &mut self,
        field: &str,
        catalog: Option<&T>,
        binding: Option<&T>,
    ) -> Option<Sourced<T>> {
        let leaf = first(catalog, binding)?;
        self.record(field, &leaf.value, leaf.source);
        Some(leaf)
    }

    /// A leaf whose value alone is wanted.
    pub(super) fn value<T: Clone + Serialize>(
        &mut self,
        field: &str,
        catalog: Option<&T>,
        binding: Option<&T>,
    ) -> Option<T> {
        self.leaf(field, catalog, binding).map(|leaf| leaf.value)
    }

    /// A leaf with something to fall back to.
    fn leaf_or<T: Clone + Serialize>(
        &mut self,
        field: &str,
        catalog: Option<&T>,
        binding: Option<&T>,
        fallback: Sourced<T>,
    ) -> Sourced<T> {
        let leaf = first(catalog, binding).unwrap_or(fallback);
        self.record(field, &leaf.value, leaf.source);
        leaf
    }

    pub(super) fn refuse(&mut self, giver: Giver, field: &str, message: String) {
        self.errors.push(PolicyError { giver, field: field::path(giver, field), message });
    }

    fn default_time(&self, limit: Limit, time: Millis) -> Sourced<Millis> {
        let value = Millis(self.bounds.range(limit).nearest(time.0));
        Sourced { value, source: PolicySource::Default }
    }

    fn default_number(&self, limit: Limit, number: u32) -> Sourced<u32> {
        let nearest = self.bounds.range(limit).nearest(u64::from(number));
        Sourced { value: u32::try_from(nearest).unwrap_or(u32::MAX), source: PolicySource::Default }
    }

    fn retries(
        &mut self,
        catalog: &RetriesLayer,
        binding: &RetriesLayer,
    ) -> Option<SourcedRetries> {
        let attempts = self.leaf(
            field::RETRIES_ATTEMPTS,
            catalog.attempts.as_ref(),
            binding.attempts.as_ref(),
        );
        // Istio refuses anything beside "never".
        if let Some(Sourced { value: 0, source }) = attempts {
            return Some(SourcedRetries { policy: Retries::Off, source });
        }
        let per_try = self.leaf(
            field::RETRIES_PER_TRY,
            catalog.per_try_timeout.as_ref(),
            binding.per_try_timeout.as_ref(),
        );
        let on = self.leaf(field::RETRIES_ON, catalog.retry_on.as_ref(), binding.retry_on.as_ref());
        let Some(Sourced { value: attempts, source }) = attempts else {
            let given = per_try.map(|leaf| leaf.source).or(on.map(|leaf| leaf.source));
            if let Some(source) = given {
                let message = "is missing, so perTryTimeout and retryOn have no meaning; give it or leave them out";
                self.refuse(later(source, source), field::RETRIES_ATTEMPTS, message.to_owned());
            }
            return None;
        };
        let policy = Retries::On {
            attempts,
            per_try_timeout: per_try.map(|leaf| leaf.value),
            retry_on: on.map(|leaf| leaf.value),
        };
        Some(SourcedRetries { policy, source })
    }

    fn outlier_detection(
        &mut self,
        catalog: &PolicyLayer,
        binding: &PolicyLayer,
    ) -> Option<OutlierPolicy> {
        let checks = (catalog.health_check.as_ref(), binding.health_check.as_ref());
        let breakers = (catalog.circuit_breaker.as_ref(), binding.circuit_breaker.as_ref());
        if matches!((checks, breakers), ((None, None), (None, None))) {
            return None;
        }
        let nothing = CircuitBreakerLayer::default();
        let (c, b) = (breakers.0.unwrap_or(&nothing), breakers.1.unwrap_or(&nothing));
        let threshold =
            |check: Option<&HealthCheckLayer>| check.and_then(|check| check.failure_threshold);
        let failures = first(threshold(checks.0).as_ref(), threshold(checks.1).as_ref());
        let errors =
            failures.unwrap_or_else(|| self.default_number(Limit::Threshold, DEFAULT_ERRORS));
        let interval = self.default_time(Limit::Interval, DEFAULT_SWEEP);
        let ejection = self.default_time(Limit::EjectionTime, DEFAULT_EJECTION);
        let percent = self.default_number(Limit::Percent, DEFAULT_EJECTION_PERCENT);
        Some(OutlierPolicy {
            consecutive_errors: self
                .leaf_or(
                    field::BREAKER_ERRORS,
                    c.consecutive_errors.as_ref(),
                    b.consecutive_errors.as_ref(),
                    errors,
                )
                .value,
            interval: self
                .leaf_or(
                    field::BREAKER_INTERVAL,
                    c.interval.as_ref(),
                    b.interval.as_ref(),
                    interval,
                )
                .value,
            base_ejection_time: self
                .leaf_or(
                    field::BREAKER_EJECTION,
                    c.base_ejection_time.as_ref(),
                    b.base_ejection_time.as_ref(),
                    ejection,
                )
                .value,
            max_ejection_percent: self
                .leaf_or(
                    field::BREAKER_PERCENT,
                    c.max_ejection_percent.as_ref(),
                    b.max_ejection_percent.as_ref(),
                    percent,
                )
                .value,
        })
    }

    fn health_check(
        &mut self,
        catalog: Option<&HealthCheckLayer>,
        binding: Option<&HealthCheckLayer>,
    ) -> Option<HealthCheck> {
        if catalog.is_none() && binding.is_none() {
            return None;
        }
        let nothing = HealthCheckLayer::default();
        let (c, b) = (catalog.unwrap_or(&nothing), binding.unwrap_or(&nothing));
        let default = |value| Sourced { value, source: PolicySource::Default };
        let endpoint =
            Sourced { value: DEFAULT_ENDPOINT.to_owned(), source: PolicySource::Default };
        let endpoint = self.leaf_or(
            field::HEALTH_ENDPOINT,
            c.endpoint.as_ref(),
            b.endpoint.as_ref(),
            endpoint,
        );
        let interval = self.default_time(Limit::Interval, DEFAULT_CHECK_INTERVAL);
        let interval = self.leaf_or(
            field::HEALTH_INTERVAL,
            c.interval.as_ref(),
            b.interval.as_ref(),
            interval,
        );
        let timeout = self.default_time(Limit::CheckTimeout, DEFAULT_CHECK_TIMEOUT);
        let timeout = default(timeout.value.min(interval.value));
        let timeout =
            self.leaf_or(field::HEALTH_TIMEOUT, c.timeout.as_ref(), b.timeout.as_ref(), timeout);
        self.timeout_within_interval(&timeout, &interval);
        let port = self.value(field::HEALTH_PORT, c.port.as_ref(), b.port.as_ref());
        let scheme = Sourced { value: HealthCheckScheme::Http, source: PolicySource::Default };
        let scheme =
            self.leaf_or(field::HEALTH_SCHEME, c.scheme.as_ref(), b.scheme.as_ref(), scheme);
        let failures = self.default_number(Limit::Threshold, DEFAULT_FAILURES);
        let failures = self.leaf_or(
            field::HEALTH_FAILURES,
            c.failure_threshold.as_ref(),
            b.failure_threshold.as_ref(),
            failures,
        );
        let successes = self.default_number(Limit::Threshold, DEFAULT_SUCCESSES);
        let successes = self.leaf_or(
            field::HEALTH_SUCCESSES,
            c.success_threshold.as_ref(),
            b.success_threshold.as_ref(),
            successes,
        );
        let confirm = DEFAULT_CONFIRM_INTERVAL.min(Millis(interval.value.0 / 4));
        let confirm = self.default_time(Limit::ConfirmInterval, confirm);
        let confirm = self.leaf_or(
            field::HEALTH_CONFIRM,
            c.confirm_interval.as_ref(),
            b.confirm_interval.as_ref(),
            confirm,
        );
        let ejection = self.value(field::HEALTH_EJECTION, c.ejection.as_ref(), b.ejection.as_ref());
        Some(HealthCheck {
            endpoint: endpoint.value,
            interval: interval.value,
            timeout: timeout.value,
            port,
            scheme: scheme.value,
            failure_threshold: failures.value,
            success_threshold: successes.value,
            confirm_interval: confirm.value,
            ejection,
        })
    }

    fn timeout_within_interval(&mut self, timeout: &Sourced<Millis>, interval: &Sourced<Millis>) {
        if timeout.value <= interval.value {
            return;
        }
        let giver = later(timeout.source, interval.source);
        let field = if timeout.source == giver.into() {
            field::HEALTH_TIMEOUT
        } else {
            field::HEALTH_INTERVAL
        };
        let message = format!(
            "timeout {} ({:?}) is longer than interval {} ({:?}); a check must end before the next",
            timeout.value, timeout.source, interval.value, interval.source
        );
        self.refuse(giver, field, message);
    }
}
