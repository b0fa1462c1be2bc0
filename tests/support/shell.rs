//! What do the commands of a document do? Takes them out of it, and runs them
//! in a shell as its reader would: from the repository, with kubectl of the rig.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::kubectl::Output;
use super::rig::Rig;
use super::tools::{bin_folder, repository};

/// The blocks of commands below a heading of the document, such as `## Install`,
/// to the next heading of any level.
pub fn blocks(document: &str, heading: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(repository().join(document))?;
    let text = format!("\n{text}");
    let (_, section) = text
        .split_once(&format!("\n{heading}\n"))
        .with_context(|| format!("{document} has no {heading}"))?;
    let end = section
        .match_indices("\n#")
        .map(|(at, _)| at)
        // A heading, and no comment in a block.
        .find(|at| section[..*at].matches("```").count() % 2 == 0);
    let section = &section[..end.unwrap_or(section.len())];
    let blocks: Vec<_> = section
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .collect();
    ensure!(
        !blocks.is_empty(),
        "{document} has no commands in {heading}"
    );
    Ok(blocks)
}

/// What a block gives to this program, word by word. (It knows no quotes.)
pub fn arguments(block: &str, program: &str) -> Result<Vec<String>> {
    let block = block.replace("\\\n", " ");
    let mut lines = block.lines().map(str::split_whitespace);
    let words = lines.find_map(|mut words| (words.next() == Some(program)).then_some(words));
    let words = words.with_context(|| format!("{block} does not call {program}"))?;
    Ok(words.map(str::to_owned).collect())
}

/// Runs the commands to the first that fails.
pub async fn run(rig: &Rig, commands: &str) -> Result<Output> {
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", bin_folder().display());
    let output = Command::new("sh")
        .args(["-euc", commands])
        .current_dir(repository())
        .env("PATH", path)
        .env("KUBECONFIG", &rig.api.kubeconfig)
        .env("HOME", rig.folder())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot start sh")?;
    Ok(Output {
        success: output.status.success(),
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The same; an error unless all succeed.
pub async fn ok(rig: &Rig, commands: &str) -> Result<String> {
    let output = run(rig, commands).await?;
    output.ok().with_context(|| commands.to_owned())
}
