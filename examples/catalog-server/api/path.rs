//! The service ID in a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::problem::Problem;
use crate::shape::text::SERVICE_ID;

/// The ID of the service that the path names.
pub(super) struct ServiceId(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for ServiceId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) if (SERVICE_ID.holds)(&id) => Ok(Self(id)),
            _ => Err(Problem::fault("id", SERVICE_ID.expected)),
        }
    }
}
