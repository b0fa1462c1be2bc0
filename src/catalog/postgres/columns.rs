//! What stands in the columns of the catalog's tables? Read by the same rules
//! as the JSON of the Catalog API, so that the same fault has the same words
//! over both. No IO.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::catalog::answer::reason;
use crate::catalog::error::one_line;
use crate::catalog::event::EventKind;
use crate::catalog::subscription::{named, writer};
use crate::catalog::wire;
use crate::domain::record::{BadRecord, ServiceRecord};

/// Reads the `record` of a row of `services`. Its revision is a column.
pub(super) fn record(id: &str, revision: i64, text: &str) -> Result<ServiceRecord, BadRecord> {
    let bad = |field: &str, message: String| BadRecord {
        id: Some(id.to_owned()),
        revision: u64::try_from(revision).ok(),
        field: field.to_owned(),
        message,
    };
    let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        let message = match error.classify() {
            serde_json::error::Category::Data => reason(&error),
            _ => format!("is not JSON: {}", reason(&error)),
        };
        bad("record", message)
    })?;
    if let Some(Value::String(other)) = fields.get("id")
        && other != id
    {
        let other = one_line(other);
        return Err(bad(
            "id",
            format!("is {other}, another service than the row's"),
        ));
    }
    fields.insert("revision".to_owned(), revision.into());
    let raw: Box<RawValue> =
        to_raw_value(&fields).map_err(|error| bad("record", reason(&error)))?;
    wire::checked(&raw, Some(id.to_owned()))
}

/// Whether the `labels` of a row have all of these.
pub(super) fn carries(labels: &str, wanted: &BTreeMap<String, String>) -> bool {
    if wanted.is_empty() {
        return true;
    }
    let had: Map<String, Value> = serde_json::from_str(labels).unwrap_or_default();
    let has = |(name, value): (&String, &String)| {
        had.get(name).and_then(Value::as_str) == Some(value.as_str())
    };
    wanted.iter().all(has)
}

/// The part of an event's `data` that is not in a column.
#[derive(Deserialize)]
struct Data {
    writer: Option<Value>,
}

/// Reads a row of `events`. What cannot be understood still has a revision
/// that counts.
pub(super) fn event(kind: &str, service_id: &str, data: &str) -> EventKind {
    match kind {
        "ServiceRegistered" => named(service_id, EventKind::Registered),
        "ServiceUpdated" => named(service_id, EventKind::Updated),
        "ServiceDeregistered" => named(service_id, EventKind::Deregistered),
        "HealthChanged" => {
            let data = serde_json::from_str::<Data>(data).ok();
            let writer = data.and_then(|data| data.writer).and_then(writer);
            named(service_id, |id| EventKind::HealthChanged { id, writer })
        }
        _ => EventKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::names::CatalogServiceId;

    fn bad(text: &str) -> (String, String) {
        let bad = record("svc-1", 7, text).unwrap_err();
        assert_eq!(bad.id.as_deref(), Some("svc-1"));
        (bad.field, bad.message)
    }

    #[test]
    fn the_revision_is_the_columns_whatever_the_record_says() {
        for revision in ["", r#","revision":3"#, r#","revision":"x""#] {
            let text = format!(r#"{{"id":"svc-1","name":"a","namespace":"b"{revision}}}"#);
            assert_eq!(record("svc-1", 7, &text).unwrap().revision, 7);
        }
    }

    #[test]
    fn a_record_that_is_none_is_bad_and_not_a_fault_of_the_connection() {
        for text in ["", "<html>", "{", r#"{"id":"svc-1""#, "\u{1}"] {
            let (field, message) = bad(text);
            assert_eq!(field, "record", "{text}");
            assert!(message.starts_with("is not JSON"), "{text}: {message}");
        }
        for text in ["[]", "null", "7"] {
            assert_eq!(bad(text).0, "record", "{text}");
        }
        let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
        assert_eq!(bad(&deep).0, "record");
    }

    #[test]
    fn a_bad_value_names_its_field() {
        let text = |field: &str| format!(r#"{{"id":"svc-1","name":"a","namespace":"b",{field}}}"#);
        let (field, message) = bad(&text(r#""circuitBreaker":{"interval":5}"#));
        assert_eq!(field, "circuitBreaker.interval");
        assert!(message.contains("expected a string"), "{message}");
        assert_eq!(bad(&text(r#""timeout":7"#)).0, "timeout");
        assert_eq!(bad(r#"{"id":"svc-2"}"#).0, "id");
        assert_eq!(bad(r#"{"id":7,"name":"a","namespace":"b"}"#).0, "id");
        assert_eq!(bad(r#"{"id":"svc-1"}"#).1, "missing field `name`");
    }

    #[test]
    fn labels_are_had_or_not() {
        let wanted = |name: &str| BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        assert!(carries("nonsense", &BTreeMap::new()));
        assert!(carries(r#"{"a":"x","b":"y"}"#, &wanted("a")));
        for labels in [r#"{"a":"y"}"#, r#"{"a":1}"#, "{}", "nonsense"] {
            assert!(!carries(labels, &wanted("a")), "{labels}");
        }
    }

    #[test]
    fn an_event_that_is_not_understood_still_counts() {
        assert_eq!(event("ServiceRenamed", "a", "{}"), EventKind::Other);
        assert_eq!(event("ServiceUpdated", "../a", "{}"), EventKind::Other);
        let id = CatalogServiceId::parse("a").unwrap();
        for data in ["", "nonsense", "{}", r#"{"writer":{"cluster":"c"}}"#] {
            let health = EventKind::HealthChanged {
                id: id.clone(),
                writer: None,
            };
            assert_eq!(event("HealthChanged", "a", data), health, "{data}");
        }
    }
}
