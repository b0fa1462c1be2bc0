//! Metrics, rules and dashboard by the programs that will read them: promtool,
//! and the types that Grafana generates from its schema. Nothing runs here that
//! is scraped; tests/cluster/observed.rs does that.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

#[path = "../support/tools.rs"]
#[allow(dead_code, unreachable_pub, reason = "part of the rig")]
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use catalog_mesh_controller::metrics::Metrics;
use serde_json::{Value, json};
use tools::Tool;

const RULES: &str = "deploy/monitoring/prometheusrule.yaml";
const DASHBOARD: &str = "deploy/monitoring/grafana-dashboard.json";
const RUNBOOKS: &str = "docs/runbooks.md";

/// Gauges whose names the first design fixed.
const ALIASES: [&str; 3] = [
    "catalog_mesh_destinationrules_total",
    "catalog_mesh_servicebindings_total",
    "catalog_mesh_virturalservices_total",
];

#[test]
fn promtool_finds_fault_with_nothing_but_the_first_designs_aliases() {
    let said = lint(&exposition());
    let found: BTreeSet<_> = said
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(found, BTreeSet::from(ALIASES), "{said}");
    // What it finds fault with is told apart from what it lets be.
    let bad = "# HELP seconds_milli x\n# TYPE seconds_milli counter\nseconds_milli 1\n";
    assert!(lint(bad).contains("seconds_milli"));
}

#[test]
fn each_alert_fires_where_it_should_and_is_silent_where_it_should_be() {
    let rules = rules();
    let folder = tempfile::tempdir().unwrap();
    let tests = read("tests/monitoring/alerts.yaml");
    fs::write(folder.path().join("alerts.yaml"), &tests).unwrap();
    let run = |rules: &Value, args: &[&str]| {
        fs::write(folder.path().join("rules.yaml"), rules.to_string()).unwrap();
        promtool(args, folder.path())
    };
    let checked = run(&rules, &["check", "rules", "--lint-fatal", "rules.yaml"]);
    assert!(checked.status.success(), "{}", all(&checked));
    let tested = run(&rules, &["test", "rules", "alerts.yaml"]);
    assert!(tested.status.success(), "{}", all(&tested));

    let names: BTreeSet<String> = alerts(&rules).map(|alert| text(&alert["alert"])).collect();
    let (firing, silent) = tested_alerts(&tests);
    assert_eq!(firing, names, "each has a test in which it fires");
    assert_eq!(silent, names, "each has a test in which it does not");

    // A rule that can never fire does not pass.
    let mut deaf = rules;
    deaf["groups"][0]["rules"][0]["expr"] = json!("vector(0) == 1");
    assert!(
        !run(&deaf, &["test", "rules", "alerts.yaml"])
            .status
            .success()
    );
}

/// Alerts that fire in some test, and those that are silent all through one.
fn tested_alerts(tests: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let tests: Value = serde_saphyr::from_str(tests).unwrap();
    let (mut firing, mut silent) = (BTreeSet::new(), BTreeSet::new());
    for test in tests["tests"].as_array().unwrap() {
        let expected = test["alert_rule_test"].as_array().unwrap();
        let name = text(&expected[0]["alertname"]);
        let fires = |expected: &Value| !expected["exp_alerts"].as_array().unwrap().is_empty();
        if expected.iter().any(fires) {
            firing.insert(name);
        } else {
            silent.insert(name);
        }
    }
    (firing, silent)
}

#[test]
fn each_alert_says_what_is_so_and_has_its_section_of_the_runbooks() {
    let page = read(RUNBOOKS);
    let sections: BTreeMap<String, &str> = page
        .split("\n## ")
        .skip(1)
        .map(|section| section.split_once('\n').unwrap())
        .map(|(name, text)| (name.to_owned(), text.trim()))
        .collect();
    let rules = rules();
    let mut names = BTreeSet::new();
    for alert in alerts(&rules) {
        let name = text(&alert["alert"]);
        let severity = text(&alert["labels"]["severity"]);
        assert!(
            ["critical", "warning"].contains(&severity.as_str()),
            "{name}"
        );
        for annotation in ["summary", "description"] {
            assert!(
                text(&alert["annotations"][annotation]).ends_with('.'),
                "{name}"
            );
        }
        let url = format!("{RUNBOOKS}#{}", name.to_lowercase());
        assert_eq!(alert["annotations"]["runbook_url"], url.as_str());
        assert!(
            sections.get(&name).is_some_and(|text| !text.is_empty()),
            "{name}"
        );
        names.insert(name);
    }
    assert_eq!(names, sections.into_keys().collect());
}

#[test]
fn rules_and_dashboard_ask_for_nothing_that_is_not_served() {
    let exposition = exposition();
    let families: BTreeSet<&str> = exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let rules = rules();
    let asked = alerts(&rules).map(|alert| text(&alert["expr"]));
    let queries: Vec<String> = asked.chain(queries(&dashboard())).collect();
    assert!(queries.len() > 50, "{}", queries.len());
    for query in queries {
        for name in names(&query) {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            let served = families.contains(family) || name == "up";
            assert!(served, "{name} of {query}");
            assert!(!ALIASES.contains(&name), "{name} is deprecated: {query}");
        }
    }
}

/// What a query names: words that are followed by labels, a range, or nothing
/// that makes them something else.
fn names(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = [
        "catalog_mesh_",
        "controller_runtime_",
        "workqueue_",
        "leader_",
        "process_",
    ];
    words.filter(move |word| *word == "up" || ours.iter().any(|start| word.starts_with(start)))
}

#[test]
fn the_dashboard_is_one_by_grafanas_own_types() {
    let good = check_dashboard(&dashboard());
    assert!(good.status.success(), "{}", all(&good));
    let broken: [fn(&mut Value); 4] = [
        |board| board["panelz"] = json!([]),
        |board| board["panels"][1]["gridPos"]["h"] = json!("tall"),
        |board| board["panels"][1]["options"]["colourMode"] = json!("value"),
        |board| board["panels"][1]["targets"][0]["expression"] = json!("up"),
    ];
    for (place, break_it) in broken.iter().enumerate() {
        let mut board = dashboard();
        break_it(&mut board);
        assert!(!check_dashboard(&board).status.success(), "{place}");
    }
}

#[test]
fn the_panels_of_the_dashboard_stand_side_by_side_and_say_what_they_show() {
    let board = dashboard();
    let mut taken = BTreeSet::new();
    let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
    for panel in board["panels"].as_array().unwrap() {
        let number = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let title = text(&panel["title"]);
        for x in number("x")..number("x") + number("w") {
            for y in number("y")..number("y") + number("h") {
                assert!(x < 24 && taken.insert((x, y)), "{title} lies over another");
            }
        }
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        assert!(!title.is_empty() && titles.insert(title.clone()), "{title}");
    }
}

// --- what is read, and what is run ---------------------------------------------

/// What a new operator serves, with a service that is checked.
fn exposition() -> String {
    let metrics = Metrics::new().unwrap();
    metrics.bindings().unbound_records("InvalidName", 0);
    metrics.health.service("shop/web").checked(true);
    metrics.exposition().unwrap()
}

/// The rules as Prometheus itself takes them.
fn rules() -> Value {
    let mut object: Value = serde_saphyr::from_str(&read(RULES)).unwrap();
    assert_eq!(object["kind"], "PrometheusRule");
    object["spec"].take()
}

fn alerts(rules: &Value) -> impl Iterator<Item = &Value> {
    let groups = rules["groups"].as_array().unwrap().iter();
    groups.flat_map(|group| group["rules"].as_array().unwrap())
}

fn dashboard() -> Value {
    serde_json::from_str(&read(DASHBOARD)).unwrap()
}

fn queries(board: &Value) -> Vec<String> {
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array());
    targets
        .flatten()
        .map(|target| text(&target["expr"]))
        .collect()
}

/// What promtool has to say about metrics.
fn lint(metrics: &str) -> String {
    let mut child = Command::new(tools::prometheus_program("promtool").unwrap())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).unwrap();
    drop(input);
    all(&child.wait_with_output().unwrap())
}

fn promtool(args: &[&str], folder: &Path) -> Output {
    let program = tools::prometheus_program("promtool").unwrap();
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).output().unwrap()
}

fn check_dashboard(board: &Value) -> Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), board.to_string()).unwrap();
    let mut command = Command::new(Tool::CheckDashboard.path().unwrap());
    command.arg(file.path()).output().unwrap()
}

fn all(output: &Output) -> String {
    let parts = [&output.stdout, &output.stderr];
    parts.map(|part| String::from_utf8_lossy(part)).concat()
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

fn read(file: &str) -> String {
    fs::read_to_string(tools::repository().join(file)).unwrap()
}
