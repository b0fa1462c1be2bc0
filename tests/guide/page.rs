//! The parts of a page that tests compare: tables, generated parts, comments.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A page of docs/.
pub(crate) struct Page {
    file: String,
    pub(crate) text: String,
}

impl Page {
    pub(crate) fn read(name: &str) -> Self {
        let file = format!("docs/{name}");
        let text = text(&file);
        Self { file, text }
    }

    /// Between the comments `begin` and `end`.
    fn part(&self, begin: &str) -> &str {
        let begin = format!("<!-- {begin} -->\n");
        let (_, rest) = self
            .text
            .split_once(&begin)
            .unwrap_or_else(|| panic!("{} has no line {begin:?}", self.file));
        rest.split("<!-- end -->").next().unwrap()
    }

    /// The cells of the table after this comment, its head aside.
    pub(crate) fn table(&self, name: &str) -> Vec<Vec<String>> {
        rows(self.part(name))
    }

    /// Names of all parts that begin with this word.
    pub(crate) fn parts(&self, word: &str) -> Vec<String> {
        let names = self.text.lines().filter_map(|line| {
            let name = line.strip_prefix("<!-- ")?.strip_suffix(" -->")?;
            name.starts_with(word).then(|| name.to_owned())
        });
        names.collect()
    }

    /// Compares a generated part with what it should be.
    pub(crate) fn check_generated(&self, name: &str, expected: &str) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let name = format!("generated: {name}");
        let present = self.part(&name);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = format!("<!-- {name} -->\n");
            let now = text(&self.file);
            let (before, rest) = now.split_once(&begin).unwrap();
            let (_, after) = rest.split_once("<!-- end -->").unwrap();
            let new = format!("{before}{begin}{expected}<!-- end -->{after}");
            fs::write(root().join(&self.file), new).unwrap();
            return;
        }
        assert!(
            present == expected,
            "{}: {name} is out of date; write it anew: UPDATE_DOCS=1 cargo test --test guide\nexpected:\n{expected}",
            self.file
        );
    }
}

/// The cells of every table row in a text, heads and rules aside.
pub(crate) fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_rule = |line: &&str| line.starts_with("|---");
        let is_head = lines.get(at + 1).is_some_and(is_rule);
        if line.starts_with('|') && !is_head && !is_rule(line) {
            let cells = line.trim_matches('|').split('|');
            rows.push(cells.map(|cell| cell.trim().to_owned()).collect());
        }
    }
    rows
}

/// What stands between backticks.
pub(crate) fn code_spans(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}
