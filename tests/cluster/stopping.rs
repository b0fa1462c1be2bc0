//! Does the operator end when it is told to, whatever it is doing?

use std::io::{ErrorKind, PipeReader, PipeWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::front::{Fault, Front};
use crate::support::operator::{ACCOUNT, NAMESPACE};
use crate::support::process::Spec;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::way::{Trouble, Way};

crate::tests![
    it_ends_at_once_before_the_first_list,
    it_ends_in_time_though_nobody_reads_its_log
    ; alone:
    it_ends_in_time_whatever_hangs_and_at_once_when_told_twice(55)
];

const PROGRAM: &str = env!("CARGO_BIN_EXE_catalog-mesh-controller");
const FRONT: &str = "127.0.0.1:9081";
const WAY: &str = "127.0.0.1:9443";

/// Generous against a busy machine, and far below any deadline of a request.
const AT_ONCE: Duration = Duration::from_secs(5);

/// By then it is over, whatever hangs.
pub(crate) const IN_TIME: Duration = Duration::from_secs(20);

/// An API server that takes connections and never says a word, and a kubeconfig
/// for it.
async fn silent_server(rig: &Rig, name: &str) -> Result<(TcpListener, PathBuf)> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let kubeconfig = rig.folder().join(format!("{name}.kubeconfig"));
    let cluster = serde_json::json!({"server": format!("http://{}", silent.local_addr()?)});
    let content = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        "users": [{"name": "c", "user": {}}],
    });
    std::fs::write(&kubeconfig, content.to_string())?;
    Ok((silent, kubeconfig))
}

// trap 16
async fn it_ends_at_once_before_the_first_list(rig: &Rig) -> Result<()> {
    let (silent, kubeconfig) = silent_server(rig, "unheard").await?;
    let process = Spec::new("operator-unheard", PROGRAM, rig.folder())
        .args(["run", "--catalog-url", "http://127.0.0.1:1"])
        .args(["--listen", "127.0.0.1:0", "--debug-listen=off"])
        .env("KUBECONFIG", kubeconfig)
        .spawn()?;
    let (connection, _) = silent.accept().await?;
    let told = Instant::now();
    ensure!(process.terminate(AT_ONCE).await?, "it ended with a failure");
    eprintln!(
        "SIGTERM before the first list: {:.1} s",
        told.elapsed().as_secs_f64()
    );
    drop(connection);
    Ok(())
}

/// A process whose log nobody reads: sooner or later every thread of it stands
/// still in the middle of a line.
// trap 16
async fn it_ends_in_time_though_nobody_reads_its_log(rig: &Rig) -> Result<()> {
    let (silent, kubeconfig) = silent_server(rig, "unread").await?;
    let (_nobody, log) = full_pipe()?;
    let start = || {
        let mut command = tokio::process::Command::new(PROGRAM);
        command
            .args(["run", "--catalog-url", "http://127.0.0.1:1"])
            .args(["--listen", "127.0.0.1:0", "--log", "trace"])
            .env("KUBECONFIG", &kubeconfig)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let outputs = (log.try_clone()?, log.try_clone()?);
        Ok::<_, anyhow::Error>(command.stdout(outputs.0).stderr(outputs.1).spawn()?)
    };
    // It is not told more than once, and then it is told twice.
    let (mut once, mut twice) = (start()?, start()?);
    for _ in 0..2 {
        // Where it cannot log it may not get so far; then it stands still, too.
        let _ = timeout(Duration::from_secs(2), silent.accept()).await;
    }
    let told = Instant::now();
    for process in [&once, &twice] {
        tell(process)?;
    }
    sleep(Duration::from_millis(300)).await;
    tell(&twice)?;
    let status = timeout(AT_ONCE, twice.wait()).await;
    let status = status.context("told twice it still runs")??;
    ensure!(status.code() == Some(130), "{status}");
    let status = timeout(IN_TIME, once.wait()).await;
    let status = status.context("told once it still runs")??;
    eprintln!(
        "SIGTERM while nobody reads the log: {:.1} s",
        told.elapsed().as_secs_f64()
    );
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}

fn tell(process: &tokio::process::Child) -> Result<()> {
    let pid = process.id().context("it has ended")?;
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?)
}

/// A pipe that is full, so that whoever writes to it waits.
fn full_pipe() -> Result<(PipeReader, PipeWriter)> {
    let (reader, mut writer) = std::io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let full = loop {
        if let Err(error) = writer.write(&[b' '; 4096]) {
            break error;
        }
    };
    ensure!(full.kind() == ErrorKind::WouldBlock, "{full}");
    // What is left of a page.
    while writer.write(b" ").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer))
}

// trap 16
async fn it_ends_in_time_whatever_hangs_and_at_once_when_told_twice(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let catalog = Catalog::start(rig.folder(), "stopping", CATALOG).await?;
    let front = Front::start(FRONT, &catalog.url)?;
    let way = Way::open(rig, WAY)?;
    let kubeconfig = way.kubeconfig(rig, NAMESPACE, ACCOUNT).await?;
    let kubeconfig = kubeconfig.to_str().context("path")?;
    let operator = stack::operator(
        rig,
        "operator-stopping",
        Path::new(PROGRAM),
        &front.url,
        &["--kubeconfig", kubeconfig],
    )
    .await?;
    let fleet = Fleet::programmed(rig, &catalog, "stopping", 10).await?;
    let started = async || -> Result<()> {
        operator.start_again().await?;
        operator
            .ready(&format!("http://{OPERATOR}/readyz"))
            .await
            .context("again")?;
        // All of them are at work again, so that there is something to hang.
        fleet.wait_for(rig, "CatalogSynced", "True Synced").await?;
        sleep(Duration::from_secs(2)).await;
        Ok(())
    };

    for twice in [false, true] {
        let begun = Instant::now();
        front.set(Fault::Hang)?;
        wait::until("a request that hangs", stack::PATIENCE, async || {
            // Of a look, which is waited for; the stream is not.
            let seen = front.since(begun + Duration::from_millis(100));
            ensure!(
                seen.iter()
                    .any(|request| request.path.contains("/services/"))
            );
            Ok(())
        })
        .await?;
        let told = Instant::now();
        let limit = if twice {
            operator.process.signal(Signal::SIGTERM).await?;
            sleep(Duration::from_millis(300)).await;
            AT_ONCE
        } else {
            IN_TIME
        };
        let clean = operator.process.terminate(limit).await?;
        eprintln!(
            "SIGTERM{} while the catalog hangs: {:.1} s",
            if twice { " twice" } else { "" },
            told.elapsed().as_secs_f64()
        );
        ensure!(
            clean != twice,
            "a second signal cuts off, the first does not"
        );
        front.set(Fault::None)?;
        started().await?;
    }

    // The API server says nothing to writes, nor to who lets go of the Lease.
    way.set(Trouble::Slow(Duration::from_secs(600)));
    fleet.put_records(&catalog, "7s").await?;
    sleep(Duration::from_secs(1)).await;
    let told = Instant::now();
    let clean = operator.process.terminate(IN_TIME).await?;
    eprintln!(
        "SIGTERM while the API server hangs: {:.1} s",
        told.elapsed().as_secs_f64()
    );
    ensure!(clean, "it ended with a failure");
    way.set(Trouble::None);
    in_time_though_a_database_says_nothing(rig, kubeconfig).await?;
    fleet.clear(rig).await
}

/// The catalog is a database that takes connections and never says a word.
async fn in_time_though_a_database_says_nothing(rig: &Rig, kubeconfig: &str) -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let address = silent.local_addr()?;
    let url = format!("postgres://catalog@{address}/catalog?sslmode=disable");
    let (program, flags) = (Path::new(PROGRAM), ["--kubeconfig", kubeconfig]);
    let operator = stack::operator(rig, "operator-unanswered", program, &url, &flags).await?;
    // One connection to follow it, and one to ask for the records.
    let mut connections = Vec::new();
    for _ in 0..2 {
        connections.push(timeout(stack::PATIENCE, silent.accept()).await??);
    }
    let told = Instant::now();
    let clean = operator.process.terminate(IN_TIME).await?;
    eprintln!(
        "SIGTERM while the database hangs: {:.1} s",
        told.elapsed().as_secs_f64()
    );
    ensure!(clean, "it ended with a failure");
    Ok(())
}
