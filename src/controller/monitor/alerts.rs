//! What is to be known outside of the cluster: endpoints that are unhealthy, and
//! services that are as a whole. Where a check has never worked, nobody is woken
//! up by it.

use std::sync::Arc;

use super::super::context::Context;
use super::entry::Entry;
use super::fleet::Fleet;
use crate::alert::value::{Alert, Service, What};
use crate::domain::health::mark::{self, Whose};
use crate::domain::health::service::{ServiceHealth, health};
use crate::domain::names::BindingKey;

/// All alerts that fire now.
pub(super) fn all(ctx: &Context, fleet: &Fleet) -> Vec<Alert> {
    let cluster = ctx.cluster.known();
    let mut all = Vec::new();
    for (key, entry) in fleet.failing().filter(|(_, entry)| entry.verdicts().proven) {
        let Some(subject) = entry.subject() else {
            continue;
        };
        let service = || {
            Arc::new(Service {
                cluster: cluster.clone(),
                service: subject.service.clone(),
                catalog_service_id: subject.catalog_id.clone(),
                binding: BindingKey::clone(key),
            })
        };
        of(ctx, entry, service, &mut all);
    }
    all
}

fn of(ctx: &Context, entry: &Entry, service: impl FnOnce() -> Arc<Service>, all: &mut Vec<Alert>) {
    let unhealthy = entry.unhealthy();
    let mut unhealthy = unhealthy
        .filter_map(|address| Some((entry.target(address)?, entry.failure(address)?)))
        .peekable();
    if unhealthy.peek().is_none() {
        return;
    }
    let service = service();
    let mut first = None;
    for (target, (failure, since)) in unhealthy {
        first = Some(first.map_or(since, |first: jiff::Timestamp| first.min(since)));
        let pod = ctx.world.pod(&target.pod);
        all.push(Alert {
            service: Arc::clone(&service),
            since,
            what: What::Endpoint {
                pod: target.pod.1.to_string(),
                address: target.address.socket(),
                failure,
                out: pod.is_some_and(|pod| mark::whose(&pod.view) == Whose::Ours),
            },
        });
    }
    let counts = &entry.verdicts().counts;
    if let Some(since) = first
        && health(counts, entry.verdicts().proven) == ServiceHealth::Unhealthy
    {
        all.push(Alert {
            service,
            since,
            what: What::Service {
                healthy: counts.healthy,
                judged: counts.healthy + counts.unhealthy,
            },
        });
    }
}
