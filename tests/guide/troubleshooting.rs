//! Has every reason that a condition may have an entry that says what to do?

use std::collections::BTreeSet;

use crate::page::{Page, code_spans, rows};

/// The table of reasons in docs/conditions.md, which another test compares with the
/// code.
fn table() -> Vec<Vec<String>> {
    let conditions = Page::read("conditions.md").text;
    let (_, rest) = conditions.split_once("## Reasons\n").unwrap();
    rows(rest.split("\n## ").next().unwrap())
}

fn reasons() -> BTreeSet<String> {
    let first = |row: &Vec<String>| code_spans(&row[0])[0].to_owned();
    table().iter().map(first).collect()
}

#[test]
fn every_reason_has_an_entry_and_no_other_word_has() {
    let page = Page::read("troubleshooting.md");
    let entries = page
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("### "));
    let mut told: BTreeSet<String> = entries.map(str::to_owned).collect();
    let nothing = page.parts("nothing to do: ").remove(0);
    let nothing = nothing.strip_prefix("nothing to do: ").unwrap();
    for reason in nothing.split_whitespace() {
        let new = told.insert(reason.to_owned());
        assert!(new, "{reason} has an entry, and nothing to do");
    }
    assert_eq!(told, reasons());
}

#[test]
fn a_reason_without_an_entry_asks_for_nothing() {
    let page = Page::read("troubleshooting.md");
    let nothing = page.parts("nothing to do: ").remove(0);
    let nothing = nothing.strip_prefix("nothing to do: ").unwrap();
    for reason in nothing.split_whitespace() {
        let row = table()
            .into_iter()
            .find(|row| row[0] == format!("`{reason}`"))
            .unwrap();
        let asks = row.last().unwrap();
        let nothing = asks.is_empty() || asks == "Read the message, if there is one.";
        assert!(nothing, "{reason}: {asks}");
    }
}
