//! How does an answer of the Catalog API become a stream of events? Reads the
//! body from the connection.

use std::collections::VecDeque;

use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::answer::{self, no_answer, reason};
use super::credentials::Access;
use super::error::{CatalogError, one_line};
use super::event::{CatalogEvent, EventKind, EventStream};
use super::report::WriterPosition;
use super::silence;
use super::sse::{Fields, Parser};
use crate::domain::names::CatalogServiceId;
use crate::domain::record::CatalogPosition;

/// The events of an answer to a request with this access, once its head has
/// come.
pub(super) async fn begin(
    response: Response,
    access: &Access,
) -> Result<EventStream, CatalogError> {
    if response.status() != StatusCode::OK {
        // Of an error nothing but its problem document is read.
        return match answer::read(response, 0, access).await {
            Ok(_) => Err(CatalogError::unavailable("the answer is no event stream")),
            Err(CatalogError::NotFound) => Err(answer::unexpected(StatusCode::NOT_FOUND)),
            Err(error) => Err(error),
        };
    }
    let header = |name| {
        let value = response.headers().get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let media_type = header(CONTENT_TYPE).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("text/event-stream") {
        return Err(CatalogError::unavailable(format!(
            "the answer is {}, no event stream; check that api-url names a Catalog API, and what stands between",
            if essence.is_empty() {
                "of no media type".to_owned()
            } else {
                one_line(essence)
            }
        )));
    }
    if let Some(encoding) = header(CONTENT_ENCODING)
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(CatalogError::unavailable(format!(
            "the event stream is encoded ({}), which was not asked for",
            one_line(&encoding)
        )));
    }
    let body = response
        .bytes_stream()
        .map(|chunk| chunk.map(|chunk| chunk.to_vec()).map_err(no_answer));
    Ok(silence::bounded(events(body.boxed())))
}

/// The events of a body. What comes after the last whole one is dropped.
fn events(body: BoxStream<'static, Result<Vec<u8>, CatalogError>>) -> EventStream {
    struct Reading {
        body: BoxStream<'static, Result<Vec<u8>, CatalogError>>,
        parser: Parser,
        unread: VecDeque<u8>,
    }
    async fn next(reading: &mut Reading) -> Result<Option<CatalogEvent>, CatalogError> {
        loop {
            let (read, fields) = reading.parser.read(reading.unread.make_contiguous())?;
            reading.unread.drain(..read);
            if let Some(fields) = fields {
                return event(&fields).map(Some);
            }
            match reading.body.next().await {
                Some(chunk) => reading.unread.extend(chunk?),
                None => return Ok(None),
            }
        }
    }
    let reading = Reading {
        body,
        parser: Parser::default(),
        unread: VecDeque::new(),
    };
    futures::stream::unfold(reading, |mut reading| async {
        let event = next(&mut reading).await.transpose()?;
        Some((event, reading))
    })
    .boxed()
}

#[derive(Deserialize)]
struct About {
    id: String,
    #[serde(default)]
    writer: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Writer {
    cluster: String,
    epoch: u64,
    sequence: u64,
}

#[derive(Deserialize)]
struct Why {
    #[serde(default)]
    reason: String,
}

/// What the fields of an event say. One that cannot be understood is an error:
/// passed over, it would be lost.
fn event(fields: &Fields) -> Result<CatalogEvent, CatalogError> {
    let Some(position) = CatalogPosition::parse(&fields.id) else {
        return Err(unreadable(fields, "its id is no <epoch>.<revision>"));
    };
    let about = || -> Result<About, CatalogError> {
        serde_json::from_str(&fields.data).map_err(|error| unreadable(fields, &reason(&error)))
    };
    let of = |kind: fn(CatalogServiceId) -> EventKind| Ok(named(&about()?.id, kind));
    let kind = match fields.event.as_str() {
        "ServiceRegistered" => of(EventKind::Registered),
        "ServiceUpdated" => of(EventKind::Updated),
        "ServiceDeregistered" => of(EventKind::Deregistered),
        "HealthChanged" => {
            let about = about()?;
            let writer = about.writer.and_then(writer);
            Ok(named(&about.id, |id| EventKind::HealthChanged {
                id,
                writer,
            }))
        }
        "bookmark" => Ok(EventKind::Bookmark),
        "reset" => {
            let why: Option<Why> = serde_json::from_str(&fields.data).ok();
            let reason = one_line(&why.map(|why| why.reason).unwrap_or_default());
            Ok(EventKind::Reset { reason })
        }
        _ => Ok(EventKind::Other),
    };
    kind.map(|kind| CatalogEvent { position, kind })
}

/// A service whose ID is none cannot be bound, so that it concerns nobody.
pub(super) fn named(id: &str, kind: impl FnOnce(CatalogServiceId) -> EventKind) -> EventKind {
    CatalogServiceId::parse(id).map_or(EventKind::Other, kind)
}

/// Who reported; nobody where that cannot be understood.
pub(super) fn writer(value: serde_json::Value) -> Option<WriterPosition> {
    let Writer {
        cluster,
        epoch,
        sequence,
    } = serde_json::from_value(value).ok()?;
    Some(WriterPosition {
        cluster,
        epoch,
        sequence,
    })
}

fn unreadable(fields: &Fields, why: &str) -> CatalogError {
    CatalogError::unavailable(format!(
        "an event cannot be understood: {} {}: {why}",
        one_line(&fields.event),
        one_line(&fields.id)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, id: &str, data: &str) -> Result<CatalogEvent, String> {
        let fields = Fields {
            event: kind.to_owned(),
            id: id.to_owned(),
            data: data.to_owned(),
        };
        event(&fields).map_err(|error| error.to_string())
    }

    fn kind(kind: &str, data: &str) -> EventKind {
        let event = read(kind, "0bad.7", data).unwrap();
        assert_eq!(event.position.to_string(), "0bad.7");
        event.kind
    }

    #[test]
    fn each_kind_of_event_is_understood_and_a_new_one_counts() {
        let id = CatalogServiceId::parse("a:b").unwrap();
        let data = r#"{"id":"a:b","name":"x","namespace":"y","revision":7,"new":[]}"#;
        assert_eq!(
            kind("ServiceRegistered", data),
            EventKind::Registered(id.clone())
        );
        assert_eq!(kind("ServiceUpdated", data), EventKind::Updated(id.clone()));
        assert_eq!(
            kind("ServiceDeregistered", data),
            EventKind::Deregistered(id.clone())
        );
        assert_eq!(kind("bookmark", "{}"), EventKind::Bookmark);
        assert_eq!(kind("ServiceRenamed", "anything"), EventKind::Other);
        let reset = kind(
            "reset",
            r#"{"epoch":"0bad","revision":7,"reason":"too\nold"}"#,
        );
        assert_eq!(
            reset,
            EventKind::Reset {
                reason: "too\\nold".to_owned()
            }
        );
        let changed = |writer| EventKind::HealthChanged {
            id: id.clone(),
            writer,
        };
        assert_eq!(kind("HealthChanged", data), changed(None));
        let data = r#"{"id":"a:b","writer":{"cluster":"c","epoch":3,"sequence":14}}"#;
        let writer = WriterPosition {
            cluster: "c".to_owned(),
            epoch: 3,
            sequence: 14,
        };
        assert_eq!(kind("HealthChanged", data), changed(Some(writer)));
    }

    #[test]
    fn an_event_of_a_service_that_nobody_can_bind_counts_and_says_nothing() {
        assert_eq!(kind("ServiceUpdated", r#"{"id":"../a"}"#), EventKind::Other);
    }

    #[test]
    fn an_event_that_cannot_be_understood_is_an_error() {
        for (of, id, data) in [
            ("ServiceUpdated", "", r#"{"id":"a"}"#),
            ("ServiceUpdated", "7", r#"{"id":"a"}"#),
            ("ServiceUpdated", "e.x", r#"{"id":"a"}"#),
            ("ServiceUpdated", "e.1", ""),
            ("ServiceUpdated", "e.1", "{"),
            ("ServiceUpdated", "e.1", "{}"),
            ("HealthChanged", "e.1", r#"{"id":1}"#),
            ("bookmark", "", "{}"),
            ("New\nKind", "e", "{}"),
        ] {
            let error = read(of, id, data).unwrap_err();
            assert!(error.contains("cannot be understood"), "{of} {id} {data}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
