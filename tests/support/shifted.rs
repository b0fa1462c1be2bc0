//! How is the wall clock of a running program set, and nobody else's? A library
//! that is loaded before its libc, made by the C compiler that links Rust, adds
//! what a file says. A time namespace does not cover that clock.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::process::Spec;
use super::tools::repository;

/// A program whose wall clock can be set.
pub struct Shifted {
    /// What to start in its place: becomes it, with the same arguments.
    pub program: PathBuf,
    file: PathBuf,
}

impl Shifted {
    /// Makes it of this program, in the run's folder.
    pub async fn new(run: &Path, program: &Path) -> Result<Self> {
        let folder = run.join("shifted");
        std::fs::create_dir_all(&folder)?;
        let (library, file) = (folder.join("shifted.so"), folder.join("seconds"));
        Spec::new("cc", "cc", run)
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(repository().join("tests/support/shifted.c"))
            .arg("-ldl")
            .run()
            .await
            .context("a C compiler named cc is needed, as Rust itself needs one")?;
        let started = folder.join("program");
        let script = format!(
            "#!/bin/sh\nexport LD_PRELOAD='{}' CLOCK_SHIFT='{}'\nexec '{}' \"$@\"\n",
            library.display(),
            file.display(),
            program.display()
        );
        std::fs::write(&started, script)?;
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&started, all)?;
        let shifted = Self {
            program: started,
            file,
        };
        shifted.set(0)?;
        Ok(shifted)
    }

    /// From now on its clock is off by so many seconds.
    pub fn set(&self, seconds: i64) -> Result<()> {
        // By another name first: whoever reads it has the old or the new.
        let new = self.file.with_extension("new");
        std::fs::write(&new, seconds.to_string())?;
        Ok(std::fs::rename(new, &self.file)?)
    }
}
