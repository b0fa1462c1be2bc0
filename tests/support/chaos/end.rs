//! Is all as the catalog says, and is held what must be, and nothing else?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use catalog_mesh_controller::domain::build::build;
use catalog_mesh_controller::domain::desired::Desired;
use catalog_mesh_controller::domain::inputs::{
    CatalogAnswer, Inputs, NamespaceView, ServiceView, Settings,
};
use catalog_mesh_controller::domain::labels::ANNOTATION_BINDING_UID;
use catalog_mesh_controller::domain::names::ClusterDomain;
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::served::Served;
use catalog_mesh_controller::domain::validate::{target, validate};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, ResourceExt as _};
use serde_json::Value;
use tokio::time::sleep;

use super::super::policy::{ISTIO, ports};
use super::super::stack::{OPERATOR, condition};
use super::journal::lock;
use super::model::Made;
use super::{STANDBY, World, by_user, service};

pub(super) const BINDING: &str = "ServiceBinding";

/// What is made for a service.
pub(super) const KINDS: [&str; 3] = [BINDING, "VirtualService", "DestinationRule"];

/// A kind of [`KINDS`], as it is asked for.
pub(super) fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&if kind == BINDING {
        GroupVersionKind::gvk("aikernel.io", "v1alpha1", kind)
    } else {
        GroupVersionKind::gvk("networking.istio.io", "v1", kind)
    })
}

/// What there was in the end.
pub(super) struct End {
    /// Services of the catalog.
    pub(super) registered: usize,
    /// Bindings that are held, and how many of them have to be.
    pub(super) held: usize,
    pub(super) had_to_be_held: usize,
}

/// What the cluster holds, by name.
pub(super) struct Found {
    bindings: BTreeMap<String, ServiceBinding>,
    rules: BTreeMap<&'static str, BTreeMap<String, DynamicObject>>,
}

impl Found {
    pub(super) async fn in_namespace(client: &Client, namespace: &str) -> Result<Self> {
        let all = ListParams::default();
        let bindings = Api::<ServiceBinding>::namespaced(client.clone(), namespace);
        let bindings = bindings.list(&all).await?.into_iter();
        let mut rules = BTreeMap::new();
        for kind in KINDS.into_iter().filter(|kind| *kind != BINDING) {
            let api =
                Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource(kind));
            let of_kind = api.list(&all).await?.into_iter();
            let of_kind = of_kind.map(|rule| (rule.name_any(), rule)).collect();
            rules.insert(kind, of_kind);
        }
        Ok(Self {
            bindings: bindings.map(|b| (b.name_any(), b)).collect(),
            rules,
        })
    }

    /// Binding and objects of this name, where all is there and just as the
    /// product makes it of the record.
    pub(super) fn made(&self, name: &str, record: &Value) -> Result<Made> {
        let binding = self.bindings.get(name);
        let binding = binding.with_context(|| format!("no binding {name}"))?;
        ensure!(
            binding.metadata.deletion_timestamp.is_none(),
            "binding {name} is going"
        );
        let uid = binding.uid().unwrap_or_default();
        let Desired {
            destination_rule,
            virtual_service,
        } = desired(binding, record)?;
        let mut made = Made::from([(BINDING, uid.clone())]);
        for (kind, should) in [
            ("VirtualService", virtual_service),
            ("DestinationRule", destination_rule),
        ] {
            let rule = self.rules[kind].get(name);
            let rule = rule.with_context(|| format!("no {kind} {name}"))?;
            let should = should.manifest(ISTIO);
            ensure!(
                rule.data["spec"] == should["spec"],
                "{kind} {name} is {}, and should be {}",
                rule.data["spec"],
                should["spec"]
            );
            ensure!(
                rule.annotations().get(ANNOTATION_BINDING_UID) == Some(&uid),
                "{kind} {name} is another binding's: {:?}",
                rule.metadata
            );
            made.insert(kind, rule.uid().unwrap_or_default());
        }
        Ok(made)
    }

    /// What there is of this name, whatever it says.
    fn uids(&self, name: &str) -> Made {
        let binding = self.bindings.get(name).and_then(|b| b.uid());
        let rule = |kind: &'static str| Some((kind, self.rules[kind].get(name)?.uid()?));
        let rules = self.rules.keys().filter_map(|kind| rule(kind));
        rules.chain(binding.map(|uid| (BINDING, uid))).collect()
    }

    fn names(&self) -> BTreeSet<String> {
        let rules = self.rules.values().flat_map(BTreeMap::keys);
        rules.chain(self.bindings.keys()).cloned().collect()
    }
}

/// What the product makes of a record and a binding, as `render` shows it.
fn desired(binding: &ServiceBinding, record: &Value) -> Result<Desired> {
    let settings = Settings {
        cluster_domain: ClusterDomain::parse("cluster.local")?,
        root_namespace: "istio-system".to_owned(),
        mesh_locality: false,
        served: Served::default(),
        bounds: Bounds::default(),
    };
    let target = target(binding).map_err(|situation| anyhow!("{situation:?}"))?;
    let inputs = Inputs {
        binding: Arc::new(binding.clone()),
        catalog: CatalogAnswer::Record(Arc::new(serde_json::from_value(record.clone())?)),
        service: Some(ServiceView {
            ports: ports(&service(&binding.name_any())?),
            ..ServiceView::default()
        }),
        target: NamespaceView::default(),
        paused_by: None,
        rivals: Vec::new(),
        rules: Vec::new(),
        living: BTreeSet::new(),
        mesh_api_missing: None,
    };
    let valid = validate(&inputs, &target, &settings);
    let valid = valid.map_err(|situation| anyhow!("{situation:?}"))?;
    Ok(build(&valid.binding))
}

impl World<'_> {
    /// The catalog's records by name.
    pub(super) async fn records(&self) -> Result<BTreeMap<String, Value>> {
        let records = self.catalog.list().await?.into_iter();
        let name = |record: &Value| record["name"].as_str().unwrap_or_default().to_owned();
        Ok(records.map(|record| (name(&record), record)).collect())
    }

    pub(super) async fn found(&self) -> Result<Found> {
        Found::in_namespace(&self.rig.client, &self.namespace).await
    }

    /// Fails with the first difference.
    pub(super) async fn compare(&self) -> Result<End> {
        self.revive().await?;
        let records = self.records().await?;
        let present: BTreeSet<_> = records.keys().cloned().collect();
        lock(&self.model).expect_present(&present)?;
        let epoch = self.catalog.epoch().await?;
        let found = self.found().await?;
        let mut end = End {
            registered: records.len(),
            held: 0,
            had_to_be_held: 0,
        };
        for name in &self.names {
            match records.get(name) {
                Some(record) => {
                    found.made(name, record)?;
                    let said = condition(&found.bindings[name], "Ready");
                    ensure!(said.as_deref() == Some("True Synced"), "{name}: {said:?}");
                }
                None => {
                    let held = self.expect_gone_or_held(&found, name, &epoch)?;
                    end.held += usize::from(held);
                    let must = lock(&self.model).must_be_held(name).is_some();
                    end.had_to_be_held += usize::from(must);
                }
            }
            let uid = found.bindings.get(name).and_then(|b| b.uid());
            if let Some(of_user) = self.users.get(name) {
                ensure!(
                    uid.as_ref() == Some(of_user),
                    "a user's binding {name} is gone"
                );
            }
        }
        let others: Vec<_> = found.names().difference(&self.names).cloned().collect();
        ensure!(others.is_empty(), "left over: {others:?}");
        self.compare_endpoints(&records).await?;
        self.compare_metric().await?;
        self.journal.expect_no_mistake()?;
        Ok(end)
    }

    /// The catalog does not have the service. Says whether it is held.
    fn expect_gone_or_held(&self, found: &Found, name: &str, epoch: &str) -> Result<bool> {
        let uids = found.uids(name);
        let model = lock(&self.model);
        let binding = found.bindings.get(name);
        let Some(binding) = binding.filter(is_held) else {
            ensure!(
                model.must_be_held(name).is_none(),
                "{name} should be held, and is {:?}",
                binding.map(|binding| &binding.status)
            );
            let rules = uids.len() - usize::from(binding.is_some());
            ensure!(rules == 0, "objects left over of {name}: {uids:?}");
            let said = binding.and_then(|binding| condition(binding, "Ready"));
            let should = by_user(name).then_some("False Removed");
            ensure!(said.as_deref() == should, "{name} is left over: {said:?}");
            return Ok(false);
        };
        if let Some(made) = model.must_be_held(name) {
            ensure!(
                uids == *made,
                "of {name} there is {uids:?}, and was {made:?}"
            );
        }
        let seen = self.journal.seen_in(&binding.uid().unwrap_or_default());
        model.expect_in_doubt(name, seen.as_deref() == Some(epoch))?;
        let message = why_held(binding);
        ensure!(
            message.contains("was restored or replaced"),
            "{name} is held by something else: {message}"
        );
        let children = binding.status.iter().flat_map(|status| &status.children);
        let children: BTreeSet<_> = children.map(|child| child.kind.as_str()).collect();
        let rules: BTreeSet<_> = uids.into_keys().filter(|kind| *kind != BINDING).collect();
        ensure!(
            rules == children,
            "of {name} there are {rules:?}, and should be {children:?}"
        );
        Ok(true)
    }

    async fn compare_endpoints(&self, records: &BTreeMap<String, Value>) -> Result<()> {
        let slices = Api::<EndpointSlice>::namespaced(self.rig.client.clone(), &self.namespace);
        let mut serving: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for slice in slices.list(&ListParams::default()).await? {
            let service = slice.labels().get("kubernetes.io/service-name").cloned();
            let port = slice.ports.iter().flatten().find_map(|port| port.port);
            let of = serving.entry(service.unwrap_or_default()).or_default();
            for endpoint in slice.endpoints.into_iter().flatten() {
                let ready = endpoint.conditions.and_then(|c| c.ready).unwrap_or(true);
                let zone = endpoint.zone.unwrap_or_default();
                let addresses = endpoint.addresses.into_iter();
                of.extend(addresses.map(|address| {
                    format!("{address}:{} {zone} {ready}", port.unwrap_or_default())
                }));
            }
        }
        for (name, record) in records {
            let record = self.catalog.get(record["id"].as_str().unwrap_or_default());
            let record = record.await?;
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let told = record["endpoints"].as_array().into_iter().flatten();
            let told: BTreeSet<_> = told
                .map(|endpoint| {
                    let (address, zone) = (text(&endpoint["address"]), text(&endpoint["zone"]));
                    let (port, ready) = (&endpoint["port"], &endpoint["ready"]);
                    format!("{address}:{port} {zone} {ready}")
                })
                .collect();
            let should = serving.remove(name).unwrap_or_default();
            ensure!(
                told == should,
                "endpoints of {name}: the catalog has {told:?}, the cluster {should:?}"
            );
        }
        Ok(())
    }

    /// The leader's metric counts just those that are held, also those that
    /// others left.
    async fn compare_metric(&self) -> Result<()> {
        let bindings = Api::<ServiceBinding>::all(self.rig.client.clone());
        let bindings = bindings.list(&ListParams::default()).await?;
        let held = bindings.iter().filter(is_held).count();
        let mut said = Vec::new();
        for (operator, listen) in self.operators.iter().zip([OPERATOR, STANDBY]) {
            let samples = operator
                .metrics(&format!("http://{listen}/metrics"))
                .await?;
            let leads = samples.sum("leader_election_master_status", &[]) == Some(1.0);
            let panics = samples.sum("controller_runtime_reconcile_panics_total", &[]);
            ensure!(panics == Some(0.0), "a reconciliation panicked");
            if leads {
                said.push(
                    samples
                        .sum("catalog_mesh_deletions_held", &[])
                        .unwrap_or_default(),
                );
            }
        }
        if said != [held as f64] {
            bail!("leaders say that they hold {said:?}, and {held} bindings are held");
        }
        Ok(())
    }

    /// What is quiet stays so: nothing more is written.
    pub(super) async fn expect_lasting(&self) -> Result<()> {
        sleep(Duration::from_secs(1)).await;
        let mark = self.rig.audit_mark().await?;
        sleep(Duration::from_secs(3)).await;
        let writes = self.rig.operator_writes(mark).await?;
        let here: Vec<_> = writes
            .iter()
            .filter(|entry| {
                let object = entry.object_ref.as_ref();
                object.is_some_and(|object| object.namespace == self.namespace)
            })
            .collect();
        ensure!(here.is_empty(), "it writes on: {here:?}");
        self.compare().await?;
        Ok(())
    }
}

fn is_held(binding: &&ServiceBinding) -> bool {
    condition(binding, "Ready").as_deref() == Some("False DeletionHeld")
}

fn why_held(binding: &ServiceBinding) -> &str {
    let conditions = binding.status.iter().flat_map(|status| &status.conditions);
    let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
    ready.next().map_or("", |ready| &ready.message)
}
