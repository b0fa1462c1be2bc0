//! Is there no command in the documents that nobody has tried?

use crate::documents::{Block, Fate, blocks, files, read};
use crate::page::{root, text};

fn all() -> Vec<Block> {
    let files = files();
    let blocks = files
        .iter()
        .flat_map(|file| blocks(file, &read(file).unwrap()));
    blocks.collect()
}

#[test]
fn a_command_that_is_not_run_says_why_or_who_runs_it() {
    let all = all();
    for block in &all {
        let place = format!("{}:{}", block.file, block.line);
        assert!(!block.commands.trim().is_empty(), "{place} is empty");
        match &block.fate {
            Fate::Run => {}
            Fate::NotRun(reason) => {
                assert!(reason.split_whitespace().count() > 3, "{place}: {reason}");
                // A test that the reason rests on has to be there.
                for word in reason
                    .split([' ', ',', ';'])
                    .filter(|word| word.contains(".rs"))
                {
                    assert!(root().join(word).exists(), "{place}: {word}");
                }
            }
            Fate::RunBy(by) => {
                let name = block.file.rsplit('/').next().unwrap();
                let test = text(by);
                let first = block.commands.lines().next().unwrap();
                let says_so = test.contains(name) || test.contains(first);
                assert!(says_so, "{place}: {by} names neither {name} nor {first:?}");
            }
        }
    }
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
