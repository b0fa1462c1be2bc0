//! Concurrent writers never lose or reorder a revision, and the roles that
//! read and write PostgreSQL directly can do their work and no more.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _};

use crate::server::{Catalog, Database};

const CHANGES: u64 = 10_000;
/// Writers that go through the API, half of them through each server.
const WRITERS: u64 = 10;

// Roles belong to the whole server, which other tests use at the same time.
const REPORTER: &str = "
    DO $$ BEGIN CREATE ROLE reporter LOGIN; EXCEPTION WHEN OTHERS THEN NULL; END $$;
    GRANT SELECT, INSERT, UPDATE ON report_clusters, health_reports, endpoint_reports TO reporter;";
const READER: &str = "
    DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN OTHERS THEN NULL; END $$;
    GRANT SELECT ON catalog_state, services, service_versions, events TO reader;";

/// Registers, updates and deregisters services of its own, and returns the
/// revisions that the catalog gave.
async fn write(server: &Catalog, writer: u64, changes: u64) -> BTreeSet<u64> {
    let mut revisions = BTreeSet::new();
    for n in 0..changes {
        let path = format!("/api/v1/services/w{writer}-{}", n % 7);
        let body = json!({ "name": "svc", "namespace": "ns", "timeout": format!("{}ms", n + 1) });
        // Every tenth change is a removal of what the one seven before wrote.
        if n % 10 == 9 {
            let (status, _) = server.call(Method::DELETE, &path, &Value::Null).await;
            assert!(status.is_success(), "{status}");
            continue;
        }
        let (status, record) = server.call(Method::PUT, &path, &body).await;
        assert!(status.is_success(), "{status} {record}");
        let new = revisions.insert(record["revision"].as_u64().unwrap());
        assert!(new, "a revision was given twice");
    }
    revisions
}

/// Flips the health of a service straight in the database.
async fn flip_health(url: String, changes: u64) {
    let mut connection = PgConnection::connect(&url).await.unwrap();
    for n in 0..changes {
        let health = if n % 2 == 0 { "Healthy" } else { "Unhealthy" };
        sqlx::query(
            "INSERT INTO health_reports VALUES ('steady', 'direct', 1, $1, $2, 1, 1)
             ON CONFLICT (service_id, cluster)
             DO UPDATE SET sequence = excluded.sequence, health = excluded.health",
        )
        .bind(i64::try_from(n).unwrap())
        .bind(health)
        .execute(&mut connection)
        .await
        .unwrap();
    }
}

/// Follows a server's stream up to a revision.
async fn follow(server: &Catalog, token: &str, last: u64) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    let mut token = token.to_owned();
    loop {
        let mut events = server.follow(Some(&token)).await;
        // Each connection is cut after a while, to resume in the thick of it.
        for _ in 0..1_500 {
            let event = events.next().await.unwrap();
            if event.kind == "bookmark" {
                assert_eq!(event.id, token, "a bookmark runs ahead of what was sent");
                continue;
            }
            assert_ne!(event.kind, "reset", "{event:?}");
            token = event.id.clone();
            seen.push((event.revision(), event.kind));
            if seen.last().is_some_and(|(revision, _)| *revision >= last) {
                return seen;
            }
        }
    }
}

/// Reads the events from the database again and again, each time after the
/// last that it has seen, up to a revision.
async fn poll(url: String, first: u64, last: u64) -> Vec<(u64, String)> {
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&url).await.unwrap();
    let mut seen: Vec<(u64, String)> = Vec::new();
    // Often enough to meet every gap, without keeping the others from running.
    let mut turns = tokio::time::interval(Duration::from_millis(2));
    loop {
        turns.tick().await;
        let after = seen.last().map_or(first, |(revision, _)| *revision);
        if after >= last {
            return seen;
        }
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT revision, type FROM events WHERE revision > $1 ORDER BY revision",
        )
        .bind(i64::try_from(after).unwrap())
        .fetch_all(&pool)
        .await
        .unwrap();
        let rows = rows.into_iter();
        seen.extend(rows.map(|(revision, kind)| (u64::try_from(revision).unwrap(), kind)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_each_of_ten_thousand_concurrent_changes_in_order() {
    let database = Database::postgres();
    let servers = [database.serve(&[]), database.serve(&[])];
    let body = json!({ "name": "steady", "namespace": "ns" });
    let (_, record) = servers[0]
        .call(Method::PUT, "/api/v1/services/steady", &body)
        .await;
    let first = record["revision"].as_u64().unwrap();
    let page = servers[0].json("/api/v1/services").await;
    let token = format!("{}.{first}", page["epoch"].as_str().unwrap());
    database.execute(REPORTER).await;
    database.execute(READER).await;

    let last = first + CHANGES;
    let direct = CHANGES / (WRITERS + 1);
    let each = (CHANGES - direct) / WRITERS;
    let rest = CHANGES - direct - each * WRITERS;
    let writers = futures::future::join_all((0..WRITERS).map(|writer| {
        let server = &servers[usize::try_from(writer % 2).unwrap()];
        write(server, writer, if writer == 0 { each + rest } else { each })
    }));
    let (given, (), one, two, polled) = tokio::join!(
        writers,
        flip_health(database.url_of("reporter"), direct),
        follow(&servers[0], &token, last),
        follow(&servers[1], &token, last),
        poll(database.url_of("reader"), first, last),
    );

    let revisions: Vec<_> = one.iter().map(|(revision, _)| *revision).collect();
    let expected: Vec<_> = (first + 1..=last).collect();
    assert!(
        revisions == expected,
        "a stream lost or reordered revisions"
    );
    assert!(two == one, "two streams differ");
    assert!(
        polled == one,
        "who polls sees something else than who follows"
    );
    let seen: BTreeSet<_> = revisions.into_iter().collect();
    for revisions in given {
        assert!(revisions.is_subset(&seen));
    }
    let kinds: BTreeSet<_> = one.iter().map(|(_, kind)| kind.as_str()).collect();
    let all = [
        "HealthChanged",
        "ServiceDeregistered",
        "ServiceRegistered",
        "ServiceUpdated",
    ];
    assert_eq!(kinds, BTreeSet::from(all));
}

#[tokio::test]
async fn a_role_that_reports_makes_events_and_cannot_touch_the_owners_part() {
    let database = Database::postgres();
    let server = database.serve(&[]);
    let body = json!({ "name": "steady", "namespace": "ns" });
    server
        .call(Method::PUT, "/api/v1/services/steady", &body)
        .await;
    database.execute(REPORTER).await;
    let mut events = server.follow(None).await;

    flip_health(database.url_of("reporter"), 1).await;
    let event = events.change().await;
    assert_eq!(event.kind, "HealthChanged");
    let writer = json!({ "cluster": "direct", "epoch": 1, "sequence": 0 });
    assert_eq!(event.data["writer"], writer);

    let mut connection = PgConnection::connect(&database.url_of("reporter"))
        .await
        .unwrap();
    for forbidden in [
        "SELECT * FROM services",
        "UPDATE services SET name = 'x'",
        "DELETE FROM health_reports",
        "INSERT INTO events VALUES (99, 'x', 'x', 'x', 0)",
        "UPDATE catalog_state SET epoch = 'x'",
        "DELETE FROM service_versions",
    ] {
        let refused = connection.execute(forbidden).await.unwrap_err().to_string();
        assert!(
            refused.contains("permission denied"),
            "{forbidden}: {refused}"
        );
    }
}

#[tokio::test]
async fn a_role_that_reads_cannot_write() {
    let database = Database::postgres();
    let _server = database.serve(&[]);
    database.execute(READER).await;
    let mut connection = PgConnection::connect(&database.url_of("reader"))
        .await
        .unwrap();
    connection
        .execute("SELECT id, revision, record FROM services")
        .await
        .unwrap();
    for forbidden in [
        "DELETE FROM services",
        "UPDATE catalog_state SET revision = 0",
    ] {
        let refused = connection.execute(forbidden).await.unwrap_err().to_string();
        assert!(
            refused.contains("permission denied"),
            "{forbidden}: {refused}"
        );
    }
}

#[tokio::test]
async fn a_role_that_reports_cannot_have_a_table_of_its_own_taken_for_the_owners() {
    const TAKE_OVER: &str = "
        CREATE TEMP TABLE catalog_state (revision BIGINT);
        INSERT INTO catalog_state VALUES (0);
        CREATE TEMP TABLE events (revision BIGINT, type TEXT, service_id TEXT, data TEXT, at BIGINT);
        CREATE FUNCTION pg_temp.take() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            UPDATE public.catalog_state SET epoch = 'stolen'; RETURN NEW;
        END $$;
        CREATE TRIGGER take BEFORE UPDATE ON catalog_state
            FOR EACH ROW EXECUTE FUNCTION pg_temp.take();
        GRANT ALL ON catalog_state, events TO PUBLIC;
        INSERT INTO health_reports VALUES ('steady', 'direct', 1, 1, 'Unhealthy', 0, 1);";
    let database = Database::postgres();
    let server = database.serve(&[]);
    let body = json!({ "name": "steady", "namespace": "ns" });
    server
        .call(Method::PUT, "/api/v1/services/steady", &body)
        .await;
    database.execute(REPORTER).await;
    let before = server.json("/api/v1/services").await;
    let mut events = server.follow(None).await;
    let mut connection = PgConnection::connect(&database.url_of("reporter"))
        .await
        .unwrap();
    connection.execute(TAKE_OVER).await.unwrap();
    assert_eq!(events.change().await.kind, "HealthChanged");
    let after = server.json("/api/v1/services").await;
    assert_eq!(after["epoch"], before["epoch"]);
}
