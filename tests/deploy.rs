//! Do the manifests fit the program that they start?
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::fs;
use std::path::{Path, PathBuf};

use catalog_mesh_controller::args::{Cli, Command, RunArgs};
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
fn the_bases_of_the_overlays_are_what_plain_kubectl_takes() {
    let folders = [("base", 1..=4), ("policies", 5..=7)];
    for (folder, of) in folders {
        let folder = root().join("deploy").join(folder);
        let mut listed = 0;
        for path in files("deploy") {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !of.contains(&(u32::from(name.as_bytes()[0]) - u32::from(b'0'))) {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let copy = folder.join(name);
            if std::env::var_os("UPDATE_DOCS").is_some() {
                fs::write(&copy, &text).unwrap();
            }
            assert!(
                fs::read_to_string(&copy).is_ok_and(|copied| copied == text),
                "{} is not deploy/{name}: UPDATE_DOCS=1 cargo test --test deploy",
                copy.display()
            );
            listed += 1;
        }
        let kustomization = fs::read_to_string(folder.join("kustomization.yaml")).unwrap();
        let resources: Value = serde_saphyr::from_str(&kustomization).unwrap();
        assert_eq!(resources["resources"].as_array().unwrap().len(), listed);
    }
}

#[test]
fn every_overlay_builds_and_the_widest_is_what_plain_kubectl_takes() {
    for overlay in fs::read_dir(root().join("deploy/overlays")).unwrap() {
        let overlay = overlay.unwrap().file_name().into_string().unwrap();
        let built = built(&overlay);
        assert!(built.iter().any(|o| o["kind"] == "Deployment"), "{overlay}");
        if overlay == "cluster-wide" {
            let mut plain: Vec<_> = ["crds", "rbac", "deploy"].map(manifests).concat();
            let name = |o: &Value| format!("{} {}", o["kind"], o["metadata"]["name"]);
            plain.sort_by_key(name);
            plain.dedup();
            let mut built = built;
            built.sort_by_key(name);
            assert_eq!(built, plain);
        }
    }
}

#[test]
fn the_overlay_for_monitoring_brings_the_dashboard_and_says_where_the_runbooks_are() {
    let built = built("monitoring");
    let config: Vec<_> = built.iter().filter(|o| o["kind"] == "ConfigMap").collect();
    assert_eq!(config.len(), 1, "{config:#?}");
    let metadata = &config[0]["metadata"];
    assert_eq!(metadata["labels"]["grafana_dashboard"], "1");
    assert_eq!(metadata["namespace"], "aikernel-infrastructure");
    let file = fs::read_to_string(root().join("deploy/monitoring/grafana-dashboard.json"));
    assert_eq!(config[0]["data"]["grafana-dashboard.json"], file.unwrap());

    let one = |kind: &str| built.iter().find(|o| o["kind"] == kind).unwrap();
    let service = &one("Service")["metadata"]["labels"];
    let selected = &one("ServiceMonitor")["spec"]["selector"]["matchLabels"];
    for (label, value) in selected.as_object().unwrap() {
        assert_eq!(service[label], *value);
    }

    let page = fs::read_to_string(root().join("docs/runbooks.md")).unwrap();
    let groups = one("PrometheusRule")["spec"]["groups"].as_array().unwrap();
    let mut alerts = 0;
    for rule in groups.iter().flat_map(|g| g["rules"].as_array().unwrap()) {
        let name = rule["alert"].as_str().unwrap();
        let url = format!(
            "https://docs.example.org/catalog-mesh-controller/runbooks.md#{}",
            name.to_lowercase()
        );
        assert_eq!(rule["annotations"]["runbook_url"], url.as_str());
        assert!(page.contains(&format!("\n## {name}\n")), "{name}");
        alerts += 1;
    }
    assert!(alerts > 10, "{alerts}");
}

#[test]
fn an_operator_of_some_namespaces_is_bound_to_roles_alone_and_serves_those_that_it_is_bound_in() {
    for (overlay, own, serves) in [
        ("one-namespace", "shop", vec!["shop"]),
        (
            "some-namespaces",
            "aikernel-infrastructure",
            vec!["billing", "shop"],
        ),
    ] {
        let built = built(overlay);
        assert!(
            !built
                .iter()
                .any(|o| o["kind"].as_str().unwrap().starts_with("Cluster"))
        );
        let mut bound_in: Vec<_> = Vec::new();
        for binding in built.iter().filter(|o| o["kind"] == "RoleBinding") {
            assert_eq!(binding["subjects"][0]["namespace"], own, "{overlay}");
            if binding["metadata"]["name"] == "catalog-mesh-controller-watched" {
                bound_in.push(binding["metadata"]["namespace"].as_str().unwrap());
            }
        }
        bound_in.sort_unstable();
        assert_eq!(bound_in, serves, "{overlay}");
        let deployment = built.iter().find(|o| o["kind"] == "Deployment").unwrap();
        assert_eq!(deployment["metadata"]["namespace"], own);
        let served = run_args(deployment, own).served().unwrap();
        assert_eq!(
            served.parts(),
            serves.iter().map(ToString::to_string).collect()
        );
    }
}

#[test]
fn what_is_granted_in_a_namespace_is_what_is_granted_everywhere_but_for_namespaces() {
    let rules = |role: &Value| -> Vec<Value> {
        let rules = role["rules"].as_array().unwrap().iter();
        rules
            .filter(|r| r["resources"] != json!(["namespaces"]))
            .cloned()
            .collect()
    };
    let role = |path: &str| -> Value {
        let text = fs::read_to_string(root().join(path)).unwrap();
        serde_saphyr::from_str(&text).unwrap()
    };
    for (everywhere, here) in [
        ("rbac/20-clusterrole.yaml", "deploy/watched/role.yaml"),
        ("rbac/40-role.yaml", "deploy/namespaced/role.yaml"),
    ] {
        assert_eq!(rules(&role(everywhere)), rules(&role(here)));
    }
}

#[test]
fn no_right_is_a_wildcard_and_none_reads_secrets() {
    let (cluster, some) = (built("cluster-wide"), built("some-namespaces"));
    let roles = cluster.iter().chain(&some);
    let roles = roles.filter(|o| o["kind"].as_str().unwrap().ends_with("Role"));
    let mut rules = 0;
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
        let text = rule.to_string();
        assert!(!text.contains('*') && !text.contains("secret"), "{text}");
        rules += 1;
    }
    assert!(rules > 20, "{rules}");
}

#[test]
fn the_disruption_budget_and_the_network_policy_are_about_the_pods() {
    let deployment = object("Deployment");
    let labels = &deployment["spec"]["selector"];
    assert_eq!(object("PodDisruptionBudget")["spec"]["selector"], *labels);
    let policy = &object("NetworkPolicy")["spec"];
    assert_eq!(policy["podSelector"], *labels);
    let port = &deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0];
    assert_eq!(policy["ingress"][0]["ports"][0]["port"], port["name"]);
    // What it has to reach cannot be known here.
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
}

#[test]
fn every_policy_is_bound_and_denies() {
    let objects = manifests("deploy");
    let of = |kind: &'static str| objects.iter().filter(move |o| o["kind"] == kind).cloned();
    let mut policies = 0;
    for policy in of("ValidatingAdmissionPolicy") {
        assert_eq!(policy["spec"]["failurePolicy"], "Fail");
        let name = &policy["metadata"]["name"];
        let bound = of("ValidatingAdmissionPolicyBinding").any(|binding| {
            binding["spec"]["policyName"] == *name
                && binding["spec"]["validationActions"] == json!(["Deny"])
        });
        assert!(bound, "{name}");
        policies += 1;
    }
    assert_eq!(policies, 3);
}

/// How the Deployment starts the operator in this namespace.
fn run_args(deployment: &Value, namespace: &str) -> RunArgs {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap().iter();
    let args = args.map(|arg| arg.as_str().unwrap().replace("$(POD_NAMESPACE)", namespace));
    let words = std::iter::once("x".to_owned()).chain(args);
    match Cli::try_parse_from(words).unwrap().command {
        Some(Command::Run(run)) => *run,
        other => panic!("it does not run the operator: {other:?}"),
    }
}

#[test]
fn the_deployment_starts_the_program_as_it_is() {
    let deployment = object("Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let run = run_args(&deployment, "aikernel-infrastructure");
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
fn the_image_is_built_without_paths_as_the_program_is_by_make_release() {
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    let (makefile, dockerfile) = (read("Makefile"), read("Dockerfile"));
    let flags = ["--remap-path-prefix=", "-ffile-prefix-map="];
    for flag in flags {
        assert!(makefile.contains(&format!("$(PATHS:%={flag}%)")));
    }
    let paths = makefile
        .lines()
        .find_map(|line| line.strip_prefix("PATHS = "));
    let mut names: Vec<_> = paths.unwrap().split_whitespace().collect();
    names.retain(|word| word.contains("=/"));
    let names: Vec<_> = names
        .iter()
        .map(|word| word.rsplit('=').next().unwrap())
        .collect();
    assert_eq!(names, ["/source", "/cargo"]);
    // By default what is built stands below the source.
    for (from, to) in [
        ("/src", names[0].to_owned()),
        ("/target", format!("{}/target", names[0])),
        ("/usr/local/cargo", names[1].to_owned()),
    ] {
        for flag in flags {
            let words = dockerfile.split([' ', '"', '\n']);
            let mapped = format!("{flag}{from}={to}");
            assert_eq!(words.filter(|word| **word == mapped).count(), 1, "{mapped}");
        }
    }
    assert!(dockerfile.contains("WORKDIR /src\n"));
}

#[test]
fn what_is_measured_has_the_environment_of_the_image() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let mut given = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("ENV "));
    let given = given.next().unwrap();
    assert!(given.starts_with("MALLOC_ARENA_MAX=1 "), "{given}");
    let mut make = std::process::Command::new("make");
    make.args(["-n", "bench"]).current_dir(root());
    let make = make.env_remove("MAKEFLAGS").output().unwrap();
    let would = String::from_utf8(make.stdout).unwrap();
    let begins = format!("{given} OPERATOR=");
    assert!(
        would.lines().any(|line| line.starts_with(&begins)),
        "{would}"
    );
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

/// What kustomize makes of an overlay.
fn built(overlay: &str) -> Vec<Value> {
    let kubectl = root().join("target/tools/bin/kubectl");
    assert!(kubectl.exists(), "run `make tools` first");
    let folder = root().join("deploy/overlays").join(overlay);
    let output = std::process::Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{overlay}: {output:?}");
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// The objects of a folder, in the order in which kubectl applies them.
fn manifests(folder: &str) -> Vec<Value> {
    let texts = files(folder).into_iter();
    texts
        .flat_map(|path| documents(&fs::read_to_string(path).unwrap()))
        .collect()
}

fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n");
    documents
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

/// Those that `kubectl apply -f` takes.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "yaml")
        })
        .collect();
    paths.sort();
    paths
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
