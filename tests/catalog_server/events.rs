//! The event stream: order, resuming, and when it says that it cannot.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Catalog, Database};

on_both_databases!(
    each_change_is_an_event_with_its_revision,
    a_stream_goes_on_after_its_token,
    a_stream_without_a_token_begins_at_the_present,
    health_changed_only_where_the_health_differs,
    a_token_that_cannot_be_resumed_from_is_reset,
    a_token_below_the_floor_is_reset,
    a_new_epoch_resets_open_streams_and_old_tokens,
    a_list_and_a_stream_from_its_position_miss_nothing,
);

async fn put(server: &Catalog, id: &str) {
    let body = json!({ "name": "svc", "namespace": "ns" });
    let status = server
        .call(Method::PUT, &format!("/api/v1/services/{id}"), &body)
        .await
        .0;
    assert!(status.is_success());
}

async fn delete(server: &Catalog, id: &str) {
    let path = format!("/api/v1/services/{id}");
    assert_eq!(
        server.call(Method::DELETE, &path, &Value::Null).await.0,
        StatusCode::NO_CONTENT
    );
}

async fn report(server: &Catalog, cluster: &str, sequence: u64, items: &[(&str, &str)]) {
    let items: Vec<_> = items
        .iter()
        .map(|(id, health)| json!({ "serviceId": id, "health": health, "healthy": sequence, "total": 99 }))
        .collect();
    let writer = json!({ "cluster": cluster, "epoch": 1, "sequence": sequence });
    let body = json!({ "writer": writer, "items": items });
    let status = server
        .call(Method::POST, "/api/v1/health:batch", &body)
        .await
        .0;
    assert_eq!(status, StatusCode::OK);
}

async fn epoch(server: &Catalog) -> String {
    server.json("/api/v1/services").await["epoch"]
        .as_str()
        .unwrap()
        .to_owned()
}

async fn each_change_is_an_event_with_its_revision(database: Database) {
    let server = database.serve(&[]);
    let mut events = server.follow(None).await;
    assert_eq!(events.next().await.unwrap().kind, "bookmark");
    put(&server, "a").await;
    put(&server, "a").await;
    report(&server, "c", 7, &[("a", "Healthy")]).await;
    delete(&server, "a").await;
    let epoch = epoch(&server).await;
    for (revision, kind) in (1..).zip([
        "ServiceRegistered",
        "ServiceUpdated",
        "HealthChanged",
        "ServiceDeregistered",
    ]) {
        let event = events.change().await;
        assert_eq!(event.id, format!("{epoch}.{revision}"));
        assert_eq!(event.kind, kind);
        let mut data = json!({ "id": "a", "name": "svc", "namespace": "ns", "revision": revision });
        if kind == "HealthChanged" {
            data["writer"] = json!({ "cluster": "c", "epoch": 1, "sequence": 7 });
        }
        assert_eq!(event.data, data);
    }
}

async fn a_stream_goes_on_after_its_token(database: Database) {
    let server = database.serve(&[]);
    for id in ["a", "b", "c"] {
        put(&server, id).await;
    }
    let token = format!("{}.1", epoch(&server).await);
    let mut events = server.follow(Some(&token)).await;
    let ids = [events.next().await.unwrap(), events.next().await.unwrap()]
        .map(|event| event.data["id"].clone());
    assert_eq!(ids, ["b", "c"]);
    let bookmark = events.next().await.unwrap();
    assert_eq!(
        (bookmark.kind.as_str(), bookmark.revision()),
        ("bookmark", 3)
    );
    assert_eq!(bookmark.data["revision"], 3);

    let response = server.get(&format!("/api/v1/events?since={token}")).await;
    let mut since = crate::server::Events::of(response);
    assert_eq!(since.change().await.revision(), 2);
}

async fn a_stream_without_a_token_begins_at_the_present(database: Database) {
    let server = database.serve(&[]);
    put(&server, "a").await;
    let mut events = server.follow(None).await;
    let first = events.next().await.unwrap();
    assert_eq!((first.kind.as_str(), first.revision()), ("bookmark", 1));
    put(&server, "b").await;
    assert_eq!(events.change().await.data["id"], "b");
}

async fn health_changed_only_where_the_health_differs(database: Database) {
    let server = database.serve(&[]);
    for id in ["a", "b"] {
        put(&server, id).await;
    }
    let mut events = server.follow(None).await;
    report(&server, "c", 1, &[("a", "Healthy"), ("b", "Healthy")]).await;
    // Other numbers, the same health; then another cluster's view.
    report(&server, "c", 2, &[("a", "Healthy"), ("b", "Healthy")]).await;
    report(&server, "c", 3, &[("a", "Healthy"), ("b", "Unhealthy")]).await;
    report(&server, "other", 1, &[("b", "Unhealthy")]).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let event = events.change().await;
        assert_eq!(event.kind, "HealthChanged");
        let writer = &event.data["writer"];
        seen.push(format!(
            "{} {}{}",
            event.data["id"], writer["cluster"], writer["sequence"]
        ));
    }
    seen[..2].sort();
    assert_eq!(
        seen,
        [
            r#""a" "c"1"#,
            r#""b" "c"1"#,
            r#""b" "c"3"#,
            r#""b" "other"1"#
        ]
    );
    assert_eq!(
        server.json("/api/v1/services/a").await["health"][0]["healthy"],
        3
    );
    assert_eq!(server.json("/api/v1/services").await["revision"], 6);
}

async fn a_token_that_cannot_be_resumed_from_is_reset(database: Database) {
    let server = database.serve(&[]);
    put(&server, "a").await;
    let epoch = epoch(&server).await;
    let ahead = format!("{epoch}.9");
    let negative = format!("{epoch}.-1");
    for (written, token) in (1..).zip([&*ahead, "0badcafe.1", "1", "nonsense", &*negative]) {
        let mut events = server.follow(Some(token)).await;
        let reset = events.next().await.unwrap();
        assert_eq!(reset.kind, "reset", "{token}");
        assert_eq!(reset.id, format!("{epoch}.{written}"), "{token}");
        assert_eq!(reset.data["epoch"], epoch.as_str());
        assert_eq!(reset.data["revision"], written);
        // It goes on from there.
        put(&server, "a").await;
        assert_eq!(events.change().await.revision(), written + 1, "{token}");
    }
}

async fn a_token_below_the_floor_is_reset(database: Database) {
    let server = database.serve(&["--retention-revisions", "5"]);
    put(&server, "a").await;
    let token = format!("{}.1", epoch(&server).await);
    let mut writes = 0;
    loop {
        let first = server.follow(Some(&token)).await.next().await.unwrap();
        if first.kind == "reset" {
            assert!(
                first.data["reason"].as_str().unwrap().contains("floor"),
                "{first:?}"
            );
            break;
        }
        assert!(writes < 10_000, "nothing is ever forgotten");
        put(&server, "a").await;
        writes += 1;
    }
    assert!(writes >= 5, "forgotten after {writes} writes");
}

async fn a_new_epoch_resets_open_streams_and_old_tokens(database: Database) {
    let server = database.serve(&[]);
    for id in ["a", "b"] {
        put(&server, id).await;
    }
    let page = server.json("/api/v1/services?limit=1").await;
    let old = page["epoch"].as_str().unwrap();
    let mut events = server.follow(None).await;
    assert_eq!(events.next().await.unwrap().kind, "bookmark");

    database.command("restore-epoch");

    let reset = events.change().await;
    assert_eq!(reset.kind, "reset");
    assert_ne!(reset.data["epoch"], old);
    let token = format!("{old}.2");
    assert_eq!(
        server.follow(Some(&token)).await.next().await.unwrap().kind,
        "reset"
    );
    let cursor = page["nextCursor"].as_str().unwrap();
    let status = server
        .get(&format!("/api/v1/services?cursor={cursor}"))
        .await
        .status();
    assert_eq!(status, StatusCode::GONE);
    put(&server, "c").await;
    let next = events.change().await;
    assert_eq!(
        (next.kind.as_str(), next.revision()),
        ("ServiceRegistered", 3)
    );
}

async fn a_list_and_a_stream_from_its_position_miss_nothing(database: Database) {
    let server = database.serve(&[]);
    put(&server, "a").await;
    let page = server.json("/api/v1/services").await;
    put(&server, "b").await;
    let token = format!("{}.{}", page["epoch"].as_str().unwrap(), page["revision"]);
    let mut events = server.follow(Some(&token)).await;
    assert_eq!(events.change().await.data["id"], "b");
}
