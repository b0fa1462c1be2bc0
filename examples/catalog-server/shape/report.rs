//! What clusters send: its fields and their bounds. No IO.

use super::text::{ADDRESS, SERVICE_ID, ZONE};
use super::{ObjectShape, Shape, object, optional, required};

const POSITION: Shape = Shape::Integer(0, i64::MAX);
const COUNT: Shape = Shape::Integer(0, i32::MAX as i64);

/// Who reports, and where it stands.
static WRITER: ObjectShape = object(&[
    required("cluster", Shape::Text(&SERVICE_ID)),
    required("epoch", POSITION),
    required("sequence", POSITION),
]);

/// Health of many services. Each item is checked apart, so that a bad one does
/// not stop the others.
pub(crate) static HEALTH_BATCH: ObjectShape = object(&[
    required("writer", Shape::Object(&WRITER)),
    required("items", Shape::List(&Shape::AnyObject, 1_000)),
]);

/// Health of one service.
pub(crate) static HEALTH_ITEM: ObjectShape = ObjectShape {
    fields: &[
        required("serviceId", Shape::Text(&SERVICE_ID)),
        required(
            "health",
            Shape::Choice(&["Healthy", "Degraded", "Unhealthy", "Unknown"]),
        ),
        required("healthy", COUNT),
        required("total", COUNT),
    ],
    rule: Some(|given| {
        let number = |field| given.get(field).and_then(serde_json::Value::as_f64);
        (number("healthy") > number("total")).then_some("healthy must not be above total")
    }),
};

/// All endpoints that a cluster has for a service.
pub(crate) static ENDPOINTS: ObjectShape = object(&[
    required("writer", Shape::Object(&WRITER)),
    required("endpoints", Shape::List(&Shape::Object(&ENDPOINT), 1_000)),
]);

static ENDPOINT: ObjectShape = object(&[
    required("address", Shape::Text(&ADDRESS)),
    required("port", Shape::Integer(1, 65_535)),
    optional("zone", Shape::Text(&ZONE)),
    required("ready", Shape::Flag),
]);
