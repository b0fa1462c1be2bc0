//! The system benchmark: the operator on a real API server, beside a bare
//! client that does the same. `make bench`, or
//! `cargo bench --bench system -- --help`.

#[path = "../../tests/support/mod.rs"]
mod support;

mod bed;
mod costs;
mod endpoints;
mod fleet;
mod load;
mod machine;
mod options;
mod plot;
mod process;
mod raw;
mod ready;
mod report;
mod scenarios;
mod sightings;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use serde_json::json;

use bed::Bed;
use options::Options;
use support::namespace;

fn main() -> ExitCode {
    let other = support::endpoint::serve_if_asked().or_else(scenarios::keep_if_asked);
    if let Some(code) = other {
        return code;
    }
    let options = Options::parse();
    let ended = if namespace::inside().is_none() {
        namespace::enter()
    } else {
        measure(options)
    };
    ended.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn measure(options: Options) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        namespace::end_on_signals()?;
        namespace::set_up_loopback().await?;
        let (mut bed, mut missed, mut wrong) = (None, Vec::new(), Vec::new());
        for scenario in options.scenarios() {
            if scenario.needs_cluster() && bed.is_none() {
                bed = Some(Bed::make(options.clone()).await?);
            }
            let client = bed.as_ref().map(|bed| &bed.rig.client);
            let mut around = machine::describe(client).await?;
            around["options"] = json!({
                "bindings": options.bindings(),
                "quick": options.quick,
                "operatorFlags": options.operator_flags().collect::<Vec<_>>(),
            });
            let before = machine::load();
            let report = scenarios::run(scenario, &options, bed.as_ref()).await?;
            around["load"] = json!({ "before": before, "after": machine::load() });
            report.publish(&options.file(scenario), &around, options.save)?;
            let name = scenario.name();
            missed.extend(report.missed().iter().map(|goal| format!("{name}: {goal}")));
            wrong.extend(
                report
                    .is_wrong()
                    .iter()
                    .map(|what| format!("{name}: {what}")),
            );
        }
        for goal in &missed {
            eprintln!("missed: {goal}");
        }
        for what in &wrong {
            eprintln!("wrong: {what}");
        }
        // A quick run says nothing about speed.
        let fails = options.check && !options.quick && !missed.is_empty();
        Ok(if fails || !wrong.is_empty() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    })
}
