//! What would an object be after our apply? The API server's rules for a
//! server-side apply, as far as our two kinds need them. No IO.
//!
//! The server could say it itself by a dry run, but that takes the right to
//! write.

use serde_json::{Map, Value, json};

use super::owners::Owners;

/// What only somebody else's application could hold against us.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Fight {
    /// Who.
    pub(super) manager: String,
    /// Which fields.
    pub(super) fields: Vec<String>,
}

/// The object after we have applied what is wanted: our fields that are no
/// longer wanted go, unless somebody else holds them too; those that are
/// wanted are set; all else stays.
pub(super) fn applied(live: &Value, wanted: &Value, owners: &Owners) -> Value {
    let mut path = Vec::new();
    let mut after = without_unwanted(live, Some(wanted), owners, &mut path)
        .unwrap_or_else(|| Value::Object(Map::new()));
    set(&mut after, wanted, &mut path);
    after
}

/// Whether somebody else applies a value that differs from ours. The
/// controller leaves such a field to him.
pub(super) fn fight(live: &Value, wanted: &Value, owners: &Owners) -> Option<Fight> {
    let mut fight: Option<Fight> = None;
    contested(live, wanted, owners, &mut Vec::new(), &mut fight);
    fight
}

fn contested(
    live: &Value,
    wanted: &Value,
    owners: &Owners,
    path: &mut Vec<String>,
    fight: &mut Option<Fight>,
) {
    if let (Value::Object(live), Value::Object(wanted)) = (live, wanted) {
        for (name, wanted) in wanted {
            if let Some(live) = live.get(name) {
                path.push(name.clone());
                contested(live, wanted, owners, path, fight);
                path.pop();
            }
        }
        return;
    }
    // Owners are told apart by their uids, so that none can be contested.
    if live == wanted || is_owners(path) {
        return;
    }
    if let Some(other) = owners.other(path).filter(|other| other.applies) {
        let fight = fight.get_or_insert_with(|| Fight {
            manager: other.manager.clone(),
            fields: Vec::new(),
        });
        fight.fields.push(path.join("."));
    }
}

fn without_unwanted(
    live: &Value,
    wanted: Option<&Value>,
    owners: &Owners,
    path: &mut Vec<String>,
) -> Option<Value> {
    match live {
        Value::Object(fields) if !fields.is_empty() => {
            let mut kept = Map::new();
            for (name, value) in fields {
                path.push(name.clone());
                let wanted = wanted.and_then(|wanted| wanted.get(name));
                if let Some(value) = without_unwanted(value, wanted, owners, path) {
                    kept.insert(name.clone(), value);
                }
                path.pop();
            }
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        Value::Array(items) if is_owners(path) => {
            let wanted = wanted.and_then(Value::as_array);
            let keeps = |item: &&Value| {
                let same = |other: &Value| other["uid"] == item["uid"];
                let mut path = path.clone();
                path.push(format!("k:{}", json!({ "uid": item["uid"] })));
                path.push("uid".to_owned());
                wanted.is_some_and(|wanted| wanted.iter().any(same)) || !owners.ours_alone(&path)
            };
            let kept: Vec<Value> = items.iter().filter(keeps).cloned().collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        leaf => (wanted.is_some() || !owners.ours_alone(path)).then(|| leaf.clone()),
    }
}

fn set(after: &mut Value, wanted: &Value, path: &mut Vec<String>) {
    match (after, wanted) {
        (Value::Object(after), Value::Object(wanted)) => {
            for (name, wanted) in wanted {
                path.push(name.clone());
                match after.get_mut(name) {
                    Some(after) => set(after, wanted, path),
                    None => {
                        after.insert(name.clone(), wanted.clone());
                    }
                }
                path.pop();
            }
        }
        (Value::Array(after), Value::Array(wanted)) if is_owners(path) => {
            for wanted in wanted {
                match after.iter_mut().find(|item| item["uid"] == wanted["uid"]) {
                    Some(item) => set(item, wanted, path),
                    None => after.push(wanted.clone()),
                }
            }
        }
        (after, wanted) => after.clone_from(wanted),
    }
}

/// The one list of our kinds whose items the server tells apart; all others it
/// takes as a whole.
fn is_owners(path: &[String]) -> bool {
    path == ["metadata", "ownerReferences"]
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::entry;
    use super::*;
    use crate::domain::labels::MANAGER;

    fn ours(fields: Value) -> Owners {
        Owners::of(Some(vec![entry(MANAGER, "Apply", fields)]))
    }

    #[test]
    fn what_others_set_stays_and_what_we_no_longer_want_goes() {
        let live = json!({
            "metadata": {"labels": {"theirs": "x", "ours": "y"}},
            "spec": {
                "host": "web",
                "trafficPolicy": {"tls": {"mode": "SIMPLE"}, "outlierDetection": {"interval": "1s"}},
            },
        });
        let owners = ours(json!({
            "f:metadata": {"f:labels": {"f:ours": {}}},
            "f:spec": {"f:host": {}, "f:trafficPolicy": {"f:outlierDetection": {"f:interval": {}}}},
        }));
        let wanted = json!({
            "metadata": {"labels": {"ours": "y"}},
            "spec": {"host": "web", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}},
        });
        let expected = json!({
            "metadata": {"labels": {"theirs": "x", "ours": "y"}},
            "spec": {
                "host": "web",
                "trafficPolicy": {"tls": {"mode": "SIMPLE"}, "loadBalancer": {"simple": "RANDOM"}},
            },
        });
        assert_eq!(applied(&live, &wanted, &owners), expected);
    }

    #[test]
    fn a_list_is_replaced_whole() {
        let live = json!({"spec": {"http": [{"timeout": "1s", "fault": {}}]}});
        let wanted = json!({"spec": {"http": [{"timeout": "2s"}]}});
        assert_eq!(applied(&live, &wanted, &Owners::default()), wanted);
    }

    #[test]
    fn an_owner_of_the_object_that_is_somebody_elses_stays_and_an_orphans_goes() {
        let owner = |uid: &str| json!({"uid": uid, "name": "web"});
        let live = json!({"metadata": {"ownerReferences": [owner("theirs"), owner("orphans")]}});
        let held = json!({".": {}, "f:uid": {}, "f:name": {}});
        let owners = ours(json!({
            "f:metadata": {"f:ownerReferences": {r#"k:{"uid":"orphans"}"#: held}},
        }));
        let wanted = json!({"metadata": {"ownerReferences": [owner("new")]}});
        let expected = json!({"metadata": {"ownerReferences": [owner("theirs"), owner("new")]}});
        assert_eq!(applied(&live, &wanted, &owners), expected);
    }

    #[test]
    fn only_who_applies_another_value_fights() {
        let live = json!({"spec": {"http": [{"timeout": "9s"}], "hosts": ["web"]}});
        let wanted = json!({"spec": {"http": [{"timeout": "2s"}], "hosts": ["web"]}});
        let held = || json!({"f:spec": {"f:http": {}, "f:hosts": {}}});
        let by = |operation| Owners::of(Some(vec![entry("argocd", operation, held())]));
        let expected = Fight {
            manager: "argocd".to_owned(),
            fields: vec!["spec.http".to_owned()],
        };
        assert_eq!(fight(&live, &wanted, &by("Apply")), Some(expected));
        assert_eq!(fight(&live, &wanted, &by("Update")), None);
        assert_eq!(fight(&wanted, &wanted, &by("Apply")), None);
    }
}
