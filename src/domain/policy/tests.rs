//! Layers, precedence, defaults and the rules for what belongs together.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::bounds::Bounds;
use super::*;

/// A record with these fields beside the required ones.
fn record(fields: Value) -> ServiceRecord {
    let mut record = json!({ "id": "id", "name": "web", "namespace": "shop", "revision": 1 });
    merge_into(&mut record, fields);
    serde_json::from_value(record).unwrap()
}

/// The spec of a binding with these fields beside the required ones.
fn spec(fields: Value) -> ServiceBindingSpec {
    let mut spec = json!({ "catalogServiceId": "id", "serviceName": "web" });
    merge_into(&mut spec, fields);
    serde_json::from_value(spec).unwrap()
}

fn merge_into(target: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else {
        panic!("fields are an object")
    };
    for (key, value) in fields {
        target[key] = value;
    }
}

fn both(catalog: Value, binding: Value) -> Result<Merged, Vec<PolicyError>> {
    effective(Some(&record(catalog)), &spec(binding), &Bounds::default())
}

/// What is in effect, as `field=value (source)`.
fn in_effect(merged: &Merged) -> Vec<String> {
    merged
        .entries
        .iter()
        .map(|e| format!("{}={} ({:?})", e.field, e.value, e.source))
        .collect()
}

#[track_caller]
fn good(catalog: Value, binding: Value) -> Merged {
    both(catalog, binding).unwrap()
}

/// The one thing that is wrong: giver, field and a part of the message.
#[track_caller]
fn bad(catalog: Value, binding: Value, giver: Giver, field: &str, part: &str) {
    let errors = both(catalog, binding).unwrap_err();
    let [error] = errors.as_slice() else {
        panic!("{errors:?}")
    };
    assert_eq!(
        (error.giver, error.field.as_str()),
        (giver, field),
        "{error}"
    );
    assert!(error.message.contains(part), "{error}");
}

#[test]
fn nothing_given_is_nothing_in_effect() {
    let merged = good(json!({}), json!({}));
    assert_eq!(merged.policy, EffectivePolicy::default());
    assert!(merged.entries.is_empty() && merged.notes.is_empty());
}

#[test]
fn each_leaf_takes_the_catalogs_value_then_the_bindings_then_the_default() {
    let merged = good(
        json!({ "timeout": "5s", "circuitBreaker": { "interval": "20s" } }),
        json!({ "trafficPolicy": {
            "timeout": "9s",
            "circuitBreaker": { "interval": "40s", "consecutiveErrors": 7 }
        }}),
    );
    assert_eq!(
        in_effect(&merged),
        [
            "trafficPolicy.timeout=5s (Catalog)",
            "trafficPolicy.circuitBreaker.consecutiveErrors=7 (Binding)",
            "trafficPolicy.circuitBreaker.interval=20s (Catalog)",
            "trafficPolicy.circuitBreaker.baseEjectionTime=30s (Default)",
            "trafficPolicy.circuitBreaker.maxEjectionPercent=50 (Default)",
        ]
    );
}

#[test]
fn an_empty_health_check_has_every_default() {
    let merged = good(json!({ "healthCheck": {} }), json!({}));
    assert_eq!(
        merged.policy.health_check,
        Some(HealthCheck {
            endpoint: "/health".to_owned(),
            interval: Millis::from_secs(10),
            timeout: Millis::from_secs(3),
            port: None,
            scheme: HealthCheckScheme::Http,
            failure_threshold: 3,
            success_threshold: 2,
            confirm_interval: Millis::from_secs(1),
            ejection: None,
        })
    );
    assert!(in_effect(&merged).contains(&"healthCheck.scheme=HTTP (Default)".to_owned()));
}

#[test]
fn defaults_of_a_health_check_follow_a_short_interval() {
    let check = good(json!({ "healthCheck": { "interval": "2s" } }), json!({}))
        .policy
        .health_check
        .unwrap();
    assert_eq!(
        (check.timeout, check.confirm_interval),
        (Millis(2_000), Millis(500))
    );
    let check = good(json!({ "healthCheck": { "interval": "100ms" } }), json!({}))
        .policy
        .health_check
        .unwrap();
    assert_eq!(
        (check.timeout, check.confirm_interval),
        (Millis(100), Millis(25))
    );
}

#[test]
fn the_errors_that_eject_fall_back_to_the_failure_threshold_and_then_to_five() {
    let errors = |catalog, binding| {
        let outlier = good(catalog, binding).policy.outlier_detection.unwrap();
        outlier.consecutive_errors
    };
    assert_eq!(errors(json!({ "circuitBreaker": {} }), json!({})), 5);
    assert_eq!(errors(json!({ "healthCheck": {} }), json!({})), 5);
    assert_eq!(
        errors(
            json!({ "healthCheck": { "failureThreshold": 4 } }),
            json!({})
        ),
        4
    );
    assert_eq!(
        errors(
            json!({ "healthCheck": { "failureThreshold": 4 } }),
            json!({ "trafficPolicy": { "circuitBreaker": { "consecutiveErrors": 9 } } })
        ),
        9
    );
    let merged = good(
        json!({}),
        json!({ "healthCheck": { "failureThreshold": 4 } }),
    );
    assert!(
        in_effect(&merged)
            .contains(&"trafficPolicy.circuitBreaker.consecutiveErrors=4 (Binding)".to_owned())
    );
}

#[test]
fn retries_bound_the_retries_at_once_unless_somebody_says_otherwise() {
    let retries = |catalog, binding| {
        good(catalog, binding)
            .policy
            .connection_pool
            .http
            .max_retries
    };
    assert_eq!(retries(json!({ "retries": 3 }), json!({})), Some(3));
    assert_eq!(retries(json!({ "retries": 0 }), json!({})), None);
    assert_eq!(
        retries(
            json!({ "retries": { "attempts": 3 } }),
            json!({ "trafficPolicy": { "connectionPool": { "http": { "maxRetries": 8 } } } })
        ),
        Some(8)
    );
}

#[test]
fn retries_switched_off_leave_nothing_beside_them() {
    let merged = good(
        json!({ "retries": { "perTryTimeout": "1s", "retryOn": "503" } }),
        json!({ "trafficPolicy": { "retries": 0 } }),
    );
    assert_eq!(merged.policy.retries, Some(Retries::Off));
    assert_eq!(
        in_effect(&merged),
        ["trafficPolicy.retries.attempts=0 (Binding)"]
    );
}

#[test]
fn a_record_may_leave_the_attempts_to_the_binding_but_not_to_nobody() {
    let catalog = json!({ "retries": { "perTryTimeout": "1s", "retryOn": "reset,503" } });
    let merged = good(
        catalog.clone(),
        json!({ "trafficPolicy": { "retries": 2 } }),
    );
    let expected = Retries::On {
        attempts: 2,
        per_try_timeout: Some(Millis::from_secs(1)),
        retry_on: Some("reset,503".to_owned()),
    };
    assert_eq!(merged.policy.retries, Some(expected));
    bad(
        catalog,
        json!({}),
        Giver::Catalog,
        "retries.attempts",
        "missing",
    );
}

#[test]
fn the_catalogs_choice_of_an_alternative_replaces_the_bindings() {
    let merged = good(
        json!({ "loadBalancing": { "simple": "RANDOM" } }),
        json!({ "trafficPolicy": { "loadBalancing": { "consistentHash": { "useSourceIp": true, "minimumRingSize": 9 } } } }),
    );
    assert_eq!(
        merged.policy.load_balancing.algorithm,
        Some(Algorithm::Simple(SimpleAlgorithm::Random))
    );
    assert_eq!(
        in_effect(&merged),
        ["trafficPolicy.loadBalancing.simple=RANDOM (Catalog)"]
    );
    let merged = good(
        json!({ "loadBalancing": { "consistentHash": { "httpCookie": { "name": "a", "path": "/p" } } } }),
        json!({ "trafficPolicy": { "loadBalancing": { "consistentHash": {
            "httpCookie": { "name": "b", "path": "/q", "ttl": "0s" }, "minimumRingSize": 9
        } } } }),
    );
    assert_eq!(
        in_effect(&merged),
        [
            "trafficPolicy.loadBalancing.consistentHash.httpCookie.name=a (Catalog)",
            "trafficPolicy.loadBalancing.consistentHash.httpCookie.path=/p (Catalog)",
            "trafficPolicy.loadBalancing.consistentHash.httpCookie.ttl=0s (Binding)",
            "trafficPolicy.loadBalancing.consistentHash.minimumRingSize=9 (Binding)",
        ]
    );
}

#[test]
fn a_hash_has_exactly_one_key() {
    let hash = |hash: Value| json!({ "loadBalancing": { "consistentHash": hash } });
    let field = "loadBalancing.consistentHash";
    bad(
        hash(json!({})),
        json!({}),
        Giver::Catalog,
        field,
        "must have one of",
    );
    bad(
        hash(json!({ "useSourceIp": false })),
        json!({}),
        Giver::Catalog,
        field,
        "must have one of",
    );
    bad(
        hash(json!({ "useSourceIp": true, "httpHeaderName": "x" })),
        json!({}),
        Giver::Catalog,
        field,
        "exactly one of",
    );
    bad(
        json!({}),
        json!({ "trafficPolicy": hash(json!({ "minimumRingSize": 9 })) }),
        Giver::Binding,
        "spec.trafficPolicy.loadBalancing.consistentHash",
        "must have one of",
    );
    let merged = good(
        hash(json!({ "minimumRingSize": 9 })),
        json!({ "trafficPolicy": hash(json!({ "httpHeaderName": "x-user" })) }),
    );
    assert_eq!(
        merged.policy.load_balancing.algorithm,
        Some(Algorithm::ConsistentHash {
            key: HashKey::Header("x-user".to_owned()),
            minimum_ring_size: Some(9)
        })
    );
    let both_kinds = json!({ "loadBalancing": { "simple": "RANDOM", "consistentHash": { "useSourceIp": true } } });
    bad(
        both_kinds,
        json!({}),
        Giver::Catalog,
        field,
        "beside simple",
    );
}

#[test]
fn warmup_goes_with_the_algorithms_that_know_load() {
    let warmup = json!({ "loadBalancing": { "warmup": { "duration": "60s" } } });
    for simple in ["ROUND_ROBIN", "LEAST_REQUEST"] {
        good(
            warmup.clone(),
            json!({ "trafficPolicy": { "loadBalancing": { "simple": simple } } }),
        );
    }
    good(warmup.clone(), json!({}));
    bad(
        warmup.clone(),
        json!({ "trafficPolicy": { "loadBalancing": { "simple": "RANDOM" } } }),
        Giver::Binding,
        "spec.trafficPolicy.loadBalancing.simple",
        "warmup (Catalog) works with",
    );
    bad(
        json!({ "loadBalancing": { "consistentHash": { "useSourceIp": true } } }),
        json!({ "trafficPolicy": warmup }),
        Giver::Binding,
        "spec.trafficPolicy.loadBalancing.warmup.duration",
        "the algorithm (Catalog) is another",
    );
    bad(
        json!({ "loadBalancing": { "simple": "RANDOM", "warmup": { "duration": "60s" } } }),
        json!({}),
        Giver::Catalog,
        "loadBalancing.warmup.duration",
        "works with",
    );
}

#[test]
fn failover_needs_something_that_ejects() {
    let failover =
        json!({ "loadBalancing": { "locality": { "failover": [{ "from": "a", "to": "b" }] } } });
    bad(
        failover.clone(),
        json!({}),
        Giver::Catalog,
        "loadBalancing.locality.failover",
        "no effect without",
    );
    good(failover.clone(), json!({ "healthCheck": {} }));
    bad(
        json!({ "circuitBreaker": { "maxEjectionPercent": 0 } }),
        json!({ "trafficPolicy": failover }),
        Giver::Binding,
        "spec.trafficPolicy.loadBalancing.locality.failover",
        "no effect without",
    );
    good(
        json!({ "loadBalancing": { "locality": { "distribute": [{ "from": "a", "to": { "a": 60, "b": 40 } }] } } }),
        json!({}),
    );
}

#[test]
fn a_timeout_over_the_interval_is_blamed_on_the_later_giver() {
    let check = |check: Value| json!({ "healthCheck": check });
    let over = "is longer than interval";
    let none = || json!({});
    bad(
        check(json!({ "timeout": "11s" })),
        none(),
        Giver::Catalog,
        "healthCheck.timeout",
        over,
    );
    bad(
        none(),
        check(json!({ "timeout": "11s" })),
        Giver::Binding,
        "spec.healthCheck.timeout",
        over,
    );
    bad(
        check(json!({ "interval": "2s" })),
        check(json!({ "timeout": "3s" })),
        Giver::Binding,
        "spec.healthCheck.timeout",
        over,
    );
    bad(
        check(json!({ "timeout": "3s" })),
        check(json!({ "interval": "2s" })),
        Giver::Binding,
        "spec.healthCheck.interval",
        over,
    );
    good(check(json!({ "timeout": "3s", "interval": "3s" })), none());
}

#[test]
fn a_value_out_of_bounds_names_its_field_where_its_giver_finds_it() {
    let binding = |policy: Value| json!({ "trafficPolicy": policy });
    let outside = "is not within";
    for (catalog, field) in [
        (json!({ "timeout": "0s" }), "timeout"),
        (json!({ "timeout": "3601s" }), "timeout"),
        (json!({ "retries": 101 }), "retries.attempts"),
        (json!({ "retries": { "attempts": -1 } }), "retries.attempts"),
        (
            json!({ "retries": { "attempts": 1, "perTryTimeout": "0s" } }),
            "retries.perTryTimeout",
        ),
        (
            json!({ "circuitBreaker": { "consecutiveErrors": 0 } }),
            "circuitBreaker.consecutiveErrors",
        ),
        (
            json!({ "circuitBreaker": { "maxEjectionPercent": 101 } }),
            "circuitBreaker.maxEjectionPercent",
        ),
        (
            json!({ "circuitBreaker": { "interval": "99ms" } }),
            "circuitBreaker.interval",
        ),
        (
            json!({ "connectionPool": { "tcp": { "maxConnections": 0 } } }),
            "connectionPool.tcp.maxConnections",
        ),
        (
            json!({ "healthCheck": { "port": 65536 } }),
            "healthCheck.port",
        ),
        (
            json!({ "healthCheck": { "successThreshold": i32::MIN } }),
            "healthCheck.successThreshold",
        ),
        (
            json!({ "loadBalancing": { "consistentHash": { "useSourceIp": true, "minimumRingSize": i64::MAX } } }),
            "loadBalancing.consistentHash.minimumRingSize",
        ),
    ] {
        bad(catalog, json!({}), Giver::Catalog, field, outside);
    }
    bad(
        json!({}),
        binding(json!({ "retries": 101 })),
        Giver::Binding,
        "spec.trafficPolicy.retries",
        outside,
    );
    bad(
        json!({}),
        binding(json!({ "connectionPool": { "http": { "idleTimeout": "0s" } } })),
        Giver::Binding,
        "spec.trafficPolicy.connectionPool.http.idleTimeout",
        "1ms or more",
    );
}

#[test]
fn zero_percent_is_the_catalogs_word_alone() {
    let breaker = json!({ "circuitBreaker": { "maxEjectionPercent": 0 } });
    let merged = good(breaker.clone(), json!({}));
    assert_eq!(
        merged
            .policy
            .outlier_detection
            .map(|outlier| outlier.max_ejection_percent),
        Some(0)
    );
    assert!(merged.notes[0].contains("no endpoint is ever taken out"));
    bad(
        json!({}),
        json!({ "trafficPolicy": breaker }),
        Giver::Binding,
        "spec.trafficPolicy.circuitBreaker.maxEjectionPercent",
        "is not within 1..100",
    );
}

#[test]
fn a_wrong_value_is_said_even_where_another_covers_it() {
    bad(
        json!({ "timeout": "1s" }),
        json!({ "trafficPolicy": { "timeout": "soon" } }),
        Giver::Binding,
        "spec.trafficPolicy.timeout",
        "write it like",
    );
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let errors = both(
        json!({ "timeout": "1us", "retries": { "attempts": 1, "retryOn": "503, reset" } }),
        json!({ "healthCheck": { "endpoint": "http://evil.example/\n" } }),
    )
    .unwrap_err();
    let said: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 3, "{said:?}");
    assert!(said[0].starts_with("timeout: \"1us\" is finer"), "{said:?}");
    assert!(
        said[1].starts_with("retries.retryOn: \"503, reset\" must be"),
        "{said:?}"
    );
    assert!(
        said[2].starts_with("spec.healthCheck.endpoint: \"http://evil.example/\\n\" must be"),
        "{said:?}"
    );
}

#[test]
fn narrowed_bounds_hold_for_values_and_move_the_defaults() {
    let bounds: Bounds = "interval=15s..60s,threshold=1..2,percent=0..30,checkTimeout=1ms..1s"
        .parse()
        .unwrap();
    let narrowed = |check: Value| {
        effective(
            Some(&record(json!({ "healthCheck": check }))),
            &spec(json!({})),
            &bounds,
        )
    };
    let policy = narrowed(json!({})).unwrap().policy;
    let (check, outlier) = (
        policy.health_check.unwrap(),
        policy.outlier_detection.unwrap(),
    );
    assert_eq!(
        (check.interval, check.timeout),
        (Millis(15_000), Millis(1_000))
    );
    assert_eq!((check.failure_threshold, check.success_threshold), (2, 2));
    assert_eq!(
        (outlier.consecutive_errors, outlier.max_ejection_percent),
        (2, 30)
    );
    let errors = narrowed(json!({ "interval": "10s" })).unwrap_err();
    assert_eq!(
        errors[0].to_string(),
        "healthCheck.interval: 10s is not within 15s..60s"
    );
}

#[test]
fn a_per_try_timeout_that_is_never_retried_is_noted() {
    let notes = |retries: Value| good(json!({ "retries": retries }), json!({})).notes;
    let never = "ends the request instead of starting another attempt";
    for on in [
        None,
        Some("503,504"),
        Some("connect-failure,reset-before-request"),
    ] {
        let notes = notes(json!({ "attempts": 2, "perTryTimeout": "1s", "retryOn": on }));
        assert!(
            notes.iter().any(|note| note.contains(never)),
            "{on:?}: {notes:?}"
        );
    }
    for on in ["reset", "503,5xx", "gateway-error"] {
        let notes = notes(json!({ "attempts": 2, "perTryTimeout": "1s", "retryOn": on }));
        assert!(notes.is_empty(), "{on}: {notes:?}");
    }
    assert!(notes(json!({ "attempts": 2, "retryOn": "503" })).is_empty());
}

#[test]
fn an_attempt_as_long_as_the_request_is_noted() {
    let notes = |timeout: &str| {
        let retries = json!({ "attempts": 1, "perTryTimeout": "2s", "retryOn": "5xx" });
        good(json!({ "timeout": timeout, "retries": retries }), json!({})).notes
    };
    assert!(notes("2s")[0].contains("has no effect"));
    assert!(notes("3s").is_empty());
}

#[test]
fn a_health_check_that_finds_out_too_late_is_noted() {
    let notes = |check: Value| good(json!({ "healthCheck": check }), json!({})).notes;
    // 10 s + 3 x 3 s + 2 x 1 s
    assert!(notes(json!({})).is_empty());
    assert!(notes(json!({ "interval": "19s" })).is_empty());
    assert!(notes(json!({ "interval": "20s" }))[0].contains("after 31s"));
    // One silence alone is never believed.
    let once = |interval| notes(json!({ "interval": interval, "failureThreshold": 1 }));
    assert!(once("23s").is_empty());
    assert!(once("24s")[0].contains("after 31s (interval 24s + 2 x timeout 3s + 1 x"));
}

#[test]
fn the_seeds_check_finds_an_endpoint_that_hangs_within_21_s() {
    let check = json!({ "healthCheck": { "interval": "10s", "timeout": "3s" } });
    let check = good(check, json!({})).policy.health_check.unwrap();
    assert_eq!(check.detection_time().to_string(), "21s");
}

#[test]
fn what_the_status_shows_of_a_long_list_is_no_longer_than_it_takes() {
    let to: BTreeMap<_, _> = (0..64)
        .map(|n| {
            (
                format!("us-east-{n}/us-east-1a/*"),
                if n == 0 { 37 } else { 1 },
            )
        })
        .collect();
    let distribute: Vec<_> = (0..64)
        .map(|n| json!({ "from": format!("eu-west-{n}/eu-west-1a/*"), "to": to }))
        .collect();
    let catalog = json!({ "loadBalancing": { "locality": { "distribute": distribute } } });
    let merged = good(catalog, json!({}));
    let lengths = merged
        .entries
        .iter()
        .map(|entry| entry.value.chars().count());
    let longest = lengths.max().unwrap();
    assert!((60_000..=65_536).contains(&longest), "{longest}");
}
