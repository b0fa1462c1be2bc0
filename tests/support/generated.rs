//! Is every object clean that the product was ever made to write? Watches what
//! is stored in our name from the first test to the last, each version of it,
//! and has `istioctl analyze` look at it beside such a Service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use catalog_mesh_controller::domain::desired::MeshKind;
use catalog_mesh_controller::domain::labels::{LABEL_MANAGED_BY, MANAGER};
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::rig::Rig;

const AT_ONCE: usize = 8;

/// Namespace and name: of a Service, and so of the objects for it.
type Key = (String, String);

/// What was stored so far.
#[derive(Default)]
struct Seen {
    /// Ports by their number, also those of earlier versions.
    services: BTreeMap<Key, BTreeMap<i32, Value>>,
    /// The specs of each kind, each once, in order.
    specs: BTreeMap<Key, BTreeMap<&'static str, Vec<Value>>>,
}

/// The watch. Dropping it ends it.
pub struct Generated {
    seen: Arc<Mutex<Seen>>,
    _watches: JoinSet<()>,
}

impl Generated {
    pub fn watch(client: &Client) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let mut watches = JoinSet::new();
        for kind in [MeshKind::DestinationRule, MeshKind::VirtualService] {
            let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", kind.as_str());
            let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
            let ours = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGER}"));
            let (seen, objects) = (seen.clone(), every(watcher(api, ours)));
            watches.spawn(objects.for_each(move |object| {
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .object(kind, &object);
                std::future::ready(())
            }));
        }
        let services = every(watcher(
            Api::<Service>::all(client.clone()),
            watcher::Config::default(),
        ));
        let of_services = seen.clone();
        watches.spawn(services.for_each(move |service| {
            of_services
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .service(&service);
            std::future::ready(())
        }));
        Self {
            seen,
            _watches: watches,
        }
    }

    /// Fails with what `istioctl analyze` says from Warning up. Returns how
    /// many objects it has looked at.
    pub async fn expect_clean(&self, rig: &Rig) -> Result<usize> {
        let namespace = rig.namespace("generated").await?;
        let (services, objects) = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.in_one_namespace(&namespace)
        };
        if !objects.is_empty() {
            make_services(&rig.client, &namespace, &services).await?;
            analyze(rig, &namespace, &objects).await?;
        }
        Ok(objects.len())
    }
}

/// Has istioctl analyse these objects of one namespace as if they were stored,
/// beside the Services that are. Services out of a file it passes over, and
/// with them whatever it would say about hosts and ports.
pub async fn analyze(rig: &Rig, namespace: &str, objects: &[Value]) -> Result<()> {
    let mut text = String::new();
    for object in objects {
        // JSON is YAML. Writing to a String cannot fail.
        let _ = writeln!(text, "---\n{object}");
    }
    let file = rig.folder().join(format!("{namespace}.yaml"));
    fs::write(&file, text)?;
    let path = file.to_str().context("the path is not UTF-8")?;
    let args = ["analyze", "--namespace", namespace, "--color=false"];
    let level = ["--failure-threshold", "Warning", path];
    let output = rig
        .istioctl
        .run(&[args.as_slice(), &level].concat())
        .await?;
    if !output.success {
        bail!(
            "istioctl analyze {path}: {}{}",
            output.stdout,
            output.stderr
        );
    }
    Ok(())
}

/// Makes Services with these ports that no other namespace hears of.
pub async fn make_services(
    client: &Client,
    namespace: &str,
    services: &BTreeMap<String, Vec<Value>>,
) -> Result<()> {
    let api = Api::<Service>::namespaced(client.clone(), namespace);
    stream::iter(services.iter().map(anyhow::Ok))
        .try_for_each_concurrent(AT_ONCE, async |(name, ports)| {
            let service = serde_json::from_value(json!({
                "metadata": { "name": name, "annotations": { "networking.istio.io/exportTo": "." } },
                "spec": { "selector": { "app": name }, "ports": ports },
            }))?;
            api.create(&PostParams::default(), &service).await?;
            Ok(())
        })
        .await
}

/// Every object that a watch tells of.
fn every<K>(
    watch: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
) -> impl Stream<Item = K> + Send
where
    K: kube::Resource + Clone + Send + 'static,
{
    // An error is a restart of the watch.
    watch
        .default_backoff()
        .applied_objects()
        .into_stream()
        .filter_map(async |object| object.ok())
}

impl Seen {
    fn service(&mut self, service: &Service) {
        let key = (service.namespace().unwrap_or_default(), service.name_any());
        let known = self.services.entry(key).or_default();
        for port in service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
        {
            let number = port.port;
            // Names may be taken by the port of another version.
            let port = json!({
                "name": format!("{}-{}", port.name.as_deref().unwrap_or("tcp"), port.port),
                "port": port.port,
                "appProtocol": port.app_protocol,
            });
            known.insert(number, port);
        }
    }

    /// Remembers a spec that is ours alone.
    fn object(&mut self, kind: MeshKind, object: &DynamicObject) {
        let theirs = object.managed_fields().iter().any(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            entry.manager.as_deref() != Some(MANAGER)
                && fields.is_some_and(|fields| fields.get("f:spec").is_some())
        });
        // istioctl knows no other domain.
        let spec = &object.data["spec"];
        let host = spec["host"].as_str().or(spec["hosts"][0].as_str());
        let elsewhere = !host.is_some_and(|host| host.ends_with(".svc.cluster.local"));
        if theirs || elsewhere {
            return;
        }
        let key = (object.namespace().unwrap_or_default(), object.name_any());
        let kinds = self.specs.entry(key).or_default();
        let specs = kinds.entry(kind.as_str()).or_default();
        if !specs.contains(spec) {
            specs.push(spec.clone());
        }
    }

    /// Each version of each object, and the Services that they are for, under
    /// names made up for them. One whose Service nobody ever made is left out.
    fn in_one_namespace(&self, own: &str) -> (BTreeMap<String, Vec<Value>>, Vec<Value>) {
        let (mut services, mut objects) = (BTreeMap::new(), Vec::new());
        for (key, kinds) in &self.specs {
            let Some(ports) = self.services.get(key) else {
                continue;
            };
            let (namespace, name) = key;
            let versions = kinds.values().map(Vec::len).max().unwrap_or_default();
            for version in 0..versions {
                let new = format!("service-{}", services.len());
                let (from, to) = (format!("{name}.{namespace}."), format!("{new}.{own}."));
                for (kind, specs) in kinds {
                    let spec = specs.get(version);
                    objects.extend(spec.map(|spec| {
                        json!({
                            "apiVersion": "networking.istio.io/v1",
                            "kind": kind,
                            "metadata": { "namespace": own, "name": new },
                            "spec": with_hosts(spec, &from, &to),
                        })
                    }));
                }
                services.insert(new, ports.values().cloned().collect());
            }
        }
        (services, objects)
    }
}

/// The same with every text that starts with `from` starting with `to`.
fn with_hosts(value: &Value, from: &str, to: &str) -> Value {
    match value {
        Value::String(text) => match text.strip_prefix(from) {
            Some(rest) => json!(format!("{to}{rest}")),
            None => value.clone(),
        },
        Value::Array(items) => items
            .iter()
            .map(|item| with_hosts(item, from, to))
            .collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            Value::Object(
                fields
                    .map(|(name, value)| (name.clone(), with_hosts(value, from, to)))
                    .collect(),
            )
        }
        _ => value.clone(),
    }
}
