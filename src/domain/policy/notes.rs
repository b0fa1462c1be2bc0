//! What a policy may say, but hardly means to. No IO.

use super::{EffectivePolicy, HealthCheck, Retries};
use crate::domain::duration::Millis;

/// An unhealthy endpoint must be known within this time.
const DETECTION: Millis = Millis::from_secs(30);

/// Conditions under which Envoy tries again after an attempt that took too
/// long. Under any other, `504` too, the attempt just ends the request.
const RETRIES_A_TIMEOUT: [&str; 3] = ["reset", "5xx", "gateway-error"];

/// One sentence for each.
pub(super) fn of(policy: &EffectivePolicy) -> Vec<String> {
    let notes = [
        policy.retries.as_ref().and_then(timeout_is_not_retried),
        attempt_outlasts_the_request(policy),
        nothing_is_ejected(policy),
        policy
            .health_check
            .as_ref()
            .and_then(detection_takes_too_long),
    ];
    notes.into_iter().flatten().collect()
}

fn timeout_is_not_retried(retries: &Retries) -> Option<String> {
    let Retries::On {
        per_try_timeout: Some(time),
        retry_on,
        ..
    } = retries
    else {
        return None;
    };
    let on = retry_on.as_deref().unwrap_or_default();
    let retried = on
        .split(',')
        .any(|condition| RETRIES_A_TIMEOUT.contains(&condition));
    let which = if on.is_empty() {
        "Istio's own retryOn"
    } else {
        "its retryOn"
    };
    (!retried).then(|| {
        format!(
            "retries.perTryTimeout {time} ends the request instead of starting another attempt, since {which} has none of reset, 5xx and gateway-error"
        )
    })
}

fn attempt_outlasts_the_request(policy: &EffectivePolicy) -> Option<String> {
    let Some(Retries::On {
        per_try_timeout: Some(attempt),
        ..
    }) = policy.retries
    else {
        return None;
    };
    let timeout = policy.timeout.filter(|timeout| attempt >= *timeout)?;
    Some(format!(
        "retries.perTryTimeout {attempt} has no effect, since timeout {timeout} ends the request no later"
    ))
}

fn nothing_is_ejected(policy: &EffectivePolicy) -> Option<String> {
    let outlier = policy.outlier_detection.as_ref()?;
    (outlier.max_ejection_percent == 0).then(|| {
        "circuitBreaker.maxEjectionPercent 0 means that no endpoint is ever taken out; no outlierDetection is written"
            .to_owned()
    })
}

fn detection_takes_too_long(check: &HealthCheck) -> Option<String> {
    let time = check.detection_time();
    (time > DETECTION).then(|| {
        format!(
            "an endpoint that hangs is known to be unhealthy after {time} (interval {} + {} x timeout {} + {} x confirmInterval {}), later than {DETECTION}",
            check.interval,
            check.silences(),
            check.timeout,
            check.silences() - 1,
            check.confirm_interval
        )
    })
}

impl HealthCheck {
    /// Checks without an answer that make an endpoint unhealthy: one silence alone
    /// is never believed.
    fn silences(&self) -> u32 {
        self.failure_threshold.max(2)
    }

    /// The longest time in which an endpoint that hangs is found out: it does so
    /// right after a good answer.
    pub fn detection_time(&self) -> Millis {
        let silences = u64::from(self.silences());
        let waits = silences.saturating_mul(self.timeout.0);
        let confirm = self.confirm_interval.min(self.interval);
        let pauses = (silences - 1).saturating_mul(confirm.0);
        Millis(self.interval.0.saturating_add(waits).saturating_add(pauses))
    }
}
