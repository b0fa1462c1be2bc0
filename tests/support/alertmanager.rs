//! How does an Alertmanager of a run start? By itself, without peers, on an
//! address of loopback, with one receiver: a webhook that is told at once.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, bail};

use super::process::{Process, Spec};
use super::tools::{self, Alertmanager as Program};

/// Debian's program has the path of its templates built in. Where it is only
/// unpacked, it sees the package's /usr/share for the machine's.
const WITH_ITS_TEMPLATES: &str = r#"mount --bind "$0/share" /usr/share && exec setpriv --pdeathsig KILL -- "$0/bin/prometheus-alertmanager" "$@""#;

/// A running Alertmanager.
pub struct Alertmanager {
    pub process: Process,
    pub address: SocketAddr,
    prefix: String,
}

impl Alertmanager {
    /// Starts one that serves below `prefix` (such as `/alertmanager`, or
    /// nothing) and tells this URL of every alert by itself.
    pub async fn start(
        run: &Path,
        address: SocketAddr,
        prefix: &str,
        webhook: &str,
    ) -> Result<Self> {
        let config = run.join("alertmanager.yml");
        std::fs::write(
            &config,
            format!(
                "route: {{receiver: hook, group_by: ['...'], group_wait: 0s, group_interval: 100ms, repeat_interval: 1h}}\n\
                 receivers: [{{name: hook, webhook_configs: [{{url: '{webhook}', send_resolved: true}}]}}]\n"
            ),
        )?;
        let process = program(run)?
            .arg("--config.file")
            .arg(config)
            .arg("--storage.path")
            .arg(run.join("alertmanager"))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--web.external-url=http://{address}{prefix}"))
            .arg("--cluster.listen-address=")
            .spawn()?;
        let alertmanager = Self {
            process,
            address,
            prefix: prefix.to_owned(),
        };
        alertmanager.ready().await?;
        Ok(alertmanager)
    }

    /// Waits until it answers, as after another start.
    pub async fn ready(&self) -> Result<()> {
        let url = format!("{}/-/ready", self.url());
        self.process
            .ready(async || {
                let answer = client()?.get(&url).send().await?;
                Ok(answer.error_for_status().map(|_| ())?)
            })
            .await
    }

    /// Its URL, as a flag of the operator takes it.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, self.prefix)
    }

    /// The alerts that it says are active, as its API gives them.
    pub async fn active(&self) -> Result<Vec<serde_json::Value>> {
        let url = format!("{}/api/v2/alerts?active=true", self.url());
        let answer = client()?.get(url).send().await?;
        let serde_json::Value::Array(alerts) = answer.error_for_status()?.json().await? else {
            bail!("Alertmanager's list of alerts is none");
        };
        Ok(alerts)
    }
}

fn client() -> Result<reqwest::Client> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Ok(reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()?)
}

/// It ends with the thread that started it, however that ends.
fn program(run: &Path) -> Result<Spec> {
    Ok(match tools::alertmanager()? {
        Program::Installed(program) => Spec::new("alertmanager", "setpriv", run)
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program),
        Program::Unpacked(folder) => Spec::new("alertmanager", "unshare", run)
            .args(["--user", "--map-root-user", "--mount", "--"])
            .args(["sh", "-c", WITH_ITS_TEMPLATES])
            .arg(folder),
    })
}
