//! Who serves behind a fleet? Pods of the namespace and slices that list them,
//! all at addresses that are this machine's. Talks to the API server as its
//! administrator.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use serde_json::json;

use crate::fleet::{Fleet, for_each};
use crate::support::workload::{ZONES, make_pod, set_pod_ready};

/// Requests at once: nothing is measured meanwhile.
const AT_ONCE: usize = 24;

/// Addresses from here on are handed out to nobody else.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 241, 0, 1);
const MOST: usize = 3 << 16;

/// Makes so many ready Pods behind each Service of the fleet, which answer on
/// this port.
pub(crate) async fn serve(
    client: &kube::Client,
    fleet: &Fleet,
    each: usize,
    port: u16,
) -> Result<()> {
    let count = fleet.names.len() * each;
    ensure!(count < MOST, "{count} endpoints are too many");
    eprintln!("making {count} Pods ...");
    let pods = Api::<Pod>::namespaced(client.clone(), &fleet.namespace);
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), &fleet.namespace);
    let numbers: Vec<usize> = (0..fleet.names.len()).collect();
    for_each(&numbers, AT_ONCE, async |number: &usize| {
        let name = &fleet.names[*number];
        let mut endpoints = Vec::new();
        for n in 0..each {
            let place = number * each + n;
            let address = Ipv4Addr::from(u32::from(FIRST) + u32::try_from(place)?);
            let (pod, zone) = (format!("{name}-{n}"), ZONES[n % ZONES.len()]);
            make_pod(&pods, name, &pod, zone).await?;
            set_pod_ready(&pods, &pod, address, true).await?;
            endpoints.push(json!({
                "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "zone": zone,
                "targetRef": { "kind": "Pod", "namespace": fleet.namespace, "name": pod },
            }));
        }
        let slice = serde_json::from_value(json!({
            "metadata": {
                "name": format!("{name}-1"),
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": port, "protocol": "TCP" }],
            "endpoints": endpoints,
        }))?;
        slices.create(&PostParams::default(), &slice).await?;
        Ok(())
    })
    .await
}
