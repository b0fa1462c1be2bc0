//! The guards around kube-rs that are read off the source, and whether the
//! table of docs/guards.md names a test for each of them that exists.

use std::collections::BTreeSet;
use std::fs;

use crate::source::{Token, production, tokens};
use crate::{all_rust_files, root, rust_files};

/// Rows of the table.
const TRAPS: u32 = 32;

/// Words that stand nowhere in the source, and the row that says why.
const UNUSED: [(&str, u32); 13] = [
    ("trigger_backoff", 2),
    ("for_shared_stream", 3),
    ("owns_shared_stream", 3),
    ("watches_shared_stream", 3),
    ("reflect_shared", 3),
    ("any_semantic", 11),
    ("streaming_lists", 12),
    ("predicate_filter", 13),
    ("debounce", 18),
    ("Recorder", 25),
    ("unbounded_channel", 30),
    ("UnboundedSender", 30),
    ("unbounded", 30),
];

/// Ways to feed kube's `Controller` past the queue.
const FEEDS: [&str; 8] = [
    "owns",
    "owns_with",
    "owns_stream",
    "watches",
    "watches_with",
    "watches_stream",
    "reconcile_all_on",
    "with_trigger_backoff",
];

/// Crates that are not used, and the row that says why.
const CRATES: [(&str, u32); 6] = [
    ("kube-lease-manager", 24),
    ("kube-leader-election", 24),
    ("kubert", 24),
    ("istio-api-rs", 31),
    ("envtest", 32),
    ("rust2go", 32),
];

// traps 2, 11, 12
#[test]
fn kubes_controller_is_fed_by_the_queue_alone() {
    let mut broken = Vec::new();
    for path in rust_files(&["src"]) {
        let source = fs::read_to_string(&path).unwrap();
        let found = unused(&source).into_iter().chain(feeds(&source));
        broken.extend(found.map(|complaint| format!("{}: {complaint}", path.display())));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

// trap 30
#[test]
fn nothing_waits_in_a_channel_without_a_bound() {
    let bad = unused("fn x() { let (a, b) = mpsc::unbounded_channel(); }");
    assert_eq!(bad.len(), 1);
    for path in rust_files(&["src", "examples"]) {
        let source = fs::read_to_string(&path).unwrap();
        let bound = unused(&source);
        let bound = bound
            .iter()
            .filter(|complaint| complaint.contains("bounded"));
        assert_eq!(bound.count(), 0, "{}", path.display());
    }
}

// traps 3, 22, 24, 31, 32
#[test]
fn the_library_is_built_with_nothing_that_is_not_used() {
    let manifest = read("Cargo.toml");
    assert_eq!(features(&manifest), Vec::<String>::new());
    let lock = read("Cargo.lock");
    let count = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    for (name, row) in CRATES {
        assert_eq!(count(name), 0, "{name}, see row {row} of docs/guards.md");
    }
    for name in ["kube", "kube-client", "kube-core", "kube-runtime"] {
        assert_eq!(count(name), 1, "{name} is in the graph more than once");
    }
}

// trap 15
#[test]
fn a_panic_can_be_caught() {
    let manifest = read("Cargo.toml");
    let aborts = manifest
        .lines()
        .any(|line| line.split('#').next().unwrap_or_default().contains("abort"));
    assert!(
        !aborts,
        "with `panic = \"abort\"` one look ends the process"
    );
}

// trap 21
#[test]
fn the_other_providers_of_tls_are_banned() {
    let bans = read("deny.toml");
    for provider in ["ring", "openssl-sys", "native-tls"] {
        assert!(bans.contains(&format!("{{ crate = \"{provider}\" }}")));
    }
}

#[test]
fn every_trap_has_a_guard_and_a_test_that_exists() {
    let page = read("docs/guards.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| #"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let numbers: Vec<u32> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(numbers, (1..=TRAPS).collect::<Vec<_>>());
    let mut named = BTreeSet::new();
    for row in &rows {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(row[1].len() > 20 && row[2].len() > 10, "{row:?}");
        let tests: BTreeSet<&str> = row[3].split('`').filter(|t| t.contains("::")).collect();
        assert!(!tests.is_empty(), "row {} names no test", row[0]);
        for test in tests {
            let (file, name) = test.split_once("::").unwrap();
            let source = fs::read_to_string(root().join(file));
            let source = source.unwrap_or_else(|error| panic!("{test}: {error}"));
            assert!(is_test(&source, name), "{test} is no test");
            named.insert((row[0].parse().unwrap(), test.to_owned()));
        }
    }
    let mut marked = BTreeSet::new();
    for path in all_rust_files(&["src", "tests"]) {
        let file = path.strip_prefix(root()).unwrap().display().to_string();
        let marks = marks(&fs::read_to_string(&path).unwrap());
        marked.extend(
            marks
                .into_iter()
                .map(|(row, name)| (row, format!("{file}::{name}"))),
        );
    }
    let only = |one: &BTreeSet<(u32, String)>, other| {
        let only: Vec<_> = one.difference(other).cloned().collect();
        only
    };
    assert_eq!(
        only(&named, &marked),
        [],
        "in the table, not above the test"
    );
    assert_eq!(
        only(&marked, &named),
        [],
        "above the test, not in the table"
    );
}

/// Rows that stand above the tests of a file, as `// trap 1` or `// traps 1, 2`,
/// each with the test's name.
fn marks(source: &str) -> Vec<(u32, String)> {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let rows = ["// trap ", "// traps "]
            .iter()
            .find_map(|mark| line.strip_prefix(mark));
        let Some(rows) = rows else {
            continue;
        };
        let name = lines[at..].iter().find_map(|line| {
            let (_, rest) = line.split_once("fn ")?;
            rest.split_once('(').map(|(name, _)| name.to_owned())
        });
        let name = name.unwrap_or_default();
        let rows = rows.split(", ").map(|row| row.parse().unwrap());
        found.extend(rows.map(|row| (row, name.clone())));
    }
    found
}

/// Words of the list that the source uses outside of tests.
fn unused(source: &str) -> Vec<String> {
    let words = production(&tokens(source));
    let complaint = |token: &Token| {
        let (word, row) = UNUSED.iter().find(|(word, _)| token.text == *word)?;
        Some(format!(
            "line {}: {word}, see row {row} of docs/guards.md",
            token.line
        ))
    };
    words.iter().filter_map(complaint).collect()
}

/// What feeds a `Controller` by a method call.
fn feeds(source: &str) -> Vec<String> {
    let words = production(&tokens(source));
    let complaint = |three: &[Token]| {
        let [dot, method, open] = three else {
            return None;
        };
        let feeds = dot.text == "." && open.text == "(" && FEEDS.contains(&method.text.as_str());
        feeds.then(|| {
            format!(
                "line {}: .{}( feeds it past the queue",
                method.line, method.text
            )
        })
    };
    words.windows(3).filter_map(complaint).collect()
}

/// Features of kube and its like that Cargo.toml asks for and should not.
fn features(manifest: &str) -> Vec<String> {
    let mut broken = Vec::new();
    for line in manifest.lines() {
        let Some((name, rest)) = line.split_once(" = ") else {
            continue;
        };
        if !["kube", "kube-runtime", "reqwest", "tower-http"].contains(&name) {
            continue;
        }
        let forbidden = [
            "\"gzip\"",
            "\"unstable-runtime\"",
            "unstable-runtime-subscribe",
            "\"ring\"",
            "native-tls",
        ];
        let found = forbidden.iter().filter(|feature| rest.contains(**feature));
        broken.extend(found.map(|feature| format!("{name} has {feature}")));
        if !rest.contains("default-features = false") {
            broken.push(format!("{name} has its default features"));
        }
    }
    broken
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Whether a test of that name is in the source: an ordinary one, or one that a
/// list of `tests!` names.
fn is_test(source: &str, name: &str) -> bool {
    let Some((before, _)) = source.split_once(&format!("fn {name}(")) else {
        return false;
    };
    let attributes = before.rsplit("\n\n").next().unwrap_or_default();
    let list = source.split_once("tests![").map(|(_, list)| list);
    let listed = list.and_then(|list| list.split_once("];"));
    let listed = listed.is_some_and(|(list, _)| {
        let mut words = list.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.any(|word| word == name)
    });
    listed || attributes.contains("#[test]") || attributes.contains("#[tokio::test")
}

mod the_checks_find_what_they_are_for {
    use super::*;

    #[test]
    fn a_feed_past_the_queue_is_found() {
        let source = "fn x() { Controller::new(a, b).owns(c, d); clients.watches.clone(); }";
        assert_eq!(feeds(source).len(), 1);
        assert!(unused("fn x() { config.any_semantic(); }").len() == 1);
        assert!(unused("// any_semantic\n#[cfg(test)] mod t { use x::Recorder; }").is_empty());
    }

    #[test]
    fn a_feature_that_should_not_be_there_is_found() {
        let good = "kube = { version = \"5\", default-features = false, features = [\"client\"] }";
        assert!(features(good).is_empty());
        for (from, to) in [
            ("\"client\"", "\"client\", \"gzip\""),
            ("default-features = false, ", ""),
            ("\"client\"", "\"unstable-runtime\""),
        ] {
            assert_eq!(features(&good.replace(from, to)).len(), 1, "{to}");
        }
    }

    #[test]
    fn a_mark_is_of_the_test_below_it() {
        let source = "// trap 7\n#[test]\nfn one() {}\n\n// traps 8, 19\n#[tokio::test]\nasync fn two(x: X) {}\n";
        let expected = [(7, "one"), (8, "two"), (19, "two")];
        let expected = expected.map(|(row, name)| (row, name.to_owned()));
        assert_eq!(marks(source), expected);
        assert!(marks("fn one() {} // no trap 3\n/// trap 4\nfn two() {}").is_empty());
    }

    #[test]
    fn a_test_that_is_none_is_found() {
        let source = "#[test]\nfn one() {}\n\nfn helper() {}\n\n#[tokio::test(start_paused = true)]\nasync fn two() {}\n";
        assert!(is_test(source, "one") && is_test(source, "two"));
        assert!(!is_test(source, "helper") && !is_test(source, "three"));
        let listed = "crate::tests![\n  ; alone:\n  slow(20)\n];\n\nasync fn slow(r: &R) {}\n\nasync fn other(r: &R) {}\n";
        assert!(is_test(listed, "slow") && !is_test(listed, "other"));
    }
}
