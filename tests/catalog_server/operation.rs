//! Running the server: keys, bounds, start and end.

use std::io::Write as _;

use nix::sys::signal::Signal;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::server::Database;

on_both_databases!(
    what_was_written_is_there_after_a_restart,
    a_seed_registers_what_is_missing_and_leaves_the_rest,
    being_told_to_stop_ends_open_streams,
    a_history_may_be_kept_for_ever,
);

const SEED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/catalog-server/seed.json"
);

async fn what_was_written_is_there_after_a_restart(database: Database) {
    let body = json!({ "name": "svc", "namespace": "ns" });
    let server = database.serve(&[]);
    server.call(Method::PUT, "/api/v1/services/a", &body).await;
    let before = server.json("/api/v1/services").await;
    drop(server);
    let server = database.serve(&[]);
    assert_eq!(server.json("/api/v1/services").await, before);
}

async fn a_seed_registers_what_is_missing_and_leaves_the_rest(database: Database) {
    let path = "/api/v1/services/worker-service-001";
    let server = database.serve(&["--seed", SEED]);
    let mut record = server.json(path).await;
    assert_eq!(
        (&record["name"], &record["namespace"]),
        (&json!("worker-service"), &json!("aikernel"))
    );
    record["timeout"] = json!("5s");
    server.call(Method::PUT, path, &record).await;
    drop(server);
    let server = database.serve(&["--seed", SEED]);
    assert_eq!(server.json(path).await["timeout"], "5s");
    assert_eq!(server.json("/api/v1/services").await["revision"], 2);
}

async fn being_told_to_stop_ends_open_streams(database: Database) {
    let server = database.serve(&[]);
    let mut events = server.follow(None).await;
    assert_eq!(events.next().await.unwrap().kind, "bookmark");
    let ended = tokio::task::spawn_blocking(move || server.terminate());
    assert_eq!(events.next().await, None);
    assert!(ended.await.unwrap().success());
}

async fn a_history_may_be_kept_for_ever(database: Database) {
    let most = i64::MAX.to_string();
    let server = database.serve(&["--retention-revisions", &most]);
    let body = json!({ "name": "svc", "namespace": "ns" });
    let mut events = server.follow(None).await;
    server.call(Method::PUT, "/api/v1/services/a", &body).await;
    assert_eq!(events.change().await.kind, "ServiceRegistered");
    drop(events);
    assert!(server.terminate().success());
}

const LONG_HISTORY: &str = "
    INSERT INTO events SELECT n, 'x', 'x', '{}', (extract(epoch FROM now()) * 1000)::bigint
    FROM generate_series(1, 50000) n;
    UPDATE catalog_state SET revision = 50000;";

/// Waits until so many events are left, of 50,000; says which numbers were seen.
async fn forgotten(database: &Database, left: i64) -> std::collections::BTreeSet<i64> {
    let mut owner = PgConnection::connect(&database.url).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    loop {
        let look = sqlx::query_scalar("SELECT count(*) FROM events");
        let events: i64 = look.fetch_one(&mut owner).await.unwrap();
        seen.insert(events);
        if events == left {
            return seen;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_long_history_is_forgotten_in_parts_to_its_end() {
    let database = Database::postgres();
    drop(database.serve(&[]));
    database.execute(LONG_HISTORY).await;
    let _server = database.serve(&["--retention-revisions", "10"]);
    let seen = forgotten(&database, 10).await;
    let parts = [10, 10_000, 30_000, 50_000];
    assert!(seen.iter().all(|events| parts.contains(events)), "{seen:?}");
}

#[tokio::test]
async fn what_a_new_epoch_ended_is_forgotten_in_parts_too() {
    let database = Database::postgres();
    drop(database.serve(&[]));
    database.execute(LONG_HISTORY).await;
    database.command("restore-epoch");
    let _server = database.serve(&[]);
    let seen = forgotten(&database, 0).await;
    let parts = [0, 10_000, 30_000, 50_000];
    assert!(seen.iter().all(|events| parts.contains(events)), "{seen:?}");
}

#[tokio::test]
async fn one_that_stopped_in_the_midst_of_a_write_does_not_hold_up_the_others() {
    let database = Database::postgres();
    let (first, second) = (database.serve(&[]), database.serve(&[]));
    database
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep(2); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON events FOR EACH ROW
             WHEN (NEW.service_id = 'slow') EXECUTE FUNCTION slow();",
        )
        .await;
    let body = json!({ "name": "svc", "namespace": "ns" });
    let writing = first.send(Method::PUT, "/api/v1/services/slow", &body);
    let stopped = async {
        let mut owner = PgConnection::connect(&database.url).await.unwrap();
        let sleeps = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND wait_event = 'PgSleep'";
        while sqlx::query_scalar::<_, i64>(sleeps)
            .fetch_one(&mut owner)
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        first.signal(Signal::SIGSTOP);
    };
    tokio::select! {
        _ = writing => panic!("it was not stopped"),
        () = stopped => {}
    }
    // Each try gives up after eight seconds, and so does the database with the one
    // that stopped.
    let mut tries = 0;
    loop {
        let (status, problem) = second.call(Method::PUT, "/api/v1/services/b", &body).await;
        if status == StatusCode::CREATED {
            return;
        }
        tries += 1;
        assert!(tries < 3, "{status} {problem}");
    }
}

#[tokio::test]
async fn the_key_opens_every_call_but_healthz() {
    let database = Database::sqlite();
    let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    writeln!(file, "open-sesame").unwrap();
    let server = database.serve(&["--api-key-file", file.path().to_str().unwrap()]);
    let with = async |key: Option<&str>, path: &str| {
        let mut request = server.http.get(format!("{}{path}", server.url));
        if let Some(key) = key {
            request = request.header("X-API-Key", key);
        }
        request.send().await.unwrap()
    };
    for path in ["/api/v1/services", "/api/v1/services/a", "/api/v1/events"] {
        for key in [None, Some(""), Some("open-sesam"), Some("open-sesame2")] {
            let refused = with(key, path).await;
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path} {key:?}");
            assert!(refused.headers().contains_key("www-authenticate"));
            let problem: Value = refused.json().await.unwrap();
            assert_eq!(problem["status"], 401);
        }
    }
    assert_eq!(
        with(Some("open-sesame"), "/api/v1/services").await.status(),
        StatusCode::OK
    );
    assert_eq!(with(None, "/healthz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_body_that_is_too_large_or_no_json_is_refused() {
    let database = Database::sqlite();
    let server = database.serve(&[]);
    let post = async |kind: &'static str, body: Vec<u8>| {
        let url = format!("{}/api/v1/services", server.url);
        let request = server
            .http
            .post(url)
            .header("content-type", kind)
            .body(body);
        request.send().await.unwrap().status()
    };
    let large = post("application/json", vec![b' '; (1 << 20) + 1]).await;
    assert_eq!(large, StatusCode::PAYLOAD_TOO_LARGE);
    for kind in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
    ] {
        assert_eq!(
            post(kind, b"{}".to_vec()).await,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
    }
    for text in ["", "{", "{}x", "\u{feff}{}", "[", "{\"id\":\"\\ud800\"}"] {
        let status = post("application/json; charset=utf-8", text.as_bytes().to_vec()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{text:?}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(
        post("application/json", deep.into_bytes()).await,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn more_streams_than_allowed_are_asked_to_come_later() {
    let database = Database::sqlite();
    let server = database.serve(&["--max-streams", "1"]);
    let first = server.follow(None).await;
    let second = server.get("/api/v1/events").await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(second.headers()["retry-after"], "1");
    drop(first);
    loop {
        let again = server.get("/api/v1/events").await;
        if again.status() == StatusCode::OK {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_old_stream_is_ended_and_can_be_resumed() {
    let database = Database::sqlite();
    let server = database.serve(&["--stream-age", "50ms"]);
    let mut events = server.follow(None).await;
    let mut last = events.next().await.unwrap();
    while let Some(event) = events.next().await {
        last = event;
    }
    let body = json!({ "name": "svc", "namespace": "ns" });
    server.call(Method::PUT, "/api/v1/services/a", &body).await;
    assert_eq!(
        server.follow(Some(&last.id)).await.change().await.data["id"],
        "a"
    );
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_a_problem_too() {
    let database = Database::sqlite();
    let server = database.serve(&[]);
    let (status, problem) = server
        .call(Method::GET, "/api/v2/services", &Value::Null)
        .await;
    assert_eq!(
        (status, &problem["status"]),
        (StatusCode::NOT_FOUND, &json!(404))
    );
    let response = server
        .send(Method::PATCH, "/api/v1/services/a", &json!({}))
        .await;
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(
        response.headers()["allow"]
            .to_str()
            .unwrap()
            .contains("PUT")
    );
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
}
