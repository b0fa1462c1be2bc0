//! What the tests of self-doubt start from: services whose endpoints are all
//! well, an operator that checks them, and what it did about them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::scene::{PROGRAM, Scene, line};
use crate::support::audit::Mark;
use crate::support::metrics::Samples;
use crate::support::rig::Rig;
use crate::support::stack::{OPERATOR, PATIENCE, Stack};
use crate::support::wait;
use crate::support::workload::{Workload, ZONES};

/// Bound services, and the operator that checks their endpoints.
pub(crate) struct Patients<'a> {
    pub(crate) scene: Scene<'a>,
    pub(crate) workloads: Vec<Workload>,
}

/// What was written and counted up to here.
pub(crate) struct Before {
    mark: Mark,
    moved: f64,
    ejected: f64,
}

/// Three failures in a row, each second, make an endpoint unhealthy.
pub(crate) fn quick() -> Value {
    json!({"endpoint": "/health", "interval": "1s", "timeout": "300ms"})
}

impl<'a> Patients<'a> {
    /// So many services of so many endpoints each, checked so; all are found to
    /// be healthy.
    pub(crate) async fn start(
        rig: &'a Rig,
        name: &str,
        services: usize,
        endpoints: usize,
        check: &Value,
        flags: &[&str],
    ) -> Result<Self> {
        let stack = Stack::start_with(rig, Path::new(PROGRAM), flags).await?;
        Self::of(stack, rig, name, services, endpoints, check).await
    }

    /// The same with this operator.
    pub(crate) async fn of(
        stack: Stack,
        rig: &'a Rig,
        name: &str,
        services: usize,
        endpoints: usize,
        check: &Value,
    ) -> Result<Self> {
        let stack = Arc::new(stack);
        let scene = Scene::beside(rig, stack, name).await?;
        let mut workloads = Vec::new();
        for number in 0..services {
            let name = format!("web-{number}");
            let zones = ZONES.iter().copied().cycle().take(endpoints);
            let zones: Vec<_> = zones.collect();
            workloads.push(rig.workload(&scene.namespace, &name, &zones).await?);
            bind(&scene, &name, check).await?;
        }
        let patients = Self { scene, workloads };
        for workload in &patients.workloads {
            let name = &workload.name;
            patients.scene.says(name, "Healthy", "True Healthy").await?;
        }
        Ok(patients)
    }

    /// Only the first so many services are bound, and checked, from now on.
    pub(crate) async fn keep(&mut self, services: usize) -> Result<()> {
        for workload in self.workloads.drain(services..) {
            self.scene.delete_binding(&workload.name).await?;
            self.scene.gone(&workload.name).await?;
        }
        let left = self.addresses().len() as f64;
        wait::until("those that are checked no longer", PATIENCE, async || {
            let checked = self.metric("catalog_mesh_health_endpoints", &[]).await?;
            ensure!(checked == left, "{checked} are checked");
            Ok(())
        })
        .await
    }

    /// The addresses of all endpoints.
    pub(crate) fn addresses(&self) -> Vec<Ipv4Addr> {
        let pods = self.workloads.iter().flat_map(|w| &w.pods);
        pods.map(|pod| pod.address()).collect()
    }

    /// How many checks have come to the endpoints.
    pub(crate) fn checks(&self) -> usize {
        let pods = self.workloads.iter().flat_map(|w| &w.pods);
        pods.map(|pod| pod.backend.total()).sum()
    }

    /// Waits until each endpoint was checked once more.
    pub(crate) async fn all_are_asked(&self) -> Result<()> {
        let pods: Vec<_> = self.workloads.iter().flat_map(|w| &w.pods).collect();
        let before: Vec<_> = pods.iter().map(|pod| pod.backend.total()).collect();
        wait::until("a check of every endpoint", PATIENCE, async || {
            for (pod, before) in pods.iter().zip(&before) {
                ensure!(pod.backend.total() > *before, "{} is not asked", pod.name);
            }
            Ok(())
        })
        .await
    }

    pub(crate) async fn samples(&self) -> Result<Samples> {
        let url = format!("http://{OPERATOR}/metrics");
        self.scene.stack.operator.metrics(&url).await
    }

    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let value = self.samples().await?.sum(name, labels);
        value.with_context(|| format!("there is no {name}"))
    }

    /// Whether the operator says that verdicts are held for this reason.
    pub(crate) async fn is_held(&self, reason: &str) -> Result<bool> {
        let label = format!("reason=\"{reason}\"");
        let held = "catalog_mesh_health_verdicts_held";
        Ok(self.metric(held, &[&label]).await? == 1.0)
    }

    /// Waits until it says so.
    pub(crate) async fn held(&self, reason: &str) -> Result<()> {
        let what = format!("verdicts that are held: {reason}");
        wait::until(&what, PATIENCE, async || {
            ensure!(self.is_held(reason).await?, "they are not");
            Ok(())
        })
        .await
    }

    /// Waits until no verdict is held.
    pub(crate) async fn released(&self) -> Result<()> {
        wait::until("verdicts that move", PATIENCE, async || {
            let held = "catalog_mesh_health_verdicts_held";
            ensure!(self.metric(held, &[]).await? == 0.0, "they are held");
            Ok(())
        })
        .await
    }

    pub(crate) fn log(&self) -> Result<String> {
        let log = self.scene.stack.operator.process.log();
        Ok(std::fs::read_to_string(log)?)
    }

    /// Everything up to here.
    pub(crate) async fn before(&self) -> Result<Before> {
        Ok(Before {
            mark: self.scene.mark().await?,
            moved: self.moved().await?,
            ejected: self.ejected().await?,
        })
    }

    async fn moved(&self) -> Result<f64> {
        self.metric("catalog_mesh_health_transitions_total", &[])
            .await
    }

    async fn ejected(&self) -> Result<f64> {
        self.metric("catalog_mesh_ejections_total", &[]).await
    }

    /// Since then no verdict moved, nobody was taken out, and no Pod written to;
    /// and all are held for healthy.
    pub(crate) async fn expect_untouched(&self, before: &Before) -> Result<()> {
        let (moved, ejected) = (self.moved().await?, self.ejected().await?);
        ensure!(
            (moved, ejected) == (before.moved, before.ejected),
            "{} verdicts moved, {} ejections",
            moved - before.moved,
            ejected - before.ejected
        );
        self.expect_no_pod_written(before).await?;
        for workload in &self.workloads {
            let binding = self.scene.bindings().get(&workload.name).await?;
            let status = binding.status.context("no status")?;
            let counts = serde_json::to_value(&status.endpoints)?;
            let all = workload.pods.len();
            ensure!(
                counts["healthy"] == all && counts["total"] == all && counts["ejected"] == 0,
                "{counts}"
            );
        }
        Ok(())
    }

    /// Since then the operator has asked for no change of any Pod.
    pub(crate) async fn expect_no_pod_written(&self, before: &Before) -> Result<()> {
        let writes = self.scene.rig.operator_writes(before.mark).await?;
        let pods = writes.iter().filter(|entry| {
            let object = entry.object_ref.as_ref();
            object.is_some_and(|object| object.resource == "pods")
        });
        let pods: Vec<_> = pods.map(line).collect();
        ensure!(pods.is_empty(), "{pods:?}");
        Ok(())
    }

    /// One that really dies leaves: whoever takes out nobody is not to pass for
    /// careful.
    pub(crate) async fn one_that_dies_is_taken_out(&self) -> Result<()> {
        let (workload, before) = (&self.workloads[0], self.ejected().await?);
        workload.pods[0].backend.stop();
        wait::until("an end of the dead one", PATIENCE, async || {
            let ejected = self.ejected().await?;
            ensure!(ejected == before + 1.0, "{} ejections", ejected - before);
            Ok(())
        })
        .await?;
        let pod = workload.pods_api().get(&workload.pods[0].name).await?;
        let labels = pod.metadata.labels.unwrap_or_default();
        ensure!(labels.contains_key("istio.io/draining"), "{labels:?}");
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        self.scene.stack.stop().await
    }
}

/// Record and binding of a Service that is to be checked so.
pub(crate) async fn bind(scene: &Scene<'_>, name: &str, check: &Value) -> Result<()> {
    let mut record = scene.record(name);
    record["healthCheck"] = check.clone();
    scene.put(&record).await?;
    scene.create(&scene.binding(name)).await?;
    scene.synced(name).await?;
    Ok(())
}

/// For this long, then on.
pub(crate) async fn rest(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}
