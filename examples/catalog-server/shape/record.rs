//! The owners' part of a record: its fields and their bounds. No IO.
//!
//! Numbers and durations have the operator's own bounds, so that the catalog
//! takes nothing that the operator would call a bad record for its value.

use catalog_mesh_controller::domain::policy::bounds::Limit;

use super::text::{
    CHECK_PATH, COOKIE_PATH, DNS_LABEL, FAILOVER_LABEL, LABEL_KEY, LABEL_VALUE, PLACE,
    QUERY_PARAMETER, RETRY_ON, SERVICE_ID, TOKEN,
};
use super::{ObjectShape, Shape, object, optional, required};

const MOST_PLACES: usize = 64;

/// What the owners of a catalog write.
pub(crate) static RECORD: ObjectShape = object(&[
    optional("id", Shape::Text(&SERVICE_ID)),
    required("name", Shape::Text(&DNS_LABEL)),
    required("namespace", Shape::Text(&DNS_LABEL)),
    optional(
        "labels",
        Shape::Map(&LABEL_KEY, &Shape::Text(&LABEL_VALUE), 0, 64),
    ),
    optional("timeout", Shape::Time(Limit::Timeout)),
    optional("retries", Shape::CountOr(Limit::Retries, &RETRY_POLICY)),
    optional("circuitBreaker", Shape::Object(&CIRCUIT_BREAKER)),
    optional("loadBalancing", Shape::Object(&LOAD_BALANCING)),
    optional("connectionPool", Shape::Object(&CONNECTION_POOL)),
    optional("healthCheck", Shape::Object(&HEALTH_CHECK)),
]);

static RETRY_POLICY: ObjectShape = object(&[
    optional("attempts", Shape::Count(Limit::Retries)),
    optional("perTryTimeout", Shape::Time(Limit::PerTryTimeout)),
    optional("retryOn", Shape::Text(&RETRY_ON)),
]);

static CIRCUIT_BREAKER: ObjectShape = object(&[
    optional("consecutiveErrors", Shape::Count(Limit::Threshold)),
    optional("interval", Shape::Time(Limit::Interval)),
    optional("baseEjectionTime", Shape::Time(Limit::EjectionTime)),
    optional("maxEjectionPercent", Shape::Count(Limit::Percent)),
]);

static LOAD_BALANCING: ObjectShape = ObjectShape {
    fields: &[
        optional(
            "simple",
            Shape::Choice(&["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"]),
        ),
        optional("consistentHash", Shape::Object(&CONSISTENT_HASH)),
        optional("warmup", Shape::Object(&WARMUP)),
        optional("locality", Shape::Object(&LOCALITY)),
    ],
    rule: Some(|given| {
        let both = given.contains_key("simple") && given.contains_key("consistentHash");
        both.then_some("must not have both simple and consistentHash")
    }),
};

static CONSISTENT_HASH: ObjectShape = ObjectShape {
    fields: &[
        optional("httpHeaderName", Shape::Text(&TOKEN)),
        optional("httpCookie", Shape::Object(&HTTP_COOKIE)),
        optional("useSourceIp", Shape::Flag),
        optional("httpQueryParameterName", Shape::Text(&QUERY_PARAMETER)),
        optional("minimumRingSize", Shape::Count(Limit::RingSize)),
    ],
    rule: Some(|given| {
        let keys = [
            "httpHeaderName",
            "httpCookie",
            "useSourceIp",
            "httpQueryParameterName",
        ];
        let given = keys.iter().filter(|key| given.contains_key(**key)).count();
        (given != 1).then_some(
            "must have exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
        )
    }),
};

static HTTP_COOKIE: ObjectShape = object(&[
    required("name", Shape::Text(&TOKEN)),
    optional("path", Shape::Text(&COOKIE_PATH)),
    optional("ttl", Shape::Time(Limit::CookieTtl)),
]);

static WARMUP: ObjectShape = object(&[
    required("duration", Shape::Time(Limit::Warmup)),
    optional("minimumPercent", Shape::Count(Limit::Percent)),
    optional("aggression", Shape::Count(Limit::Aggression)),
]);

static LOCALITY: ObjectShape = object(&[
    optional("enabled", Shape::Flag),
    optional(
        "distribute",
        Shape::List(&Shape::Object(&DISTRIBUTE), MOST_PLACES),
    ),
    optional(
        "failover",
        Shape::List(&Shape::Object(&FAILOVER), MOST_PLACES),
    ),
    optional(
        "failoverPriority",
        Shape::List(&Shape::Text(&FAILOVER_LABEL), MOST_PLACES),
    ),
]);

static DISTRIBUTE: ObjectShape = object(&[
    required("from", Shape::Text(&PLACE)),
    required(
        "to",
        Shape::Map(&PLACE, &Shape::Count(Limit::Percent), 1, MOST_PLACES),
    ),
]);

static FAILOVER: ObjectShape = object(&[
    required("from", Shape::Text(&PLACE)),
    required("to", Shape::Text(&PLACE)),
]);

static CONNECTION_POOL: ObjectShape = object(&[
    optional("tcp", Shape::Object(&TCP_POOL)),
    optional("http", Shape::Object(&HTTP_POOL)),
]);

static TCP_POOL: ObjectShape = object(&[
    optional("maxConnections", Shape::Count(Limit::PoolSize)),
    optional("connectTimeout", Shape::Time(Limit::ConnectTimeout)),
    optional("idleTimeout", Shape::Time(Limit::IdleTimeout)),
]);

static HTTP_POOL: ObjectShape = object(&[
    optional("http1MaxPendingRequests", Shape::Count(Limit::PoolSize)),
    optional("http2MaxRequests", Shape::Count(Limit::PoolSize)),
    optional("maxRequestsPerConnection", Shape::Count(Limit::PoolSize)),
    optional("maxRetries", Shape::Count(Limit::PoolSize)),
    optional("idleTimeout", Shape::Lasting(Limit::IdleTimeout)),
]);

static HEALTH_CHECK: ObjectShape = object(&[
    optional("endpoint", Shape::Text(&CHECK_PATH)),
    optional("interval", Shape::Time(Limit::Interval)),
    optional("timeout", Shape::Time(Limit::CheckTimeout)),
    optional("port", Shape::Count(Limit::Port)),
    optional("scheme", Shape::Choice(&["HTTP", "HTTPS", "MTLS"])),
    optional("failureThreshold", Shape::Count(Limit::Threshold)),
    optional("successThreshold", Shape::Count(Limit::Threshold)),
    optional("confirmInterval", Shape::Time(Limit::ConfirmInterval)),
    optional(
        "ejection",
        Shape::Choice(&["draining", "outlier-only", "observe", "off"]),
    ),
]);
