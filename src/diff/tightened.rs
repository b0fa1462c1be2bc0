//! Has the operator tightened a DestinationRule's outlier detection, while an
//! unhealthy endpoint has to stay? That is told by the rule: it holds just what
//! is written then by the policy that was synced last, and nobody else has set
//! any of it. No IO.

use serde_json::Value;

use super::look::Live;
use crate::api::service_binding::PolicyEntry;
use crate::domain::duration::Millis;
use crate::domain::health::outlier::{self, Tightened};
use crate::domain::policy::{OutlierPolicy, field};

/// Each field of the detection, and what it is called in a policy.
const FIELDS: [(&str, &str); 4] = [
    ("consecutive5xxErrors", field::BREAKER_ERRORS),
    ("interval", field::BREAKER_INTERVAL),
    ("baseEjectionTime", field::BREAKER_EJECTION),
    ("maxEjectionPercent", field::BREAKER_PERCENT),
];

/// What no policy has, and is there only while it is tightened.
const LEAST: &str = "minHealthPercent";

/// By how much it is, by the policy that the binding's status shows.
pub(super) fn of(live: &Live, synced: &[PolicyEntry]) -> Option<Tightened> {
    let path = ["spec", "trafficPolicy", "outlierDetection"];
    let ours = |(name, _): &(&str, &str)| {
        let path: Vec<_> = path.iter().chain([name]).map(ToString::to_string).collect();
        live.owners.ours_alone(&path)
    };
    if !FIELDS.iter().all(ours) {
        return None;
    }
    let detection = live.object.pointer(&format!("/{}", path.join("/")))?;
    let least = detection.get(LEAST).filter(|_| ours(&(LEAST, "")));
    let least = least.and_then(Value::as_u64);
    let held = FIELDS.map(|(name, _)| match detection.get(name) {
        Some(Value::String(text)) => text.clone(),
        other => other.map(ToString::to_string).unwrap_or_default(),
    });
    let said = FIELDS.map(|(_, field)| {
        let entry = synced.iter().find(|entry| entry.field == field);
        entry.map(|entry| entry.value.clone()).unwrap_or_default()
    });
    let held = OutlierPolicy {
        min_health_percent: least.and_then(|least| u32::try_from(least).ok()),
        ..policy(&held)?
    };
    outlier::told_by(&held, &policy(&said)?)
}

fn policy([errors, interval, ejection, percent]: &[String; 4]) -> Option<OutlierPolicy> {
    Some(OutlierPolicy {
        consecutive_errors: errors.parse().ok()?,
        interval: Millis::parse(interval).ok()?,
        base_ejection_time: Millis::parse(ejection).ok()?,
        max_ejection_percent: percent.parse().ok()?,
        min_health_percent: None,
    })
}
