//! What clusters report: health in batches, endpoints one service at a time.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Shared;
use super::body::JsonBody;
use super::path::ServiceId;
use crate::problem::Problem;
use crate::shape::report::{ENDPOINTS, HEALTH_BATCH, HEALTH_ITEM};
use crate::shape::{Fault, read};
use crate::store::reports::{Outcome, Position, Writer};

/// What became of one report, as it is served.
#[derive(Debug, Serialize)]
#[serde(tag = "status", rename_all = "camelCase")]
pub(super) enum ItemResult {
    Accepted,
    Outdated { epoch: i64, sequence: i64 },
    NotFound,
    Invalid { message: String },
}

impl From<Outcome> for ItemResult {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Accepted => Self::Accepted,
            Outcome::Outdated(Position { epoch, sequence }) => Self::Outdated { epoch, sequence },
            Outcome::NotFound => Self::NotFound,
        }
    }
}

pub(super) async fn report_health(
    State(app): Shared,
    body: JsonBody,
) -> Result<Json<Value>, Problem> {
    let batch = body.shaped(&HEALTH_BATCH)?;
    let writer = writer(&batch);
    let checked = check_items(
        batch
            .get("items")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice),
    );
    let valid: Vec<_> = checked
        .iter()
        .filter_map(|item| item.as_ref().ok())
        .collect();
    let pairs: Vec<_> = valid.iter().map(|(id, item)| (id.as_str(), item)).collect();
    let mut outcomes = app.store.report_health(&writer, &pairs).await?.into_iter();
    let results: Vec<_> = checked
        .into_iter()
        .filter_map(|item| match item {
            Ok(_) => outcomes.next().map(ItemResult::from),
            Err(message) => Some(ItemResult::Invalid { message }),
        })
        .collect();
    Ok(Json(json!({ "results": results })))
}

pub(super) async fn put_endpoints(
    State(app): Shared,
    ServiceId(id): ServiceId,
    body: JsonBody,
) -> Result<Json<ItemResult>, Problem> {
    let report = body.shaped(&ENDPOINTS)?;
    let endpoints = report.get("endpoints").unwrap_or(&Value::Null);
    let outcome = app
        .store
        .report_endpoints(&writer(&report), &id, endpoints)
        .await?;
    Ok(Json(outcome.into()))
}

/// Each item's service and its health, or what is wrong with it.
fn check_items(items: &[Value]) -> Vec<Result<(String, Value), String>> {
    let mut seen = HashSet::new();
    items
        .iter()
        .map(|item| {
            let item = read(item, &HEALTH_ITEM).map_err(|faults| described(&faults))?;
            let id = item
                .get("serviceId")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            if seen.insert(id.clone()) {
                Ok((id, Value::Object(item)))
            } else {
                Err("serviceId must not be in a batch twice".to_owned())
            }
        })
        .collect()
}

fn described(faults: &[Fault]) -> String {
    let faults: Vec<_> = faults
        .iter()
        .map(|fault| format!("{} {}", fault.field, fault.message))
        .collect();
    faults.join("; ")
}

/// The writer of a report whose shape was checked.
fn writer(report: &Map<String, Value>) -> Writer {
    let field = |name| report.get("writer").and_then(|writer| writer.get(name));
    let number = |name| field(name).and_then(Value::as_i64).unwrap_or_default();
    Writer {
        cluster: field("cluster")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        position: Position {
            epoch: number("epoch"),
            sequence: number("sequence"),
        },
    }
}
