//! The owners' part of a record: its fields and their bounds. No IO.

use super::text::{
    CHECK_PATH, COOKIE_PATH, COOKIE_TTL, DNS_LABEL, DURATION, FAILOVER_LABEL, INTERVAL, LABEL_KEY,
    LABEL_VALUE, PLACE, QUERY_PARAMETER, RETRY_ON, SERVICE_ID, TOKEN,
};
use super::{Field, ObjectShape, Shape, object, optional, required};

const COUNT: Shape = Shape::Integer(1, i32::MAX as i64);
const PERCENT: Shape = Shape::Integer(0, 100);
const ATTEMPTS: (i64, i64) = (0, 100);

/// What the owners of a catalog write.
pub(crate) static RECORD: ObjectShape = object(&[
    optional("id", Shape::Text(&SERVICE_ID)),
    required("name", Shape::Text(&DNS_LABEL)),
    required("namespace", Shape::Text(&DNS_LABEL)),
    optional(
        "labels",
        Shape::Map(&LABEL_KEY, &Shape::Text(&LABEL_VALUE), 0, 64),
    ),
    optional("timeout", Shape::Text(&DURATION)),
    optional(
        "retries",
        Shape::IntegerOr(ATTEMPTS.0, ATTEMPTS.1, &RETRY_POLICY),
    ),
    optional("circuitBreaker", Shape::Object(&CIRCUIT_BREAKER)),
    optional("loadBalancing", Shape::Object(&LOAD_BALANCING)),
    optional("connectionPool", Shape::Object(&CONNECTION_POOL)),
    optional("healthCheck", Shape::Object(&HEALTH_CHECK)),
]);

static RETRY_POLICY: ObjectShape = object(&[
    optional("attempts", Shape::Integer(ATTEMPTS.0, ATTEMPTS.1)),
    optional("perTryTimeout", Shape::Text(&DURATION)),
    optional("retryOn", Shape::Text(&RETRY_ON)),
]);

static CIRCUIT_BREAKER: ObjectShape = object(&[
    optional("consecutiveErrors", COUNT),
    optional("interval", Shape::Text(&INTERVAL)),
    optional("baseEjectionTime", Shape::Text(&DURATION)),
    optional("maxEjectionPercent", PERCENT),
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
        optional("minimumRingSize", Shape::Integer(1, 8_388_608)),
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
    optional("ttl", Shape::Text(&COOKIE_TTL)),
]);

static WARMUP: ObjectShape = object(&[
    required("duration", Shape::Text(&DURATION)),
    optional("minimumPercent", PERCENT),
    optional("aggression", COUNT),
]);

static LOCALITY: ObjectShape = object(&[
    optional("enabled", Shape::Flag),
    optional("distribute", Shape::List(&Shape::Object(&DISTRIBUTE), 100)),
    optional("failover", Shape::List(&Shape::Object(&FAILOVER), 100)),
    optional(
        "failoverPriority",
        Shape::List(&Shape::Text(&FAILOVER_LABEL), 100),
    ),
]);

static DISTRIBUTE: ObjectShape = object(&[
    required("from", Shape::Text(&PLACE)),
    required("to", Shape::Map(&PLACE, &PERCENT, 1, 100)),
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
    optional("maxConnections", COUNT),
    optional("connectTimeout", Shape::Text(&DURATION)),
    optional("idleTimeout", Shape::Text(&DURATION)),
]);

static HTTP_POOL: ObjectShape = object(&[
    optional("http1MaxPendingRequests", COUNT),
    optional("http2MaxRequests", COUNT),
    optional("maxRequestsPerConnection", COUNT),
    optional("maxRetries", COUNT),
    optional("idleTimeout", Shape::Text(&DURATION)),
]);

static HEALTH_CHECK: ObjectShape = object(&[
    optional("endpoint", Shape::Text(&CHECK_PATH)),
    optional("interval", Shape::Text(&INTERVAL)),
    optional("timeout", Shape::Text(&DURATION)),
    PORT,
    optional("scheme", Shape::Choice(&["HTTP", "HTTPS", "MTLS"])),
    optional("failureThreshold", COUNT),
    optional("successThreshold", COUNT),
    optional("confirmInterval", Shape::Text(&DURATION)),
    optional(
        "ejection",
        Shape::Choice(&["draining", "outlier-only", "observe", "off"]),
    ),
]);

const PORT: Field = optional("port", Shape::Integer(1, 65_535));
