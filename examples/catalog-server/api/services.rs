//! Reading and writing one service.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::Shared;
use super::body::JsonBody;
use crate::api::path::ServiceId;
use crate::problem::Problem;
use crate::shape::record::RECORD;
use crate::store::services::{Precondition, Service, Written};

pub(super) async fn read(
    State(app): Shared,
    ServiceId(id): ServiceId,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let service = app
        .store
        .service(&id)
        .await?
        .ok_or_else(Problem::not_found)?;
    let own = service.etag();
    let known = tags(&headers, header::IF_NONE_MATCH);
    // If-None-Match compares weakly: W/"x" and "x" are the same.
    if known
        .iter()
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == own)
    {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, own)]).into_response());
    }
    let (health, endpoints) = app.store.reports(&id).await?;
    let mut body = rendered(service);
    body["health"] = Value::Array(health);
    body["endpoints"] = Value::Array(endpoints);
    Ok(([(header::ETAG, own)], Json(body)).into_response())
}

pub(super) async fn create(State(app): Shared, body: JsonBody) -> Result<Response, Problem> {
    let record = body.shaped(&RECORD)?;
    let id = match record.get("id").and_then(Value::as_str) {
        Some(id) => id.to_owned(),
        None => return Err(Problem::fault("id", "must be given")),
    };
    let written = app.store.put(&id, record, &Precondition::Absent).await?;
    let mut response = answer(written)?;
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/services/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

pub(super) async fn put(
    State(app): Shared,
    ServiceId(id): ServiceId,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut record = body.shaped(&RECORD)?;
    if record
        .get("id")
        .is_some_and(|given| given.as_str() != Some(&id))
    {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "id must be that of the path, or left out; an ID cannot be changed",
        ));
    }
    record.insert("id".to_owned(), id.clone().into());
    answer(app.store.put(&id, record, &precondition(&headers)).await?)
}

pub(super) async fn delete(
    State(app): Shared,
    ServiceId(id): ServiceId,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let written = app.store.delete(&id, &precondition(&headers)).await?;
    answer(written).map(|_| StatusCode::NO_CONTENT)
}

/// The record as it is served.
pub(super) fn rendered(service: Service) -> Value {
    let mut body = Value::Object(service.record);
    body["revision"] = json!(service.revision);
    body
}

fn answer(written: Written) -> Result<Response, Problem> {
    let (status, service) = match written {
        Written::Created(service) => (StatusCode::CREATED, service),
        Written::Replaced(service) => (StatusCode::OK, service),
        Written::Missing => return Err(Problem::not_found()),
        Written::Exists => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "the id is taken; replace the service with PUT",
            ));
        }
        Written::Mismatch => {
            return Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "the record is not one that If-Match allows; read it again",
            ));
        }
    };
    Ok((
        status,
        [(header::ETAG, service.etag())],
        Json(rendered(service)),
    )
        .into_response())
}

fn precondition(headers: &HeaderMap) -> Precondition {
    if headers.contains_key(header::IF_MATCH) {
        Precondition::Tags(tags(headers, header::IF_MATCH))
    } else {
        Precondition::None
    }
}

/// The tags of a list of ETags; our own have no comma within.
fn tags(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|tag| tag.trim().to_owned())
        .collect()
}
