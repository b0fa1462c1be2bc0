//! The rules of the house, read off the source: who may import whom, how long
//! a file may be, and what stands in no file at all. ARCHITECTURE.md says why.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

mod imports;
mod source;
mod tasks;
mod traps;

use std::fs;
use std::path::{Path, PathBuf};

use source::{Token, production, tokens};

/// Most lines of code in a file, tests, comments and blank lines not counted.
/// More are a sign that the file answers more than one question.
const MOST_LINES: usize = 300;

/// Files that may be longer, and why.
const LONGER: [(&str, &str); 0] = [];

/// Files of tests beside the code, which `#[cfg(test)] mod` includes.
const TESTS: [&str; 2] = ["tests.rs", "fixtures.rs"];

/// Whether a file breaks a rule, and how.
type Check = fn(&str) -> Vec<String>;

#[test]
fn the_source_keeps_to_the_rules() {
    let checks: [Check; 4] = [length, front_page, ends_the_process, re_exports];
    let mut broken = Vec::new();
    for path in rust_files(&["src", "examples"]) {
        let source = fs::read_to_string(&path).unwrap();
        let allowed = |complaint: &String| {
            let longer = LONGER.iter().any(|(file, _)| path.ends_with(file));
            longer && complaint.contains("lines of code")
        };
        let complaints = checks
            .iter()
            .flat_map(|check| check(&source))
            .filter(|c| !allowed(c));
        broken.extend(complaints.map(|complaint| format!("{}: {complaint}", path.display())));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn nobody_imports_what_its_layer_must_not_know() {
    let mut broken = Vec::new();
    for path in rust_files(&["src"]) {
        let source = fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root()).unwrap();
        broken.extend(imports::broken(file, &source));
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn the_table_of_layers_has_every_module_and_no_other() {
    let modules = |source: &str| -> Vec<String> {
        let words = production(&tokens(source));
        let after_mod = |pair: &[Token]| (pair[0].text == "mod").then(|| pair[1].text.clone());
        words.windows(2).filter_map(after_mod).collect()
    };
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut declared = modules(&lib);
    declared.push("main".to_owned());
    declared.sort_unstable();
    assert_eq!(imports::modules(), declared);
}

#[test]
fn the_compiler_refuses_unsafe_code_and_clippy_unwraps() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert_eq!(lints(&manifest), Vec::<String>::new());
}

#[test]
fn exceptions_are_still_needed() {
    for (file, reason) in LONGER {
        let source = fs::read_to_string(root().join(file)).unwrap();
        assert!(!length(&source).is_empty(), "{file} is no longer too long");
        assert!(!reason.is_empty(), "{file} needs a reason");
    }
}

/// Too many lines of code.
fn length(source: &str) -> Vec<String> {
    let mut lines: Vec<_> = production(&tokens(source))
        .iter()
        .map(|token| token.line)
        .collect();
    lines.dedup();
    let long = lines.len() > MOST_LINES;
    let complaint = format!(
        "{} lines of code, more than {MOST_LINES}: split it by question",
        lines.len()
    );
    long.then_some(complaint).into_iter().collect()
}

/// No word on top about what the file is for.
fn front_page(source: &str) -> Vec<String> {
    let missing = !source.starts_with("//! ");
    missing
        .then(|| "begins without //! saying which question it answers".to_owned())
        .into_iter()
        .collect()
}

/// What ends the process, or a task, where an error would do.
fn ends_the_process(source: &str) -> Vec<String> {
    let words = production(&tokens(source));
    let complaint = |at: usize| {
        let word = |offset: usize| words.get(at + offset).map(|token| token.text.as_str());
        let method = at > 0 && words[at - 1].text == "." && word(1) == Some("(");
        let broken = match word(0)? {
            "unwrap" | "expect" => method,
            "panic" | "todo" | "unimplemented" | "unreachable" | "dbg" => word(1) == Some("!"),
            "unsafe" => true,
            _ => false,
        };
        broken.then(|| {
            format!(
                "line {}: {} outside of tests",
                words[at].line, words[at].text
            )
        })
    };
    (0..words.len()).filter_map(complaint).collect()
}

/// A second name for something hides where it lives.
fn re_exports(source: &str) -> Vec<String> {
    let words = production(&tokens(source));
    let visible = |token: &Token| ["pub", ")"].contains(&token.text.as_str());
    let complaint = |pair: &[Token]| {
        let broken = visible(&pair[0]) && pair[1].text == "use";
        broken.then(|| {
            format!(
                "line {}: pub use; name the thing where it lives",
                pair[1].line
            )
        })
    };
    words.windows(2).filter_map(complaint).collect()
}

/// Lints of Cargo.toml that are missing or too weak.
fn lints(manifest: &str) -> Vec<String> {
    let wanted = [
        ("[lints.rust]", "unsafe_code", ["\"forbid\"", "\"forbid\""]),
        ("[lints.clippy]", "unwrap_used", ["\"warn\"", "\"deny\""]),
    ];
    let is_set = |section: &str, lint: &str, levels: [&str; 2]| {
        let lines = manifest
            .lines()
            .skip_while(|line| line.trim() != section)
            .skip(1);
        lines.take_while(|line| !line.starts_with('[')).any(|line| {
            line.split_once('=')
                .is_some_and(|(name, level)| name.trim() == lint && levels.contains(&level.trim()))
        })
    };
    let missing = wanted
        .into_iter()
        .filter(|(section, lint, levels)| !is_set(section, lint, *levels));
    missing
        .map(|(section, lint, [level, _])| format!("{section} lacks {lint} = {level}"))
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below these folders, but for those of tests.
fn rust_files(folders: &[&str]) -> Vec<PathBuf> {
    let mut files = all_rust_files(folders);
    files.retain(|path| !TESTS.iter().any(|name| path.ends_with(name)));
    files
}

/// Every Rust file below these folders.
fn all_rust_files(folders: &[&str]) -> Vec<PathBuf> {
    let mut folders: Vec<_> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    files
}

mod the_checks_find_what_they_are_for {
    use super::*;

    #[test]
    fn a_long_file_is_found_and_its_comments_and_tests_are_not_counted() {
        let code = "x;\n".repeat(MOST_LINES);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "y;\n".repeat(50));
        assert!(length(&format!("{}{code}\n\n{tests}", "//! c\n".repeat(50))).is_empty());
        assert_eq!(length(&format!("{code}z;")).len(), 1);
    }

    #[test]
    fn a_file_without_a_front_page_is_found() {
        assert!(front_page("//! Why.\n\nfn x() {}").is_empty());
        for source in ["fn x() {}", "// no\n", "\n//! late\n", "//!\n", ""] {
            assert_eq!(front_page(source).len(), 1, "{source:?}");
        }
    }

    #[test]
    fn what_ends_the_process_is_found() {
        for bad in [
            "x.unwrap()",
            "x\n.expect(y)",
            "panic!()",
            "todo!()",
            "unreachable!(x)",
            "unsafe {}",
            "dbg!(x)",
        ] {
            assert_eq!(ends_the_process(bad).len(), 1, "{bad}");
            assert!(
                ends_the_process(&format!("#[cfg(test)] mod tests {{ {bad} }}")).is_empty(),
                "{bad}"
            );
            assert!(
                ends_the_process(&format!("// {bad}\n").replace("x\n.", "x.")).is_empty(),
                "{bad}"
            );
        }
        for good in [
            "x.unwrap_or(y)",
            "self.expect",
            "fn unwrap(x: X)",
            "std::panic::catch_unwind(x)",
            "x.unwrap_or_default()",
        ] {
            assert!(ends_the_process(good).is_empty(), "{good}");
        }
    }

    #[test]
    fn a_re_export_is_found() {
        for bad in [
            "pub use a::b;",
            "pub(crate) use a::*;",
            "pub(in crate::x) use a::b;",
        ] {
            assert_eq!(re_exports(bad).len(), 1, "{bad}");
        }
        assert!(re_exports("use a::b; pub mod x; fn y() {} use z::q;").is_empty());
    }

    #[test]
    fn weak_lints_are_found() {
        let good =
            "[lints.rust]\nunsafe_code = \"forbid\"\n[lints.clippy]\nunwrap_used = \"warn\"\n";
        assert!(lints(good).is_empty());
        for (from, to) in [
            ("forbid", "warn"),
            ("\"warn\"", "\"allow\""),
            ("[lints.clippy]", "[x]"),
            ("unsafe_code", "unused"),
        ] {
            assert_eq!(lints(&good.replace(from, to)).len(), 1, "{from}");
        }
    }
}
