//! What does a test, the demo or the benchmark get? One running cluster, and
//! short ways to put things into it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use super::address::Addresses;
use super::apiserver::ApiServer;
use super::audit::{Entry, Mark};
use super::envoy::{Envoy, Options};
use super::istiod::Istiod;
use super::kubectl::Cli;
use super::namespace;
use super::operator::{self, Operator};
use super::pki::Pki;
use super::postgres::Postgres;
use super::tools::Tool;
use super::workload::{self, Workload};

/// API server, controllers and istiod, all ready. Dropping it kills them.
pub struct Rig {
    pub istiod: Istiod,
    pub istioctl: Cli,
    pub api: ApiServer,
    pub addresses: Addresses,
    pub pki: Pki,
    /// Of a cluster administrator.
    pub client: kube::Client,
    run: PathBuf,
    namespaces: AtomicU32,
}

impl Rig {
    /// Starts everything inside the namespace that this process is in.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// The same with further flags of the API server.
    pub async fn start_with(apiserver: &[&str]) -> Result<Self> {
        let run = namespace::inside().context("the rig starts only inside its own namespace")?;
        // A second rig in the same process finds it installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let pki = Pki::create()?;
        let api = ApiServer::start(&run, &pki, apiserver).await?;
        let client = api.client.clone();
        workload::make_nodes(&client).await?;
        let istiod = Istiod::start(&run, &pki, &api).await?;
        Ok(Self {
            istiod,
            istioctl: Cli::new(Tool::Istioctl, &api.kubeconfig, &run),
            api,
            addresses: Addresses::new(),
            pki,
            client,
            run,
            namespaces: AtomicU32::new(1),
        })
    }

    /// The run's folder; what is put there goes with the run.
    pub fn folder(&self) -> &Path {
        &self.run
    }

    /// Makes a namespace that no other test has, of this name and a number.
    pub async fn namespace(&self, name: &str) -> Result<String> {
        let number = self.namespaces.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{number}");
        workload::make_namespace(&self.client, &name).await?;
        Ok(name)
    }

    /// A Service with a ready pod in each of these zones.
    pub async fn workload(&self, namespace: &str, name: &str, zones: &[&str]) -> Result<Workload> {
        Workload::start(&self.client, &self.addresses, namespace, name, zones).await
    }

    /// A client of the mesh.
    pub async fn envoy(&self, options: &Options) -> Result<Envoy> {
        Envoy::start(&self.run, self.addresses.next()?, options).await
    }

    /// The controller, with the rights of its account alone.
    pub async fn operator<A: Into<OsString>>(
        &self,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Operator> {
        Operator::start(&self.run, &self.api, name, program, args).await
    }

    pub async fn postgres(&self) -> Result<Postgres> {
        Postgres::start(&self.run).await
    }

    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.api.kubectl.ok(args).await
    }

    /// A mark in the audit log, after everything answered so far.
    pub async fn audit_mark(&self) -> Result<Mark> {
        self.api.audit.mark(&self.client).await
    }

    /// The changes that the controller asked for since a mark, its Lease aside.
    pub async fn operator_writes(&self, since: Mark) -> Result<Vec<Entry>> {
        let mut writes = self
            .api
            .audit
            .writes_by(operator::USER, since, &self.client)
            .await?;
        writes.retain(|entry| {
            let object = entry.object_ref.as_ref();
            object.is_none_or(|object| object.resource != "leases")
        });
        Ok(writes)
    }
}
