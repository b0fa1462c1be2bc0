//! Is everything built that the demo runs? Runs the commands that build it;
//! they do nothing where it is.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::screen::Screen;
use crate::support::tools::repository;

/// The operator, beside the folder of the examples that this program is in.
pub(crate) fn operator() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let folder = me.parent().and_then(|examples| examples.parent());
    let program = folder
        .context("this program has no folder")?
        .join("catalog-mesh-controller");
    anyhow::ensure!(
        program.is_file(),
        "{} is missing: run `cargo build`",
        program.display()
    );
    Ok(program)
}

/// Builds all of it. The first time takes minutes.
pub(crate) async fn everything(screen: &Screen) -> Result<()> {
    screen.heading("Build what is needed");
    screen
        .step("Kubernetes, Istio and Envoy", tools(screen))
        .await?;
    screen
        .step("the operator and the catalog of the demo", programs())
        .await
}

async fn tools(screen: &Screen) -> Result<()> {
    let mut build = Command::new("python3")
        .arg(repository().join("tests/tools/build.py"))
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start python3; please install Python 3")?;
    let stderr = build.stderr.take().context("no standard error")?;
    let mut lines = BufReader::new(stderr).lines();
    let mut said = Vec::new();
    while let Some(line) = lines.next_line().await? {
        // What needs nothing done is not worth a line.
        let idle = ["is current", "are current", "found ("];
        if line.starts_with('[') && !idle.iter().any(|end| line.contains(end)) {
            screen.detail(&line);
        }
        said.push(line);
    }
    let status = build.wait().await?;
    if !status.success() {
        let progress = |line: &&String| line.starts_with('[');
        let reason: Vec<_> = said.iter().skip_while(progress).cloned().collect();
        bail!("the tools were not built:\n{}", reason.join("\n"));
    }
    Ok(())
}

async fn programs() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .current_dir(repository())
        .args(["build", "--locked", "--quiet", "--bins"])
        .args(["--example", "catalog-server"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build.output().await.context("cannot start cargo")?;
    if !output.status.success() {
        bail!(
            "cargo build failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
