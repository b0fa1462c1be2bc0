//! The scenarios: one file each, and each answers one question.

mod change;
mod cold_start;
mod deregistration;
mod ejection;
mod hostile;
mod idle;
mod kept;
mod probe;
mod scaling;
mod servers;
mod serving;
mod soak;
mod storm;
mod warm_restart;

use anyhow::{Context as _, Result};

pub(crate) use kept::keep_if_asked;

use crate::bed::Bed;
use crate::options::{Options, Scenario};
use crate::report::Report;

/// Runs one scenario, on the cluster where it needs one. It leaves no operator
/// running.
pub(crate) async fn run(
    scenario: Scenario,
    options: &Options,
    bed: Option<&Bed>,
) -> Result<Report> {
    let bed = || bed.context("there is no cluster");
    match scenario {
        Scenario::ColdStart => cold_start::run(bed()?).await,
        Scenario::Change => change::run(bed()?).await,
        Scenario::Ejection => ejection::run(bed()?).await,
        Scenario::Hostile => hostile::run(options).await,
        Scenario::Idle => idle::run(bed()?).await,
        Scenario::Probe => probe::run(options).await,
        Scenario::Serving => serving::run(bed()?).await,
        Scenario::Soak => soak::run(options).await,
        Scenario::WarmRestart => warm_restart::run(bed()?).await,
        Scenario::Storm => storm::run(bed()?).await,
    }
}
