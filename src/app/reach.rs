//! How are the cluster and the catalog reached? By what the flags say; the
//! kubeconfig and a CA file are read, nothing is connected to.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::alert;
use crate::api::policy::EjectionMode;
use crate::args::alert::AlertArgs;
use crate::args::catalog::CatalogArgs;
use crate::args::health::{Ejection, HealthArgs};
use crate::args::sync::Switch;
use crate::args::{Locality, MappingArgs};
use crate::catalog::Catalog;
use crate::catalog::by_url::CatalogByUrl;
use crate::catalog::client::HttpCatalogConfig;
use crate::catalog::counted::Counted;
use crate::catalog::credentials::{AccessConfig, ApiUrl};
use crate::catalog::gated::Gated;
use crate::catalog::gathered::Gathering;
use crate::catalog::hedged::HedgedCatalog;
use crate::catalog::limited::Limit;
use crate::catalog::paced::Pace;
use crate::catalog::patient::Patience;
use crate::domain::inputs::Settings;
use crate::domain::served::Served;
use crate::health;
use crate::health::prober::{Limits, Prober};
use crate::health::view::HealthView;
use crate::metrics::Metrics;

/// How long a call to the catalog may wait for its turn.
const TURN: Duration = Duration::from_secs(20);

/// What every decision depends on.
pub(super) fn settings(args: &MappingArgs, served: Served) -> Settings {
    Settings {
        cluster_domain: args.cluster_domain.clone(),
        root_namespace: args.root_namespace.clone(),
        mesh_locality: args.locality == Locality::Mesh,
        served,
        bounds: args.bounds.clone(),
    }
}

/// What happens to unhealthy endpoints, unless a binding says otherwise.
pub(super) fn ejection(flag: Ejection) -> EjectionMode {
    match flag {
        Ejection::Draining => EjectionMode::Draining,
        Ejection::OutlierOnly => EjectionMode::OutlierOnly,
        Ejection::Observe => EjectionMode::Observe,
        Ejection::Off => EjectionMode::Off,
    }
}

/// The cluster of this kubeconfig, or of the surroundings.
pub(super) async fn kube_config(kubeconfig: Option<&Path>) -> anyhow::Result<Config> {
    match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))
        }
        None => Config::infer()
            .await
            .context("found no cluster: give --kubeconfig, set KUBECONFIG, or run inside of a Pod"),
    }
}

/// The catalog that the flags name itself, with nothing remembered but records
/// and their ETags.
pub(super) fn catalog(args: &CatalogArgs, metrics: &Metrics) -> anyhow::Result<Arc<dyn Catalog>> {
    let file = |name: &str| args.catalog_credentials.join(name);
    let access = AccessConfig {
        api_url: match &args.catalog_url {
            Some(url) => ApiUrl::Given(url.clone()),
            None => ApiUrl::File(file("api-url")),
        },
        report_url_file: Some(file("report-url")),
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
    let limit = Limit::new(usize::from(args.catalog_concurrency), TURN);
    let pace = Arc::new(Pace::new(args.catalog_qps, TURN));
    let limited = Gated::new(limit, HedgedCatalog::new(Arc::clone(&pace), patient));
    Ok(Arc::new(Gathering::new(pace, limited)))
}

/// Where alerts go.
pub(super) fn alerts(args: &AlertArgs) -> alert::Config {
    alert::Config {
        token_file: args.alertmanager_token_file.clone(),
        ca_file: args.alertmanager_ca_file.clone(),
        ..alert::Config::new(args.alertmanager_url.clone())
    }
}

/// The prober, what it finds, and the task that checks.
pub(super) fn prober(
    args: &HealthArgs,
    metrics: &Metrics,
) -> anyhow::Result<(Prober, HealthView, impl Future<Output = ()> + Send + use<>)> {
    let limits = Limits {
        in_flight: usize::from(args.health_concurrency),
        service_label: args.health_service_label == Switch::On,
        ..Limits::default()
    };
    health::start(limits, args.mesh_cert_dir.clone(), metrics.health.clone()).map_err(Into::into)
}
