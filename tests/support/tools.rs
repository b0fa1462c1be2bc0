//! Where are the programs that the rig runs? Reads the file system.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The programs that `make tools` puts into the target folder.
#[derive(Clone, Copy, Debug)]
pub enum Tool {
    Etcd,
    KubeApiserver,
    KubeControllerManager,
    Kubectl,
    PilotDiscovery,
    Istioctl,
    Envoy,
    CheckDashboard,
}

impl Tool {
    fn file_name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::Kubectl => "kubectl",
            Self::PilotDiscovery => "pilot-discovery",
            Self::Istioctl => "istioctl",
            Self::Envoy => "envoy",
            Self::CheckDashboard => "check-dashboard",
        }
    }

    /// The program's path, or what to do where it is missing.
    pub fn path(self) -> Result<PathBuf> {
        existing(bin_folder().join(self.file_name()))
    }
}

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of the built tools, for the PATH of a shell.
pub fn bin_folder() -> PathBuf {
    repository().join("target/tools/bin")
}

/// All of Istio's CRDs in one file.
pub fn istio_crds() -> Result<PathBuf> {
    existing(repository().join("target/tools/istio-crds.yaml"))
}

/// The kinds of the Prometheus Operator that deploy/ has objects of.
pub fn prometheus_operator_crds() -> Result<PathBuf> {
    existing(repository().join("target/tools/prometheus-operator-crds.yaml"))
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if !path.exists() {
        bail!("{} is missing: run `make tools` first", path.display());
    }
    Ok(path)
}

/// Alertmanager: the machine's own, or Debian's package that `make tools`
/// unpacked.
pub enum Alertmanager {
    Installed(PathBuf),
    /// Below this folder.
    Unpacked(PathBuf),
}

pub fn alertmanager() -> Result<Alertmanager> {
    let unpacked = repository().join("target/tools/alertmanager/usr");
    if unpacked.exists() {
        return Ok(Alertmanager::Unpacked(unpacked));
    }
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let named =
        |folder: PathBuf| ["prometheus-alertmanager", "alertmanager"].map(|name| folder.join(name));
    std::env::split_paths(&search_path)
        .flat_map(named)
        .find(|program| program.exists())
        .map(Alertmanager::Installed)
        .ok_or_else(|| anyhow::anyhow!("Alertmanager is missing: install it, or run `make tools`"))
}

/// A program of Prometheus, `prometheus` or `promtool`: from Debian's package
/// that `make tools` unpacked, or the machine's own.
pub fn prometheus_program(name: &str) -> Result<PathBuf> {
    let unpacked = repository().join("target/tools/prometheus/usr/bin");
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(unpacked)
        .chain(std::env::split_paths(&search_path))
        .map(|folder| folder.join(name))
        .find(|program| program.exists())
        .ok_or_else(|| {
            anyhow::anyhow!("{name} is missing: install Prometheus, or run `make tools`")
        })
}

/// A program of the machine's own PostgreSQL, the newest where there are several.
pub fn postgres_program(name: &str) -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    versions
        .into_iter()
        .map(|(_, folder)| folder)
        .chain(std::env::split_paths(&search_path))
        .map(|folder| folder.join(name))
        .find(|program| program.exists())
        .ok_or_else(|| {
            anyhow::anyhow!(
                "PostgreSQL's {name} is missing: install PostgreSQL, or run `make tools`"
            )
        })
}
