//! Parses the arguments, runs what they ask for, and reports how it ended.

use std::io::Write;
use std::process::ExitCode;

use catalog_mesh_controller::args::diff::DiffArgs;
use catalog_mesh_controller::args::release_all::ReleaseAllArgs;
use catalog_mesh_controller::args::{Cli, Command, RenderArgs, RunArgs};
use catalog_mesh_controller::{app, crd, render, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        None => run(cli.run).map(|()| ExitCode::SUCCESS),
        Some(Command::Run(args)) => run(*args).map(|()| ExitCode::SUCCESS),
        Some(Command::Crd) => crd::crd_yaml()
            .map_err(Into::into)
            .and_then(|yaml| print(&yaml))
            .map(|()| ExitCode::SUCCESS),
        Some(Command::Render(args)) => rendered(&args),
        Some(Command::Diff(args)) => return differs(*args),
        Some(Command::ReleaseAll(args)) => return release_all(args),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::start(&args.log).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(app::run(args));
    // A look-up of a name that hangs does not hold up the end.
    runtime.shutdown_background();
    ended
}

fn rendered(args: &RenderArgs) -> anyhow::Result<ExitCode> {
    let rendered = render::render(args, &mut std::io::stdin());
    print(&rendered.output)?;
    std::io::stderr().write_all(rendered.complaints.as_bytes())?;
    Ok(ExitCode::from(rendered.code))
}

/// Exit code 1 is taken: it says that something differs.
fn differs(args: DiffArgs) -> ExitCode {
    let answer = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let answer = runtime.block_on(app::diff::diff(args));
        runtime.shutdown_background();
        let answer = answer?;
        print(&answer.output)?;
        Ok::<_, anyhow::Error>(answer.differs)
    };
    match answer() {
        Ok(differs) => ExitCode::from(u8::from(differs)),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Exit code 1 is taken: it says that something could not be taken back.
fn release_all(args: ReleaseAllArgs) -> ExitCode {
    let dry_run = args.dry_run;
    let done = || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let released = runtime.block_on(app::release_all::release_all(args));
        runtime.shutdown_background();
        let released = released?;
        print(&format!("{}{}\n", released.done, released.sum(dry_run)))?;
        Ok::<_, anyhow::Error>(released.failed)
    };
    match done() {
        Ok(failed) => {
            for line in &failed {
                let _ = writeln!(std::io::stderr(), "error: {line}");
            }
            ExitCode::from(u8::from(!failed.is_empty()))
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Prints to standard output. A reader that has gone away is not an error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}
