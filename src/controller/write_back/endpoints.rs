//! Which endpoints does a Service have, as the catalog is told? Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use crate::catalog::report::Endpoint;
use crate::domain::inputs::ServiceView;
use crate::domain::ports::is_http;
use crate::domain::slice::SliceView;

/// Most endpoints of one service that the catalog takes.
pub(crate) const MOST_ENDPOINTS: usize = 1_000;

/// The endpoints of a Service, each once, in the order of their addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Listing {
    /// The endpoints, at most as many as the catalog takes.
    pub endpoints: Vec<Endpoint>,
    /// How many there are beyond the most that the catalog takes.
    pub left_out: usize,
}

impl Listing {
    /// Stands for the endpoints where two lists are compared.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for endpoint in &self.endpoints {
            (endpoint.address, endpoint.port).hash(&mut hasher);
            (&endpoint.zone, endpoint.ready).hash(&mut hasher);
        }
        self.endpoints.len().hash(&mut hasher);
        hasher.finish()
    }
}

/// What the slices list for the first HTTP port of the Service; nothing where
/// there is no Service, or no such port.
///
/// While an endpoint moves from one slice to another it stands in both. It is
/// ready if one of them says so.
pub(crate) fn listing(service: Option<&ServiceView>, slices: &[Arc<SliceView>]) -> Listing {
    let http = |service: &ServiceView| service.ports.iter().find(|port| is_http(port)).cloned();
    let Some(port) = service.and_then(http) else {
        return Listing::default();
    };
    let name = port.name.as_deref().unwrap_or_default();
    let mut found: BTreeMap<(IpAddr, u16), (Option<String>, bool)> = BTreeMap::new();
    for slice in slices {
        let Some(target) = slice.ports.iter().find(|port| *port.name == *name) else {
            continue;
        };
        for endpoint in &slice.endpoints {
            let ready = endpoint.ready && !endpoint.terminating;
            let zone = endpoint.zone.as_deref().filter(|zone| is_zone(zone));
            let known = found.entry((endpoint.address, target.port)).or_default();
            known.1 |= ready;
            if known.0.is_none() {
                known.0 = zone.map(str::to_owned);
            }
        }
    }
    let left_out = found.len().saturating_sub(MOST_ENDPOINTS);
    let endpoints = found.into_iter().take(MOST_ENDPOINTS);
    Listing {
        endpoints: endpoints
            .map(|((address, port), (zone, ready))| Endpoint {
                address,
                port,
                zone,
                ready,
            })
            .collect(),
        left_out,
    }
}

/// Whether the catalog takes the zone: it is the value of a label, unless
/// somebody made the slice by hand.
fn is_zone(zone: &str) -> bool {
    let outer = |c: char| c.is_ascii_alphanumeric();
    zone.len() <= 63
        && zone.starts_with(outer)
        && zone.ends_with(outer)
        && zone.chars().all(|c| outer(c) || "._-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ports::ServicePort;
    use crate::domain::slice::{SliceEndpoint, SlicePort};

    fn service(ports: &[(Option<&str>, Option<&str>, u16)]) -> ServiceView {
        let port = |(name, protocol, port): &(Option<&str>, Option<&str>, u16)| ServicePort {
            name: name.map(str::to_owned),
            app_protocol: protocol.map(str::to_owned),
            port: *port,
            protocol: None,
        };
        ServiceView {
            ports: ports.iter().map(port).collect(),
            ..ServiceView::default()
        }
    }

    fn endpoint(address: &str, ready: bool) -> SliceEndpoint {
        SliceEndpoint {
            address: address.parse().unwrap(),
            ready,
            terminating: false,
            zone: Some("a".into()),
            pod: None,
        }
    }

    fn slice(ports: &[(&str, u16)], endpoints: Vec<SliceEndpoint>) -> Arc<SliceView> {
        let port = |(name, port): &(&str, u16)| SlicePort {
            name: (*name).into(),
            port: *port,
        };
        Arc::new(SliceView {
            service: "web".into(),
            ports: ports.iter().map(port).collect(),
            endpoints: endpoints.into(),
        })
    }

    fn told(listing: &Listing) -> Vec<String> {
        let line = |e: &Endpoint| format!("{} {} {}", e.address, e.port, e.ready);
        listing.endpoints.iter().map(line).collect()
    }

    const HTTP: &[(Option<&str>, Option<&str>, u16)] =
        &[(Some("metrics"), None, 9090), (Some("http"), None, 80)];

    #[test]
    fn the_port_is_the_first_http_ports_target_as_each_slice_has_it() {
        let slices = [
            slice(
                &[("metrics", 9), ("http", 8080)],
                vec![endpoint("10.0.0.1", true)],
            ),
            slice(&[("http", 8081)], vec![endpoint("10.0.0.2", true)]),
            slice(&[("metrics", 9)], vec![endpoint("10.0.0.3", true)]),
        ];
        let listing = listing(Some(&service(HTTP)), &slices);
        assert_eq!(told(&listing), ["10.0.0.1 8080 true", "10.0.0.2 8081 true"]);
    }

    #[test]
    fn the_port_of_a_service_may_have_no_name() {
        let slices = [slice(&[("", 8080)], vec![endpoint("fd00::1", true)])];
        let listing = listing(Some(&service(&[(None, Some("http"), 80)])), &slices);
        assert_eq!(told(&listing), ["fd00::1 8080 true"]);
    }

    #[test]
    fn one_that_is_about_to_end_is_not_ready() {
        let mut ending = endpoint("10.0.0.1", true);
        ending.terminating = true;
        let slices = [slice(
            &[("http", 1)],
            vec![ending, endpoint("10.0.0.2", false)],
        )];
        let listing = listing(Some(&service(HTTP)), &slices);
        assert_eq!(told(&listing), ["10.0.0.1 1 false", "10.0.0.2 1 false"]);
    }

    #[test]
    fn one_that_stands_in_two_slices_is_listed_once_and_the_order_of_slices_is_no_matter() {
        let one = slice(
            &[("http", 1)],
            vec![endpoint("10.0.0.9", false), endpoint("10.0.0.1", true)],
        );
        let two = slice(&[("http", 1)], vec![endpoint("10.0.0.9", true)]);
        let service = service(HTTP);
        let there = listing(Some(&service), &[Arc::clone(&one), Arc::clone(&two)]);
        let back = listing(Some(&service), &[two, one]);
        assert_eq!(told(&there), ["10.0.0.1 1 true", "10.0.0.9 1 true"]);
        assert_eq!((there.digest(), &there), (back.digest(), &back));
    }

    #[test]
    fn without_a_service_or_an_http_port_there_is_none() {
        let slices = [slice(&[("tcp", 1)], vec![endpoint("10.0.0.1", true)])];
        assert_eq!(listing(None, &slices), Listing::default());
        let tcp = service(&[(Some("tcp"), None, 80)]);
        assert_eq!(listing(Some(&tcp), &slices), Listing::default());
    }

    #[test]
    fn beyond_a_thousand_the_first_are_listed_and_the_others_counted() {
        let many: Vec<_> = (0..1_500_u32)
            .map(|n| endpoint(&std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string(), true))
            .collect();
        let listing = listing(Some(&service(HTTP)), &[slice(&[("http", 1)], many)]);
        assert_eq!((listing.endpoints.len(), listing.left_out), (1_000, 500));
        assert_eq!(listing.endpoints[999].address.to_string(), "10.0.3.231");
    }

    #[test]
    fn a_zone_that_the_catalog_would_refuse_is_left_out() {
        let mut forged = endpoint("10.0.0.1", true);
        forged.zone = Some("a b\n".into());
        let listing = listing(Some(&service(HTTP)), &[slice(&[("http", 1)], vec![forged])]);
        assert_eq!(listing.endpoints[0].zone, None);
    }

    #[test]
    fn whatever_the_catalog_would_see_changes_the_digest() {
        let with = |endpoint: SliceEndpoint| {
            listing(
                Some(&service(HTTP)),
                &[slice(&[("http", 1)], vec![endpoint])],
            )
            .digest()
        };
        let base = with(endpoint("10.0.0.1", true));
        let mut elsewhere = endpoint("10.0.0.1", true);
        elsewhere.zone = Some("b".into());
        for other in [
            endpoint("10.0.0.2", true),
            endpoint("10.0.0.1", false),
            elsewhere,
        ] {
            assert_ne!(with(other), base);
        }
        assert_ne!(Listing::default().digest(), base);
    }
}
