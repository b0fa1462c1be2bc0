//! The reference catalog as a process, and what its owners do with it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::process::{Process, Spec};

/// A running catalog. Dropping it kills it.
pub struct Catalog {
    pub process: Process,
    pub url: String,
    http: reqwest::Client,
}

impl Catalog {
    /// Starts it on this address of the run's own network, over an SQLite file
    /// in the run's folder.
    pub async fn start(run: &Path, name: &str, address: &str) -> Result<Self> {
        let database = format!("sqlite://{}", run.join(format!("{name}.db")).display());
        Self::over(run, name, address, &database).await
    }

    /// The same over any database.
    pub async fn over(run: &Path, name: &str, address: &str, database: &str) -> Result<Self> {
        Self::launch(Self::spec(run, name, address, database)?, address).await
    }

    /// The same, for those who know the key of this file.
    pub async fn guarded(
        run: &Path,
        name: &str,
        address: &str,
        database: &str,
        key_file: &Path,
    ) -> Result<Self> {
        Self::guarded_with(run, name, address, database, key_file, &[], &[]).await
    }

    /// The same with more flags, and variables in its environment.
    pub async fn guarded_with(
        run: &Path,
        name: &str,
        address: &str,
        database: &str,
        key_file: &Path,
        more: &[&str],
        env: &[(&str, &OsStr)],
    ) -> Result<Self> {
        let mut spec = Self::spec(run, name, address, database)?
            .args(["--api-key-file".into(), key_file.to_owned()])
            .args(more.iter().copied());
        for (name, value) in env {
            spec = spec.env(name, value);
        }
        let process = spec.spawn()?;
        let mut key = HeaderValue::from_str(std::fs::read_to_string(key_file)?.trim())?;
        key.set_sensitive(true);
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), key)]);
        let http = reqwest::Client::builder()
            .no_proxy()
            .default_headers(headers);
        let catalog = Self {
            process,
            url: format!("http://{address}"),
            http: http.build()?,
        };
        catalog.ready().await?;
        Ok(catalog)
    }

    /// The same with more flags.
    pub async fn with(
        run: &Path,
        name: &str,
        address: &str,
        database: &str,
        more: &[&str],
    ) -> Result<Self> {
        let spec = Self::spec(run, name, address, database)?;
        Self::launch(spec.args(more.iter().copied()), address).await
    }

    /// Begins a new epoch, as its owners do after a backup was restored.
    pub async fn restore_epoch(run: &Path, database: &str) -> Result<()> {
        Spec::new("restore-epoch", program()?, run)
            .args(["--database-url", database, "restore-epoch"])
            .run()
            .await
    }

    /// The same, with the services of a file registered at its start.
    pub async fn seeded(
        run: &Path,
        name: &str,
        address: &str,
        database: &str,
        seed: &Path,
    ) -> Result<Self> {
        let spec = Self::spec(run, name, address, database)?;
        Self::launch(spec.args(["--seed".into(), seed.to_owned()]), address).await
    }

    fn spec(run: &Path, name: &str, address: &str, database: &str) -> Result<Spec> {
        let spec = Spec::new(name, program()?, run);
        Ok(spec.args(["--listen", address, "--database-url", database]))
    }

    async fn launch(spec: Spec, address: &str) -> Result<Self> {
        let process = spec.spawn()?;
        let catalog = Self {
            process,
            url: format!("http://{address}"),
            http: reqwest::Client::builder().no_proxy().build()?,
        };
        catalog.ready().await?;
        Ok(catalog)
    }

    /// Waits until it answers.
    pub async fn ready(&self) -> Result<()> {
        let url = format!("{}/healthz", self.url);
        self.process
            .ready(async || {
                self.http.get(&url).send().await?.error_for_status()?;
                Ok(())
            })
            .await
    }

    /// Creates or replaces a service, as its owner would.
    pub async fn put(&self, service: &Value) -> Result<()> {
        let id = service["id"].as_str().context("a service has an id")?;
        let answer = self
            .http
            .put(format!("{}/api/v1/services/{id}", self.url))
            .json(service)
            .send()
            .await?;
        let (status, body) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "PUT {id}: {status} {body}");
        Ok(())
    }

    /// Deletes a service, as its owner would.
    pub async fn delete(&self, id: &str) -> Result<()> {
        let url = format!("{}/api/v1/services/{id}", self.url);
        self.http.delete(url).send().await?.error_for_status()?;
        Ok(())
    }

    /// Tells it of a service's endpoints, as a cluster would.
    pub async fn report_endpoints(&self, id: &str, body: &Value) -> Result<()> {
        let url = format!("{}/api/v1/services/{id}/endpoints", self.url);
        let request = self.http.put(url).json(body);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Tells it of a service's health as this writer, which is accepted.
    pub async fn report_health(&self, id: &str, writer: Value, health: &str) -> Result<()> {
        let item = json!({"serviceId": id, "health": health, "healthy": 0, "total": 1});
        let body = json!({"writer": writer, "items": [item]});
        let url = format!("{}/api/v1/health:batch", self.url);
        let answer = self.http.post(url).json(&body).send().await?;
        let answer: Value = answer.error_for_status()?.json().await?;
        ensure!(answer["results"][0]["status"] == "accepted", "{answer}");
        Ok(())
    }

    /// The epoch of its history.
    pub async fn epoch(&self) -> Result<String> {
        let url = format!("{}/api/v1/services?limit=1", self.url);
        let answer = self.http.get(url).send().await?.error_for_status()?;
        let page: Value = answer.json().await?;
        Ok(page["epoch"].as_str().context("no epoch")?.to_owned())
    }

    /// Every service, without what the clusters reported.
    pub async fn list(&self) -> Result<Vec<Value>> {
        let mut services = Vec::new();
        let mut cursor = String::new();
        loop {
            let url = format!("{}/api/v1/services?limit=500{cursor}", self.url);
            let answer = self.http.get(url).send().await?.error_for_status()?;
            let page: Value = answer.json().await?;
            let items = page["items"].as_array().context("no items")?;
            services.extend(items.iter().cloned());
            match page["nextCursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(services),
            }
        }
    }

    /// The service as the catalog has it.
    pub async fn get(&self, id: &str) -> Result<Value> {
        let url = format!("{}/api/v1/services/{id}", self.url);
        Ok(self
            .http
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .json()
            .await?)
    }
}

/// The program. Cargo puts examples beside the folder of the test binaries.
pub fn program() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let found = me
        .ancestors()
        .map(|folder| folder.join("examples/catalog-server"))
        .find(|path| path.is_file());
    found.context("the catalog is not built; run `cargo build --example catalog-server`")
}
