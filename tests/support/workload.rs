//! How does a Service with ready pods come to be without a kubelet? The rig
//! makes Nodes, Pods and their readiness; the real endpointslice controller
//! makes the slices.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;

use super::address::Addresses;
use super::backend::{self, Backend};
use super::wait;

/// The zones that the rig has a Node in.
pub const ZONES: [&str; 2] = ["zone-a", "zone-b"];
pub const REGION: &str = "region-1";
/// The port of every test Service, named `http`.
pub const SERVICE_PORT: u16 = 80;

/// Makes one Node per zone: a pod's locality is that of its Node.
pub async fn make_nodes(client: &kube::Client) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    for zone in ZONES {
        let node = serde_json::from_value(json!({
            "metadata": {
                "name": node_of(zone),
                "labels": {
                    "topology.kubernetes.io/region": REGION,
                    "topology.kubernetes.io/zone": zone,
                },
            },
        }))?;
        nodes.create(&PostParams::default(), &node).await?;
    }
    Ok(())
}

/// Has just these addresses serve behind a Service, each ready or not, without
/// a pod: for a Service that selects none.
pub async fn serve_by_hand(
    client: &kube::Client,
    namespace: &str,
    service: &str,
    addresses: &[(String, bool)],
) -> Result<()> {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|(address, ready)| json!({"addresses": [address], "conditions": {"ready": ready}}))
        .collect();
    let name = format!("{service}-1");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    let params = PatchParams::apply("by-hand").force();
    Api::<EndpointSlice>::namespaced(client.clone(), namespace)
        .patch(&name, &params, &Patch::Apply(slice))
        .await?;
    Ok(())
}

/// Makes a namespace of just this name.
pub async fn make_namespace(client: &kube::Client, name: &str) -> Result<()> {
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces
        .create(&PostParams::default(), &namespace)
        .await?;
    Ok(())
}

/// A port of a Service.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its prefix says which protocol the mesh takes it for.
    pub name: &'static str,
    pub number: u16,
    /// The port of the pods.
    pub target: u16,
}

/// What every test Service has unless it asks for others.
const HTTP: Port = Port {
    name: "http",
    number: SERVICE_PORT,
    target: backend::PORT,
};

fn node_of(zone: &str) -> String {
    format!("node-{zone}")
}

/// Makes a Pod that the Service `app` selects, in this zone; it is not ready yet.
pub async fn make_pod(pods: &Api<Pod>, app: &str, name: &str, zone: &str) -> Result<()> {
    let pod = serde_json::from_value(json!({
        "metadata": { "name": name, "labels": { "app": app } },
        "spec": {
            // Without a node the endpointslice controller passes it over.
            "nodeName": node_of(zone),
            "containers": [{ "name": "app", "image": "none" }],
        },
    }))?;
    pods.create(&PostParams::default(), &pod).await?;
    Ok(())
}

/// Plays the kubelet: says that the Pod of this name runs at this address, and
/// whether it is ready.
pub async fn set_pod_ready(
    pods: &Api<Pod>,
    name: &str,
    address: Ipv4Addr,
    ready: bool,
) -> Result<()> {
    let address = address.to_string();
    let status = json!({ "status": {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }],
        "containerStatuses": [{
            "name": "app", "image": "none", "imageID": "none", "restartCount": 0,
            "ready": ready, "started": true, "state": { "running": {} },
        }],
    }});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

/// A Service and the pods behind it.
pub struct Workload {
    pub namespace: String,
    pub name: String,
    pub pods: Vec<TestPod>,
    client: kube::Client,
}

/// A Pod object and the backend that answers on its address.
pub struct TestPod {
    pub name: String,
    pub backend: Backend,
}

impl TestPod {
    pub fn address(&self) -> Ipv4Addr {
        self.backend.address()
    }
}

impl Workload {
    /// Makes the Service with one ready pod in each of these zones (a zone may
    /// be named more than once) and waits until its slices list them all.
    pub async fn start(
        client: &kube::Client,
        addresses: &Addresses,
        namespace: &str,
        name: &str,
        zones: &[&str],
    ) -> Result<Self> {
        Self::with_ports(client, addresses, namespace, name, zones, &[HTTP]).await
    }

    /// The same with these ports. The backends listen on the usual one alone
    /// until they are told of more.
    pub async fn with_ports(
        client: &kube::Client,
        addresses: &Addresses,
        namespace: &str,
        name: &str,
        zones: &[&str],
        ports: &[Port],
    ) -> Result<Self> {
        let port = |port: &Port| json!({ "name": port.name, "port": port.number, "targetPort": port.target });
        let service = serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "selector": { "app": name },
                "ports": ports.iter().map(port).collect::<Vec<_>>(),
            },
        }))?;
        Api::<Service>::namespaced(client.clone(), namespace)
            .create(&PostParams::default(), &service)
            .await?;
        let mut workload = Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            pods: Vec::new(),
            client: client.clone(),
        };
        for zone in zones {
            workload.add_pod(addresses, zone).await?;
        }
        workload.wait_for_endpoints(zones.len()).await?;
        Ok(workload)
    }

    /// The name that clients call it by.
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// Adds a ready pod and returns its place in `pods`.
    pub async fn add_pod(&mut self, addresses: &Addresses, zone: &str) -> Result<usize> {
        let place = self.pods.len();
        let backend = Backend::start(addresses.next()?).await?;
        let name = format!("{}-{place}", self.name);
        make_pod(&self.pods_api(), &self.name, &name, zone).await?;
        self.pods.push(TestPod { name, backend });
        self.set_ready(place, true).await?;
        Ok(place)
    }

    /// Plays the kubelet: says that this pod is ready, or that it is not.
    pub async fn set_ready(&self, place: usize, ready: bool) -> Result<()> {
        let pod = self.pods.get(place).context("no such pod")?;
        set_pod_ready(&self.pods_api(), &pod.name, pod.address(), ready).await
    }

    /// Deletes this pod's object; its backend answers on.
    pub async fn delete_pod(&self, place: usize) -> Result<()> {
        let pod = self.pods.get(place).context("no such pod")?;
        // No kubelet would ever confirm a graceful end.
        self.pods_api()
            .delete(&pod.name, &DeleteParams::default().grace_period(0))
            .await?;
        Ok(())
    }

    /// Waits until the slices list just this many ready endpoints.
    pub async fn wait_for_endpoints(&self, ready: usize) -> Result<()> {
        let slices = Api::<EndpointSlice>::namespaced(self.client.clone(), &self.namespace);
        let own =
            ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.name));
        wait::until(
            "the Service's endpoints",
            Duration::from_secs(30),
            async || {
                let listed = slices
                    .list(&own)
                    .await?
                    .iter()
                    .filter_map(|slice| slice.endpoints.as_ref())
                    .flatten()
                    .filter(|endpoint| {
                        endpoint
                            .conditions
                            .as_ref()
                            .is_some_and(|known| known.ready == Some(true))
                    })
                    .count();
                if listed == ready {
                    Ok(())
                } else {
                    bail!("{listed} of {ready} are ready")
                }
            },
        )
        .await
    }

    pub fn pods_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
