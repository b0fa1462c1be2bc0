//! What clusters report, and which reports count.

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::report::{
    Endpoint, EndpointReport, HealthReport, ItemOutcome, ReportedHealth, WriterPosition,
};
use serde_json::{Value, json};

use crate::source::{Source, id};

over_both!(
    a_batch_answers_each_item_and_stops_for_none,
    an_older_report_is_answered_with_the_highest_known,
    a_new_leader_outdates_the_old_one_everywhere,
    two_clusters_keep_each_others_reports,
    endpoints_are_replaced_as_a_whole,
    reports_move_no_revision_of_a_record,
);

fn writer(cluster: &str, epoch: u64, sequence: u64) -> WriterPosition {
    WriterPosition {
        cluster: cluster.to_owned(),
        epoch,
        sequence,
    }
}

fn item(service_id: &str, health: ReportedHealth) -> HealthReport {
    HealthReport {
        service_id: service_id.to_owned(),
        health,
        healthy: 1,
        total: 2,
    }
}

const HEALTHY: ReportedHealth = ReportedHealth::Healthy;
const UNHEALTHY: ReportedHealth = ReportedHealth::Unhealthy;

impl Source {
    async fn health(&self, writer: WriterPosition, items: &[HealthReport]) -> Vec<ItemOutcome> {
        self.catalog.report_health(&writer, items).await.unwrap()
    }

    async fn endpoints(&self, writer: WriterPosition, id: &str, addresses: &[&str]) -> ItemOutcome {
        let endpoint = |address: &&str| Endpoint {
            address: address.parse().unwrap(),
            port: 8080,
            zone: Some("z1".to_owned()),
            ready: true,
        };
        let report = EndpointReport {
            service_id: id.to_owned(),
            endpoints: addresses.iter().map(endpoint).collect(),
        };
        let outcome = self.catalog.report_endpoints(&writer, &report);
        outcome.await.unwrap()
    }

    /// Cluster and health of each report that is stored.
    async fn stored_health(&self, id: &str) -> Vec<(String, String)> {
        let record = self.owners.json(&format!("/api/v1/services/{id}")).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let reports = record["health"].as_array().unwrap().iter();
        reports
            .map(|report| (text(&report["cluster"]), text(&report["health"])))
            .collect()
    }

    async fn stored_endpoints(&self, id: &str) -> Value {
        let mut record = self.owners.json(&format!("/api/v1/services/{id}")).await;
        record["endpoints"].take()
    }
}

/// Whatever its owners set for the role or the database.
#[tokio::test]
async fn reports_at_once_are_all_taken_at_any_level_of_isolation() {
    for level in ["repeatable read", "serializable"] {
        let source = Source::database().await;
        with_services(&source).await;
        let set = format!(
            "ALTER ROLE {} SET default_transaction_isolation = '{level}'",
            source.reader.replace("reader", "reporter")
        );
        source.database.execute(&set).await;
        let reports = (1..=40).map(|sequence| {
            let id = if sequence % 2 == 0 { "a" } else { "b" };
            source.endpoints(writer("c", 1, sequence), id, &["10.0.0.1"])
        });
        let outcomes = futures::future::join_all(reports).await;
        let taken = |outcome: &&ItemOutcome| **outcome == ItemOutcome::Accepted;
        assert!(outcomes.iter().any(|of| taken(&of)), "{outcomes:?}");
        let late = |outcome: &ItemOutcome| matches!(outcome, ItemOutcome::Outdated { .. });
        assert!(
            outcomes.iter().all(|of| taken(&of) || late(of)),
            "{outcomes:?}"
        );
    }
}

fn outdated(epoch: u64, sequence: u64) -> ItemOutcome {
    ItemOutcome::Outdated { epoch, sequence }
}

async fn with_services(source: &Source) {
    for name in ["a", "b"] {
        source.put(name, json!({})).await;
    }
}

async fn a_batch_answers_each_item_and_stops_for_none(source: Source) {
    with_services(&source).await;
    let mut impossible = item("b", HEALTHY);
    impossible.healthy = 3;
    let items = [
        item("../a", HEALTHY),
        item("nobody", HEALTHY),
        impossible,
        item("a", HEALTHY),
        item("a", UNHEALTHY),
    ];
    let outcomes = source.health(writer("c", 1, 1), &items).await;
    let invalid =
        |outcome: &ItemOutcome, why| matches!(outcome, ItemOutcome::Invalid(m) if m.contains(why));
    assert!(invalid(&outcomes[0], "serviceId"), "{outcomes:?}");
    assert_eq!(outcomes[1], ItemOutcome::NotFound);
    assert!(
        invalid(&outcomes[2], "healthy must not be above total"),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[3], ItemOutcome::Accepted);
    assert!(
        invalid(&outcomes[4], "serviceId must not be in a batch twice"),
        "{outcomes:?}"
    );
    let healthy = [("c".to_owned(), "Healthy".to_owned())];
    assert_eq!(source.stored_health("a").await, healthy);
    assert_eq!(source.stored_health("b").await, []);
    assert_eq!(source.health(writer("c", 1, 2), &[]).await, []);
}

async fn an_older_report_is_answered_with_the_highest_known(source: Source) {
    with_services(&source).await;
    let report = async |epoch, sequence, health| {
        let items = [item("a", health)];
        source
            .health(writer("c", epoch, sequence), &items)
            .await
            .remove(0)
    };
    assert_eq!(report(2, 5, HEALTHY).await, ItemOutcome::Accepted);
    assert_eq!(report(2, 4, UNHEALTHY).await, outdated(2, 5));
    assert_eq!(report(1, 9, UNHEALTHY).await, outdated(2, 5));
    // The same position again is the same report again.
    assert_eq!(report(2, 5, HEALTHY).await, ItemOutcome::Accepted);
    let healthy = [("c".to_owned(), "Healthy".to_owned())];
    assert_eq!(source.stored_health("a").await, healthy);
    assert_eq!(report(2, 6, UNHEALTHY).await, ItemOutcome::Accepted);
    // A late report about one service does not stand in another's way.
    let late = source
        .health(writer("c", 2, 3), &[item("b", HEALTHY)])
        .await;
    assert_eq!(late, [ItemOutcome::Accepted]);
}

async fn a_new_leader_outdates_the_old_one_everywhere(source: Source) {
    with_services(&source).await;
    let new = source
        .health(writer("c", 7, 0), &[item("a", HEALTHY)])
        .await;
    assert_eq!(new, [ItemOutcome::Accepted]);
    let old = source
        .health(writer("c", 6, 99), &[item("b", HEALTHY)])
        .await;
    assert_eq!(old, [outdated(7, 0)]);
    let old = source
        .endpoints(writer("c", 6, 99), "b", &["10.0.0.1"])
        .await;
    assert_eq!(old, outdated(7, 0));
    assert_eq!(source.stored_health("b").await, []);
    assert_eq!(source.stored_endpoints("b").await, json!([]));
}

async fn two_clusters_keep_each_others_reports(source: Source) {
    with_services(&source).await;
    for (cluster, health, address) in [("c1", HEALTHY, "10.0.0.1"), ("c2", UNHEALTHY, "10.0.0.2")] {
        let outcomes = source
            .health(writer(cluster, 1, 1), &[item("a", health)])
            .await;
        assert_eq!(outcomes, [ItemOutcome::Accepted]);
        let outcome = source
            .endpoints(writer(cluster, 1, 1), "a", &[address])
            .await;
        assert_eq!(outcome, ItemOutcome::Accepted);
    }
    let both = [("c1", "Healthy"), ("c2", "Unhealthy")];
    let both = both.map(|(cluster, health)| (cluster.to_owned(), health.to_owned()));
    assert_eq!(source.stored_health("a").await, both);
    let withdrawn = source.endpoints(writer("c1", 1, 2), "a", &[]).await;
    assert_eq!(withdrawn, ItemOutcome::Accepted);
    let left = source.stored_endpoints("a").await;
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
    assert_eq!(left[0]["cluster"], "c2");
}

async fn endpoints_are_replaced_as_a_whole(source: Source) {
    with_services(&source).await;
    let report = async |sequence, addresses: &[&str]| {
        source
            .endpoints(writer("c", 1, sequence), "a", addresses)
            .await
    };
    assert_eq!(
        report(1, &["10.0.0.1", "fd00::1"]).await,
        ItemOutcome::Accepted
    );
    let stored = source.stored_endpoints("a").await;
    let endpoint = |address: &str| json!({ "cluster": "c", "address": address, "port": 8080, "zone": "z1", "ready": true });
    assert_eq!(stored, json!([endpoint("10.0.0.1"), endpoint("fd00::1")]));
    assert_eq!(report(3, &["10.0.0.3"]).await, ItemOutcome::Accepted);
    assert_eq!(report(2, &["10.0.0.2"]).await, outdated(1, 3));
    assert_eq!(
        source.stored_endpoints("a").await,
        json!([endpoint("10.0.0.3")])
    );
    let nobody = source.endpoints(writer("c", 1, 4), "nobody", &[]).await;
    assert_eq!(nobody, ItemOutcome::NotFound);
    let invalid = source.endpoints(writer("c", 1, 4), "../a", &[]).await;
    assert!(matches!(invalid, ItemOutcome::Invalid(_)), "{invalid:?}");
}

async fn reports_move_no_revision_of_a_record(source: Source) {
    with_services(&source).await;
    let before = source.catalog.get_service(&id("a")).await.unwrap();
    source
        .health(writer("c", 1, 1), &[item("a", HEALTHY)])
        .await;
    source
        .endpoints(writer("c", 1, 1), "a", &["10.0.0.1"])
        .await;
    let after = source.catalog.get_service(&id("a")).await.unwrap();
    assert_eq!(before, after);
}
