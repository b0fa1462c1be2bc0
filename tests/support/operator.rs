//! How does the controller run in the rig? As its own process, with a token of
//! its own service account and so with nothing but that account's rights.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::apiserver::ApiServer;
use super::metrics::{self, Samples};
use super::process::{Process, Spec};

pub const NAMESPACE: &str = "aikernel-infrastructure";
pub const ACCOUNT: &str = "catalog-mesh-controller";
/// As the API server's audit log names it.
pub const USER: &str = "system:serviceaccount:aikernel-infrastructure:catalog-mesh-controller";

/// A running controller. Dropping it kills it.
pub struct Operator {
    pub process: Process,
    http: reqwest::Client,
}

impl Operator {
    /// Starts the controller; `name` names its log, so that two can run.
    pub async fn start<A: Into<OsString>>(
        run: &Path,
        api: &ApiServer,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let kubeconfig = api.service_account_kubeconfig(NAMESPACE, ACCOUNT).await?;
        let process = Spec::new(name, program, run)
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .spawn()?;
        Ok(Self {
            process,
            http: reqwest::Client::builder().no_proxy().build()?,
        })
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
