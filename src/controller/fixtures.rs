//! A cluster in memory for tests of the whole control loop, in paused time: an
//! API server that lists, watches and takes applies as the real one does, as
//! far as the operator makes use of it, and that can be told to misbehave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::FutureExt;
use futures::channel::mpsc;
use http::{Method, Request, Response};
use kube::Client;
use kube::client::ClientBuilder;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower::BoxError;

use super::clients::Clients;
use super::cluster_id::Identity;
use super::context::{Context, Memory, Options};
use super::ejection::Ejector;
use super::guard::Guard;
use super::leadership::Leadership;
use super::looks::Looks;
use super::mesh_api::MeshApi;
use super::monitor::Monitor;
use super::named::Names;
use super::owed::Owed;
use super::permit::Permit;
use super::queue::Queue;
use super::registrar::Registrar;
use super::settled::Settled;
use super::world::World;
use super::{events, watches};
use crate::alert;
use crate::api::policy::EjectionMode;
use crate::catalog::Catalog;
use crate::catalog::known::Known;
use crate::controller::write_back::WriteBack;
use crate::domain::brake::{Limits, SyncPolicy};
use crate::domain::fixtures::settings;
use crate::domain::inputs::Settings;
use crate::domain::names::ClusterDomain;
use crate::domain::record::ServiceRecord;
use crate::domain::registration::Scope;
use crate::domain::served::Served;
use crate::health;
use crate::metrics::Metrics;

/// What happens to a request, by its method and its path with the query.
type Fault = Box<dyn Fn(&Method, &str) -> Option<Answer> + Send>;

/// What it gets instead of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// This status.
    Status(u16),
    /// 403 in the words of RBAC.
    Denied,
    /// 409 for an apply whose fields somebody has edited.
    Edited,
    /// Nothing, ever.
    Silence,
}

/// Who watches a kind, everywhere or in one namespace.
struct Watch {
    plural: String,
    namespace: String,
    lines: mpsc::UnboundedSender<Result<Bytes, BoxError>>,
}

/// The API server.
#[derive(Default)]
pub(super) struct Server {
    /// Plural, namespace and name → the object.
    objects: BTreeMap<(String, String, String), Value>,
    version: u64,
    watches: Vec<Watch>,
    fault: Option<Fault>,
    /// Method and path of every request.
    pub(super) asked: Vec<String>,
}

/// What a path names.
struct Target {
    api: String,
    plural: String,
    namespace: String,
    name: String,
    status: bool,
}

impl Target {
    /// Of `/api/v1/…` or `/apis/<group>/<version>/…`.
    fn of(path: &str) -> Self {
        let mut parts = path.trim_matches('/').split('/');
        let api = match parts.next() {
            Some("api") => parts.next().unwrap().to_owned(),
            _ => format!("{}/{}", parts.next().unwrap(), parts.next().unwrap()),
        };
        let mut rest: Vec<_> = parts.map(str::to_owned).collect();
        let mut namespace = String::new();
        if rest.len() > 2 && rest[0] == "namespaces" {
            namespace = rest[1].clone();
            rest.drain(..2);
        }
        let part = |n: usize| rest.get(n).cloned().unwrap_or_default();
        Self {
            api,
            plural: part(0),
            namespace,
            name: part(1),
            status: part(2) == "status",
        }
    }
}

impl Server {
    /// Stores the object, and tells whoever watches.
    pub(super) fn put(&mut self, plural: &str, mut object: Value) -> Value {
        let text = |key: &str| {
            object["metadata"][key]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let id = (plural.to_owned(), text("namespace"), text("name"));
        self.version += 1;
        let before = self.objects.get(&id).cloned();
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        let (event, uid, generation) = match &before {
            None => ("ADDED", json!(format!("uid-{}", self.version)), 1),
            Some(before) => {
                let generation = before["metadata"]["generation"].as_i64().unwrap();
                let uid = before["metadata"]["uid"].clone();
                ("MODIFIED", uid, generation)
            }
        };
        metadata["uid"] = uid;
        let moved = before.is_some_and(|before| before["spec"] != object["spec"]);
        object["metadata"]["generation"] = json!(generation + i64::from(moved));
        self.objects.insert(id, object.clone());
        self.tell(plural, event, &object);
        object
    }

    /// Deletes the object, and tells whoever watches.
    pub(super) fn delete(&mut self, plural: &str, name: &str) {
        if let Some(object) = self.forget(plural, name) {
            self.tell(plural, "DELETED", &object);
        }
    }

    /// Deletes the object, and no watch tells of it.
    pub(super) fn forget(&mut self, plural: &str, name: &str) -> Option<Value> {
        self.version += 1;
        let named = |id: &&(String, String, String)| id.0 == plural && id.2 == name;
        let id = self.objects.keys().find(named).cloned()?;
        let mut object = self.objects.remove(&id)?;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(object)
    }

    /// The object of that name.
    pub(super) fn get(&self, plural: &str, name: &str) -> Option<Value> {
        let mut all = self.objects.iter();
        let found = all.find(|(id, _)| id.0 == plural && id.2 == name);
        found.map(|(_, object)| object.clone())
    }

    /// From now on this happens to requests.
    pub(super) fn misbehave(
        &mut self,
        fault: impl Fn(&Method, &str) -> Option<Answer> + Send + 'static,
    ) {
        self.fault = Some(Box::new(fault));
    }

    /// From now on such requests are denied in the words of RBAC.
    pub(super) fn deny(&mut self, which: impl Fn(&Method, &str) -> bool + Send + 'static) {
        self.misbehave(move |method, path| which(method, path).then_some(Answer::Denied));
    }

    /// From now on nothing does.
    pub(super) fn behave(&mut self) {
        self.fault = None;
    }

    /// Ends all watches of that kind, as one whose version is too old.
    pub(super) fn expire(&mut self, plural: &str) {
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
            "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}});
        self.watches.retain(|watch| {
            let ends = watch.plural == plural;
            if ends {
                let line = Bytes::from(format!("{gone}\n"));
                let _ = watch.lines.unbounded_send(Ok(line));
            }
            !ends
        });
    }

    fn tell(&mut self, plural: &str, event: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": event, "object": object})));
        let within = object["metadata"]["namespace"].as_str();
        self.watches.retain(|watch| {
            let elsewhere = !watch.namespace.is_empty() && within != Some(&watch.namespace);
            let told = || watch.lines.unbounded_send(Ok(line.clone())).is_ok();
            watch.plural != plural || elsewhere || told()
        });
    }

    fn answer(
        &mut self,
        method: &Method,
        target: &Target,
        sent: &[u8],
        json_patch: bool,
    ) -> (u16, Value) {
        let there = self.get(&target.plural, &target.name);
        match (method, there) {
            (&Method::GET, _) if target.name.is_empty() => {
                let within = &target.namespace;
                let items = self.objects.iter().filter(|(id, _)| {
                    id.0 == target.plural && (within.is_empty() || id.1 == *within)
                });
                let items: Vec<_> = items.map(|(_, object)| object.clone()).collect();
                let list = json!({
                    "apiVersion": target.api, "kind": "List", "items": items,
                    "metadata": {"resourceVersion": self.version.to_string()},
                });
                (200, list)
            }
            (&Method::GET, Some(object)) => (200, object),
            (&Method::POST, _) => (201, serde_json::from_slice(sent).unwrap()),
            (&Method::PATCH, Some(mut object)) if json_patch => {
                let patch: json_patch::Patch = serde_json::from_slice(sent).unwrap();
                match json_patch::patch(&mut object, &patch) {
                    Ok(()) => (200, self.put(&target.plural, object)),
                    Err(_) => refused(422, "the server rejected our request"),
                }
            }
            (&Method::PATCH, there) => {
                self.apply(target, there, serde_json::from_slice(sent).unwrap())
            }
            (&Method::DELETE, Some(object)) => {
                self.delete(&target.plural, &target.name);
                (200, object)
            }
            _ => refused(404, "no such object"),
        }
    }

    fn apply(&mut self, target: &Target, there: Option<Value>, sent: Value) -> (u16, Value) {
        let version = &sent["metadata"]["resourceVersion"];
        let Some(mut object) = there else {
            return if target.status {
                refused(404, "no such object")
            } else {
                let mut object = sent;
                object["metadata"]["namespace"] = json!(target.namespace);
                (201, self.put(&target.plural, object))
            };
        };
        if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
            return refused(409, "the object has been modified");
        }
        if target.status {
            object["status"] = sent["status"].clone();
        } else {
            object["spec"] = sent["spec"].clone();
            for key in ["labels", "annotations", "ownerReferences"] {
                object["metadata"][key] = sent["metadata"][key].clone();
            }
        }
        (200, self.put(&target.plural, object))
    }
}

fn refused(code: u16, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": "Stub", "message": message, "details": {"name": "x"},
    });
    (code, status)
}

/// The cluster, and the operator in it.
pub(super) struct Bed {
    server: Arc<Mutex<Server>>,
    pub(super) ctx: Arc<Context>,
    /// What kube's `Controller` is to run next.
    pub(super) names: Names,
    stop: watch::Sender<bool>,
    pub(super) work: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.work.abort();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Bed {
    /// With these Services bound to records of their names, and the operator
    /// at work before this catalog.
    pub(super) async fn start(catalog: Arc<dyn Catalog>, names: &[&str]) -> Self {
        let mut server = Server::default();
        server.put("namespaces", json!({"metadata": {"name": "shop"}}));
        for name in names {
            server.put("services", service(name));
            server.put("servicebindings", binding(name));
        }
        Self::on(server, catalog, &Served::default()).await
    }

    /// The operator ends, and is started again beside the same server.
    pub(super) async fn start_again(self, catalog: Arc<dyn Catalog>) -> Self {
        let server = std::mem::take(&mut *self.server());
        drop(self);
        Self::on(server, catalog, &Served::default()).await
    }

    /// With what this server holds, and the operator at work in the namespaces
    /// that are served.
    pub(super) async fn on(server: Server, catalog: Arc<dyn Catalog>, served: &Served) -> Self {
        let server = Arc::new(Mutex::new(server));
        let leadership = Leadership::granted(1);
        let client = |guard: bool| client(Arc::clone(&server), &leadership, guard);
        let clients = Clients {
            requests: client(false),
            watches: client(true),
        };
        let ctx = Arc::new(context(clients, leadership.clone(), catalog, served));
        let tasks = watches::all(&ctx);
        let tasks = tasks.into_iter().map(|(_, watch)| tokio::spawn(watch));
        let tasks = tasks.collect();
        ctx.world.complete().await;
        let (stop, mut stopped) = watch::channel(false);
        let told = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let names = Names::new();
        let (to_run, us) = (names.clone(), Arc::clone(&ctx));
        let work = tokio::spawn(async move { super::run_by(&to_run, us, told).await });
        Self {
            server,
            ctx,
            names,
            stop,
            work,
            tasks,
        }
    }

    pub(super) fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap()
    }

    /// The operator is told to end.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// What the binding's condition says, as `True Synced`.
    pub(super) fn says(&self, name: &str, type_: &str) -> String {
        let binding = self.server().get("servicebindings", name).unwrap();
        let conditions = binding["status"]["conditions"].as_array().cloned();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|c| c["type"] == type_);
        found.map_or_else(String::new, |condition| {
            let text = |key: &str| condition[key].as_str().unwrap().to_owned();
            format!("{} {}", text("status"), text("reason"))
        })
    }

    /// Waits that long at most until the condition says so.
    pub(super) async fn until(&self, limit: Duration, name: &str, type_: &str, said: &str) {
        let mut left = limit;
        while self.says(name, type_) != said {
            assert!(!left.is_zero(), "{name} says {}", self.says(name, type_));
            let step = Duration::from_millis(100).min(left);
            sleep(step).await;
            left -= step;
        }
    }

    /// The value of a series of the metrics; none is 0.
    pub(super) fn metric(&self, series: &str) -> f64 {
        let text = self.ctx.metrics.exposition().unwrap();
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        found.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// A Service with one HTTP port.
pub(super) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "shop", "name": name},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    })
}

/// A binding of the Service of that name to the record of that name.
pub(super) fn binding(name: &str) -> Value {
    json!({
        "apiVersion": "aikernel.io/v1alpha1", "kind": "ServiceBinding",
        "metadata": {
            "namespace": "shop", "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"catalogServiceId": name, "serviceName": name},
    })
}

/// The record of that Service.
pub(super) fn record(name: &str) -> ServiceRecord {
    ServiceRecord {
        id: name.to_owned(),
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        timeout: Some("5s".to_owned()),
        ..ServiceRecord::default()
    }
}

fn client(server: Arc<Mutex<Server>>, leadership: &Leadership, guarded: bool) -> Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let server = Arc::clone(&server);
        async move { Ok::<_, BoxError>(respond(&server, request).await) }.boxed()
    });
    let client = ClientBuilder::new(service, "default");
    if guarded {
        client.with_layer(&Guard::default()).build()
    } else {
        client.with_layer(&Permit(leadership.clone())).build()
    }
}

async fn respond(server: &Mutex<Server>, request: Request<kube::client::Body>) -> Response<Body> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let whole = uri.path_and_query().unwrap().as_str().to_owned();
    let json_patch = request.headers().get(http::header::CONTENT_TYPE);
    let json_patch = json_patch.is_some_and(|type_| type_ == "application/json-patch+json");
    let fault = {
        let mut server = server.lock().unwrap();
        server.asked.push(format!("{method} {whole}"));
        let fault = server.fault.as_ref();
        fault.and_then(|fault| fault(&method, &whole))
    };
    let (code, body) = match fault {
        Some(Answer::Silence) => std::future::pending().await,
        Some(Answer::Status(code)) => refused(code, "no"),
        Some(Answer::Denied) => {
            let words = "it is forbidden: User \"us\" cannot patch resource \"things\"";
            refused(403, words)
        }
        Some(Answer::Edited) => {
            let (code, mut body) = refused(409, "Apply failed with 1 conflict");
            body["details"]["causes"] = json!([{
                "reason": "FieldManagerConflict", "field": ".spec.http",
                "message": "conflict with \"kubectl-edit\" using networking.istio.io/v1",
            }]);
            (code, body)
        }
        None if uri.path() == "/readyz" => (200, json!("ok")),
        None if uri.path() == "/apis" => (200, groups()),
        None => {
            let target = Target::of(uri.path());
            if whole.contains("watch=true") {
                let (lines, receiver) = mpsc::unbounded();
                server.lock().unwrap().watches.push(Watch {
                    plural: target.plural,
                    namespace: target.namespace,
                    lines,
                });
                return Response::new(Body::from_stream(receiver));
            }
            let sent = request.into_body().collect_bytes().await.unwrap();
            server
                .lock()
                .unwrap()
                .answer(&method, &target, &sent, json_patch)
        }
    };
    let response = Response::builder().status(code);
    response.body(Body::from(body.to_string())).unwrap()
}

fn groups() -> Value {
    let version = json!({"groupVersion": "networking.istio.io/v1", "version": "v1"});
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [{
        "name": "networking.istio.io", "versions": [version], "preferredVersion": version,
    }]})
}

fn context(
    clients: Clients,
    leadership: Leadership,
    catalog: Arc<dyn Catalog>,
    served: &Served,
) -> Context {
    let metrics = Metrics::new().unwrap();
    let (events, _) = events::channel(clients.requests.clone(), "x".to_owned(), metrics.clone());
    let domain = ClusterDomain::parse("cluster.local").unwrap();
    let config = alert::Config::new(Vec::new());
    let (alerts, _) = alert::start(config, || false, metrics.alerts.clone()).unwrap();
    let limits = health::prober::Limits::default();
    let (prober, view, _) = health::start(limits, None, metrics.health.clone()).unwrap();
    Context {
        options: Options {
            settings: Settings {
                served: served.clone(),
                ..settings()
            },
            period: Duration::from_secs(30),
            concurrency: 4,
            limits: Limits {
                policy: SyncPolicy::Sync,
                percent: 20,
            },
            read_only: false,
            ejection: EjectionMode::Draining,
            trust_domain: "cluster.local".to_owned(),
        },
        clients,
        cluster: Identity::new(None),
        mesh_api: MeshApi::default(),
        world: World::serving(domain, "operators".to_owned(), served),
        catalog,
        known: Arc::<Known>::default(),
        leadership,
        write_back: Arc::new(WriteBack::new(100)),
        ejector: Ejector::default(),
        monitor: Monitor::new(prober, view, alerts),
        queue: Queue::new(4, metrics.workqueue.clone()),
        registrar: Registrar::new(Scope::default()),
        events,
        metrics,
        memory: Memory::default(),
        looks: Looks::default(),
        owed: Owed::default(),
        settled: Settled::default(),
    }
}
