//! Does each field of a binding lead to what its page says? Each example value
//! is rendered, and looked for where its row says that it comes out.

use std::fs;
use std::path::PathBuf;

use catalog_mesh_controller::args::RenderArgs;
use catalog_mesh_controller::render::render;
use clap::Parser;
use serde_json::{Map, Value, json};

use crate::page::{Page, code_spans};

/// What has to be there so that a field can be: by how its path ends.
const COMPANIONS: [(&str, &str, &str); 5] = [
    ("httpCookie.path", "name", "session"),
    ("httpCookie.ttl", "name", "session"),
    ("consistentHash.minimumRingSize", "httpHeaderName", "x-user"),
    ("warmup.minimumPercent", "duration", "30s"),
    ("warmup.aggression", "duration", "30s"),
];

/// Both objects of a binding.
struct Objects {
    route: Value,
    rule: Value,
}

impl Objects {
    /// What stands at a path below `spec`, as the page writes it.
    fn at(&self, kind: &str, path: &str) -> Option<Value> {
        let object = match kind {
            "VirtualService" => &self.route,
            "DestinationRule" => &self.rule,
            other => panic!("{other} is no kind that is written"),
        };
        let pointer = format!("/spec/{}", path.replace("[]", "/0").replace('.', "/"));
        object.pointer(&pointer).cloned()
    }
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: RenderArgs,
}

/// Renders a binding of this spec, for a Service with one HTTP port.
fn rendered(spec: &Value) -> Objects {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        let path = folder.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path
    };
    let id = spec["catalogServiceId"].as_str().unwrap();
    let name = spec["serviceName"].as_str().unwrap();
    let binding = json!({
        "apiVersion": "aikernel.io/v1alpha1",
        "kind": "ServiceBinding",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": spec,
    });
    let entry = json!({"id": id, "name": name, "namespace": "shop"});
    let line: [PathBuf; 7] = [
        "render".into(),
        "-f".into(),
        write("binding.yaml", &binding),
        "--catalog".into(),
        write("entry.json", &entry),
        "--port".into(),
        "80".into(),
    ];
    let command = Command::try_parse_from(line).unwrap();
    let output = render(&command.args, &mut std::io::empty());
    assert_eq!(output.code, 0, "{spec}: {}", output.complaints);
    let (rule, route) = output.output.split_once("---\n").unwrap();
    Objects {
        route: serde_saphyr::from_str(route).unwrap(),
        rule: serde_saphyr::from_str(rule).unwrap(),
    }
}

fn bare() -> Value {
    json!({"catalogServiceId": "web-1", "serviceName": "web"})
}

/// Sets a value in a spec, by its path.
fn set(spec: &mut Value, path: &str, value: Value) {
    let mut place = spec;
    for name in path.split('.') {
        let map = place.as_object_mut().unwrap();
        place = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    }
    *place = value;
}

/// A spec in which the field can be set, and nothing of it is yet.
fn prepared(path: &str) -> Value {
    let mut spec = bare();
    let Some((parent, _)) = path.rsplit_once('.') else {
        return spec;
    };
    // An empty block leads to defaults, which are not this field's doing.
    if parent == "healthCheck" || parent == "trafficPolicy.circuitBreaker" {
        set(&mut spec, parent, json!({}));
    }
    // Fail-over follows from what outlier detection finds.
    if path.contains("locality.failover") {
        set(&mut spec, "trafficPolicy.circuitBreaker", json!({}));
    }
    for (end, name, value) in COMPANIONS {
        if path.ends_with(end) {
            set(&mut spec, &format!("{parent}.{name}"), json!(value));
        }
    }
    spec
}

/// Where a row says that its value comes out: kind and path.
fn places(outcome: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for kind in ["VirtualService", "DestinationRule"] {
        for after in outcome.split(&format!("{kind} `")).skip(1) {
            found.push((kind, after.split('`').next().unwrap()));
        }
    }
    found
}

#[test]
fn each_example_value_comes_out_where_its_row_says() {
    let page = Page::read("binding.md");
    let mut looked_at = 0;
    for part in page.parts("fields: spec") {
        let block = part.strip_prefix("fields: spec").unwrap();
        for row in page.table(&part) {
            let name = code_spans(&row[0])[0];
            let path = format!("{block}.{name}");
            let path = path.trim_start_matches('.');
            let value: Value = serde_saphyr::from_str(code_spans(&row[1])[0]).unwrap();
            let mut spec = prepared(path);
            let before = rendered(&spec);
            set(&mut spec, path, value.clone());
            let after = rendered(&spec);
            if path == "serviceName" {
                let host = json!("web.shop.svc.cluster.local");
                assert_eq!(after.at("VirtualService", "hosts[]"), Some(host.clone()));
                assert_eq!(after.at("DestinationRule", "host"), Some(host));
                continue;
            }
            let places = places(&row[3]);
            if places.is_empty() {
                assert_eq!(
                    before.route, after.route,
                    "{path} changes the VirtualService"
                );
                assert_eq!(
                    before.rule, after.rule,
                    "{path} changes the DestinationRule"
                );
            }
            for (kind, place) in places {
                let found = after.at(kind, place);
                assert_eq!(found, Some(value.clone()), "{path}: {kind} {place}");
                assert_ne!(before.at(kind, place), found, "{path} is there without it");
                looked_at += 1;
            }
        }
    }
    assert!(looked_at > 30, "only {looked_at} outcomes were looked at");
}

#[test]
fn each_example_is_shown_with_what_is_rendered_of_it() {
    let page = Page::read("binding.md");
    let mut shown = 0;
    for after in page.text.split("<!-- example -->\n```yaml\n").skip(1) {
        let (example, rest) = after.split_once("```\n").unwrap();
        let name = rest
            .strip_prefix("<!-- generated: ")
            .and_then(|rest| rest.split(" -->").next())
            .unwrap_or_else(|| panic!("nothing is shown of\n{example}"));
        let spec = serde_saphyr::from_str(example).unwrap();
        page.check_generated(name, &outcome(&spec));
        shown += 1;
    }
    assert_eq!(shown, page.parts("generated: ").len());
}

/// Both specs, as blocks of the page.
fn outcome(spec: &Value) -> String {
    let objects = rendered(spec);
    let block = |object: &Value| {
        let yaml = serde_saphyr::to_string(&json!({
            "kind": object["kind"],
            "spec": object["spec"],
        }))
        .unwrap();
        format!("\n```yaml\n{yaml}```\n")
    };
    // Two objects that nobody asked anything of are shown once only, whole.
    let (rule, route) = (block(&objects.rule), block(&objects.route));
    let bare = rendered(&bare());
    let mut text = String::new();
    if objects.route != bare.route || *spec == self::bare() {
        text += &route;
    }
    if objects.rule != bare.rule || *spec == self::bare() {
        text += &rule;
    }
    text + "\n"
}
