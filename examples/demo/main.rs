//! `make demo`: the whole product on real parts, told as a story.
//!
//! Outside, this program builds what is needed and starts itself again in a
//! network namespace of its own; inside, it starts the parts, tells the story,
//! and stays up until Ctrl-C, or ends by itself with `--once`. Whatever does
//! not show what the story says ends it with an error.

mod door;
mod health;
mod parts;
mod prepare;
mod screen;
mod story;
#[path = "../../tests/support/mod.rs"]
mod support;
mod view;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use health::Fault;
use parts::Parts;
use screen::Screen;
use support::namespace;

/// Shows Catalog-Mesh at work: a service catalog, a Kubernetes API server,
/// istiod and Envoy, all real, in a network of their own.
#[derive(Parser)]
#[command(name = "demo")]
struct Args {
    /// End when everything was shown; the exit code says whether it was.
    #[arg(long)]
    once: bool,

    /// How a replica fails in the last chapter; several, with commas in between,
    /// are shown one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "500")]
    fail: Vec<Fault>,

    /// Leave out the chapters that the last one does not need.
    #[arg(long)]
    last: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nThe demo did not show what it says: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    // The commands that it shows name files of the repository.
    std::env::set_current_dir(support::tools::repository())?;
    let screen = Screen::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if namespace::inside().is_some() {
        return runtime.block_on(inside(args, &screen));
    }
    screen.title(
        "Catalog-Mesh demo",
        "A service catalog, a Kubernetes API server, istiod and Envoy, all real, in a network of \
         their own.",
    );
    runtime.block_on(prepare::everything(&screen))?;
    drop(runtime);
    namespace::enter()
}

async fn inside(args: &Args, screen: &Screen) -> Result<ExitCode> {
    let started = Instant::now();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = async {
        namespace::set_up_loopback().await?;
        let parts = Parts::start(screen).await?;
        story::tell(screen, &parts, &args.fail, args.last).await?;
        Ok::<_, anyhow::Error>(parts)
    };
    let parts = tokio::select! {
        told = told => told?,
        _ = interrupt.recv() => return Ok(interrupted(screen)),
        _ = terminate.recv() => return Ok(interrupted(screen)),
    };
    if args.once {
        screen.heading(&format!(
            "Done: every step showed what it says, in {:.0} s",
            started.elapsed().as_secs_f64()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    door::open(screen, &parts).await?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    screen.heading("Stopped; nothing of the demo is left");
    Ok(ExitCode::SUCCESS)
}

fn interrupted(screen: &Screen) -> ExitCode {
    screen.heading("Interrupted");
    ExitCode::from(namespace::INTERRUPTED)
}
