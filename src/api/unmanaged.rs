//! Metadata without the bookkeeping of fields' managers. That is dropped while it is
//! parsed: it is most of an object's text, and nobody reads it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Unmanaged {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    self_link: Option<String>,
    uid: Option<String>,
}

/// All of it but `managedFields`; for `deserialize_with`.
pub(crate) fn metadata<'de, D: Deserializer<'de>>(json: D) -> Result<ObjectMeta, D::Error> {
    let all = Unmanaged::deserialize(json)?;
    Ok(ObjectMeta {
        annotations: all.annotations,
        creation_timestamp: all.creation_timestamp,
        deletion_grace_period_seconds: all.deletion_grace_period_seconds,
        deletion_timestamp: all.deletion_timestamp,
        finalizers: all.finalizers,
        generate_name: all.generate_name,
        generation: all.generation,
        labels: all.labels,
        managed_fields: None,
        name: all.name,
        namespace: all.namespace,
        owner_references: all.owner_references,
        resource_version: all.resource_version,
        self_link: all.self_link,
        uid: all.uid,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::mesh_rule::MeshRule;
    use super::super::service::Service;
    use super::*;

    #[test]
    fn of_metadata_all_is_kept_but_who_manages_which_field() {
        let stored = json!({
            "annotations": {"a": "b"},
            "creationTimestamp": "2026-03-01T10:00:00Z",
            "deletionGracePeriodSeconds": 30,
            "deletionTimestamp": "2026-03-01T10:00:01Z",
            "finalizers": ["f"],
            "generateName": "web-",
            "generation": 3,
            "labels": {"l": "v"},
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            "name": "web-0",
            "namespace": "shop",
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "o"},
            ],
            "resourceVersion": "7",
            "selfLink": "/x",
            "uid": "u",
        });
        let kept = metadata(&stored).unwrap();
        let mut whole: ObjectMeta = serde_json::from_value(stored).unwrap();
        assert!(whole.managed_fields.take().is_some());
        assert_eq!(kept, whole);
    }

    #[test]
    fn services_and_rules_are_read_without_it() {
        let stored = |spec| {
            json!({
                "metadata": {"name": "web", "managedFields": [{"manager": "kubectl"}]},
                "spec": spec,
                "status": {},
            })
        };
        let service: Service = serde_json::from_value(stored(json!({"ports": []}))).unwrap();
        let rule: MeshRule = serde_json::from_value(stored(json!({"host": "web"}))).unwrap();
        assert_eq!(rule.spec.host.as_deref(), Some("web"));
        assert_eq!(service.spec.unwrap().ports.unwrap().len(), 0);
        for metadata in [service.metadata, rule.metadata] {
            assert_eq!(metadata.name.as_deref(), Some("web"));
            assert_eq!(metadata.managed_fields, None);
        }
    }
}
