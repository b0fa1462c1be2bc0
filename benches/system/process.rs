//! What does one process cost? Reads /proc.

use std::fs;

use anyhow::{Context as _, Result};

/// Linux counts a process' time in hundredths of a second wherever it runs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used since its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// In user and kernel mode, all threads together.
    pub(crate) cpu_seconds: f64,
    /// Memory now, in MiB.
    pub(crate) rss_mib: f64,
    /// Most memory so far, in MiB.
    pub(crate) peak_rss_mib: f64,
}

impl Usage {
    /// What this process has used so far.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(&path).with_context(|| format!("{path}: has the process ended?"))
        };
        let status = read("status")?;
        Ok(Self {
            cpu_seconds: cpu_seconds(&read("stat")?).context("/proc/PID/stat looks different")?,
            rss_mib: mib(&status, "VmRSS:").context("no VmRSS in /proc/PID/status")?,
            peak_rss_mib: mib(&status, "VmHWM:").context("no VmHWM in /proc/PID/status")?,
        })
    }
}

/// CPU seconds that threads of this name have used in this process so far.
pub(crate) fn threads(name: &str) -> Result<f64> {
    let mut used = 0.0;
    for task in fs::read_dir("/proc/self/task")? {
        // One that has just ended is no error.
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else {
            continue;
        };
        if stat.contains(&format!("({name})")) {
            used += cpu_seconds(&stat).context("/proc/PID/task/TID/stat looks different")?;
        }
    }
    Ok(used)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The program's name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let user: f64 = times.next()?.parse().ok()?;
    let system: f64 = times.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn mib(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}
