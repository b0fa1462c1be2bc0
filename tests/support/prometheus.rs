//! How does a Prometheus of a run start? By itself, on an address of loopback,
//! scraping these targets and evaluating these rules as often as it can.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::process::{Process, Spec};
use super::tools;

/// A running Prometheus.
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
    http: reqwest::Client,
}

/// A series of an answer: its labels, and its last value.
pub type Sample = (Value, f64);

impl Prometheus {
    /// Starts one that scrapes `target` twice a second, as a job and with
    /// labels that the ServiceMonitor would give it, and evaluates these rules.
    pub async fn start(
        folder: &Path,
        address: SocketAddr,
        target: &str,
        rules: &Value,
    ) -> Result<Self> {
        // Both are YAML, of which JSON is a part.
        std::fs::write(folder.join("rules.yml"), rules.to_string())?;
        let labels =
            json!({"namespace": "aikernel-infrastructure", "pod": "catalog-mesh-controller-0"});
        let config = json!({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [{
                "job_name": "catalog-mesh-controller",
                "static_configs": [{"targets": [target], "labels": labels}],
            }],
        });
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config.to_string())?;
        let process = Spec::new(
            "prometheus",
            tools::prometheus_program("prometheus")?,
            folder,
        )
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .spawn()?;
        let prometheus = Self {
            process,
            address,
            http: reqwest::Client::builder().no_proxy().build()?,
        };
        prometheus
            .process
            .ready(async || {
                let url = format!("http://{address}/-/ready");
                prometheus.http.get(url).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        Ok(prometheus)
    }

    /// What a query gives now, whatever comes of it.
    pub async fn query(&self, query: &str) -> Result<Vec<Sample>> {
        let data = self.get("query", &[("query", query)]).await?;
        let series = data["result"].as_array().context("no vector")?;
        let sample = |series: &Value| {
            let value = series["value"][1].as_str()?.parse().ok()?;
            Some((series["metric"].clone(), value))
        };
        let samples = series.iter().map(sample);
        samples
            .collect::<Option<_>>()
            .context("a value that is none")
    }

    /// All rules, as it knows them.
    pub async fn rules(&self) -> Result<Vec<Value>> {
        let data = self.get("rules", &[]).await?;
        let groups = data["groups"].as_array().context("no groups")?;
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    async fn get(&self, what: &str, query: &[(&str, &str)]) -> Result<Value> {
        let url = format!("http://{}/api/v1/{what}", self.address);
        let answer = self.http.get(url).query(query).send().await?;
        let mut answer: Value = answer.json().await?;
        ensure!(answer["status"] == "success", "{query:?}: {answer}");
        Ok(answer["data"].take())
    }
}
