//! Addresses in EndpointSlices that are made by hand: none of them is checked,
//! whichever Pod is named with it, and however many are listed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use catalog_mesh_controller::api::policy::HealthCheckScheme;
use catalog_mesh_controller::domain::duration::Millis;
use catalog_mesh_controller::domain::health::targets::{Behind, targets};
use catalog_mesh_controller::domain::inputs::ServiceView;
use catalog_mesh_controller::domain::pod::{KnownPod, PodView};
use catalog_mesh_controller::domain::policy::HealthCheck;
use catalog_mesh_controller::domain::ports::ServicePort;
use catalog_mesh_controller::domain::slice::{SliceEndpoint, SlicePort, SliceView};

use crate::targets as corpus;

/// Where the one real Pod is.
const OWN: &str = "10.244.7.7";

/// Those that an EndpointSlice can hold: numbers as Rust reads them.
fn addresses() -> Vec<IpAddr> {
    let bare = |text: &str| text.trim_matches(['[', ']']).parse().ok();
    let numbers = corpus::targets(8080);
    let numbers: Vec<IpAddr> = numbers.iter().filter_map(|text| bare(text)).collect();
    assert!(numbers.len() > 80, "{}", numbers.len());
    numbers
}

fn pod(addresses: &[IpAddr], host_network: bool) -> KnownPod {
    KnownPod {
        uid: "uid".into(),
        version: 1,
        view: PodView {
            addresses: addresses.into(),
            host_network,
            ready: true,
            ..PodView::default()
        },
    }
}

/// Where checks go when a slice lists all of these under this Pod's name.
fn checked(listed: &[IpAddr], named: Option<&str>, pods: &[(&str, KnownPod)]) -> Vec<IpAddr> {
    let endpoint = |address: &IpAddr| SliceEndpoint {
        address: *address,
        ready: true,
        terminating: false,
        zone: None,
        pod: named.map(Into::into),
    };
    let slice = SliceView {
        service: "web".into(),
        ports: [SlicePort {
            name: "http".into(),
            port: 8080,
        }]
        .into(),
        endpoints: listed.iter().map(endpoint).collect(),
    };
    let http = ServicePort {
        name: Some("http".to_owned()),
        app_protocol: None,
        port: 80,
        protocol: None,
    };
    let behind = Behind {
        namespace: "shop".into(),
        service: Some(ServiceView {
            ports: vec![http],
            ..ServiceView::default()
        }),
        slices: vec![Arc::new(slice)],
        pods: pods
            .iter()
            .map(|(name, pod)| ((*name).to_owned(), pod.clone()))
            .collect::<BTreeMap<_, _>>(),
    };
    let check = HealthCheck {
        endpoint: "/health".to_owned(),
        interval: Millis(10_000),
        timeout: Millis(3_000),
        port: None,
        scheme: HealthCheckScheme::Http,
        failure_threshold: 3,
        success_threshold: 2,
        confirm_interval: Millis(1_000),
        ejection: None,
    };
    let found = targets(&behind, &check);
    found
        .targets
        .iter()
        .map(|target| target.address.ip)
        .collect()
}

#[test]
fn no_address_is_checked_that_no_pod_of_the_namespace_has_for_itself() {
    let own: IpAddr = OWN.parse().unwrap();
    let hostile = addresses();
    let web = ("web-0", pod(&[own], false));
    // The real one is.
    assert_eq!(
        checked(&[own], Some("web-0"), std::slice::from_ref(&web)),
        [own]
    );
    let mut listed = hostile.clone();
    listed.push(own);
    for named in [None, Some(""), Some("nobody"), Some("web-1"), Some("WEB-0")] {
        let found = checked(&listed, named, std::slice::from_ref(&web));
        assert_eq!(found, Vec::<IpAddr>::new(), "{named:?}");
    }
    // Under the real one's name only its own address counts.
    assert_eq!(checked(&listed, Some("web-0"), &[web]), [own]);
    // A Pod on its node's network has whatever the node has.
    for address in &hostile {
        let node = ("node", pod(&[*address], true));
        let found = checked(&[*address], Some("node"), &[node]);
        assert_eq!(found, Vec::<IpAddr>::new(), "{address}");
    }
}

#[test]
fn what_means_somebody_else_is_not_checked_even_where_a_pod_claims_it() {
    // Written down apart from the code, by how they are written.
    let special = |address: &IpAddr| match address {
        IpAddr::V4(four) => matches!(
            four.octets(),
            [0 | 127 | 224..=239, ..] | [169, 254, ..] | [255, 255, 255, 255]
        ),
        IpAddr::V6(six) => {
            let text = six.to_string();
            let starts = [
                "fe80:", "febf:", "ff0", "::ffff:", "64:ff9b:", "2002:", "2001:0:",
            ];
            text == "::"
                || text == "::1"
                || starts.iter().any(|start| text.starts_with(start))
                || (text.starts_with("::") && text.contains('.'))
        }
    };
    let special: Vec<IpAddr> = addresses().into_iter().filter(special).collect();
    assert!(special.len() > 40, "{}", special.len());
    for address in special {
        let claims = ("web-0", pod(&[address], false));
        let found = checked(&[address], Some("web-0"), &[claims]);
        assert_eq!(found, Vec::<IpAddr>::new(), "{address}");
    }
}
