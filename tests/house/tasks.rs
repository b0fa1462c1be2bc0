//! What goes on beside the caller, and who sees that it ends? Every task of the
//! process is one of `Tasks` in src/app/life.rs, whose end is that of the
//! process, or stands here with the reason.

use std::fs;

use crate::source::{production, tokens};
use crate::{root, rust_files};

/// Words that start something which goes on by itself, or hold it.
const STARTS: [&str; 8] = [
    "spawn",
    "spawn_blocking",
    "spawn_local",
    "spawn_on",
    "JoinSet",
    "LocalSet",
    "TaskTracker",
    "thread",
];

/// Where these words may stand outside of tests, how often, and why.
const KNOWN: [(&str, &str, usize, &str); 7] = [
    (
        "src/app.rs",
        "spawn",
        1,
        "the election is waited for beside the work, and its end is the end of both",
    ),
    (
        "src/app/life.rs",
        "spawn",
        4,
        "this is where tasks are looked after; the thread for signals and its words at the \
         end must not depend on them, and one task only logs that a signal came",
    ),
    (
        "src/app/life.rs",
        "thread",
        4,
        "the one for signals, which ends the process whatever the others do",
    ),
    ("src/app/life.rs", "JoinSet", 2, "it is what `Tasks` is"),
    (
        "src/catalog/credentials.rs",
        "spawn_blocking",
        3,
        "reads of small files, each of which is waited for",
    ),
    (
        "src/health/prober.rs",
        "spawn",
        1,
        "each check ends by itself, and one that panics is an answer",
    ),
    (
        "src/health/prober.rs",
        "JoinSet",
        3,
        "checks under way, which end with the prober",
    ),
];

// trap 15
#[test]
fn whatever_runs_by_itself_is_looked_after() {
    let mut broken = Vec::new();
    for path in rust_files(&["src"]) {
        let source = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root()).unwrap().display().to_string();
        if file.contains("/tests/") {
            continue;
        }
        broken.extend(unexpected(&file, &source));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Words of the list that stand in the file more or less often than known.
fn unexpected(file: &str, source: &str) -> Vec<String> {
    let words = production(&tokens(source));
    let check = |word: &&'static str| {
        let lines: Vec<_> = words
            .iter()
            .filter(|token| token.text == **word)
            .map(|token| token.line)
            .collect();
        let known = KNOWN.iter().find(|row| row.0 == file && row.1 == *word);
        let known = known.map_or(0, |row| row.2);
        (lines.len() != known).then(|| {
            format!(
                "{file}: {word} in lines {lines:?}, and {known} known: use Tasks of \
                 src/app/life.rs, or say in tests/house/tasks.rs who sees its end"
            )
        })
    };
    STARTS.iter().filter_map(check).collect()
}

#[test]
fn a_task_that_nobody_looks_after_is_found() {
    let good = "fn x() { tasks.add(\"y\", z); respawn(); }";
    assert!(unexpected("src/x.rs", good).is_empty());
    for bad in [
        "fn x() { tokio::spawn(y); }",
        "use tokio::spawn;",
        "fn x() { handle.spawn(y); }",
        "fn x() { tokio::task::spawn_blocking(y); }",
        "struct X(tokio::task::JoinSet<()>);",
        "fn x() { std::thread::Builder::new(); }",
    ] {
        assert!(!unexpected("src/x.rs", bad).is_empty(), "{bad}");
        let test = format!("#[cfg(test)] mod tests {{ {bad} }}");
        assert!(unexpected("src/x.rs", &test).is_empty(), "{bad}");
    }
    let more = "fn x() { tokio::spawn(y); tokio::spawn(z); }";
    assert_eq!(unexpected("src/app.rs", more).len(), 1);
    assert_eq!(unexpected("src/app.rs", "fn x() {}").len(), 1);
}
