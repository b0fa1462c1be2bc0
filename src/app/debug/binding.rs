//! The pages about bindings: which there are, and of each what was computed for
//! it, from which source, why it is not applied, and what its last checks came
//! to.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::controller::context::Context;
use crate::controller::explain::{Computed, Explained, Object, explain};
use crate::controller::looks::Look;
use crate::controller::queue::state::Standing;
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::BindingKey;
use crate::domain::plan::Guard;
use crate::domain::situation::{Fact, InForce, Situation};
use crate::health::view::HealthView;

/// Every binding by name, with what it waits for.
pub(super) fn all(ctx: &Context) -> Value {
    let one = |key: BindingKey| {
        json!({
            "binding": key.to_string(),
            "standing": ctx.queue.standing(&key).map(|standing| standing.place),
            "lastLook": ctx.looks.last(&key).map(|look| why(&look.situation)["reason"].clone()),
        })
    };
    let bindings: Vec<_> = ctx.world.keys().into_iter().map(one).collect();
    json!({"leads": ctx.leadership.epoch().is_some(), "bindings": bindings})
}

/// All about one binding; none where there is no such binding.
pub(super) fn one(
    ctx: &Context,
    view: &HealthView,
    namespace: String,
    name: String,
) -> Option<Value> {
    let key = BindingKey::new(namespace, name);
    let known = explain(ctx, &key)?;
    let metadata = &known.binding.metadata;
    let status = known.binding.status.as_ref();
    let service = known.target.as_ref().map(|target| &target.service);
    let policy = known.computed.as_ref().map(|computed| &computed.policy);
    Some(json!({
        "binding": key.to_string(),
        "uid": metadata.uid,
        "generation": metadata.generation,
        "beingDeleted": metadata.deletion_timestamp.is_some(),
        "catalogServiceId": known.binding.spec.catalog_service_id,
        "service": service.map(ToString::to_string),
        "host": known.computed.as_ref().ok().map(|computed| &computed.host),
        "replica": {"leads": ctx.leadership.epoch().is_some(), "readOnly": ctx.options.read_only},
        "catalog": {
            "says": words(&known.catalog),
            "followedUpTo": known.followed.as_ref().map(ToString::to_string),
        },
        "policy": policy.ok(),
        "notes": known.computed.as_ref().ok().map(|computed| &computed.notes),
        "objects": known.computed.as_ref().ok().map(objects),
        "whyNotApplied": not_applied(ctx, &known),
        "lastLook": known.last.as_ref().map(look),
        "nextLook": known.standing.map(next),
        "health": {
            "condition": known.shown.as_ref().map(|shown| fact(&shown.fact())),
            "ejected": known.stays.ejected,
            "hadToStay": known.stays.floored,
            "allStay": known.stays.opened,
            "lastWriteToAPodFailed": known.pod_failed,
            "checks": service.and_then(|service| super::checks(view, service)),
        },
        "conditions": status.map(|status| &status.conditions),
    }))
}

/// Why the mesh is not as computed; null where it is.
fn not_applied(ctx: &Context, known: &Explained) -> Value {
    let computed = match &known.computed {
        Ok(computed) => computed,
        Err(situation) => return why(situation),
    };
    if computed
        .objects
        .iter()
        .all(|object| object.missing.is_none())
    {
        return Value::Null;
    }
    if ctx.options.read_only {
        return json!({"reason": "ReadOnly", "message": "this operator writes nothing"});
    }
    if ctx.leadership.epoch().is_none() {
        let message = "another replica leads and writes; what it found is on its own page";
        return json!({"reason": "StandingBy", "message": message});
    }
    match &known.last {
        Some(look) if !matches!(look.situation, Situation::Programmed { .. }) => {
            why(&look.situation)
        }
        _ => json!({"reason": "NotYet", "message": "the next look writes it"}),
    }
}

/// What the condition Ready says of the situation, or Suspended.
fn why(situation: &Situation) -> Value {
    let row = situation.row(InForce::Nothing);
    let said = row.ready.or(row.suspended);
    said.as_ref().map_or(Value::Null, fact)
}

fn fact(fact: &Fact) -> Value {
    json!({"status": fact.truth.as_str(), "reason": fact.reason, "message": fact.message})
}

fn words(answer: &CatalogAnswer) -> String {
    match answer {
        CatalogAnswer::Record(record) => {
            let (namespace, name) = (&record.namespace, &record.name);
            let revision = record.revision;
            format!("a record of {namespace}/{name}, revision {revision}")
        }
        CatalogAnswer::Unavailable { reason, message } => format!("no answer, {reason}: {message}"),
        CatalogAnswer::NotFound { confirmed: true } => "no such service, confirmed".to_owned(),
        CatalogAnswer::NotFound { confirmed: false } => "no such service".to_owned(),
        CatalogAnswer::Bad(bad) => format!("a bad record: {bad}"),
        CatalogAnswer::NotAsked => "not asked yet".to_owned(),
    }
}

fn objects(computed: &Computed) -> Vec<Value> {
    let one = |object: &Object| {
        let state = match &object.missing {
            None => "in force",
            Some(Guard::Absent) => "to be created",
            Some(Guard::Present { .. }) => "to be changed",
            Some(Guard::HandedOver { .. }) => "to be taken over",
        };
        json!({"state": state, "manifest": object.manifest})
    };
    computed.objects.iter().map(one).collect()
}

fn look(look: &Look) -> Value {
    json!({
        "at": look.at.to_string(),
        "took": format!("{}ms", look.took.as_millis()),
        "catalog": words(&look.catalog),
        "found": why(&look.situation),
        "wrote": look.wrote,
        "triedAgain": look.again,
    })
}

fn next(standing: Standing) -> Value {
    let left = standing
        .until
        .map(|until| until.saturating_duration_since(Instant::now()));
    let at = left.and_then(|left| Timestamp::now().checked_add(left).ok());
    json!({
        "waits": standing.place,
        "at": at.map(|at| at.to_string()),
        "failuresInARow": standing.failures,
    })
}
