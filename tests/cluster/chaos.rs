//! Whatever happens between catalog and operator: is all as the catalog says
//! when it falls quiet?
//!
//! `make chaos CHANGES=100000 SERVICES=200` runs it for long; `SEED` makes the
//! same changes again.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::support::chaos::{self, Options};
use crate::support::rig::Rig;

crate::tests![
    ; alone:
    when_it_falls_quiet_all_is_as_the_catalog_says(45)
];

async fn when_it_falls_quiet_all_is_as_the_catalog_says(rig: &Rig) -> Result<()> {
    let options = Options {
        services: number("CHAOS_SERVICES")?.unwrap_or(24) as usize,
        changes: number("CHAOS_CHANGES")?.unwrap_or(2_000) as usize,
        seed: number("CHAOS_SEED")?.unwrap_or_else(|| fastrand::u64(..)),
    };
    let program = Path::new(env!("CARGO_BIN_EXE_catalog-mesh-controller"));
    let report = chaos::run(rig, program, options).await?;
    eprintln!("chaos: {report:?}");
    report.expect_meaning()
}

fn number(name: &str) -> Result<Option<u64>> {
    let Ok(text) = std::env::var(name) else {
        return Ok(None);
    };
    let number = text.parse().with_context(|| format!("{name}={text}"))?;
    Ok(Some(number))
}
