//! Puts `release-all` together: reaches for the cluster, and hands back what
//! was done.

use anyhow::{Context as _, anyhow};

use super::reach;
use crate::args::release_all::ReleaseAllArgs;
use crate::controller::clients::Clients;
use crate::controller::ejection::release_all::{self, Released};
use crate::controller::leadership::Leadership;

/// Takes back everything on Pods and bindings. An error means that the cluster
/// could not be looked at.
pub async fn release_all(args: ReleaseAllArgs) -> anyhow::Result<Released> {
    // Every TLS client takes the process' provider; one that finds none panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = reach::kube_config(args.kubeconfig.as_deref()).await?;
    // It is not the operator, and waits for nobody's Lease.
    let clients = Clients::new(config, &Leadership::granted(0))
        .context("cannot set up the client of the API server")?;
    release_all::release_all(&clients.requests, &args.watch.served(), args.dry_run)
        .await
        .map_err(|error| {
            anyhow!(error).context(
                "the cluster cannot be looked at; run it where the API server answers, with the right to list Pods and ServiceBindings",
            )
        })
}
