//! The event stream of the REST client against a real server on loopback that
//! misbehaves in every way that a catalog, or whatever stands in its place, can.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

#[path = "support/site.rs"]
mod site;

use std::sync::atomic::Ordering;
use std::time::Duration;

use catalog_mesh_controller::catalog::Catalog;
use catalog_mesh_controller::catalog::client::HttpCatalogConfig;
use catalog_mesh_controller::catalog::credentials::{AccessConfig, ApiUrl};
use catalog_mesh_controller::catalog::error::CatalogError;
use catalog_mesh_controller::catalog::event::{CatalogEvent, EventKind, EventStream};
use catalog_mesh_controller::catalog::http::HttpCatalog;
use catalog_mesh_controller::domain::record::CatalogPosition;
use futures::StreamExt;

use site::{Reply, Site, header, problem};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";
const UPDATED: &str = "event: ServiceUpdated\nid: e.8\ndata: {\"id\":\"svc-1\"}\n\n";
const BOOKMARK: &str = "event: bookmark\nid: e.8\ndata: {}\n\n";

fn config(url: &str) -> HttpCatalogConfig {
    HttpCatalogConfig::new(AccessConfig {
        api_url: ApiUrl::Given(url.to_owned()),
        report_url_file: None,
        api_key_file: None,
        token_file: None,
    })
}

async fn subscribe(site: &Site) -> Result<EventStream, CatalogError> {
    let catalog = HttpCatalog::new(config(&site.url())).unwrap();
    let after = CatalogPosition::parse("e.7").unwrap();
    catalog.subscribe(Some(&after)).await
}

async fn refused(site: &Site) -> CatalogError {
    match subscribe(site).await {
        Ok(_) => panic!("a stream began"),
        Err(error) => error,
    }
}

/// A stream of this body, which then ends.
async fn stream(body: impl Into<String>) -> EventStream {
    let bytes = format!("{HEAD}\r\n{}", body.into()).into_bytes();
    let site = Site::serve(move |_, _| Reply::Bytes(bytes.clone())).await;
    subscribe(&site).await.unwrap()
}

/// All that a stream says, and the error that it ends with.
async fn all(stream: EventStream) -> (Vec<EventKind>, Option<String>) {
    let said: Vec<Result<CatalogEvent, CatalogError>> = stream.collect().await;
    let error = said.iter().find_map(|event| event.as_ref().err());
    let error = error.map(ToString::to_string);
    (
        said.into_iter().flatten().map(|event| event.kind).collect(),
        error,
    )
}

#[tokio::test]
async fn it_asks_for_what_comes_after_its_position_with_its_credentials() {
    let site = Site::serve(|_, _| Reply::Bytes(format!("{HEAD}\r\n").into())).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api-key"), "first").unwrap();
    let mut config = config(&site.url());
    config.access.api_key_file = Some(folder.path().join("api-key"));
    let catalog = HttpCatalog::new(config).unwrap();
    let after = CatalogPosition::parse("e.7").unwrap();
    assert!(catalog.subscribe(Some(&after)).await.is_ok());
    std::fs::write(folder.path().join("api-key"), "other").unwrap();
    tokio::time::sleep(Duration::from_millis(1_050)).await;
    assert!(catalog.subscribe(None).await.is_ok());
    let requests = site.requests();
    assert!(
        requests[0].starts_with("GET /api/v1/events HTTP/1.1"),
        "{}",
        requests[0]
    );
    let of = |n: usize, name| header(&requests[n], name);
    assert_eq!(of(0, "last-event-id"), Some("e.7"));
    assert_eq!(of(1, "last-event-id"), None);
    assert_eq!(
        [of(0, "x-api-key"), of(1, "x-api-key")],
        [Some("first"), Some("other")]
    );
    assert!(of(0, "accept").unwrap().starts_with("text/event-stream"));
}

#[tokio::test]
async fn a_stream_that_ends_ends_after_its_last_whole_event() {
    let whole = format!("{UPDATED}{BOOKMARK}");
    for length in UPDATED.len()..whole.len() {
        let (said, error) = all(stream(&whole[..length]).await).await;
        assert_eq!((said.len(), error), (1, None), "cut after {length} bytes");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_an_event_is_an_error_after_what_was_whole() {
    let head = format!("{HEAD}Content-Length: 9999\r\n\r\n{UPDATED}event: Serv");
    let site = Site::serve(move |_, _| Reply::Bytes(head.clone().into())).await;
    let (said, error) = all(subscribe(&site).await.unwrap()).await;
    assert_eq!(said.len(), 1);
    assert!(error.unwrap().contains("no answer"));
}

#[tokio::test]
async fn events_arrive_whole_though_their_bytes_come_one_by_one() {
    let bytes = format!("{HEAD}\r\n{UPDATED}");
    let site = Site::serve(move |_, _| Reply::Drip(bytes.clone().into())).await;
    let mut config = config(&site.url());
    config.head_deadline = Duration::from_secs(30);
    let catalog = HttpCatalog::new(config).unwrap();
    let (said, error) = all(catalog.subscribe(None).await.unwrap()).await;
    assert_eq!((said.len(), error), (1, None));
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_or_not_at_all_is_given_up() {
    for reply in [
        || Reply::Drip(format!("{HEAD}\r\n").into()),
        || Reply::Hold(Vec::new()),
    ] {
        let site = Site::serve(move |_, _| reply()).await;
        let mut config = config(&site.url());
        config.head_deadline = Duration::from_millis(300);
        let catalog = HttpCatalog::new(config).unwrap();
        let error = catalog.subscribe(None).await.err().unwrap().to_string();
        assert!(
            error.contains("no event stream began within 300ms"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_or_never_ends_an_event_is_given_up() {
    let unfinished = format!("{BOOKMARK}event: Serv");
    let comments = format!("{BOOKMARK}{}", ": still here\n\n".repeat(1_000));
    for body in [BOOKMARK.to_owned(), unfinished, comments] {
        let bytes = format!("{HEAD}\r\n{body}");
        let site = Site::serve(move |_, _| Reply::Hold(bytes.clone().into())).await;
        let mut stream = subscribe(&site).await.unwrap();
        assert_eq!(
            stream.next().await.unwrap().unwrap().kind,
            EventKind::Bookmark
        );
        tokio::time::pause();
        let silent = tokio::time::Instant::now();
        let error = stream.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains("silent for 25 s"), "{error}");
        assert_eq!(silent.elapsed().as_secs(), 25);
        assert!(stream.next().await.is_none());
        tokio::time::resume();
    }
}

#[tokio::test]
async fn of_a_line_of_a_gib_a_bounded_part_is_read() {
    let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n");
    let site = Site::serve(move |_, _| Reply::Flood(head.clone())).await;
    let (said, error) = all(subscribe(&site).await.unwrap()).await;
    assert!(said.is_empty());
    let error = error.unwrap();
    assert!(
        error.contains("a line is longer than 65536 bytes"),
        "{error}"
    );
    // Beyond our own bound stand the buffers of both sockets.
    assert!(site.flooded.load(Ordering::Relaxed) < 12 << 20);
}

#[tokio::test]
async fn an_event_that_cannot_be_understood_ends_the_stream() {
    let body = format!("{UPDATED}event: ServiceUpdated\nid: e.9\ndata: {{}}\n\n{BOOKMARK}");
    let (said, error) = all(stream(body).await).await;
    assert_eq!(said.len(), 1, "it goes on behind an event that was lost");
    assert!(
        error
            .unwrap()
            .contains("ServiceUpdated e.9: missing field `id`")
    );
}

#[tokio::test]
async fn an_answer_that_is_no_event_stream_says_what_it_is() {
    let html = Site::always("200 OK", "Content-Type: text/html\r\n", "<html>Welcome").await;
    let error = refused(&html).await.to_string();
    assert!(
        error.contains("text/html, no event stream") && error.contains("api-url"),
        "{error}"
    );
    assert!(!error.contains("Welcome"), "{error}");

    let nothing = Site::always("200 OK", "", BOOKMARK).await;
    assert!(
        refused(&nothing)
            .await
            .to_string()
            .contains("of no media type")
    );

    let packed = "Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\n";
    let packed = Site::always("200 OK", packed, BOOKMARK).await;
    assert!(
        refused(&packed)
            .await
            .to_string()
            .contains("encoded (gzip)")
    );

    let moved = Site::always("302 Found", "Location: http://127.0.0.1:1/\r\n", "").await;
    let error = refused(&moved).await.to_string();
    assert!(error.contains("redirects are not followed"), "{error}");
    assert_eq!(moved.requests().len(), 1);

    for status in ["204 No Content", "304 Not Modified", "410 Gone", "500 Oops"] {
        let site = Site::always(status, "", "").await;
        let error = refused(&site).await;
        assert!(
            matches!(error, CatalogError::Unavailable { .. }),
            "{status}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_refusal_is_of_the_class_that_its_status_says() {
    let site = Site::serve(|n, _| match n {
        0 => problem("401 Unauthorized", "", "wrong key"),
        1 => problem("429 Too Many Requests", "Retry-After: 17\r\n", "slow down"),
        2 => problem(
            "503 Service Unavailable",
            "Retry-After: 3\r\n",
            "too many streams",
        ),
        _ => problem("404 Not Found", "", "no such service"),
    })
    .await;
    let seconds = |error| match error {
        CatalogError::RateLimited { retry_after, .. } => retry_after.as_secs(),
        other => panic!("{other:?}"),
    };
    let first = refused(&site).await;
    assert!(
        matches!(first, CatalogError::Unauthorized { .. }),
        "{first:?}"
    );
    assert_eq!(
        [seconds(refused(&site).await), seconds(refused(&site).await)],
        [17, 3]
    );
    let unknown = refused(&site).await;
    assert!(
        matches!(unknown, CatalogError::Unavailable { .. }),
        "a path that is unknown is no service that is gone: {unknown:?}"
    );
}
