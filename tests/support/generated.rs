//! Is every object clean that the product was ever made to write? Watches what
//! is stored in our name from the first test to the last, each version of it,
//! and has `istioctl analyze` look at it beside its Service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use catalog_mesh_controller::domain::desired::MeshKind;
use catalog_mesh_controller::domain::labels::{LABEL_MANAGED_BY, MANAGER};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::kubectl::Cli;

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
    pub async fn expect_clean(&self, istioctl: &Cli, folder: &Path) -> Result<usize> {
        let (documents, count) = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.documents()
        };
        if count > 0 {
            analyze(istioctl, folder, "generated", &documents).await?;
        }
        Ok(count)
    }
}

/// Has istioctl analyse these objects, and nothing of a cluster.
pub async fn analyze(istioctl: &Cli, folder: &Path, name: &str, documents: &[Value]) -> Result<()> {
    let mut text = String::new();
    for document in documents {
        // JSON is YAML. Writing to a String cannot fail.
        let _ = writeln!(text, "---\n{document}");
    }
    let file = folder.join(format!("{name}.yaml"));
    fs::write(&file, text)?;
    let path = file.to_str().context("the path is not UTF-8")?;
    let offline = ["analyze", "--use-kube=false", "--color=false"];
    let level = ["--failure-threshold", "Warning", path];
    let output = istioctl.run(&[offline.as_slice(), &level].concat()).await?;
    if !output.success {
        bail!(
            "istioctl analyze {path}: {}{}",
            output.stdout,
            output.stderr
        );
    }
    Ok(())
}

/// A Service as istioctl needs it.
pub fn service(namespace: &str, name: &str, ports: &[Value]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": namespace, "name": name },
        "spec": { "selector": { "app": name }, "ports": ports },
    })
}

/// Every object that a watch tells of.
fn every<K: Send + 'static>(
    watch: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
) -> impl Stream<Item = K> + Send
where
    K: kube::Resource + Clone,
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
            known.insert(
                port.port,
                json!({ "name": port.name, "port": port.port, "appProtocol": port.app_protocol }),
            );
        }
    }

    /// Remembers a spec that is ours alone.
    fn object(&mut self, kind: MeshKind, object: &DynamicObject) {
        let theirs = object.managed_fields().iter().any(|entry| {
            let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
            entry.manager.as_deref() != Some(MANAGER)
                && fields.is_some_and(|fields| fields.get("f:spec").is_some())
        });
        if theirs {
            return;
        }
        let key = (object.namespace().unwrap_or_default(), object.name_any());
        let kinds = self.specs.entry(key).or_default();
        let specs = kinds.entry(kind.as_str()).or_default();
        if !specs.contains(&object.data["spec"]) {
            specs.push(object.data["spec"].clone());
        }
    }

    /// Each version of each object beside its Service, in a namespace made up
    /// for it; and how many objects that are. One whose Service nobody ever
    /// made is left out.
    fn documents(&self) -> (Vec<Value>, usize) {
        let (mut documents, mut count) = (Vec::new(), 0);
        for (key, kinds) in &self.specs {
            let Some(ports) = self.services.get(key) else {
                continue;
            };
            let (namespace, name) = key;
            let ports: Vec<Value> = ports.values().cloned().collect();
            let versions = kinds.values().map(Vec::len).max().unwrap_or_default();
            for version in 0..versions {
                let own = format!("n{count}");
                documents.push(service(&own, name, &ports));
                for (kind, specs) in kinds {
                    let Some(spec) = specs.get(version) else {
                        continue;
                    };
                    let (from, to) = (format!("{name}.{namespace}."), format!("{name}.{own}."));
                    documents.push(json!({
                        "apiVersion": "networking.istio.io/v1",
                        "kind": kind,
                        "metadata": { "namespace": own, "name": name },
                        "spec": with_hosts(spec, &from, &to),
                    }));
                    count += 1;
                }
            }
        }
        (documents, count)
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
