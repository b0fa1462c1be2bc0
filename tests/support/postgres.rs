//! How does a PostgreSQL of a run start? From the machine's own programs, on a
//! data folder of the run and a port of the namespace.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::process::{Process, Spec};
use super::{tools, wait};

const PORT: u16 = 5432;
const USER: &str = "postgres";

/// A running server; everybody who reaches it is its superuser.
pub struct Postgres {
    pub process: Process,
    run: PathBuf,
}

impl Postgres {
    pub async fn start(run: &Path) -> Result<Self> {
        let data = run.join("postgres");
        // Of a test before this one, whose server is gone.
        if data.exists() {
            std::fs::remove_dir_all(&data)?;
        }
        as_nobody_special("postgres-initdb", &tools::postgres_program("initdb")?, run)
            .args(["--pgdata".into(), data.clone()])
            .args([
                "--username",
                USER,
                "--auth",
                "trust",
                "--no-locale",
                "--encoding",
                "UTF8",
            ])
            .args(["--no-sync"])
            .run()
            .await?;
        let process = as_nobody_special("postgres", &tools::postgres_program("postgres")?, run)
            .args(["-D".into(), data])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
            ])
            .args(["-c".to_owned(), format!("port={PORT}")])
            // The data dies with the run; durability would only slow it down.
            .args(["-c", "fsync=off", "-c", "synchronous_commit=off"])
            .args(["-c", "full_page_writes=off"])
            .spawn()?;
        let probe = tools::postgres_program("pg_isready")?;
        process
            .ready(async || {
                Spec::new("pg_isready", &probe, run)
                    .args(connection())
                    .run()
                    .await
            })
            .await?;
        Ok(Self {
            process,
            run: run.to_owned(),
        })
    }

    /// Starts it again after it was killed: as soon as its children are gone,
    /// too. As long as one of them has their shared memory, it would not start.
    pub async fn start_again(&self) -> Result<()> {
        let notes = std::fs::read_to_string(self.run.join("postgres/postmaster.pid"))?;
        let of_memory = notes.lines().nth(6).context("no line about its memory")?;
        let id = of_memory.split_whitespace().nth(1).context("no ID of it")?;
        wait::until(
            "the end of PostgreSQL's children",
            Duration::from_secs(30),
            async || {
                let segments = std::fs::read_to_string("/proc/sysvipc/shm")?;
                let attached = segments.lines().find_map(|line| {
                    let mut fields = line.split_whitespace();
                    (fields.nth(1)? == id).then(|| fields.nth(4).map(str::to_owned))?
                });
                ensure!(attached.is_none_or(|count| count == "0"), "they are there");
                Ok(())
            },
        )
        .await?;
        self.process.start().await
    }

    /// Makes an empty database and returns its URL.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        Spec::new("createdb", tools::postgres_program("createdb")?, &self.run)
            .args(connection())
            .arg(name)
            .run()
            .await?;
        Ok(self.url_of(name))
    }

    /// The URL of a database that is there.
    pub fn url_of(&self, name: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{PORT}/{name}")
    }
}

fn connection() -> [String; 6] {
    ["-h", "127.0.0.1", "-p", &PORT.to_string(), "-U", USER].map(str::to_owned)
}

/// PostgreSQL refuses to run as root. In a user namespace in which we are
/// somebody else the files stay ours, wherever the repository lies.
fn as_nobody_special(name: &str, program: &Path, run: &Path) -> Spec {
    if nix::unistd::geteuid().is_root() {
        Spec::new(name, "unshare", run)
            .args(["--user", "--map-user=1000", "--map-group=1000", "--"])
            .arg(program)
    } else {
        Spec::new(name, program, run)
    }
}
