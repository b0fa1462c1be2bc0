//! Which cluster it is about: flags of whatever reaches for one.

use std::path::PathBuf;

use clap::Args;

use crate::domain::names::Namespace;

/// Which cluster it is about, and where in it the operator is.
#[derive(Args, Clone, Debug)]
pub struct ClusterArgs {
    /// Kubeconfig of the cluster; by default KUBECONFIG, then the Pod's own
    /// service account.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The operator's own namespace, where its Lease is; `paused` on it pauses
    /// everything.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        value_name = "NAME",
        default_value = "aikernel-infrastructure",
        value_parser = Namespace::parse
    )]
    pub own_namespace: Namespace,
}
