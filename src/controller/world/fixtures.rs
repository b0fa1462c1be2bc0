//! A world in which few objects change in many ways.

use kube_runtime::watcher::Event;
use serde_json::{Value, json};

use super::World;
use super::missing::Missing;
use crate::api::mesh_rule::MeshRule;
use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
use crate::controller::mirror::Seen;
use crate::controller::sources;
use crate::domain::desired::MeshKind;
use crate::domain::inputs::NamespaceView;
use crate::domain::labels;
use crate::domain::names::{BindingKey, ClusterDomain};
use crate::domain::served::WHOLE;

/// A world with a binding to the Service web, and everything around it.
pub(super) struct Scene(pub(super) World);

impl Scene {
    pub(super) fn new() -> Self {
        let domain = ClusterDomain::parse("cluster.local").unwrap();
        let scene = Self(World::new(domain, "operator".to_owned()));
        for name in ["shop", "operator", "elsewhere"] {
            scene.namespace(name, 1);
        }
        scene.binding("web", "web", 1);
        scene.binding("other", "other", 1);
        scene.service("web", 1);
        scene.rule("web", "web", 1);
        scene
    }

    pub(super) fn namespace(&self, name: &str, version: u64) {
        self.told_of_namespace(name, version, Event::Apply);
    }

    fn told_of_namespace<E>(&self, name: &str, version: u64, event: E)
    where
        E: FnOnce(Seen<NamespaceView>) -> Event<Seen<NamespaceView>>,
    {
        let metadata = json!({"name": name, "resourceVersion": version.to_string()});
        let namespace = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        self.0.namespaces(event(sources::namespace(namespace)));
    }

    pub(super) fn binding(&self, name: &str, service: &str, version: u64) {
        let binding: ServiceBinding = object(
            name,
            version,
            json!({"catalogServiceId": "id", "serviceName": service}),
        );
        self.0.bindings(Event::Apply(sources::binding(binding)));
    }

    /// One of many things happens, to one of few objects.
    pub(super) fn anything(&self, random: &mut fastrand::Rng, version: u64) {
        const NAMES: [&str; 4] = ["web", "other", "third", "rival"];
        const HOSTS: [&str; 4] = ["web", "*.local", "web.shop.svc.cluster.local", "other"];
        let gone = random.bool();
        let name = NAMES[random.usize(..NAMES.len())];
        let service = NAMES[random.usize(..2)];
        match random.u8(..8) {
            0 => {
                let spec = json!({"catalogServiceId": "id", "serviceName": service});
                let mut binding: ServiceBinding = object(name, version, spec);
                let reason = ["Synced", "NotFound", "DeletionHeld"][random.usize(..3)];
                binding.status = Some(ready(reason));
                let binding = sources::binding(binding);
                match random.u8(..4) {
                    0 => drop(self.0.bindings(Event::Delete(binding))),
                    1 => self.0.wrote_binding(binding),
                    2 => self.0.ended_binding(binding),
                    _ => drop(self.0.bindings(Event::Apply(binding))),
                }
            }
            1 | 2 => {
                let service = object(name, version, json!({"ports": []}));
                let event = if gone { Event::Delete } else { Event::Apply };
                self.0.services(event(sources::service(service)));
            }
            3 | 4 => {
                let host = HOSTS[random.usize(..HOSTS.len())];
                let mut rule: MeshRule = object(name, version, json!({"host": host}));
                if random.bool() {
                    let ours = (labels::LABEL_MANAGED_BY, labels::MANAGER);
                    let ours = (ours.0.to_owned(), ours.1.to_owned());
                    rule.metadata.labels = Some([ours].into());
                }
                let kind = MeshKind::DestinationRule;
                let rule = sources::rule(kind, &rule);
                match random.u8(..3) {
                    0 => drop(self.0.rules(kind, Event::Delete(rule))),
                    1 => self.0.wrote_rule(kind, rule),
                    _ => drop(self.0.rules(kind, Event::Apply(rule))),
                }
            }
            5 => {
                let name = ["shop", "operator", "elsewhere"][random.usize(..3)];
                let event = if gone { Event::Delete } else { Event::Apply };
                self.told_of_namespace(name, version, event);
            }
            6 => {
                let kind = MeshKind::VirtualService;
                if gone {
                    let why = Missing::Kind("404".to_owned());
                    self.0.rules_missing(kind, WHOLE, why);
                } else {
                    self.0.rules(kind, Event::InitDone);
                }
            }
            _ => {
                let said = Seen {
                    id: ("shop".to_owned(), name.to_owned()),
                    uid: name.into(),
                    version,
                    value: "unreadable".to_owned(),
                };
                let event = if gone { Event::Delete } else { Event::Apply };
                self.0.unreadable(event(said));
            }
        }
    }

    pub(super) fn service(&self, name: &str, version: u64) {
        let service = object(name, version, json!({"ports": []}));
        self.0.services(Event::Apply(sources::service(service)));
    }

    pub(super) fn rule(&self, name: &str, host: &str, version: u64) {
        let rule: MeshRule = object(name, version, json!({"host": host}));
        let kind = MeshKind::DestinationRule;
        self.0.rules(kind, Event::Apply(sources::rule(kind, &rule)));
    }

    pub(super) fn versions(&self) -> Option<u64> {
        self.0.versions(&key()).map(|versions| versions.number)
    }
}

/// A status that says so of Ready.
fn ready(reason: &str) -> ServiceBindingStatus {
    let condition = json!({
        "type": "Ready", "status": "False", "reason": reason, "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    serde_json::from_value(json!({"conditions": [condition]})).unwrap()
}

pub(super) fn key() -> BindingKey {
    BindingKey::new("shop", "web")
}

fn object<T: serde::de::DeserializeOwned>(name: &str, version: u64, spec: Value) -> T {
    let metadata = json!({
        "namespace": "shop", "name": name, "uid": name, "resourceVersion": version.to_string(),
    });
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}
