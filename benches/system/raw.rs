//! How fast can it be at all? A bare client that sends what the operator sends
//! for a binding, as the same account, and does nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use catalog_mesh_controller::domain::labels::{FINALIZER, MANAGER};
use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::fleet::{self, Bound, Fleet};
use crate::load::open_loop;

/// Requests that change something for each binding: finalizer,
/// DestinationRule, VirtualService, status.
pub(crate) const WRITES: usize = 4;

/// A client without any retry, so that a refusal is seen.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// What the operator wrote for one binding, to be written for others.
pub(crate) struct Template {
    namespace: String,
    bound: Bound,
    destination_rule: String,
    virtual_service: String,
    status: String,
}

/// The same for one of the others.
pub(crate) struct Payload {
    name: String,
    destination_rule: Box<RawValue>,
    virtual_service: Box<RawValue>,
    status: Box<RawValue>,
}

impl Template {
    /// Copies what the operator wrote for the first binding of this fleet.
    pub(crate) async fn learn(fleet: &Fleet) -> Result<Self> {
        let name = fleet.names.first().context("the fleet is empty")?;
        let applied = async |kind: &str| {
            let rule = serde_json::to_value(fleet.rules(kind).get(name).await?)?;
            let metadata = &rule["metadata"];
            let kept = [
                "name",
                "namespace",
                "labels",
                "annotations",
                "ownerReferences",
            ];
            let kept: Value = kept
                .iter()
                .filter(|field| !metadata[**field].is_null())
                .map(|field| ((*field).to_owned(), metadata[*field].clone()))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let body = json!({
                "apiVersion": rule["apiVersion"], "kind": rule["kind"],
                "metadata": kept, "spec": rule["spec"],
            });
            anyhow::Ok(body.to_string())
        };
        let binding: ServiceBinding = fleet.bindings().get(name).await?;
        let metadata = &binding.metadata;
        let status = json!({
            "apiVersion": "aikernel.io/v1alpha1", "kind": "ServiceBinding",
            "metadata": { "name": name, "namespace": fleet.namespace, "uid": metadata.uid },
            "status": binding.status,
        });
        Ok(Self {
            namespace: fleet.namespace.clone(),
            bound: Bound {
                name: name.clone(),
                uid: metadata.uid.clone().context("a binding without uid")?,
            },
            destination_rule: applied("DestinationRule").await?,
            virtual_service: applied("VirtualService").await?,
            status: status.to_string(),
        })
    }

    /// The same for a binding of another fleet.
    pub(crate) fn payload(&self, fleet: &Fleet, bound: &Bound) -> Result<Payload> {
        let fill = |text: &str| {
            let text = text
                .replace(&self.namespace, &fleet.namespace)
                .replace(&self.bound.name, &bound.name)
                .replace(&self.bound.uid, &bound.uid);
            RawValue::from_string(text)
        };
        Ok(Payload {
            name: bound.name.clone(),
            destination_rule: fill(&self.destination_rule)?,
            virtual_service: fill(&self.virtual_service)?,
            status: fill(&self.status)?,
        })
    }
}

impl Payload {
    /// The same rules with another timeout and another circuit breaker.
    fn changed(&self, seconds: usize) -> Result<Self> {
        let change = |rule: &RawValue| {
            let text = rule
                .get()
                .replace(r#""timeout":"1s""#, &format!(r#""timeout":"{seconds}s""#))
                .replace(
                    r#""consecutive5xxErrors":5"#,
                    &format!(r#""consecutive5xxErrors":{seconds}"#),
                );
            RawValue::from_string(text)
        };
        Ok(Self {
            name: self.name.clone(),
            destination_rule: change(&self.destination_rule)?,
            virtual_service: change(&self.virtual_service)?,
            status: self.status.clone(),
        })
    }
}

/// The bare client at work in one namespace.
pub(crate) struct Raw {
    bindings: Api<ServiceBinding>,
    destination_rules: Api<DynamicObject>,
    virtual_services: Api<DynamicObject>,
}

impl Raw {
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            bindings: Api::namespaced(client.clone(), namespace),
            destination_rules: fleet::rules(client, "DestinationRule", namespace),
            virtual_services: fleet::rules(client, "VirtualService", namespace),
        }
    }

    /// The four writes of each binding, for `in_flight` bindings at once, and
    /// how long all took.
    pub(crate) async fn write_all(
        &self,
        payloads: &[Payload],
        in_flight: usize,
    ) -> Result<Duration> {
        let started = Instant::now();
        fleet::for_each(payloads, in_flight, async |payload: &Payload| {
            self.add_finalizer(&payload.name).await?;
            self.write_rules(payload).await?;
            let apply = PatchParams::apply(MANAGER).force();
            self.bindings
                .patch_status(&payload.name, &apply, &Patch::Apply(&payload.status))
                .await?;
            Ok(())
        })
        .await?;
        Ok(started.elapsed())
    }

    /// Two writes for each change, DestinationRule and VirtualService, so many
    /// changes a second; how long each pair took.
    pub(crate) async fn change_all(
        &self,
        payloads: &[Payload],
        rate: u32,
        changes: usize,
    ) -> Result<Vec<Duration>> {
        open_loop(rate, changes, async |turn| {
            let payload = &payloads[turn % payloads.len()];
            let changed = payload.changed(2 + turn / payloads.len())?;
            let started = Instant::now();
            self.write_rules(&changed).await?;
            Ok(started.elapsed())
        })
        .await
    }

    /// Four requests for the end of each of the first bindings, as many a
    /// second; how long each four took.
    pub(crate) async fn end_all(
        &self,
        payloads: &[Payload],
        rate: u32,
        ends: usize,
    ) -> Result<Vec<Duration>> {
        open_loop(rate, ends, async |turn| {
            let name = &payloads[turn].name;
            let (delete, started) = (DeleteParams::default(), Instant::now());
            self.bindings.delete(name, &delete).await?;
            self.virtual_services.delete(name, &delete).await?;
            self.destination_rules.delete(name, &delete).await?;
            let none = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
            self.bindings
                .patch_metadata(name, &PatchParams::default(), &none)
                .await?;
            Ok(started.elapsed())
        })
        .await
    }

    async fn add_finalizer(&self, name: &str) -> Result<()> {
        let add = json!([{"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]);
        let add = Patch::<()>::Json(serde_json::from_value(add)?);
        self.bindings
            .patch(name, &PatchParams::default(), &add)
            .await?;
        Ok(())
    }

    async fn write_rules(&self, payload: &Payload) -> Result<()> {
        let apply = PatchParams::apply(MANAGER);
        for (api, body) in [
            (&self.destination_rules, &payload.destination_rule),
            (&self.virtual_services, &payload.virtual_service),
        ] {
            api.patch_metadata(&payload.name, &apply, &Patch::Apply(body))
                .await?;
        }
        Ok(())
    }
}

/// Lists every kind that the operator watches, all at once.
pub(crate) async fn list_all(client: &Client) -> Result<Duration> {
    let all = ListParams::default();
    let started = Instant::now();
    let rules = |kind: &str| {
        let gvk = kube::api::GroupVersionKind::gvk("networking.istio.io", "v1", kind);
        Api::<DynamicObject>::all_with(client.clone(), &kube::api::ApiResource::from_gvk(&gvk))
    };
    let bindings = Api::<ServiceBinding>::all(client.clone());
    let services = Api::<Service>::all(client.clone());
    let namespaces = Api::<Namespace>::all(client.clone());
    let (destination_rules, virtual_services) = (rules("DestinationRule"), rules("VirtualService"));
    tokio::try_join!(
        bindings.list(&all),
        services.list(&all),
        namespaces.list_metadata(&all),
        destination_rules.list(&all),
        virtual_services.list(&all),
    )?;
    Ok(started.elapsed())
}
