//! Do the manifests fit the program that they start?
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::fs;
use std::path::Path;

use catalog_mesh_controller::args::Cli;
use clap::Parser as _;
use serde_json::{Value, json};

#[test]
fn each_folder_brings_the_namespace_that_it_needs_first() {
    let namespaces = ["rbac", "deploy"].map(|folder| {
        let mut objects = manifests(folder).into_iter();
        let first = objects.next().unwrap();
        assert_eq!(first["kind"], "Namespace", "{folder}");
        for object in objects {
            let namespace = &object["metadata"]["namespace"];
            assert!(
                namespace.is_null() || *namespace == first["metadata"]["name"],
                "{folder}: {object}"
            );
        }
        first
    });
    // Applied in any order, they must not undo each other.
    assert_eq!(namespaces[0], namespaces[1]);
}

#[test]
fn the_deployment_starts_the_program_as_it_is() {
    let deployment = object("Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let args = container["args"].as_array().unwrap();
    let words = std::iter::once("x").chain(args.iter().map(|arg| arg.as_str().unwrap()));
    let run = match Cli::try_parse_from(words).unwrap().command {
        Some(catalog_mesh_controller::args::Command::Run(run)) => run,
        other => panic!("it does not run the operator: {other:?}"),
    };
    let port = &container["ports"][0];
    assert_eq!(port["containerPort"], run.listen.port());
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let expected = json!({ "path": path, "port": port["name"] });
        assert_eq!(container[probe]["httpGet"], expected);
    }
    assert_eq!(
        container["volumeMounts"][0]["mountPath"],
        run.catalog.catalog_credentials.to_str().unwrap()
    );
    let secret = &pod["volumes"][0]["secret"];
    assert_eq!(
        *secret,
        json!({ "secretName": "catalog-credentials", "optional": true })
    );
    let image = concat!("catalog-mesh-controller:", env!("CARGO_PKG_VERSION"));
    assert_eq!(container["image"], image);
}

#[test]
fn another_replica_stands_by_elsewhere_and_has_the_time_to_take_over() {
    let spec = &object("Deployment")["spec"];
    assert_eq!(spec["replicas"], 2);
    let pod = &spec["template"]["spec"];
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!(spread["labelSelector"], spec["selector"]);
    // It must be able to start where there is one node only.
    assert_eq!(spread["whenUnsatisfiable"], "ScheduleAnyway");
    // It is over within 20 s, whatever hangs.
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= 25);
}

#[test]
fn the_replicas_may_use_the_lease_of_their_namespace_and_no_other() {
    let rbac = manifests("rbac");
    let role = rbac.iter().find(|o| o["kind"] == "Role").unwrap();
    let account = rbac.iter().find(|o| o["kind"] == "ServiceAccount").unwrap();
    assert_eq!(
        role["metadata"]["namespace"],
        account["metadata"]["namespace"]
    );
    for rule in role["rules"].as_array().unwrap() {
        let creates = rule["verbs"] == json!(["create"]);
        assert!(creates || rule["resourceNames"] == json!(["catalog-mesh-controller"]));
    }
    // They are told their namespace and their name.
    let deployment = object("Deployment");
    let env = &deployment["spec"]["template"]["spec"]["containers"][0]["env"];
    for (at, name) in ["POD_NAME", "POD_NAMESPACE"].into_iter().enumerate() {
        assert_eq!(env[at]["name"], name);
    }
}

#[test]
fn the_service_selects_the_pods_and_their_port() {
    let (service, deployment) = (object("Service"), object("Deployment"));
    let template = &deployment["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    for (label, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(labels[label], *value);
    }
    assert_eq!(
        service["spec"]["ports"][0]["targetPort"],
        template["spec"]["containers"][0]["ports"][0]["name"]
    );
    let account = &template["spec"]["serviceAccountName"];
    let accounts = manifests("rbac");
    assert!(
        accounts
            .iter()
            .any(|o| o["kind"] == "ServiceAccount" && o["metadata"]["name"] == *account)
    );
}

fn object(kind: &str) -> Value {
    let objects = manifests("deploy");
    objects.into_iter().find(|o| o["kind"] == kind).unwrap()
}

/// The objects of a folder, in the order in which kubectl applies them.
fn manifests(folder: &str) -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap())
        .collect()
}
