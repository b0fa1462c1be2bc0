//! Many bindings in one namespace: how do they come, and how do they go?
//! Talks to the API server and the catalog as their administrator.

use std::time::Duration;

use anyhow::{Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams,
};
use serde_json::{Value, json};

use crate::support::catalog::Catalog;
use crate::support::{stack, wait};

/// Requests at once wherever nothing is measured.
const AT_ONCE: usize = 16;

/// How long a removal may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// From so many on each Service gets the address that it is told: the API server's own
/// search for a free one takes longer the more there are.
const TOO_MANY_TO_SEARCH: usize = 20_000;

/// Services of one namespace, or their names, and the bindings to them.
pub(crate) struct Fleet {
    pub(crate) namespace: String,
    /// Of Services, bindings and all that is made for them.
    pub(crate) names: Vec<String>,
    client: kube::Client,
}

/// A binding that was made just now.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl Fleet {
    /// Only the names: whoever writes rules and bindings and looks at nothing
    /// needs no Services, and 10,000 of them take the API server minutes.
    pub(crate) fn without_services(client: kube::Client, namespace: &str, size: usize) -> Self {
        Self {
            namespace: namespace.to_owned(),
            names: (0..size).map(|i| format!("service-{i:05}")).collect(),
            client,
        }
    }

    /// Makes the Services in this namespace, which exists.
    pub(crate) async fn make(client: kube::Client, namespace: &str, size: usize) -> Result<Self> {
        let fleet = Self::without_services(client, namespace, size);
        let services = Api::<Service>::namespaced(fleet.client.clone(), namespace);
        let numbered: Vec<_> = fleet.names.iter().enumerate().collect();
        for_each(&numbered, AT_ONCE, async |(number, name)| {
            let mut service = json!({
                "metadata": { "name": name },
                "spec": { "ports": [{ "name": "http", "port": 80 }] },
            });
            let create = async |service: &Value| {
                let service = serde_json::from_value(service.clone())?;
                anyhow::Ok(services.create(&PostParams::default(), &service).await?)
            };
            if size >= TOO_MANY_TO_SEARCH {
                service["spec"]["clusterIP"] = json!(address(*number)?);
                // Another one may have been given it.
                if create(&service).await.is_ok() {
                    return Ok(());
                }
                service["spec"]["clusterIP"] = Value::Null;
            }
            create(&service).await?;
            Ok(())
        })
        .await?;
        Ok(fleet)
    }

    /// The name of a Service's entry in the catalog.
    pub(crate) fn catalog_id(name: &str) -> String {
        format!("bench:{name}")
    }

    /// The entry itself: it asks for a VirtualService and a DestinationRule.
    pub(crate) fn record(&self, name: &str, timeout_seconds: u32, errors: u32) -> Value {
        let mut record = stack::record(&Self::catalog_id(name), &self.namespace, name);
        record["timeout"] = json!(format!("{timeout_seconds}s"));
        record["retries"] = json!(2);
        record["circuitBreaker"] = json!({ "consecutiveErrors": errors });
        record
    }

    /// Enters each Service into the catalog.
    pub(crate) async fn enter(&self, catalog: &Catalog) -> Result<()> {
        for_each(&self.names, AT_ONCE, async |name: &String| {
            catalog.put(&self.record(name, 1, 5)).await
        })
        .await
    }

    /// Makes a binding to each Service.
    pub(crate) async fn bind(&self) -> Result<Vec<Bound>> {
        let made = futures::stream::iter(&self.names)
            .map(async |name| {
                let binding = stack::binding(&self.namespace, name, &Self::catalog_id(name));
                let binding = serde_json::from_value(binding)?;
                let made = self
                    .bindings()
                    .create(&PostParams::default(), &binding)
                    .await?;
                anyhow::Ok(Bound {
                    name: name.clone(),
                    uid: made.metadata.uid.unwrap_or_default(),
                })
            })
            .buffered(AT_ONCE);
        made.try_collect().await
    }

    /// How many bindings there are.
    pub(crate) async fn bound(&self) -> Result<usize> {
        let all = ListParams::default();
        Ok(self.bindings().list_metadata(&all).await?.items.len())
    }

    /// Removes the bindings and all that was made for them.
    pub(crate) async fn clear(&self) -> Result<()> {
        let (delete, all) = (DeleteParams::default(), ListParams::default());
        for kind in ["VirtualService", "DestinationRule"] {
            self.rules(kind).delete_collection(&delete, &all).await?;
        }
        let bindings = self.bindings();
        let names: Vec<String> = bindings
            .list_metadata(&all)
            .await?
            .into_iter()
            .filter_map(|binding| binding.metadata.name)
            .collect();
        let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        for_each(&names, AT_ONCE, async |name: &String| {
            bindings
                .patch_metadata(name, &PatchParams::default(), &none)
                .await?;
            Ok(())
        })
        .await?;
        bindings.delete_collection(&delete, &all).await?;
        Api::<Event>::namespaced(self.client.clone(), &self.namespace)
            .delete_collection(&delete, &all)
            .await?;
        wait::until("the removal of all bindings", PATIENCE, async || {
            let left = self.bound().await?;
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await
    }

    pub(crate) fn bindings(&self) -> Api<ServiceBinding> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn rules(&self, kind: &str) -> Api<DynamicObject> {
        rules(&self.client, kind, &self.namespace)
    }
}

/// An address of the rig's range of them, above those that are given without being asked
/// for.
fn address(number: usize) -> Result<String> {
    let [_, _, high, low] = u32::try_from(number + 8192)?.to_be_bytes();
    Ok(format!("10.0.{high}.{low}"))
}

/// The rules of the mesh in this namespace, as this client may see them.
pub(crate) fn rules(client: &kube::Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", kind);
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&gvk))
}

/// Works on `at_once` items at a time, until the first that fails.
pub(crate) async fn for_each<'a, T, F>(items: &'a [T], at_once: usize, work: F) -> Result<()>
where
    F: AsyncFn(&'a T) -> Result<()>,
{
    futures::stream::iter(items)
        .map(Ok)
        .try_for_each_concurrent(at_once, |item| work(item))
        .await
}
