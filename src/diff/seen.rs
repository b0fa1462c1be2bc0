//! What does the cluster hold? Lists every kind that a decision depends on,
//! once, and reads single objects. Watches nothing and writes nothing.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DynamicObject, ListParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use kube_runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::try_join;

use super::look::Live;
use super::owners::Owners;
use super::unable::Unable;
use crate::api::mesh_rule::MeshRule;
use crate::api::service::Service;
use crate::api::service_binding::ServiceBinding;
use crate::controller::apply::in_time;
use crate::controller::mesh_api::MeshApi;
use crate::controller::mirror::Seen;
use crate::controller::readable::Readable;
use crate::controller::sources;
use crate::controller::world::World;
use crate::controller::world::missing::Missing;
use crate::domain::desired::{DesiredObject, MeshKind};
use crate::domain::inputs::ServiceView;
use crate::domain::labels::{MANAGER, NOTE_REMOVALS, PREFIX};
use crate::domain::names::{BindingKey, ServiceKey};
use crate::domain::served::WHOLE;
use crate::domain::situation::Situation;
use crate::domain::validate;

/// Objects in one page of a list.
const PAGE: u32 = 250;

/// After all that was made before; bindings that are not stored yet are the
/// youngest, in their order.
const NOT_YET: i64 = 253_000_000_000;

/// What is to be taken for stored though it is not.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    /// Bindings, with their namespaces.
    pub(super) bindings: Vec<Arc<ServiceBinding>>,
    /// Services.
    pub(super) services: Vec<(ServiceKey, ServiceView)>,
}

/// The cluster.
pub(super) struct Cluster {
    /// What decisions are made from.
    pub(super) world: World,
    /// Bindings of which nothing can be decided, and why.
    pub(super) wrong: BTreeMap<BindingKey, Wrong>,
}

/// Why nothing can be decided of a binding.
pub(super) enum Wrong {
    /// It cannot be decoded.
    Undecodable {
        /// Its uid.
        uid: String,
        /// Which field is wrong, and how.
        error: String,
    },
    /// The API server would refuse it.
    Refused(Situation),
}

/// Lists everything.
pub(super) async fn list(
    client: &Client,
    mesh_api: &MeshApi,
    world: World,
    given: &Given,
) -> Result<Cluster, Unable> {
    let rules = |kind: MeshKind| {
        let api = mesh_api.all::<MeshRule>(client, kind);
        async move { rules(&api, kind).await }
    };
    let (bindings, services, namespaces, destination_rules, virtual_services) = try_join!(
        every::<Readable>(Api::all(client.clone()), "ServiceBindings"),
        every::<Service>(Api::all(client.clone()), "Services"),
        every::<PartialObjectMeta<Namespace>>(Api::all(client.clone()), "Namespaces"),
        rules(MeshKind::DestinationRule),
        rules(MeshKind::VirtualService),
    )?;
    let mut wrong = BTreeMap::new();
    let bindings = stored(bindings, given, &mut wrong);
    take(bindings, |event| drop(world.bindings(event)));
    let unreadable = wrong.iter().filter_map(|(key, wrong)| match wrong {
        Wrong::Undecodable { uid, error } => Some(Seen {
            id: (key.namespace.clone(), key.name.clone()),
            uid: uid.as_str().into(),
            version: 0,
            value: error.clone(),
        }),
        Wrong::Refused(_) => None,
    });
    take(unreadable, |event| world.unreadable(event));
    let given_services = given.services.iter().map(|(key, view)| Seen {
        id: (key.namespace.to_string(), key.name.to_string()),
        uid: "".into(),
        version: 0,
        value: view.clone(),
    });
    let services = services.into_iter().map(sources::service);
    // Of two with one name the later counts.
    take(services.chain(given_services), |event| {
        drop(world.services(event));
    });
    let namespaces = namespaces.into_iter().map(sources::namespace);
    take(namespaces, |event| drop(world.namespaces(event)));
    for (kind, listed) in [
        (MeshKind::DestinationRule, destination_rules),
        (MeshKind::VirtualService, virtual_services),
    ] {
        match listed {
            Ok(rules) => {
                let rules = rules.iter().map(|rule| sources::rule(kind, rule));
                take(rules, |event| drop(world.rules(kind, event)));
            }
            Err(missing) => drop(world.rules_missing(kind, WHOLE, Missing::Kind(missing))),
        }
    }
    Ok(Cluster { world, wrong })
}

/// The object as the cluster holds it, if it does.
pub(super) async fn read(
    client: &Client,
    mesh_api: &MeshApi,
    object: &DesiredObject,
) -> Result<Option<Live>, Unable> {
    let kind = object.kind();
    let resource = mesh_api.resource(kind);
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &object.namespace, &resource);
    let what = format!(
        "read {} {}/{}",
        kind.as_str(),
        object.namespace,
        object.name
    );
    let found = in_time(api.get_opt(&object.name))
        .await
        .map_err(|error| Unable::cluster(&what, &error))?;
    Ok(found.map(|found| {
        let DynamicObject { metadata, data, .. } = found;
        let mut object = json!({ "metadata": {}, "spec": data["spec"] });
        if let Some(labels) = metadata.labels {
            object["metadata"]["labels"] = json!(labels);
        }
        if let Some(annotations) = metadata.annotations {
            object["metadata"]["annotations"] = json!(annotations);
        }
        if let Some(owners) = metadata.owner_references {
            object["metadata"]["ownerReferences"] = json!(owners);
        }
        Live {
            object,
            owners: Owners::of(metadata.managed_fields),
        }
    }))
}

/// All objects of a kind, page by page.
async fn every<K>(api: Api<K>, kind: &str) -> Result<Vec<K>, Unable>
where
    K: Clone + DeserializeOwned + Debug,
{
    let listed = pages(&api).await;
    listed.map_err(|error| Unable::cluster(&format!("list {kind}"), &error))
}

/// The same for a kind that the cluster may not serve: then, why not.
async fn rules(
    api: &Api<MeshRule>,
    kind: MeshKind,
) -> Result<Result<Vec<MeshRule>, String>, Unable> {
    match pages(api).await {
        Ok(rules) => Ok(Ok(rules)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Err(format!(
            "the cluster does not serve {}s; install Istio's CRDs",
            kind.as_str()
        ))),
        Err(error) => Err(Unable::cluster(&format!("list {}s", kind.as_str()), &error)),
    }
}

async fn pages<K>(api: &Api<K>) -> Result<Vec<K>, kube::Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = in_time(api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

/// The bindings as if those that are given were stored.
fn stored(
    listed: Vec<Readable>,
    given: &Given,
    wrong: &mut BTreeMap<BindingKey, Wrong>,
) -> Vec<Seen<Arc<ServiceBinding>>> {
    let key = |metadata: &ObjectMeta| {
        BindingKey::new(
            metadata.namespace.clone().unwrap_or_default(),
            metadata.name.clone().unwrap_or_default(),
        )
    };
    let mut fresh: Vec<_> = given.bindings.iter().collect();
    let mut stored = Vec::new();
    for Readable(binding) in listed {
        let metadata = match &binding {
            Ok(binding) => &binding.metadata,
            Err(unreadable) => &unreadable.metadata,
        };
        let key = key(metadata);
        let of = |given: &&Arc<ServiceBinding>| {
            let metadata = &given.metadata;
            metadata.namespace.as_deref() == Some(&key.namespace)
                && metadata.name.as_deref() == Some(&key.name)
        };
        let given = fresh.iter().position(of).map(|at| fresh.remove(at));
        match (binding, given) {
            (Ok(binding), None) => stored.push(sources::binding(binding)),
            (Ok(mut binding), Some(given)) => {
                if let Some(situation) = immutable(&binding, given) {
                    wrong.insert(key, Wrong::Refused(situation));
                } else {
                    binding.spec = given.spec.clone();
                }
                stored.push(sources::binding(binding));
            }
            (Err(unreadable), None) => {
                let uid = unreadable.metadata.uid.unwrap_or_default();
                let error = unreadable.error;
                wrong.insert(key, Wrong::Undecodable { uid, error });
            }
            (Err(unreadable), Some(given)) => stored.push(sources::binding(ServiceBinding {
                metadata: unreadable.metadata,
                ..ServiceBinding::clone(given)
            })),
        }
    }
    let fresh = fresh
        .into_iter()
        .zip(NOT_YET..)
        .map(|(given, created)| sources::binding(fresh_one(given, created)));
    stored.extend(fresh);
    stored
}

/// The binding as if it had been stored at that second.
fn fresh_one(given: &ServiceBinding, created: i64) -> ServiceBinding {
    let mut binding = given.clone();
    let name = validate::key(&binding);
    binding.metadata.uid = Some(format!("(to be given to ServiceBinding {name})"));
    binding.metadata.creation_timestamp = Timestamp::from_second(created).ok().map(Time);
    binding.metadata.deletion_timestamp = None;
    binding.status = None;
    binding
}

impl Cluster {
    /// Whether there is a binding of that name, whatever it holds.
    pub(super) fn has(&self, key: &BindingKey) -> bool {
        self.world.has(key) || self.wrong.contains_key(key)
    }

    /// Takes a binding for stored that the operator would make.
    pub(super) fn make(&self, binding: &ServiceBinding) {
        let binding = sources::binding(fresh_one(binding, NOT_YET));
        drop(self.world.bindings(Event::Apply(binding)));
    }
}

/// What leaders noted of the removals of late.
pub(super) enum Removals {
    /// This.
    Noted(String),
    /// It may not be read, and what follows from that.
    Forbidden(String),
}

/// Reads what leaders noted in the Lease of the operator that is there.
pub(super) async fn removals(client: &Client, namespace: &str) -> Result<Removals, Unable> {
    let api = Api::<PartialObjectMeta<Lease>>::namespaced(client.clone(), namespace);
    let lease = match in_time(api.get_opt(MANAGER)).await {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            return Ok(Removals::Forbidden(format!(
                "the Lease {namespace}/{MANAGER} may not be read, so what was removed within the last 10 minutes is not counted, and the brake may hold more than is said here; ask for the rights that docs/flags.md names for diff"
            )));
        }
        lease => lease.map_err(|error| {
            Unable::cluster(&format!("read the Lease {namespace}/{MANAGER}"), &error)
        })?,
    };
    let annotations = lease.and_then(|lease| lease.metadata.annotations);
    let note = annotations.and_then(|mut all| all.remove(&format!("{PREFIX}{NOTE_REMOVALS}")));
    Ok(Removals::Noted(note.unwrap_or_default()))
}

/// What the schema does not let anybody change.
fn immutable(stored: &ServiceBinding, given: &ServiceBinding) -> Option<Situation> {
    let (stored, given) = (&stored.spec, &given.spec);
    let field = if stored.service_name != given.service_name {
        "serviceName"
    } else if stored.namespace != given.namespace {
        "namespace"
    } else {
        return None;
    };
    Some(Situation::InvalidBinding(format!(
        "spec.{field}: cannot be changed, added or removed; delete this binding and create another one"
    )))
}

fn take<V>(items: impl IntoIterator<Item = Seen<V>>, mut sink: impl FnMut(Event<Seen<V>>)) {
    sink(Event::Init);
    for item in items {
        sink(Event::InitApply(item));
    }
    sink(Event::InitDone);
}
