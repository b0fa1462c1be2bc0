//! How does a run get a network and a process namespace of its own, in which
//! everything dies with it? Starts this very program again inside `unshare`.
//!
//! The outer process stays as the keeper: it hands signals on and clears the
//! run's folder. Should it be killed, the kernel kills `unshare` (the parent
//! death signal that setpriv sets), with it the inner process (--kill-child),
//! and as that one is the namespace's init, every process in there.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use futures::future::try_join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};
use tokio::signal::unix::{SignalKind, signal};

use super::rundir::RunDir;

/// Set inside the namespace to the run's folder.
const INSIDE: &str = "CATALOG_MESH_RIG_RUN";
/// Set inside to the part of the work, where there are several.
const PART: &str = "CATALOG_MESH_RIG_PART";
/// In the run's folder: what failed inside.
const FAILURES: &str = "failures.txt";
/// The exit code of a run that Ctrl-C or a TERM ended.
pub const INTERRUPTED: u8 = 130;

/// Every address of this network is local inside the namespace and can be
/// bound at once. EndpointSlices refuse loopback addresses, hence these.
pub const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 0);
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
const PREFIX: u8 = 14;

/// Index of the loopback device: in a new namespace it is the only one.
const LOOPBACK: u32 = 1;

/// In the run's folder: the id, as seen from outside, of a process in the
/// run's network namespace, for nsenter.
const OUTER_PID: &str = "namespace.pid";

/// The process to give to `nsenter --net --target` outside, once inside.
pub fn outer_pid(run: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(run.join(OUTER_PID)).context("not written yet")?;
    Ok(text.parse()?)
}

/// The run's folder, where this process is inside the namespace already.
pub fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Runs this program again inside, with the same arguments, and returns its
/// exit code.
pub fn enter() -> Result<ExitCode> {
    Ok(runtime()?.block_on(enter_as(None))?.0)
}

/// The same once for each part of the work, all at the same time, each in a
/// namespace of its own; [`part`] says there which one it is. Returns the exit
/// code of the first that failed, and says last what failed in any of them: what
/// each printed itself is far above by then.
pub fn enter_for_each(parts: &[&str]) -> Result<ExitCode> {
    let entered = parts.iter().map(|part| enter_as(Some(part)));
    let ended = runtime()?.block_on(try_join_all(entered))?;
    for (part, (_, failures)) in parts.iter().zip(&ended) {
        for failure in failures.lines() {
            eprintln!("FAILED in {part}: {failure}");
        }
    }
    let codes = ended.into_iter().map(|(code, _)| code);
    let failed = codes.into_iter().find(|code| *code != ExitCode::SUCCESS);
    Ok(failed.unwrap_or(ExitCode::SUCCESS))
}

/// Has the process outside say in the end what failed in here.
pub fn tell_failure(failure: &str) -> std::io::Result<()> {
    let Some(run) = inside() else { return Ok(()) };
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(run.join(FAILURES))?;
    writeln!(file, "{}", failure.replace('\n', " "))
}

/// Which part of the work this process inside does, where there are several.
pub fn part() -> Option<String> {
    std::env::var(PART).ok()
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// The exit code, and what failed in there, a line each.
async fn enter_as(part: Option<&str>) -> Result<(ExitCode, String)> {
    let flags = usable_flags()?;
    let run = RunDir::create(part)?;
    let status = run_inside(flags, &run, part).await?;
    let code = status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1);
    let failures = std::fs::read_to_string(run.path().join(FAILURES)).unwrap_or_default();
    if code == 0 || code == INTERRUPTED {
        run.remove();
    } else {
        let folder = run.path().to_owned();
        let logs = run.keep();
        eprintln!("The logs of this run are kept in {}:", folder.display());
        for log in logs {
            eprintln!("  {}", log.display());
        }
    }
    Ok((ExitCode::from(code), failures))
}

async fn run_inside(flags: &[&str], run: &RunDir, part: Option<&str>) -> Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut child = tokio::process::Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(flags)
        .arg("--")
        .arg(std::env::current_exe().context("which program am I?")?)
        .args(std::env::args_os().skip(1).collect::<Vec<OsString>>())
        .env(INSIDE, run.path())
        .envs(part.map(|part| (PART, part)))
        // A group of its own: Ctrl-C then reaches it by us alone, once. It
        // must not read from the terminal, which a group in the background
        // may not.
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start setpriv (package util-linux)")?;
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    if let Some(group) = group {
        // unshare itself is in the new network namespace, and stays.
        std::fs::write(run.path().join(OUTER_PID), group.to_string())?;
    }
    loop {
        let signal = tokio::select! {
            status = child.wait() => return Ok(status?),
            _ = interrupt.recv() => Signal::SIGINT,
            _ = terminate.recv() => Signal::SIGTERM,
        };
        if let Some(group) = group {
            // It may have ended by itself just now.
            let _ = kill(Pid::from_raw(-group.as_raw()), signal);
        }
    }
}

/// The first of the ways into a namespace that this machine allows.
fn usable_flags() -> Result<&'static [&'static str]> {
    const AS_ROOT: &[&str] = &[
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        "--mount-proc",
    ];
    const AS_USER: &[&str] = &[
        "--user",
        "--map-current-user",
        "--keep-caps",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount",
        "--mount-proc",
    ];
    let mut answers = String::new();
    for flags in [AS_ROOT, AS_USER] {
        if flags == AS_ROOT && !nix::unistd::geteuid().is_root() {
            continue;
        }
        let answer = StdCommand::new("unshare")
            .args(flags)
            .args(["--", "true"])
            .output()
            .context("cannot start unshare (package util-linux)")?;
        if answer.status.success() {
            return Ok(flags);
        }
        answers.push_str(&String::from_utf8_lossy(&answer.stderr));
    }
    bail!(
        "this machine allows no network namespace of our own: {}. Run as root; or let users make \
         namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0, \
         on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0); in a container, start it \
         with the capability SYS_ADMIN (docker run --privileged)",
        answers.trim()
    )
}

/// Brings the loopback device up with the addresses of pods on it. Inside only.
pub async fn set_up_loopback() -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let up = LinkMessageBuilder::<LinkUnspec>::default()
        .index(LOOPBACK)
        .up()
        .build();
    handle
        .link()
        .set(up)
        .execute()
        .await
        .context("cannot set the loopback device up")?;
    handle
        .address()
        .add(LOOPBACK, IpAddr::V4(OWN_ADDRESS), PREFIX)
        .execute()
        .await
        .context("cannot give the loopback device the address of pods")?;
    connection.abort();
    Ok(())
}

/// Gives the loopback device one more address. Inside only.
pub async fn add_address(address: IpAddr) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut request = handle.address().add(LOOPBACK, address, length);
    if address.is_ipv6() {
        // Else it cannot be listened on until the kernel has looked whether
        // somebody else has it.
        let header = &mut request.message_mut().header;
        header.flags |= AddressHeaderFlags::Nodad;
    }
    request
        .execute()
        .await
        .with_context(|| format!("cannot give the loopback device {address}"))?;
    connection.abort();
    Ok(())
}

/// Ends this process when Ctrl-C or a TERM arrives. Inside we are init, to
/// which no signal means anything by default. All other processes in here die
/// with us, and the keeper outside clears the folder.
pub fn end_on_signals() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("interrupted");
        std::process::exit(i32::from(INTERRUPTED));
    });
    Ok(())
}
