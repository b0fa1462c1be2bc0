//! What the operator itself writes. The bounds are wide, for a status that is
//! refused helps nobody. Does no IO.

use schemars::{Schema, SchemaGenerator, json_schema};

/// The conditions of a status: Kubernetes' own shape and bounds.
pub(in crate::api) fn conditions(_: &mut SchemaGenerator) -> Schema {
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
pub(in crate::api) fn short_text(_: &mut SchemaGenerator) -> Schema {
    text_of(256)
}

/// Text that shows a value of the policy, which may be a whole list.
pub(in crate::api) fn value_text(_: &mut SchemaGenerator) -> Schema {
    text_of(65_536)
}

/// A generation, as Kubernetes counts it.
pub(in crate::api) fn generation(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "minimum": 0})
}

fn text_of(most: u32) -> Schema {
    json_schema!({"type": "string", "maxLength": most})
}
