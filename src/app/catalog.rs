//! Through what does a call pass on its way to the catalog?

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use crate::args::RunArgs;
use crate::catalog::Catalog;
use crate::catalog::by_url::CatalogByUrl;
use crate::catalog::client::HttpCatalogConfig;
use crate::catalog::counted::Counted;
use crate::catalog::credentials::{AccessConfig, ApiUrl};
use crate::catalog::gated::Gated;
use crate::catalog::hedged::HedgedCatalog;
use crate::catalog::limited::Limit;
use crate::catalog::paced::Pace;
use crate::catalog::patient::Patience;
use crate::metrics::Metrics;

/// How long a call to the catalog may wait for its turn.
const TURN: Duration = Duration::from_secs(20);

/// The catalog itself, with nothing remembered but records and their ETags.
pub(super) fn source(args: &RunArgs, metrics: &Metrics) -> anyhow::Result<Arc<dyn Catalog>> {
    let file = |name: &str| args.catalog_credentials.join(name);
    let access = AccessConfig {
        api_url: match &args.catalog_url {
            Some(url) => ApiUrl::Given(url.clone()),
            None => ApiUrl::File(file("api-url")),
        },
        api_key_file: Some(file("api-key")),
        token_file: args.catalog_token_file.clone(),
    };
    let config = HttpCatalogConfig {
        ca_file: args.catalog_ca_file.clone(),
        ..HttpCatalogConfig::new(access)
    };
    let source = CatalogByUrl::new(config).context("cannot set up the client of the catalog")?;
    // Patience is asked for last: when a call has its turn, and for a second
    // request of it too.
    let counted = Counted::new(source, metrics.catalog().clone());
    let patient = Gated::new(Patience::default(), counted);
    let limit = Limit::new(args.catalog_concurrency, TURN);
    let limited = Gated::new(limit, HedgedCatalog::new(patient));
    Ok(Arc::new(Gated::new(
        Pace::new(args.catalog_qps, TURN),
        limited,
    )))
}
