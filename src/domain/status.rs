//! The status that a situation leads to. Times move only with what they
//! stand for, so that a status that says the same is the same.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::reasons as r;
use super::situation::{Fact, InForce, Row, Situation, Truth};
use crate::api::service_binding::{ChildStatus, PolicyEntry, ServiceBindingStatus, SyncStatus};

/// Longest message of a condition; the rest is cut off.
const MESSAGE_LIMIT: usize = 1024;

/// What a look brought, besides the situation.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Effective policy with its sources; absent where none was computed.
    pub policy: Option<Vec<PolicyEntry>>,
    /// The objects as they were stored; absent where none was touched.
    pub children: Option<Vec<ChildStatus>>,
    /// Whether an object was written.
    pub wrote: bool,
    /// Whether all objects were removed.
    pub removed: bool,
    /// Whether catalog or binding ask for health checks; absent: as it is.
    pub checked: Option<bool>,
}

/// The next status of a binding of that generation.
pub fn next(
    previous: Option<&ServiceBindingStatus>,
    generation: Option<i64>,
    situation: &Situation,
    findings: Findings,
    now: Timestamp,
) -> ServiceBindingStatus {
    let mut status = previous.cloned().unwrap_or_default();
    let row = situation.row(in_force(&status, generation));
    let frozen = matches!(situation, Situation::Suspended { .. });

    let sync = row.sync;
    set_conditions(&mut status, generation, row, findings.checked, now);
    status.sync_status = sync.or(status.sync_status).or(Some(SyncStatus::Syncing));
    // A frozen binding has not been looked at: the generation that was last
    // acted upon stays the observed one.
    if !frozen {
        status.observed_generation = generation;
    }
    if let Some(policy) = findings.policy {
        status.policy = policy;
    }
    if findings.removed {
        status.children.clear();
    }
    // An object that was not reached this time is still what it was.
    for child in findings.children.into_iter().flatten() {
        status.children.retain(|c| c.kind != child.kind);
        status.children.push(child);
    }
    status.children.sort_by(|a, b| a.kind.cmp(&b.kind));
    let first = status.last_sync.is_none() && matches!(situation, Situation::Programmed { .. });
    if findings.wrote || first {
        status.last_sync = Some(Time(now));
    }
    status
}

/// Which generation of the binding the mesh holds.
fn in_force(status: &ServiceBindingStatus, generation: Option<i64>) -> InForce {
    let programmed = status
        .conditions
        .iter()
        .find(|c| c.type_ == r::MESH_PROGRAMMED && c.status == Truth::True.as_str());
    match programmed {
        Some(c) if c.observed_generation == generation => InForce::ThisGeneration,
        Some(_) => InForce::AnEarlierOne,
        None => InForce::Nothing,
    }
}

fn set_conditions(
    status: &mut ServiceBindingStatus,
    generation: Option<i64>,
    row: Row,
    checked: Option<bool>,
    now: Timestamp,
) {
    let fact = |truth, reason| Fact {
        truth,
        reason,
        message: String::new(),
    };
    let health = checked.map(|checked| {
        fact(
            Truth::Unknown,
            if checked {
                r::PROBING
            } else {
                r::NOT_CONFIGURED
            },
        )
    });
    // What each condition says where nothing is known of this binding yet.
    let cells = [
        (r::READY, row.ready, fact(Truth::False, r::PROGRESSING)),
        (
            r::CATALOG_SYNCED,
            row.catalog,
            fact(Truth::Unknown, r::PROGRESSING),
        ),
        (
            r::MESH_PROGRAMMED,
            row.mesh,
            fact(Truth::Unknown, r::PROGRESSING),
        ),
        (r::HEALTHY, health, fact(Truth::Unknown, r::PROGRESSING)),
        (
            r::CONFLICT,
            row.conflict,
            fact(Truth::False, r::NO_CONFLICT),
        ),
        (r::SUSPENDED, row.suspended, fact(Truth::False, r::ACTIVE)),
    ];
    let before = std::mem::take(&mut status.conditions);
    status.conditions = cells
        .into_iter()
        .map(|(type_, cell, unknown)| {
            let previous = before.iter().find(|c| c.type_ == type_);
            match (cell, previous) {
                (None, Some(previous)) => previous.clone(),
                (None, None) => condition(type_, unknown, None, generation, now),
                (Some(fact), previous) => condition(type_, fact, previous, generation, now),
            }
        })
        .collect();
}

fn condition(
    type_: &str,
    fact: Fact,
    previous: Option<&Condition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = fact.truth.as_str();
    let since = previous
        .filter(|p| p.status == status)
        .map(|p| p.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: fact.reason.to_owned(),
        message: fact.message.chars().take(MESSAGE_LIMIT).collect(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

/// A change that users are told of by an Event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Transition {
    /// Reason of the condition that changed.
    pub reason: String,
    /// Its message, or what happened.
    pub note: String,
    /// Whether it is bad news.
    pub warning: bool,
}

/// What changed between two statuses, as far as it is worth an Event: Ready
/// with its reason, and Suspended.
pub fn transitions(
    before: Option<&ServiceBindingStatus>,
    after: &ServiceBindingStatus,
) -> Vec<Transition> {
    let find = |status: &ServiceBindingStatus, type_: &str| {
        status.conditions.iter().find(|c| c.type_ == type_).cloned()
    };
    let changed = |type_: &str| {
        let new = find(after, type_)?;
        let old = before.and_then(|status| find(status, type_));
        let same = old
            .as_ref()
            .is_some_and(|old| old.status == new.status && old.reason == new.reason);
        (!same).then_some((old, new))
    };
    let mut found = Vec::new();
    if let Some((_, new)) = changed(r::READY) {
        let warning = new.status != Truth::True.as_str();
        let note = if new.message.is_empty() {
            format!("Ready is {}", new.status)
        } else {
            new.message
        };
        found.push(Transition {
            reason: new.reason,
            note,
            warning,
        });
    }
    if let Some((old, new)) = changed(r::SUSPENDED)
        && (old.is_some() || new.status == Truth::True.as_str())
    {
        let note = if new.message.is_empty() {
            "work for this binding goes on".to_owned()
        } else {
            new.message
        };
        found.push(Transition {
            reason: new.reason,
            note,
            warning: false,
        });
    }
    found
}
