//! Behaviour that only a real cluster can show. Needs `make tools` once.
//!
//! One file per behaviour; each lists its tests by `tests!`. They share one
//! cluster, in a network namespace of its own, and keep apart by namespaces.

#[path = "../support/mod.rs"]
mod support;

// What several of the files below start from.
mod scene;

macro_rules! behaviours {
    ($($file:ident,)*) => {
        $(mod $file;)*

        fn all() -> Vec<support::runner::Test> {
            [$($file::tests()),*].concat()
        }
    };
}

behaviours![
    conditions,
    crd,
    fields,
    foreign,
    frozen,
    installation,
    loop_closed,
    names,
    removal,
    rig,
    rights,
    rivals,
    services,
    steady,
    stop,
    transitions,
];

fn main() -> std::process::ExitCode {
    support::runner::main(all())
}
