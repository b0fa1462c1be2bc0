//! Does the operator end well when it is told to?

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::support::rig::Rig;
use crate::support::stack::Stack;

crate::tests![
    ; alone:
    a_signal_ends_it_at_once_and_that_is_a_success(25)
];

async fn a_signal_ends_it_at_once_and_that_is_a_success(rig: &Rig) -> Result<()> {
    let operator = Path::new(env!("CARGO_BIN_EXE_catalog-mesh-controller"));
    // More than once: which of its parts notices the signal first is chance.
    for _ in 0..5 {
        let stack = Stack::start(rig, operator).await?;
        let limit = Duration::from_secs(60);
        let well = stack.operator.process.terminate(limit).await?;
        ensure!(
            well,
            "it ended with an error: {:?}",
            stack.operator.process.log()
        );
    }
    Ok(())
}
