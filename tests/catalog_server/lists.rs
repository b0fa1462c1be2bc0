//! Lists: filters, pages, and what a cursor is worth.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Catalog, Database};

on_both_databases!(
    a_list_is_filtered_by_namespace_labels_and_ids,
    all_pages_show_the_revision_of_the_first,
    a_page_never_outgrows_what_a_client_takes,
    a_cursor_of_another_list_is_gone,
    a_cursor_below_the_floor_is_gone,
    a_bad_query_names_its_parameter,
);

async fn put(server: &Catalog, id: &str, namespace: &str, labels: Value) {
    let body = json!({ "name": "svc", "namespace": namespace, "labels": labels });
    let path = format!("/api/v1/services/{id}");
    assert!(server.call(Method::PUT, &path, &body).await.0.is_success());
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["id"].as_str().unwrap())
        .collect()
}

async fn a_list_is_filtered_by_namespace_labels_and_ids(database: Database) {
    let server = database.serve(&[]);
    put(&server, "b", "one", json!({ "team": "x", "tier": "1" })).await;
    put(&server, "a", "one", json!({ "team": "x" })).await;
    put(&server, "C", "two", json!({ "team": "y=z" })).await;
    put(&server, "d", "two", json!({})).await;
    for (query, expected) in [
        // By the bytes of the ID, whatever the database's locale.
        ("", vec!["C", "a", "b", "d"]),
        ("?namespace=two", vec!["C", "d"]),
        ("?label=team=x", vec!["a", "b"]),
        ("?label=team=x&label=tier=1", vec!["b"]),
        ("?label=team=y%3Dz", vec!["C"]),
        ("?label=team=", vec![]),
        ("?id=d&id=a&id=gone", vec!["a", "d"]),
        ("?id=d&id=a&namespace=one", vec!["a"]),
    ] {
        let page = server.json(&format!("/api/v1/services{query}")).await;
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!(page["revision"], 4);
        assert!(page.get("nextCursor").is_none());
    }
}

async fn all_pages_show_the_revision_of_the_first(database: Database) {
    let server = database.serve(&[]);
    for id in ["a", "b", "c", "d", "e"] {
        put(&server, id, "old", json!({})).await;
    }
    let first = server.json("/api/v1/services?limit=2").await;
    assert_eq!(ids(&first), ["a", "b"]);
    // One replaced, one deleted, one deleted and made anew, one new.
    put(&server, "c", "new", json!({})).await;
    for id in ["d", "e"] {
        let path = format!("/api/v1/services/{id}");
        assert!(
            server
                .call(Method::DELETE, &path, &Value::Null)
                .await
                .0
                .is_success()
        );
    }
    put(&server, "e", "new", json!({})).await;
    put(&server, "cc", "new", json!({})).await;

    let mut seen = Vec::new();
    let mut page = first.clone();
    while let Some(cursor) = page["nextCursor"].as_str() {
        page = server
            .json(&format!("/api/v1/services?limit=2&cursor={cursor}"))
            .await;
        assert_eq!(page["revision"], first["revision"]);
        assert_eq!(page["epoch"], first["epoch"]);
        seen.extend(page["items"].as_array().unwrap().clone());
    }
    let seen: Vec<_> = seen
        .iter()
        .map(|item| {
            (
                item["id"].as_str().unwrap(),
                item["namespace"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(seen, [("c", "old"), ("d", "old"), ("e", "old")]);
    assert_eq!(
        ids(&server.json("/api/v1/services").await),
        ["a", "b", "c", "cc", "e"]
    );
}

async fn a_page_never_outgrows_what_a_client_takes(database: Database) {
    let server = database.serve(&[]);
    // 700 KiB of places each: together they are more than a page may hold.
    let places: serde_json::Map<String, Value> = (0..64)
        .map(|n| (format!("p{n}{}", "x".repeat(240)), json!(1)))
        .collect();
    let distribute = json!({ "from": "a", "to": places });
    let locality = json!({ "distribute": vec![distribute; 44] });
    let body =
        json!({ "name": "svc", "namespace": "ns", "loadBalancing": { "locality": locality } });
    for n in 0..26 {
        let path = format!("/api/v1/services/big{n:02}");
        assert!(server.call(Method::PUT, &path, &body).await.0.is_success());
    }
    let mut path = "/api/v1/services".to_owned();
    let mut seen = Vec::new();
    loop {
        let text = server.get(&path).await.text().await.unwrap();
        assert!(text.len() < 16 << 20, "{}", text.len());
        let page: Value = serde_json::from_str(&text).unwrap();
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(cursor) = page["nextCursor"].as_str() else {
            break;
        };
        path = format!("/api/v1/services?cursor={cursor}");
    }
    assert_eq!(
        seen,
        (0..26).map(|n| format!("big{n:02}")).collect::<Vec<_>>()
    );
    assert_ne!(path, "/api/v1/services", "one page held everything");
}

async fn a_cursor_of_another_list_is_gone(database: Database) {
    let server = database.serve(&[]);
    for id in ["a", "b"] {
        put(&server, id, "ns", json!({})).await;
    }
    let page = server.json("/api/v1/services?limit=1&namespace=ns").await;
    let cursor = page["nextCursor"].as_str().unwrap();
    let epoch = page["epoch"].as_str().unwrap();
    for query in [
        format!("limit=1&cursor={cursor}"),
        format!("namespace=ns&label=a=b&cursor={cursor}"),
        format!("namespace=ns&cursor=x{cursor}"),
        format!("namespace=ns&cursor={}", cursor.replacen(".2.", ".3.", 1)),
        format!("namespace=ns&cursor={epoch}"),
    ] {
        let status = server
            .get(&format!("/api/v1/services?{query}"))
            .await
            .status();
        assert_eq!(status, StatusCode::GONE, "{query}");
    }
    let rest = server
        .json(&format!("/api/v1/services?namespace=ns&cursor={cursor}"))
        .await;
    assert_eq!(ids(&rest), ["b"]);
}

async fn a_cursor_below_the_floor_is_gone(database: Database) {
    let server = database.serve(&["--retention-revisions", "5"]);
    for id in ["a", "b"] {
        put(&server, id, "ns", json!({})).await;
    }
    let page = server.json("/api/v1/services?limit=1").await;
    let path = format!(
        "/api/v1/services?cursor={}",
        page["nextCursor"].as_str().unwrap()
    );
    let mut writes = 0;
    while server.get(&path).await.status() == StatusCode::OK {
        assert!(writes < 10_000, "nothing is ever forgotten");
        put(&server, "a", "ns", json!({})).await;
        writes += 1;
    }
    assert!(writes >= 5, "forgotten after {writes} writes");
    assert_eq!(server.get(&path).await.status(), StatusCode::GONE);
    assert_eq!(ids(&server.json("/api/v1/services").await), ["a", "b"]);
}

async fn a_bad_query_names_its_parameter(database: Database) {
    let server = database.serve(&[]);
    let many_ids = "id=a&".repeat(101);
    for (query, field) in [
        ("limit=501", "limit"),
        ("cursor=%20", "cursor"),
        ("namespace=..", "namespace"),
        ("label=%00=", "label"),
        ("label=team=x&label=team=y", "label"),
        (&*many_ids, "id"),
    ] {
        let (status, problem) = server
            .call(
                Method::GET,
                &format!("/api/v1/services?{query}"),
                &Value::Null,
            )
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(problem["errors"][0]["field"], field, "{query}");
    }
}
