//! What a database can do to us, and what we say to it.

use std::time::Duration;

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::by_url::CatalogByUrl;
use catalog_mesh_controller::catalog::error::CatalogError;
use catalog_mesh_controller::catalog::event::{EventKind, EventStream};
use catalog_mesh_controller::domain::record::{BadRecord, ServiceFilter};
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use tokio::net::TcpListener;

use crate::events::next;
use crate::server::Database;
use crate::source::{Source, config, id, write};

/// The message of a failure that must be Unavailable.
async fn unavailable(catalog: &CatalogByUrl) -> String {
    match catalog.get_service(&id("a")).await {
        Err(CatalogError::Unavailable { message }) => message,
        other => panic!("{other:?}"),
    }
}

fn at(url: &str) -> (CatalogByUrl, tempfile::TempDir) {
    let secret = tempfile::tempdir().unwrap();
    write(&secret, "api-url", url);
    let mut config = config(secret.path());
    config.request_deadline = Duration::from_secs(2);
    config.connect_timeout = Duration::from_millis(500);
    (CatalogByUrl::new(config).unwrap(), secret)
}

#[tokio::test]
async fn a_database_without_the_tables_says_what_to_run() {
    let database = Database::postgres();
    let (catalog, _secret) = at(&database.url);
    let message = unavailable(&catalog).await;
    assert!(message.contains("run the migrations"), "{message}");
    assert!(message.contains("docs/catalog-schema.md"), "{message}");
    assert!(
        catalog
            .list_services(&ServiceFilter::default())
            .await
            .is_err()
    );
    assert!(catalog.subscribe(None).await.is_err());
}

#[tokio::test]
async fn tables_that_are_no_catalog_have_no_services_that_are_gone() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    source
        .database
        .execute("DELETE FROM services; DELETE FROM catalog_state")
        .await;
    let message = unavailable(&source.catalog).await;
    assert!(message.contains("catalog_state"), "{message}");
    let list = source
        .catalog
        .list_services(&ServiceFilter::default())
        .await;
    assert!(
        matches!(list, Err(CatalogError::Unavailable { .. })),
        "{list:?}"
    );
    let stream = source.catalog.subscribe(None).await;
    assert!(matches!(
        stream.err(),
        Some(CatalogError::Unavailable { .. })
    ));
}

#[tokio::test]
async fn rows_that_a_policy_hides_are_an_error_and_not_gone() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    let hide = "ALTER TABLE services ENABLE ROW LEVEL SECURITY";
    source.database.execute(hide).await;
    let read = source.catalog.get_service(&id("a")).await;
    assert!(
        matches!(read, Err(CatalogError::Unauthorized { .. })),
        "{read:?}"
    );
    let list = source
        .catalog
        .list_services(&ServiceFilter::default())
        .await;
    assert!(
        matches!(list, Err(CatalogError::Unauthorized { .. })),
        "{list:?}"
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_understood_is_bad_and_hides_nobody() {
    let source = Source::database().await;
    for name in ["a", "b", "c", "d", "e"] {
        source.put(name, json!({})).await;
    }
    source.spoil("b", "{\"id\":\"b\",").await;
    source
        .spoil("c", r#"{"id":"a","name":"a","namespace":"ns"}"#)
        .await;
    source
        .spoil("d", &format!("{{\"x\":\"{}\"}}", "y".repeat(1 << 20)))
        .await;
    source
        .spoil(
            "e",
            r#"{"id":"e","name":"\u0000","namespace":"ns","retries":"x"}"#,
        )
        .await;
    let expected = [
        ("b", "record", "is not JSON"),
        ("c", "id", "another service"),
        ("d", "record", "is larger than 1048576 bytes"),
        ("e", "retries", "expected a number of attempts"),
    ];
    let matches = |bad: &BadRecord, (id, field, message): (&str, &str, &str)| {
        assert_eq!((bad.id.as_deref(), bad.field.as_str()), (Some(id), field));
        assert!(bad.message.contains(message), "{bad}");
    };
    let list = source
        .catalog
        .list_services(&ServiceFilter::default())
        .await;
    let list = list.unwrap().services;
    assert!(list[0].is_ok());
    assert_eq!(list.len(), 5);
    for (number, expected) in (1..).zip(expected) {
        matches(list[number].as_ref().unwrap_err(), expected);
        match source.catalog.get_service(&id(expected.0)).await {
            Err(CatalogError::BadRecord(bad)) => matches(&bad, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_found_when_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (catalog, secret) = at(&format!("postgres://me:hunter2@{address}/catalog"));
    let message = unavailable(&catalog).await;
    assert!(message.contains(&address.to_string()), "{message}");
    assert!(message.contains("refused"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
    let stream = catalog.subscribe(None).await.err().unwrap().to_string();
    assert!(stream.contains("refused"), "{stream}");

    let source = Source::database().await;
    source.put("a", json!({})).await;
    write(&secret, "api-url", &source.database.url);
    // Files are read again after a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    catalog.get_service(&id("a")).await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_ends_with_the_deadline() {
    // Accepted by the kernel, never by a program.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (catalog, _secret) = at(&format!("postgres://me@{address}/catalog"));
    let message = unavailable(&catalog).await;
    assert!(message.contains("in time"), "{message}");
    assert!(catalog.subscribe(None).await.is_err());
}

#[tokio::test]
async fn a_table_that_is_locked_ends_with_the_deadline_at_both_ends() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    let (catalog, _secret) = at(&source.database.url);
    catalog.get_service(&id("a")).await.unwrap();
    let mut owner = PgConnection::connect(&source.database.url).await.unwrap();
    let lock = "BEGIN; LOCK TABLE services IN ACCESS EXCLUSIVE MODE";
    owner.execute(lock).await.unwrap();
    let message = unavailable(&catalog).await;
    assert!(message.contains("timeout"), "{message}");
    let list = catalog.list_services(&ServiceFilter::default()).await;
    assert!(list.is_err());
    // Nobody of us is left waiting in the server.
    let waiting: (i64,) = sqlx::query_as(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND wait_event_type = 'Lock'",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert_eq!(waiting.0, 0);
    owner.execute("ROLLBACK").await.unwrap();
    catalog.get_service(&id("a")).await.unwrap();
}

#[tokio::test]
async fn a_list_that_is_too_long_leaves_nothing_at_work_in_the_server() {
    let source = Source::database().await;
    // What is left unread is more than sockets hold.
    let many = "INSERT INTO services
                SELECT 's' || n, 'a', 'ns', '{}', json_build_object(
                    'id', 's' || n, 'name', 'a', 'namespace', 'ns', 'x', repeat('x', 1000)), 1
                FROM generate_series(1, 130000) n";
    source.database.execute(many).await;
    let list = source
        .catalog
        .list_services(&ServiceFilter::default())
        .await;
    let message = list.unwrap_err().to_string();
    assert!(message.contains("longer than 100000"), "{message}");
    let mut owner = PgConnection::connect(&source.database.url).await.unwrap();
    // It notices soon that nobody reads; its own limit is 38 s.
    let mut left = i64::MAX;
    for _ in 0..50 {
        (left,) = sqlx::query_as(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = 'catalog-mesh-controller' AND state <> 'idle'",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap();
        if left == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{left} sessions are still at work");
}

#[tokio::test]
async fn a_server_that_is_full_is_unavailable_and_not_unauthorized() {
    let source = Source::database().await;
    let full = format!("ALTER ROLE {} CONNECTION LIMIT 0", source.reader);
    source.database.execute(&full).await;
    let message = unavailable(&source.catalog).await;
    assert!(message.contains("too many connections"), "{message}");
}

#[tokio::test]
async fn connections_are_used_again_and_bounded() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    let id = id("a");
    let calls = (0..100).map(|_| source.catalog.get_service(&id));
    for result in futures::future::join_all(calls).await {
        result.unwrap();
    }
    let mut owner = PgConnection::connect(&source.database.url).await.unwrap();
    let (ours,): (i64,) = sqlx::query_as(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
         AND application_name = 'catalog-mesh-controller'",
    )
    .fetch_one(&mut owner)
    .await
    .unwrap();
    assert!((1..=4).contains(&ours), "{ours} connections");
}

#[tokio::test]
async fn a_changed_url_moves_from_the_api_to_the_database_and_back() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    let database = source.database.url.clone();
    let elsewhere = Source::api().await;
    elsewhere.put("b", json!({})).await;
    let moved = Duration::from_millis(1_100);
    for _ in 0..2 {
        for (url, service) in [(&database, "a"), (&elsewhere.owners.url, "b")] {
            let mut stream = source.catalog.subscribe(None).await.unwrap();
            write(&source.secret, "api-url", url);
            tokio::time::sleep(moved).await;
            source.catalog.get_service(&id(service)).await.unwrap();
            follow_until_it_moves(&mut stream).await;
        }
    }
}

/// A stream from where the catalog was must not go on, though that is there.
async fn follow_until_it_moves(stream: &mut EventStream) {
    let error = loop {
        match next(stream).await.unwrap() {
            Ok(event) => assert_eq!(event.kind, EventKind::Bookmark),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("has changed"), "{error}");
    assert!(next(stream).await.is_none());
}
