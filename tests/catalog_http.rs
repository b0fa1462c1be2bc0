//! The REST client against a real server on loopback that misbehaves in every
//! way that a catalog, or whatever stands in its place, can.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

#[path = "support/site.rs"]
mod site;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use catalog_mesh_controller::catalog::Catalog;
use catalog_mesh_controller::catalog::client::{HttpCatalogConfig, HttpCatalogError};
use catalog_mesh_controller::catalog::credentials::{AccessConfig, ApiUrl};
use catalog_mesh_controller::catalog::error::CatalogError;
use catalog_mesh_controller::catalog::http::HttpCatalog;
use catalog_mesh_controller::catalog::report::{
    Endpoint, EndpointReport, HealthReport, ItemOutcome, ReportedHealth, WriterPosition,
};
use catalog_mesh_controller::domain::names::CatalogServiceId;
use catalog_mesh_controller::domain::record::{ServiceFilter, ServiceRecord};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use site::{Reply, Site, answer, header, json, problem, read_request, write_reply};

const RECORD: &str = r#"{"id":"svc-1","name":"worker","namespace":"apps","revision":7,"timeout":"30s","unknown":[{}]}"#;

fn config(url: &str) -> HttpCatalogConfig {
    HttpCatalogConfig::new(AccessConfig {
        api_url: ApiUrl::Given(url.to_owned()),
        report_url_file: None,
        api_key_file: None,
        token_file: None,
    })
}

fn catalog(url: &str) -> HttpCatalog {
    HttpCatalog::new(config(url)).unwrap()
}

/// With a deadline that a test can wait for.
fn hasty(url: &str) -> HttpCatalog {
    let mut config = config(url);
    config.request_deadline = Duration::from_millis(300);
    HttpCatalog::new(config).unwrap()
}

fn id() -> CatalogServiceId {
    CatalogServiceId::parse("svc-1").unwrap()
}

async fn get(catalog: &HttpCatalog) -> Result<Arc<ServiceRecord>, CatalogError> {
    catalog.get_service(&id()).await
}

async fn error(site: &Site) -> CatalogError {
    get(&catalog(&site.url())).await.unwrap_err()
}

/// The message of an error that must be Unavailable.
fn unavailable(error: CatalogError) -> String {
    match error {
        CatalogError::Unavailable { message } => message,
        other => panic!("{other:?}"),
    }
}

// --- answers that are none ------------------------------------------------

#[tokio::test]
async fn a_refused_connection_is_unavailable_and_over_when_the_catalog_is_back() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let catalog = catalog(&format!("http://{address}"));
    let message = unavailable(get(&catalog).await.unwrap_err());
    assert!(message.contains("refused"), "{message}");
    let listener = TcpListener::bind(address).await.unwrap();
    let _site = Site::serve_on(listener, |_, _| json(RECORD));
    assert_eq!(get(&catalog).await.unwrap().name, "worker");
}

#[tokio::test]
async fn a_fault_of_the_server_names_the_status_and_the_problem_in_one_line() {
    let site = Site::serve(|n, _| {
        let body = r#"{"title":"No\nway\u001b[2J","status":500,"detail":"request 4711"}"#;
        match n {
            0 => answer(
                "500 Internal Server Error",
                "Content-Type: application/problem+json\r\n",
                body,
            ),
            1 => answer(
                "500 Internal Server Error",
                "Content-Type: text/html\r\n",
                "<h1>No",
            ),
            _ => problem("418 I'm a teapot", "", &"long ".repeat(10_000)),
        }
    })
    .await;
    let message = unavailable(error(&site).await);
    assert_eq!(
        message,
        r"status 500 Internal Server Error: No\nway\u{1b}[2J"
    );
    assert_eq!(
        unavailable(error(&site).await),
        "status 500 Internal Server Error"
    );
    let message = unavailable(error(&site).await);
    assert!(
        message.starts_with("status 418 I'm a teapot: A title: long"),
        "{message}"
    );
    assert!(message.len() < 500, "{message}");
}

#[tokio::test]
async fn a_page_of_html_is_unavailable_and_hints_at_the_url() {
    let site = Site::always("200 OK", "Content-Type: text/html\r\n", "<html>Welcome").await;
    let message = unavailable(error(&site).await);
    assert!(
        message.contains("not JSON") && message.contains("api-url"),
        "{message}"
    );
    assert!(!message.contains("Welcome"), "{message}");
    let list = catalog(&site.url())
        .list_services(&ServiceFilter::default())
        .await;
    assert!(unavailable(list.unwrap_err()).contains("not JSON"));
}

#[tokio::test]
async fn json_of_something_else_is_unavailable_and_not_a_bad_record() {
    let site = Site::serve(|_, _| json(r#"{"status":"ok"}"#)).await;
    assert!(unavailable(error(&site).await).contains("missing field `id`"));
}

#[tokio::test]
async fn truncated_json_is_unavailable_wherever_it_ends() {
    for length in 0..RECORD.len() {
        let site = Site::serve(move |_, _| json(&RECORD[..length])).await;
        unavailable(error(&site).await);
    }
    let whole = RECORD.len();
    let cut = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {whole}\r\n\r\n{}",
        &RECORD[..50]
    );
    let site = Site::serve(move |_, _| Reply::Bytes(cut.clone().into())).await;
    unavailable(error(&site).await);
}

#[tokio::test]
async fn a_gib_is_refused_after_a_bounded_part_of_it() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let announced = "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n";
    let until_the_end = "HTTP/1.1 200 OK\r\n\r\n";
    // Beyond our own bound stand the buffers of both sockets.
    let buffers = 12 << 20;
    for head in [chunked, announced, until_the_end] {
        let site = Site::serve(move |_, _| Reply::Flood(head.to_owned())).await;
        let catalog = catalog(&site.url());
        let message = unavailable(get(&catalog).await.unwrap_err());
        assert!(message.contains("larger than 1048576 bytes"), "{message}");
        let flooded = site.flooded.swap(0, Ordering::Relaxed);
        assert!(flooded < (1 << 20) + buffers, "{head} {flooded}");
        let list = catalog.list_services(&ServiceFilter::default()).await;
        assert!(unavailable(list.unwrap_err()).contains("larger than 16777216 bytes"));
        let flooded = site.flooded.load(Ordering::Relaxed);
        assert!(flooded < (16 << 20) + 2 * buffers, "{head} {flooded}");
    }
}

#[tokio::test]
async fn an_endless_problem_does_not_hide_the_status() {
    let head = "HTTP/1.1 500 Oops\r\nContent-Type: application/problem+json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let site = Site::serve(move |_, _| Reply::Flood(head.to_owned())).await;
    assert_eq!(
        unavailable(error(&site).await),
        "status 500 Internal Server Error"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_key_goes_nowhere() {
    let canary = Arc::new(Site::always("200 OK", "", RECORD).await);
    let folder = tempfile::tempdir().unwrap();
    for status in [
        "301 Moved",
        "302 Found",
        "303 See Other",
        "307 Temporary",
        "308 Permanent",
    ] {
        let target = canary.url();
        let site = Site::serve(move |_, _| {
            answer(
                status,
                &format!("Location: {target}/api/v1/services/svc-1\r\n"),
                "",
            )
        })
        .await;
        let catalog = with_key(&site.url(), folder.path(), "secret-key");
        let message = unavailable(get(&catalog).await.unwrap_err());
        assert!(
            message.contains(&status[..3]) && message.contains("not followed"),
            "{message}"
        );
        assert_eq!(site.requests().len(), 1);
    }
    assert_eq!(canary.requests().len(), 0);
}

#[tokio::test]
async fn a_catalog_that_repeats_the_credential_is_not_repeated() {
    let site = Site::serve(|n, request| {
        let key = header(request, "x-api-key").unwrap();
        let bearer = header(request, "authorization").unwrap();
        // Far into the text, where it would be cut off in the middle.
        let detail = format!("{} {key} or {bearer}", "no ".repeat(95));
        match n % 2 {
            0 => problem("401 Unauthorized", "Connection: close\r\n", &detail),
            _ => answer(
                "500 Internal Server Error",
                "Connection: close\r\nContent-Type: application/problem+json\r\n",
                &format!(r#"{{"status":500,"title":"{bearer}"}}"#),
            ),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let secret = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        Some(path)
    };
    let mut config = config(&site.url());
    config.access.api_key_file = secret("key", "canary-key-1234567890");
    config.access.token_file = secret("token", "canary.token.1234567890");
    let catalog = HttpCatalog::new(config).unwrap();
    for _ in 0..2 {
        for error in [
            get(&catalog).await.unwrap_err(),
            catalog.subscribe(None).await.err().unwrap(),
            catalog
                .report_health(&writer(), &[health("a")])
                .await
                .unwrap_err(),
        ] {
            let said = format!("{error} {error:?}");
            assert!(!said.contains("canary"), "{said}");
            assert!(said.contains("[redacted]"), "{said}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_drips_ends_with_the_deadline() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let site = Site::serve(move |_, _| Reply::Drip(head.into())).await;
    let message = unavailable(get(&hasty(&site.url())).await.unwrap_err());
    assert_eq!(message, "no complete answer within 300ms");
    // The head at once and the body in drips: the deadline spans both.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let _ = write_reply(
            &mut stream,
            Reply::Drip(vec![b' '; 100]),
            &AtomicU64::new(0),
        )
        .await;
    });
    let message = unavailable(get(&hasty(&format!("http://{address}"))).await.unwrap_err());
    assert_eq!(message, "no complete answer within 300ms");
}

#[tokio::test]
async fn a_server_that_says_nothing_ends_with_the_deadline() {
    // Accepted by the kernel, never by the program.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let catalog = hasty(&format!("http://{}", listener.local_addr().unwrap()));
    unavailable(get(&catalog).await.unwrap_err());
    unavailable(
        catalog
            .report_health(&writer(), &[health("a")])
            .await
            .unwrap_err(),
    );
}

#[tokio::test]
async fn an_encoded_answer_is_refused_since_none_was_asked_for() {
    let site = Site::always("200 OK", "Content-Encoding: gzip\r\n", "\u{1f}\u{8b}").await;
    assert!(unavailable(error(&site).await).contains("encoded (gzip)"));
    assert_eq!(header(&site.requests()[0], "accept-encoding"), None);
}

// --- refusals ----------------------------------------------------------------

#[tokio::test]
async fn only_the_catalogs_own_404_is_not_found() {
    let site = Site::serve(|_, _| problem("404 Not Found", "", "no such service")).await;
    assert_eq!(error(&site).await, CatalogError::NotFound);
    let list = catalog(&site.url())
        .list_services(&ServiceFilter::default())
        .await;
    unavailable(list.unwrap_err());
    let type_only = "Content-Type: application/problem+json\r\n";
    for (headers, body) in [
        ("", ""),
        ("Content-Type: text/html\r\n", "<h1>Not Found"),
        ("Content-Type: application/json\r\n", r#"{"status":404}"#),
        (type_only, ""),
        (type_only, "<h1>Not Found"),
        (type_only, r#"{"status":4"#),
        (type_only, r#"{"status":500}"#),
    ] {
        let site = Site::always("404 Not Found", headers, body).await;
        let message = unavailable(error(&site).await);
        assert!(message.contains("check that api-url"), "{message}");
    }
}

#[tokio::test]
async fn a_refused_credential_is_unauthorized() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let site = Site::serve(move |_, _| problem(status, "", "wrong key")).await;
        let CatalogError::Unauthorized { message } = error(&site).await else {
            panic!()
        };
        assert_eq!(message, format!("status {status}: A title: wrong key"));
    }
}

#[tokio::test]
async fn a_wait_that_the_catalog_asks_for_is_passed_on() {
    let waits = async |status: &'static str, headers: &'static str| {
        let site = Site::serve(move |_, _| problem(status, headers, "")).await;
        match error(&site).await {
            CatalogError::RateLimited { retry_after, .. } => Some(retry_after.as_secs()),
            other => {
                unavailable(other);
                None
            }
        }
    };
    let busy = "429 Too Many Requests";
    let date =
        "Date: Tue, 07 Jan 2025 12:00:00 GMT\r\nRetry-After: Tue, 07 Jan 2025 12:00:42 GMT\r\n";
    assert_eq!(waits(busy, "Retry-After: 17\r\n").await, Some(17));
    assert_eq!(waits(busy, date).await, Some(42));
    assert_eq!(waits(busy, "Retry-After: 0\r\n").await, Some(1));
    assert_eq!(waits(busy, "Retry-After: 86400\r\n").await, Some(300));
    assert_eq!(waits(busy, "Retry-After: later\r\n").await, Some(5));
    assert_eq!(waits(busy, "").await, Some(5));
    assert_eq!(
        waits("503 Service Unavailable", "Retry-After: 3\r\n").await,
        Some(3)
    );
    assert_eq!(
        waits("503 Service Unavailable", "Retry-After: later\r\n").await,
        None
    );
    assert_eq!(waits("503 Service Unavailable", "").await, None);
    assert_eq!(
        waits("500 Internal Server Error", "Retry-After: 3\r\n").await,
        None
    );
}

// --- records --------------------------------------------------------------------

#[tokio::test]
async fn a_bad_record_names_the_field_and_another_services_record_the_id() {
    for (body, expected) in [
        (
            r#"{"id":"svc-1","name":"a","namespace":"b","revision":1,"circuitBreaker":{"interval":5}}"#,
            "bad record: circuitBreaker.interval: invalid type: integer `5`, expected a string",
        ),
        (
            r#"{"id":"svc-1","name":"a","namespace":"b","revision":1,"retries":"many"}"#,
            "bad record: retries: expected a number of attempts, or {attempts, perTryTimeout, retryOn}",
        ),
        (
            r#"{"id":"svc-2","name":"a","namespace":"b","revision":1}"#,
            "bad record: id: is svc-2, another service than asked for",
        ),
    ] {
        let site = Site::serve(|_, _| json(body)).await;
        assert_eq!(error(&site).await.to_string(), expected);
    }
}

#[tokio::test]
async fn an_unchanged_record_comes_back_as_the_same_without_a_second_reading() {
    let site = Site::serve(|n, _| match n {
        0 => answer("200 OK", "ETag: \"one\"\r\n", RECORD),
        1 => Reply::Bytes("HTTP/1.1 304 Not Modified\r\nETag: \"one\"\r\n\r\n".into()),
        2 => problem("500 Internal Server Error", "", ""),
        3 => answer("200 OK", "ETag: \"two\"\r\n", &RECORD.replace("30s", "31s")),
        _ => Reply::Bytes("HTTP/1.1 304 Not Modified\r\n\r\n".into()),
    })
    .await;
    let catalog = catalog(&site.url());
    let first = get(&catalog).await.unwrap();
    let second = get(&catalog).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert!(get(&catalog).await.is_err());
    let third = get(&catalog).await.unwrap();
    assert_eq!(third.timeout.as_deref(), Some("31s"));
    assert!(Arc::ptr_eq(&third, &get(&catalog).await.unwrap()));
    let sent: Vec<_> = site
        .requests()
        .iter()
        .map(|r| header(r, "if-none-match").map(str::to_owned))
        .collect();
    let tag = |tag: &str| Some(format!("\"{tag}\""));
    assert_eq!(sent, [None, tag("one"), tag("one"), tag("one"), tag("two")]);
}

#[tokio::test]
async fn not_modified_without_having_been_asked_is_unavailable() {
    let site = Site::serve(|_, _| Reply::Bytes("HTTP/1.1 304 Not Modified\r\n\r\n".into())).await;
    assert!(unavailable(error(&site).await).contains("304"));
}

// --- lists ----------------------------------------------------------------------

fn page(revision: u64, items: &str, next: Option<&str>) -> Reply {
    let next = next.map_or(String::new(), |next| format!(r#","nextCursor":"{next}""#));
    json(&format!(
        r#"{{"epoch":"e1","revision":{revision},"items":[{items}]{next}}}"#
    ))
}

#[tokio::test]
async fn a_list_follows_its_cursor_and_one_bad_record_hides_no_other() {
    let site = Site::serve(|_, request| {
        let second =
            r#"{"id":"svc-2","name":"b","namespace":"apps","revision":1,"labels":{"a":"x y&z"}}"#;
        let first = r#"{"id":"svc-0","name":5},
            {"id":"svc-1","name":"a","namespace":"apps","revision":1,"labels":{"a":"x y&z"}}"#;
        if request.contains("cursor=c.1%3Ax") || request.contains("cursor=c.1:x") {
            page(9, second, None)
        } else {
            page(9, first, Some("c.1:x"))
        }
    })
    .await;
    let filter = ServiceFilter {
        namespace: Some("apps".to_owned()),
        labels: [("a".to_owned(), "x y&z".to_owned())].into(),
        ids: Vec::new(),
    };
    let list = catalog(&site.url()).list_services(&filter).await.unwrap();
    assert_eq!(
        (list.position.epoch.as_str(), list.position.revision),
        ("e1", 9)
    );
    let shown: Vec<_> = list
        .services
        .iter()
        .map(|service| match service {
            Ok(record) => record.id.clone(),
            Err(bad) => format!("{:?} {}", bad.id, bad.field),
        })
        .collect();
    assert_eq!(shown, ["Some(\"svc-0\") name", "svc-1", "svc-2"]);
    let asked = "GET /api/v1/services?limit=500&namespace=apps&label=a%3Dx+y%26z";
    assert!(
        site.requests().iter().all(|r| r.starts_with(asked)),
        "{:?}",
        site.requests()
    );
}

#[tokio::test]
async fn a_list_that_changes_under_way_is_no_list() {
    let site = Site::serve(|n, _| page(n as u64, "", Some(&format!("c{n}")))).await;
    let list = catalog(&site.url())
        .list_services(&ServiceFilter::default())
        .await;
    assert!(unavailable(list.unwrap_err()).contains("changed under way"));
}

#[tokio::test]
async fn a_repeated_cursor_is_no_list() {
    let site = Site::serve(|_, _| page(1, "", Some("again"))).await;
    let list = catalog(&site.url())
        .list_services(&ServiceFilter::default())
        .await;
    assert!(unavailable(list.unwrap_err()).contains("repeats a cursor"));
    assert_eq!(site.requests().len(), 2);
}

#[tokio::test]
async fn a_cursor_that_is_gone_begins_the_list_again() {
    let site = Site::serve(|n, _| match n {
        0 => page(1, "", Some("old")),
        1 => problem("410 Gone", "", "expired"),
        _ => page(2, RECORD, None),
    })
    .await;
    let list = catalog(&site.url())
        .list_services(&ServiceFilter::default())
        .await
        .unwrap();
    assert_eq!((list.position.revision, list.services.len()), (2, 1));
}

#[tokio::test]
async fn a_list_as_a_whole_has_a_deadline() {
    let site = Site::serve(|n, _| page(1, "", Some(&format!("c{n}")))).await;
    let mut config = config(&site.url());
    config.list_deadline = Duration::from_millis(100);
    let list = HttpCatalog::new(config).unwrap();
    let list = list.list_services(&ServiceFilter::default()).await;
    assert_eq!(
        unavailable(list.unwrap_err()),
        "no complete list within 100ms"
    );
}

// --- reports -----------------------------------------------------------------

fn writer() -> WriterPosition {
    WriterPosition {
        cluster: "c-1".to_owned(),
        epoch: 3,
        sequence: 14,
    }
}

fn health(service: &str) -> HealthReport {
    let service_id = service.to_owned();
    HealthReport {
        service_id,
        health: ReportedHealth::Degraded,
        healthy: 5,
        total: 9,
    }
}

#[tokio::test]
async fn a_health_report_says_what_the_contract_says() {
    let site = Site::serve(|_, _| {
        json(r#"{"results":[{"status":"outdated","epoch":4,"sequence":2},{"status":"notFound"}]}"#)
    })
    .await;
    let catalog = catalog(&site.url());
    let outcomes = catalog
        .report_health(&writer(), &[health("a"), health("b")])
        .await
        .unwrap();
    let outdated = ItemOutcome::Outdated {
        epoch: 4,
        sequence: 2,
    };
    assert_eq!(outcomes, [outdated, ItemOutcome::NotFound]);
    let request = &site.requests()[0];
    assert!(
        request.starts_with("POST /api/v1/health:batch HTTP/1.1"),
        "{request}"
    );
    assert_eq!(header(request, "content-type"), Some("application/json"));
    let item = |id| format!(r#"{{"serviceId":"{id}","health":"Degraded","healthy":5,"total":9}}"#);
    let body = format!(
        r#"{{"writer":{{"cluster":"c-1","epoch":3,"sequence":14}},"items":[{},{}]}}"#,
        item("a"),
        item("b")
    );
    assert!(request.ends_with(&body), "{request}");
    // Three items and two results: nobody knows which is which.
    let three = [health("a"), health("b"), health("c")];
    unavailable(catalog.report_health(&writer(), &three).await.unwrap_err());
}

#[tokio::test]
async fn a_report_over_the_contracts_bounds_is_not_sent() {
    let site = Site::serve(|_, _| json("{}")).await;
    let catalog = catalog(&site.url());
    let items = vec![health("a"); 1001];
    unavailable(catalog.report_health(&writer(), &items).await.unwrap_err());
    assert_eq!(catalog.report_health(&writer(), &[]).await, Ok(Vec::new()));
    let endpoint = Endpoint {
        address: [10, 0, 0, 1].into(),
        port: 80,
        zone: None,
        ready: true,
    };
    for (service_id, count) in [("a", 1001), ("../a", 1)] {
        let service_id = service_id.to_owned();
        let report = EndpointReport {
            service_id,
            endpoints: vec![endpoint.clone(); count],
        };
        let outcome = catalog.report_endpoints(&writer(), &report).await.unwrap();
        assert!(matches!(outcome, ItemOutcome::Invalid(_)), "{outcome:?}");
    }
    assert_eq!(site.requests().len(), 0);
}

#[tokio::test]
async fn an_endpoint_report_says_what_the_contract_says() {
    let site = Site::serve(|_, _| json(r#"{"status":"invalid","message":"port\n0"}"#)).await;
    let endpoints = vec![
        Endpoint {
            address: [10, 0, 0, 1].into(),
            port: 80,
            zone: Some("z-1".to_owned()),
            ready: true,
        },
        Endpoint {
            address: "fd00::1".parse().unwrap(),
            port: 81,
            zone: None,
            ready: false,
        },
    ];
    let report = EndpointReport {
        service_id: "svc-1".to_owned(),
        endpoints,
    };
    let outcome = catalog(&site.url())
        .report_endpoints(&writer(), &report)
        .await
        .unwrap();
    assert_eq!(outcome, ItemOutcome::Invalid("port\\n0".to_owned()));
    let request = &site.requests()[0];
    assert!(
        request.starts_with("PUT /api/v1/services/svc-1/endpoints HTTP/1.1"),
        "{request}"
    );
    let body = r#"{"writer":{"cluster":"c-1","epoch":3,"sequence":14},"endpoints":[{"address":"10.0.0.1","port":80,"zone":"z-1","ready":true},{"address":"fd00::1","port":81,"ready":false}]}"#;
    assert!(request.ends_with(body), "{request}");
}

// --- credentials ---------------------------------------------------------------

fn with_key(url: &str, folder: &Path, key: &str) -> HttpCatalog {
    std::fs::write(folder.join("api-key"), key).unwrap();
    let mut config = config(url);
    config.access.api_key_file = Some(folder.join("api-key"));
    HttpCatalog::new(config).unwrap()
}

/// Everything that was logged by anyone in this process, at every level.
fn log_of_everything() -> Arc<Mutex<Vec<u8>>> {
    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    // reqwest and rustls speak to `log`, hyper and ours to `tracing`.
    impl log::Log for Sink {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let line = format!("{} {}\n", record.target(), record.args());
            self.0.lock().unwrap().extend_from_slice(line.as_bytes());
        }
        fn flush(&self) {}
    }
    let sink = Sink(Arc::default());
    let (log, traced) = (sink.0.clone(), sink.clone());
    log::set_boxed_logger(Box::new(sink)).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || traced.clone())
        .init();
    log
}

#[tokio::test]
async fn a_rotated_key_is_used_by_the_next_request_and_neither_is_logged() {
    let log = log_of_everything();
    let site = Site::serve(|n, _| match n {
        0 => problem("401 Unauthorized", "", "wrong key"),
        _ => json(RECORD),
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("api-url"), format!("{}\n", site.url())).unwrap();
    std::fs::write(folder.path().join("token"), "token-hunter3\n").unwrap();
    std::fs::write(folder.path().join("api-key"), "key-hunter1\n").unwrap();
    let catalog = HttpCatalog::new(HttpCatalogConfig::new(AccessConfig {
        api_url: ApiUrl::File(folder.path().join("api-url")),
        report_url_file: None,
        api_key_file: Some(folder.path().join("api-key")),
        token_file: Some(folder.path().join("token")),
    }))
    .unwrap();
    let refused = get(&catalog).await.unwrap_err();
    assert!(
        matches!(refused, CatalogError::Unauthorized { .. }),
        "{refused:?}"
    );
    std::fs::write(folder.path().join("api-key"), "key-hunter2\n").unwrap();
    assert!(get(&catalog).await.is_ok());
    let requests = site.requests();
    assert_eq!(header(&requests[0], "x-api-key"), Some("key-hunter1"));
    assert_eq!(header(&requests[1], "x-api-key"), Some("key-hunter2"));
    for request in &requests {
        assert_eq!(
            header(request, "authorization"),
            Some("Bearer token-hunter3")
        );
    }

    // For a moment half a key is taken for one that is being written.
    std::fs::write(folder.path().join("api-key"), "key-hunter4\nmore").unwrap();
    assert!(get(&catalog).await.is_ok());
    let refused = async {
        loop {
            if let Err(error) = get(&catalog).await {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let CatalogError::Unauthorized { message } = refused.await else {
        panic!()
    };
    assert!(
        message.contains(folder.path().join("api-key").to_str().unwrap()),
        "{message}"
    );
    assert!(!message.contains("hunter"), "{message}");
    for request in &site.requests()[1..] {
        let sent = header(request, "x-api-key");
        assert_eq!(sent, Some("key-hunter2"), "nothing is sent with half a key");
    }

    let log = String::from_utf8_lossy(&log.lock().unwrap()).into_owned();
    for proof in ["starting new connection", "hyper_util", "travels in clear"] {
        assert!(
            log.contains(proof),
            "the log was not captured: no {proof:?} in {log}"
        );
    }
    assert!(!log.contains("hunter"), "{log}");
}

#[tokio::test]
async fn without_its_credential_file_nothing_is_sent() {
    let site = Site::serve(|_, _| json(RECORD)).await;
    let mut config = config(&site.url());
    config.access.token_file = Some(PathBuf::from("/nowhere/token"));
    let error = get(&HttpCatalog::new(config).unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere/token cannot be read"), "{error}");
    assert_eq!(site.requests().len(), 0);
}

/// How the kubelet replaces a Secret: the files are links into `..data`, which
/// is a link to a folder, and is replaced by another one in a single step.
fn mount(folder: &Path, version: &str, files: &[(&str, &str)]) {
    let inside = folder.join(version);
    std::fs::create_dir(&inside).unwrap();
    for (name, content) in files {
        std::fs::write(inside.join(name), content).unwrap();
        let link = folder.join(name);
        if !link.is_symlink() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    let fresh = folder.join("..data_tmp");
    std::os::unix::fs::symlink(version, &fresh).unwrap();
    let before = std::fs::read_link(folder.join("..data"));
    std::fs::rename(fresh, folder.join("..data")).unwrap();
    if let Ok(before) = before {
        std::fs::remove_dir_all(folder.join(before)).unwrap();
    }
}

#[tokio::test]
async fn a_secret_that_the_kubelet_swaps_is_used_by_the_next_request() {
    let (old, new) = (
        Site::serve(|_, _| json(RECORD)).await,
        Site::serve(|_, _| json(RECORD)).await,
    );
    let folder = tempfile::tempdir().unwrap();
    let files = |site: &Site, n: u8| {
        [
            ("api-url", site.url()),
            ("api-key", format!("key{n}")),
            ("token", format!("token{n}")),
        ]
    };
    let swap = |version: &str, site: &Site, n: u8| {
        let files = files(site, n);
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        mount(folder.path(), version, &files);
    };
    swap("..2026_01", &old, 1);
    let file = |name: &str| folder.path().join(name);
    let catalog = HttpCatalog::new(HttpCatalogConfig::new(AccessConfig {
        api_url: ApiUrl::File(file("api-url")),
        report_url_file: None,
        api_key_file: Some(file("api-key")),
        token_file: Some(file("token")),
    }))
    .unwrap();
    get(&catalog).await.unwrap();
    swap("..2026_02", &new, 2);
    get(&catalog).await.unwrap();
    for (site, key, token) in [
        (old, "key1", "Bearer token1"),
        (new, "key2", "Bearer token2"),
    ] {
        let requests = site.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(header(&requests[0], "x-api-key"), Some(key));
        assert_eq!(header(&requests[0], "authorization"), Some(token));
    }
}

// --- TLS -------------------------------------------------------------------------

struct Tls {
    address: SocketAddr,
    ca_pem: String,
}

/// One record over TLS, again and again, with a certificate for `name`.
fn serve_tls(name: &str) -> Tls {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .unwrap();
    let config = Arc::new(config);
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut request = [0; 4096];
            // A client that refuses the certificate hangs up here.
            if tls.read(&mut request).is_ok() {
                let length = RECORD.len();
                let _ = write!(
                    tls,
                    "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{RECORD}"
                );
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    Tls { address, ca_pem }
}

async fn get_over_tls(tls: &Tls, ca_pem: Option<&str>) -> Result<(), CatalogError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut config = config(&format!("https://localhost:{}", tls.address.port()));
    if let Some(pem) = ca_pem {
        std::fs::write(file.path(), pem).unwrap();
        config.ca_file = Some(file.path().to_owned());
    }
    get(&HttpCatalog::new(config).unwrap())
        .await
        .map(|record| assert_eq!(record.name, "worker"))
}

#[tokio::test]
async fn tls_is_verified_against_the_given_authority_and_the_name() {
    let (right, other) = (serve_tls("localhost"), serve_tls("other.test"));
    let bundle = format!("{}{}", other.ca_pem, right.ca_pem);
    assert_eq!(get_over_tls(&right, Some(&right.ca_pem)).await, Ok(()));
    assert_eq!(get_over_tls(&right, Some(&bundle)).await, Ok(()));
    for (tls, ca, why) in [
        (&right, None, "certificate"),
        (&right, Some(&other.ca_pem), "certificate"),
        (&other, Some(&other.ca_pem), "not valid for name"),
    ] {
        let message = unavailable(get_over_tls(tls, ca.map(String::as_str)).await.unwrap_err());
        assert!(message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn an_authority_that_changed_is_trusted_without_a_restart() {
    let (right, other) = (serve_tls("localhost"), serve_tls("other.test"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &other.ca_pem).unwrap();
    let mut config = config(&format!("https://localhost:{}", right.address.port()));
    config.ca_file = Some(file.path().to_owned());
    let catalog = HttpCatalog::new(config).unwrap();
    let reading = async |pem: &str| {
        std::fs::write(file.path(), pem).unwrap();
        // The file is read at most once a second.
        tokio::time::sleep(Duration::from_millis(1_050)).await;
        get(&catalog).await.map(|_| ())
    };
    let refused = |answer| unavailable(Result::unwrap_err(answer));
    assert!(refused(reading(&other.ca_pem).await).contains("certificate"));
    reading(&right.ca_pem).await.unwrap();
    assert!(refused(reading(&other.ca_pem).await).contains("certificate"));
    let message = refused(reading("no certificate").await);
    assert!(
        message.contains("CA file") && message.contains("no certificate in PEM"),
        "{message}"
    );
    reading(&right.ca_pem).await.unwrap();
}

#[test]
fn a_client_that_could_not_work_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    let with_ca = || {
        let mut config = config("https://catalog.test");
        config.ca_file = Some(path.clone());
        HttpCatalog::new(config).map(|_| ()).unwrap_err()
    };
    assert!(matches!(with_ca(), HttpCatalogError::CaFile { .. }));
    for pem in [
        "",
        "no certificate",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
    ] {
        std::fs::write(&path, pem).unwrap();
        let error = with_ca();
        assert!(error.to_string().contains("CA file"), "{pem}: {error}");
    }
    let error = HttpCatalog::new(config("catalog.test"))
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, HttpCatalogError::Url(_)));
}

// --- proxies ------------------------------------------------------------------------

/// The environment cannot be changed in a running test, so this one runs
/// itself again with a proxy set.
#[tokio::test]
async fn a_proxy_of_the_environment_is_used_only_when_asked_for() {
    let name = "a_proxy_of_the_environment_is_used_only_when_asked_for";
    if let Ok(url) = std::env::var("CATALOG_TEST_URL") {
        let mut config = config(&url);
        config.proxy_from_environment = std::env::var_os("CATALOG_TEST_PROXY").is_some();
        get(&HttpCatalog::new(config).unwrap()).await.unwrap();
        return;
    }
    let site = Site::serve(|_, _| json(RECORD)).await;
    let proxy = Site::serve(|_, _| json(RECORD)).await;
    for (asked, expected) in [(false, (1, 0)), (true, (1, 1))] {
        let mut again = tokio::process::Command::new(std::env::current_exe().unwrap());
        again
            .args(["--exact", name])
            .env("CATALOG_TEST_URL", site.url());
        for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            again.env(variable, proxy.url());
        }
        again
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .env_remove("REQUEST_METHOD");
        if asked {
            again.env("CATALOG_TEST_PROXY", "1");
        }
        let output = again.output().await.unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert_eq!((site.requests().len(), proxy.requests().len()), expected);
    }
}
