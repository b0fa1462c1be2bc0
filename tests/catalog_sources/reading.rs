//! Services one by one, and all of them.

use std::collections::BTreeMap;

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::error::CatalogError;
use catalog_mesh_controller::domain::record::{ServiceFilter, ServiceList};
use serde_json::json;

use crate::source::{Source, id};

impl Source {
    async fn list(&self, filter: &ServiceFilter) -> ServiceList {
        self.catalog.list_services(filter).await.unwrap()
    }
}

over_both!(
    a_record_arrives_as_its_owners_wrote_it,
    a_service_that_is_not_there_is_not_found,
    a_bad_value_names_its_field_and_hides_nobody,
    a_list_has_everything_that_each_filter_leaves,
    a_list_under_change_is_of_one_revision,
);

fn ids(list: &ServiceList) -> Vec<&str> {
    assert!(list.services.iter().all(Result::is_ok), "{list:?}");
    let services = list.services.iter().flatten();
    services.map(|record| record.id.as_str()).collect()
}

async fn a_record_arrives_as_its_owners_wrote_it(source: Source) {
    let revision = source
        .put(
            "a",
            json!({
                "namespace": "apps", "timeout": "30s", "retries": { "attempts": 3, "retryOn": "503" },
                "labels": { "tier": "gold" },
                "healthCheck": { "endpoint": "/health", "interval": "10s" },
            }),
        )
        .await;
    source.put("b", json!({})).await;
    let record = source.catalog.get_service(&id("a")).await.unwrap();
    assert_eq!((record.id.as_str(), record.name.as_str()), ("a", "a"));
    assert_eq!(record.namespace, "apps");
    assert_eq!(record.revision, revision);
    assert_eq!(record.timeout.as_deref(), Some("30s"));
    assert_eq!(record.labels.get("tier"), Some("gold"));
    assert!(record.retries.is_some() && record.health_check.is_some());

    let list = source.list(&ServiceFilter::default()).await;
    assert_eq!(list.services[0].as_ref().unwrap(), &*record);
    assert_eq!(list.position, source.position().await);

    let revision = source.put("a", json!({ "timeout": "1s" })).await;
    let record = source.catalog.get_service(&id("a")).await.unwrap();
    assert_eq!(record.timeout.as_deref(), Some("1s"));
    assert_eq!(record.revision, revision);
}

async fn a_service_that_is_not_there_is_not_found(source: Source) {
    let gone = async |name| source.catalog.get_service(&id(name)).await;
    assert_eq!(gone("a").await, Err(CatalogError::NotFound));
    source.put("a", json!({})).await;
    assert!(gone("a").await.is_ok());
    assert_eq!(gone("A").await, Err(CatalogError::NotFound));
    source.delete("a").await;
    assert_eq!(gone("a").await, Err(CatalogError::NotFound));
    let list = source.list(&ServiceFilter::default()).await;
    assert_eq!(list.services, []);
}

async fn a_bad_value_names_its_field_and_hides_nobody(source: Source) {
    for name in ["a", "b", "c"] {
        source
            .put(name, json!({ "labels": { "tier": "gold" } }))
            .await;
    }
    let bad = r#"{"id":"b","name":"b","namespace":"ns","circuitBreaker":{"interval":5}}"#;
    source.spoil("b", bad).await;
    let Err(CatalogError::BadRecord(bad)) = source.catalog.get_service(&id("b")).await else {
        panic!("it is bad")
    };
    assert_eq!(bad.id.as_deref(), Some("b"));
    assert_eq!(bad.field, "circuitBreaker.interval");
    assert!(bad.message.contains("expected a string"), "{bad}");

    let gold = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
    for labels in [BTreeMap::new(), gold] {
        let filter = ServiceFilter {
            labels,
            ..Default::default()
        };
        let list = source.list(&filter).await;
        let found = list.services.iter().map(Result::is_ok).collect::<Vec<_>>();
        assert_eq!(found, [true, false, true]);
        assert_eq!(list.services[1].as_ref().unwrap_err(), &bad);
    }
    let silver = BTreeMap::from([("tier".to_owned(), "silver".to_owned())]);
    let filter = ServiceFilter {
        labels: silver,
        ..Default::default()
    };
    let list = source.list(&filter).await;
    assert_eq!(list.services, []);
}

/// More than two pages of the API.
const MANY: usize = 1_234;

async fn a_list_has_everything_that_each_filter_leaves(source: Source) {
    // The owners' writes, without a round trip for each.
    source
        .database
        .execute(&format!(
            "UPDATE catalog_state SET revision = revision + {MANY};
             INSERT INTO services
             SELECT 's' || i, 'svc', 'n' || i % 3, '{{\"odd\":\"' || i % 2 || '\"}}',
                    json_build_object('id', 's' || i, 'name', 'svc', 'namespace', 'n' || i % 3,
                                      'labels', json_build_object('odd', (i % 2)::text))::text, i
             FROM generate_series(1, {MANY}) i;
             INSERT INTO service_versions (id, from_revision, namespace, labels, record)
             SELECT id, revision, namespace, labels, record FROM services;"
        ))
        .await;
    let number = |id: &&str| id[1..].parse::<usize>().unwrap();
    let expected = |keep: &dyn Fn(usize) -> bool| {
        let mut ids: Vec<_> = (1..=MANY)
            .filter(|i| keep(*i))
            .map(|i| format!("s{i}"))
            .collect();
        ids.sort();
        ids
    };
    let all = source.list(&ServiceFilter::default()).await;
    assert_eq!(ids(&all), expected(&|_| true));

    let namespace = ServiceFilter {
        namespace: Some("n1".to_owned()),
        ..Default::default()
    };
    let list = source.list(&namespace).await;
    assert_eq!(ids(&list), expected(&|i| i % 3 == 1));

    let labels = ServiceFilter {
        labels: [("odd".to_owned(), "1".to_owned())].into(),
        ..namespace
    };
    let list = source.list(&labels).await;
    assert_eq!(ids(&list), expected(&|i| i % 3 == 1 && i % 2 == 1));

    // More than the API takes at once, some twice, some that are not there.
    let wanted = (0..300).chain(0..20).map(|i| id(&format!("s{}", i * 7)));
    let some = ServiceFilter {
        ids: wanted.collect(),
        ..Default::default()
    };
    let list = source.list(&some).await;
    assert!(ids(&list).iter().map(number).all(|i| i % 7 == 0));
    assert_eq!(ids(&list), expected(&|i| i % 7 == 0));
}

async fn a_list_under_change_is_of_one_revision(source: Source) {
    const CHANGES: u64 = 200;
    // Every service is registered once, in the order of its number.
    let write = async {
        let mut revisions = Vec::new();
        for i in 0..CHANGES {
            revisions.push(source.put(&format!("s{i:03}"), json!({})).await);
        }
        revisions
    };
    let read = async {
        let mut lists = Vec::new();
        loop {
            lists.push(source.list(&ServiceFilter::default()).await);
            if lists.last().unwrap().services.len() as u64 == CHANGES {
                return lists;
            }
        }
    };
    let (revisions, lists) = tokio::join!(write, read);
    for list in &lists {
        let of_then = revisions.iter().filter(|r| **r <= list.position.revision);
        assert_eq!(list.services.len(), of_then.count(), "{}", list.position);
    }
    assert!(lists.len() > 3, "too few lists to have met a change");
}
