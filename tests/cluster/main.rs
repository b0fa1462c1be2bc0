//! Behaviour that only a real cluster can show. Needs `make tools` once.
//!
//! One file per behaviour; each lists its tests by `tests!`. They share one
//! cluster, in a network namespace of its own, and keep apart by namespaces.

#[path = "../support/mod.rs"]
mod support;

mod catalog_faults;
mod crd;
mod istiod_away;
mod loop_closed;
mod mesh_api_missing;
mod poison;
mod rig;
mod stopping;

fn main() -> std::process::ExitCode {
    support::runner::main(
        [
            catalog_faults::tests(),
            crd::tests(),
            istiod_away::tests(),
            loop_closed::tests(),
            mesh_api_missing::tests(),
            poison::tests(),
            rig::tests(),
            stopping::tests(),
        ]
        .concat(),
    )
}
