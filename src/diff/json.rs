//! How are findings printed for programs? As one JSON object. No IO.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::finding::{Action, Altered, Finding, Said};
use super::lines::Sign;
use super::source::Source;
use crate::api::service_binding::PolicyEntry;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<'a> {
    bindings: Vec<Binding<'a>>,
    counts: BTreeMap<&'static str, usize>,
    passed_over: usize,
}

#[derive(Serialize)]
struct Binding<'a> {
    namespace: &'a str,
    name: &'a str,
    action: Action,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    notes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a [PolicyEntry]>,
    objects: Vec<Object<'a>>,
}

#[derive(Serialize)]
struct Object<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    action: Action,
    changes: Vec<Change<'a>>,
}

/// One value that differs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Change<'a> {
    /// A JSON pointer.
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set_by: Option<&'a str>,
}

/// All findings. `passed_over` bindings were not looked at.
pub(super) fn print(
    findings: &[Finding],
    passed_over: usize,
    explain: bool,
) -> Result<String, serde_json::Error> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.action().as_str()).or_insert(0) += 1;
    }
    let binding = |finding| binding(finding, explain);
    let whole = Whole {
        bindings: findings.iter().map(binding).collect(),
        counts,
        passed_over,
    };
    Ok(serde_json::to_string_pretty(&whole)? + "\n")
}

fn binding(finding: &Finding, explain: bool) -> Binding<'_> {
    let because = finding.because.as_ref();
    Binding {
        namespace: &finding.binding.namespace,
        name: &finding.binding.name,
        action: finding.action(),
        reason: because.map(|because| because.reason.as_str()),
        message: because.map(|because| because.message.as_str()),
        notes: &finding.notes,
        policy: explain.then_some(finding.policy.as_slice()),
        objects: finding.objects.iter().map(object).collect(),
    }
}

fn object(object: &Altered) -> Object<'_> {
    Object {
        kind: object.kind,
        namespace: &object.namespace,
        name: &object.name,
        action: object.action,
        changes: changes(&object.lines),
    }
}

/// A value that is replaced is a line that goes and a line that comes.
fn changes(lines: &[Said]) -> Vec<Change<'_>> {
    let mut changes: Vec<Change<'_>> = Vec::new();
    for said in lines {
        let Some(value) = &said.line.value else {
            continue;
        };
        let path = pointer(&said.line.path);
        match said.line.sign {
            Sign::Same => {}
            Sign::Removed => changes.push(Change {
                path,
                before: Some(value),
                after: None,
                source: None,
                set_by: said.set_by.as_deref(),
            }),
            Sign::Added => match changes.last_mut() {
                Some(last) if last.path == path && last.after.is_none() => {
                    last.after = Some(value);
                    last.source = said.source;
                }
                _ => changes.push(Change {
                    path,
                    before: None,
                    after: Some(value),
                    source: said.source,
                    set_by: None,
                }),
            },
        }
    }
    changes
}

fn pointer(path: &[String]) -> String {
    let escaped = |step: &String| format!("/{}", step.replace('~', "~0").replace('/', "~1"));
    path.iter().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::Because;
    use super::super::lines::between;
    use super::*;
    use crate::domain::desired::MeshKind;
    use crate::domain::names::BindingKey;

    #[test]
    fn each_value_that_differs_is_one_change_with_its_source() {
        let before = json!({"a/b": 1, "gone": true, "same": 0});
        let after = json!({"a/b": 2, "new": {"x": "y"}, "same": 0});
        let said = |line: super::super::lines::Line| Said {
            source: (line.sign == Sign::Added).then_some(Source::Catalog),
            set_by: None,
            line,
        };
        let lines = between(Some(&before), Some(&after));
        let finding = Finding {
            objects: vec![Altered {
                kind: MeshKind::DestinationRule.as_str(),
                namespace: "n".to_owned(),
                name: "o".to_owned(),
                action: Action::Update,
                lines: lines.into_iter().map(said).collect(),
            }],
            because: Some(Because {
                reason: "FieldFight".to_owned(),
                message: "m".to_owned(),
                blocks: true,
            }),
            ..Finding::of(BindingKey::new("shop", "web"))
        };
        let printed = print(&[finding], 3, false).unwrap();
        let printed: Value = serde_json::from_str(&printed).unwrap();
        let expected = json!({
            "bindings": [{
                "namespace": "shop", "name": "web", "action": "blocked",
                "reason": "FieldFight", "message": "m", "notes": [],
                "objects": [{
                    "kind": "DestinationRule", "namespace": "n", "name": "o", "action": "update",
                    "changes": [
                        {"path": "/a~1b", "before": 1, "after": 2, "source": "Catalog"},
                        {"path": "/gone", "before": true},
                        {"path": "/new/x", "after": "y", "source": "Catalog"},
                    ],
                }],
            }],
            "counts": {"blocked": 1},
            "passedOver": 3,
        });
        assert_eq!(printed, expected);
    }
}
