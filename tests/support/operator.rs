//! How does the controller run in the rig? As its own process, with a token of
//! its own service account and so with nothing but that account's rights.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::apiserver::ApiServer;
use super::metrics::{self, Samples};
use super::process::{Process, Spec};

pub const NAMESPACE: &str = "aikernel-infrastructure";
pub const ACCOUNT: &str = "catalog-mesh-controller";
/// Where leaders note for each other what they removed lately.
const REMOVALS: &str = "catalog-mesh.aikernel.io/removals";
/// As the API server's audit log names it.
pub const USER: &str = "system:serviceaccount:aikernel-infrastructure:catalog-mesh-controller";

/// The Lease by which operators elect their leader.
pub const LEASE: &str = "catalog-mesh-controller";

/// A running controller. Dropping it kills it.
pub struct Operator {
    pub process: Process,
    http: reqwest::Client,
    /// Of a cluster administrator.
    admin: kube::Client,
}

impl Operator {
    /// Starts the controller where no other runs: it leads at once.
    pub async fn start<A: Into<OsString>>(
        run: &Path,
        api: &ApiServer,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        // What it removes counts from nothing: another test's removals are not
        // this one's.
        free_lease(&api.client, json!({REMOVALS: null})).await?;
        Self::join(run, api, ACCOUNT, name, program, args).await
    }

    /// Starts one that stands for election, as this account; `name` names its
    /// log, so that two can run.
    pub async fn join<A: Into<OsString>>(
        run: &Path,
        api: &ApiServer,
        account: &str,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        Self::join_from(run, api, (NAMESPACE, account), name, program, args).await
    }

    /// The same as an account of any namespace.
    pub async fn join_from<A: Into<OsString>>(
        run: &Path,
        api: &ApiServer,
        (namespace, account): (&str, &str),
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let kubeconfig = api.service_account_kubeconfig(namespace, account).await?;
        let process = Spec::new(name, program, run)
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            // Several run side by side: whoever reads these pages says where.
            .env("CATALOG_MESH_DEBUG_LISTEN", "127.0.0.1:0")
            .spawn()?;
        Ok(Self {
            process,
            http: reqwest::Client::builder().no_proxy().build()?,
            admin: api.client.clone(),
        })
    }

    /// Starts it again after its end; it leads at once.
    pub async fn start_again(&self) -> Result<()> {
        self.free_lease().await?;
        self.process.start().await
    }

    /// Nobody holds the Lease any more, as if its duration had passed.
    pub async fn free_lease(&self) -> Result<()> {
        free_lease(&self.admin, json!({})).await
    }

    /// Waits until it leads.
    pub async fn leads(&self, metrics: &str) -> Result<()> {
        self.process
            .ready(async || {
                let samples = self.metrics(metrics).await?;
                let leads = samples.sum("leader_election_master_status", &[]);
                ensure!(leads == Some(1.0), "it does not lead");
                Ok(())
            })
            .await
    }

    /// Waits until it answers 200 on this URL, /readyz for example.
    pub async fn ready(&self, url: &str) -> Result<()> {
        self.process
            .ready(async || {
                self.http.get(url).send().await?.error_for_status()?;
                Ok(())
            })
            .await
    }

    pub async fn metrics(&self, url: &str) -> Result<Samples> {
        metrics::scrape(&self.http, url).await
    }
}

/// Does at once what time would do: whoever held the Lease is dead, and an
/// operator that starts next is not to wait for him.
pub async fn free_lease(admin: &kube::Client, annotations: Value) -> Result<()> {
    let nobody = json!({
        "metadata": {"annotations": annotations},
        "spec": {"holderIdentity": ""},
    });
    let leases = Api::<Lease>::namespaced(admin.clone(), NAMESPACE);
    let params = PatchParams::default();
    match leases.patch(LEASE, &params, &Patch::Merge(nobody)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        freed => Ok(freed.map(|_| ())?),
    }
}
