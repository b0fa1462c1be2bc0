//! How others learn of it: the status by a look, Events, the log and metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::context::Context;
use super::super::queue::state::Lane;
use super::super::report;
use super::entry::{Entry, Snapshot};
use super::fleet::Fleet;
use crate::api::service_binding::EndpointTransition;
use crate::domain::health::address::Address;
use crate::domain::health::judge::Verdict;
use crate::domain::health::service::ServiceHealth;
use crate::domain::health::summary::Shown;
use crate::domain::health::transitions;
use crate::domain::names::BindingKey;
use crate::domain::reasons;
use crate::domain::status::Transition;
use crate::health::view::Verdicts;
use crate::metrics::Metrics;
use crate::metrics::verdicts::To;

/// Most endpoints that one Event names.
const MOST_NAMED: usize = 5;

/// Most lines in the log for one change of a service.
const MOST_LINES: usize = 20;

/// Counts the verdicts that are others than before.
pub(super) fn moved(metrics: &Metrics, before: &Verdicts, after: &Verdicts) {
    for (address, (verdict, _)) in after.endpoints.iter() {
        let known = before.endpoints.get(address).map(|(verdict, _)| *verdict);
        let from = known.and_then(to);
        if let Some(to) = to(*verdict).filter(|to| Some(*to) != from) {
            metrics.verdicts.moved(to);
        }
    }
}

fn to(verdict: Verdict) -> Option<To> {
    match verdict {
        Verdict::Pending => None,
        Verdict::Unknown(_) => Some(To::Unknown),
        Verdict::Healthy => Some(To::Healthy),
        Verdict::Unhealthy(_) => Some(To::Unhealthy),
    }
}

/// Counts endpoints by what is held of them.
pub(super) fn counted(metrics: &Metrics, fleet: &Fleet) {
    let (healthy, unhealthy) = fleet.standing().endpoints();
    metrics.verdicts.now(healthy, unhealthy);
}

/// Says what is due.
pub(super) fn due(ctx: &Context, fleet: &mut Fleet, now: Duration) {
    for key in fleet.standing().due_by(now) {
        let said = fleet.change(&key, |entry| {
            let (before, after) = entry.telling.say(now)?;
            Some((before, after.clone()))
        });
        let (Some(Some((before, after))), Some(entry)) = (said, fleet.get(&key)) else {
            continue;
        };
        let showing = (after.shown.clone(), transitions(ctx, &key, entry));
        ctx.monitor.show(&key, Some(showing));
        ctx.queue.add(&key, Lane::Urgent);
        // Who does not lead knows it as well, and says nothing.
        if ctx.options.read_only || ctx.leadership.epoch().is_some() {
            tell(ctx, &key, entry, before.as_deref(), &after);
        }
    }
}

/// The last changes of the endpoints, with those that the status tells of.
fn transitions(ctx: &Context, key: &BindingKey, entry: &Entry) -> Vec<EndpointTransition> {
    let report = entry.subject();
    let report = report.and_then(|subject| ctx.monitor.view.service(&subject.service));
    let mut seen = Vec::new();
    for endpoint in report.iter().flat_map(|report| &report.endpoints) {
        let pod = entry.target(endpoint.address);
        let pod = pod.map(|target| &*target.pod.1);
        let all = endpoint.history.iter();
        seen.extend(all.filter_map(|t| transitions::seen(endpoint.address, pod, t)));
    }
    transitions::shown(&ctx.world.transitions(key), &seen)
}

/// Says who became unhealthy, and who answers again.
fn tell(
    ctx: &Context,
    key: &BindingKey,
    entry: &Entry,
    before: Option<&Snapshot>,
    after: &Snapshot,
) {
    let (bad, good) = others(entry, before, after);
    let Some(subject) = entry.subject() else {
        return;
    };
    let health = health(&after.shown);
    for address in bad.iter().chain(&good).take(MOST_LINES) {
        let (failure, pod) = (entry.failure(*address), entry.target(*address));
        let why = failure.map(|(failure, _)| failure.to_string());
        let (endpoint, pod) = (address.to_string(), pod.map(|target| &*target.pod.1));
        let (id, service) = (subject.catalog_id.as_str(), subject.service.name.as_str());
        let namespace = subject.service.namespace.as_str();
        if failure.is_some() {
            tracing::warn!(
                catalogServiceId = id,
                serviceName = service,
                namespace,
                healthStatus = health,
                endpoint,
                pod,
                why,
                "Endpoint is unhealthy"
            );
        } else {
            tracing::info!(
                catalogServiceId = id,
                serviceName = service,
                namespace,
                healthStatus = health,
                endpoint,
                pod,
                "Endpoint is healthy again"
            );
        }
    }
    let Some(binding) = ctx.world.binding(key).filter(|_| !ctx.options.read_only) else {
        return;
    };
    for (addresses, reason, warning) in [
        (bad, reasons::ENDPOINT_UNHEALTHY, true),
        (good, reasons::ENDPOINT_HEALTHY, false),
    ] {
        if addresses.is_empty() {
            continue;
        }
        let transition = Transition {
            reason: reason.to_owned(),
            note: note(entry, &addresses, warning),
            warning,
        };
        ctx.events.tell(report::about(&binding), transition);
    }
}

/// Who became unhealthy, and who answers again: not those of whom nothing is
/// known any more.
pub(super) fn others(
    entry: &Entry,
    before: Option<&Snapshot>,
    after: &Snapshot,
) -> (Vec<Address>, Vec<Address>) {
    let nobody = BTreeSet::new();
    let was = before.map_or(&nobody, |before| &before.unhealthy);
    let bad = after.unhealthy.difference(was).copied();
    let good = was.difference(&after.unhealthy).copied();
    (
        bad.collect(),
        good.filter(|address| entry.is_healthy(*address)).collect(),
    )
}

/// Names endpoints, and says how they fail.
fn note(entry: &Entry, addresses: &[Address], unhealthy: bool) -> String {
    let named = addresses.iter().take(MOST_NAMED).map(|address| {
        let pod = entry.target(*address).map(|target| &*target.pod.1);
        let of = pod.map(|pod| format!(" of Pod {pod}")).unwrap_or_default();
        let why = entry.failure(*address);
        let why = why.map(|(failure, _)| format!(": {failure}"));
        format!("{address}{of}{}", why.unwrap_or_default())
    });
    let mut parts: Vec<_> = named.collect();
    let more = addresses.len().saturating_sub(MOST_NAMED);
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    let verb = if unhealthy {
        "unhealthy"
    } else {
        "healthy again"
    };
    format!("{verb}: {}", parts.join("; "))
}

/// As the log says it.
fn health(shown: &Shown) -> &'static str {
    let Shown::Service(summary) = shown else {
        return "Unknown";
    };
    match summary.health() {
        ServiceHealth::Healthy => "Healthy",
        ServiceHealth::Degraded => "Degraded",
        ServiceHealth::Unhealthy | ServiceHealth::NoEndpoints => "Unhealthy",
        ServiceHealth::Probing
        | ServiceHealth::Unknown(_)
        | ServiceHealth::Unchecked
        | ServiceHealth::NeverSucceeded => "Unknown",
    }
}
