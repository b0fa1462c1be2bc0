//! Places of clients and endpoints, by istiod's rules: it refuses the whole
//! DestinationRule for one that it cannot read. Does no IO.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::int32;

/// `region`, `region/zone` or `region/zone/subzone`; the last may be `*`.
const PLACE: &str =
    "^([*]|[A-Za-z0-9._-]{1,63}(/[*]|/[A-Za-z0-9._-]{1,63}(/[*]|/[A-Za-z0-9._-]{1,63})?)?)$";

/// Of the places that clients are in, none is another or within another.
pub(in crate::api) const PLACES_APART: &str = concat!(
    "self.all(a, self.exists_one(b, a.from == b.from || b.from == '*'",
    " || a.from.startsWith(b.from.replace('/*', '') + '/')))"
);

/// A place, as Istio writes it.
pub(in crate::api) fn place(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 191,
        "x-kubernetes-validations": [{
            "rule": format!("self.matches('{PLACE}')"),
            "message": "must be region, region/zone or region/zone/subzone, the last of which may be *",
        }],
    })
}

/// A region alone.
pub(in crate::api) fn region(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "maxLength": 63,
        "x-kubernetes-validations": [{
            "rule": "self.matches('^[A-Za-z0-9._-]+$')",
            "message": "must be a region alone, without / and *",
        }],
    })
}

/// Places to shares that add up to 100.
pub(in crate::api) fn shares(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": int32(1, 100),
        "x-kubernetes-validations": [
            {
                "rule": format!("self.all(place, size(place) <= 191 && place.matches('{PLACE}'))"),
                "message": "each key must be region, region/zone or region/zone/subzone, the last of which may be *",
            },
            {
                "rule": "self.all(a, self.exists_one(b, a == b || b == '*' || a.startsWith(b.replace('/*', '') + '/')))",
                "message": "each place must be given once, and none within another",
            },
            {
                "rule": "self.map(place, self[place]).sum() == 100",
                "message": "the shares must add up to 100",
            },
        ],
    })
}

/// Labels of Pods and nodes, each with a value where wanted.
pub(in crate::api) fn failover_labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "type": "string",
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
