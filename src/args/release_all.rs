//! Flags of `release-all`.

use std::path::PathBuf;

use clap::Args;

/// Flags of `release-all`.
#[derive(Args, Clone, Debug)]
pub struct ReleaseAllArgs {
    /// Only say what would be taken back.
    #[arg(long)]
    pub dry_run: bool,

    /// Kubeconfig of the cluster; by default KUBECONFIG, then the Pod's own
    /// service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}
