//! How does a test get a PostgreSQL of its own? From the machine's programs,
//! on a data folder under target/ and a Unix socket, shared by the tests that
//! run at the same time, each with its own database. Does IO.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

const USER: &str = "postgres";
/// Generous: it bounds a hang, and nobody asserts on it.
const LIMIT: Duration = Duration::from_secs(60);

static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());

/// A running server. It ends with its last user, or with this process.
pub(crate) struct Postgres {
    folder: TempDir,
    settings: Vec<String>,
    databases: AtomicU32,
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Postgres {
    /// The server that runs already, or a new one.
    pub(crate) fn shared() -> Arc<Self> {
        let mut running = lock(&RUNNING);
        if let Some(server) = running.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start(vec!["listen_addresses=".to_owned()]));
        *running = Arc::downgrade(&server);
        server
    }

    /// A server of the test's own with this certificate, on a port of loopback
    /// where passwords are asked for.
    pub(crate) fn with_tls(certificate: &str, key: &str) -> (Self, u16) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let mut settings = vec!["listen_addresses=127.0.0.1".to_owned(), "ssl=on".to_owned()];
        settings.push(format!("port={port}"));
        let folder = socket_folder();
        for (setting, name, pem) in [
            ("ssl_cert_file", "server.crt", certificate),
            ("ssl_key_file", "server.key", key),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            settings.push(format!("{setting}={}", path.display()));
        }
        drop(free);
        (Self::start_in(folder, settings), port)
    }

    /// Ends the server, however many use it, and starts it again on its data.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// Makes an empty database and returns its URL.
    pub(crate) fn create_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("CREATE DATABASE {name}"));
        let (socket, port) = (self.folder.path().display(), self.port());
        format!("postgres://{USER}@localhost:{port}/{name}?host={socket}")
    }

    /// Runs a statement as the superuser.
    fn psql(&self, database: &str, statement: &str) {
        let mut psql = Command::new(program("psql"));
        psql.arg("--host").arg(self.folder.path());
        psql.args(["--port", self.port()]);
        psql.args([
            "--username",
            USER,
            "--dbname",
            database,
            "--quiet",
            "--no-psqlrc",
        ]);
        psql.args(["--set", "ON_ERROR_STOP=1", "--command", statement]);
        run(&mut psql);
    }

    /// The number that is part of the socket's name, too.
    fn port(&self) -> &str {
        let port = |setting: &'_ String| setting.starts_with("port=");
        let setting = self.settings.iter().find(|setting| port(setting));
        setting.map_or("5432", |setting| &setting["port=".len()..])
    }

    fn start(settings: Vec<String>) -> Self {
        Self::start_in(socket_folder(), settings)
    }

    fn start_in(folder: TempDir, settings: Vec<String>) -> Self {
        let data = folder.path().join("data");
        let mut initdb = unprivileged(&program("initdb"));
        initdb.arg("--pgdata").arg(&data);
        initdb.args(["--username", USER, "--encoding", "UTF8"]);
        initdb.args(["--auth-local", "trust", "--auth-host", "scram-sha-256"]);
        initdb.args(["--no-locale", "--no-sync"]);
        run(&mut initdb);

        let mut server = Self {
            folder,
            settings,
            databases: AtomicU32::new(0),
            stop: None,
            keeper: None,
        };
        server.run();
        server
    }

    fn run(&mut self) {
        let folder = self.folder.path();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let mut postgres = unprivileged(&program("postgres"));
        postgres.arg("-D").arg(folder.join("data"));
        postgres.arg("-k").arg(folder);
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        // The data dies with the test, so the disk may take its time. A commit
        // still outlives a server that is killed: some tests restart it.
        for setting in ["max_connections=200", "fsync=off", "full_page_writes=off"] {
            postgres.args(["-c", setting]);
        }
        postgres.stdout(log.try_clone().unwrap()).stderr(log);
        let (stop, keeper) = keep(postgres);
        self.stop = Some(stop);
        self.keeper = Some(keeper);
        self.wait_until_ready();
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }

    fn wait_until_ready(&self) {
        let begun = Instant::now();
        let mut probe = Command::new(program("pg_isready"));
        probe.arg("--host").arg(self.folder.path());
        probe.args(["--port", self.port()]);
        probe.args(["--username", USER]).stdout(Stdio::null());
        while !probe.status().unwrap().success() {
            let ended = self.keeper.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || begun.elapsed() > LIMIT {
                let log = std::fs::read_to_string(self.folder.path().join("log"));
                panic!("PostgreSQL did not start: {log:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs the server from a thread that lives as long as it does: the server's
/// parent-death signal goes by thread, and those of tests come and go.
fn keep(mut postgres: Command) -> (Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = channel();
    let keeper = std::thread::spawn(move || {
        let mut child = postgres.spawn().unwrap();
        while stopped.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
            if child.try_wait().unwrap().is_some() {
                return;
            }
        }
        end(&mut child);
    });
    (stop, keeper)
}

/// SIGQUIT ends PostgreSQL at once, but lets it give back its shared memory.
fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        if child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A folder under target/, or elsewhere where the path of a socket in it would
/// be longer than the 107 bytes that Unix allows.
fn socket_folder() -> TempDir {
    let mut prefix = tempfile::Builder::new();
    prefix.prefix("pg");
    let folder = prefix.tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    if folder.path().as_os_str().len() <= 85 {
        return folder;
    }
    prefix.tempdir().unwrap()
}

/// PostgreSQL refuses to run as root. In a user namespace in which we are
/// somebody else the files stay ours, wherever the repository lies. And it
/// ends with us, however we end.
fn unprivileged(program: &Path) -> Command {
    let mut command;
    if nix::unistd::geteuid().is_root() {
        command = Command::new("unshare");
        command.args([
            "--user",
            "--map-user=1000",
            "--map-group=1000",
            "--",
            "setpriv",
        ]);
    } else {
        command = Command::new("setpriv");
    }
    command.args(["--pdeathsig", "QUIT", "--"]).arg(program);
    command.stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Debian keeps one folder per version and leaves it out of PATH.
fn program(name: &str) -> PathBuf {
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path())
        .collect();
    versions.sort_by_key(|path| {
        let version = path
            .file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok());
        std::cmp::Reverse(version)
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = versions.into_iter().map(|version| version.join("bin"));
    versions
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is not there: install PostgreSQL (apt-get install postgresql)")
        })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
