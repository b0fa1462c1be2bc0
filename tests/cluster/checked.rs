//! What the tests of health checks start from: a bound Service whose endpoints
//! can be made to fail, and short words for what is then seen of them on the
//! Pods, in Envoy, in the binding and in the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use crate::scene::{Scene, cluster_id, message};
use crate::support::audit::Mark;
use crate::support::endpoint::Endpoint;
use crate::support::envoy::Envoy;
use crate::support::stack::{self, PATIENCE, condition};
use crate::support::wait;
use crate::support::workload::{SERVICE_PORT, Workload, ZONES, make_pod, set_pod_ready};

/// Istio's label, and what it says where it is ours.
pub(crate) const DRAINING: &str = "istio.io/draining";
pub(crate) const OURS: &str = "catalog-mesh";
/// Our annotation beside it.
pub(crate) const EJECTED: &str = "catalog-mesh.aikernel.io/ejected";

/// A bound Service and its endpoints.
pub(crate) struct Checked<'a> {
    pub(crate) scene: &'a Scene<'a>,
    pub(crate) name: String,
    pub(crate) endpoints: Vec<Endpoint>,
    service: Workload,
}

/// A check that finds out within seconds.
pub(crate) fn quick() -> Value {
    json!({"endpoint": "/health", "interval": "1s", "timeout": "300ms"})
}

/// A check with fewer thresholds, for tests that take many steps.
pub(crate) fn quicker() -> Value {
    json!({
        "endpoint": "/health", "interval": "500ms", "timeout": "300ms",
        "confirmInterval": "100ms", "failureThreshold": 2, "successThreshold": 1,
    })
}

/// These fields and those.
pub(crate) fn with(mut fields: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (fields.as_object_mut(), more) {
        fields.extend(more);
    }
    fields
}

impl<'a> Checked<'a> {
    /// So many endpoints behind a Service that nobody has bound yet.
    pub(crate) async fn unbound(scene: &'a Scene<'a>, name: &str, count: usize) -> Result<Self> {
        let endpoints =
            (0..count).map(async |_| Endpoint::start(scene.rig.addresses.next()?).await);
        Self::of(scene, name, try_join_all(endpoints).await?).await
    }

    /// These endpoints, each with a ready Pod.
    pub(crate) async fn of(
        scene: &'a Scene<'a>,
        name: &str,
        endpoints: Vec<Endpoint>,
    ) -> Result<Self> {
        let service = scene.rig.workload(&scene.namespace, name, &[]).await?;
        let checked = Self {
            scene,
            name: name.to_owned(),
            endpoints,
            service,
        };
        for place in 0..checked.endpoints.len() {
            let zone = ZONES[place % ZONES.len()];
            make_pod(&checked.pods(), name, &checked.pod(place), zone).await?;
            checked.set_ready(place, true).await?;
        }
        let count = checked.endpoints.len();
        checked.service.wait_for_endpoints(count).await?;
        Ok(checked)
    }

    /// So many endpoints with this check in the catalog's record, all found
    /// healthy.
    pub(crate) async fn start(
        scene: &'a Scene<'a>,
        name: &str,
        count: usize,
        check: Value,
    ) -> Result<Self> {
        let checked = Self::unbound(scene, name, count).await?;
        checked
            .bind(json!({"healthCheck": check}), json!({}))
            .await?;
        checked.is_healthy().await?;
        Ok(checked)
    }

    /// Record and binding, with these fields of the record and of the spec.
    /// Envoy tries nothing again, so that each failure shows, and gives up late enough
    /// that a machine that stands still for a moment makes none.
    pub(crate) async fn bind(&self, record: Value, spec: Value) -> Result<()> {
        self.put(record).await?;
        let mut binding = self.scene.binding(&self.name);
        binding["spec"] = with(binding["spec"].take(), spec);
        self.scene.create(&binding).await?;
        self.scene.synced(&self.name).await?;
        Ok(())
    }

    /// The record, with these fields.
    pub(crate) async fn put(&self, fields: Value) -> Result<()> {
        let id = self.scene.id(&self.name);
        let record = stack::record(&id, &self.scene.namespace, &self.name);
        let policy = json!({
            "timeout": "5s", "retries": 0, "loadBalancing": {"simple": "ROUND_ROBIN"},
        });
        self.scene.put(&with(with(record, policy), fields)).await
    }

    // --- its Pods --------------------------------------------------------------

    pub(crate) fn host(&self) -> String {
        self.service.host()
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        self.service.pods_api()
    }

    /// The name of an endpoint's Pod.
    pub(crate) fn pod(&self, place: usize) -> String {
        format!("{}-{place}", self.name)
    }

    pub(crate) fn address(&self, place: usize) -> String {
        self.endpoints[place].address().to_string()
    }

    /// Says as the kubelet would whether the Pod is ready.
    pub(crate) async fn set_ready(&self, place: usize, ready: bool) -> Result<()> {
        let address = self.endpoints[place].address();
        set_pod_ready(&self.pods(), &self.pod(place), address, ready).await
    }

    /// Waits until the Service's slices list just this many ready ones.
    pub(crate) async fn lists_ready(&self, count: usize) -> Result<()> {
        self.service.wait_for_endpoints(count).await
    }

    /// Changes a Pod's metadata as somebody else would.
    pub(crate) async fn edit(&self, place: usize, metadata: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": metadata}));
        self.pods()
            .patch(&self.pod(place), &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    /// Label and annotation of each of its Pods that has any, by name.
    pub(crate) async fn marks(&self) -> Result<BTreeMap<String, (Option<String>, Option<String>)>> {
        let own = ListParams::default().labels(&format!("app={}", self.name));
        let pods = self.pods().list(&own).await?;
        let marks = pods.iter().map(|pod| {
            let label = pod.labels().get(DRAINING).cloned();
            let note = pod.annotations().get(EJECTED).cloned();
            (pod.name_any(), (label, note))
        });
        Ok(marks
            .filter(|(_, (label, note))| label.is_some() || note.is_some())
            .collect())
    }

    /// The places of those that bear our label and our annotation. Both are
    /// there, or none.
    pub(crate) async fn out(&self) -> Result<BTreeSet<usize>> {
        let mut out = BTreeSet::new();
        let marks = self.marks().await?;
        for place in 0..self.endpoints.len() {
            let Some((label, note)) = marks.get(&self.pod(place)) else {
                continue;
            };
            ensure!(
                label.as_deref() != Some(OURS) || note.is_some(),
                "{} bears half a mark: {label:?} {note:?}",
                self.pod(place)
            );
            if label.as_deref() == Some(OURS) {
                out.insert(place);
            }
        }
        Ok(out)
    }

    /// What the binding says of its health, for the word of a failed look.
    pub(crate) async fn word(&self) -> Result<String> {
        let binding = self.scene.bindings().get(&self.name).await?;
        let said = condition(&binding, "Healthy").unwrap_or_default();
        Ok(format!("{said}: {}", message(&binding, "Healthy")))
    }

    /// Waits until just these are out.
    pub(crate) async fn are_out(&self, expected: &[usize]) -> Result<()> {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        wait::until(
            &format!("{expected:?} of {} out", self.name),
            PATIENCE,
            async || {
                let out = self.out().await?;
                ensure!(out == expected, "{out:?} are out, {}", self.word().await?);
                Ok(())
            },
        )
        .await
    }

    /// For this long just these are out at every look.
    pub(crate) async fn stay_out(&self, expected: &[usize], span: Duration) -> Result<()> {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        wait::throughout(
            &format!("{expected:?} of {} out", self.name),
            span,
            async || {
                let out = self.out().await?;
                ensure!(out == expected, "{out:?} are out");
                Ok(())
            },
        )
        .await
    }

    /// Writes of the operator to its Pods, as `patch pods web-0 200`.
    pub(crate) async fn pod_writes(&self, since: Mark) -> Result<Vec<String>> {
        let mut writes = self.scene.writes(since).await?;
        writes.retain(|line| {
            let mut words = line.split(' ').skip(1);
            let is_pod = words.next().is_some_and(|kind| kind.starts_with("pods"));
            is_pod && words.next().is_some_and(|name| self.is_pod(name))
        });
        Ok(writes)
    }

    fn is_pod(&self, name: &str) -> bool {
        (0..self.endpoints.len()).any(|place| self.pod(place) == name)
    }

    // --- what Envoy has ----------------------------------------------------------

    /// The places of those that Envoy has, whatever it thinks of them.
    pub(crate) async fn in_envoy(&self, envoy: &Envoy) -> Result<BTreeSet<usize>> {
        let known = envoy.endpoints(&self.host(), SERVICE_PORT).await?;
        let has = |place: &usize| {
            let address = format!("{}:", self.address(*place));
            known
                .iter()
                .any(|known| known.address.starts_with(&address))
        };
        Ok((0..self.endpoints.len()).filter(has).collect())
    }

    /// Waits until Envoy has just these.
    pub(crate) async fn envoy_has(&self, envoy: &Envoy, expected: &[usize]) -> Result<()> {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        wait::until(
            &format!("{expected:?} of {} in Envoy", self.name),
            PATIENCE,
            async || {
                let known = self.in_envoy(envoy).await?;
                ensure!(
                    known == expected,
                    "it has {known:?}, {}",
                    self.word().await?
                );
                Ok(())
            },
        )
        .await
    }

    // --- what is said of it --------------------------------------------------------

    /// All of its endpoints are found to be healthy, and none is out.
    pub(crate) async fn is_healthy(&self) -> Result<()> {
        let count = self.endpoints.len();
        self.says("True Healthy").await?;
        self.counts(count, count, 0).await
    }

    pub(crate) async fn says(&self, expected: &str) -> Result<ServiceBinding> {
        self.scene.says(&self.name, "Healthy", expected).await
    }

    /// Waits until the status counts so.
    pub(crate) async fn counts(&self, total: usize, healthy: usize, ejected: usize) -> Result<()> {
        let expected = json!({
            "total": total, "healthy": healthy, "ejected": ejected,
            "summary": format!("{healthy}/{total}"),
        });
        wait::until(
            &format!("{expected} of {}", self.name),
            PATIENCE,
            async || {
                let status = self.scene.bindings().get(&self.name).await?.status;
                let status = status.context("no status")?;
                let counts = serde_json::to_value(&status.endpoints)?;
                ensure!(counts == expected, "{counts}, {:?}", status.conditions);
                Ok(())
            },
        )
        .await
    }

    /// Waits until the status shows just these changes of endpoints, each by its
    /// place and whether it is healthy since.
    pub(crate) async fn changed(&self, expected: &[(usize, bool)]) -> Result<()> {
        let expected: Vec<_> = expected
            .iter()
            .map(|(place, healthy)| {
                let to = if *healthy { "Healthy" } else { "Unhealthy" };
                json!([self.address(*place), self.pod(*place), to, *healthy])
            })
            .collect();
        wait::until("the changes of endpoints", PATIENCE, async || {
            let status = self.scene.bindings().get(&self.name).await?.status;
            let shown = status.context("no status")?.endpoint_transitions;
            let brief: Vec<_> = shown
                .iter()
                .map(|t| {
                    let (address, _) = t.address.rsplit_once(':').unwrap_or_default();
                    json!([address, t.pod, t.to, t.why.is_none()])
                })
                .collect();
            ensure!(brief == expected, "{shown:?}");
            Ok(())
        })
        .await
    }

    /// Waits until the catalog has heard so from this cluster.
    pub(crate) async fn catalog_hears(&self, health: &str, healthy: u32, total: u32) -> Result<()> {
        let own = cluster_id(self.scene.rig).await?;
        let what = format!("{health} {healthy}/{total} of {} in the catalog", self.name);
        wait::until(&what, PATIENCE, async || {
            let record = self
                .scene
                .stack
                .catalog
                .get(&self.scene.id(&self.name))
                .await?;
            let views = record["health"].as_array().context("no health")?;
            let view = views.iter().find(|view| view["cluster"] == own.as_str());
            let view = view.context("nothing of this cluster")?;
            ensure!(
                view["health"] == health && view["healthy"] == healthy && view["total"] == total,
                "{view}"
            );
            Ok(())
        })
        .await
    }

    /// How many Events of this kind there are about the binding, as
    /// `Warning EndpointUnhealthy`.
    pub(crate) async fn told(&self, event: &str) -> Result<usize> {
        let events = self.scene.events(&self.name).await?;
        Ok(events.iter().filter(|told| *told == event).count())
    }

    /// What the Events of this reason about the binding say.
    pub(crate) async fn notes(&self, reason: &str) -> Result<Vec<String>> {
        let (client, namespace) = (self.scene.rig.client.clone(), &self.scene.namespace);
        let events = Api::<Event>::namespaced(client, namespace);
        let events = events.list(&ListParams::default()).await?.into_iter();
        let own = events.filter(|event| {
            let about = event
                .regarding
                .as_ref()
                .and_then(|about| about.name.as_ref());
            about == Some(&self.name) && event.reason.as_deref() == Some(reason)
        });
        Ok(own.filter_map(|event| event.note).collect())
    }

    /// Waits until there is one.
    pub(crate) async fn is_told(&self, event: &str) -> Result<()> {
        wait::until(&format!("{event} of {}", self.name), PATIENCE, async || {
            let told = self.told(event).await?;
            ensure!(told > 0, "{:?}", self.scene.events(&self.name).await?);
            Ok(())
        })
        .await
    }
}
