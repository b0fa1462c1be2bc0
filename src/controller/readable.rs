//! A ServiceBinding as it comes from the API server: decoded, or with the
//! field for which it cannot be. No IO.
//!
//! kube's own guard of this kind does not say which field it was.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::api::service_binding::ServiceBinding;
use crate::api::unmanaged;

/// A binding that may not be readable: one that is not must not stop the list
/// that it is in.
#[derive(Clone, Debug)]
pub(crate) struct Readable(pub(crate) Result<ServiceBinding, Unreadable>);

/// A binding that cannot be decoded.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    /// Its metadata.
    pub(crate) metadata: ObjectMeta,
    /// Which field is wrong, and how.
    pub(crate) error: String,
}

/// A binding, of which what its owner and others wrote may be anything.
#[derive(Deserialize)]
struct Parts {
    /// Without it, it is no object at all.
    #[serde(deserialize_with = "unmanaged::metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Parts {
            metadata,
            spec,
            status,
        } = Parts::deserialize(deserializer)?;
        let parts = part("spec", &spec).and_then(|spec| Ok((spec, part("status", &status)?)));
        Ok(Self(match parts {
            Ok((spec, status)) => Ok(ServiceBinding {
                metadata,
                spec,
                status,
            }),
            Err(error) => Err(Unreadable { metadata, error }),
        }))
    }
}

/// The part as it is meant to be, or which field is wrong, and how.
fn part<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, String> {
    // Most often nothing is wrong, and to note where it is takes longer than to read.
    T::deserialize(value).or_else(|_| {
        serde_path_to_error::deserialize(value).map_err(|wrong| match wrong.path().to_string() {
            path if path == "." => format!("{name}: {}", wrong.inner()),
            path => format!("{name}.{path}: {}", wrong.inner()),
        })
    })
}

impl Resource for Readable {
    type DynamicType = <ServiceBinding as Resource>::DynamicType;
    type Scope = <ServiceBinding as Resource>::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        ServiceBinding::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        ServiceBinding::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        ServiceBinding::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        ServiceBinding::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        match &self.0 {
            Ok(binding) => &binding.metadata,
            Err(unreadable) => &unreadable.metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match &mut self.0 {
            Ok(binding) => &mut binding.metadata,
            Err(unreadable) => &mut unreadable.metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;
    use serde_json::json;

    use super::*;

    fn binding(name: &str, timeout: Value) -> Value {
        json!({
            "apiVersion": "aikernel.io/v1alpha1",
            "kind": "ServiceBinding",
            "metadata": {"name": name, "namespace": "shop", "uid": "u"},
            "spec": {
                "catalogServiceId": "a", "serviceName": "web",
                "trafficPolicy": {"timeout": timeout},
            },
        })
    }

    // trap 9
    #[test]
    fn one_that_cannot_be_decoded_names_the_field_and_does_not_stop_the_list() {
        let list = json!({
            "apiVersion": "aikernel.io/v1alpha1", "kind": "ServiceBindingList", "metadata": {},
            "items": [binding("good", json!("5s")), binding("bad", json!({"seconds": 5}))],
        });
        let list: ObjectList<Readable> = serde_json::from_value(list).unwrap();
        assert!(list.items[0].0.is_ok());
        let bad = list.items[1].0.as_ref().unwrap_err();
        assert_eq!(bad.metadata.name.as_deref(), Some("bad"));
        assert!(
            bad.error.starts_with("spec.trafficPolicy.timeout: "),
            "{}",
            bad.error
        );
    }

    #[test]
    fn whatever_part_is_wrong_is_named_and_none_is_needed_to_name_the_binding() {
        type Change = fn(&mut Value);
        let read = |change: Change| {
            let mut object = binding("web", json!("5s"));
            object["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
            change(&mut object);
            let read: Readable = serde_json::from_value(object).unwrap();
            assert_eq!(read.meta().name.as_deref(), Some("web"));
            assert_eq!(read.meta().managed_fields, None);
            read.0.map_err(|unreadable| unreadable.error)
        };
        let good = read(|_| ()).unwrap();
        assert_eq!(
            (good.spec.service_name.as_str(), good.status),
            ("web", None)
        );
        let wrong: [(Change, &str); 4] = [
            (
                |object| object["spec"]["suspend"] = json!("yes"),
                "spec.suspend: ",
            ),
            (|object| object["spec"] = json!(7), "spec: "),
            (
                |object| drop(object.as_object_mut().unwrap().remove("spec")),
                "spec: ",
            ),
            (
                |object| object["status"] = json!({"conditions": 7}),
                "status.conditions: ",
            ),
        ];
        for (change, begins) in wrong {
            let error = read(change).unwrap_err();
            assert!(error.starts_with(begins), "{error}");
        }
        let nameless = json!({"spec": {}, "status": {}});
        assert!(serde_json::from_value::<Readable>(nameless).is_err());
    }
}
