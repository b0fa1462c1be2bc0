//! Reading a JSON body. Every refusal is a problem.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde_json::{Map, Value};

use crate::problem::Problem;
use crate::shape::{ObjectShape, read};

/// A JSON body of any shape.
pub(super) struct JsonBody(Value);

impl JsonBody {
    /// The described part of the body.
    pub(super) fn shaped(&self, shape: &ObjectShape) -> Result<Map<String, Value>, Problem> {
        read(&self.0, shape).map_err(Problem::faults)
    }
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the body as application/json",
            ));
        }
        let bytes =
            Bytes::from_request(request, state)
                .await
                .map_err(|rejection| match rejection.status() {
                    StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "the body is too large; a record may have 1 MiB, a batch 16 MiB",
                    ),
                    _ => Problem::new(StatusCode::BAD_REQUEST, "the body could not be read"),
                })?;
        // serde_json's message gives line and column, and nothing of the body.
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                format!("the body is not JSON: {error}"),
            )
        })
    }
}
