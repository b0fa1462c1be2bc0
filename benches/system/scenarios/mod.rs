//! The scenarios: one file each, and each answers one question.

mod change;
mod cold_start;
mod deregistration;
mod ejection;
mod idle;
mod probe;
mod storm;
mod warm_restart;

use anyhow::Result;

use crate::bed::Bed;
use crate::options::Scenario;
use crate::report::Report;

/// Runs one scenario. It leaves no operator running.
pub(crate) async fn run(scenario: Scenario, bed: &Bed) -> Result<Report> {
    match scenario {
        Scenario::ColdStart => cold_start::run(bed).await,
        Scenario::Change => change::run(bed).await,
        Scenario::Ejection => ejection::run(bed).await,
        Scenario::Idle => idle::run(bed).await,
        Scenario::Probe => probe::run(&bed.options).await,
        Scenario::WarmRestart => warm_restart::run(bed).await,
        Scenario::Storm => storm::run(bed).await,
    }
}
