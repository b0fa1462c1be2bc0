//! Is every field of a ServiceBinding and of a record on its page, and no other?

use std::collections::BTreeSet;

use serde_json::Value;

use crate::page::{Page, code_spans, text};

/// Every field of the binding's spec that holds a value, by its path.
fn fields_of_the_spec() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    leaves(&schema()["properties"]["spec"], "spec", &mut found);
    found
}

fn schema() -> Value {
    let crd: Value = serde_saphyr::from_str(&text("crds/servicebindings.yaml")).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(fields) => {
            for (name, field) in fields {
                leaves(field, &format!("{path}.{name}"), found);
            }
        }
        None => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn the_page_of_the_binding_has_every_field_of_its_spec_and_no_other() {
    let page = Page::read("binding.md");
    let mut documented = BTreeSet::new();
    for part in page.parts("fields: spec") {
        let path = part.strip_prefix("fields: ").unwrap();
        for row in page.table(&part) {
            let name = code_spans(&row[0])[0];
            let new = documented.insert(format!("{path}.{name}"));
            assert!(new, "{path}.{name} is there twice");
        }
    }
    assert_eq!(documented, fields_of_the_spec());
}

#[test]
fn the_page_of_the_binding_has_every_field_of_its_status_and_no_other() {
    let rows = Page::read("binding.md").table("fields: status");
    let documented: BTreeSet<String> = rows
        .iter()
        .map(|row| code_spans(&row[0])[0].to_owned())
        .collect();
    let status = &schema()["properties"]["status"]["properties"];
    let fields = status.as_object().unwrap().keys().cloned().collect();
    assert_eq!(documented, fields);
}

#[test]
fn the_page_for_owners_has_every_field_of_a_record_and_no_other() {
    let rows = Page::read("catalog-owners.md").table("fields: record");
    let documented: BTreeSet<String> = rows
        .iter()
        .flat_map(|row| code_spans(&row[0]).into_iter().map(str::to_owned))
        .collect();
    let api: Value = serde_saphyr::from_str(&text("docs/catalog-api.yaml")).unwrap();
    let schemas = &api["components"]["schemas"];
    let owned = schemas["ServiceWrite"]["properties"].as_object().unwrap();
    let reported = schemas["Service"]["allOf"][1]["properties"]
        .as_object()
        .unwrap();
    let fields = owned.keys().chain(reported.keys()).cloned().collect();
    assert_eq!(documented, fields);
}
