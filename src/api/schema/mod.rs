//! Which shape a value of the ServiceBinding has: the rules that the API server
//! applies before anybody stores one. Does no IO.
//!
//! A shape whose pattern alone would be unreadable in a refusal is a CEL rule
//! with a sentence for its message, and has no `minLength` or `pattern` beside
//! it that would say the same again.

use schemars::{Schema, SchemaGenerator, json_schema};

pub(super) mod duration;
pub(super) mod locality;
pub(super) mod status;

/// An HTTP token (RFC 9110), which header and cookie names are.
const TOKEN: &str = "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$";

/// A name of one label, which Services and Namespaces have, and which stays
/// as it was first given.
pub(super) fn fixed_dns_label(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 63,
        "x-kubernetes-validations": [
            {
                "rule": "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
                "message": "must be a DNS label: 1 to 63 characters of a-z 0-9 -, first and last a letter or digit",
            },
            {
                "rule": "self == oldSelf",
                "message": "cannot be changed; delete this binding and create another one",
            },
        ],
    })
}

/// The rule of `domain::names::CatalogServiceId`.
pub(super) fn catalog_service_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 253,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[A-Za-z0-9][A-Za-z0-9._:~-]*$')",
            "message": "must be 1 to 253 characters of A-Z a-z 0-9 . _ : ~ - and start with a letter or digit",
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

/// Path of a request, with a query where wanted. The host is never part of
/// it: a check goes to an endpoint of the Service and nowhere else.
pub(super) fn request_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 1024,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^/([]!$-.0-;=?-[_a-z~][]!$-;=?-[_a-z~]*)?$')",
            "message": "must be a path such as /health, not a URL: it starts with one / and has visible \
                        ASCII characters only, without \" # < > \\ ^ ` { | } (percent-encode those)",
        }],
    })
}

/// Path of a cookie.
pub(super) fn cookie_path(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
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
        r#"^[!"$%'-<>@-~]+$"#,
        "must be a name as it stands in a URL: visible ASCII characters without & = # ? (percent-encode those)",
    )
}

fn text_matching(pattern: &str, message: &str) -> Schema {
    let literal = pattern.replace('\'', r"\'");
    json_schema!({
        "type": "string",
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
