//! Does Argo CD find the right health in what bindings say? Runs the program of
//! the guide by Lua of Argo CD's version, on what the operator writes.

use std::collections::BTreeSet;

use catalog_mesh_controller::api::service_binding::ServiceBindingStatus;
use catalog_mesh_controller::domain::reasons as r;
use catalog_mesh_controller::domain::situation::{InForce, Situation};
use catalog_mesh_controller::domain::status::{Findings, next};
use jiff::Timestamp;
use mlua::{Lua, LuaSerdeExt as _};
use serde_json::{Value, json};

use crate::page::{Page, rows};
use crate::situations;

/// The program, as the ConfigMap holds it.
fn program() -> String {
    let page = Page::read("gitops.md");
    let block = page
        .text
        .split("```yaml\n")
        .filter_map(|rest| rest.split("```").next())
        .find(|block| block.contains("argocd-cm"))
        .unwrap();
    let config: Value = serde_saphyr::from_str(block).unwrap();
    let key = "resource.customizations.health.aikernel.io_ServiceBinding";
    config["data"][key].as_str().unwrap().to_owned()
}

/// What Argo CD would say of this binding: status and message.
fn health(binding: &Value) -> (String, String) {
    let lua = Lua::new();
    let object = lua.to_value(binding).unwrap();
    lua.globals().set("obj", object).unwrap();
    let answer: mlua::Table = lua.load(program()).eval().unwrap();
    (
        answer.get("status").unwrap(),
        answer.get("message").unwrap(),
    )
}

/// A binding of this generation with the status that a situation leads to.
fn binding(generation: i64, situation: &Situation) -> Value {
    let findings = Findings::default();
    let status = next(None, Some(1), situation, findings, Timestamp::UNIX_EPOCH);
    json!({"metadata": {"generation": generation}, "status": status})
}

fn programmed() -> Situation {
    Situation::Programmed {
        mismatch: None,
        rival: None,
        beside: None,
        notes: Vec::new(),
    }
}

#[test]
fn a_binding_that_is_in_force_is_healthy() {
    let (status, message) = health(&binding(1, &programmed()));
    assert_eq!((&*status, &*message), ("Healthy", "Synced"));
}

#[test]
fn one_that_was_changed_since_or_never_looked_at_is_being_worked_on() {
    let (status, _) = health(&binding(2, &programmed()));
    assert_eq!(status, "Progressing");
    let (status, _) = health(&json!({"metadata": {"generation": 1}}));
    assert_eq!(status, "Progressing");
}

#[test]
fn a_frozen_one_is_suspended() {
    let frozen = Situation::Suspended {
        reason: r::SUSPENDED_BY_BINDING,
        message: String::new(),
    };
    assert_eq!(health(&binding(1, &frozen)).0, "Suspended");
}

/// The table's situations, each with every reason that it can have.
fn situations() -> Vec<Situation> {
    let mut all = Vec::new();
    for (situation, _, _) in situations::all() {
        let reasons: &[&'static str] = match situation {
            Situation::CatalogAway { .. } => &[
                r::CATALOG_UNAVAILABLE,
                r::CATALOG_RATE_LIMITED,
                r::CATALOG_UNAUTHORIZED,
            ],
            Situation::Blocked { .. } => &[
                r::NOT_OURS,
                r::ANOTHER_BINDING,
                r::NAMESPACE_NOT_ALLOWED,
                r::NAMESPACE_NOT_SERVED,
                r::FOREIGN_RULE,
                r::FIELD_FIGHT,
            ],
            Situation::WriteRefused { .. } => &[r::WRITE_REFUSED, r::MESH_API_MISSING],
            Situation::ServiceUnusable { .. } => {
                &[r::SERVICE_NOT_FOUND, r::HEADLESS, r::NO_HTTP_PORT]
            }
            Situation::Suspended { .. } => &[r::SUSPENDED_BY_BINDING, r::PAUSED],
            _ => &[""],
        };
        for new in reasons {
            let mut situation = situation.clone();
            match &mut situation {
                Situation::CatalogAway { reason, .. }
                | Situation::Blocked { reason, .. }
                | Situation::WriteRefused { reason, .. }
                | Situation::ServiceUnusable { reason, .. }
                | Situation::Suspended { reason, .. } => *reason = new,
                _ => {}
            }
            all.push(situation);
        }
    }
    all
}

/// Whether somebody has to mend it, or it is waited for. No wildcard: a new
/// situation has to be decided upon.
fn wanted(situation: &Situation, in_force: InForce) -> &'static str {
    match situation {
        Situation::Programmed { .. } => "Healthy",
        Situation::Suspended { .. } => "Suspended",
        // What is in force stays so without a catalog.
        Situation::CatalogAway { .. } if in_force == InForce::ThisGeneration => "Healthy",
        Situation::CatalogAway { reason, .. } if *reason != r::CATALOG_UNAUTHORIZED => {
            "Progressing"
        }
        Situation::ServiceUnusable { reason, .. } if *reason == r::SERVICE_NOT_FOUND => {
            "Progressing"
        }
        Situation::NotFound | Situation::Unlisted(_) => "Progressing",
        Situation::CatalogAway { .. }
        | Situation::Removed { .. }
        | Situation::DeletionHeld(_)
        | Situation::InvalidRecord(_)
        | Situation::InvalidBinding(_)
        | Situation::Blocked { .. }
        | Situation::WriteRefused { .. }
        | Situation::RemovalRefused(_)
        | Situation::ServiceUnusable { .. } => "Degraded",
    }
}

#[test]
fn in_every_situation_what_waits_is_told_from_what_somebody_has_to_mend() {
    let mut reasons = BTreeSet::from([r::PROGRESSING.to_owned()]);
    let status = |before: Option<&ServiceBindingStatus>, generation, situation: &Situation| {
        let (findings, now) = (Findings::default(), Timestamp::UNIX_EPOCH);
        next(before, Some(generation), situation, findings, now)
    };
    for situation in situations() {
        for in_force in [
            InForce::ThisGeneration,
            InForce::AnEarlierOne,
            InForce::Nothing,
        ] {
            let before = match in_force {
                InForce::ThisGeneration => Some(status(None, 2, &programmed())),
                InForce::AnEarlierOne => Some(status(None, 1, &programmed())),
                InForce::Nothing => None,
            };
            let status = status(before.as_ref(), 2, &situation);
            let ready = status.conditions.iter().find(|c| c.type_ == r::READY);
            let reason = ready.map_or_else(String::new, |ready| ready.reason.clone());
            let binding = json!({"metadata": {"generation": 2}, "status": status});
            let (status, message) = health(&binding);
            let place = format!("{situation:?}, {in_force:?}");
            assert_eq!(status, wanted(&situation, in_force), "{place}");
            if status != "Suspended" {
                // It says why, in the words of the condition.
                assert!(message.starts_with(&reason), "{place}: {message}");
                reasons.insert(reason);
            }
        }
    }
    assert_eq!(reasons, reasons_of_ready());
}

/// Those that the page on conditions lists for it.
fn reasons_of_ready() -> BTreeSet<String> {
    let page = Page::read("conditions.md");
    let (_, section) = page.text.split_once("\n## Reasons\n").unwrap();
    let mut stands_in = String::new();
    let mut reasons = BTreeSet::new();
    for row in rows(section.split("\n## ").next().unwrap()) {
        if row[1] != "the same" {
            stands_in.clone_from(&row[1]);
        }
        if stands_in.split(", ").any(|condition| condition == r::READY) {
            reasons.insert(row[0].trim_matches('`').to_owned());
        }
    }
    reasons
}
