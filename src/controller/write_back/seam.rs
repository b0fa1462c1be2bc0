//! What a look found out, and what it means for the write-back: whose record
//! it is decides what is reported.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::HealthReporter;
use super::endpoints::{self, Listing};
use super::sender::Surroundings;
use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
use crate::catalog::known::Presence;
use crate::catalog::report::ReportedHealth;
use crate::controller::context::Context;
use crate::controller::mirror::Id;
use crate::controller::queue::state::Lane;
use crate::domain::health::service::ServiceHealth;
use crate::domain::health::summary::Shown;
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::BindingKey;
use crate::domain::ownership;
use crate::domain::reasons as r;
use crate::domain::situation::Situation;
use crate::domain::target::Target;
use crate::domain::validate;

/// Something ended the look before the catalog was asked. Somebody else's rule
/// is no reason to take back what is known of the service, nor to fall silent
/// about it: what is known of the catalog then says whose it is.
pub(crate) fn obstructed(ctx: &Context, key: &BindingKey, target: &Target, situation: &Situation) {
    match situation {
        Situation::Suspended { .. } => ctx.write_back.hold(key),
        Situation::Blocked { reason, .. } if ownership::SHUT_OUT.contains(reason) => {
            ctx.write_back.release(key);
        }
        _ if ctx.known.is_live() => {
            if let Presence::Present(record) = ctx.known.presence(&target.catalog_id) {
                answered(ctx, key, target, &CatalogAnswer::Record(record));
            }
        }
        _ => {}
    }
}

/// The catalog answered. What it did not say leaves everything as it is.
pub(crate) fn answered(ctx: &Context, key: &BindingKey, target: &Target, answer: &CatalogAnswer) {
    if ctx.options.read_only {
        return;
    }
    match answer {
        CatalogAnswer::Record(record) if validate::is_own(record, target) => {
            let came = ctx.known.came(&target.catalog_id);
            ctx.write_back.claim(key, target, came);
        }
        CatalogAnswer::Record(_) => {
            ctx.write_back.release(key);
        }
        CatalogAnswer::NotFound { confirmed: true } => ctx.write_back.forget(key),
        CatalogAnswer::Unavailable { .. } => ctx.write_back.undecided(key, target),
        CatalogAnswer::NotFound { confirmed: false }
        | CatalogAnswer::Bad(_)
        | CatalogAnswer::NotAsked => {}
    }
}

/// The health of the service is this, as far as it is known. Of a frozen binding
/// nothing is said. A check that was taken away is said once, where the status
/// still tells of it.
pub(crate) fn judged(
    ctx: &Context,
    binding: &ServiceBinding,
    situation: &Situation,
    shown: Option<&Shown>,
) {
    let frozen = matches!(situation, Situation::Suspended { .. });
    let (Some(shown), Ok(target)) = (shown, validate::target(binding)) else {
        return;
    };
    if frozen || ctx.options.read_only {
        return;
    }
    let report = |health, healthy, total| {
        let reporter = HealthReporter::new(Arc::clone(&ctx.write_back));
        let key = validate::key(binding);
        reporter.set(&key, &target.catalog_id, health, healthy, total);
    };
    match shown {
        Shown::Service(summary) => {
            let counts = &summary.counts;
            let judged = counts.healthy + counts.unhealthy;
            match summary.health() {
                ServiceHealth::Probing => {}
                ServiceHealth::Healthy => report(ReportedHealth::Healthy, counts.healthy, judged),
                ServiceHealth::Degraded => report(ReportedHealth::Degraded, counts.healthy, judged),
                ServiceHealth::Unhealthy | ServiceHealth::NoEndpoints => {
                    report(ReportedHealth::Unhealthy, counts.healthy, judged);
                }
                ServiceHealth::Unknown(_)
                | ServiceHealth::Unchecked
                | ServiceHealth::NeverSucceeded => report(ReportedHealth::Unknown, 0, 0),
            }
        }
        Shown::NotConfigured | Shown::NotInForce => {
            let status = binding.status.as_ref();
            if status.is_some_and(|status| status.endpoints.is_some()) {
                report(ReportedHealth::Unknown, 0, 0);
            }
        }
    }
}

/// The binding is being deleted.
pub(crate) fn deleted(ctx: &Context, binding: &ServiceBinding, target: &Target, frozen: bool) {
    let key = validate::key(binding);
    if frozen {
        ctx.write_back.forget(&key);
    } else if !ctx.write_back.release(&key)
        && !has_gone(ctx, target)
        && was_reported(binding.status.as_ref())
    {
        ctx.write_back.withdraw(&target.catalog_id);
    }
}

/// Whether the catalog has no such service, and so nothing to take back.
fn has_gone(ctx: &Context, target: &Target) -> bool {
    let presence = ctx.known.presence(&target.catalog_id);
    ctx.known.is_live() && matches!(presence, Presence::Absent { .. })
}

/// Whether an earlier leader may have reported for the binding, as far as its
/// status says: this process has not looked at it before it was deleted. To
/// withdraw what was never told is harmless, and to leave it is not.
fn was_reported(status: Option<&ServiceBindingStatus>) -> bool {
    let conditions = status.iter().flat_map(|status| &status.conditions);
    let is = |type_: &str| conditions.clone().find(|c| c.type_ == type_);
    let programmed = is(r::MESH_PROGRAMMED).is_some_and(|c| c.status == "True");
    let seen = status.is_some_and(|status| status.record_seen.is_some());
    let own = is(r::CATALOG_SYNCED).is_some_and(|c| c.reason != r::RECORD_MISMATCH);
    let shut_out = |c: &Condition| ownership::SHUT_OUT.contains(&&*c.reason);
    (programmed || seen) && own && !is(r::CONFLICT).is_some_and(shut_out)
}

impl Surroundings for Context {
    fn listing(&self, service: &Id) -> Listing {
        let (service, slices) = self.world.served(service);
        endpoints::listing(service.as_ref(), &slices)
    }

    fn is_paused(&self) -> bool {
        self.world.is_paused()
    }

    fn history(&self) -> Option<u64> {
        self.known.history()
    }

    fn rival_changed(&self) {
        for key in self.world.keys() {
            self.queue.add(&key, Lane::Bulk);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::record::CatalogPosition;
    use crate::domain::status::{self, Findings};

    /// What is done with a binding of that situation that is deleted.
    fn withdrawn_in(situations: &[Situation]) -> bool {
        let mut status = None;
        for situation in situations {
            let seen = matches!(
                situation,
                Situation::WriteRefused { .. } | Situation::Programmed { .. }
            );
            let findings = Findings {
                seen: CatalogPosition::parse("a.1").filter(|_| seen),
                ..Findings::default()
            };
            let (before, now) = (status.as_ref(), Timestamp::UNIX_EPOCH);
            status = Some(status::next(before, Some(1), situation, findings, now));
        }
        was_reported(status.as_ref())
    }

    fn programmed(mismatch: Option<&str>) -> Situation {
        Situation::Programmed {
            mismatch: mismatch.map(str::to_owned),
            rival: None,
            beside: None,
            notes: Vec::new(),
        }
    }

    fn blocked(reason: &'static str) -> Situation {
        Situation::Blocked {
            reason,
            message: String::new(),
        }
    }

    #[test]
    fn what_an_earlier_leader_may_have_reported_is_withdrawn() {
        let refused = Situation::WriteRefused {
            reason: r::WRITE_REFUSED,
            message: String::new(),
        };
        assert!(withdrawn_in(&[programmed(None)]));
        assert!(withdrawn_in(&[refused]), "it was told all the same");
        assert!(withdrawn_in(&[programmed(None), blocked(r::FIELD_FIGHT)]));
    }

    #[test]
    fn what_nobody_reported_for_the_binding_is_not() {
        assert!(!withdrawn_in(&[]));
        assert!(!withdrawn_in(&[blocked(r::FIELD_FIGHT)]));
        assert!(!withdrawn_in(&[programmed(Some("another's"))]));
        for reason in ownership::SHUT_OUT {
            assert!(
                !withdrawn_in(&[programmed(None), blocked(reason)]),
                "{reason}"
            );
        }
    }
}
