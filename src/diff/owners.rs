//! Who holds which field of an object? Reads the API server's record of field
//! managers. No IO.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::Value;

use crate::domain::labels::MANAGER;

/// The field managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Owners(Vec<Owner>);

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// Its name, as it gave it.
    pub(super) manager: String,
    /// Whether it applies, and so means to keep its fields, rather than edits.
    pub(super) applies: bool,
    fields: Value,
}

impl Owners {
    /// From an object's `managedFields`.
    pub(super) fn of(entries: Option<Vec<ManagedFieldsEntry>>) -> Self {
        let owner = |entry: ManagedFieldsEntry| {
            Some(Owner {
                applies: entry.operation.as_deref() == Some("Apply"),
                manager: entry.manager.unwrap_or_default(),
                fields: entry.fields_v1?.0,
            })
        };
        Self(entries.into_iter().flatten().filter_map(owner).collect())
    }

    /// Whether we hold the field, and nobody else does.
    pub(super) fn ours_alone(&self, path: &[String]) -> bool {
        let ours = self
            .0
            .iter()
            .any(|owner| owner.is_us() && owner.holds(path));
        ours && self.other(path).is_none()
    }

    /// Who else holds the field; rather one who applies.
    pub(super) fn other(&self, path: &[String]) -> Option<&Owner> {
        let mut others = self.0.iter().filter(|o| !o.is_us() && o.holds(path));
        let first = others.next()?;
        if first.applies {
            return Some(first);
        }
        others.find(|owner| owner.applies).or(Some(first))
    }
}

impl Owner {
    fn is_us(&self) -> bool {
        self.applies && self.manager == MANAGER
    }

    /// Whether it holds this very field, or something whole that the field is
    /// in, as a list is. A step that begins with `k:` is a list's item by its
    /// key.
    fn holds(&self, path: &[String]) -> bool {
        let mut node = &self.fields;
        for (depth, step) in path.iter().enumerate() {
            if depth > 0 && is_whole(node) {
                return true;
            }
            let next = if step.starts_with("k:") {
                node.get(step)
            } else {
                node.get(format!("f:{step}"))
            };
            let Some(next) = next else { return false };
            node = next;
        }
        is_whole(node) || node.get(".").is_some()
    }
}

fn is_whole(node: &Value) -> bool {
    node.as_object().is_none_or(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures::entry;
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn a_list_is_held_whole_and_a_map_by_its_fields() {
        let fields =
            json!({"f:spec": {"f:http": {}, "f:trafficPolicy": {"f:tls": {"f:mode": {}}}}});
        let owners = Owners::of(Some(vec![entry(MANAGER, "Apply", fields)]));
        for (text, ours) in [
            ("spec/http", true),
            ("spec/http/0/timeout", true),
            ("spec/trafficPolicy/tls/mode", true),
            ("spec/trafficPolicy/tls", false),
            ("spec/trafficPolicy/tls/sni", false),
            ("spec/hosts", false),
        ] {
            assert_eq!(owners.ours_alone(&path(text)), ours, "{text}");
        }
    }

    #[test]
    fn a_field_that_two_hold_is_not_ours_alone_and_who_applies_is_named_first() {
        let fields = || json!({"f:spec": {"f:host": {}}});
        let owners = Owners::of(Some(vec![
            entry(MANAGER, "Apply", fields()),
            entry("kubectl-edit", "Update", fields()),
            entry("argocd", "Apply", fields()),
        ]));
        assert!(!owners.ours_alone(&path("spec/host")));
        let other = owners.other(&path("spec/host")).unwrap();
        assert_eq!(other.manager, "argocd");
    }

    #[test]
    fn an_edit_under_our_name_is_not_ours() {
        let fields = json!({"f:spec": {"f:host": {}}});
        let owners = Owners::of(Some(vec![entry(MANAGER, "Update", fields)]));
        assert!(!owners.ours_alone(&path("spec/host")));
    }
}
