//! How does the rig run a program? With its output in a log file, killed when
//! it is dropped, and waited for until it is ready. A program that dies early
//! is reported with the end of its log.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::future::Future;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::wait;

const TAIL_BYTES: u64 = 2_000;
/// Generous: it bounds a hang, and nobody asserts on it.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// What to run, again and again if need be.
#[derive(Clone, Debug)]
pub struct Spec {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: PathBuf,
}

impl Spec {
    /// A program that runs in the run's folder and logs to `<name>.log` there.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, run: &Path) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            // Caches and dot files of the programs belong to the run as well.
            env: vec![("HOME".into(), run.into())],
            folder: run.to_owned(),
        }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// For a program in Go with much to do: it collects garbage less often, for
    /// a machine in a test has more memory to spare than processors. Where there are
    /// a hundred thousand Pods it has not: four times what lives would be 20 GiB.
    pub fn spares_no_memory(self) -> Self {
        self.env("GOGC", "300").env("GOMEMLIMIT", "8GiB")
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// Starts it without waiting for it to be ready.
    pub fn spawn(self) -> Result<Process> {
        let child = self.start()?;
        Ok(Process {
            spec: self,
            child: Mutex::new(Some(child)),
        })
    }

    fn start(&self) -> Result<Child> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        Command::new(&self.program)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }

    /// Runs it to its end; an error unless it succeeds.
    pub async fn run(self) -> Result<()> {
        let status = self.start()?.wait().await?;
        if !status.success() {
            bail!("{} ended with {status}{}", self.name, self.tail());
        }
        Ok(())
    }

    fn tail(&self) -> String {
        let log = self.log();
        match end_of(&log) {
            Ok(tail) => format!("; {} ends so:\n{tail}", log.display()),
            Err(error) => format!("; its log {} cannot be read: {error}", log.display()),
        }
    }
}

/// A running program. Dropping it kills it.
pub struct Process {
    spec: Spec,
    child: Mutex<Option<Child>>,
}

impl Process {
    pub fn log(&self) -> PathBuf {
        self.spec.log()
    }

    /// Waits until `look` succeeds; fails as soon as the program has ended.
    pub async fn ready<F, Fut>(&self, mut look: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let looks = wait::until("its sign of readiness", READY_LIMIT, &mut look);
        let ended = async {
            loop {
                if let Some(how) = self.has_ended().await {
                    return how;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let problem = tokio::select! {
            seen = looks => match seen {
                Ok(()) => return Ok(()),
                Err(error) => error,
            },
            how = ended => anyhow!("it ended by itself, {how}"),
        };
        Err(anyhow!(
            "{} did not become ready: {problem:#}{}",
            self.spec.name,
            self.spec.tail()
        ))
    }

    /// How it ended, where it did by itself and was not started again.
    pub async fn has_ended(&self) -> Option<String> {
        match self.child.lock().await.as_mut().map(Child::try_wait) {
            None => Some("stopped by the rig".to_owned()),
            Some(Ok(Some(status))) => Some(status.to_string()),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some(error.to_string()),
        }
    }

    /// Kills it and waits until it is gone. No error if it is not running.
    pub async fn kill(&self) -> Result<()> {
        if let Some(mut child) = self.child.lock().await.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Asks it to end by SIGTERM and returns whether it succeeded in that;
    /// kills it after `limit`.
    pub async fn terminate(&self, limit: Duration) -> Result<bool> {
        self.signal(Signal::SIGTERM).await?;
        let Some(mut child) = self.child.lock().await.take() else {
            bail!("{} is not running", self.spec.name);
        };
        match tokio::time::timeout(limit, child.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => {
                child.kill().await?;
                bail!(
                    "{} still ran {limit:?} after SIGTERM{}",
                    self.spec.name,
                    self.spec.tail()
                )
            }
        }
    }

    /// Waits for its own end and returns whether it succeeded.
    pub async fn ended(&self, limit: Duration) -> Result<bool> {
        let mut child = self.child.lock().await;
        let running = child.as_mut().context("it is not running")?;
        match tokio::time::timeout(limit, running.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => bail!("{} still runs after {limit:?}", self.spec.name),
        }
    }

    /// Sends it a signal, STOP and CONT for example.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .await
            .ok_or_else(|| anyhow!("{} is not running", self.spec.name))?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Its process id inside the namespace, where it runs.
    pub async fn pid(&self) -> Option<u32> {
        self.child.lock().await.as_ref().and_then(Child::id)
    }

    /// Starts it again with the same arguments, after `kill` or its own end.
    pub async fn start(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        if let Some(running) = child.as_mut()
            && running.try_wait()?.is_none()
        {
            bail!("{} is running already", self.spec.name);
        }
        *child = Some(self.spec.start()?);
        Ok(())
    }
}

fn end_of(log: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
