//! Is the committed CustomResourceDefinition the one of the code, and is it as
//! strict as it should be? What the API server makes of it is asked of a real
//! one in `cluster/crd.rs`.

use std::collections::{BTreeMap, BTreeSet};

use catalog_mesh_controller::api::service_binding::ServiceBinding;
use catalog_mesh_controller::crd::{crd, crd_yaml};
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::policy::effective;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

mod corpus;

// trap 26
#[test]
fn the_committed_definition_is_what_the_crd_command_prints() {
    let committed = include_str!("../crds/servicebindings.yaml");
    assert!(
        committed == crd_yaml().unwrap(),
        "crds/servicebindings.yaml is out of date; write it anew: cargo run -- crd > crds/servicebindings.yaml"
    );
}

#[test]
fn the_manifest_is_read_back_as_the_definition() {
    let manifest = crd_yaml().unwrap();
    let read: CustomResourceDefinition = serde_saphyr::from_str(&manifest).unwrap();
    assert_eq!(read, crd());
}

#[test]
fn every_text_number_list_and_map_is_bounded() {
    for (path, schema) in schemas() {
        let has = |keys: &[&str]| keys.iter().all(|key| schema.get(key).is_some());
        let bounded = match schema["type"].as_str() {
            Some("string") => {
                has(&["maxLength"]) || has(&["enum"]) || schema["format"] == "date-time"
            }
            // A generation is the API server's own count.
            Some("integer") => {
                has(&["minimum", "maximum"]) || path.to_lowercase().ends_with("generation")
            }
            Some("array") => has(&["maxItems"]),
            Some("object") => has(&["properties"]) || has(&["maxProperties"]),
            Some("boolean") => true,
            _ => false,
        };
        assert!(bounded, "{path} has no bound: {schema}");
    }
}

// trap 26
#[test]
fn a_number_has_a_format_that_kubernetes_knows() {
    for (path, schema) in schemas()
        .into_iter()
        .filter(|(_, schema)| schema["type"] == "integer")
    {
        assert!(
            ["int32", "int64"].contains(&schema["format"].as_str().unwrap_or_default()),
            "{path}: {schema}"
        );
    }
}

// trap 26
#[test]
fn nothing_has_a_default_and_nothing_can_be_null() {
    for (path, schema) in schemas() {
        assert!(
            schema.get("default").is_none() && schema.get("nullable").is_none(),
            "{path}: {schema}"
        );
    }
}

#[test]
fn every_field_and_every_rule_is_explained() {
    for (path, schema) in schemas() {
        let item = path.ends_with("[]") || path.ends_with("{}");
        assert!(
            item || schema["description"].is_string(),
            "{path} has no description"
        );
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            assert!(rule["message"].is_string(), "{path}: {rule} has no message");
        }
    }
}

#[test]
fn every_field_of_the_spec_has_a_bad_binding() {
    let named: BTreeSet<String> = corpus::bad()
        .into_iter()
        .map(|bad| without_positions(&bad.field))
        .collect();
    let ruled = |schema: &Value| {
        schema["type"] != "object" || schema.get("x-kubernetes-validations").is_some()
    };
    let missed: Vec<String> = schemas()
        .into_iter()
        .filter(|(path, schema)| path.starts_with("spec.") && ruled(schema))
        .map(|(path, _)| path.replace("[]", "").replace(".{}", ""))
        .filter(|path| !named.iter().any(|field| is_within(field, path)))
        .collect();
    assert!(
        missed.is_empty(),
        "no file of tests/corpus/bindings/bad names {missed:?}"
    );
}

#[test]
fn a_bad_binding_is_called_what_its_file_is() {
    for bad in corpus::bad() {
        assert_eq!(
            bad.binding["metadata"]["name"], bad.name,
            "a refusal should lead to its file"
        );
    }
}

#[test]
fn every_good_binding_survives_our_types() {
    for good in corpus::good() {
        survives_our_types(&good.name, good.binding);
    }
}

#[test]
fn what_the_api_server_takes_is_not_refused_by_the_operator() {
    let refused = corpus::good().into_iter().filter_map(|good| {
        let binding: ServiceBinding = serde_json::from_value(good.binding).unwrap();
        let merged = effective(None, &binding.spec, &Bounds::default());
        merged.err().map(|errors| (good.name, errors))
    });
    let refused: BTreeMap<_, _> = refused.collect();
    // These rest on another field, which the catalog may give.
    let resting: Vec<_> = refused.keys().map(String::as_str).collect();
    let expected = [
        "check-timeout-alone",
        "locality-failover",
        "locality-priority",
    ];
    assert_eq!(resting, expected, "{refused:#?}");
}

#[test]
fn the_example_survives_our_types() {
    survives_our_types("worker-service", corpus::example());
}

#[track_caller]
fn survives_our_types(name: &str, sent: Value) {
    let binding: ServiceBinding =
        serde_json::from_value(sent.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(
        serde_json::to_value(binding).expect("a binding is JSON"),
        sent,
        "{name}"
    );
}

/// Each part of the schema below `spec` and `status` with its path, in which
/// `[]` stands for the items of a list and `{}` for the values of a map.
fn schemas() -> Vec<(String, Value)> {
    let crd = serde_json::to_value(crd()).expect("the definition is JSON");
    let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        collect(part.to_owned(), &root[part], &mut found);
    }
    found
}

fn collect(path: String, schema: &Value, found: &mut Vec<(String, Value)>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        collect(format!("{path}.{name}"), property, found);
    }
    if let Some(items) = schema.get("items") {
        collect(format!("{path}[]"), items, found);
    }
    if let Some(values) = schema.get("additionalProperties") {
        collect(format!("{path}.{{}}"), values, found);
    }
    found.push((path, schema.clone()));
}

/// `to` of `distribute[0].to`, whichever entry it is of.
fn without_positions(field: &str) -> String {
    let parts = field.split('[');
    let rest = |part: &str| {
        part.split_once(']')
            .map_or(part, |(_, rest)| rest)
            .to_owned()
    };
    parts.map(rest).collect()
}

fn is_within(field: &str, path: &str) -> bool {
    field
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
