//! Behaviour that only a real cluster can show. Needs `make tools` once.
//!
//! One file per behaviour; each lists its tests by `tests!`. They share one
//! cluster, in a network namespace of its own, and keep apart by namespaces.

#[path = "../support/mod.rs"]
mod support;

mod crd;
mod installation;
mod loop_closed;
mod rig;

fn main() -> std::process::ExitCode {
    support::runner::main(
        [
            crd::tests(),
            installation::tests(),
            loop_closed::tests(),
            rig::tests(),
        ]
        .concat(),
    )
}
