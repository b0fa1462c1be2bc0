//! Which shape a string or a number of the ServiceBinding has: the rules that
//! the API server applies before anybody stores one. Does no IO.
//!
//! A shape whose pattern alone would be unreadable in a refusal is a CEL rule
//! with a sentence for its message. Such a rule never lets CEL's own parser
//! see text that it would choke on, since that error would be printed too.

use schemars::{Schema, SchemaGenerator, json_schema};

/// Go's duration text with each unit at most once, largest first, and never
/// finer than a millisecond; the number of digits keeps CEL from overflowing.
/// The empty text fits as well, and is refused by its length.
macro_rules! duration_shape {
    () => {
        r"^([0-9]{1,4}([.][0-9]{1,3})?h)?([0-9]{1,6}([.][0-9]{1,3})?m)?([0-9]{1,8}([.][0-9]{1,3})?s)?([0-9]{1,10}ms)?$"
    };
}

/// `region`, `region/zone` or `region/zone/subzone`; the last may be `*`.
const LOCALITY: &str =
    "^([*]|[A-Za-z0-9._-]{1,63}(/[*]|/[A-Za-z0-9._-]{1,63}(/[*]|/[A-Za-z0-9._-]{1,63})?)?)$";

/// An HTTP token (RFC 9110), which header and cookie names are.
const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// `timeout` of a health check is at most its `interval`, where both are
/// given and both are durations.
pub(super) const TIMEOUT_WITHIN_INTERVAL: &str = concat!(
    "!has(self.timeout) || !has(self.interval)",
    " || size(self.timeout) == 0 || !self.timeout.matches('",
    duration_shape!(),
    "') || size(self.interval) == 0 || !self.interval.matches('",
    duration_shape!(),
    "') || duration(self.timeout) <= duration(self.interval)"
);

/// A name of one label: what Kubernetes calls Services and Namespaces.
pub(super) fn dns_label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            "message": "must be a DNS label: 1 to 63 characters of a-z 0-9 -, first and last a letter or digit",
        }],
    })
}

/// A DNS label that stays as it was first given.
pub(super) fn fixed_dns_label(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = dns_label(generator);
    let rule = json_schema!({
        "rule": "self == oldSelf",
        "message": "cannot be changed; delete this binding and create another one",
    });
    if let Some(rules) = schema
        .get_mut("x-kubernetes-validations")
        .and_then(|r| r.as_array_mut())
    {
        rules.push(rule.into());
    }
    schema
}

/// The rule of `domain::names::CatalogServiceId`.
pub(super) fn catalog_service_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 253,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[A-Za-z0-9][A-Za-z0-9._:~-]*$')",
            "message": "must be 1 to 253 characters of A-Z a-z 0-9 . _ : ~ - and start with a letter or digit",
        }],
    })
}

/// How long something may take.
pub(super) fn timeout(_: &mut SchemaGenerator) -> Schema {
    duration("1ms", "1h")
}

/// Time between two rounds of something.
pub(super) fn interval(_: &mut SchemaGenerator) -> Schema {
    duration("100ms", "1h")
}

/// Lifetime of a cookie; nothing at all makes a session cookie.
pub(super) fn cookie_ttl(_: &mut SchemaGenerator) -> Schema {
    duration("0s", "8760h")
}

fn duration(least: &str, most: &str) -> Schema {
    let shape = duration_shape!();
    json_schema!({
        "type": "string",
        "minLength": 1,
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

/// Attempts after the first.
pub(super) fn attempts(_: &mut SchemaGenerator) -> Schema {
    int32(0, 100)
}

/// Events in a row that decide something.
pub(super) fn threshold(_: &mut SchemaGenerator) -> Schema {
    int32(1, 100)
}

/// A share in percent that is more than nothing.
pub(super) fn percent(_: &mut SchemaGenerator) -> Schema {
    int32(1, 100)
}

/// A TCP port.
pub(super) fn port(_: &mut SchemaGenerator) -> Schema {
    int32(1, 65_535)
}

/// A limit of a connection pool. Nought would mean "no limit" to Istio.
pub(super) fn pool_size(_: &mut SchemaGenerator) -> Schema {
    int32(1, i32::MAX)
}

/// How many there are.
pub(super) fn count(_: &mut SchemaGenerator) -> Schema {
    int32(0, i32::MAX)
}

fn int32(least: i32, most: i32) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": least, "maximum": most})
}

/// Entries of Envoy's hash ring, which takes eight million at most.
pub(super) fn ring_size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 1, "maximum": 8_388_608})
}

/// A generation, as Kubernetes counts it.
pub(super) fn generation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

/// Path of a request, with a query where wanted. The host is never part of
/// it: a check goes to an endpoint of the Service and nowhere else.
pub(super) fn request_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
        "x-kubernetes-validations": [{
            "rule": r"self.matches('^/([A-Za-z0-9._~!$&\'()*+,;=:@%?-][A-Za-z0-9._~!$&\'()*+,;=:@%?/-]*)?$')",
            "message": "must be a path such as /health, not a URL: it starts with one / and has no blank, \
                        control character, backslash, # or character outside ASCII (percent-encode those)",
        }],
    })
}

/// Path of a cookie.
pub(super) fn cookie_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^/[!-:<-~]*$')",
            "message": "must be a path that starts with /, without blanks, semicolons or characters outside ASCII",
        }],
    })
}

/// Name of a header or cookie.
pub(super) fn http_token(_: &mut SchemaGenerator) -> Schema {
    text_matching(
        TOKEN,
        "must be an HTTP token: letters, digits and any of ! # $ % & ' * + - . ^ _ ` | ~",
    )
}

/// Name of a query parameter, as it stands in a URL.
pub(super) fn query_parameter(_: &mut SchemaGenerator) -> Schema {
    text_matching(
        "^[A-Za-z0-9._~!$'()*,;:@%/?-]+$",
        "must be a name as it stands in a URL: no blank, &, =, + or #, nothing outside ASCII (percent-encode those)",
    )
}

fn text_matching(pattern: &str, message: &str) -> Schema {
    let literal = pattern.replace('\'', r"\'");
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('{literal}')"),
            "message": message,
        }],
    })
}

/// What is true where it is given.
pub(super) fn only_true(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "boolean",
        "x-kubernetes-validations": [{"rule": "self", "message": "must be true, or left out"}],
    })
}

/// A place, as Istio writes it.
pub(super) fn locality(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 191,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('{LOCALITY}')"),
            "message": "must be region, region/zone or region/zone/subzone, the last of which may be *",
        }],
    })
}

/// A region alone.
pub(super) fn region(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[A-Za-z0-9._-]+$')",
            "message": "must be a region alone, without / and *",
        }],
    })
}

/// Places to shares that add up to 100.
pub(super) fn locality_shares(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": int32(1, 100),
        "x-kubernetes-validations": [
            {
                "rule": format!("self.all(place, size(place) <= 191 && place.matches('{LOCALITY}'))"),
                "message": "each key must be region, region/zone or region/zone/subzone, the last of which may be *",
            },
            {
                "rule": "self.map(place, self[place]).sum() == 100",
                "message": "the shares must add up to 100",
            },
        ],
    })
}

/// Labels of Pods and nodes, each with a value where wanted.
pub(super) fn failover_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 381,
            "x-kubernetes-validations": [{
                "rule": "self.matches('^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?\
                         (=([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?)?$')",
                "message": "must be the key of a label, such as topology.kubernetes.io/zone, or key=value",
            }],
        },
        "x-kubernetes-validations": [{
            "rule": "self.all(label, self.exists_one(other, other == label))",
            "message": "must not name a label twice",
        }],
    })
}

/// The conditions of a status: Kubernetes' own shape and bounds.
pub(super) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "Ready, CatalogSynced, MeshProgrammed, Healthy, Conflict or Suspended.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 316,
                },
                "status": {
                    "description": "True, False or Unknown.",
                    "type": "string",
                    "enum": ["True", "False", "Unknown"],
                },
                "observedGeneration": {
                    "description": "Generation of the binding that this condition speaks of.",
                    "type": "integer",
                    "format": "int64",
                    "minimum": 0,
                },
                "lastTransitionTime": {
                    "description": "When the status last changed.",
                    "type": "string",
                    "format": "date-time",
                },
                "reason": {
                    "description": "Why, in one word for programs.",
                    "type": "string",
                    "minLength": 1,
                    "maxLength": 1024,
                    "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
                },
                "message": {
                    "description": "Why, and what to do about it, in words for people.",
                    "type": "string",
                    "maxLength": 32_768,
                },
            },
        },
    })
}

/// At most this many characters, of any kind.
pub(super) fn short_text(_: &mut SchemaGenerator) -> Schema {
    text_of(256)
}

/// Text that shows a value of the policy, which may be a whole list.
pub(super) fn value_text(_: &mut SchemaGenerator) -> Schema {
    text_of(65_536)
}

fn text_of(most: u32) -> Schema {
    json_schema!({"type": "string", "maxLength": most})
}
