//! Do the documents say what the program does? Tables are compared with the
//! code that they describe, names and links with what they stand for.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` writes the generated parts anew.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

#[path = "support/situations.rs"]
#[allow(unreachable_pub, reason = "shared with another test")]
mod situations;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use catalog_mesh_controller::args::Cli;
use catalog_mesh_controller::domain::policy::bounds::{Range, TABLE};
use catalog_mesh_controller::domain::readiness::REASONS;
use catalog_mesh_controller::domain::situation::{Cell, Look, Situation};
use catalog_mesh_controller::metrics::Metrics;
use catalog_mesh_controller::render;
use clap::{CommandFactory as _, Parser as _};
use serde_json::Value;

const README: &str = "README.md";

#[test]
fn the_tables_of_flags_are_those_of_the_program() {
    check_generated("docs/flags.md", "run", &flags("run"));
    check_generated("docs/flags.md", "render", &flags("render"));
    check_generated("docs/flags.md", "diff", &flags("diff"));
    check_generated("docs/flags.md", "release-all", &flags("release-all"));
}

#[test]
fn the_table_of_bounds_is_that_of_the_program() {
    let mut table = head(&["Name", "From", "To", "Fields"]);
    for row in TABLE {
        let number = |value| {
            let range = Range {
                low: value,
                high: value,
                unit: row.unit,
            };
            let text = range.to_string();
            text.split("..").next().unwrap_or_default().to_owned()
        };
        let fields = row.fields.to_owned();
        table += &line(&[code(row.name), number(row.low), number(row.high), fields]);
    }
    check_generated("docs/flags.md", "bounds", &table);
}

#[test]
fn the_table_of_metrics_is_that_of_the_program() {
    let table = metrics();
    // A family without a series is not served, and would be missing unnoticed.
    let parts = fs::read_dir(root().join("src/metrics")).unwrap().flatten();
    let parts = parts.map(|part| fs::read_to_string(part.path()).unwrap());
    let source = read("src/metrics.rs") + &parts.collect::<String>();
    for name in source.split('"').filter(|text| is_metric_name(text)) {
        assert!(table.contains(&format!("`{name}`")), "{name} is missing");
    }
    check_generated("docs/metrics.md", "metrics", &table);
}

#[test]
fn every_reason_is_documented_and_no_other() {
    let documented: BTreeSet<String> = section(&read("docs/conditions.md"), "## Reasons")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    let (types, reasons) = constants_of_reasons();
    assert_eq!(documented, reasons);
    let conditions = read("docs/conditions.md");
    for name in types {
        assert!(
            conditions.contains(&format!("| `{name}` | ")),
            "{name} is missing"
        );
    }
}

#[test]
fn every_reason_that_ready_may_have_is_counted_under_its_name() {
    let reasons = section(&read("docs/conditions.md"), "## Reasons");
    let rows = reasons
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut stands_in = "";
    for (reason, rest) in rows {
        let cell = rest.split(" | ").next().unwrap();
        if cell != "the same" {
            stands_in = cell;
        }
        let of_ready = stands_in.split(", ").any(|type_| type_ == "Ready");
        assert_eq!(REASONS.contains(&reason), of_ready, "{reason}");
    }
}

#[test]
fn the_table_of_situations_is_that_of_the_program() {
    check_generated("docs/conditions.md", "situations", &situations());
}

#[test]
fn the_readme_shows_what_was_measured_and_what_was_asked_for() {
    check_generated(README, "figures", &figures());
}

#[test]
fn the_readme_shows_the_example_and_what_is_rendered_of_it() {
    let readme = read(README);
    let example = read("examples/bindings/worker-service.yaml");
    assert!(
        readme.contains(&format!("```yaml\n{example}```")),
        "the example is not examples/bindings/worker-service.yaml"
    );
    let command = readme
        .lines()
        .find_map(|line| line.trim().strip_prefix("catalog-mesh-controller render "))
        .expect("the README names no command that renders");
    let words = ["x", "render"]
        .into_iter()
        .chain(command.split_whitespace());
    let cli = Cli::try_parse_from(words).unwrap();
    let Some(catalog_mesh_controller::args::Command::Render(args)) = cli.command else {
        panic!("it renders nothing: {command}");
    };
    let rendered = render::render(&args, &mut std::io::empty());
    assert_eq!(rendered.code, 0, "{}", rendered.complaints);
    // What a reader needs of it: no comments, no metadata.
    for spec in rendered.output.split("---\n") {
        let (_, spec) = spec.split_once("\nspec:\n").unwrap();
        assert!(
            readme.contains(&format!("spec:\n{spec}")),
            "the README does not show:\nspec:\n{spec}"
        );
    }
}

#[test]
fn the_readme_shows_the_record_of_the_reference_catalog() {
    let readme = read(README);
    let (_, rest) = readme.split_once("```json\n").unwrap();
    let shown: serde_json::Value = serde_json::from_str(rest.split("```").next().unwrap()).unwrap();
    let seed: serde_json::Value =
        serde_json::from_str(&read("examples/catalog-server/seed.json")).unwrap();
    for (field, value) in shown.as_object().unwrap() {
        assert_eq!(value, &seed[0][field], "{field}");
    }
}

#[test]
fn what_make_hands_on_is_what_its_caller_said() {
    let makefile = read("Makefile");
    let lists = makefile.split("$(foreach name,").skip(1);
    let handed_on: Vec<_> = lists
        .filter_map(|rest| rest.split(',').next())
        .flat_map(str::split_whitespace)
        .collect();
    assert!(handed_on.len() > 10, "{handed_on:?}");
    for line in makefile.lines() {
        let set = line.split(['=', ':', '?', '+']).next().unwrap().trim();
        assert!(!handed_on.contains(&set), "it has a value here: {line}");
    }
}

#[test]
fn every_command_of_make_that_is_named_exists() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '#', '.']))
        .filter_map(|line| line.split_once(':'))
        .map(|(target, _)| target)
        .collect();
    let mut named = 0;
    for (file, text) in documents() {
        for after in text.split("`make ").skip(1) {
            let target: String = after
                .chars()
                .take_while(|&c| c.is_ascii_lowercase() || c == '-')
                .collect();
            assert!(
                targets.contains(target.as_str()),
                "{}: make {target}",
                file.display()
            );
            named += 1;
        }
    }
    assert!(named > 0, "no document names any");
}

#[test]
fn every_flag_that_is_named_exists() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for command in Cli::command().get_subcommands() {
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        known.extend(flags.map(|flag| format!("--{flag}")));
    }
    // The reference catalog is a program of its own: its flags are fields.
    let catalog = read("examples/catalog-server/args.rs");
    let fields = catalog.split("pub(crate) ").skip(1);
    known.extend(fields.filter_map(|field| {
        let (name, _) = field.split_once(':')?;
        Some(format!("--{}", name.replace('_', "-")))
    }));
    for (file, text) in documents() {
        for after in text.split("`--").skip(1) {
            let flag: String = after
                .chars()
                .take_while(|&c| c.is_ascii_lowercase() || c == '-')
                .collect();
            let flag = format!("--{flag}");
            assert!(known.contains(&flag), "{}: {flag}", file.display());
        }
    }
}

#[test]
fn every_environment_variable_that_is_named_exists() {
    const PREFIX: &str = "CATALOG_MESH_";
    let mut known: BTreeSet<String> = BTreeSet::new();
    for command in Cli::command().get_subcommands() {
        let variables = command.get_arguments().filter_map(clap::Arg::get_env);
        known.extend(variables.map(|name| name.to_string_lossy().into_owned()));
    }
    for (file, text) in documents() {
        for after in text.split(PREFIX).skip(1) {
            let rest: String = after
                .chars()
                .take_while(|&c| c.is_ascii_uppercase() || c == '_')
                .collect();
            let name = format!("{PREFIX}{rest}");
            assert!(known.contains(&name), "{}: {name}", file.display());
        }
    }
}

#[test]
fn every_link_to_a_file_or_heading_leads_somewhere() {
    let mut followed = 0;
    for (file, text) in documents() {
        for after in text.split("](").skip(1) {
            let link = after.split([')', ' ']).next().unwrap_or_default();
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                file.clone()
            } else {
                file.parent().unwrap().join(path)
            };
            assert!(target.exists(), "{}: {link}", file.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                assert!(
                    anchors(&text).contains(heading),
                    "{}: {link}",
                    file.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 0, "no document has any");
}

// --- tables ---------------------------------------------------------------------

fn flags(command: &str) -> String {
    let cli = Cli::command();
    let command = cli.find_subcommand(command).unwrap();
    let mut table = head(&["Flag", "Environment", "Default", "Meaning"]);
    for arg in command.get_arguments().filter(|arg| !arg.is_global_set()) {
        let Some(long) = arg.get_long().filter(|&long| long != "help") else {
            continue;
        };
        let mut flag = format!("--{long}");
        if let Some(short) = arg.get_short() {
            flag = format!("-{short}, {flag}");
        }
        if arg.get_action().takes_values() {
            let value = arg.get_value_names().into_iter().flatten().next().unwrap();
            let _ = write!(flag, " <{value}>");
        }
        let env = arg
            .get_env()
            .map(|name| code(name.to_str().unwrap()))
            .unwrap_or_default();
        let default = arg
            .get_default_values()
            .first()
            .filter(|_| !arg.is_hide_default_value_set() && arg.get_action().takes_values())
            .map(|value| code(value.to_str().unwrap()))
            .unwrap_or_default();
        let mut help = arg.get_help().unwrap().to_string();
        if !help.ends_with('.') {
            help.push('.');
        }
        if arg.is_required_set() {
            help.push_str(" Required.");
        }
        table += &line(&[code(&flag), env, default, help]);
    }
    table
}

fn metrics() -> String {
    let metrics = Metrics::new().unwrap();
    metrics.bindings().unbound_records("InvalidName", 0);
    metrics.health.service("shop/web").checked(true);
    let text = metrics.exposition().unwrap();

    let mut table = head(&["Name", "Type", "Labels", "Meaning"]);
    for help in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (name, meaning) = help.split_once(' ').unwrap();
        let kind = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("# TYPE {name} ")))
            .unwrap();
        let labels = labels(&text, name);
        table += &line(&[code(name), kind.to_owned(), labels, meaning.to_owned()]);
    }
    table
}

/// The labels of a metric, each with its values where these are there from the start.
fn labels(text: &str, name: &str) -> String {
    let pairs = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('}')?.0.split_once('{'))
        .filter(|(series, _)| series.strip_suffix("_bucket").unwrap_or(series) == name)
        .flat_map(|(_, labels)| labels.split(','))
        .filter_map(|label| label.split_once('='));
    let mut labels = BTreeMap::<_, BTreeSet<_>>::new();
    for (label, value) in pairs.filter(|(label, _)| *label != "le") {
        let value = value.trim_matches('"');
        labels.entry(label).or_default().insert(code(value));
    }
    let labels = labels.into_iter().map(|(label, values)| {
        let values: Vec<_> = values.into_iter().collect();
        match values.len() {
            0 | 1 => code(label),
            _ => format!("{}: {}", code(label), values.join(", ")),
        }
    });
    labels.collect::<Vec<_>>().join("; ")
}

fn is_metric_name(text: &str) -> bool {
    let ours = [
        "catalog_mesh_",
        "controller_runtime_",
        "workqueue_",
        "leader_election_",
    ];
    ours.iter().any(|prefix| text.starts_with(prefix))
        && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Types of conditions, then reasons, by the source of the constants: a new
/// one is in here without anybody's doing.
fn constants_of_reasons() -> (BTreeSet<String>, BTreeSet<String>) {
    // A type and a reason may be the same word.
    const TYPES: [&str; 6] = [
        "READY",
        "CATALOG_SYNCED",
        "MESH_PROGRAMMED",
        "HEALTHY",
        "CONFLICT",
        "SUSPENDED",
    ];
    let source = read("src/domain/reasons.rs");
    let (mut types, mut reasons) = (BTreeSet::new(), BTreeSet::new());
    for line in source.lines() {
        let Some((name, rest)) = line
            .strip_prefix("pub const ")
            .and_then(|line| line.split_once(':'))
        else {
            continue;
        };
        let word = rest.split('"').nth(1).unwrap().to_owned();
        let is_type = TYPES.contains(&name);
        if is_type { &mut types } else { &mut reasons }.insert(word);
    }
    (types, reasons)
}

fn situations() -> String {
    let mut table = head(&[
        "Situation",
        "CatalogSynced",
        "MeshProgrammed",
        "Ready",
        "Conflict",
        "syncStatus",
        "Next look",
    ]);
    for (situation, in_force, more) in situations::all() {
        let row = situation.row(in_force);
        let sync = row
            .sync
            .map_or_else(|| "as it is".to_owned(), |sync| format!("{sync:?}"));
        table += &line(&[
            format!("{}{more}", title(&situation)),
            cell(&row.catalog),
            cell(&row.mesh),
            cell(&row.ready),
            cell(&row.conflict),
            sync,
            when(row.look).to_owned(),
        ]);
    }
    table
}

/// No wildcard: a new situation has to be described.
fn title(situation: &Situation) -> &'static str {
    match situation {
        Situation::Programmed { .. } => "The record was read, the objects are stored",
        Situation::CatalogAway { .. } => "The catalog gives no usable answer",
        Situation::NotFound => "The catalog said once that there is no such service",
        Situation::Unlisted(_) => "It said so twice; no complete list says so yet",
        Situation::DeletionHeld(_) => {
            "The service is gone, and the brake keeps what was made for it"
        }
        Situation::Removed { .. } => "The service is gone",
        Situation::InvalidRecord(_) => "The record is wrong or out of bounds",
        Situation::InvalidBinding(_) => "The binding is wrong",
        Situation::Blocked { .. } => "Somebody else is in the way",
        Situation::WriteRefused { .. } => "A write was refused, or Istio's kinds are not served",
        Situation::RemovalRefused(_) => "The binding is being deleted, and a removal was refused",
        Situation::ServiceUnusable { .. } => {
            "The Service is missing, headless, or without HTTP port"
        }
        Situation::Suspended { .. } => "Suspended, or paused",
    }
}

fn when(look: Look) -> &'static str {
    match look {
        Look::OnEvent => "when something changes that it depends on",
        Look::Period => "after the period",
        Look::Confirm => "within a second, to confirm the answer; until then nothing is told",
        Look::CatalogBack => "when the catalog answers again; tried at most 2 s apart",
        Look::WritesBack => "when writes are taken again; tried at most 2 s apart",
    }
}

fn cell(cell: &Cell) -> String {
    cell.as_ref().map_or_else(
        || "as it is".to_owned(),
        |fact| format!("{}, {}", fact.truth.as_str(), code(fact.reason)),
    )
}

fn head(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    format!("{}{}\n", line(&names), "|---".repeat(names.len()) + "|")
}

fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

// --- what was measured -----------------------------------------------------------

/// More goals than this are counted, and only those that were missed are shown.
const FEW: usize = 9;

/// Every goal of a run that `make bench` kept, and what came of it.
fn figures() -> String {
    let files = fs::read_dir(root().join("docs/benchmarks"))
        .unwrap()
        .flatten();
    let files = files.map(|file| file.file_name().into_string().unwrap());
    let files: BTreeSet<_> = files.filter(|file| file.ends_with(".json")).collect();
    let mut table =
        String::from("| Run | What | Asked for | Measured | |\n|---|---|---|---|---|\n");
    for file in files {
        let run: Value = serde_json::from_str(&read(&format!("docs/benchmarks/{file}"))).unwrap();
        let name = file.trim_end_matches(".json");
        let goals = run["figures"].as_array().unwrap().iter();
        let goals: Vec<_> = goals.filter(|figure| figure["goal"].is_string()).collect();
        let is_shown = |goal: &&&Value| goals.len() <= FEW || goal["met"] == false;
        let shown: Vec<_> = goals.iter().filter(is_shown).collect();
        for goal in &shown {
            let number = |what: &str| short(goal[what].as_f64().unwrap());
            let (middle, low, high) = (number("median"), number("low"), number("high"));
            let spread = if low == high {
                String::new()
            } else {
                format!(" ({low} to {high})")
            };
            let unit = goal["unit"].as_str().unwrap();
            let row = format!(
                "| {name} | {} | {} {unit} | {middle}{spread} {unit} | {} |\n",
                goal["name"].as_str().unwrap(),
                goal["goal"].as_str().unwrap(),
                if goal["met"] == true {
                    ""
                } else {
                    "**missed**"
                },
            );
            table.push_str(&row.replace("  ", " ").replace(" |  |", " | |"));
        }
        let others = goals.len() - shown.len();
        if others > 0 {
            let row = format!("| {name} | {others} more bounds | | all met | |\n");
            table.push_str(&row);
        }
    }
    table
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number.abs() {
        whole if whole >= 100.0 => format!("{number:.0}"),
        tens if tens >= 10.0 => format!("{number:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{number:.2}"),
    }
}

// --- documents ------------------------------------------------------------------

/// Compares a generated part of a document with what it should be.
fn check_generated(file: &str, name: &str, expected: &str) {
    // Two tests may write the same document anew.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let text = read(file);
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = text
        .split_once(&begin)
        .unwrap_or_else(|| panic!("{file} has no line {begin:?}"));
    let (present, after) = rest.split_once("<!-- end -->").unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let new = format!("{before}{begin}{expected}<!-- end -->{after}");
        fs::write(root().join(file), new).unwrap();
        return;
    }
    assert!(
        present == expected,
        "{file} is out of date; write it anew: UPDATE_DOCS=1 cargo test --test docs\nexpected:\n{expected}"
    );
}

/// The text from a heading to the next one of its level.
fn section(text: &str, heading: &str) -> String {
    let (_, rest) = text.split_once(&format!("{heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// What headings are called in links to them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let words = heading.trim_start_matches('#').trim().to_lowercase();
            words
                .chars()
                .filter(|&c| c.is_alphanumeric() || c == ' ' || c == '-')
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// Every document that users and developers read.
fn documents() -> Vec<(PathBuf, String)> {
    let in_folder = |folder: &str| {
        let entries = fs::read_dir(root().join(folder)).unwrap().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    };
    let mut paths: Vec<PathBuf> = in_folder("").chain(in_folder("docs")).collect();
    paths.sort();
    let read = |path: PathBuf| (path.clone(), fs::read_to_string(path).unwrap());
    paths.into_iter().map(read).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
