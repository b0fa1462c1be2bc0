//! The VirtualService and the DestinationRule for a valid binding. No IO, and
//! nothing that can fail: whatever could be wrong was refused before.

use std::collections::BTreeMap;

use super::desired::{Desired, DesiredObject, MeshSpec, OwnerRef};
use super::duration::Millis;
use super::labels;
use super::names::{BindingKey, ServiceKey};
use super::policy::{
    Algorithm, ConnectionPool, EffectivePolicy, HashKey, LoadBalancing, Locality, LocalityWay,
    OutlierPolicy, Retries,
};
use super::ports::HttpPorts;
use crate::api::destination_rule as dr;
use crate::api::virtual_service as vs;

/// A binding that has passed every rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidBinding {
    /// The binding.
    pub binding: BindingKey,
    /// Its uid.
    pub uid: String,
    /// The Service that it names; both objects take its name and namespace.
    pub service: ServiceKey,
    /// Its host, fully qualified.
    pub host: String,
    /// Its HTTP ports.
    pub http_ports: HttpPorts,
    /// The policy in effect.
    pub policy: EffectivePolicy,
    /// The owner, where the binding is in the same namespace and its objects
    /// are to go with it.
    pub owner: Option<OwnerRef>,
    /// Whether the mesh's own locality settings stay in force where nobody
    /// asked for others.
    pub mesh_locality: bool,
}

/// Both objects for the binding.
pub fn build(binding: &ValidBinding) -> Desired {
    let object = |spec| DesiredObject {
        namespace: binding.service.namespace.to_string(),
        name: binding.service.name.to_string(),
        labels: BTreeMap::from([(
            labels::LABEL_MANAGED_BY.to_owned(),
            labels::MANAGER.to_owned(),
        )]),
        annotations: BTreeMap::from([
            (
                labels::ANNOTATION_BINDING_UID.to_owned(),
                binding.uid.clone(),
            ),
            (
                labels::ANNOTATION_BINDING.to_owned(),
                binding.binding.to_string(),
            ),
        ]),
        owner_references: binding.owner.iter().cloned().collect(),
        spec,
    };
    Desired {
        destination_rule: object(MeshSpec::DestinationRule(Box::new(destination_rule(
            binding,
        )))),
        virtual_service: object(MeshSpec::VirtualService(virtual_service(binding))),
    }
}

/// One route for each port, with the port on both sides: a route for all ports
/// works, but `istioctl analyze` calls it ambiguous.
fn virtual_service(binding: &ValidBinding) -> vs::VirtualServiceSpec {
    let policy = &binding.policy;
    let route = |port: &u16| vs::HttpRoute {
        r#match: vec![vs::HttpMatchRequest { port: *port }],
        route: vec![vs::HttpRouteDestination {
            destination: vs::Destination {
                host: binding.host.clone(),
                port: vs::PortSelector { number: *port },
            },
        }],
        timeout: policy.timeout.map(text),
        retries: policy.retries.as_ref().map(retries),
    };
    vs::VirtualServiceSpec {
        hosts: vec![binding.host.clone()],
        http: binding.http_ports.as_slice().iter().map(route).collect(),
    }
}

fn retries(retries: &Retries) -> vs::HttpRetry {
    match retries {
        Retries::Off => vs::HttpRetry {
            attempts: 0,
            per_try_timeout: None,
            retry_on: None,
        },
        Retries::On {
            attempts,
            per_try_timeout,
            retry_on,
        } => vs::HttpRetry {
            attempts: *attempts,
            per_try_timeout: per_try_timeout.map(text),
            retry_on: retry_on.clone(),
        },
    }
}

fn destination_rule(binding: &ValidBinding) -> dr::DestinationRuleSpec {
    let policy = &binding.policy;
    let outlier_detection = policy
        .outlier_detection
        .as_ref()
        .and_then(outlier_detection);
    // Outlier detection alone would make traffic stay in the client's zone.
    let keep_even = outlier_detection.is_some() && !binding.mesh_locality;
    let traffic_policy = dr::TrafficPolicy {
        connection_pool: connection_pool(&policy.connection_pool),
        load_balancer: load_balancer(&policy.load_balancing, keep_even),
        outlier_detection,
    };
    let nothing = traffic_policy == dr::TrafficPolicy::default();
    dr::DestinationRuleSpec {
        host: binding.host.clone(),
        traffic_policy: (!nothing).then_some(traffic_policy),
    }
}

/// None where nothing may be ejected: Istio would read 0 percent as absent, and
/// Envoy would then eject up to 10.
fn outlier_detection(outlier: &OutlierPolicy) -> Option<dr::OutlierDetection> {
    (outlier.max_ejection_percent > 0).then(|| dr::OutlierDetection {
        consecutive_5xx_errors: outlier.consecutive_errors,
        interval: text(outlier.interval),
        base_ejection_time: text(outlier.base_ejection_time),
        max_ejection_percent: outlier.max_ejection_percent,
        min_health_percent: outlier.min_health_percent,
    })
}

fn connection_pool(pool: &ConnectionPool) -> Option<dr::ConnectionPoolSettings> {
    let tcp = dr::TcpSettings {
        max_connections: pool.tcp.max_connections,
        connect_timeout: pool.tcp.connect_timeout.map(text),
        idle_timeout: pool.tcp.idle_timeout.map(text),
    };
    let http = dr::HttpSettings {
        http1_max_pending_requests: pool.http.max_pending_requests,
        http2_max_requests: pool.http.max_requests,
        max_requests_per_connection: pool.http.max_requests_per_connection,
        max_retries: pool.http.max_retries,
        idle_timeout: pool.http.idle_timeout.map(text),
    };
    let settings = dr::ConnectionPoolSettings {
        http: unless_empty(http),
        tcp: unless_empty(tcp),
    };
    unless_empty(settings)
}

fn load_balancer(balancing: &LoadBalancing, keep_even: bool) -> Option<dr::LoadBalancerSettings> {
    let mut settings = dr::LoadBalancerSettings::default();
    match &balancing.algorithm {
        None => {}
        Some(Algorithm::Simple(simple)) => settings.simple = Some(*simple),
        Some(Algorithm::ConsistentHash {
            key,
            minimum_ring_size,
        }) => {
            settings.consistent_hash = Some(consistent_hash(key, *minimum_ring_size));
        }
    }
    settings.warmup = balancing
        .warmup
        .as_ref()
        .map(|warmup| dr::WarmupConfiguration {
            duration: text(warmup.duration),
            minimum_percent: warmup.minimum_percent,
            aggression: warmup.aggression,
        });
    settings.locality_lb_setting = match &balancing.locality {
        Some(locality) => Some(locality_setting(locality)),
        None if keep_even => Some(dr::LocalityLoadBalancerSetting {
            enabled: Some(false),
            ..dr::LocalityLoadBalancerSetting::default()
        }),
        None => None,
    };
    unless_empty(settings)
}

fn consistent_hash(key: &HashKey, minimum_ring_size: Option<u32>) -> dr::ConsistentHashLb {
    let mut hash = dr::ConsistentHashLb::default();
    match key {
        HashKey::Header(name) => hash.http_header_name = Some(name.clone()),
        HashKey::SourceIp => hash.use_source_ip = Some(true),
        HashKey::QueryParameter(name) => hash.http_query_parameter_name = Some(name.clone()),
        HashKey::Cookie { name, path, ttl } => {
            hash.http_cookie = Some(dr::HttpCookie {
                name: name.clone(),
                path: path.clone(),
                ttl: ttl.map(text),
            });
        }
    }
    hash.ring_hash = minimum_ring_size.map(|size| dr::RingHash {
        minimum_ring_size: size,
    });
    hash
}

fn locality_setting(locality: &Locality) -> dr::LocalityLoadBalancerSetting {
    let mut setting = dr::LocalityLoadBalancerSetting {
        enabled: locality.enabled,
        ..dr::LocalityLoadBalancerSetting::default()
    };
    match &locality.way {
        None => {}
        Some(LocalityWay::Distribute(shares)) => setting.distribute = shares.clone(),
        Some(LocalityWay::Failover(pairs)) => setting.failover = pairs.clone(),
        Some(LocalityWay::Priority(labels)) => setting.failover_priority = labels.clone(),
    }
    setting
}

/// An empty map in an object is refused by istiod or owned for nothing.
fn unless_empty<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn text(time: Millis) -> String {
    time.to_string()
}
