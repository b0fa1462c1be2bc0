//! From an EndpointSlice to what the world keeps of it. No IO.

use std::net::IpAddr;
use std::sync::Arc;

use super::mirror::Seen;
use super::sources::seen;
use crate::api::endpoint_slice::{self, EndpointSlice, SERVICE_NAME};
use crate::domain::slice::{SliceEndpoint, SlicePort, SliceView, Zone};

/// What is remembered of a slice. Of one that belongs to no Service, or whose
/// addresses are names, nothing but that it is there.
pub(crate) fn slice(slice: &EndpointSlice) -> Seen<Arc<SliceView>> {
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get(SERVICE_NAME));
    let numbers = matches!(slice.address_type.as_str(), "IPv4" | "IPv6");
    let view = match service {
        Some(service) if numbers => SliceView {
            service: service.as_str().into(),
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: endpoints(slice),
        },
        _ => SliceView::default(),
    };
    seen(&slice.metadata, Arc::new(view))
}

fn port(port: &endpoint_slice::SlicePort) -> Option<SlicePort> {
    let tcp = port.protocol.as_deref().is_none_or(|name| name == "TCP");
    let number = u16::try_from(port.port?).ok().filter(|port| *port > 0)?;
    tcp.then(|| SlicePort {
        name: port.name.as_deref().unwrap_or_default().into(),
        port: number,
    })
}

fn endpoints(slice: &EndpointSlice) -> Box<[SliceEndpoint]> {
    let mut zones = Vec::new();
    let mut all = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let conditions = endpoint.conditions.as_ref();
        let ready = conditions.and_then(|known| known.ready).unwrap_or(true);
        let terminating = conditions.and_then(|known| known.terminating);
        let target = endpoint.target_ref.as_ref();
        let pod = target
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|pod| pod.name.as_deref());
        for address in &endpoint.addresses {
            let Ok(address) = address.parse::<IpAddr>() else {
                continue;
            };
            all.push(SliceEndpoint {
                address,
                ready,
                terminating: terminating.unwrap_or(false),
                zone: endpoint
                    .zone
                    .as_deref()
                    .map(|zone| shared(&mut zones, zone)),
                pod: pod.map(Into::into),
            });
        }
    }
    all.into()
}

/// The same zone stands in many endpoints, and is looked up once for all of a slice.
fn shared(zones: &mut Vec<Zone>, name: &str) -> Zone {
    if let Some(known) = zones.iter().find(|known| ***known == *name) {
        return known.clone();
    }
    let new = Zone::from(name);
    zones.push(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn view(stored: Value) -> SliceView {
        let stored: EndpointSlice = serde_json::from_value(stored).unwrap();
        SliceView::clone(&slice(&stored).value)
    }

    fn stored(address_type: &str, endpoints: Value) -> Value {
        json!({
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {SERVICE_NAME: "web"}},
            "addressType": address_type,
            "endpoints": endpoints,
            "ports": [
                {"name": "http", "port": 8080, "protocol": "TCP"},
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "any", "port": null},
            ],
        })
    }

    #[test]
    fn what_is_not_said_is_ready_and_not_terminating() {
        let view = view(stored(
            "IPv4",
            json!([
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": true, "terminating": true}},
            ]),
        ));
        let told: Vec<_> = view
            .endpoints
            .iter()
            .map(|e| (e.ready, e.terminating))
            .collect();
        assert_eq!(told, [(true, false), (false, false), (true, true)]);
    }

    #[test]
    fn addresses_of_both_kinds_are_kept_and_what_is_none_is_passed_over() {
        let six = view(stored(
            "IPv6",
            json!([{"addresses": ["fd00::1", "worker.example", ""], "zone": "a"}]),
        ));
        assert_eq!(six.endpoints.len(), 1);
        assert_eq!(
            six.endpoints[0].address,
            "fd00::1".parse::<IpAddr>().unwrap()
        );
        assert_eq!(six.endpoints[0].zone.as_deref(), Some("a"));
    }

    #[test]
    fn of_the_ports_the_tcp_ones_with_a_number_are_kept() {
        let view = view(stored("IPv4", json!([])));
        let ports: Vec<_> = view.ports.iter().map(|p| (&*p.name, p.port)).collect();
        assert_eq!(ports, [("http", 8080)]);
    }

    #[test]
    fn of_a_slice_of_names_or_of_no_service_nothing_is_kept() {
        let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
        let names = view(stored("FQDN", endpoints.clone()));
        let mut free = stored("IPv4", endpoints);
        free["metadata"]["labels"] = json!({});
        assert_eq!(
            (names, view(free)),
            (SliceView::default(), SliceView::default())
        );
    }
}
