//! The reference catalog server keeps to docs/catalog-api.yaml, on both of its
//! databases: schemathesis makes thousands of requests of that file, good ones
//! and bad ones, and judges each answer by it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::server::Database;

const KEY: &str = "a-key-of-the-test";

on_both_databases!(the_server_keeps_to_its_openapi_file);

async fn the_server_keeps_to_its_openapi_file(database: Database) {
    let scratch = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let key = scratch.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    // A stream that never ended would never be an answer.
    let server = database.serve(&[
        "--api-key-file",
        key.to_str().unwrap(),
        "--stream-age",
        "50ms",
    ]);
    let mut schemathesis = Command::new(python_tools().join("bin/schemathesis"));
    schemathesis
        .arg("--config-file")
        .arg(repository("tests/tools/python/schemathesis.toml"));
    schemathesis
        .arg("run")
        .arg(repository("docs/catalog-api.yaml"));
    schemathesis.args([
        "--url",
        &server.url,
        "--header",
        &format!("X-API-Key: {KEY}"),
    ]);
    schemathesis
        .args(["--continue-on-failure", "--no-color"])
        .current_dir(scratch.path());
    let output = schemathesis.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    // It would succeed as well with nothing to do.
    assert!(text.contains("Tested: 9"), "not every call was tested");
}

/// The Python tools of the tests, each pinned with its hash; installed when
/// they are not there or others are asked for.
fn python_tools() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let tools = repository("target/tools");
        let folder = tools.join("venv");
        std::fs::create_dir_all(&tools).unwrap();
        // Other test processes may want the same.
        let lock = File::create(tools.join("venv.lock")).unwrap();
        lock.lock().unwrap();
        let requirements = repository("tests/tools/python/requirements.txt");
        let wanted = std::fs::read_to_string(&requirements).unwrap();
        let stamp = folder.join("requirements.installed");
        if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            return folder;
        }
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&folder));
        let mut pip = Command::new(folder.join("bin/pip"));
        pip.args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
        ]);
        run(pip.arg("--requirement").arg(&requirements));
        std::fs::write(&stamp, wanted).unwrap();
        folder
    })
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| {
        panic!("{command:?}: {error}: install Python 3 with venv (apt-get install python3-venv)")
    });
    assert!(status.success(), "{command:?}: {status}");
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
