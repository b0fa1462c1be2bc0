//! Where does one run keep its files, and who clears them away? Everything is
//! in target/rig/<pid>, with the part of the work in the name where there are
//! several; the folder goes after a clean end, stays after a failure, and that
//! of a run that was killed goes when the next one starts.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::tools;

const LOCK: &str = "lock";
/// In a folder that a failed run left to be read; kept until `KEPT_RUNS` newer ones.
const KEPT: &str = "kept";
const KEPT_RUNS: usize = 5;

/// The folder of one run, held by a lock that ends with this process.
pub struct RunDir {
    path: PathBuf,
    _lock: File,
}

impl RunDir {
    /// Makes the folder of this run, or of this part of it, and clears those of
    /// dead runs.
    pub fn create(part: Option<&str>) -> Result<Self> {
        let parent = tools::repository().join("target/rig");
        fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
        clear_dead_runs(&parent)?;
        let pid = std::process::id();
        let path = parent.join(match part {
            Some(part) => format!("{pid}-{part}"),
            None => pid.to_string(),
        });
        if path.exists() {
            // An earlier process of the same id, long gone, left it to be read.
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        let lock = File::create(path.join(LOCK))?;
        lock.try_lock()
            .context("the run's new folder is locked by somebody else")?;
        Ok(Self { path, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn remove(self) {
        // What cannot be removed now is cleared by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }

    /// Leaves the folder's logs to be read and returns their names; what takes
    /// room and tells nothing goes.
    pub fn keep(self) -> Vec<PathBuf> {
        for bulky in ["etcd", "postgres"] {
            let _ = fs::remove_dir_all(self.path.join(bulky));
        }
        let _ = File::create(self.path.join(KEPT));
        logs(&self.path)
    }
}

/// The log files of a run.
pub fn logs(run: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(run)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    found.sort();
    found
}

fn clear_dead_runs(parent: &Path) -> Result<()> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(parent)?.flatten() {
        let path = entry.path();
        if !path.is_dir() || is_alive(&path) {
            continue;
        }
        match fs::metadata(path.join(KEPT)).and_then(|marker| marker.modified()) {
            Ok(since) => kept.push((since, path)),
            Err(_) => {
                let _ = fs::remove_dir_all(&path);
            }
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT_RUNS);
    for (_, path) in kept.drain(..surplus) {
        let _ = fs::remove_dir_all(path);
    }
    Ok(())
}

fn is_alive(run: &Path) -> bool {
    let Ok(lock) = File::open(run.join(LOCK)) else {
        // Between its making and its lock a folder is young: leave it alone.
        return fs::metadata(run)
            .and_then(|folder| folder.modified())
            .is_ok_and(|since| since.elapsed().is_ok_and(|age| age.as_secs() < 60));
    };
    matches!(lock.try_lock(), Err(TryLockError::WouldBlock))
}
