//! Behaviour that only a real cluster can show. Needs `make tools` once.
//!
//! One file per behaviour; each lists its tests by `tests!`. They share one
//! cluster, in a network namespace of its own, and keep apart by namespaces.

#[path = "../support/mod.rs"]
mod support;

mod apply_preconditions;
mod crd;
mod loop_closed;
mod policy_balancing;
mod policy_circuit_breaker;
mod policy_generated;
mod policy_locality;
mod policy_pool;
mod policy_ports;
mod policy_retries;
mod policy_timeout;
mod rig;

fn main() -> std::process::ExitCode {
    let tests = [
        apply_preconditions::tests(),
        crd::tests(),
        loop_closed::tests(),
        policy_balancing::tests(),
        policy_circuit_breaker::tests(),
        policy_generated::tests(),
        policy_locality::tests(),
        policy_pool::tests(),
        policy_ports::tests(),
        policy_retries::tests(),
        policy_timeout::tests(),
        rig::tests(),
    ];
    support::runner::main(tests.concat())
}
