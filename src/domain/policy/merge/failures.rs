//! The merge of what happens to failing requests and endpoints: retries,
//! outlier detection and health checks. No IO.

use super::{Merge, Sourced, first, later};
use crate::api::policy::HealthCheckScheme;
use crate::api::service_binding::PolicySource;
use crate::domain::duration::Millis;
use crate::domain::policy::bounds::Limit;
use crate::domain::policy::field;
use crate::domain::policy::layer::{
    CircuitBreakerLayer, HealthCheckLayer, PolicyLayer, RetriesLayer,
};
use crate::domain::policy::{HealthCheck, OutlierPolicy, Retries};

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

pub(super) struct SourcedRetries {
    pub(super) policy: Retries,
    source: PolicySource,
}

impl SourcedRetries {
    pub(super) fn attempts(&self) -> Sourced<u32> {
        let value = match self.policy {
            Retries::Off => 0,
            Retries::On { attempts, .. } => attempts,
        };
        Sourced {
            value,
            source: self.source,
        }
    }
}

impl Merge<'_> {
    pub(super) fn retries(
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
            return Some(SourcedRetries {
                policy: Retries::Off,
                source,
            });
        }
        let per_try = self.leaf(
            field::RETRIES_PER_TRY,
            catalog.per_try_timeout.as_ref(),
            binding.per_try_timeout.as_ref(),
        );
        let on = self.leaf(
            field::RETRIES_ON,
            catalog.retry_on.as_ref(),
            binding.retry_on.as_ref(),
        );
        let Some(Sourced {
            value: attempts,
            source,
        }) = attempts
        else {
            let given = per_try
                .map(|leaf| leaf.source)
                .or(on.map(|leaf| leaf.source));
            if let Some(source) = given {
                let message = "is missing, so perTryTimeout and retryOn have no meaning; give it or leave them out";
                self.refuse(
                    later(source, source),
                    field::RETRIES_ATTEMPTS,
                    message.to_owned(),
                );
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

    pub(super) fn outlier_detection(
        &mut self,
        catalog: &PolicyLayer,
        binding: &PolicyLayer,
    ) -> Option<OutlierPolicy> {
        let checks = (catalog.health_check.as_ref(), binding.health_check.as_ref());
        let breakers = (
            catalog.circuit_breaker.as_ref(),
            binding.circuit_breaker.as_ref(),
        );
        if matches!((checks, breakers), ((None, None), (None, None))) {
            return None;
        }
        let nothing = CircuitBreakerLayer::default();
        let (c, b) = (
            breakers.0.unwrap_or(&nothing),
            breakers.1.unwrap_or(&nothing),
        );
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
            min_health_percent: None,
        })
    }

    pub(super) fn health_check(
        &mut self,
        catalog: Option<&HealthCheckLayer>,
        binding: Option<&HealthCheckLayer>,
    ) -> Option<HealthCheck> {
        if catalog.is_none() && binding.is_none() {
            return None;
        }
        let nothing = HealthCheckLayer::default();
        let (c, b) = (catalog.unwrap_or(&nothing), binding.unwrap_or(&nothing));
        let default = |value| Sourced {
            value,
            source: PolicySource::Default,
        };
        let endpoint = Sourced {
            value: DEFAULT_ENDPOINT.to_owned(),
            source: PolicySource::Default,
        };
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
        let timeout = self.leaf_or(
            field::HEALTH_TIMEOUT,
            c.timeout.as_ref(),
            b.timeout.as_ref(),
            timeout,
        );
        self.timeout_within_interval(&timeout, &interval);
        let port = self.value(field::HEALTH_PORT, c.port.as_ref(), b.port.as_ref());
        let scheme = Sourced {
            value: HealthCheckScheme::Http,
            source: PolicySource::Default,
        };
        let scheme = self.leaf_or(
            field::HEALTH_SCHEME,
            c.scheme.as_ref(),
            b.scheme.as_ref(),
            scheme,
        );
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
        let ejection = self.value(
            field::HEALTH_EJECTION,
            c.ejection.as_ref(),
            b.ejection.as_ref(),
        );
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
