//! Which commands do the documents show, and what becomes of each in the tests?
//! Reads the README and docs/.
//!
//! A block of commands is run as it stands, unless a comment on the line before
//! it says otherwise: `<!-- run by tests/FILE.rs -->` where another test does it, or
//! `<!-- not run: why -->` for one of the few reasons there are.
//! `<!-- all run by tests/FILE.rs -->` says the former of a whole page.

use std::fs;
use std::path::{Path, PathBuf};

/// Words after the three backticks of a block of commands.
const LANGUAGES: [&str; 4] = ["sh", "bash", "shell", "console"];

/// What becomes of a block.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Fate {
    /// The test of all commands runs it.
    Run,
    /// This file's test does.
    RunBy(String),
    /// Nobody does, for this reason.
    NotRun(String),
}

/// A block of commands in a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Block {
    /// Relative to the repository.
    pub file: String,
    /// Line of the backticks.
    pub line: usize,
    pub commands: String,
    pub fate: Fate,
}

/// Every document of the repository, in the order of names.
pub fn files() -> Vec<String> {
    let mut files = vec!["README.md".to_owned()];
    let root = root();
    let entries = fs::read_dir(root.join("docs")).into_iter().flatten();
    files.extend(
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| Path::new(name).extension().is_some_and(|end| end == "md"))
            .map(|name| format!("docs/{name}")),
    );
    files.sort_unstable();
    files
}

/// The blocks of commands of a document, in their order.
pub fn blocks(file: &str, text: &str) -> Vec<Block> {
    let usual = text.lines().find_map(|line| said(line, "all run by "));
    let usual = usual.map_or(Fate::Run, Fate::RunBy);
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    let mut before = "";
    while let Some((number, line)) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if let Some(language) = line.trim().strip_prefix("```") {
            let inside = std::iter::from_fn(|| lines.next_if(|(_, line)| line.trim() != "```"))
                .map(|(_, line)| line.get(indent..).unwrap_or_default())
                .collect::<Vec<_>>();
            lines.next();
            if LANGUAGES.contains(&language) {
                blocks.push(Block {
                    file: file.to_owned(),
                    line: number + 1,
                    commands: inside.join("\n"),
                    fate: fate(before).unwrap_or_else(|| usual.clone()),
                });
            }
        }
        before = line;
    }
    blocks
}

/// What the comment before a block says of it.
fn fate(comment: &str) -> Option<Fate> {
    said(comment, "not run: ")
        .map(Fate::NotRun)
        .or_else(|| said(comment, "run by ").map(Fate::RunBy))
}

/// What a comment says after this word.
fn said(line: &str, word: &str) -> Option<String> {
    let comment = line.trim().strip_prefix("<!-- ")?.strip_suffix(" -->")?;
    comment.strip_prefix(word).map(str::to_owned)
}

/// A document's text.
pub fn read(file: &str) -> std::io::Result<String> {
    fs::read_to_string(root().join(file))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
