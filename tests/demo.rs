//! Does the demo show what it says, let people in, and leave nothing behind?
//! Runs it as `make demo` does. Needs `make tools` once.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// What each chapter comes to, in order.
const SHOWN: [&str; 27] = [
    "✓ catalog-mesh-controller, with the rights of rbac/ alone",
    "servicebinding.aikernel.io/worker-service-binding created",
    "✓ the binding is Ready",
    "aikernel    worker-service-binding   True    worker-service   Synced",
    "$ kubectl get virtualservice -n aikernel worker-service",
    "timeout: 30s",
    "$ kubectl get destinationrule -n aikernel worker-service",
    "consecutive5xxErrors: 5",
    "Normal   Synced   servicebinding/worker-service-binding",
    "MeshProgrammed   True      Programmed",
    "trafficPolicy.timeout",
    "✓ all three replicas answer",
    "✓ worker-service-0 answered 500 to 5 of",
    "✓ the two others answer everything",
    "✓ Envoy says 2s after",
    "✓ 504 after",
    "4 attempts arrived: 1 and 3 retries",
    "✓ every replica has answered",
    "worker-service-1: it answers 500",
    "✓ Envoy has 2 endpoints",
    "✓ the binding and the catalog say so",
    "catalog-mesh",
    "reason=EndpointUnhealthy",
    "Warning   unhealthy: 10.240.0.11:8080",
    "\"health\":\"Degraded\"",
    "✓ Envoy has 3 endpoints",
    "since it left Envoy not one failed",
];

/// What its last chapter comes to where a replica fails in all the other ways.
const OTHER_FAULTS: [&str; 18] = [
    "✓ every replica has answered",
    "worker-service-1: it hangs",
    "✓ Envoy has 2 endpoints",
    "✓ the binding and the catalog say so",
    "Warning   unhealthy: 10.240.0.11:8080",
    "no answer came in time",
    "\"health\":\"Degraded\"",
    "✓ Envoy has 3 endpoints",
    "since it left Envoy not one failed",
    "worker-service-1: nobody listens there",
    "✓ Envoy has 2 endpoints",
    "the connection was refused",
    "\"health\":\"Degraded\"",
    "✓ Envoy has 3 endpoints",
    "since it left Envoy not one failed",
    "worker-service-1: its Pod is deleted",
    "✓ Envoy has 2 endpoints",
    "since it left Envoy not one failed",
];

/// A running demo, killed when it is dropped.
struct Demo(Child);

impl Demo {
    fn start(args: &[&str]) -> Self {
        let child = Command::new(env!("CARGO"))
            .current_dir(REPOSITORY)
            .args(["run", "--locked", "--quiet", "--example", "demo", "--"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn interrupt(&self) {
        // cargo has become the demo: `cargo run` replaces itself.
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        kill(pid, Signal::SIGINT).unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended by itself already, unless the test failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs it to its end, and finds these in what it shows, in this order.
fn shows(args: &[&str], expected: &[&str]) -> String {
    let mut demo = Demo::start(args);
    let mut text = String::new();
    let mut stdout = demo.0.stdout.take().unwrap();
    stdout.read_to_string(&mut text).unwrap();
    let status = demo.0.wait().unwrap();

    assert!(status.success(), "{status}:\n{text}");
    let mut rest = text.as_str();
    for shown in expected {
        let Some((_, after)) = rest.split_once(shown) else {
            panic!("{shown:?} is missing, or out of order:\n{text}");
        };
        rest = after;
    }
    assert!(
        rest.contains("Done: every step showed what it says"),
        "{text}"
    );
    text
}

#[test]
fn it_shows_what_it_says_and_ends_by_itself_when_told_so() {
    let text = shows(&["--once"], &SHOWN);
    // Where it is no terminal.
    assert!(!text.contains('\x1b'), "{text:?}");
    for line in text.lines().filter(|line| !line.contains(REPOSITORY)) {
        assert!(line.chars().count() <= 100, "too wide: {line}");
    }
}

#[test]
fn a_replica_that_hangs_refuses_or_disappears_costs_no_request_once_it_is_out() {
    let fail = "--fail=hangs,refuses,disappears";
    shows(&["--once", "--last", fail], &OTHER_FAULTS);
}

#[test]
fn a_shell_opens_inside_and_ctrl_c_leaves_nothing_behind() {
    let mut demo = Demo::start(&[]);
    let stdout = demo.0.stdout.take().unwrap();
    let mut lines = BufReader::new(stdout).lines().map(Result::unwrap);
    let door = lines
        .find_map(|line| line.trim().strip_prefix("$ sh ").map(PathBuf::from))
        .expect("it opens no shell");
    let run = door.parent().unwrap().to_owned();

    assert!(inside(&door, "kubectl get csb -A").contains("worker-service-binding"));
    assert!(inside(&door, "kubectl config current-context").contains("rig"));
    let variables = inside(&door, "echo $CATALOG $OPERATOR $ENVOY $DEMO");
    assert_eq!(variables.matches("http://").count(), 3, "{variables}");
    assert!(variables.contains(run.to_str().unwrap()), "{variables}");

    demo.interrupt();
    let status = demo.0.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(lines.any(|line| line.contains("nothing of the demo is left")));
    assert!(!run.exists(), "{} is left", run.display());
    let left = processes_of(&run);
    assert!(left.is_empty(), "these run on: {left:?}");
}

/// Runs a command line in the demo's shell.
fn inside(door: &Path, line: &str) -> String {
    let output = Command::new("sh")
        .arg(door)
        .args(["sh", "-c", line])
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Command lines that name the run's folder.
fn processes_of(run: &Path) -> Vec<String> {
    let run = run.to_str().unwrap();
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    ids.filter_map(|id| std::fs::read(id.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(run))
        .collect()
}
