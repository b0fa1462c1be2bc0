//! How do kubectl and istioctl run against the rig? As a user would run them,
//! with a kubeconfig of the run.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::tools::Tool;

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    pub success: bool,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output, or an error with everything it said.
    pub fn ok(self) -> Result<String> {
        if !self.success {
            bail!(
                "it ended with {:?}:\n{}{}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout)
    }
}

/// A command-line tool bound to one kubeconfig.
pub struct Cli {
    tool: Tool,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Cli {
    pub fn new(tool: Tool, kubeconfig: &Path, run: &Path) -> Self {
        Self {
            tool,
            kubeconfig: kubeconfig.to_owned(),
            home: run.to_owned(),
        }
    }

    pub async fn run(&self, args: &[&str]) -> Result<Output> {
        let output = Command::new(self.tool.path()?)
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start {:?}", self.tool))?;
        Ok(Output {
            success: output.status.success(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it; an error unless it succeeds.
    pub async fn ok(&self, args: &[&str]) -> Result<String> {
        self.run(args)
            .await?
            .ok()
            .with_context(|| format!("{:?} {}", self.tool, args.join(" ")))
    }
}
