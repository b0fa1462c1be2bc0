//! Whom does a check reach? Endpoints that EndpointSlices list and that are Pods
//! of the Service's namespace, and nobody else, whatever slices say that are
//! made by hand. Listeners on all other addresses count who comes: nobody.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::patients::{bind, rest};
use crate::scene::Scene;
use crate::support::answers::OK;
use crate::support::apiserver;
use crate::support::audit::Mark;
use crate::support::namespace;
use crate::support::peer::{Peer, Step};
use crate::support::rig::Rig;
use crate::support::stack::{OPERATOR, PATIENCE};
use crate::support::wait;
use crate::support::workload::ZONES;
use crate::targets::targets;

crate::tests![
    ; alone:
    nobody_is_asked_but_pods_of_the_namespace_whatever_slices_say(20)
];

const NAME: &str = "web";
const PORT: u16 = 8080;

/// Somebody who is not to be asked, and why somebody may think that he is.
struct Canary {
    what: String,
    address: IpAddr,
    peer: Peer,
}

async fn canary(what: impl Into<String>, address: impl Into<IpAddr>) -> Result<Canary> {
    let (what, address) = (what.into(), address.into());
    let site = SocketAddr::new(address, PORT);
    let peer = Peer::on(&site.to_string(), Vec::new()).await;
    Ok(Canary {
        what,
        address,
        peer,
    })
}

/// The address of a Pod that has no other one, and one that no Pod has.
const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x240, 0, 0, 0, 0, 0x10);
const NO_POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x240, 0, 0, 0, 0, 0x11);

async fn nobody_is_asked_but_pods_of_the_namespace_whatever_slices_say(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "targets").await?;
    let web = rig.workload(&scene.namespace, NAME, &ZONES).await?;
    let other = rig.namespace("targets-other").await?;
    let stranger = rig.workload(&other, NAME, &ZONES[..1]).await?;
    let mut canaries = Vec::new();
    let mut slices = Slices::of(&scene, NAME, PORT);

    // The operator's own address, from which it asks; its admin port, the API
    // server's port and the catalog's are those of loopback.
    let own = Ipv4Addr::new(10, 240, 0, 1);
    canaries.push(canary("the operator's own address", own).await?);
    slices.list(own, Some("web-0")).await?;
    // Addresses that no Pod has, under every name that a Pod could have.
    for (what, pod) in [
        ("no Pod is named", None),
        ("a Pod that is not there", Some("nobody")),
        ("a Pod that has another address", Some("web-0")),
        ("a Pod of another namespace's name", Some("web-1")),
    ] {
        let address = rig.addresses.next()?;
        canaries.push(canary(what, address).await?);
        slices.list(address, pod).await?;
    }
    // A Pod of another namespace, by its own name and by one of ours.
    let theirs = stranger.pods[0].address();
    slices.list(theirs, Some("web-0")).await?;
    slices
        .list_of(
            theirs,
            json!({"kind": "Pod", "namespace": other, "name": "web-0"}),
        )
        .await?;
    // A Pod on its node's network, which the real controller lists.
    let node = rig.addresses.next()?;
    canaries.push(canary("a Pod on its node's network", node).await?);
    on_the_nodes_network(&scene, "on-node", node).await?;
    slices.list(node, Some("on-node")).await?;
    // Another kind of object that has a Pod's name.
    let address = rig.addresses.next()?;
    canaries.push(canary("a Node with a Pod's name", address).await?);
    slices
        .list_of(address, json!({"kind": "Node", "name": "web-0"}))
        .await?;
    // A Pod that says that it has the address of loopback, where the API server
    // and the operator are.
    let claims = claims_loopback(&scene).await?;
    // One that has ended.
    let ended = rig.addresses.next()?;
    canaries.push(canary("a Pod that has ended", ended).await?);
    pod(&scene, (NAME, "ended"), ended, "Succeeded", json!({})).await?;
    slices.list(ended, Some("ended")).await?;
    // The same once more, with labels as if controllers had made it.
    let forged = rig.addresses.next()?;
    canaries.push(canary("a slice with our own label", forged).await?);
    slices.forge(forged, "catalog-mesh-controller").await?;
    let forged = rig.addresses.next()?;
    canaries.push(canary("a slice with the controller's label", forged).await?);
    slices
        .forge(forged, "endpointslice-controller.k8s.io")
        .await?;
    // Whatever else names somebody, as far as the server takes it.
    let (listed, addresses) = slices.list_the_corpus().await?;
    ensure!(listed > 80, "{listed} are taken");
    // Each of these addresses is made one of this machine's, where somebody waits.
    let mut unwatched = Vec::new();
    for address in addresses {
        if canaries.iter().any(|canary| canary.address == address) {
            continue;
        }
        if address.is_multicast() {
            unwatched.push(address);
            continue;
        }
        namespace::add_address(address).await?;
        canaries.push(canary(format!("{address} of the corpus"), address).await?);
    }
    let watched = canaries.len();
    eprintln!("{watched} listeners; nobody can be reached at {unwatched:?}");
    ensure!(watched > 50, "{watched} of {listed} are watched");
    // And one who is to be asked: a Pod with nothing but an IPv6 address.
    let six = on_ipv6(&scene, &mut slices, &mut canaries).await?;
    // The server refuses these, wherever a slice comes from.
    for address in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"] {
        let refused = slices
            .put(json!([{"addresses": [address]}]), json!({}))
            .await;
        ensure!(refused.is_err(), "{address} is taken");
    }

    bind(
        &scene,
        NAME,
        &json!({"endpoint": "/health", "interval": "200ms", "timeout": "100ms"}),
    )
    .await?;
    scene.says(NAME, "Healthy", "True Healthy").await?;
    // With the check running all is listed anew.
    slices.again().await?;
    let mut asked = 0;
    for _ in 0..2 {
        wait::until("ten more checks", PATIENCE, async || {
            let now: usize = web
                .pods
                .iter()
                .map(|pod| pod.backend.count("/health"))
                .sum();
            ensure!(now >= asked + 20, "{now}");
            Ok(())
        })
        .await?;
        asked = web
            .pods
            .iter()
            .map(|pod| pod.backend.count("/health"))
            .sum();
    }
    let counts = async || {
        let binding = scene.bindings().get(NAME).await?;
        let status = binding.status.context("no status")?;
        anyhow::Ok(serde_json::to_value(&status.endpoints)?)
    };
    ensure!(counts().await?["total"] == 3, "{}", counts().await?);
    // Who stood still with the machine is well a moment later.
    wait::until("all three healthy", PATIENCE, async || {
        let counts = counts().await?;
        ensure!(counts["total"] == 3 && counts["healthy"] == 3, "{counts}");
        Ok(())
    })
    .await?;
    ensure!(six.requests() >= 5, "{} came by IPv6", six.requests());
    claims.nobody_came().await?;
    for Canary { what, peer, .. } in &canaries {
        ensure!(
            peer.connections() == 0,
            "{what}: {} came",
            peer.connections()
        );
    }
    ensure!(
        stranger.pods[0].backend.total() == 0,
        "another namespace's Pod is asked"
    );

    // A Pod that is deleted is not asked any more, though a slice made by hand
    // goes on listing it.
    slices.list(web.pods[1].address(), Some("web-1")).await?;
    web.delete_pod(1).await?;
    wait::until("one endpoint less", PATIENCE, async || {
        let status = scene
            .bindings()
            .get(NAME)
            .await?
            .status
            .context("no status")?;
        let counts = serde_json::to_value(&status.endpoints)?;
        ensure!(counts["total"] == 2, "{counts}");
        Ok(())
    })
    .await?;
    let before = web.pods[1].backend.total();
    rest(2).await;
    ensure!(
        web.pods[1].backend.total() == before,
        "a deleted Pod is asked"
    );
    scene.stack.stop().await
}

/// A Pod that only has an IPv6 address, in a slice that somebody makes by hand
/// as no Service of the rig is of that family. Beside it an address of nobody.
async fn on_ipv6(
    scene: &Scene<'_>,
    slices: &mut Slices<'_>,
    canaries: &mut Vec<Canary>,
) -> Result<Peer> {
    for address in [SIX, NO_POD] {
        namespace::add_address(address.into()).await?;
    }
    let answers = vec![Step::Read, Step::Send(OK.into())];
    let six = Peer::on(&SocketAddr::new(SIX.into(), PORT).to_string(), answers).await;
    canaries.push(canary("an IPv6 address that no Pod has", NO_POD).await?);
    pod(scene, (NAME, "six"), SIX, "Running", json!({})).await?;
    for address in [SIX, NO_POD] {
        let endpoints = json!([{
            "addresses": [address.to_string()],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": scene.namespace, "name": "six"},
        }]);
        slices.put_as("IPv6", endpoints, json!({})).await?;
    }
    Ok(six)
}

/// Services whose only Pod says that its address is that of loopback, and whose
/// checks go to the ports of the API server and of the operator.
struct Claims<'a> {
    scene: &'a Scene<'a>,
    since: Mark,
}

/// Their names, and how they are checked.
const CLAIMS: [(&str, &str, u16); 3] = [
    ("claims-api-server", "HTTPS", apiserver::PORT),
    ("claims-operator", "HTTP", 9180),
    ("claims-pages", "HTTP", 9182),
];

async fn claims_loopback<'a>(scene: &'a Scene<'a>) -> Result<Claims<'a>> {
    let loopback = Ipv4Addr::LOCALHOST;
    pod(scene, ("claims", "claims"), loopback, "Running", json!({})).await?;
    let since = scene.rig.audit_mark().await?;
    for (name, scheme, port) in CLAIMS {
        let ports = json!([{"name": "http", "port": 80, "targetPort": port}]);
        let spec = json!({"selector": {"app": "claims"}, "ports": ports});
        scene.service_with(name, spec).await?;
        // The API server listens on this one as well, and no Pod has it.
        let own = Ipv4Addr::new(10, 240, 0, 1);
        let mut slices = Slices::of(scene, name, port);
        slices.list(own, Some("claims")).await?;
        let loopback = slices.list(loopback, Some("claims")).await;
        ensure!(loopback.is_err(), "the server takes an address of loopback");
        let check = json!({
            "endpoint": "/health", "interval": "200ms", "timeout": "100ms",
            "scheme": scheme, "port": port,
        });
        bind(scene, name, &check).await?;
    }
    Ok(Claims { scene, since })
}

impl Claims<'_> {
    async fn nobody_came(&self) -> Result<()> {
        let Self { scene, since } = self;
        for (name, ..) in CLAIMS {
            scene.says(name, "Healthy", "Unknown NotCheckable").await?;
        }
        let asked = scene.rig.api.audit.since(*since, &scene.rig.client).await?;
        let asked: Vec<_> = asked
            .iter()
            .filter(|entry| entry.request_uri.starts_with("/health"))
            .collect();
        ensure!(asked.is_empty(), "the API server is asked: {asked:?}");
        let operator = &scene.stack.operator;
        let samples = operator
            .metrics(&format!("http://{OPERATOR}/metrics"))
            .await?;
        for (name, ..) in CLAIMS {
            let service = format!("service=\"{}/{name}\"", scene.namespace);
            let checks = samples.sum("catalog_mesh_health_check_total", &[&service]);
            ensure!(checks.unwrap_or_default() == 0.0, "{checks:?} of {name}");
        }
        Ok(())
    }
}

/// EndpointSlices of a Service that somebody makes by hand.
struct Slices<'a> {
    scene: &'a Scene<'a>,
    service: &'static str,
    port: u16,
    made: Vec<Value>,
}

impl<'a> Slices<'a> {
    fn of(scene: &'a Scene<'a>, service: &'static str, port: u16) -> Self {
        Self {
            scene,
            service,
            port,
            made: Vec::new(),
        }
    }

    async fn list(&mut self, address: Ipv4Addr, pod: Option<&str>) -> Result<()> {
        let namespace = &self.scene.namespace;
        let target = match pod {
            Some(pod) => json!({"kind": "Pod", "namespace": namespace, "name": pod}),
            None => Value::Null,
        };
        self.list_of(address, target).await
    }

    async fn list_of(&mut self, address: Ipv4Addr, target: Value) -> Result<()> {
        let mut endpoint = json!({
            "addresses": [address.to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
        });
        if !target.is_null() {
            endpoint["targetRef"] = target;
        }
        self.put(json!([endpoint]), json!({})).await
    }

    async fn forge(&mut self, address: Ipv4Addr, managed_by: &str) -> Result<()> {
        let labels = json!({
            "endpointslice.kubernetes.io/managed-by": managed_by,
            "app.kubernetes.io/managed-by": managed_by,
        });
        let endpoints = json!([{
            "addresses": [address.to_string()],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": self.scene.namespace, "name": "web-0"},
        }]);
        self.put(endpoints, labels).await
    }

    /// Lists every target that can stand in a slice, as a number or as a name,
    /// under the name of a Pod that there is; says how many the server takes.
    /// How many the server takes, and the addresses among them.
    async fn list_the_corpus(&mut self) -> Result<(usize, BTreeSet<IpAddr>)> {
        let (mut taken, mut addresses) = (0, BTreeSet::new());
        for text in targets(PORT) {
            let address = text.trim_matches(['[', ']']).parse();
            let kind = match address {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => "FQDN",
            };
            let endpoints = json!([{
                "addresses": [text.trim_matches(['[', ']'])],
                "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": self.scene.namespace, "name": "web-0"},
            }]);
            match self.put_as(kind, endpoints, json!({})).await {
                Ok(()) => {
                    taken += 1;
                    addresses.extend(address);
                }
                Err(error) => ensure!(format!("{error:?}").contains("422"), "{text:?}: {error:?}"),
            }
        }
        Ok((taken, addresses))
    }

    async fn put(&mut self, endpoints: Value, labels: Value) -> Result<()> {
        self.put_as("IPv4", endpoints, labels).await
    }

    async fn put_as(&mut self, kind: &str, endpoints: Value, labels: Value) -> Result<()> {
        let mut all = json!({"kubernetes.io/service-name": self.service});
        if let (Some(all), Value::Object(labels)) = (all.as_object_mut(), labels) {
            all.extend(labels);
        }
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-by-hand-{}", self.service, self.made.len()), "labels": all,
            },
            "addressType": kind,
            "ports": [{"name": "http", "port": self.port, "protocol": "TCP"}],
            "endpoints": endpoints,
        });
        self.apply(&slice).await?;
        self.made.push(slice);
        Ok(())
    }

    async fn apply(&self, slice: &Value) -> Result<()> {
        let client = self.scene.rig.client.clone();
        let name = slice["metadata"]["name"].as_str().context("no name")?;
        Api::<EndpointSlice>::namespaced(client, &self.scene.namespace)
            .patch(
                name,
                &PatchParams::apply("by-hand").force(),
                &Patch::Apply(slice),
            )
            .await?;
        Ok(())
    }

    /// Writes all of them once more, each changed a little.
    async fn again(&self) -> Result<()> {
        for slice in &self.made {
            let mut slice = slice.clone();
            slice["metadata"]["annotations"] = json!({"again": "true"});
            self.apply(&slice).await?;
        }
        Ok(())
    }
}

async fn on_the_nodes_network(scene: &Scene<'_>, name: &str, address: Ipv4Addr) -> Result<()> {
    pod(
        scene,
        (NAME, name),
        address,
        "Running",
        json!({"hostNetwork": true}),
    )
    .await
}

/// A Pod of this application and name, with this in its spec.
async fn pod(
    scene: &Scene<'_>,
    (app, name): (&str, &str),
    address: impl Into<IpAddr>,
    phase: &str,
    more: Value,
) -> Result<()> {
    let mut spec = json!({
        "nodeName": "node-zone-a",
        "containers": [{"name": "app", "image": "none"}],
    });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    let address = address.into();
    let pod = json!({"metadata": {"name": name, "labels": {"app": app}}, "spec": spec});
    let pods = Api::<Pod>::namespaced(scene.rig.client.clone(), &scene.namespace);
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await?;
    let status = json!({"status": {
        "phase": phase,
        "podIP": address.to_string(),
        "podIPs": [{"ip": address.to_string()}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}
