//! Behaviour that only a real cluster can show. Needs `make tools` once.
//!
//! One file per behaviour; each lists its tests by `tests!`. They share one
//! cluster, in a network namespace of its own, and keep apart by namespaces.

#[path = "../support/mod.rs"]
mod support;

mod conditions;
mod crd;
mod fields;
mod foreign;
mod frozen;
mod installation;
mod loop_closed;
mod names;
mod removal;
mod rig;
mod rights;
mod rivals;
mod scene;
mod services;
mod steady;
mod stop;
mod transitions;

fn main() -> std::process::ExitCode {
    let modules = [
        conditions::tests(),
        crd::tests(),
        fields::tests(),
        foreign::tests(),
        frozen::tests(),
        installation::tests(),
        loop_closed::tests(),
        names::tests(),
        removal::tests(),
        rights::tests(),
        rig::tests(),
        rivals::tests(),
        services::tests(),
        steady::tests(),
        stop::tests(),
        transitions::tests(),
    ];
    support::runner::main(modules.concat())
}
