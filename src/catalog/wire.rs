//! The JSON of the Catalog API, read and written. No IO.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::answer::{not_the_contract, reason};
use super::error::{CatalogError, one_line};
use super::report::{EndpointReport, HealthReport, ItemOutcome, ReportedHealth, WriterPosition};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::{BadRecord, CatalogPosition, ServiceRecord};

/// The one field that an object must have to be a record at all.
#[derive(Deserialize)]
struct Identity {
    id: String,
}

/// How new an object is, whatever else is wrong with it.
#[derive(Deserialize)]
struct Age {
    revision: u64,
}

/// Reads the answer to a request for one service. A body that is no record is
/// a fault of the connection or the configuration; a record with a bad field
/// is the record's own.
pub(super) fn record(id: &CatalogServiceId, body: &[u8]) -> Result<ServiceRecord, CatalogError> {
    let not_a_record = |error| not_the_contract("a request for a service", &error);
    let raw: &RawValue = serde_json::from_slice(body).map_err(not_a_record)?;
    let identity: Identity = serde_json::from_str(raw.get()).map_err(not_a_record)?;
    if identity.id != id.as_str() {
        return Err(CatalogError::BadRecord(BadRecord {
            id: Some(id.to_string()),
            revision: None,
            field: "id".to_owned(),
            message: format!(
                "is {}, another service than asked for",
                one_line(&identity.id)
            ),
        }));
    }
    checked(raw, Some(identity.id)).map_err(CatalogError::BadRecord)
}

/// Reads one record of a list; the ID is part of what may be wrong.
fn listed(raw: &RawValue) -> Result<ServiceRecord, BadRecord> {
    let id = serde_json::from_str::<Identity>(raw.get())
        .ok()
        .map(|identity| identity.id);
    if let Some(text) = &id
        && let Err(error) = CatalogServiceId::parse(text)
    {
        return Err(BadRecord {
            id: None,
            revision: None,
            field: "id".to_owned(),
            message: error.to_string(),
        });
    }
    checked(raw, id)
}

/// Reads a record whose ID was looked at.
pub(super) fn checked(raw: &RawValue, id: Option<String>) -> Result<ServiceRecord, BadRecord> {
    let mut json = serde_json::Deserializer::from_str(raw.get());
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let message = reason(error.inner());
        let path = error.path().to_string();
        // A missing field is found where its object ends, so the path is the
        // object's; the message has the field.
        let field = if path == "." {
            "record".to_owned()
        } else {
            one_line(&path)
        };
        let revision = serde_json::from_str::<Age>(raw.get());
        BadRecord {
            id,
            revision: revision.ok().map(|age| age.revision),
            field,
            message,
        }
    })
}

/// One page of a list.
pub(super) struct Page {
    pub(super) position: CatalogPosition,
    pub(super) next_cursor: Option<String>,
    pub(super) services: Vec<Result<ServiceRecord, BadRecord>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageBody<'a> {
    epoch: String,
    revision: u64,
    #[serde(default)]
    next_cursor: Option<String>,
    #[serde(borrow)]
    items: Vec<&'a RawValue>,
}

/// Reads one page. A bad record is an item of it, never the page's failure.
pub(super) fn page(body: &[u8]) -> Result<Page, CatalogError> {
    let page: PageBody<'_> =
        serde_json::from_slice(body).map_err(|error| not_the_contract("a list", &error))?;
    Ok(Page {
        position: CatalogPosition {
            epoch: page.epoch,
            revision: page.revision,
        },
        next_cursor: page.next_cursor,
        services: page.items.into_iter().map(listed).collect(),
    })
}

#[derive(Serialize)]
struct Writer<'a> {
    cluster: &'a str,
    epoch: u64,
    sequence: u64,
}

impl<'a> From<&'a WriterPosition> for Writer<'a> {
    fn from(writer: &'a WriterPosition) -> Self {
        Self {
            cluster: &writer.cluster,
            epoch: writer.epoch,
            sequence: writer.sequence,
        }
    }
}

/// Body of a health report.
#[derive(Serialize)]
pub(super) struct HealthBatch<'a> {
    writer: Writer<'a>,
    items: Vec<HealthItem<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HealthItem<'a> {
    service_id: &'a str,
    health: &'static str,
    healthy: u32,
    total: u32,
}

impl<'a> HealthBatch<'a> {
    pub(super) fn new(writer: &'a WriterPosition, items: &'a [HealthReport]) -> Self {
        let items = items.iter().map(|item| HealthItem {
            service_id: &item.service_id,
            health: health(item.health),
            healthy: item.healthy,
            total: item.total,
        });
        Self {
            writer: writer.into(),
            items: items.collect(),
        }
    }
}

/// The word for a health.
pub(super) fn health(health: ReportedHealth) -> &'static str {
    match health {
        ReportedHealth::Healthy => "Healthy",
        ReportedHealth::Degraded => "Degraded",
        ReportedHealth::Unhealthy => "Unhealthy",
        ReportedHealth::Unknown => "Unknown",
    }
}

/// Body of an endpoint report.
#[derive(Serialize)]
pub(super) struct EndpointsBody<'a> {
    writer: Writer<'a>,
    endpoints: Vec<EndpointItem<'a>>,
}

#[derive(Serialize)]
struct EndpointItem<'a> {
    address: String,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    ready: bool,
}

impl<'a> EndpointsBody<'a> {
    pub(super) fn new(writer: &'a WriterPosition, report: &'a EndpointReport) -> Self {
        Self {
            writer: writer.into(),
            endpoints: endpoint_items(report),
        }
    }
}

/// The endpoints of a report as a JSON list.
pub(super) fn endpoints(report: &EndpointReport) -> Result<String, CatalogError> {
    serde_json::to_string(&endpoint_items(report))
        .map_err(|error| CatalogError::unavailable(format!("not sent: {}", reason(&error))))
}

fn endpoint_items(report: &EndpointReport) -> Vec<EndpointItem<'_>> {
    let endpoints = report.endpoints.iter().map(|endpoint| EndpointItem {
        address: endpoint.address.to_string(),
        port: endpoint.port,
        zone: endpoint.zone.as_deref(),
        ready: endpoint.ready,
    });
    endpoints.collect()
}

#[derive(Deserialize)]
struct Outcomes {
    results: Vec<Outcome>,
}

#[derive(Deserialize)]
#[serde(tag = "status", rename_all = "camelCase")]
enum Outcome {
    Accepted,
    Outdated {
        epoch: u64,
        sequence: u64,
    },
    NotFound,
    Invalid {
        #[serde(default)]
        message: String,
    },
}

impl From<Outcome> for ItemOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Accepted => Self::Accepted,
            Outcome::Outdated { epoch, sequence } => Self::Outdated { epoch, sequence },
            Outcome::NotFound => Self::NotFound,
            Outcome::Invalid { message } => Self::Invalid(one_line(&message)),
        }
    }
}

/// Reads the outcomes of a health report of `expected` items.
pub(super) fn outcomes(body: &[u8], expected: usize) -> Result<Vec<ItemOutcome>, CatalogError> {
    let outcomes: Outcomes = serde_json::from_slice(body)
        .map_err(|error| not_the_contract("a health report", &error))?;
    let got = outcomes.results.len();
    if got != expected {
        return Err(CatalogError::unavailable(format!(
            "the answer to a health report of {expected} items has {got} results"
        )));
    }
    Ok(outcomes
        .results
        .into_iter()
        .map(ItemOutcome::from)
        .collect())
}

/// Reads the outcome of an endpoint report.
pub(super) fn outcome(body: &[u8]) -> Result<ItemOutcome, CatalogError> {
    serde_json::from_slice::<Outcome>(body)
        .map(ItemOutcome::from)
        .map_err(|error| not_the_contract("an endpoint report", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> CatalogServiceId {
        CatalogServiceId::parse("svc-1").unwrap()
    }

    fn read(extra: &str) -> Result<ServiceRecord, CatalogError> {
        let body = format!(r#"{{"id":"svc-1","name":"a","namespace":"b","revision":7{extra}}}"#);
        record(&id(), body.as_bytes())
    }

    #[test]
    fn unknown_fields_are_tolerated_at_every_depth() {
        let record = read(r#","new":{"x":[1]},"healthCheck":{"endpoint":"/h","newer":1}"#).unwrap();
        assert_eq!((record.revision, record.id.as_str()), (7, "svc-1"));
    }

    #[test]
    fn a_bad_value_names_its_field_and_what_is_expected() {
        for (extra, field, expected) in [
            (r#","timeout":5"#, "timeout", "expected a string"),
            (
                r#","circuitBreaker":{"interval":5}"#,
                "circuitBreaker.interval",
                "expected a string",
            ),
            (
                r#","circuitBreaker":{"consecutiveErrors":99999999999}"#,
                "circuitBreaker.consecutiveErrors",
                "expected i32",
            ),
            (
                r#","loadBalancing":{"simple":"FASTEST"}"#,
                "loadBalancing.simple",
                "ROUND_ROBIN",
            ),
            (
                r#","loadBalancing":{"locality":{"failover":[{"from":1}]}}"#,
                "loadBalancing.locality.failover[0].from",
                "expected a string",
            ),
            (
                r#","loadBalancing":{"consistentHash":{"httpCookie":{}}}"#,
                "loadBalancing.consistentHash.httpCookie",
                "missing field `name`",
            ),
            (
                r#","retries":"often""#,
                "retries",
                "expected a number of attempts, or {attempts",
            ),
            (
                r#","retries":{"attempts":"x"}"#,
                "retries",
                "expected a number of attempts",
            ),
            (r#","labels":{"a":null}"#, "labels.a", "expected a string"),
        ] {
            let Err(CatalogError::BadRecord(bad)) = read(extra) else {
                panic!("{extra}")
            };
            assert_eq!(
                (bad.id.as_deref(), bad.field.as_str()),
                (Some("svc-1"), field)
            );
            assert!(bad.message.contains(expected), "{bad}");
            assert!(!bad.message.contains("line"), "{bad}");
        }
    }

    #[test]
    fn retries_are_a_number_or_a_policy() {
        use crate::domain::record::{RecordRetries, RetryPolicy};
        assert_eq!(
            read(r#","retries":3"#).unwrap().retries,
            Some(RecordRetries::Attempts(3))
        );
        assert_eq!(
            read(r#","retries":{"attempts":3,"perTryTimeout":"2s"}"#)
                .unwrap()
                .retries,
            Some(RecordRetries::Policy(Box::new(RetryPolicy {
                attempts: Some(3),
                per_try_timeout: Some("2s".to_owned()),
                retry_on: None,
            })))
        );
    }

    #[test]
    fn a_missing_field_is_named() {
        let Err(CatalogError::BadRecord(bad)) = record(&id(), br#"{"id":"svc-1","name":"a"}"#)
        else {
            panic!()
        };
        assert_eq!(bad.to_string(), "record: missing field `namespace`");
    }

    #[test]
    fn a_message_about_a_huge_value_is_bounded_and_on_one_line() {
        let huge = format!(
            r#","revision2":1,"retries":1,"healthCheck":"{}""#,
            r"\n\u001b".repeat(100_000)
        );
        let Err(error) = read(&huge) else { panic!() };
        let message = error.to_string();
        assert!(
            message.len() < 2_000 && !message.contains(['\n', '\u{1b}']),
            "{message}"
        );
    }

    #[test]
    fn the_record_of_another_service_is_bad_in_its_id() {
        let Err(CatalogError::BadRecord(bad)) = record(&id(), br#"{"id":"svc-2"}"#) else {
            panic!()
        };
        assert_eq!(
            (bad.id.as_deref(), bad.field.as_str()),
            (Some("svc-1"), "id")
        );
    }

    #[test]
    fn a_body_that_is_no_record_is_no_fault_of_the_record() {
        for body in [
            "",
            "<html>",
            "{\"id\":\"svc-1\",",
            "[]",
            "null",
            "{}",
            "{\"id\":7}",
            "{\"id\":\"svc-1\"} x",
        ] {
            let error = record(&id(), body.as_bytes()).unwrap_err();
            assert!(
                matches!(error, CatalogError::Unavailable { .. }),
                "{body}: {error}"
            );
        }
        let deep = "[".repeat(1_000_000);
        assert!(matches!(
            record(&id(), deep.as_bytes()),
            Err(CatalogError::Unavailable { .. })
        ));
        let deep = format!(r#"{{"id":"svc-1","x":{deep}"#);
        assert!(matches!(
            record(&id(), deep.as_bytes()),
            Err(CatalogError::Unavailable { .. })
        ));
    }

    #[test]
    fn a_bad_record_in_a_list_is_an_item_with_its_id() {
        let page = page(
            br#"{"epoch":"e","revision":3,"items":[
                {"id":"a","name":"a","namespace":"n","revision":1},
                {"id":"b","name":7},
                {"id":"../c","name":"c","namespace":"n","revision":1},
                "d"]}"#,
        )
        .unwrap();
        assert_eq!(page.services.len(), 4);
        assert_eq!(page.services[0].as_ref().unwrap().id, "a");
        let bad: Vec<_> = page.services[1..]
            .iter()
            .map(|s| s.as_ref().unwrap_err())
            .collect();
        assert_eq!(
            (bad[0].id.as_deref(), bad[0].field.as_str()),
            (Some("b"), "name")
        );
        assert_eq!((bad[1].id.as_deref(), bad[1].field.as_str()), (None, "id"));
        assert_eq!(
            (bad[2].id.as_deref(), bad[2].field.as_str()),
            (None, "record")
        );
    }

    #[test]
    fn as_many_results_as_items_are_read_in_order() {
        let body =
            br#"{"results":[{"status":"accepted"},{"status":"outdated","epoch":4,"sequence":5},
            {"status":"notFound"},{"status":"invalid","message":"no\nway"}]}"#;
        assert_eq!(
            outcomes(body, 4).unwrap(),
            [
                ItemOutcome::Accepted,
                ItemOutcome::Outdated {
                    epoch: 4,
                    sequence: 5
                },
                ItemOutcome::NotFound,
                ItemOutcome::Invalid("no\\nway".to_owned()),
            ]
        );
        assert!(outcomes(body, 3).is_err());
        assert!(outcomes(br#"{"results":[{"status":"outdated"}]}"#, 1).is_err());
        assert!(outcome(br#"{"status":"perhaps"}"#).is_err());
    }
}
