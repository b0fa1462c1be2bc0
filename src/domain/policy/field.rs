//! The paths of the policy's fields, as a binding's `spec` has them, and how
//! the same field is called in a record of the catalog. No IO.

use super::Giver;

macro_rules! fields {
    ($($name:ident = $path:literal;)*) => {
        $(#[doc = concat!("`", $path, "`")] pub const $name: &str = $path;)*
    };
}

fields! {
    TIMEOUT = "trafficPolicy.timeout";
    RETRIES_ATTEMPTS = "trafficPolicy.retries.attempts";
    RETRIES_PER_TRY = "trafficPolicy.retries.perTryTimeout";
    RETRIES_ON = "trafficPolicy.retries.retryOn";
    BREAKER_ERRORS = "trafficPolicy.circuitBreaker.consecutiveErrors";
    BREAKER_INTERVAL = "trafficPolicy.circuitBreaker.interval";
    BREAKER_EJECTION = "trafficPolicy.circuitBreaker.baseEjectionTime";
    BREAKER_PERCENT = "trafficPolicy.circuitBreaker.maxEjectionPercent";
    LB_SIMPLE = "trafficPolicy.loadBalancing.simple";
    LB_HASH = "trafficPolicy.loadBalancing.consistentHash";
    LB_HASH_HEADER = "trafficPolicy.loadBalancing.consistentHash.httpHeaderName";
    LB_HASH_COOKIE_NAME = "trafficPolicy.loadBalancing.consistentHash.httpCookie.name";
    LB_HASH_COOKIE_PATH = "trafficPolicy.loadBalancing.consistentHash.httpCookie.path";
    LB_HASH_COOKIE_TTL = "trafficPolicy.loadBalancing.consistentHash.httpCookie.ttl";
    LB_HASH_SOURCE_IP = "trafficPolicy.loadBalancing.consistentHash.useSourceIp";
    LB_HASH_QUERY = "trafficPolicy.loadBalancing.consistentHash.httpQueryParameterName";
    LB_HASH_RING = "trafficPolicy.loadBalancing.consistentHash.minimumRingSize";
    LB_WARMUP_DURATION = "trafficPolicy.loadBalancing.warmup.duration";
    LB_WARMUP_PERCENT = "trafficPolicy.loadBalancing.warmup.minimumPercent";
    LB_WARMUP_AGGRESSION = "trafficPolicy.loadBalancing.warmup.aggression";
    LB_LOCALITY = "trafficPolicy.loadBalancing.locality";
    LB_LOCALITY_ENABLED = "trafficPolicy.loadBalancing.locality.enabled";
    LB_DISTRIBUTE = "trafficPolicy.loadBalancing.locality.distribute";
    LB_FAILOVER = "trafficPolicy.loadBalancing.locality.failover";
    LB_PRIORITY = "trafficPolicy.loadBalancing.locality.failoverPriority";
    TCP_MAX_CONNECTIONS = "trafficPolicy.connectionPool.tcp.maxConnections";
    TCP_CONNECT_TIMEOUT = "trafficPolicy.connectionPool.tcp.connectTimeout";
    TCP_IDLE_TIMEOUT = "trafficPolicy.connectionPool.tcp.idleTimeout";
    HTTP_MAX_PENDING = "trafficPolicy.connectionPool.http.http1MaxPendingRequests";
    HTTP_MAX_REQUESTS = "trafficPolicy.connectionPool.http.http2MaxRequests";
    HTTP_PER_CONNECTION = "trafficPolicy.connectionPool.http.maxRequestsPerConnection";
    HTTP_MAX_RETRIES = "trafficPolicy.connectionPool.http.maxRetries";
    HTTP_IDLE_TIMEOUT = "trafficPolicy.connectionPool.http.idleTimeout";
    HEALTH_ENDPOINT = "healthCheck.endpoint";
    HEALTH_INTERVAL = "healthCheck.interval";
    HEALTH_TIMEOUT = "healthCheck.timeout";
    HEALTH_PORT = "healthCheck.port";
    HEALTH_SCHEME = "healthCheck.scheme";
    HEALTH_FAILURES = "healthCheck.failureThreshold";
    HEALTH_SUCCESSES = "healthCheck.successThreshold";
    HEALTH_CONFIRM = "healthCheck.confirmInterval";
    HEALTH_EJECTION = "healthCheck.ejection";
}

/// The field's path in the document of the one who gave it, so that they find
/// it there: a binding has `retries` as a number and all below `spec`, a record
/// has no `trafficPolicy`.
pub(super) fn path(giver: Giver, field: &str) -> String {
    match giver {
        Giver::Binding if field == RETRIES_ATTEMPTS => "spec.trafficPolicy.retries".to_owned(),
        Giver::Binding => format!("spec.{field}"),
        Giver::Catalog => field
            .strip_prefix("trafficPolicy.")
            .unwrap_or(field)
            .to_owned(),
    }
}
