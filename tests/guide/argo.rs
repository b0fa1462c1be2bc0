//! Does Argo CD find the right health in what bindings say? Runs the program of
//! the guide by Lua of Argo CD's version, on what the operator writes.

use catalog_mesh_controller::domain::reasons as r;
use catalog_mesh_controller::domain::situation::{InForce, Situation};
use catalog_mesh_controller::domain::status::{Findings, next};
use jiff::Timestamp;
use mlua::{Lua, LuaSerdeExt as _};
use serde_json::{Value, json};

use crate::page::Page;

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

#[test]
fn what_waits_is_told_from_what_somebody_has_to_mend() {
    let unusable = |reason| Situation::ServiceUnusable {
        reason,
        message: "x".to_owned(),
    };
    let away = |reason| Situation::CatalogAway {
        reason,
        message: "x".to_owned(),
    };
    let blocked = |reason| Situation::Blocked {
        reason,
        message: "x".to_owned(),
    };
    let waiting = [
        Situation::NotFound,
        unusable(r::SERVICE_NOT_FOUND),
        away(r::CATALOG_UNAVAILABLE),
        away(r::CATALOG_RATE_LIMITED),
    ];
    for situation in &waiting {
        assert_eq!(
            health(&binding(1, situation)).0,
            "Progressing",
            "{situation:?}"
        );
    }
    let broken = [
        Situation::InvalidRecord("timeout".to_owned()),
        Situation::InvalidBinding("timeout".to_owned()),
        Situation::DeletionHeld("x".to_owned()),
        unusable(r::HEADLESS),
        unusable(r::NO_HTTP_PORT),
        away(r::CATALOG_UNAUTHORIZED),
        blocked(r::NOT_OURS),
        blocked(r::FIELD_FIGHT),
        Situation::WriteRefused {
            reason: r::WRITE_REFUSED,
            message: "x".to_owned(),
        },
    ];
    for situation in &broken {
        let (status, message) = health(&binding(1, situation));
        assert_eq!(status, "Degraded", "{situation:?}");
        // It says why, in the words of the condition.
        let row = situation.row(InForce::Nothing);
        let reason = row.ready.unwrap().reason;
        assert!(message.starts_with(reason), "{message}");
    }
}
