//! Flags of `release-all`.

use std::path::PathBuf;

use clap::Args;

use super::watch::WatchArgs;

/// Flags of `release-all`.
#[derive(Args, Clone, Debug)]
pub struct ReleaseAllArgs {
    /// Only say what would be taken back.
    #[arg(long)]
    pub dry_run: bool,

    /// Which namespaces are released.
    #[command(flatten)]
    pub watch: WatchArgs,

    /// Kubeconfig of the cluster; by default KUBECONFIG, then the Pod's own
    /// service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}
