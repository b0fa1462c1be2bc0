//! What does the product make of a policy, and has it reached Envoy? Runs the
//! product's own core and stores what comes of it as the operator does, so
//! that a test of behaviour needs no operator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use catalog_mesh_controller::domain::build::build;
use catalog_mesh_controller::domain::desired::{Desired, DesiredObject, MeshKind};
use catalog_mesh_controller::domain::inputs::{
    CatalogAnswer, Inputs, NamespaceView, ServiceView, Settings,
};
use catalog_mesh_controller::domain::labels::MANAGER;
use catalog_mesh_controller::domain::names::ClusterDomain;
use catalog_mesh_controller::domain::policy::bounds::Bounds;
use catalog_mesh_controller::domain::ports::ServicePort;
use catalog_mesh_controller::domain::served::Served;
use catalog_mesh_controller::domain::validate::{Valid, target, validate};
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use serde_json::{Value, json};

use super::envoy::{Envoy, Options};
use super::rig::Rig;
use super::wait;
use super::workload::{SERVICE_PORT, Workload};

/// The version of Istio's API that the rig serves and the operator picks.
pub const ISTIO: &str = "networking.istio.io/v1";
const DOMAIN: &str = "cluster.local";
/// Generous: it bounds a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// What catalog and binding say about a service.
#[derive(Clone, Debug)]
pub struct Given {
    record: Value,
    spec: Value,
    mesh_locality: bool,
}

impl Given {
    /// A record with these fields, and a binding with nothing.
    pub fn catalog(fields: Value) -> Self {
        Self {
            record: fields,
            spec: json!({}),
            mesh_locality: false,
        }
    }

    /// And a binding with these fields in its `spec`.
    pub fn binding(mut self, fields: Value) -> Self {
        self.spec = fields;
        self
    }

    /// As with `--locality=mesh`.
    pub fn mesh_locality(mut self) -> Self {
        self.mesh_locality = true;
        self
    }

    /// What the operator would make of it for this Service.
    pub fn valid(&self, namespace: &str, name: &str, ports: Vec<ServicePort>) -> Result<Valid> {
        let mut record = self.record.clone();
        for (field, value) in [("id", "id"), ("name", name), ("namespace", namespace)] {
            record[field] = json!(value);
        }
        record["revision"] = json!(1);
        let mut spec = self.spec.clone();
        spec["catalogServiceId"] = json!("id");
        spec["serviceName"] = json!(name);
        // Else an ownerReference would name a binding that no cluster has, and
        // the garbage collector would take the objects away.
        spec["deletionPolicy"] = json!("Retain");
        let binding: ServiceBinding = serde_json::from_value(json!({
            "apiVersion": "aikernel.io/v1alpha1",
            "kind": "ServiceBinding",
            "metadata": { "namespace": namespace, "name": name, "uid": format!("uid-of-{name}") },
            "spec": spec,
        }))?;
        let settings = Settings {
            cluster_domain: ClusterDomain::parse(DOMAIN)?,
            root_namespace: "istio-system".to_owned(),
            mesh_locality: self.mesh_locality,
            served: Served::default(),
            bounds: Bounds::default(),
        };
        let target = target(&binding).map_err(|situation| anyhow!("{situation:?}"))?;
        let inputs = Inputs {
            binding: Arc::new(binding),
            catalog: CatalogAnswer::Record(Arc::new(serde_json::from_value(record)?)),
            service: Some(ServiceView {
                ports,
                ..ServiceView::default()
            }),
            target: NamespaceView::default(),
            paused_by: None,
            rivals: Vec::new(),
            rules: Vec::new(),
            living: BTreeSet::new(),
            mesh_api_missing: None,
        };
        validate(&inputs, &target, &settings).map_err(|situation| anyhow!("{situation:?}"))
    }
}

/// The ports of a Service, as the operator reads them.
pub fn ports(service: &Service) -> Vec<ServicePort> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    ports
        .map(|port| ServicePort {
            name: port.name.clone(),
            app_protocol: port.app_protocol.clone(),
            port: u16::try_from(port.port).unwrap_or(0),
            protocol: port.protocol.clone(),
        })
        .collect()
}

/// The VirtualServices or DestinationRules of a namespace.
pub fn rules(client: &kube::Client, kind: MeshKind, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", kind.as_str());
    Api::namespaced_with(client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

/// Applies an object twice: the first apply must pass istiod's webhook without
/// a word, the second must change nothing.
pub async fn apply(client: &kube::Client, object: &DesiredObject) -> Result<DynamicObject> {
    let api = rules(client, object.kind(), &object.namespace);
    let (params, manifest) = (PatchParams::apply(MANAGER), object.manifest(ISTIO));
    let what = || format!("applying {manifest}");
    let first = api
        .patch(&object.name, &params, &Patch::Apply(&manifest))
        .await
        .with_context(what)?;
    let second = api
        .patch(&object.name, &params, &Patch::Apply(&manifest))
        .await
        .with_context(what)?;
    ensure!(
        first.metadata.resource_version == second.metadata.resource_version,
        "the same apply again was a change: {manifest}"
    );
    Ok(second)
}

/// Both objects, in the operator's order.
pub async fn apply_both(client: &kube::Client, desired: &Desired) -> Result<()> {
    apply(client, &desired.destination_rule).await?;
    apply(client, &desired.virtual_service).await?;
    Ok(())
}

/// A client of the mesh, and the services of one namespace that it calls.
pub struct Mesh<'a> {
    pub rig: &'a Rig,
    pub namespace: String,
    pub envoy: Envoy,
}

impl<'a> Mesh<'a> {
    /// A namespace of this name and a number, with a client in it.
    pub async fn start(rig: &'a Rig, name: &str) -> Result<Self> {
        Self::with_client(rig, name, |options| options).await
    }

    /// The same with another client.
    pub async fn with_client(
        rig: &'a Rig,
        name: &str,
        options: impl FnOnce(Options) -> Options,
    ) -> Result<Self> {
        let namespace = rig.namespace(name).await?;
        let envoy = rig
            .envoy(&options(Options::in_namespace(&namespace)))
            .await?;
        Ok(Self {
            rig,
            namespace,
            envoy,
        })
    }

    /// A Service with so many pods under this policy, once Envoy has it all.
    pub async fn service(&self, name: &str, pods: usize, given: &Given) -> Result<Workload> {
        let zones = vec!["zone-a"; pods];
        let workload = self.rig.workload(&self.namespace, name, &zones).await?;
        self.program(&workload, given).await?;
        Ok(workload)
    }

    /// Puts a workload under this policy and waits until Envoy has that, and
    /// every pod.
    pub async fn program(&self, workload: &Workload, given: &Given) -> Result<Valid> {
        let service = Api::<Service>::namespaced(self.rig.client.clone(), &self.namespace)
            .get(&workload.name)
            .await?;
        let valid = given.valid(&self.namespace, &workload.name, ports(&service))?;
        let desired = build(&valid.binding);
        apply_both(&self.rig.client, &desired).await?;
        let port = valid.binding.http_ports.as_slice().first().copied();
        self.wait_for_rules(workload, port.unwrap_or(SERVICE_PORT))
            .await?;
        if port == Some(SERVICE_PORT) {
            let pods = workload.pods.len();
            self.envoy
                .wait_for_endpoints(&workload.host(), pods)
                .await?;
        }
        Ok(valid)
    }

    /// istiod writes the rule that it used into what it makes of it.
    async fn wait_for_rules(&self, workload: &Workload, port: u16) -> Result<()> {
        let host = workload.host();
        let from = |made: &Value, kind: &str| {
            let rule = made["metadata"]["filter_metadata"]["istio"]["config"].as_str();
            let ours = format!("/namespaces/{}/{kind}/{}", self.namespace, workload.name);
            rule.is_some_and(|rule| rule.ends_with(&ours))
        };
        wait::until(
            &format!("our rules for {host} in Envoy"),
            PATIENCE,
            async || {
                let cluster = self.envoy.cluster(&host, port).await?;
                let cluster = cluster.context("it does not know the cluster")?;
                ensure!(from(&cluster, "destination-rule"), "it has {cluster}");
                let routes = self.envoy.routes(&host, port).await?;
                let routes = routes.context("it does not know the host")?;
                ensure!(
                    routes.iter().any(|route| from(route, "virtual-service")),
                    "it has {routes:?}"
                );
                Ok(())
            },
        )
        .await
    }

    /// The cluster that Envoy has for a workload.
    pub async fn cluster(&self, workload: &Workload) -> Result<Value> {
        let cluster = self.envoy.cluster(&workload.host(), SERVICE_PORT).await?;
        cluster.context("Envoy does not know the cluster")
    }

    /// Neither side has refused anything.
    pub async fn expect_accepted(&self) -> Result<()> {
        self.envoy.expect_all_accepted().await?;
        self.rig.istiod.expect_no_nack().await
    }
}
