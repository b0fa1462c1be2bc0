//! Durations: Go's text in whole milliseconds, within bounds. A rule never lets
//! CEL's own parser see text that it would choke on, since that error would be
//! printed beside ours. Does no IO.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Go's duration text with each unit at most once, largest first, and never
/// finer than a millisecond; the number of digits keeps CEL from overflowing.
/// The empty text fits as well, so its length is asked besides.
macro_rules! duration_shape {
    () => {
        r"^([0-9]{1,4}([.][0-9]{1,3})?h)?([0-9]{1,6}([.][0-9]{1,3})?m)?([0-9]{1,8}([.][0-9]{1,3})?s)?([0-9]{1,10}ms)?$"
    };
}

/// `timeout` of a health check is at most its `interval`, where both are
/// given and both are durations.
pub(in crate::api) const TIMEOUT_WITHIN_INTERVAL: &str = concat!(
    "!has(self.timeout) || !has(self.interval)",
    " || size(self.timeout) == 0 || !self.timeout.matches('",
    duration_shape!(),
    "') || size(self.interval) == 0 || !self.interval.matches('",
    duration_shape!(),
    "') || duration(self.timeout) <= duration(self.interval)"
);

/// How long a request, an attempt or a check may take.
pub(in crate::api) fn timeout(_: &mut SchemaGenerator) -> Schema {
    duration("1ms", "1h")
}

/// Time between two rounds of something.
pub(in crate::api) fn interval(_: &mut SchemaGenerator) -> Schema {
    duration("100ms", "1h")
}

/// Time until a failed check is repeated.
pub(in crate::api) fn confirm_interval(_: &mut SchemaGenerator) -> Schema {
    duration("10ms", "1h")
}

/// How long an endpoint stays out, or takes to warm up.
pub(in crate::api) fn endpoint_time(_: &mut SchemaGenerator) -> Schema {
    duration("1ms", "24h")
}

/// How long a TCP connection may be idle; `0s` is for ever.
pub(in crate::api) fn tcp_idle_timeout(_: &mut SchemaGenerator) -> Schema {
    duration("0s", "720h")
}

/// How long an HTTP connection may be idle.
pub(in crate::api) fn http_idle_timeout(_: &mut SchemaGenerator) -> Schema {
    duration("1ms", "720h")
}

/// Lifetime of a cookie; nothing at all makes a session cookie.
pub(in crate::api) fn cookie_ttl(_: &mut SchemaGenerator) -> Schema {
    duration("0s", "8760h")
}

fn duration(least: &str, most: &str) -> Schema {
    let shape = duration_shape!();
    json_schema!({
        "type": "string",
        "maxLength": 32,
        "x-kubernetes-validations": [{
            "rule": format!(
                "size(self) > 0 && self.matches('{shape}') \
                 && duration(self) >= duration('{least}') && duration(self) <= duration('{most}')"
            ),
            "message": format!(
                "must be a duration of {least} to {most} in whole milliseconds, \
                 such as 500ms, 1.5s or 1m30s"
            ),
        }],
    })
}
