//! What the admin port shows of the health checks, to people: every service, or
//! the endpoints of one with what became of them.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::domain::health::judge::{Failure, Unknown, Verdict};
use crate::domain::names::{Namespace, ServiceKey, ServiceName};
use crate::health::view::{EndpointReport, HealthView};

/// Every service that is checked, or the one that is asked for, as
/// `<namespace>/<name>`; nothing where that one is not checked.
pub(super) fn health(view: &HealthView, service: Option<&str>) -> Option<Value> {
    let Some(service) = service else {
        let all = view.services().into_iter().map(|(key, counts, proven)| {
            json!({
                "service": key.to_string(),
                "endpoints": counts.total,
                "healthy": counts.healthy,
                "unhealthy": counts.unhealthy,
                "proven": proven,
            })
        });
        let held = view.held().map(|doubt| format!("{doubt:?}"));
        return Some(json!({"held": held, "services": all.collect::<Vec<_>>()}));
    };
    let (namespace, name) = service.split_once('/')?;
    let key = ServiceKey {
        namespace: Namespace::parse(namespace).ok()?,
        name: ServiceName::parse(name).ok()?,
    };
    let report = view.service(&key)?;
    let endpoints: Vec<_> = report.endpoints.iter().map(endpoint).collect();
    Some(json!({"service": service, "proven": report.proven, "endpoints": endpoints}))
}

fn endpoint(report: &EndpointReport) -> Value {
    let history = report.history.iter().map(|transition| {
        json!({
            "at": transition.at.to_string(),
            "from": words(transition.from),
            "to": words(transition.to),
        })
    });
    let failed = |(at, failure): (Timestamp, Failure)| json!({"at": at.to_string(), "why": failure.to_string()});
    json!({
        "address": report.address.to_string(),
        "verdict": words(report.verdict),
        "since": report.since.to_string(),
        "lastFailure": report.last_failure.map(failed),
        "history": history.collect::<Vec<_>>(),
    })
}

fn words(verdict: Verdict) -> String {
    let unknown = |why: Unknown| format!("unknown: {why}");
    match verdict {
        Verdict::Pending => "not judged yet".to_owned(),
        Verdict::Unknown(why) => unknown(why),
        Verdict::Healthy => "healthy".to_owned(),
        Verdict::Unhealthy(failure) => format!("unhealthy: {failure}"),
    }
}
