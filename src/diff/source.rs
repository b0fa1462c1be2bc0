//! Why does a field of our objects have its value? From its path to whoever
//! gave it. No IO.

use serde::Serialize;

use crate::api::service_binding::{PolicyEntry, PolicySource};
use crate::domain::desired::MeshKind;

/// Whoever gave a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(super) enum Source {
    /// The catalog's record.
    Catalog,
    /// The ServiceBinding.
    Binding,
    /// The operator's default, or its flags.
    Default,
    /// The Kubernetes Service.
    Service,
    /// The operator, to recognise what is its own.
    Operator,
}

impl Source {
    /// As it is printed.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "Catalog",
            Self::Binding => "Binding",
            Self::Default => "Default",
            Self::Service => "Service",
            Self::Operator => "Operator",
        }
    }
}

/// Whoever gave the value at that path, by the policy in effect.
pub(super) fn of(kind: MeshKind, path: &[String], policy: &[PolicyEntry]) -> Source {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let (Some(&"spec"), rest) = (path.first(), path.get(1..).unwrap_or_default()) else {
        return Source::Operator;
    };
    let field = match (kind, rest) {
        (MeshKind::VirtualService, ["http", _, "timeout"]) => "timeout".to_owned(),
        (MeshKind::VirtualService, ["http", _, "retries", leaf]) => format!("retries.{leaf}"),
        (MeshKind::VirtualService, ["http", _, "match", ..] | [.., "port", "number"]) => {
            return Source::Service;
        }
        (MeshKind::DestinationRule, ["trafficPolicy", rest @ ..]) => of_policy(rest),
        _ => return Source::Binding,
    };
    let field = format!("trafficPolicy.{field}");
    let covers = |entry: &&PolicyEntry| {
        field
            .strip_prefix(&entry.field)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match policy.iter().find(covers).map(|entry| entry.source) {
        Some(PolicySource::Catalog) => Source::Catalog,
        Some(PolicySource::Binding) => Source::Binding,
        Some(PolicySource::Default) | None => Source::Default,
    }
}

/// The field of the policy that this one below a DestinationRule's
/// `trafficPolicy` stands for.
fn of_policy(path: &[&str]) -> String {
    match path {
        ["outlierDetection", "consecutive5xxErrors"] => {
            "circuitBreaker.consecutiveErrors".to_owned()
        }
        ["outlierDetection", rest @ ..] => format!("circuitBreaker.{}", rest.join(".")),
        ["loadBalancer", "consistentHash", "ringHash", rest @ ..] => {
            format!("loadBalancing.consistentHash.{}", rest.join("."))
        }
        ["loadBalancer", "localityLbSetting", rest @ ..] => {
            format!("loadBalancing.locality.{}", rest.join("."))
        }
        ["loadBalancer", rest @ ..] => format!("loadBalancing.{}", rest.join(".")),
        other => other.join("."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::build::build;
    use crate::domain::fixtures::{binding, inputs, settings, target};
    use crate::domain::validate::{Valid, validate};

    fn valid(policy: &Value, check: &Value) -> Valid {
        let mut binding = binding();
        binding.spec.traffic_policy = serde_json::from_value(policy.clone()).unwrap();
        binding.spec.health_check = serde_json::from_value(check.clone()).unwrap();
        let inputs = inputs(binding);
        validate(&inputs, &target(&inputs), &settings()).unwrap()
    }

    /// Every leaf below `spec` as `path source`.
    fn leaves(kind: MeshKind, value: &Value, valid: &Valid) -> Vec<String> {
        fn walk(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
            let children: Vec<(String, &Value)> = match value {
                Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), v)).collect(),
                Value::Array(items) => {
                    let numbered = items.iter().enumerate();
                    numbered.map(|(at, v)| (at.to_string(), v)).collect()
                }
                _ => return found.push(path.clone()),
            };
            for (step, value) in children {
                path.push(step);
                walk(value, path, found);
                path.pop();
            }
        }
        let mut found = Vec::new();
        walk(value, &mut vec!["spec".to_owned()], &mut found);
        let line = |path: &Vec<String>| {
            let source = of(kind, path, &valid.provenance);
            format!("{} {}", path[1..].join("."), source.as_str())
        };
        found.iter().map(line).collect()
    }

    /// What is written for a policy of the binding's, with the sources.
    fn written(policy: Value, check: Value) -> Vec<String> {
        let valid = valid(&policy, &check);
        let desired = build(&valid.binding);
        let of = |object: &crate::domain::desired::DesiredObject| {
            leaves(object.kind(), &object.manifest("x")["spec"], &valid)
        };
        [of(&desired.destination_rule), of(&desired.virtual_service)].concat()
    }

    #[test]
    fn each_value_names_who_gave_it() {
        let policy = json!({"retries": 3, "circuitBreaker": {"interval": "7s"}});
        let expected = [
            "host Binding",
            "trafficPolicy.connectionPool.http.maxRetries Binding",
            "trafficPolicy.loadBalancer.localityLbSetting.enabled Default",
            "trafficPolicy.outlierDetection.baseEjectionTime Default",
            "trafficPolicy.outlierDetection.consecutive5xxErrors Default",
            "trafficPolicy.outlierDetection.interval Binding",
            "trafficPolicy.outlierDetection.maxEjectionPercent Default",
            "hosts.0 Binding",
            "http.0.match.0.port Service",
            "http.0.retries.attempts Binding",
            "http.0.route.0.destination.host Binding",
            "http.0.route.0.destination.port.number Service",
            "http.0.timeout Catalog",
        ];
        assert_eq!(written(policy, Value::Null), expected);
    }

    #[test]
    fn a_field_that_the_binding_gave_is_never_said_to_be_a_default() {
        let breaker = json!({"consecutiveErrors": 5, "interval": "1s", "baseEjectionTime": "1s", "maxEjectionPercent": 50});
        let pool = json!({
            "tcp": {"maxConnections": 1, "connectTimeout": "1s", "idleTimeout": "1s"},
            "http": {"http1MaxPendingRequests": 1, "http2MaxRequests": 1, "maxRequestsPerConnection": 1, "maxRetries": 1, "idleTimeout": "1s"},
        });
        for load in [
            json!({"simple": "ROUND_ROBIN", "warmup": {"duration": "1s", "minimumPercent": 1, "aggression": 1}}),
            json!({"consistentHash": {"httpHeaderName": "x", "minimumRingSize": 1}}),
            json!({"consistentHash": {"httpCookie": {"name": "x", "path": "/", "ttl": "1s"}}}),
            json!({"consistentHash": {"useSourceIp": true}}),
            json!({"consistentHash": {"httpQueryParameterName": "x"}}),
            json!({"locality": {"enabled": true, "distribute": [{"from": "eu/*", "to": {"eu/*": 100}}]}}),
            json!({"locality": {"enabled": true, "failover": [{"from": "eu", "to": "us"}]}}),
            json!({"locality": {"enabled": true, "failoverPriority": ["topology.kubernetes.io/region"]}}),
        ] {
            let mut load = load;
            if load.get("locality").is_none() {
                load["locality"] = json!({"enabled": true});
            }
            let policy = json!({"circuitBreaker": breaker, "connectionPool": pool, "loadBalancing": load, "retries": 2});
            let defaults: Vec<String> = written(policy, Value::Null)
                .into_iter()
                .filter(|line| line.ends_with(" Default"))
                .collect();
            assert_eq!(defaults, Vec::<String>::new(), "{load}");
        }
    }

    #[test]
    fn marks_are_the_operators() {
        let path = ["metadata", "labels", "x"].map(str::to_owned);
        assert_eq!(of(MeshKind::VirtualService, &path, &[]), Source::Operator);
    }
}
