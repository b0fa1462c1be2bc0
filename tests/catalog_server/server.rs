//! How does a test run the reference catalog server? As its own process, on a
//! free port of loopback, with its log in a file. Does IO.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use nix::sys::signal::Signal;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use tempfile::TempDir;

use super::postgres::Postgres;

/// Generous: it bounds a hang, and nobody asserts on it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A database for one test.
pub(crate) struct Database {
    pub(crate) url: String,
    _postgres: Option<Arc<Postgres>>,
    _folder: Option<TempDir>,
}

impl Database {
    /// An SQLite file that is not there yet.
    pub(crate) fn sqlite() -> Self {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let url = format!("sqlite://{}", folder.path().join("catalog.db").display());
        Self {
            url,
            _postgres: None,
            _folder: Some(folder),
        }
    }

    /// An empty database of PostgreSQL.
    pub(crate) fn postgres() -> Self {
        let postgres = Postgres::shared();
        let url = postgres.create_database();
        Self {
            url,
            _postgres: Some(postgres),
            _folder: None,
        }
    }

    /// An empty database of this server.
    pub(crate) fn of(postgres: &Postgres) -> Self {
        Self {
            url: postgres.create_database(),
            _postgres: None,
            _folder: None,
        }
    }

    /// Starts a server on it.
    pub(crate) fn serve(&self, args: &[&str]) -> Catalog {
        self.serve_with(args, &[])
    }

    /// The same with these variables in its environment.
    pub(crate) fn serve_with(&self, args: &[&str], env: &[(&str, &str)]) -> Catalog {
        Catalog::start(&self.url, args, env)
    }

    /// Runs statements on it as its owner; PostgreSQL only.
    pub(crate) async fn execute(&self, statements: &str) {
        let mut owner = PgConnection::connect(&self.url).await.unwrap();
        let statements = sqlx::AssertSqlSafe(statements.to_owned());
        owner.execute(statements).await.unwrap();
    }

    /// Its URL for another role; PostgreSQL only.
    pub(crate) fn url_of(&self, role: &str) -> String {
        self.url.replacen("postgres@", &format!("{role}@"), 1)
    }

    /// Runs another command of the server to its end.
    pub(crate) fn command(&self, name: &str) {
        let mut command = Command::new(program());
        let output = command
            .args(["--database-url", &self.url, name])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A running server; killed when dropped.
pub(crate) struct Catalog {
    pub(crate) url: String,
    pub(crate) http: reqwest::Client,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Catalog {
    fn start(database_url: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        // It ends with the test's thread, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program());
        command.args(["--database-url", database_url, "--listen", "127.0.0.1:0"]);
        command
            .args(["--log-format", "json"])
            .args(args)
            .env_remove("CATALOG_API_KEY")
            .envs(env.iter().copied());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (found, address) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::<Mutex<String>>::default();
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut written = written.lock().unwrap();
                written.push_str(&line);
                written.push('\n');
                drop(written);
                let line: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if line["message"] == "listening" {
                    let _ = found.send(line["address"].as_str().unwrap_or_default().to_owned());
                } else if line["level"] == "ERROR" || line.is_string() {
                    eprintln!("catalog-server: {line}");
                }
            }
        });
        let address = address
            .recv_timeout(LIMIT)
            .expect("the server should say where it listens");
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .read_timeout(LIMIT)
            .build()
            .unwrap();
        Self {
            url: format!("http://{address}"),
            http,
            child,
            log,
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends a request with a JSON body.
    pub(crate) async fn send(&self, method: Method, path: &str, body: &Value) -> Response {
        let request = self
            .http
            .request(method, format!("{}{path}", self.url))
            .json(body);
        request.send().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .unwrap()
    }

    /// The JSON of a successful GET.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    /// Sends a request with a JSON body, and returns the JSON of the answer.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let response = self.send(method, path, body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// Follows the events, after a token if there is one.
    pub(crate) async fn follow(&self, token: Option<&str>) -> Events {
        let mut request = self.http.get(format!("{}/api/v1/events", self.url));
        if let Some(token) = token {
            request = request.header("Last-Event-ID", token);
        }
        Events::of(request.send().await.unwrap())
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

impl Event {
    /// The revision that its id ends with.
    pub(crate) fn revision(&self) -> u64 {
        self.id.split_once('.').unwrap().1.parse().unwrap()
    }
}

/// An open event stream.
pub(crate) struct Events {
    body: futures::stream::BoxStream<'static, reqwest::Result<Vec<u8>>>,
    unread: String,
}

impl Events {
    /// Those of a response.
    pub(crate) fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body = response
            .bytes_stream()
            .map(|chunk| chunk.map(|chunk| chunk.to_vec()));
        Self {
            body: body.boxed(),
            unread: String::new(),
        }
    }

    /// The next event; nothing when the server ends the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.unread.split_once("\n\n") {
                let event = parse(event);
                self.unread = rest.to_owned();
                return Some(event);
            }
            let chunk = tokio::time::timeout(LIMIT, self.body.next()).await;
            let chunk = chunk
                .expect("an event should have come")
                .and_then(Result::ok)?;
            self.unread += std::str::from_utf8(&chunk).unwrap();
        }
    }

    /// The next event that is no bookmark.
    pub(crate) async fn change(&mut self) -> Event {
        loop {
            let event = self.next().await.expect("the stream should not have ended");
            if event.kind != "bookmark" {
                return event;
            }
        }
    }
}

fn parse(text: &str) -> Event {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} is missing in {text:?}"))
            .to_owned()
    };
    Event {
        id: field("id: "),
        kind: field("event: "),
        data: serde_json::from_str(&field("data: ")).unwrap(),
    }
}

/// The server's program, built when it is not up to date: cargo builds
/// examples for `cargo test`, but not for a single test file.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--locked",
            "--offline",
            "--example",
            "catalog-server",
        ]);
        let status = build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(
            status.success(),
            "cargo build --example catalog-server failed"
        );
        // This program is target/debug/deps/NAME-HASH.
        let own = std::env::current_exe().unwrap();
        own.parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/catalog-server")
    })
}
