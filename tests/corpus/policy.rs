//! What might catalog and binding say? Any policy, mostly a good one.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

/// Durations, mostly good ones.
fn duration() -> impl Strategy<Value = Value> {
    prop_oneof![
        40 => select(vec!["100ms", "1s", "1.5s", "10s", "1m30s", "1h"]).prop_map(Value::from),
        1 => select(vec!["1ms", "0s", "25h", "1us", "-1s", "", "x\n"]).prop_map(Value::from),
    ]
}

/// Numbers, mostly good ones.
fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        40 => (1_i32..=100).prop_map(Value::from),
        1 => select(vec![0, -1, 101, i32::MIN, i32::MAX]).prop_map(Value::from),
    ]
}

fn text() -> impl Strategy<Value = Value> {
    let known = select(vec![
        "x-user",
        "/health",
        "/",
        "503,reset",
        "5xx",
        "gateway-error",
        "eu",
        "us/*",
    ]);
    prop_oneof![8 => known.prop_map(Value::from), 1 => ".{0,12}".prop_map(Value::from)]
}

fn path() -> impl Strategy<Value = Value> {
    prop_oneof![8 => Just(Value::from("/shop")), 1 => text()]
}

/// An object with some of these fields, each perhaps left out.
fn some(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let field = |(name, value): (&'static str, BoxedStrategy<Value>)| {
        proptest::option::weighted(0.4, value).prop_map(move |value| (name, value))
    };
    let fields: Vec<_> = fields.into_iter().map(field).collect();
    fields
        .prop_map(|fields| {
            let given = fields
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?)));
            Value::Object(given.collect())
        })
        .boxed()
}

/// An object with exactly one of these fields, or sometimes any of them.
fn one_of(fields: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let any = some(fields.clone());
    let one = select(fields)
        .prop_flat_map(|(name, value)| value.prop_map(move |value| json!({ name: value })));
    prop_oneof![8 => one, 1 => any].boxed()
}

fn algorithm() -> BoxedStrategy<Value> {
    let simple = select(vec!["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"])
        .prop_map(Value::from)
        .boxed();
    let cookie = (
        text(),
        some(vec![("path", path().boxed()), ("ttl", duration().boxed())]),
    );
    let cookie = cookie.prop_map(|(name, mut cookie)| {
        cookie["name"] = name;
        cookie
    });
    let key = one_of(vec![
        ("httpHeaderName", text().boxed()),
        ("httpCookie", cookie.boxed()),
        ("useSourceIp", any::<bool>().prop_map(Value::from).boxed()),
        ("httpQueryParameterName", text().boxed()),
    ]);
    let hash = (key, proptest::option::of(number())).prop_map(|(mut hash, ring)| {
        if let Some(ring) = ring {
            hash["minimumRingSize"] = ring;
        }
        hash
    });
    one_of(vec![("simple", simple), ("consistentHash", hash.boxed())])
}

fn locality() -> BoxedStrategy<Value> {
    let share =
        |percent: i32| json!([{ "from": "eu/*", "to": { "eu/a": percent, "us": 100 - percent } }]);
    let distribute = (1_i32..=100).prop_map(share).boxed();
    let failover = select(vec!["us", "eu"])
        .prop_map(|to| json!([{ "from": "eu", "to": to }]))
        .boxed();
    let priority = text().prop_map(|label| json!([label])).boxed();
    let way = one_of(vec![
        ("distribute", distribute),
        ("failover", failover),
        ("failoverPriority", priority),
    ]);
    let enabled = any::<bool>()
        .prop_map(|enabled| json!({ "enabled": enabled }))
        .boxed();
    prop_oneof![way, enabled, Just(json!({})).boxed()].boxed()
}

fn load_balancing() -> BoxedStrategy<Value> {
    let warmup = (
        duration(),
        some(vec![
            ("minimumPercent", number().boxed()),
            ("aggression", number().boxed()),
        ]),
    );
    let warmup = warmup.prop_map(|(duration, mut warmup)| {
        warmup["duration"] = duration;
        warmup
    });
    let rest = some(vec![("warmup", warmup.boxed()), ("locality", locality())]);
    (proptest::option::of(algorithm()), rest)
        .prop_map(|(algorithm, mut rest)| {
            if let (Some(Value::Object(algorithm)), Value::Object(rest)) = (algorithm, &mut rest) {
                rest.extend(algorithm);
            }
            rest
        })
        .boxed()
}

/// The blocks that a record and a binding share.
fn blocks() -> [(&'static str, BoxedStrategy<Value>); 4] {
    let breaker = some(vec![
        ("consecutiveErrors", number().boxed()),
        ("interval", duration().boxed()),
        ("baseEjectionTime", duration().boxed()),
        ("maxEjectionPercent", number().boxed()),
    ]);
    let tcp = some(vec![
        ("maxConnections", number().boxed()),
        ("connectTimeout", duration().boxed()),
        ("idleTimeout", duration().boxed()),
    ]);
    let http = some(vec![
        ("http1MaxPendingRequests", number().boxed()),
        ("http2MaxRequests", number().boxed()),
        ("maxRequestsPerConnection", number().boxed()),
        ("maxRetries", number().boxed()),
        ("idleTimeout", duration().boxed()),
    ]);
    let pool = some(vec![("tcp", tcp), ("http", http)]);
    [
        ("timeout", duration().boxed()),
        ("circuitBreaker", breaker),
        ("connectionPool", pool),
        ("loadBalancing", load_balancing()),
    ]
}

fn health_check() -> BoxedStrategy<Value> {
    some(vec![
        ("endpoint", text().boxed()),
        ("interval", duration().boxed()),
        ("timeout", duration().boxed()),
        ("port", number().boxed()),
        (
            "scheme",
            select(vec!["HTTP", "HTTPS", "MTLS"])
                .prop_map(Value::from)
                .boxed(),
        ),
        ("failureThreshold", number().boxed()),
        ("successThreshold", number().boxed()),
        ("confirmInterval", duration().boxed()),
        (
            "ejection",
            select(vec!["draining", "outlier-only", "observe", "off"])
                .prop_map(Value::from)
                .boxed(),
        ),
    ])
}

/// A record of the catalog.
pub(crate) fn record() -> impl Strategy<Value = Value> {
    let policy = some(vec![
        ("attempts", number().boxed()),
        ("perTryTimeout", duration().boxed()),
        ("retryOn", text().boxed()),
    ]);
    let mut fields = Vec::from(blocks());
    fields.push(("retries", prop_oneof![number().boxed(), policy].boxed()));
    fields.push(("healthCheck", health_check()));
    some(fields).prop_map(|mut record| {
        for (field, value) in [("id", "i"), ("name", "n"), ("namespace", "n")] {
            record[field] = Value::from(value);
        }
        record["revision"] = Value::from(1);
        record
    })
}

/// The spec of a binding.
pub(crate) fn spec() -> impl Strategy<Value = Value> {
    let mut policy = Vec::from(blocks());
    policy.push(("retries", number().boxed()));
    some(vec![
        ("trafficPolicy", some(policy)),
        ("healthCheck", health_check()),
    ])
    .prop_map(|mut spec| {
        spec["catalogServiceId"] = Value::from("i");
        spec["serviceName"] = Value::from("n");
        spec
    })
}
