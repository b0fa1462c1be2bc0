//! Parses the arguments, runs what they ask for, and reports how it ended.

use std::io::Write;
use std::process::ExitCode;

use catalog_mesh_controller::args::{Cli, Command, RunArgs};
use catalog_mesh_controller::{app, crd, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        None => run(cli.run),
        Some(Command::Run(args)) => run(*args),
        Some(Command::Crd) => crd::crd_yaml()
            .map_err(Into::into)
            .and_then(|yaml| print(&yaml)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::start(&args.log).map_err(anyhow::Error::msg)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(app::run(args))
}

/// Prints to standard output. A reader that has gone away is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
