//! Is there no command in the documents that nobody has tried?

use crate::documents::{Block, Fate, blocks, files, read};
use crate::page::text;

fn all() -> Vec<Block> {
    let files = files();
    let blocks = files
        .iter()
        .flat_map(|file| blocks(file, &read(file).unwrap()));
    blocks.collect()
}

/// Why a command cannot run in a test. There is no other reason.
const NOT_RUN: [&str; 2] = [
    "it is what runs all tests",
    "there is no registry to take bases from; `make image-check` builds on its own",
];

#[test]
fn every_command_is_run_but_for_the_few_that_cannot_be() {
    let all = all();
    let mut not_run = Vec::new();
    for block in &all {
        let place = format!("{}:{}", block.file, block.line);
        assert!(!block.commands.trim().is_empty(), "{place} is empty");
        match &block.fate {
            Fate::Run => {}
            Fate::NotRun(reason) => not_run.push(reason.as_str()),
            Fate::RunBy(by) => {
                let name = block.file.rsplit('/').next().unwrap();
                let test = text(by);
                let first = block.commands.lines().next().unwrap();
                let says_so = test.contains(name) || test.contains(first);
                assert!(says_so, "{place}: {by} names neither {name} nor {first:?}");
            }
        }
    }
    // Each for one block: another one may be able to run.
    not_run.sort_unstable();
    assert_eq!(not_run, NOT_RUN);
    let run = all.iter().filter(|block| block.fate == Fate::Run).count();
    assert!(2 * run > all.len(), "{run} of {} are run", all.len());
}

#[test]
fn blocks_are_found_with_what_is_said_of_them() {
    let text = "\
words

```sh
one
two
```

<!-- not run: for some good reason -->
```console
$ three
```

```yaml
four: 5
```

- in a list

  <!-- run by tests/demo.rs -->
  ```sh
  six
    seven
  ```
";
    let found = blocks("x.md", text);
    let found: Vec<_> = found
        .into_iter()
        .map(|block| (block.line, block.commands, block.fate))
        .collect();
    assert_eq!(
        found,
        [
            (3, "one\ntwo".to_owned(), Fate::Run),
            (
                9,
                "$ three".to_owned(),
                Fate::NotRun("for some good reason".to_owned())
            ),
            (
                20,
                "six\n  seven".to_owned(),
                Fate::RunBy("tests/demo.rs".to_owned())
            ),
        ]
    );
}

#[test]
fn a_page_can_say_who_runs_all_of_it() {
    let text = "<!-- all run by tests/demo.rs -->\n```sh\none\n```\n<!-- not run: for a reason of its own -->\n```sh\ntwo\n```\n";
    let fates: Vec<_> = blocks("x.md", text).into_iter().map(|b| b.fate).collect();
    let not = Fate::NotRun("for a reason of its own".to_owned());
    assert_eq!(fates, [Fate::RunBy("tests/demo.rs".to_owned()), not]);
}
