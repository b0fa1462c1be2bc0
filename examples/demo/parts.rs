//! What runs in the demo? Starts it all, one part after the other.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::prepare;
use crate::screen::Screen;
use crate::support::address::Addresses;
use crate::support::apiserver::ApiServer;
use crate::support::catalog::Catalog;
use crate::support::envoy::{Envoy, Options};
use crate::support::istiod::Istiod;
use crate::support::namespace;
use crate::support::operator::Operator;
use crate::support::pki::Pki;
use crate::support::stack::{CATALOG, OPERATOR};
use crate::support::tools::repository;
use crate::support::workload::{self, Workload, ZONES};

/// The namespace of the service.
pub(crate) const NAMESPACE: &str = "aikernel";
/// The service and, named after it, the objects in the mesh.
pub(crate) const SERVICE: &str = "worker-service";
/// The ServiceBinding of examples/bindings.
pub(crate) const BINDING: &str = "worker-service-binding";
/// Its id in the catalog.
pub(crate) const CATALOG_ID: &str = "worker-service-001";
/// The catalog's first entry, in the repository.
pub(crate) const SEED: &str = "examples/catalog-server/seed.json";

/// Everything that runs. Dropping it kills it.
pub(crate) struct Parts {
    pub(crate) run: PathBuf,
    pub(crate) api: ApiServer,
    pub(crate) istiod: Istiod,
    pub(crate) workload: Workload,
    pub(crate) envoy: Arc<Envoy>,
    pub(crate) catalog: Catalog,
    /// Kept, since dropping it would kill it.
    _operator: Operator,
}

impl Parts {
    pub(crate) async fn start(screen: &Screen) -> Result<Self> {
        let run = namespace::inside().context("the demo runs only inside its own namespace")?;
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pki = Pki::create()?;

        screen.heading("Start the parts");
        let api = screen
            .step(
                "Kubernetes API server, with the ServiceBinding's CRD",
                async {
                    let api = ApiServer::start(&run, &pki, &[]).await?;
                    workload::make_nodes(&api.client).await?;
                    Ok(api)
                },
            )
            .await?;
        let istiod = screen
            .step(
                "istiod, with its validating webhook",
                Istiod::start(&run, &pki, &api),
            )
            .await?;
        let addresses = Addresses::new();
        let workload = screen
            .step(
                "worker-service in namespace aikernel: three replicas",
                async {
                    workload::make_namespace(&api.client, NAMESPACE).await?;
                    let zones = [ZONES[0], ZONES[0], ZONES[1]];
                    Workload::start(&api.client, &addresses, NAMESPACE, SERVICE, &zones).await
                },
            )
            .await?;
        let envoy = screen
            .step("Envoy, as a client of the mesh", async {
                let envoy =
                    Envoy::start(&run, addresses.next()?, &Options::in_namespace(NAMESPACE))
                        .await?;
                envoy.wait_for_endpoints(&workload.host(), 3).await?;
                Ok(envoy)
            })
            .await?;
        let catalog = screen
            .step("the service catalog, over SQLite, with one entry", {
                let database = format!("sqlite://{}", run.join("catalog.db").display());
                let seed = repository().join(SEED);
                let run = run.clone();
                async move { Catalog::seeded(&run, "catalog", CATALOG, &database, &seed).await }
            })
            .await?;
        let operator = screen
            .step(
                "catalog-mesh-controller, with the rights of rbac/ alone",
                async {
                    api.apply_manifests(&repository().join("rbac")).await?;
                    let args = ["run", "--catalog-url", &catalog.url, "--listen", OPERATOR];
                    // The story writes its binding itself.
                    let args = args.into_iter().chain(["--register", "off"]);
                    let program = prepare::operator()?;
                    let operator =
                        Operator::start(&run, &api, "controller", &program, args).await?;
                    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
                    Ok(operator)
                },
            )
            .await?;
        Ok(Self {
            run,
            api,
            istiod,
            workload,
            envoy: Arc::new(envoy),
            catalog,
            _operator: operator,
        })
    }
}
