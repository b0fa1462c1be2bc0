//! Does the fake itself behave?

use futures::StreamExt;

use super::*;
use crate::catalog::Catalog;
use crate::domain::record::ServiceFilter;

#[tokio::test]
async fn a_failure_is_told_as_often_as_was_asked_for() {
    let catalog = FakeCatalog::new();
    catalog.set(ServiceRecord {
        id: "a".to_owned(),
        ..Default::default()
    });
    let id = CatalogServiceId::parse("a").unwrap();
    catalog.fail_next(2, CatalogError::unavailable("away"));
    assert!(catalog.get_service(&id).await.is_err());
    assert!(
        catalog
            .list_services(&ServiceFilter::default())
            .await
            .is_err()
    );
    assert!(catalog.get_service(&id).await.is_ok());
    catalog.remove("a");
    assert_eq!(catalog.get_service(&id).await, Err(CatalogError::NotFound));
    assert_eq!(
        (catalog.calls().get_service, catalog.calls().list_services),
        (3, 1)
    );
}

#[tokio::test]
async fn a_list_holds_what_the_filter_leaves() {
    let catalog = FakeCatalog::new();
    for (id, namespace) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let (id, namespace) = (id.to_owned(), namespace.to_owned());
        catalog.set(ServiceRecord {
            id,
            namespace,
            ..Default::default()
        });
    }
    catalog.set_bad("d", "timeout", "is bad");
    let filter = ServiceFilter {
        namespace: Some("x".to_owned()),
        ..Default::default()
    };
    let list = catalog.list_services(&filter).await.unwrap();
    assert_eq!(
        list.position,
        CatalogPosition {
            epoch: "0".to_owned(),
            revision: 4
        }
    );
    let ids: Vec<_> = list
        .services
        .iter()
        .flatten()
        .map(|r| r.id.as_str())
        .collect();
    assert_eq!((ids, list.services.len()), (vec!["a", "c"], 3));
}

#[tokio::test(start_paused = true)]
async fn a_stream_tells_what_changed_after_its_position_and_then_that_it_caught_up() {
    let catalog = FakeCatalog::new();
    let service = |id: &str| ServiceRecord {
        id: id.to_owned(),
        ..Default::default()
    };
    catalog.set(service("a"));
    let start = catalog.position();
    catalog.set(service("a"));
    catalog.set(service("b"));
    catalog.remove("a");
    let mut stream = catalog.subscribe(Some(&start)).await.unwrap();
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(stream.next().await.unwrap().unwrap().kind);
    }
    let id = |id: &str| CatalogServiceId::parse(id).unwrap();
    assert_eq!(
        told,
        [
            EventKind::Updated(id("a")),
            EventKind::Registered(id("b")),
            EventKind::Deregistered(id("a")),
            EventKind::Bookmark,
        ]
    );
    catalog.new_epoch();
    let reset = stream.next().await.unwrap().unwrap();
    assert!(matches!(reset.kind, EventKind::Reset { .. }), "{reset:?}");
    catalog.cut_streams();
    assert!(stream.next().await.is_none());
}
