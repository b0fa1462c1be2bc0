//! What does a real API server make of the ServiceBinding's definition?
//!
//! Requests are raw, so that nothing but the server decides, and strict about
//! unknown fields, as kubectl and every server-side apply are.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use catalog_mesh_controller::crd::crd;
use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use serde_json::{Value, json};

use crate::support::rig::Rig;

#[path = "../corpus/mod.rs"]
mod corpus;

crate::tests![
    ; alone:
    the_crd_is_accepted_without_a_warning,
    every_bad_binding_is_refused_with_its_field,
    every_good_binding_round_trips,
    the_seeds_example_round_trips,
    identity_is_immutable,
    a_null_is_dropped,
    the_whole_status_is_stored_and_never_moves_the_generation,
    the_same_status_applied_again_is_not_stored_again,
    the_columns_show_the_status
];

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAME: &str = "servicebindings.aikernel.io";

// trap 26
async fn the_crd_is_accepted_without_a_warning(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let definition = serde_json::to_value(crd())?;
    let apply =
        format!("{CRDS}/{NAME}?fieldManager=catalog-mesh-tests&force=true&fieldValidation=Strict");
    let answer = send(
        client,
        Method::PATCH,
        &apply,
        "application/apply-patch+yaml",
        &definition,
    )
    .await?;
    ensure!(
        answer.warnings.is_empty(),
        "applying it warns: {:?}",
        answer.warnings
    );
    established(client).await?;

    // The server warns when a definition is new, so a twin goes by another name.
    let create = format!("{CRDS}?dryRun=All&fieldValidation=Strict");
    let twin = twin_of(definition);
    let answer = send(client, Method::POST, &create, JSON, &twin).await?;
    ensure!(
        answer.warnings.is_empty(),
        "creating it warns: {:?}",
        answer.warnings
    );

    let answer = send(
        client,
        Method::POST,
        &create,
        JSON,
        &with_an_odd_format(twin),
    )
    .await?;
    ensure!(
        !answer.warnings.is_empty(),
        "a format that Kubernetes does not know should have made it warn"
    );
    Ok(())
}

async fn every_bad_binding_is_refused_with_its_field(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let bindings = Bindings::in_a_new_namespace(client).await?;
    let mut wrong = Vec::new();
    for bad in corpus::bad() {
        if let Err(why) = refused_for(bindings.create(&bad.binding).await, &bad.field) {
            wrong.push(format!("{}: {why:#}", bad.name));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn every_good_binding_round_trips(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let bindings = Bindings::in_a_new_namespace(client).await?;
    let mut wrong = Vec::new();
    for good in corpus::good() {
        if let Err(why) = bindings.round_trip(&good.binding).await {
            wrong.push(format!("{}: {why:#}", good.name));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn the_seeds_example_round_trips(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let example = corpus::example();
    let namespace = example["metadata"]["namespace"]
        .as_str()
        .context("the example should name its namespace")?;
    match make_namespace(client, json!({"name": namespace})).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        made => {
            made?;
        }
    }
    Bindings::in_namespace(client, namespace)
        .round_trip(&example)
        .await
}

async fn identity_is_immutable(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let bindings = Bindings::in_a_new_namespace(client).await?;
    bindings
        .create(&binding(
            "here",
            json!({"serviceName": "worker", "catalogServiceId": "w"}),
        ))
        .await?;
    let spelt_out =
        json!({"serviceName": "worker", "catalogServiceId": "w", "namespace": bindings.namespace});
    bindings.create(&binding("spelt-out", spelt_out)).await?;

    for (name, change, field) in [
        ("here", json!({"serviceName": "other"}), "spec.serviceName"),
        (
            "here",
            json!({"namespace": bindings.namespace}),
            "spec.namespace",
        ),
        (
            "spelt-out",
            json!({"namespace": "elsewhere"}),
            "spec.namespace",
        ),
        ("spelt-out", json!({"namespace": null}), "spec.namespace"),
    ] {
        let result = bindings.merge(name, "", &json!({"spec": change})).await;
        refused_for(result, field).with_context(|| format!("{name} with {change}"))?;
    }
    let allowed =
        json!({"catalogServiceId": "x", "trafficPolicy": {"timeout": "1s"}, "suspend": true});
    bindings
        .merge("spelt-out", "", &json!({"spec": allowed}))
        .await
        .context("everything else may change")?;
    Ok(())
}

async fn a_null_is_dropped(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let bindings = Bindings::in_a_new_namespace(client).await?;
    let sent = json!({
        "catalogServiceId": "w", "serviceName": "worker", "namespace": null,
        "trafficPolicy": null, "healthCheck": {"timeout": null, "interval": "1s", "ejection": null},
    });
    let stored = bindings.create(&binding("nulls", sent)).await?;
    let expected = json!({"catalogServiceId": "w", "serviceName": "worker", "healthCheck": {"interval": "1s"}});
    ensure!(stored["spec"] == expected, "stored: {}", stored["spec"]);
    Ok(())
}

async fn the_whole_status_is_stored_and_never_moves_the_generation(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let bindings = Bindings::in_a_new_namespace(client).await?;
    let spec = json!({"catalogServiceId": "w", "serviceName": "worker"});
    let created = bindings.create(&binding("whole", spec)).await?;

    let stored = bindings
        .merge("whole", "/status", &json!({"status": status()}))
        .await?;
    ensure!(stored["status"] == status(), "stored: {}", stored["status"]);
    ensure!(
        stored["metadata"]["generation"] == created["metadata"]["generation"],
        "the generation moved"
    );

    let past_the_subresource =
        json!({"status": {"syncStatus": "Error"}, "spec": {"suspend": true}});
    let stored = bindings.merge("whole", "", &past_the_subresource).await?;
    ensure!(
        stored["status"] == status(),
        "the status was written past its subresource: {}",
        stored["status"]
    );
    ensure!(
        stored["metadata"]["generation"] == 2,
        "a change of the spec should move the generation"
    );
    Ok(())
}

// trap 27
async fn the_same_status_applied_again_is_not_stored_again(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let bindings = Bindings::in_a_new_namespace(client).await?;
    let spec = json!({"catalogServiceId": "w", "serviceName": "worker"});
    let created = bindings.create(&binding("twice", spec)).await?;
    // As the operator does it.
    let status = json!({
        "apiVersion": "aikernel.io/v1alpha1", "kind": "ServiceBinding",
        "metadata": {"name": "twice", "uid": created["metadata"]["uid"]},
        "status": status(),
    });
    let mut versions = Vec::new();
    for _ in 0..2 {
        versions.push(bindings.apply_status("twice", &status).await?);
    }
    ensure!(versions[0] == versions[1], "{versions:?}");
    ensure!(
        versions[0] != created["metadata"]["resourceVersion"],
        "it was not stored at all"
    );
    Ok(())
}

async fn the_columns_show_the_status(rig: &Rig) -> Result<()> {
    let client = &rig.client;
    let bindings = Bindings::in_a_new_namespace(client).await?;
    bindings
        .create(&binding(
            "shown",
            json!({"catalogServiceId": "w-1", "serviceName": "worker"}),
        ))
        .await?;
    bindings
        .merge("shown", "/status", &json!({"status": status()}))
        .await?;

    let request = Request::get(&bindings.path)
        .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table: Value = client.request(request.body(Vec::new())?).await?;
    let columns = table["columnDefinitions"]
        .as_array()
        .context("the table should have columns")?;
    let cells = table["rows"][0]["cells"]
        .as_array()
        .context("the table should have a row")?;
    let shown: Vec<(&str, i64, &str)> = std::iter::zip(columns, cells)
        .map(|(column, cell)| {
            let name = column["name"].as_str().unwrap_or_default();
            // What is a span of time up to now has no fixed text.
            let cell = if column["type"] == "date" {
                ""
            } else {
                cell.as_str().unwrap_or_default()
            };
            (name, column["priority"].as_i64().unwrap_or_default(), cell)
        })
        .collect();
    let expected = [
        ("Name", 0, "shown"),
        ("Ready", 0, "True"),
        ("Service", 0, "worker"),
        ("Sync", 0, "Synced"),
        ("Health", 0, "Healthy"),
        ("Endpoints", 0, "9/10"),
        ("Age", 0, ""),
        ("Catalog ID", 1, "w-1"),
        ("Reason", 1, "Synced"),
        ("Last Sync", 1, ""),
    ];
    ensure!(shown == expected, "shown: {shown:?}");
    Ok(())
}

const JSON: &str = "application/json";

/// The ServiceBindings of one namespace.
struct Bindings {
    client: Client,
    namespace: String,
    path: String,
}

impl Bindings {
    async fn in_a_new_namespace(client: &Client) -> Result<Self> {
        let made = make_namespace(client, json!({"generateName": "crd-"})).await?;
        let name = made["metadata"]["name"]
            .as_str()
            .context("a namespace should have a name")?;
        Ok(Self::in_namespace(client, name))
    }

    fn in_namespace(client: &Client, namespace: &str) -> Self {
        let path = format!("/apis/aikernel.io/v1alpha1/namespaces/{namespace}/servicebindings");
        Self {
            client: client.clone(),
            namespace: namespace.to_owned(),
            path,
        }
    }

    async fn create(&self, binding: &Value) -> kube::Result<Value> {
        let path = format!("{}?fieldValidation=Strict", self.path);
        Ok(send(&self.client, Method::POST, &path, JSON, binding)
            .await?
            .body)
    }

    async fn merge(&self, name: &str, subresource: &str, patch: &Value) -> kube::Result<Value> {
        let path = format!("{}/{name}{subresource}?fieldValidation=Strict", self.path);
        Ok(send(
            &self.client,
            Method::PATCH,
            &path,
            "application/merge-patch+json",
            patch,
        )
        .await?
        .body)
    }

    /// Applies a status and hands back the version of what is stored then.
    async fn apply_status(&self, name: &str, object: &Value) -> kube::Result<Value> {
        let path = format!(
            "{}/{name}/status?fieldManager=catalog-mesh-tests&force=true&fieldValidation=Strict",
            self.path
        );
        let kind = "application/apply-patch+yaml";
        let stored = send(&self.client, Method::PATCH, &path, kind, object).await?;
        Ok(stored.body["metadata"]["resourceVersion"].clone())
    }

    /// Creates it, reads it back, compares, removes it.
    async fn round_trip(&self, sent: &Value) -> Result<()> {
        self.create(sent).await?;
        let name = sent["metadata"]["name"]
            .as_str()
            .context("it should have a name")?;
        let path = format!("{}/{name}", self.path);
        let stored: Value = self
            .client
            .request(Request::get(&path).body(Vec::new())?)
            .await?;
        send(&self.client, Method::DELETE, &path, JSON, &json!({})).await?;

        ensure!(
            stored["spec"] == sent["spec"],
            "sent {}, stored {}",
            sent["spec"],
            stored["spec"]
        );
        for part in ["labels", "annotations"] {
            let (sent, stored) = (&sent["metadata"][part], &stored["metadata"][part]);
            ensure!(stored == sent, "{part}: sent {sent}, stored {stored}");
        }
        ensure!(
            stored.get("status").is_none(),
            "it has a status: {}",
            stored["status"]
        );
        Ok(())
    }
}

async fn make_namespace(client: &Client, metadata: Value) -> kube::Result<Value> {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
    Ok(
        send(client, Method::POST, "/api/v1/namespaces", JSON, &object)
            .await?
            .body,
    )
}

fn binding(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "aikernel.io/v1alpha1", "kind": "ServiceBinding", "metadata": {"name": name}, "spec": spec})
}

/// A status with something in every field, as the server would write it.
fn status() -> Value {
    let child = |kind| {
        let uid = "0c6b4f9e-5a0c-4f43-8f2b-7a1d5e0a9f11";
        json!({"kind": kind, "namespace": "n", "name": "worker", "uid": uid, "generation": 3, "hash": "5f1d"})
    };
    let condition = |kind, status, reason| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "Größe: 9 of 10.",
            "observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z",
        })
    };
    json!({
        "syncStatus": "Synced",
        "lastSync": "2026-01-02T03:04:05Z",
        "healthStatus": "Healthy",
        "observedGeneration": 1,
        "conditions": [condition("Ready", "True", "Synced"), condition("Conflict", "False", "NoConflict")],
        "endpoints": {"total": 10, "healthy": 9, "ejected": 1, "summary": "9/10"},
        "policy": [
            {"field": "trafficPolicy.timeout", "value": "30s", "source": "Catalog"},
            {"field": "trafficPolicy.retries", "value": "3", "source": "Binding"},
        ],
        "children": [child("VirtualService"), child("DestinationRule")],
    })
}

/// Whether the server refused, named the field, and kept CEL's own errors out
/// of what it said.
fn refused_for(result: kube::Result<Value>, field: &str) -> Result<()> {
    let status = match result {
        Err(kube::Error::Api(status)) => status,
        Err(other) => return Err(other.into()),
        Ok(stored) => bail!("it was taken: {}", stored["spec"]),
    };
    ensure!(
        [400, 422].contains(&status.code),
        "{}: {}",
        status.code,
        status.message
    );
    ensure!(
        names(&status, field),
        "the refusal does not name {field}: {}",
        status.message
    );
    ensure!(
        !status.message.contains("evaluating rule"),
        "a rule stumbled: {}",
        status.message
    );
    Ok(())
}

fn names(status: &Status, field: &str) -> bool {
    // Strict decoding has no list of causes.
    let unknown = status.code == 400
        && status
            .message
            .contains(&format!("unknown field \"{field}\""));
    let causes = status.details.iter().flat_map(|details| &details.causes);
    unknown || causes.into_iter().any(|cause| cause.field == field)
}

/// The same definition for another group, as if nobody had ever seen it.
fn twin_of(mut definition: Value) -> Value {
    definition["metadata"]["name"] = json!("servicebindings.twin.example.org");
    definition["spec"]["group"] = json!("twin.example.org");
    definition
}

fn with_an_odd_format(mut definition: Value) -> Value {
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    if let Some(port) = definition.pointer_mut(&format!("{spec}/healthCheck/properties/port")) {
        port["format"] = json!("uint16");
    }
    definition
}

async fn established(client: &Client) -> Result<()> {
    let is_established =
        |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
    for _ in 0..200 {
        let request = Request::get(format!("{CRDS}/{NAME}")).body(Vec::new())?;
        let stored: Value = client.request(request).await?;
        let conditions = stored["status"]["conditions"].as_array();
        if conditions.is_some_and(|conditions| conditions.iter().any(is_established)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the definition was not established within 10 s")
}

struct Answer {
    body: Value,
    warnings: Vec<String>,
}

async fn send(
    client: &Client,
    method: Method,
    path: &str,
    kind: &str,
    body: &Value,
) -> kube::Result<Answer> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", kind);
    let bytes = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    let request = request
        .body(Body::from(bytes))
        .map_err(kube::Error::HttpError)?;
    let response = client.send(request).await?;
    let shown = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let warnings = response
        .headers()
        .get_all("Warning")
        .iter()
        .map(shown)
        .collect();
    let good = response.status().is_success();
    let bytes = response.into_body().collect_bytes().await?;
    if !good {
        let status = serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError)?;
        return Err(kube::Error::Api(Box::new(status)));
    }
    Ok(Answer {
        body: serde_json::from_slice(&bytes).map_err(kube::Error::SerdeError)?,
        warnings,
    })
}
