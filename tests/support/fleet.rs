//! Many bindings at once: each with its Service and its catalog record, and
//! what all of them say together.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::audit::{Entry, Mark};
use super::catalog::Catalog;
use super::rig::Rig;
use super::stack::{self, condition};
use super::wait;

/// How long a whole fleet may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

const AT_ONCE: usize = 16;

/// A look at a fleet is no small thing to the API server.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// Bindings `s0` to `s<n-1>` in a namespace of their own.
pub struct Fleet {
    pub namespace: String,
    pub size: usize,
}

impl Fleet {
    /// Makes the namespace and the Services; no record and no binding yet.
    pub async fn prepare(rig: &Rig, name: &str, size: usize) -> Result<Self> {
        let namespace = rig.namespace(name).await?;
        let fleet = Self { namespace, size };
        let services = Api::<Service>::namespaced(rig.client.clone(), &fleet.namespace);
        each(size, |i| {
            let services = services.clone();
            async move {
                let service = serde_json::from_value(json!({
                    "metadata": {"name": format!("s{i}")},
                    "spec": {"ports": [{"name": "http", "port": 80}]},
                }))?;
                services.create(&PostParams::default(), &service).await?;
                Ok(())
            }
            .boxed()
        })
        .await?;
        Ok(fleet)
    }

    /// All of it, and every binding programmed with a timeout of 5 s.
    pub async fn programmed(rig: &Rig, catalog: &Catalog, name: &str, size: usize) -> Result<Self> {
        let fleet = Self::prepare(rig, name, size).await?;
        fleet.put_records(catalog, "5s").await?;
        fleet.bind(rig).await?;
        fleet.wait_for(rig, "Ready", "True Synced").await?;
        Ok(fleet)
    }

    pub fn id(&self, i: usize) -> String {
        format!("{}.s{i}", self.namespace)
    }

    /// The record of one, whose timeout and circuit breaker follow from this.
    pub fn record(&self, i: usize, timeout: &str) -> Value {
        let mut record = stack::record(&self.id(i), &self.namespace, &format!("s{i}"));
        record["timeout"] = json!(timeout);
        record["circuitBreaker"] = json!({"interval": timeout});
        record
    }

    pub async fn put_records(&self, catalog: &Catalog, timeout: &str) -> Result<()> {
        each(self.size, |i| {
            let record = self.record(i, timeout);
            async move { catalog.put(&record).await }.boxed()
        })
        .await
    }

    pub async fn bind(&self, rig: &Rig) -> Result<()> {
        each(self.size, |i| {
            let name = format!("s{i}");
            let binding = stack::binding(&self.namespace, &name, &self.id(i));
            async move { stack::create(rig, &binding).await.map(|_| ()) }.boxed()
        })
        .await
    }

    pub fn bindings(&self, rig: &Rig) -> Api<ServiceBinding> {
        Api::namespaced(rig.client.clone(), &self.namespace)
    }

    /// The same whose fields have no type, for those that cannot be decoded.
    pub fn raw_bindings(&self, rig: &Rig) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("aikernel.io", "v1alpha1", "ServiceBinding");
        let resource = ApiResource::from_gvk(&gvk);
        Api::namespaced_with(rig.client.clone(), &self.namespace, &resource)
    }

    pub fn rules(&self, rig: &Rig, kind: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", kind);
        let resource = ApiResource::from_gvk(&gvk);
        Api::namespaced_with(rig.client.clone(), &self.namespace, &resource)
    }

    /// Waits until the condition of every binding reads so.
    pub async fn wait_for(&self, rig: &Rig, type_: &str, expected: &str) -> Result<()> {
        self.wait_for_but(rig, type_, expected, &[]).await
    }

    /// The same without these.
    pub async fn wait_for_but(
        &self,
        rig: &Rig,
        type_: &str,
        expected: &str,
        without: &[&str],
    ) -> Result<()> {
        let what = format!("{type_}={expected} of {} bindings", self.size);
        let api = self.raw_bindings(rig);
        wait::until(&what, PATIENCE, async || {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            let listed = api.list(&ListParams::default()).await?;
            let mut others = BTreeMap::<_, usize>::new();
            let mut seen = 0;
            for binding in listed {
                let name = binding.metadata.name.as_deref().unwrap_or_default();
                if without.contains(&name) {
                    continue;
                }
                let binding: ServiceBinding =
                    serde_json::from_value(serde_json::to_value(binding)?)?;
                let said = condition(&binding, type_);
                let observed = binding.status.as_ref().and_then(|s| s.observed_generation);
                if said.as_deref() == Some(expected) && observed == binding.metadata.generation {
                    seen += 1;
                } else {
                    *others.entry(said).or_default() += 1;
                }
            }
            ensure!(
                others.is_empty() && seen + without.len() >= self.size,
                "{seen} say so, the others: {others:?}"
            );
            Ok(())
        })
        .await
    }

    /// Waits until every VirtualService and DestinationRule follows a record
    /// of this timeout.
    pub async fn wait_for_timeout(&self, rig: &Rig, timeout: &str) -> Result<()> {
        wait::until(
            &format!("timeout {timeout} everywhere"),
            PATIENCE,
            async || {
                tokio::time::sleep(BETWEEN_LOOKS).await;
                let behind = self.behind(rig, timeout).await?;
                ensure!(behind == 0, "{behind} objects do not follow it");
                Ok(())
            },
        )
        .await
    }

    /// How many of the two objects of every binding do not follow a record of
    /// this timeout.
    pub async fn behind(&self, rig: &Rig, timeout: &str) -> Result<usize> {
        let all = ListParams::default();
        let routes = self.rules(rig, "VirtualService").list(&all).await?;
        let policies = self.rules(rig, "DestinationRule").list(&all).await?;
        let routes = routes
            .iter()
            .filter(|vs| vs.data["spec"]["http"][0]["timeout"] == timeout)
            .count();
        let policies = policies
            .iter()
            .filter(|dr| {
                dr.data["spec"]["trafficPolicy"]["outlierDetection"]["interval"] == timeout
            })
            .count();
        Ok(2 * self.size - routes.min(self.size) - policies.min(self.size))
    }

    /// The operator's writes in this namespace since a mark.
    pub async fn writes(&self, rig: &Rig, since: Mark) -> Result<Writes> {
        let mut entries = rig.operator_writes(since).await?;
        entries.retain(|entry| {
            entry
                .object_ref
                .as_ref()
                .is_some_and(|object| object.namespace == self.namespace)
        });
        Ok(Writes(entries))
    }

    /// Takes the bindings away, whatever state they are in.
    pub async fn clear(&self, rig: &Rig) -> Result<()> {
        let bindings = self.raw_bindings(rig);
        let none = DeleteParams::default();
        bindings
            .delete_collection(&none, &ListParams::default())
            .await?;
        wait::until("no binding left", PATIENCE, async || {
            let left = bindings.list_metadata(&ListParams::default()).await?.items;
            for binding in &left {
                // Where no operator runs any more, nobody else does this.
                let name = binding.metadata.name.as_deref().unwrap_or_default();
                let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
                let _ = bindings
                    .patch_metadata(name, &PatchParams::default(), &patch)
                    .await;
            }
            ensure!(left.is_empty(), "{} are left", left.len());
            Ok(())
        })
        .await
    }
}

/// The operator's writes in one namespace.
#[derive(Debug)]
pub struct Writes(pub Vec<Entry>);

impl Writes {
    /// Those of VirtualServices and DestinationRules, refused ones too.
    pub fn of_rules(&self) -> Vec<&Entry> {
        let rules = ["virtualservices", "destinationrules"];
        let found = self.0.iter().filter(|entry| {
            entry
                .object_ref
                .as_ref()
                .is_some_and(|object| rules.contains(&object.resource.as_str()))
        });
        found.collect()
    }

    /// How many writes of a status there are.
    pub fn of_statuses(&self) -> usize {
        let statuses = self.0.iter().filter(|entry| {
            entry
                .object_ref
                .as_ref()
                .is_some_and(|object| object.subresource == "status")
        });
        statuses.count()
    }

    /// The most writes of one binding's status, and whose they are.
    pub fn most_of_a_status(&self) -> (usize, String) {
        let mut counts = BTreeMap::<_, usize>::new();
        for entry in &self.0 {
            if let Some(object) = &entry.object_ref
                && object.resource == "servicebindings"
                && object.subresource == "status"
            {
                *counts.entry(object.name.clone()).or_default() += 1;
            }
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or((0, String::new()), |(name, count)| (count, name))
    }

    /// How many were stored, Events aside.
    pub fn stored(&self) -> usize {
        let stored = self
            .0
            .iter()
            .filter(|entry| entry.response_status.code < 300);
        stored.filter(|entry| !is_event(entry)).count()
    }

    /// How many Events were stored: no more than statuses, for each tells of
    /// what one says.
    pub fn expect_no_more_events_than_statuses(&self) -> Result<()> {
        let stored = self
            .0
            .iter()
            .filter(|entry| entry.response_status.code < 300);
        let events = stored.filter(|entry| is_event(entry)).count();
        let statuses = self.of_statuses();
        ensure!(
            events <= statuses,
            "{events} Events for {statuses} statuses"
        );
        Ok(())
    }

    /// How many were refused, Events aside.
    pub fn refused(&self) -> usize {
        let refused = self
            .0
            .iter()
            .filter(|entry| entry.response_status.code >= 300);
        refused.filter(|entry| !is_event(entry)).count()
    }

    /// How many there are of each kind and outcome, for people.
    pub fn by_kind(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.0 {
            let object = entry.object_ref.as_ref();
            let (resource, sub) = object.map_or(("", ""), |object| {
                (object.resource.as_str(), object.subresource.as_str())
            });
            let code = entry.response_status.code;
            let kind = format!("{} {resource}/{sub} {code}", entry.verb);
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }

    pub fn expect_none_of_rules(&self) -> Result<()> {
        let rules = self.of_rules();
        ensure!(rules.is_empty(), "{} writes: {rules:?}", rules.len());
        Ok(())
    }

    /// Fails where one binding's status was written more often.
    pub fn expect_statuses(&self, at_most: usize) -> Result<()> {
        let (most, whose) = self.most_of_a_status();
        ensure!(most <= at_most, "{most} writes of the status of {whose}");
        Ok(())
    }
}

fn is_event(entry: &Entry) -> bool {
    let object = entry.object_ref.as_ref();
    object.is_some_and(|object| object.resource == "events")
}

/// Does this for every number below `size`, some at once.
async fn each<'a>(size: usize, work: impl Fn(usize) -> BoxFuture<'a, Result<()>>) -> Result<()> {
    let all: Vec<_> = (0..size).map(work).collect();
    stream::iter(all)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// Resident memory of a process, in KiB.
pub fn resident(pid: u32) -> Result<u64> {
    memory(pid, "VmRSS:")
}

/// The most that a process ever had in memory, in KiB.
pub fn peak(pid: u32) -> Result<u64> {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, what: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(what));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.with_context(|| format!("no {what}"))?.parse()?)
}
