//! The whole path, against a stub of the API server and a catalog in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use clap::Parser;
use http::{Method, Request, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};
use kube::client::{Body, ClientBuilder};
use serde_json::{Value, json};
use tower::BoxError;

use super::fixtures::entry;
use super::*;
use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
use crate::args::diff::DiffArgs;
use crate::catalog::error::CatalogError;
use crate::catalog::fake::FakeCatalog;
use crate::domain::build::build;
use crate::domain::desired::DesiredObject;
use crate::domain::fixtures::{UID, at, binding, inputs, record, settings, target};
use crate::domain::inputs::CatalogAnswer;
use crate::domain::labels::{self, MANAGER};
use crate::domain::record::{CatalogPosition, ServiceRecord};
use crate::domain::validate::validate;

const BINDINGS: &str = "/apis/aikernel.io/v1alpha1/servicebindings";
const SERVICES: &str = "/api/v1/services";
const NAMESPACES: &str = "/api/v1/namespaces";
const MESH: &str = "/apis/networking.istio.io/v1";

/// What the stub holds, and what it was asked.
#[derive(Default)]
struct Stub {
    /// Path of a list → its objects.
    lists: BTreeMap<String, Vec<Value>>,
    /// Path → the code that it is refused with.
    refused: BTreeMap<String, u16>,
    asked: Mutex<Vec<String>>,
}

impl Stub {
    /// Holds `shop/web` and its Service.
    fn new() -> Self {
        let mut stub = Self::default();
        for path in [
            NAMESPACES,
            &rules("destinationrules"),
            &rules("virtualservices"),
        ] {
            stub.lists.insert(path.to_owned(), Vec::new());
        }
        stub.put(BINDINGS, json!(binding()));
        stub.put(
            SERVICES,
            json!({"metadata": {"namespace": "shop", "name": "web"},
                "spec": {"ports": [{"name": "http", "port": 80}]}}),
        );
        stub
    }

    fn put(&mut self, list: &str, object: Value) {
        self.lists.entry(list.to_owned()).or_default().push(object);
    }

    /// Holds what was written for `shop/web`, as others left it.
    fn written(self, edit: impl Fn(&mut Value)) -> Self {
        self.holds(desired(), edit)
    }

    /// Holds these as others left them.
    fn holds(mut self, objects: [DesiredObject; 2], edit: impl Fn(&mut Value)) -> Self {
        for object in objects {
            let mut live = object.manifest("networking.istio.io/v1");
            live["metadata"]["uid"] = json!(format!("uid-of-{}", object.kind().as_str()));
            live["metadata"]["generation"] = json!(1);
            live["metadata"]["resourceVersion"] = json!("5");
            let fields = fields(&live);
            live["metadata"]["managedFields"] = json!([entry(MANAGER, "Apply", fields)]);
            edit(&mut live);
            let plural = format!("{}s", object.kind().as_str().to_lowercase());
            self.put(&rules(&plural), live);
        }
        self
    }

    fn answer(&self, request: &Request<Body>) -> (u16, Value) {
        let (method, path) = (request.method(), request.uri().path());
        let line = format!("{method} {path}");
        self.asked.lock().unwrap().push(line);
        let refusal = |code: u16| {
            let reason = if code == 404 { "NotFound" } else { "Stub" };
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": "the stub refuses", "reason": reason, "code": code});
            (code, status)
        };
        if *method != Method::GET {
            return refusal(405);
        }
        if let Some(code) = self.refused.get(path) {
            return refusal(*code);
        }
        if let Some(objects) = self.lists.get(path) {
            return (
                200,
                page(objects, request.uri().query().unwrap_or_default()),
            );
        }
        let found = self.lists.iter().find_map(|(list, objects)| {
            let (group, plural) = list.rsplit_once('/')?;
            objects.iter().find(|object| {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
                let own = format!(
                    "{group}/namespaces/{}/{plural}/{}",
                    text("namespace"),
                    text("name")
                );
                own == path
            })
        });
        found.map_or_else(|| refusal(404), |object| (200, object.clone()))
    }
}

/// A page of the list, at most so many as are asked for.
fn page(objects: &[Value], query: &str) -> Value {
    let number = |name: &str| {
        let pair = query.split('&').find_map(|pair| pair.strip_prefix(name));
        pair.and_then(|value| value.parse::<usize>().ok())
    };
    let from = number("continue=").unwrap_or_default();
    let to = objects.len().min(from + number("limit=").unwrap());
    let token = if to < objects.len() {
        to.to_string()
    } else {
        String::new()
    };
    json!({"metadata": {"resourceVersion": "9", "continue": token}, "items": objects[from..to]})
}

fn rules(plural: &str) -> String {
    format!("{MESH}/{plural}")
}

/// What is written for `shop/web`.
fn desired() -> [DesiredObject; 2] {
    let mut inputs = inputs(binding());
    let ports = &mut inputs.service.as_mut().unwrap().ports;
    ports.truncate(1);
    let valid = validate(&inputs, &target(&inputs), &settings()).unwrap();
    let desired = build(&valid.binding);
    [desired.destination_rule, desired.virtual_service]
}

/// The fields of an object as their manager holds them.
fn fields(object: &Value) -> Value {
    let names = |value: &Value| {
        let fields = value.as_object().unwrap().keys();
        fields
            .map(|name| (format!("f:{name}"), json!({})))
            .collect::<serde_json::Map<_, _>>()
    };
    json!({
        "f:metadata": {
            "f:labels": names(&object["metadata"]["labels"]),
            "f:annotations": names(&object["metadata"]["annotations"]),
            "f:ownerReferences": {format!(r#"k:{{"uid":"{UID}"}}"#): {"f:uid": {}}},
        },
        "f:spec": names(&object["spec"]),
    })
}

fn manager(name: &str, operation: &str) -> ManagedFieldsEntry {
    entry(name, operation, json!({"f:spec": {"f:http": {}}}))
}

fn catalog() -> FakeCatalog {
    let catalog = FakeCatalog::new();
    catalog.set(record());
    catalog
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: DiffArgs,
}

/// What the command answers, after the question was read from the command line.
async fn ask(
    stub: &Arc<Stub>,
    catalog: impl Into<Arc<FakeCatalog>>,
    line: &[&str],
) -> Result<Printed, String> {
    let line = ["diff"].iter().chain(line);
    let args = Command::try_parse_from(line).unwrap().args;
    let question = Question::read(&args, settings(), "shop".to_owned(), &mut std::io::empty())
        .map_err(|unable| unable.to_string())?;
    let served = Arc::clone(stub);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (code, body) = served.answer(&request);
        let body = Body::from(body.to_string().into_bytes());
        async move { Ok::<_, BoxError>(Response::builder().status(code).body(body)?) }
    });
    let reach = Reach {
        client: ClientBuilder::new(service, "default").build(),
        catalog: catalog.into(),
    };
    let answer = answer(&question, &reach).await;
    for line in stub.asked.lock().unwrap().iter() {
        assert!(line.starts_with("GET "), "{line}");
    }
    answer.map_err(|unable| unable.to_string())
}

/// The same as JSON, and whether it differs.
async fn json_of(stub: Stub, catalog: FakeCatalog, line: &[&str]) -> (Value, bool) {
    let line = [line, &["-o", "json"]].concat();
    let printed = ask(&Arc::new(stub), catalog, &line).await.unwrap();
    (
        serde_json::from_str(&printed.output).unwrap(),
        printed.differs,
    )
}

/// Action and reason of the first binding.
fn verdict(answer: &Value) -> (&str, &str) {
    let first = &answer["bindings"][0];
    let text = |field: &str| first[field].as_str().unwrap_or_default();
    (text("action"), text("reason"))
}

#[tokio::test]
async fn nothing_there_is_created_and_all_is_shown() {
    let printed = ask(&Arc::new(Stub::new()), catalog(), &[]).await.unwrap();
    assert!(printed.differs);
    let expected = "\
# ServiceBinding shop/web: create
--- /dev/null
+++ DestinationRule shop/web
+metadata:
+  annotations:
+    catalog-mesh.aikernel.io/binding: shop/web         # Operator
+    catalog-mesh.aikernel.io/binding-uid: uid-of-web   # Operator
+  labels:
+    app.kubernetes.io/managed-by: catalog-mesh-controller  # Operator
+  ownerReferences:
+  - apiVersion: aikernel.io/v1alpha1                   # Operator
+    kind: ServiceBinding                               # Operator
+    name: web                                          # Operator
+    uid: uid-of-web                                    # Operator
+spec:
+  host: web.shop.svc.cluster.local                     # Binding
--- /dev/null
+++ VirtualService shop/web
";
    assert!(printed.output.starts_with(expected), "{}", printed.output);
    let expected = "
+    route:
+    - destination:
+        host: web.shop.svc.cluster.local               # Binding
+        port:
+          number: 80                                   # Service
+    timeout: 5s                                        # Catalog

1 binding: 1 create
";
    assert!(printed.output.ends_with(expected), "{}", printed.output);
}

#[tokio::test]
async fn what_is_as_it_should_be_differs_in_nothing_though_the_fence_does_not_know_it() {
    let (answer, differs) = json_of(Stub::new().written(|_| {}), catalog(), &["web"]).await;
    assert_eq!((verdict(&answer), differs), (("nothing", ""), false));
}

#[tokio::test]
async fn another_value_of_the_catalog_is_one_change_with_its_source() {
    let catalog = catalog();
    catalog.set(ServiceRecord {
        timeout: Some("7s".to_owned()),
        ..record()
    });
    let (answer, differs) = json_of(Stub::new().written(|_| {}), catalog, &[]).await;
    let objects = json!([{
        "kind": "VirtualService", "namespace": "shop", "name": "web", "action": "update",
        "changes": [{"path": "/spec/http/0/timeout", "before": "5s", "after": "7s", "source": "Catalog"}],
    }]);
    assert_eq!(answer["bindings"][0]["objects"], objects);
    assert!(differs);
}

#[tokio::test]
async fn the_readme_shows_what_is_printed() {
    let catalog = catalog();
    catalog.set(ServiceRecord {
        timeout: Some("7s".to_owned()),
        ..record()
    });
    let stub = Arc::new(Stub::new().written(|_| {}));
    let printed = ask(&stub, catalog, &["-n", "shop"]).await.unwrap();
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let shown = format!("```diff\n{}```", printed.output);
    assert!(readme.contains(&shown), "it does not show:\n{shown}");
}

#[tokio::test]
async fn a_hand_edit_is_put_back_and_says_whose_it_was() {
    let stub = Stub::new().written(|object| {
        if object["kind"] == "VirtualService" {
            object["spec"]["http"][0]["timeout"] = json!("99s");
            let fields = object["metadata"]["managedFields"].as_array_mut().unwrap();
            fields.push(json!(manager("kubectl-edit", "Update")));
        }
        object["metadata"]["labels"]["theirs"] = json!("stays");
    });
    let (answer, _) = json_of(stub, catalog(), &[]).await;
    let changes = &answer["bindings"][0]["objects"][0]["changes"];
    let expected = json!([{"path": "/spec/http/0/timeout", "before": "99s", "after": "5s",
        "source": "Catalog", "setBy": "kubectl-edit"}]);
    assert_eq!(changes, &expected);
    assert_eq!(
        answer["bindings"][0]["objects"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test]
async fn who_applies_a_field_of_ours_is_not_fought() {
    let stub = Stub::new().written(|object| {
        if object["kind"] == "VirtualService" {
            object["spec"]["http"][0]["timeout"] = json!("99s");
            object["metadata"]["managedFields"] = json!([manager("argocd", "Apply")]);
        }
    });
    let (answer, differs) = json_of(stub, catalog(), &[]).await;
    assert_eq!(
        (verdict(&answer), differs),
        (("blocked", "FieldFight"), true)
    );
    let message = answer["bindings"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("\"argocd\" applies spec.http of"),
        "{message}"
    );
}

#[tokio::test]
async fn what_blocks_a_binding_is_said_as_its_condition_would() {
    let mut foreign = Stub::new();
    foreign.put(
        &rules("virtualservices"),
        json!({"metadata": {"namespace": "shop", "name": "web", "uid": "x"}, "spec": {"hosts": ["x"]}}),
    );
    let (answer, differs) = json_of(foreign, catalog(), &[]).await;
    assert_eq!((verdict(&answer), differs), (("blocked", "NotOurs"), true));

    let mut no_service = Stub::new();
    no_service.lists.insert(SERVICES.to_owned(), Vec::new());
    let (answer, _) = json_of(no_service, catalog(), &[]).await;
    assert_eq!(verdict(&answer), ("blocked", "ServiceNotFound"));

    let bad = FakeCatalog::new();
    bad.set_bad("web-1", "timeout", "is a number");
    let (answer, _) = json_of(Stub::new(), bad, &[]).await;
    assert_eq!(verdict(&answer), ("blocked", "InvalidRecord"));

    let mut no_mesh = Stub::new();
    no_mesh.refused.insert(rules("virtualservices"), 404);
    let (answer, _) = json_of(no_mesh, catalog(), &[]).await;
    assert_eq!(verdict(&answer), ("blocked", "MeshApiMissing"));

    let mut undecodable = json!(binding());
    undecodable["spec"]["serviceName"] = json!(5);
    let mut stub = Stub::new();
    stub.lists.insert(BINDINGS.to_owned(), vec![undecodable]);
    let (answer, _) = json_of(stub, catalog(), &[]).await;
    assert_eq!(verdict(&answer), ("blocked", "Undecodable"));
}

#[tokio::test]
async fn a_frozen_binding_differs_in_nothing() {
    let mut frozen = binding();
    frozen.spec.suspend = Some(true);
    let mut stub = Stub::new();
    stub.lists.insert(BINDINGS.to_owned(), vec![json!(frozen)]);
    let (answer, differs) = json_of(stub, catalog(), &[]).await;
    assert_eq!(verdict(&answer), ("nothing", "SuspendedByBinding"));
    assert!(!differs);
}

/// Our binding as one whose record was seen here.
fn seen_at(position: &CatalogPosition) -> ServiceBinding {
    let mut seen = binding();
    seen.status = Some(ServiceBindingStatus {
        record_seen: Some(position.to_string()),
        ..ServiceBindingStatus::default()
    });
    seen
}

/// A catalog that had `web-1` and has another service, and the stub whose
/// binding has seen that.
fn deregistered() -> (Stub, FakeCatalog) {
    let catalog = catalog();
    catalog.set(ServiceRecord {
        id: "other".to_owned(),
        name: "other".to_owned(),
        ..record()
    });
    let seen = seen_at(&catalog.position());
    catalog.remove("web-1");
    let mut stub = Stub::new().written(|_| {});
    stub.lists.insert(BINDINGS.to_owned(), vec![json!(seen)]);
    (stub, catalog)
}

#[tokio::test(start_paused = true)]
async fn a_service_that_the_catalog_lacks_twice_loses_its_objects() {
    let (stub, catalog) = deregistered();
    let (answer, differs) = json_of(stub, catalog, &[]).await;
    assert_eq!((verdict(&answer), differs), (("remove", "Removed"), true));
    let kinds: Vec<_> = answer["bindings"][0]["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["VirtualService", "DestinationRule"]);
    // Where nothing is to be removed, somebody has to correct the ID.
    let (answer, differs) = json_of(Stub::new(), FakeCatalog::new(), &[]).await;
    assert_eq!((verdict(&answer), differs), (("blocked", "Removed"), true));
}

#[tokio::test(start_paused = true)]
async fn of_a_binding_that_retains_its_objects_it_is_said_that_they_stay() {
    let (mut stub, catalog) = deregistered();
    let bindings = stub.lists.get_mut(BINDINGS).unwrap();
    bindings[0]["spec"]["deletionPolicy"] = json!("Retain");
    let (answer, _) = json_of(stub, catalog, &[]).await;
    let message = answer["bindings"][0]["message"].as_str().unwrap();
    assert!(message.contains("deletionPolicy is Retain"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_was_made_for_the_catalog_goes_itself() {
    let made = |created: i64| {
        let mut made = binding();
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        made.metadata.labels = Some([label(labels::LABEL_SOURCE, labels::SOURCE_CATALOG)].into());
        made.metadata.creation_timestamp = Some(Time(at(created)));
        made
    };
    let (mut stub, lacking) = deregistered();
    let seen = stub.lists[BINDINGS][0]["status"].clone();
    let mut of_catalog = json!(made(1));
    of_catalog["status"] = seen;
    stub.lists.insert(BINDINGS.to_owned(), vec![of_catalog]);
    let (answer, differs) = json_of(stub, lacking, &[]).await;
    assert_eq!((verdict(&answer), differs), (("remove", "Removed"), true));

    let mut theirs = made(1);
    theirs.metadata.labels = None;
    theirs.metadata.name = Some("theirs".to_owned());
    theirs.metadata.uid = Some("theirs".to_owned());
    let mut stub = Stub::new();
    let both = vec![json!(theirs), json!(made(2))];
    stub.lists.insert(BINDINGS.to_owned(), both);
    let (answer, differs) = json_of(stub, catalog(), &["web"]).await;
    assert_eq!(
        (verdict(&answer), differs),
        (("remove", "AnotherBinding"), true)
    );
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/aikernel-infrastructure/leases/catalog-mesh-controller";

/// So many removals just now, as a leader notes them.
fn lease(removals: usize) -> Value {
    let now = Timestamp::now().as_second();
    json!({"metadata": {"namespace": "aikernel-infrastructure", "name": MANAGER,
        "annotations": {"catalog-mesh.aikernel.io/removals": format!("{now}:{removals}")}}})
}

#[tokio::test(start_paused = true)]
async fn what_the_brake_holds_is_kept_for_the_brakes_reason() {
    let leases = LEASE.rsplit_once("/namespaces").unwrap().0.to_owned() + "/leases";
    for (removals, expected) in [(0, "remove Removed"), (1, "blocked DeletionHeld")] {
        let (mut stub, catalog) = deregistered();
        stub.put(&leases, lease(removals));
        let (answer, _) = json_of(stub, catalog, &[]).await;
        let (action, reason) = verdict(&answer);
        assert_eq!(format!("{action} {reason}"), expected, "{answer}");
        assert_eq!(answer["bindings"][0]["notes"], json!([]));
    }
    // A catalog that holds nothing at all may have lost it; and so may one with
    // another history.
    let (stub, catalog) = deregistered();
    catalog.remove("other");
    let (answer, _) = json_of(stub, catalog, &[]).await;
    assert_eq!(verdict(&answer), ("blocked", "DeletionHeld"));
    let (stub, catalog) = deregistered();
    catalog.new_epoch();
    let (answer, _) = json_of(stub, catalog, &[]).await;
    assert_eq!(verdict(&answer), ("blocked", "DeletionHeld"));
    assert!(
        answer["bindings"][0]["message"]
            .as_str()
            .unwrap()
            .contains("approve-deletion")
    );
}

#[tokio::test(start_paused = true)]
async fn of_several_that_would_go_the_share_is_said_to_go() {
    let (mut stub, catalog) = deregistered();
    let second = |name: &str| {
        let mut second = stub.lists[BINDINGS][0].clone();
        second["metadata"]["name"] = json!(name);
        second["metadata"]["uid"] = json!(name);
        second["metadata"]["labels"] = json!({labels::LABEL_SOURCE: labels::SOURCE_CATALOG});
        second["spec"]["serviceName"] = json!(name);
        second
    };
    let (a, z) = (second("a"), second("z"));
    stub.put(BINDINGS, a);
    stub.put(BINDINGS, z);
    for name in ["a", "z"] {
        stub.put(
            SERVICES,
            json!({"metadata": {"namespace": "shop", "name": name},
                "spec": {"ports": [{"name": "http", "port": 80}]}}),
        );
    }
    let stub = Arc::new(stub);
    let catalog = Arc::new(catalog);
    let ask = async |more: &[&str]| {
        let line = [&["-o", "json"], more].concat();
        let printed = ask(&stub, Arc::clone(&catalog), &line).await.unwrap();
        let answer: Value = serde_json::from_str(&printed.output).unwrap();
        answer["counts"].clone()
    };
    assert_eq!(ask(&[]).await, json!({"remove": 1, "blocked": 2}));
    let half = ask(&["--max-delete-percent=67"]).await;
    assert_eq!(half, json!({"remove": 2, "blocked": 1}));
    let never = ask(&["--policy=upsert-only"]).await;
    assert_eq!(never, json!({"blocked": 3}));
}

#[tokio::test(start_paused = true)]
async fn who_may_not_read_the_lease_is_told_what_is_not_counted() {
    let (mut stub, catalog) = deregistered();
    stub.refused.insert(LEASE.to_owned(), 403);
    let (answer, _) = json_of(stub, catalog, &[]).await;
    assert_eq!(verdict(&answer), ("remove", "Removed"));
    let note = answer["bindings"][0]["notes"][0].as_str().unwrap();
    assert!(note.contains("may not be read") && note.contains("docs/flags.md"));
    // Nobody needs it where nothing goes.
    let mut stub = Stub::new();
    stub.refused.insert(LEASE.to_owned(), 403);
    let stub = Arc::new(stub);
    ask(&stub, self::catalog(), &[]).await.unwrap();
    assert!(
        !stub
            .asked
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains("leases"))
    );
    // One that cannot be read for another reason is no answer.
    let (mut stub, catalog) = deregistered();
    stub.refused.insert(LEASE.to_owned(), 500);
    let error = ask(&Arc::new(stub), catalog, &[]).await.unwrap_err();
    assert!(error.contains("cannot read the Lease"), "{error}");
}

/// A stub with the Namespace and the Service `shop/web`, which nobody binds.
fn unbound() -> Stub {
    let mut stub = Stub::new();
    stub.lists.insert(BINDINGS.to_owned(), Vec::new());
    stub.put(NAMESPACES, json!({"metadata": {"name": "shop"}}));
    stub
}

#[tokio::test]
async fn a_binding_that_the_catalog_leads_to_is_created_with_what_follows_from_it() {
    let kinds = |answer: &Value| -> Vec<String> {
        let objects = answer["bindings"][0]["objects"].as_array().cloned();
        let objects = objects.unwrap_or_default().into_iter();
        objects
            .map(|object| format!("{} {}", object["action"], object["kind"]).replace('"', ""))
            .collect()
    };
    for line in [&["-n", "shop"][..], &["-A"], &["web"]] {
        let (answer, differs) = json_of(unbound(), catalog(), line).await;
        assert_eq!((verdict(&answer), differs), (("create", ""), true));
        assert_eq!(
            kinds(&answer),
            [
                "create ServiceBinding",
                "create DestinationRule",
                "create VirtualService"
            ]
        );
        let created = answer["bindings"][0]["objects"][0]["changes"].to_string();
        let id = r#"{"after":"web-1","path":"/spec/catalogServiceId","source":"Catalog"}"#;
        assert!(created.contains(id), "{created}");
    }
    let nothing = json!({});
    for line in [
        &["--register=off"][..],
        &["--register-namespaces=other"],
        &["--register-service-labels=mesh=yes"],
        &["--register-catalog-labels=mesh=yes"],
        &["-n", "other"],
    ] {
        let (answer, differs) = json_of(unbound(), catalog(), line).await;
        assert_eq!((&answer["counts"], differs), (&nothing, false), "{line:?}");
    }
    // Nor is one made beside another, or for what has opted out.
    let mut ignored = unbound();
    let service = &mut ignored.lists.get_mut(SERVICES).unwrap()[0];
    service["metadata"]["annotations"] = json!({labels::ANNOTATION_IGNORE: "true"});
    let (answer, _) = json_of(ignored, catalog(), &[]).await;
    assert_eq!(answer["counts"], nothing);
    let mut undecodable = json!(binding());
    undecodable["spec"]["serviceName"] = json!(5);
    let mut taken = unbound();
    taken.put(BINDINGS, undecodable);
    let (answer, _) = json_of(taken, catalog(), &[]).await;
    assert_eq!(verdict(&answer), ("blocked", "Undecodable"));
    assert_eq!(answer["counts"], json!({"blocked": 1}));
}

#[tokio::test]
async fn an_entry_of_a_file_leads_to_a_binding_as_if_it_came() {
    let files = Files::new();
    let entry = json!({"id": "web-1", "name": "web", "namespace": "shop"});
    let entry = files.write("entry.json", &entry);
    let (answer, _) = json_of(unbound(), FakeCatalog::new(), &["--catalog", &entry]).await;
    assert_eq!(verdict(&answer), ("create", ""));
    assert_eq!(
        answer["bindings"][0]["objects"][0]["kind"],
        "ServiceBinding"
    );
}

/// What was written for `shop/web` while an unhealthy endpoint had to stay, and
/// a catalog whose policy asks for so many errors by now.
fn tightened(errors: u32) -> (Stub, FakeCatalog) {
    tightened_from(errors, 50, &json!({"maxEjectionPercent": 99}))
}

/// The same with this share in both policies, and with what was written for it.
fn tightened_from(errors: u32, percent: u32, written: &Value) -> (Stub, FakeCatalog) {
    let breaker = |errors| {
        let breaker = json!({"consecutiveErrors": errors, "interval": "30s",
            "baseEjectionTime": "30s", "maxEjectionPercent": percent});
        serde_json::from_value(breaker).unwrap()
    };
    let catalog = FakeCatalog::new();
    catalog.set(ServiceRecord {
        circuit_breaker: Some(breaker(errors)),
        ..record()
    });
    let mut inputs = inputs(binding());
    inputs.service.as_mut().unwrap().ports.truncate(1);
    inputs.catalog = CatalogAnswer::Record(Arc::new(ServiceRecord {
        circuit_breaker: Some(breaker(5)),
        ..record()
    }));
    let valid = validate(&inputs, &target(&inputs), &settings()).unwrap();
    let mut stub = Stub::new();
    let mut synced = binding();
    synced.status = Some(ServiceBindingStatus {
        policy: valid.provenance,
        ..ServiceBindingStatus::default()
    });
    stub.lists.insert(BINDINGS.to_owned(), vec![json!(synced)]);
    let desired = build(&valid.binding);
    let stub = stub.holds(
        [desired.destination_rule, desired.virtual_service],
        |object| {
            if object["kind"] == "DestinationRule" {
                let detection = &mut object["spec"]["trafficPolicy"]["outlierDetection"];
                detection["consecutive5xxErrors"] = json!(1);
                detection["interval"] = json!("1s");
                for (name, value) in written.as_object().unwrap() {
                    detection[name] = value.clone();
                }
            }
        },
    );
    (stub, catalog)
}

#[tokio::test]
async fn a_detection_that_the_operator_has_tightened_is_no_difference() {
    // Nor is it where the policy is another one by now, which it would be
    // tightened to the same from.
    for errors in [5, 9] {
        let (stub, catalog) = tightened(errors);
        let (answer, differs) = json_of(stub, catalog, &[]).await;
        assert_eq!((verdict(&answer), differs), (("nothing", ""), false));
        let note = answer["bindings"][0]["notes"][0].as_str().unwrap();
        assert!(note.contains("tightened"), "{note}");
    }
    // One by which all may be out.
    let written = json!({"maxEjectionPercent": 100, "minHealthPercent": 1});
    let (stub, catalog) = tightened_from(5, 100, &written);
    let (answer, differs) = json_of(stub, catalog, &[]).await;
    assert_eq!((verdict(&answer), differs), (("nothing", ""), false));
}

#[tokio::test]
async fn what_others_set_in_a_tightened_detection_and_what_else_differs_is_shown() {
    let policy = "/spec/trafficPolicy/outlierDetection";
    let first = |answer: &Value| answer["bindings"][0]["objects"][0]["changes"].clone();
    let (mut stub, catalog) = tightened(5);
    let detection = |stub: &mut Stub| {
        let rules = stub.lists.get_mut(&rules("destinationrules")).unwrap();
        std::mem::take(&mut rules[0])
    };
    let mut rule = detection(&mut stub);
    let edit = json!({"f:spec": {"f:trafficPolicy": {"f:outlierDetection": {"f:interval": {}}}}});
    let managers = rule["metadata"]["managedFields"].as_array_mut().unwrap();
    managers.push(json!(entry("kubectl-edit", "Update", edit)));
    stub.lists.insert(rules("destinationrules"), vec![rule]);
    let (answer, differs) = json_of(stub, catalog, &[]).await;
    assert!(differs);
    let paths = first(&answer).to_string();
    assert!(paths.contains(&format!("{policy}/interval")), "{paths}");

    // A policy that was tight itself is taken back like any other value.
    let (mut stub, catalog) = tightened(5);
    for entry in stub.lists.get_mut(BINDINGS).unwrap()[0]["status"]["policy"]
        .as_array_mut()
        .unwrap()
    {
        let tight = match entry["field"].as_str().unwrap() {
            "trafficPolicy.circuitBreaker.consecutiveErrors" => "1",
            "trafficPolicy.circuitBreaker.interval" => "1s",
            "trafficPolicy.circuitBreaker.maxEjectionPercent" => "99",
            _ => continue,
        };
        entry["value"] = json!(tight);
    }
    let (answer, differs) = json_of(stub, catalog, &[]).await;
    assert_eq!((verdict(&answer), differs), (("update", ""), true));
}

#[tokio::test]
async fn a_binding_that_is_being_deleted_takes_its_objects_along() {
    let mut ending = binding();
    ending.metadata.deletion_timestamp = ending.metadata.creation_timestamp.clone();
    ending.metadata.finalizers = Some(vec![labels::FINALIZER.to_owned()]);
    let mut stub = Stub::new().written(|_| {});
    stub.lists.insert(BINDINGS.to_owned(), vec![json!(ending)]);
    // The catalog is not asked.
    let away = FakeCatalog::new();
    away.fail_next(1, CatalogError::NotFound);
    let (answer, _) = json_of(stub, away, &["web"]).await;
    assert_eq!(verdict(&answer), ("remove", "Deleting"));
}

#[tokio::test]
async fn what_cannot_be_told_is_an_error_that_says_what_to_do() {
    let away = catalog();
    let message = "no route".to_owned();
    away.fail_next(1, CatalogError::Unavailable { message });
    let error = ask(&Arc::new(Stub::new()), away, &[]).await.unwrap_err();
    assert!(
        error.contains("no route") && error.contains("--catalog-url"),
        "{error}"
    );

    for (path, code, parts) in [
        (
            BINDINGS,
            403,
            [
                "cannot list ServiceBindings: the stub refuses",
                "docs/flags.md",
            ],
        ),
        (
            BINDINGS,
            404,
            ["cannot list ServiceBindings", "kubectl apply -f crds/"],
        ),
        (NAMESPACES, 401, ["cannot list Namespaces", "log in"]),
        (
            &rules("virtualservices"),
            403,
            ["cannot list VirtualServices", "docs/flags.md"],
        ),
    ] {
        let mut stub = Stub::new();
        stub.refused.insert(path.to_owned(), code);
        let error = ask(&Arc::new(stub), catalog(), &[]).await.unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let error = ask(&Arc::new(Stub::new()), catalog(), &["other"])
        .await
        .unwrap_err();
    assert!(
        error.starts_with("there is no ServiceBinding shop/other"),
        "{error}"
    );
}

#[tokio::test]
async fn a_thousand_bindings_take_four_pages_and_one_list_of_the_catalog() {
    let mut stub = Stub::new();
    stub.lists.insert(BINDINGS.to_owned(), Vec::new());
    let catalog = FakeCatalog::new();
    for number in 0..1_000 {
        let mut binding = binding();
        let name = format!("web{number:04}");
        binding.metadata.name = Some(name.clone());
        binding.metadata.uid = Some(name.clone());
        binding.spec.service_name.clone_from(&name);
        binding.spec.catalog_service_id.clone_from(&name);
        stub.put(BINDINGS, json!(binding));
        catalog.set(ServiceRecord {
            id: name,
            ..record()
        });
    }
    let stub = Arc::new(stub);
    let catalog = Arc::new(catalog);
    let printed = ask(&stub, Arc::clone(&catalog), &["-A"]).await.unwrap();
    assert!(printed.output.ends_with("1000 bindings: 1000 blocked\n"));
    let lists = stub.asked.lock().unwrap();
    let of = |path: &str| lists.iter().filter(|line| line.ends_with(path)).count();
    assert_eq!((of(BINDINGS), of(SERVICES)), (4, 1));
    assert!(lists.len() < 12, "{lists:?}");
    let calls = catalog.calls();
    assert_eq!((calls.list_services, calls.get_service), (1, 0));
}

// --- what if --------------------------------------------------------------------

/// Files in a folder of their own.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, value: &Value) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn file(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "aikernel.io/v1alpha1", "kind": "ServiceBinding",
        "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_binding_that_is_not_stored_yet_is_taken_for_the_youngest() {
    let files = Files::new();
    let fresh = files.write(
        "fresh.json",
        &file(
            "fresh",
            json!({"catalogServiceId": "web-1", "serviceName": "web"}),
        ),
    );
    let (answer, _) = json_of(Stub::new(), catalog(), &["-f", &fresh]).await;
    assert_eq!(verdict(&answer), ("blocked", "AnotherBinding"));

    let mut alone = Stub::new();
    alone.lists.insert(BINDINGS.to_owned(), Vec::new());
    let (answer, _) = json_of(alone, catalog(), &["-f", &fresh]).await;
    assert_eq!(verdict(&answer), ("create", ""));
    let changes = answer["bindings"][0]["objects"][0]["changes"].to_string();
    assert!(
        changes.contains("(to be given to ServiceBinding shop/fresh)"),
        "{changes}"
    );
}

#[tokio::test]
async fn a_service_beside_the_binding_in_the_file_is_taken_for_stored() {
    let files = Files::new();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "api"},
        "spec": {"ports": [{"name": "http", "port": 8080}]}});
    let spec = json!({"catalogServiceId": "web-1", "serviceName": "api"});
    let both = files.write("both.json", &json!([service, file("api", spec)]));
    let (answer, _) = json_of(Stub::new(), catalog(), &["-f", &both]).await;
    assert_eq!(verdict(&answer), ("create", ""));
}

#[tokio::test]
async fn a_changed_binding_is_compared_with_what_its_stored_one_made() {
    let files = Files::new();
    let mut spec = json!({"catalogServiceId": "web-1", "serviceName": "web",
        "trafficPolicy": {"connectionPool": {"tcp": {"maxConnections": 9}}}});
    let changed = files.write("changed.json", &file("web", spec.clone()));
    let (answer, _) = json_of(Stub::new().written(|_| {}), catalog(), &["-f", &changed]).await;
    let changes = &answer["bindings"][0]["objects"][0]["changes"];
    let path = "/spec/trafficPolicy/connectionPool/tcp/maxConnections";
    let expected = json!([{"path": path, "after": 9, "source": "Binding"}]);
    assert_eq!(changes, &expected);

    spec["serviceName"] = json!("other");
    let renamed = files.write("renamed.json", &file("web", spec));
    let (answer, _) = json_of(Stub::new(), catalog(), &["-f", &renamed]).await;
    assert_eq!(verdict(&answer), ("blocked", "InvalidBinding"));
}

#[tokio::test]
async fn entries_of_a_file_stand_in_for_the_catalog_and_others_are_passed_over() {
    let files = Files::new();
    let of = |id: &str| json!({"id": id, "name": "web", "namespace": "shop", "timeout": "8s"});
    let entry = files.write("entry.json", &of("web-1"));
    let away = || {
        let catalog = FakeCatalog::new();
        catalog.fail_next(9, CatalogError::NotFound);
        catalog
    };
    let (answer, _) = json_of(Stub::new().written(|_| {}), away(), &["--catalog", &entry]).await;
    assert_eq!(
        answer["bindings"][0]["objects"][0]["changes"][0]["after"],
        "8s"
    );

    let other = files.write("other.json", &of("other"));
    let (answer, differs) = json_of(Stub::new(), away(), &["--catalog", &other]).await;
    assert_eq!((&answer["passedOver"], differs), (&json!(1), false));
    let named = ["web", "--catalog", &other];
    let error = ask(&Arc::new(Stub::new()), away(), &named)
        .await
        .unwrap_err();
    assert!(error.contains("has the id \"web-1\""), "{error}");
}

#[tokio::test]
async fn a_file_that_is_wrong_is_named() {
    let files = Files::new();
    let twice = json!([
        file(
            "web",
            json!({"catalogServiceId": "a", "serviceName": "web"})
        ),
        file(
            "web",
            json!({"catalogServiceId": "a", "serviceName": "web"})
        )
    ]);
    for (value, part) in [
        (
            json!({"kind": "ConfigMap", "apiVersion": "v1"}),
            "no ServiceBinding",
        ),
        (
            file("web", json!({"serviceName": "web"})),
            "catalogServiceId",
        ),
        (twice, "is given twice"),
    ] {
        let path = files.write("file.json", &value);
        let error = ask(&Arc::new(Stub::new()), catalog(), &["-f", &path])
            .await
            .unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let entry = json!({"id": "web-1", "name": "web", "namespace": "shop"});
    let path = files.write("entries.json", &json!([entry, entry]));
    let error = ask(&Arc::new(Stub::new()), catalog(), &["--catalog", &path])
        .await
        .unwrap_err();
    assert!(error.contains("earlier entry"), "{error}");
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    for line in [
        ["-A", "web"],
        ["-A", "-nshop"],
        ["-fx", "web"],
        ["-fx", "-A"],
    ] {
        let line = ["diff"].iter().chain(&line);
        assert!(Command::try_parse_from(line.clone()).is_err(), "{line:?}");
    }
}
