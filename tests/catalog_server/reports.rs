//! What clusters report, and which reports are too old to count.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Catalog, Database};

on_both_databases!(
    a_batch_answers_each_item_and_stops_for_none,
    an_older_report_is_answered_with_the_highest_known,
    a_late_report_about_one_service_does_not_block_another,
    a_new_leader_outdates_the_old_one_everywhere,
    clusters_do_not_stand_in_each_others_way,
    endpoints_are_replaced_as_a_whole,
    reports_go_with_their_service,
    a_batch_that_is_none_is_refused_with_its_field,
);

fn writer(cluster: &str, epoch: u64, sequence: u64) -> Value {
    json!({ "cluster": cluster, "epoch": epoch, "sequence": sequence })
}

fn item(id: &str, health: &str) -> Value {
    json!({ "serviceId": id, "health": health, "healthy": 1, "total": 2 })
}

fn outdated(epoch: u64, sequence: u64) -> Value {
    json!({ "status": "outdated", "epoch": epoch, "sequence": sequence })
}

fn accepted() -> Value {
    json!({ "status": "accepted" })
}

async fn with_services(database: &Database) -> Catalog {
    let server = database.serve(&[]);
    for id in ["a", "b"] {
        let body = json!({ "name": id, "namespace": "ns" });
        server
            .send(Method::PUT, &format!("/api/v1/services/{id}"), &body)
            .await;
    }
    server
}

async fn health(server: &Catalog, writer: Value, items: Vec<Value>) -> Value {
    let body = json!({ "writer": writer, "items": items });
    let (status, answer) = server
        .call(Method::POST, "/api/v1/health:batch", &body)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["results"].clone()
}

async fn endpoints(server: &Catalog, id: &str, writer: Value, addresses: &[&str]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| json!({ "address": address, "port": 80, "zone": "z1", "ready": true }))
        .collect();
    let body = json!({ "writer": writer, "endpoints": endpoints });
    let path = format!("/api/v1/services/{id}/endpoints");
    let (status, answer) = server.call(Method::PUT, &path, &body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer
}

async fn a_batch_answers_each_item_and_stops_for_none(database: Database) {
    let server = with_services(&database).await;
    let mut impossible = item("b", "Healthy");
    impossible["healthy"] = json!(3);
    let items = vec![
        json!({ "serviceId": "a", "health": "Splendid", "healthy": 1, "total": 1 }),
        item("nobody", "Healthy"),
        impossible,
        item("a", "Healthy"),
        item("a", "Unhealthy"),
    ];
    let results = health(&server, writer("c", 1, 1), items).await;
    let statuses: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| result["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        ["invalid", "notFound", "invalid", "accepted", "invalid"]
    );
    assert!(
        results[0]["message"]
            .as_str()
            .unwrap()
            .starts_with("health must be one of")
    );
    assert_eq!(
        server.json("/api/v1/services/a").await["health"][0]["health"],
        "Healthy"
    );
    assert_eq!(server.json("/api/v1/services/b").await["health"], json!([]));
}

async fn an_older_report_is_answered_with_the_highest_known(database: Database) {
    let server = with_services(&database).await;
    let report = async |epoch, sequence, health_now: &str| {
        health(
            &server,
            writer("c", epoch, sequence),
            vec![item("a", health_now)],
        )
        .await[0]
            .clone()
    };
    assert_eq!(report(2, 5, "Healthy").await, accepted());
    assert_eq!(report(2, 4, "Unhealthy").await, outdated(2, 5));
    assert_eq!(report(1, 9, "Unhealthy").await, outdated(2, 5));
    // The same position again is the same report again.
    assert_eq!(report(2, 5, "Unhealthy").await, accepted());
    assert_eq!(
        server.json("/api/v1/services/a").await["health"][0]["health"],
        "Healthy"
    );
    assert_eq!(report(2, 6, "Degraded").await, accepted());
    assert_eq!(
        server.json("/api/v1/services/a").await["health"][0]["health"],
        "Degraded"
    );

    let snapshot = async |epoch, sequence, address: &str| {
        endpoints(&server, "a", writer("c", epoch, sequence), &[address]).await
    };
    assert_eq!(snapshot(2, 3, "10.0.0.3").await, accepted());
    assert_eq!(snapshot(2, 2, "10.0.0.2").await, outdated(2, 3));
    assert_eq!(snapshot(2, 3, "10.0.0.9").await, accepted());
    assert_eq!(
        server.json("/api/v1/services/a").await["endpoints"][0]["address"],
        "10.0.0.3"
    );
}

async fn a_late_report_about_one_service_does_not_block_another(database: Database) {
    let server = with_services(&database).await;
    let items = vec![item("a", "Healthy")];
    assert_eq!(
        health(&server, writer("c", 1, 9), items).await[0],
        accepted()
    );
    // Overtaken on its way, but the latest about b, and the first endpoints.
    let items = vec![item("a", "Unhealthy"), item("b", "Unhealthy")];
    let results = health(&server, writer("c", 1, 3), items).await;
    assert_eq!(results, json!([outdated(1, 9), accepted()]));
    assert_eq!(
        endpoints(&server, "a", writer("c", 1, 1), &["10.0.0.1"]).await,
        accepted()
    );
}

async fn a_new_leader_outdates_the_old_one_everywhere(database: Database) {
    let server = with_services(&database).await;
    assert_eq!(
        endpoints(&server, "a", writer("c", 2, 1), &["10.0.0.1"]).await,
        accepted()
    );
    let results = health(&server, writer("c", 1, 500), vec![item("b", "Healthy")]).await;
    assert_eq!(results[0], outdated(2, 1));
    assert_eq!(
        endpoints(&server, "b", writer("c", 1, 501), &[]).await,
        outdated(2, 1)
    );
}

async fn clusters_do_not_stand_in_each_others_way(database: Database) {
    let server = with_services(&database).await;
    health(&server, writer("east", 9, 9), vec![item("a", "Healthy")]).await;
    endpoints(&server, "a", writer("east", 9, 9), &["10.0.0.1"]).await;
    let results = health(&server, writer("west", 1, 1), vec![item("a", "Unhealthy")]).await;
    assert_eq!(results[0], accepted());
    endpoints(&server, "a", writer("west", 1, 1), &["10.1.0.1"]).await;
    let record = server.json("/api/v1/services/a").await;
    let expected = json!([
        { "cluster": "east", "health": "Healthy", "healthy": 1, "total": 2, "epoch": 9, "sequence": 9 },
        { "cluster": "west", "health": "Unhealthy", "healthy": 1, "total": 2, "epoch": 1, "sequence": 1 },
    ]);
    assert_eq!(record["health"], expected);
    assert_eq!(record["endpoints"][0]["cluster"], "east");
    assert_eq!(record["endpoints"][1]["address"], "10.1.0.1");
}

async fn endpoints_are_replaced_as_a_whole(database: Database) {
    let server = with_services(&database).await;
    endpoints(&server, "a", writer("c", 1, 1), &["10.0.0.1", "fd00::1"]).await;
    endpoints(&server, "a", writer("c", 1, 2), &["10.0.0.2"]).await;
    let expected =
        json!([{ "cluster": "c", "address": "10.0.0.2", "port": 80, "zone": "z1", "ready": true }]);
    assert_eq!(
        server.json("/api/v1/services/a").await["endpoints"],
        expected
    );
    endpoints(&server, "a", writer("c", 1, 3), &[]).await;
    assert_eq!(
        server.json("/api/v1/services/a").await["endpoints"],
        json!([])
    );
    let nobody = endpoints(&server, "nobody", writer("c", 1, 4), &[]).await;
    assert_eq!(nobody, json!({ "status": "notFound" }));
}

async fn reports_go_with_their_service(database: Database) {
    let server = with_services(&database).await;
    health(&server, writer("c", 1, 8), vec![item("a", "Healthy")]).await;
    endpoints(&server, "a", writer("c", 1, 9), &["10.0.0.1"]).await;
    server
        .call(Method::DELETE, "/api/v1/services/a", &Value::Null)
        .await;
    let body = json!({ "name": "a", "namespace": "ns" });
    server.call(Method::PUT, "/api/v1/services/a", &body).await;
    let record = server.json("/api/v1/services/a").await;
    assert_eq!(
        (&record["health"], &record["endpoints"]),
        (&json!([]), &json!([]))
    );
    let results = health(&server, writer("c", 1, 1), vec![item("a", "Healthy")]).await;
    assert_eq!(results[0], accepted());
}

async fn a_batch_that_is_none_is_refused_with_its_field(database: Database) {
    let server = with_services(&database).await;
    let good = writer("c", 1, 1);
    for (field, body) in [
        ("writer", json!({ "items": [] })),
        (
            "writer.epoch",
            json!({ "writer": { "cluster": "c", "epoch": -1, "sequence": 1 }, "items": [] }),
        ),
        (
            "writer.cluster",
            json!({ "writer": { "cluster": "", "epoch": 1, "sequence": 1 }, "items": [] }),
        ),
        ("items", json!({ "writer": good })),
        (
            "items",
            json!({ "writer": good, "items": vec![json!({}); 1001] }),
        ),
        ("items[0]", json!({ "writer": good, "items": [1] })),
    ] {
        let (status, problem) = server
            .call(Method::POST, "/api/v1/health:batch", &body)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    let endpoint = |address: &str| json!({ "address": address, "port": 80, "ready": true });
    for (field, list) in [
        (
            "endpoints[1].address",
            json!([endpoint("10.0.0.1"), endpoint("localhost")]),
        ),
        ("endpoints", json!(vec![endpoint("10.0.0.1"); 1001])),
        (
            "endpoints[0].port",
            json!([{ "address": "::1", "port": 0, "ready": true }]),
        ),
    ] {
        let body = json!({ "writer": good, "endpoints": list });
        let (status, problem) = server
            .call(Method::PUT, "/api/v1/services/a/endpoints", &body)
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}
