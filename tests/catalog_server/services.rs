//! The owners' part: create, read, replace, delete.

use catalog_mesh_controller::domain::record::ServiceRecord;
use reqwest::header::{ETAG, IF_MATCH, IF_NONE_MATCH, LOCATION};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Catalog, Database};

on_both_databases!(
    a_service_is_created_read_replaced_and_deleted,
    a_reader_who_has_the_record_gets_304,
    reports_change_neither_the_tag_nor_the_revision,
    if_match_guards_replacing_and_deleting,
    an_id_that_is_taken_is_a_conflict,
    an_id_cannot_be_changed,
    a_bad_record_is_refused_with_every_field_named,
    an_unknown_field_is_tolerated_and_not_kept,
    every_policy_comes_back_as_the_operator_reads_it,
);

const PATH: &str = "/api/v1/services/one";

fn record(timeout: &str) -> Value {
    json!({ "id": "one", "name": "svc", "namespace": "ns", "timeout": timeout })
}

async fn created(server: &Catalog) -> String {
    let response = server
        .send(Method::POST, "/api/v1/services", &record("1s"))
        .await;
    assert_eq!(response.status(), StatusCode::CREATED);
    response.headers()[ETAG].to_str().unwrap().to_owned()
}

async fn a_service_is_created_read_replaced_and_deleted(database: Database) {
    let server = database.serve(&[]);
    let response = server
        .send(Method::POST, "/api/v1/services", &record("1s"))
        .await;
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()[LOCATION], PATH);
    let first = server.json(PATH).await;
    assert_eq!(first["timeout"], "1s");

    let (status, second) = server.call(Method::PUT, PATH, &record("2s")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(second["timeout"], "2s");
    assert!(second["revision"].as_u64() > first["revision"].as_u64());

    assert_eq!(
        server.call(Method::DELETE, PATH, &Value::Null).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(server.get(PATH).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        server.call(Method::DELETE, PATH, &Value::Null).await.0,
        StatusCode::NOT_FOUND
    );

    let (status, third) = server.call(Method::PUT, PATH, &record("3s")).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(third["revision"].as_u64() > second["revision"].as_u64());
}

async fn a_reader_who_has_the_record_gets_304(database: Database) {
    let server = database.serve(&[]);
    let tag = created(&server).await;
    let read = async |tags: &str| {
        let request = server
            .http
            .get(format!("{}{PATH}", server.url))
            .header(IF_NONE_MATCH, tags);
        request.send().await.unwrap()
    };
    for known in [
        tag.clone(),
        format!("\"other\", {tag}"),
        format!("W/{tag}"),
        "*".to_owned(),
    ] {
        let response = read(&known).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{known}");
        assert_eq!(response.headers()[ETAG], tag.as_str());
        assert_eq!(response.text().await.unwrap(), "");
    }
    server.send(Method::PUT, PATH, &record("2s")).await;
    let response = read(&tag).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_ne!(response.headers()[ETAG], tag.as_str());
}

async fn reports_change_neither_the_tag_nor_the_revision(database: Database) {
    let server = database.serve(&[]);
    let tag = created(&server).await;
    let before = server.json(PATH).await;
    let writer = json!({ "cluster": "c", "epoch": 1, "sequence": 1 });
    let item = json!({ "serviceId": "one", "health": "Degraded", "healthy": 1, "total": 2 });
    let batch = json!({ "writer": writer, "items": [item] });
    server
        .call(Method::POST, "/api/v1/health:batch", &batch)
        .await;
    let endpoint = json!({ "address": "10.0.0.1", "port": 80, "ready": true });
    let endpoints = json!({ "writer": writer, "endpoints": [endpoint] });
    server
        .call(Method::PUT, "/api/v1/services/one/endpoints", &endpoints)
        .await;

    let response = server.get(PATH).await;
    assert_eq!(response.headers()[ETAG], tag.as_str());
    let after: Value = response.json().await.unwrap();
    assert_eq!(after["revision"], before["revision"]);
    assert_eq!(after["health"][0]["health"], "Degraded");
    assert_eq!(after["endpoints"][0]["address"], "10.0.0.1");
}

async fn if_match_guards_replacing_and_deleting(database: Database) {
    let server = database.serve(&[]);
    let guarded = async |method: Method, tag: &str| {
        let url = format!("{}{PATH}", server.url);
        let request = server
            .http
            .request(method, url)
            .header(IF_MATCH, tag)
            .json(&record("9s"));
        request.send().await.unwrap().status()
    };
    assert_eq!(
        guarded(Method::PUT, "*").await,
        StatusCode::PRECONDITION_FAILED
    );
    let old = created(&server).await;
    assert_eq!(guarded(Method::PUT, &old).await, StatusCode::OK);
    assert_eq!(
        guarded(Method::PUT, &old).await,
        StatusCode::PRECONDITION_FAILED
    );
    assert_eq!(
        guarded(Method::DELETE, &old).await,
        StatusCode::PRECONDITION_FAILED
    );
    assert_eq!(server.json(PATH).await["timeout"], "9s");
    assert_eq!(guarded(Method::PUT, "*").await, StatusCode::OK);
    assert_eq!(
        guarded(Method::DELETE, "\"x\", *").await,
        StatusCode::NO_CONTENT
    );
}

async fn an_id_that_is_taken_is_a_conflict(database: Database) {
    let server = database.serve(&[]);
    created(&server).await;
    let (status, problem) = server
        .call(Method::POST, "/api/v1/services", &record("2s"))
        .await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(problem["status"], 409);
    assert_eq!(server.json(PATH).await["timeout"], "1s");
}

async fn an_id_cannot_be_changed(database: Database) {
    let server = database.serve(&[]);
    let other = json!({ "id": "other", "name": "svc", "namespace": "ns" });
    assert_eq!(
        server.call(Method::PUT, PATH, &other).await.0,
        StatusCode::CONFLICT
    );
    assert_eq!(server.get(PATH).await.status(), StatusCode::NOT_FOUND);
}

async fn a_bad_record_is_refused_with_every_field_named(database: Database) {
    let server = database.serve(&[]);
    for (field, bad) in [
        ("id", json!({ "id": "../x" })),
        ("name", json!({ "name": "Not-A-Label" })),
        ("namespace", json!({ "namespace": "a".repeat(64) })),
        ("labels[\" \"]", json!({ "labels": { " ": "x" } })),
        ("labels[\"a\"]", json!({ "labels": { "a": 1 } })),
        ("timeout", json!({ "timeout": "0s" })),
        ("timeout", json!({ "timeout": "1h1s" })),
        ("timeout", json!({ "timeout": 30 })),
        ("timeout", json!({ "timeout": null })),
        ("retries", json!({ "retries": 101 })),
        ("retries.attempts", json!({ "retries": { "attempts": -1 } })),
        (
            "retries.perTryTimeout",
            json!({ "retries": { "perTryTimeout": "1us" } }),
        ),
        (
            "circuitBreaker.interval",
            json!({ "circuitBreaker": { "interval": "99ms" } }),
        ),
        (
            "circuitBreaker.maxEjectionPercent",
            json!({ "circuitBreaker": { "maxEjectionPercent": 101 } }),
        ),
        (
            "loadBalancing.simple",
            json!({ "loadBalancing": { "simple": "BEST" } }),
        ),
        (
            "loadBalancing.consistentHash",
            json!({ "loadBalancing": { "consistentHash": {} } }),
        ),
        (
            "connectionPool.tcp.maxConnections",
            json!({ "connectionPool": { "tcp": { "maxConnections": 0 } } }),
        ),
        (
            "healthCheck.endpoint",
            json!({ "healthCheck": { "endpoint": "http://evil/" } }),
        ),
        (
            "healthCheck.endpoint",
            json!({ "healthCheck": { "endpoint": "//evil/" } }),
        ),
    ] {
        let mut body = record("1s");
        body.as_object_mut()
            .unwrap()
            .extend(bad.as_object().unwrap().clone());
        let response = server.send(Method::POST, "/api/v1/services", &body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{bad}");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["errors"][0]["field"], field, "{bad}: {problem}");
        assert_eq!(
            problem["errors"].as_array().unwrap().len(),
            1,
            "{bad}: {problem}"
        );
    }
    let (_, problem) = server
        .call(Method::POST, "/api/v1/services", &json!({}))
        .await;
    assert_eq!(problem["errors"][0]["field"], "name");
    assert_eq!(problem["errors"][1]["field"], "namespace");
    assert_eq!(server.json("/api/v1/services").await["revision"], 0);
}

async fn an_unknown_field_is_tolerated_and_not_kept(database: Database) {
    let server = database.serve(&[]);
    let body = json!({
        "id": "one", "name": "svc", "namespace": "ns", "revision": 77, "colour": "red",
        "circuitBreaker": { "interval": "1s", "mood": [] },
    });
    let (status, answer) = server.call(Method::POST, "/api/v1/services", &body).await;
    assert_eq!(status, StatusCode::CREATED);
    let expected = json!({
        "id": "one", "name": "svc", "namespace": "ns", "revision": 1,
        "circuitBreaker": { "interval": "1s" },
    });
    assert_eq!(answer, expected);
}

async fn every_policy_comes_back_as_the_operator_reads_it(database: Database) {
    let server = database.serve(&[]);
    let mut body = json!({
        "id": "one", "name": "svc", "namespace": "ns", "labels": { "a/b": "ü" }, "timeout": "1m30s",
        "retries": { "attempts": 2, "perTryTimeout": "500ms", "retryOn": "5xx,reset" },
        "circuitBreaker": {
            "consecutiveErrors": 5, "interval": "30s", "baseEjectionTime": "1m", "maxEjectionPercent": 50
        },
        "loadBalancing": {
            "consistentHash": {
                "httpCookie": { "name": "user", "path": "/", "ttl": "0s" }, "minimumRingSize": 1024
            },
            "warmup": { "duration": "10s", "minimumPercent": 10, "aggression": 1 },
            "locality": {
                "enabled": true, "failoverPriority": ["topology.kubernetes.io/zone"],
                "distribute": [{ "from": "r/z/*", "to": { "r/z/*": 100 } }],
                "failover": [{ "from": "a", "to": "b" }],
            },
        },
        "connectionPool": {
            "tcp": { "maxConnections": 1, "connectTimeout": "1s", "idleTimeout": "1h" },
            "http": {
                "http1MaxPendingRequests": 1, "http2MaxRequests": 2_147_483_647,
                "maxRequestsPerConnection": 3, "maxRetries": 4, "idleTimeout": "1ms",
            },
        },
        "healthCheck": {
            "endpoint": "/health?full=1", "interval": "10s", "timeout": "3s", "port": 8080,
            "scheme": "MTLS", "failureThreshold": 3, "successThreshold": 2, "confirmInterval": "1s",
            "ejection": "outlier-only",
        },
    });
    assert_eq!(
        server.call(Method::POST, "/api/v1/services", &body).await.0,
        StatusCode::CREATED
    );
    body["revision"] = json!(1);
    let served = server.json("/api/v1/services").await["items"][0].clone();
    assert_eq!(served, body);
    let record: ServiceRecord = serde_json::from_value(served).unwrap();
    assert_eq!(record.timeout.as_deref(), Some("1m30s"));
}
