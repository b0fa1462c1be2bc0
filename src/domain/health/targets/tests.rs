//! Which endpoints are checked, and of the others why not.

use super::*;
use crate::api::policy::HealthCheckScheme;
use crate::domain::duration::Millis;
use crate::domain::pod::PodView;
use crate::domain::ports::ServicePort;
use crate::domain::slice::SlicePort;

fn check(port: Option<u16>) -> HealthCheck {
    HealthCheck {
        endpoint: "/health".to_owned(),
        interval: Millis(10_000),
        timeout: Millis(3_000),
        port,
        scheme: HealthCheckScheme::Http,
        failure_threshold: 3,
        success_threshold: 2,
        confirm_interval: Millis(1_000),
        ejection: None,
    }
}

fn pod(addresses: &[&str]) -> KnownPod {
    KnownPod {
        uid: format!("uid-{}", addresses.first().unwrap_or(&"")).into(),
        version: 1,
        view: PodView {
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            ready: true,
            ..PodView::default()
        },
    }
}

fn endpoint(address: &str, pod: Option<&str>) -> SliceEndpoint {
    SliceEndpoint {
        address: address.parse().unwrap(),
        ready: true,
        terminating: false,
        zone: None,
        pod: pod.map(Into::into),
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

const HTTP: &[(&str, u16)] = &[("http", 8080)];

/// `shop/web` with these slices and these Pods of the namespace.
fn behind(slices: Vec<Arc<SliceView>>, pods: Vec<(&str, KnownPod)>) -> Behind {
    let port = |name: &str, port| ServicePort {
        name: Some(name.to_owned()),
        app_protocol: None,
        port,
        protocol: None,
    };
    Behind {
        namespace: "shop".into(),
        service: Some(ServiceView {
            ports: vec![port("tcp-admin", 9000), port("http", 80)],
            ..ServiceView::default()
        }),
        slices,
        pods: pods
            .into_iter()
            .map(|(name, pod)| (name.to_owned(), pod))
            .collect(),
    }
}

/// The same with one slice for the usual port.
fn usual(endpoints: Vec<SliceEndpoint>, pods: Vec<(&str, KnownPod)>) -> Behind {
    behind(vec![slice(HTTP, endpoints)], pods)
}

fn where_to(targets: &Targets) -> Vec<String> {
    let line = |target: &Target| format!("{} {}", target.pod.1, target.address);
    targets.targets.iter().map(line).collect()
}

fn why(targets: &Targets) -> Vec<(String, Excluded)> {
    let line = |e: &Exclusion| (e.address.to_string(), e.why);
    targets.excluded.iter().map(line).collect()
}

#[test]
fn a_ready_pod_of_the_namespace_is_checked_at_its_address_and_the_target_port() {
    let behind = usual(
        vec![endpoint("10.0.0.1", Some("web-0"))],
        vec![("web-0", pod(&["10.0.0.1"]))],
    );
    let found = targets(&behind, &check(None));
    assert_eq!(where_to(&found), ["web-0 10.0.0.1:8080"]);
    assert_eq!(found.targets[0].pod.uid, "uid-10.0.0.1".into());
    assert_eq!(found.excluded, []);
    let found = targets(&behind, &check(Some(9999)));
    assert_eq!(where_to(&found), ["web-0 10.0.0.1:9999"]);
}

#[test]
fn whatever_a_slice_says_no_other_address_is_checked() {
    use Excluded::{HostNetwork, NoPod, NotItsAddress, NotReady, Special, Terminating, UnknownPod};
    // Even where a Pod claims the address as its own.
    let claimed = [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::1",
    ];
    for address in claimed {
        let hostile = usual(
            vec![endpoint(address, Some("web-0"))],
            vec![("web-0", pod(&[address]))],
        );
        let found = targets(&hostile, &check(None));
        assert_eq!(where_to(&found), Vec::<String>::new(), "{address}");
        assert_eq!(found.excluded[0].why, Special, "{address}");
    }
    let on_its_node = || {
        let mut pod = pod(&["192.168.1.10"]);
        pod.view.host_network = true;
        pod
    };
    let ending = || {
        let mut pod = pod(&["10.0.0.1"]);
        pod.view.terminating = true;
        pod
    };
    let unready = |mut endpoint: SliceEndpoint| {
        endpoint.ready = false;
        endpoint
    };
    let terminating = |mut endpoint: SliceEndpoint| {
        endpoint.terminating = true;
        endpoint
    };
    let web = || pod(&["10.0.0.1"]);
    let table: Vec<(&str, SliceEndpoint, KnownPod, Excluded)> = vec![
        (
            "made by hand, without a Pod",
            endpoint("10.0.0.1", None),
            web(),
            NoPod,
        ),
        (
            "a Pod without a name",
            endpoint("10.0.0.1", Some("")),
            web(),
            NoPod,
        ),
        (
            "the API server, without a Pod",
            endpoint("10.96.0.1", None),
            web(),
            NoPod,
        ),
        (
            "the API server, under a Pod's name",
            endpoint("10.96.0.1", Some("web-0")),
            web(),
            NotItsAddress,
        ),
        (
            "a node, under a Pod's name",
            endpoint("192.168.1.10", Some("web-0")),
            web(),
            NotItsAddress,
        ),
        (
            "a node, by a Pod on its network",
            endpoint("192.168.1.10", Some("web-0")),
            on_its_node(),
            HostNetwork,
        ),
        (
            "the operator, which is in another namespace",
            endpoint("10.0.9.9", Some("catalog-mesh-controller-x")),
            web(),
            UnknownPod,
        ),
        (
            "a Pod of another namespace, under the name of one of this",
            endpoint("10.0.7.7", Some("web-0")),
            web(),
            NotItsAddress,
        ),
        (
            "out of the cluster",
            endpoint("93.184.216.34", Some("web-0")),
            web(),
            NotItsAddress,
        ),
        (
            "not ready",
            unready(endpoint("10.0.0.1", Some("web-0"))),
            web(),
            NotReady,
        ),
        (
            "about to end, as the slice says",
            terminating(endpoint("10.0.0.1", Some("web-0"))),
            web(),
            Terminating,
        ),
        (
            "about to end, as the Pod says",
            endpoint("10.0.0.1", Some("web-0")),
            ending(),
            Terminating,
        ),
    ];
    for (case, endpoint, pod, expected) in table {
        let found = targets(&usual(vec![endpoint], vec![("web-0", pod)]), &check(None));
        assert_eq!(where_to(&found), Vec::<String>::new(), "{case}");
        assert_eq!(found.excluded[0].why, expected, "{case}");
    }
}

#[test]
fn a_check_with_a_port_of_its_own_goes_to_no_other_address_either() {
    let hostile = usual(
        vec![
            endpoint("10.96.0.1", Some("web-0")),
            endpoint("127.0.0.1", Some("web-0")),
        ],
        vec![("web-0", pod(&["10.0.0.1"]))],
    );
    assert_eq!(
        where_to(&targets(&hostile, &check(Some(6443)))),
        Vec::<String>::new()
    );
}

#[test]
fn without_a_service_or_a_port_nothing_is_checked() {
    let listed = vec![endpoint("10.0.0.1", Some("web-0"))];
    let mut gone = usual(listed.clone(), vec![("web-0", pod(&["10.0.0.1"]))]);
    gone.service = None;
    assert_eq!(targets(&gone, &check(Some(80))), Targets::default());
    let other = behind(
        vec![slice(&[("tcp-admin", 9000)], listed)],
        vec![("web-0", pod(&["10.0.0.1"]))],
    );
    let found = targets(&other, &check(None));
    assert_eq!(why(&found), [("10.0.0.1".to_owned(), Excluded::NoPort)]);
    assert_eq!(
        where_to(&targets(&other, &check(Some(80)))),
        ["web-0 10.0.0.1:80"]
    );
}

#[test]
fn an_endpoint_that_moves_between_slices_is_ready_if_one_says_so() {
    let mut old = endpoint("10.0.0.1", Some("web-0"));
    old.ready = false;
    let new = endpoint("10.0.0.1", Some("web-0"));
    for slices in [[old.clone(), new.clone()], [new, old]] {
        let slices = slices.map(|endpoint| slice(HTTP, vec![endpoint]));
        let moving = behind(slices.to_vec(), vec![("web-0", pod(&["10.0.0.1"]))]);
        let found = targets(&moving, &check(None));
        assert_eq!(where_to(&found), ["web-0 10.0.0.1:8080"]);
        assert_eq!(found.excluded, []);
    }
}

#[test]
fn a_pod_with_two_addresses_is_checked_by_its_first_one() {
    let both = usual(
        vec![
            endpoint("10.0.0.1", Some("web-0")),
            endpoint("fd00::1", Some("web-0")),
        ],
        vec![("web-0", pod(&["fd00::1", "10.0.0.1"]))],
    );
    let found = targets(&both, &check(None));
    assert_eq!(where_to(&found), ["web-0 [fd00::1]:8080"]);
    assert_eq!(
        why(&found),
        [("10.0.0.1".to_owned(), Excluded::AnotherAddress)]
    );
    let one = usual(
        vec![endpoint("10.0.0.1", Some("web-0"))],
        vec![("web-0", pod(&["fd00::1", "10.0.0.1"]))],
    );
    assert_eq!(
        where_to(&targets(&one, &check(None))),
        ["web-0 10.0.0.1:8080"]
    );
}

#[test]
fn who_is_not_ready_is_told_of_unless_another_address_of_it_is_checked() {
    let unready = |address: &str, name: &str| SliceEndpoint {
        ready: false,
        ..endpoint(address, Some(name))
    };
    let found = targets(
        &usual(
            vec![
                unready("10.0.0.1", "web-0"),
                unready("10.0.0.2", "web-1"),
                endpoint("fd00::2", Some("web-1")),
                unready("10.0.0.3", "forged"),
            ],
            vec![
                ("web-0", pod(&["10.0.0.1"])),
                ("web-1", pod(&["10.0.0.2", "fd00::2"])),
                ("forged", pod(&["10.0.0.4"])),
            ],
        ),
        &check(None),
    );
    let names: Vec<_> = found.unready().map(|pod| &*pod.1).collect();
    assert_eq!(names, ["web-0"]);
}

#[test]
fn a_service_has_a_most_of_endpoints_that_are_checked_and_of_exclusions() {
    let count = MOST + MOST_EXCLUDED + 5;
    let address = |n: usize| format!("10.1.{}.{}", n / 250, n % 250 + 1);
    let names: Vec<String> = (0..count).map(|n| format!("web-{n}")).collect();
    let endpoints = names.iter().enumerate();
    let endpoints = endpoints.map(|(n, name)| endpoint(&address(n), Some(name)));
    let pods = names.iter().enumerate();
    let pods = pods.map(|(n, name)| (name.as_str(), pod(&[&address(n)])));
    let found = targets(&usual(endpoints.collect(), pods.collect()), &check(None));
    assert_eq!(found.targets.len(), MOST);
    assert_eq!(found.excluded.len(), MOST_EXCLUDED);
    assert!(found.excluded.iter().all(|e| e.why == Excluded::TooMany));
    assert_eq!(found.unlisted, 5);
}
