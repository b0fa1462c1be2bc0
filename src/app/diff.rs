//! Puts `diff` together: reads the files, reaches for cluster and catalog, and
//! hands back what is to be printed.

use anyhow::Context as _;

use super::reach;
use crate::args::diff::DiffArgs;
use crate::controller::clients::Clients;
use crate::controller::leadership::Leadership;
use crate::diff::question::Question;
use crate::diff::{self, Printed, Reach};
use crate::domain::served::Served;
use crate::metrics::Metrics;

/// What a sync would change in the cluster now. An error means that it cannot
/// be told.
pub async fn diff(args: DiffArgs) -> anyhow::Result<Printed> {
    // Every TLS client takes the process' provider; one that finds none panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = reach::kube_config(args.cluster.kubeconfig.as_deref()).await?;
    let settings = reach::settings(&args.mapping, Served::default());
    let namespace = config.default_namespace.clone();
    let question = Question::read(&args, settings, namespace, &mut std::io::stdin())?;
    // It may not write, and so never does.
    let clients = Clients::new(config, &Leadership::withheld())
        .context("cannot set up the client of the API server")?;
    let metrics = Metrics::new().context("cannot register the metrics")?;
    let reach = Reach {
        client: clients.requests,
        catalog: reach::catalog(&args.catalog, &metrics)?,
    };
    Ok(diff::answer(&question, &reach).await?)
}
