//! Behaviour that only a real cluster can show. Needs `make tools` once.
//!
//! One file per behaviour; each lists its tests by `tests!`. They share one
//! cluster, in a network namespace of its own, and keep apart by namespaces.

#[path = "../support/mod.rs"]
mod support;

// What several of the files below start from.
mod checked;
mod patients;
mod scene;
#[path = "../hostile/targets.rs"]
mod targets;

macro_rules! behaviours {
    ($($file:ident,)*) => {
        $(mod $file;)*

        fn all() -> Vec<support::runner::Test> {
            [$($file::tests()),*].concat()
        }
    };
}

behaviours![
    apply_preconditions,
    audited,
    canary,
    catalog_events,
    catalog_faults,
    catalog_pace,
    catalog_sync,
    catalog_token,
    chaos,
    conditions,
    crd,
    denials,
    denied_rights,
    diff,
    documented,
    doubt,
    doubt_of_a_term,
    ejection,
    explained,
    fields,
    foreign,
    frozen,
    handover,
    health_alerts,
    hostile_bindings,
    hostile_endpoints,
    health_dies_properly,
    health_failures,
    health_floor,
    health_neighbours,
    health_never_worked,
    health_outlier,
    health_released,
    health_taken_over,
    installation,
    installed,
    istiod_away,
    leadership,
    loop_closed,
    mesh_api_missing,
    names,
    observed,
    only_targets,
    outage,
    over_postgres,
    poison,
    policies,
    policy_balancing,
    policy_circuit_breaker,
    policy_generated,
    policy_locality,
    policy_pool,
    policy_ports,
    policy_retries,
    policy_timeout,
    recovery,
    removal,
    rig,
    rights,
    rivals,
    services,
    some_namespaces,
    steady,
    stop,
    stopping,
    strict_mtls,
    storm,
    transitions,
    two_actives,
    two_operators,
    two_way,
    upgrade,
    ways_to_install,
    write_back,
];

fn main() -> std::process::ExitCode {
    if let Some(code) = support::endpoint::serve_if_asked() {
        return code;
    }
    support::runner::main(all())
}
