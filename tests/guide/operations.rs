//! Does a test stand behind each statement about what happens when something is
//! down?

use std::fs;
use std::path::PathBuf;

use crate::page::{Page, root, rows};

/// Names of tests in the comments of a text.
fn named_tests(text: &str) -> Vec<&str> {
    let comments = text.split("<!-- ").skip(1);
    comments
        .filter_map(|rest| rest.split(" -->").next())
        .flat_map(str::split_whitespace)
        .filter(|word| word.contains('_') && !word.contains(['/', '.']))
        .collect()
}

/// All tests' source; some are beside what they test.
fn source() -> String {
    let mut folders = vec![root().join("tests"), root().join("src")];
    let mut source = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path: PathBuf = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                source += &fs::read_to_string(path).unwrap();
            }
        }
    }
    source
}

#[test]
fn each_row_of_what_is_down_names_tests_that_exist() {
    let page = Page::read("operations.md");
    let (_, rest) = page.text.split_once("## When something is down\n").unwrap();
    let table = rest.split("\n## ").next().unwrap();
    let rows = rows(table);
    assert!(rows.len() > 10, "{}", rows.len());
    for row in rows {
        assert!(!named_tests(&row[0]).is_empty(), "no test: {}", row[0]);
    }
    let source = source();
    for name in named_tests(&page.text) {
        let is_there = source.contains(&format!("async fn {name}("));
        assert!(is_there, "there is no test {name}");
    }
}
