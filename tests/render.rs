//! `render`: files in, manifests or complaints out.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::fs;
use std::path::{Path, PathBuf};

use catalog_mesh_controller::args::RenderArgs;
use catalog_mesh_controller::render::{Rendered, render};
use clap::Parser;
use serde_json::{Value, json};

const BINDING: &str = "\
apiVersion: aikernel.io/v1alpha1
kind: ServiceBinding
metadata:
  name: web
  namespace: shop
spec:
  catalogServiceId: web-1
  serviceName: web
";

const ENTRY: &str = r#"{ "id": "web-1", "name": "web", "namespace": "shop", "timeout": "5s" }"#;

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
spec:
  clusterIP: 10.0.0.1
  ports:
  - name: http
    port: 80
  - name: metrics
    port: 9090
  - name: api
    appProtocol: kubernetes.io/h2c
    port: 8443
";

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: RenderArgs,
}

/// Files in a folder of their own.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Runs with these texts as files, and what else the command line says.
fn run(binding: &str, entry: &str, service: Option<&str>, more: &[&str]) -> Rendered {
    let files = Files::new();
    let mut line = vec![
        PathBuf::from("render"),
        "-f".into(),
        files.write("binding.yaml", binding),
    ];
    line.extend(["--catalog".into(), files.write("entry.json", entry)]);
    if let Some(service) = service {
        line.extend(["--service".into(), files.write("service.yaml", service)]);
    }
    line.extend(more.iter().map(PathBuf::from));
    rendered(&line)
}

fn rendered(line: &[impl AsRef<Path>]) -> Rendered {
    let args = Command::try_parse_from(line.iter().map(AsRef::as_ref))
        .unwrap()
        .args;
    render(&args, &mut std::io::empty())
}

/// The documents that were printed.
#[track_caller]
fn printed(rendered: &Rendered) -> Vec<Value> {
    assert_eq!((rendered.code, rendered.complaints.as_str()), (0, ""));
    serde_saphyr::from_multiple(&rendered.output).unwrap()
}

/// That exit code, nothing printed, and a complaint with these words in it.
#[track_caller]
fn complains(rendered: &Rendered, code: u8, parts: &[&str]) {
    assert_eq!(
        (rendered.code, rendered.output.as_str()),
        (code, ""),
        "{}",
        rendered.complaints
    );
    for part in parts {
        assert!(
            rendered.complaints.contains(part),
            "{part}: {}",
            rendered.complaints
        );
    }
}

#[test]
fn a_binding_renders_as_its_rule_and_its_routes() {
    let documents = printed(&run(BINDING, ENTRY, Some(SERVICE), &[]));
    let kinds: Vec<_> = documents.iter().map(|document| &document["kind"]).collect();
    assert_eq!(kinds, ["DestinationRule", "VirtualService"]);
    let ports: Vec<_> = documents[1]["spec"]["http"]
        .as_array()
        .unwrap()
        .iter()
        .map(|route| &route["match"])
        .collect();
    assert_eq!(
        ports,
        [&json!([{ "port": 80 }]), &json!([{ "port": 8443 }])]
    );
    assert_eq!(documents[1]["spec"]["http"][0]["timeout"], "5s");
}

#[test]
fn flags_choose_domain_version_ports_and_locality() {
    let binding = format!("{BINDING}  healthCheck: {{}}\n");
    let more = [
        "--port",
        "8080",
        "--cluster-domain",
        "corp.example",
        "--istio-api",
        "v1beta1",
    ];
    let documents = printed(&run(&binding, ENTRY, None, &more));
    assert_eq!(documents[0]["apiVersion"], "networking.istio.io/v1beta1");
    assert_eq!(documents[0]["spec"]["host"], "web.shop.svc.corp.example");
    assert_eq!(
        documents[1]["spec"]["http"][0]["route"][0]["destination"]["port"]["number"],
        8080
    );
    let locality = "/spec/trafficPolicy/loadBalancer/localityLbSetting";
    assert_eq!(
        documents[0].pointer(locality),
        Some(&json!({ "enabled": false }))
    );
    let documents = printed(&run(
        &binding,
        ENTRY,
        None,
        &["--port", "80", "--locality", "mesh"],
    ));
    assert_eq!(documents[0].pointer(locality), None);
}

#[test]
fn a_uid_and_an_owner_are_there_only_where_the_binding_has_a_uid() {
    let metadata =
        |binding: &str| printed(&run(binding, ENTRY, Some(SERVICE), &[]))[0]["metadata"].clone();
    let fresh = metadata(BINDING);
    assert_eq!(
        fresh["annotations"],
        json!({ "catalog-mesh.aikernel.io/binding": "shop/web" })
    );
    assert_eq!(fresh.get("ownerReferences"), None);
    let stored = BINDING.replace("  namespace: shop\n", "  namespace: shop\n  uid: 1-2-3\n");
    assert_eq!(
        metadata(&stored)["annotations"]["catalog-mesh.aikernel.io/binding-uid"],
        "1-2-3"
    );
    assert_eq!(metadata(&stored)["ownerReferences"][0]["uid"], "1-2-3");
    let retained = format!("{stored}  deletionPolicy: Retain\n");
    assert_eq!(metadata(&retained).get("ownerReferences"), None);
}

#[test]
fn notes_are_comments_and_so_is_the_policy_on_demand() {
    let entry = r#"{ "id": "web-1", "name": "web", "namespace": "shop", "retries": { "attempts": 1, "perTryTimeout": "1s" } }"#;
    let output = run(BINDING, entry, Some(SERVICE), &[]).output;
    assert!(
        output.contains("\n# Note: retries.perTryTimeout 1s ends the request"),
        "{output}"
    );
    assert!(!output.contains("(Catalog)"), "{output}");
    let output = run(BINDING, entry, Some(SERVICE), &["--explain"]).output;
    assert!(
        output.contains("\n# trafficPolicy.retries.attempts = 1 (Catalog)\n"),
        "{output}"
    );
    let other = ENTRY.replace("\"web\"", "\"other\"");
    assert!(
        run(BINDING, &other, Some(SERVICE), &[])
            .output
            .contains("record is of service")
    );
}

#[test]
fn what_is_wrong_is_named_by_file_and_field() {
    let wrong_binding = format!("{BINDING}  trafficPolicy:\n    timeout: 1us\n    retries: 101\n");
    let wrong_entry = ENTRY.replace("5s", "5 s");
    let result = run(&wrong_binding, &wrong_entry, Some(SERVICE), &[]);
    complains(
        &result,
        1,
        &[
            "entry.json: timeout: \"5 s\" is not a duration",
            "binding.yaml: spec.trafficPolicy.timeout: \"1us\" is finer",
            "binding.yaml: spec.trafficPolicy.retries: 101 is not within 0..100",
        ],
    );
    assert_eq!(result.complaints.lines().count(), 3);
}

#[test]
fn a_binding_is_checked_as_the_api_server_would_check_it() {
    for (from, to, part) in [
        ("  serviceName: web\n", "", "missing field `serviceName`"),
        ("serviceName: web", "serviceName: Web", "spec.serviceName: "),
        (
            "serviceName: web",
            "serviceName: 5",
            "spec.serviceName: invalid type",
        ),
        (
            "catalogServiceId: web-1",
            "catalogServiceId: ../x",
            "spec.catalogServiceId: ",
        ),
        ("namespace: shop", "namespace: Shop", "metadata.namespace: "),
        (
            "name: web\n  namespace",
            "name: -web\n  namespace",
            "metadata.name: ",
        ),
        (
            "serviceName: web\n",
            "serviceName: web\n  retires: 3\n",
            "spec.retires: is not a field",
        ),
        (
            "serviceName: web\n",
            "serviceName: web\n  trafficPolicy: { circuitBreaker: { intervall: 3s } }\n",
            "spec.trafficPolicy.circuitBreaker.intervall: is not a field",
        ),
        // YAML reads a bare off as false, for the API server too.
        (
            "serviceName: web\n",
            "serviceName: web\n  healthCheck: { ejection: off }\n",
            "spec.healthCheck.ejection: ",
        ),
        (
            "v1alpha1",
            "v1",
            "apiVersion: \"aikernel.io/v1\" must be aikernel.io/v1alpha1",
        ),
        ("kind: ServiceBinding\n", "", "kind: is missing"),
        ("spec:", "spec: [", "is not YAML"),
    ] {
        let binding = BINDING.replace(from, to);
        assert_ne!(binding, BINDING);
        complains(
            &run(&binding, ENTRY, Some(SERVICE), &[]),
            1,
            &["binding.yaml: ", part],
        );
    }
}

#[test]
fn a_service_that_cannot_carry_a_policy_is_refused_with_the_reason() {
    for (from, to, part) in [
        (
            "clusterIP: 10.0.0.1",
            "clusterIP: None",
            "Headless: Service shop/web is headless",
        ),
        (
            "clusterIP: 10.0.0.1",
            "type: ExternalName",
            "Headless: Service shop/web stands for ",
        ),
        ("port: 80", "port: eighty", "spec.ports[0].port: "),
    ] {
        let service = SERVICE.replace(from, to);
        assert_ne!(service, SERVICE);
        complains(
            &run(BINDING, ENTRY, Some(&service), &[]),
            1,
            &["service.yaml: ", part],
        );
    }
    let service = SERVICE
        .replace("name: http", "name: web")
        .replace("kubernetes.io/h2c", "tcp");
    complains(
        &run(BINDING, ENTRY, Some(&service), &[]),
        1,
        &["NoHttpPort: "],
    );
    let service = SERVICE.replace("namespace: shop", "namespace: other");
    complains(
        &run(BINDING, ENTRY, Some(&service), &[]),
        1,
        &["no file has the Service shop/web"],
    );
}

#[test]
fn an_entry_must_be_there_once() {
    complains(
        &run(
            BINDING,
            &ENTRY.replace("web-1", "web-2"),
            Some(SERVICE),
            &[],
        ),
        1,
        &["has the id web-1"],
    );
    complains(
        &run(BINDING, &format!("[{ENTRY}, {ENTRY}]"), Some(SERVICE), &[]),
        1,
        &["is the id of"],
    );
    complains(
        &run(BINDING, "{}", Some(SERVICE), &[]),
        1,
        &["entry.json: ", "missing field `id`"],
    );
    let page = format!(r#"{{ "epoch": "e", "revision": 4, "items": [{ENTRY}] }}"#);
    printed(&run(BINDING, &page, Some(SERVICE), &[]));
}

#[test]
fn ports_are_never_guessed_and_a_file_that_is_not_there_is_no_wrong_binding() {
    complains(
        &run(BINDING, ENTRY, None, &[]),
        2,
        &["Service shop/web are not known", "--port"],
    );
    let files = Files::new();
    let binding = files.write("binding.yaml", BINDING);
    let absent = files.path("absent.json");
    complains(
        &rendered(&[
            "render".as_ref(),
            "-f".as_ref(),
            binding.as_path(),
            "--catalog".as_ref(),
            &absent,
        ]),
        2,
        &["absent.json: "],
    );
}

#[test]
fn one_stream_may_hold_bindings_services_and_other_kinds() {
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n";
    let second = BINDING.replace("name: web\n  namespace", "name: second\n  namespace");
    let stream = [BINDING, SERVICE, config, &second].join("---\n");
    let files = Files::new();
    let entry = files.write("entry.json", ENTRY);
    let args = Command::try_parse_from([
        "render".as_ref(),
        "-f".as_ref(),
        "-".as_ref(),
        "--catalog".as_ref(),
        entry.as_os_str(),
    ]);
    let result = render(&args.unwrap().args, &mut stream.as_bytes());
    assert_eq!(printed(&result).len(), 4);
    complains(
        &run(config, ENTRY, Some(SERVICE), &[]),
        1,
        &["no ServiceBinding"],
    );
}

#[test]
fn one_wrong_binding_keeps_the_others_from_being_printed() {
    let second = BINDING.replace("serviceName: web", "serviceName: other");
    complains(
        &run(&[BINDING, &second].join("---\n"), ENTRY, Some(SERVICE), &[]),
        1,
        &["binding.yaml, document 2: "],
    );
}

#[test]
fn bounds_can_be_narrowed_as_in_the_controller() {
    complains(
        &run(
            BINDING,
            ENTRY,
            Some(SERVICE),
            &["--bounds", "timeout=1ms..4s"],
        ),
        1,
        &["5s is not within 1ms..4s"],
    );
    let line = [
        "render",
        "-f",
        "x",
        "--catalog",
        "y",
        "--bounds",
        "timeout=0s..1s",
    ];
    let error = Command::try_parse_from(line)
        .err()
        .map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("can only be narrowed")));
}
