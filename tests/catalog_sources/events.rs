//! Following the catalog.

use std::collections::BTreeSet;
use std::time::Duration;

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::error::CatalogError;
use catalog_mesh_controller::catalog::event::{CatalogEvent, EventKind, EventStream};
use catalog_mesh_controller::catalog::report::{HealthReport, ReportedHealth, WriterPosition};
use catalog_mesh_controller::domain::record::CatalogPosition;
use futures::StreamExt as _;
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::server;
use crate::source::{LIMIT, Source, id};

over_both!(
    each_change_is_an_event_in_the_order_of_the_revisions,
    a_stream_goes_on_after_its_position,
    a_stream_without_a_position_begins_at_the_present,
    a_position_that_cannot_be_resumed_is_a_reset_to_the_present,
    a_new_epoch_resets_a_stream_that_is_open,
    a_silent_catalog_sends_bookmarks,
    changes_of_many_writers_arrive_each_and_in_order,
);

#[tokio::test]
async fn a_stream_that_the_database_cuts_is_resumed_without_loss() {
    a_stream_that_was_cut_is_resumed_without_loss(Source::database().await).await;
}

/// Far less than the second between two looks of a stream that nothing wakes.
const WOKEN: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_notification_wakes_a_stream_well_before_its_next_look() {
    let took = waits(&Source::database().await, 10).await;
    assert!(took[5] < WOKEN, "{took:?}");
}

#[tokio::test]
async fn an_event_whose_notification_is_lost_is_found_by_the_next_look() {
    let source = Source::database().await;
    let swallow = "ALTER TABLE catalog_state DISABLE TRIGGER catalog_moved";
    source.database.execute(swallow).await;
    let took = waits(&source, 3).await;
    assert!(took[1] > WOKEN, "something woke it: {took:?}");
}

/// How long it takes until a change is an event, for each of so many, the
/// shortest first.
async fn waits(source: &Source, count: usize) -> Vec<Duration> {
    let mut stream = follow(source, None).await;
    next(&mut stream).await.unwrap().unwrap();
    let mut took = Vec::new();
    for n in 0..count {
        source
            .put("a", json!({ "timeout": format!("{}s", n + 1) }))
            .await;
        let since = Instant::now();
        change(&mut stream).await;
        took.push(since.elapsed());
    }
    took.sort();
    took
}

/// Somebody moved the revision by hand, or deleted events and no more.
#[tokio::test]
async fn a_revision_whose_event_is_missing_is_a_reset_and_not_waited_for() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    for open in [true, false] {
        let before = source.position().await;
        let mut opened = None;
        if open {
            let mut stream = follow(&source, None).await;
            next(&mut stream).await.unwrap().unwrap();
            opened = Some(stream);
        }
        let skip = "UPDATE catalog_state SET revision = revision + 1";
        source.database.execute(skip).await;
        let mut stream = match opened {
            Some(stream) => stream,
            None => follow(&source, Some(&before)).await,
        };
        let event = timeout(LIMIT, change(&mut stream)).await.expect("a reset");
        assert!(matches!(event.kind, EventKind::Reset { .. }), "{event:?}");
        assert_eq!(event.position, source.position().await);
        source.put("a", json!({ "timeout": "1s" })).await;
        let event = timeout(LIMIT, change(&mut stream)).await.expect("an event");
        assert_eq!(event.kind, EventKind::Updated(id("a")));
    }
}

#[tokio::test]
async fn of_an_event_no_more_is_read_than_it_may_have() {
    let source = Source::database().await;
    source.put("a", json!({})).await;
    let before = source.position().await;
    report(&source, 1, ReportedHealth::Healthy).await;
    let long =
        "UPDATE events SET data = left(data, -1) || ',\"x\":\"' || repeat('x', 2000000) || '\"}'
                WHERE type = 'HealthChanged'";
    source.database.execute(long).await;
    let mut stream = follow(&source, Some(&before)).await;
    let health = EventKind::HealthChanged {
        id: id("a"),
        writer: None,
    };
    assert_eq!(change(&mut stream).await.kind, health);
}

/// It is the server of the API that ends its streams; what happens to its own
/// connections does not concern us.
#[tokio::test]
async fn a_stream_that_the_api_ends_is_resumed_without_loss() {
    let source = Source::api_with(&["--stream-age", "1s"]);
    a_stream_that_was_cut_is_resumed_without_loss(source).await;
}

/// What the stream says next.
pub(crate) async fn next(stream: &mut EventStream) -> Option<Result<CatalogEvent, CatalogError>> {
    let next = timeout(LIMIT, stream.next()).await;
    next.expect("an event should have come")
}

/// The next event that is no bookmark.
async fn change(stream: &mut EventStream) -> CatalogEvent {
    loop {
        let event = next(stream).await.expect("no end").expect("no failure");
        if event.kind != EventKind::Bookmark {
            return event;
        }
    }
}

async fn follow(source: &Source, after: Option<&CatalogPosition>) -> EventStream {
    source.catalog.subscribe(after).await.unwrap()
}

async fn report(source: &Source, sequence: u64, health: ReportedHealth) -> WriterPosition {
    let writer = WriterPosition {
        cluster: "c".to_owned(),
        epoch: 4,
        sequence,
    };
    let report = HealthReport {
        service_id: "a".to_owned(),
        health,
        healthy: 1,
        total: 1,
    };
    let outcomes = source.catalog.report_health(&writer, &[report]).await;
    assert_eq!(outcomes.unwrap().len(), 1);
    writer
}

async fn each_change_is_an_event_in_the_order_of_the_revisions(source: Source) {
    let before = source.position().await;
    let mut stream = follow(&source, Some(&before)).await;
    source.put("a", json!({})).await;
    source.put("a", json!({ "timeout": "1s" })).await;
    let writer = report(&source, 1, ReportedHealth::Healthy).await;
    // The same health again is no change.
    report(&source, 2, ReportedHealth::Healthy).await;
    source.delete("a").await;
    let health = EventKind::HealthChanged {
        id: id("a"),
        writer: Some(writer),
    };
    let expected = [
        EventKind::Registered(id("a")),
        EventKind::Updated(id("a")),
        health,
        EventKind::Deregistered(id("a")),
    ];
    for (number, kind) in (1..).zip(expected) {
        let position = CatalogPosition {
            epoch: before.epoch.clone(),
            revision: before.revision + number,
        };
        assert_eq!(change(&mut stream).await, CatalogEvent { position, kind });
    }
}

async fn a_stream_goes_on_after_its_position(source: Source) {
    let before = source.position().await;
    for name in ["a", "b", "c"] {
        source.put(name, json!({})).await;
    }
    let mut stream = follow(&source, Some(&before)).await;
    let first = change(&mut stream).await;
    assert_eq!(first.kind, EventKind::Registered(id("a")));
    drop(stream);
    let mut stream = follow(&source, Some(&first.position)).await;
    for name in ["b", "c"] {
        let event = change(&mut stream).await;
        assert_eq!(event.kind, EventKind::Registered(id(name)));
    }
}

async fn a_stream_without_a_position_begins_at_the_present(source: Source) {
    source.put("a", json!({})).await;
    let mut stream = follow(&source, None).await;
    let bookmark = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(bookmark.kind, EventKind::Bookmark);
    assert_eq!(bookmark.position, source.position().await);
    source.put("b", json!({})).await;
    let event = change(&mut stream).await;
    assert_eq!(event.kind, EventKind::Registered(id("b")));
}

async fn a_position_that_cannot_be_resumed_is_a_reset_to_the_present(source: Source) {
    let old = source.position().await;
    for name in ["a", "b", "c"] {
        source.put(name, json!({})).await;
    }
    // What the server does when its retention passes.
    let forget = "DELETE FROM events WHERE revision <= (SELECT revision - 1 FROM catalog_state);
                  UPDATE catalog_state SET floor = revision - 1;";
    source.database.execute(forget).await;
    let now = source.position().await;
    let at = |epoch: &str, revision| CatalogPosition {
        epoch: epoch.to_owned(),
        revision,
    };
    for (position, why) in [
        (old, "floor"),
        (at("other", now.revision), "epoch"),
        (at(&now.epoch, now.revision + 1), "ahead"),
        (at(&now.epoch, u64::MAX), ""),
    ] {
        let mut stream = follow(&source, Some(&position)).await;
        let event = next(&mut stream).await.unwrap().unwrap();
        assert_eq!(event.position, now);
        let EventKind::Reset { reason } = event.kind else {
            panic!("{event:?}")
        };
        assert!(reason.contains(why), "{reason}");
    }
    let floor = at(&now.epoch, now.revision - 1);
    let mut stream = follow(&source, Some(&floor)).await;
    let event = change(&mut stream).await;
    assert_eq!(event.kind, EventKind::Registered(id("c")));
}

async fn a_new_epoch_resets_a_stream_that_is_open(source: Source) {
    source.put("a", json!({})).await;
    let mut stream = follow(&source, None).await;
    next(&mut stream).await.unwrap().unwrap();
    source.database.command("restore-epoch");
    let event = change(&mut stream).await;
    assert!(matches!(event.kind, EventKind::Reset { .. }), "{event:?}");
    assert_eq!(event.position, source.position().await);
    source.put("a", json!({ "timeout": "1s" })).await;
    let event = change(&mut stream).await;
    assert_eq!(event.kind, EventKind::Updated(id("a")));
}

async fn a_silent_catalog_sends_bookmarks(source: Source) {
    let mut stream = follow(&source, None).await;
    for _ in 0..2 {
        let silence = timeout(Duration::from_secs(11), stream.next()).await;
        let event = silence.expect("at most 10 s").unwrap().unwrap();
        assert_eq!(event.kind, EventKind::Bookmark);
        assert_eq!(event.position, source.position().await);
    }
}

const WRITERS: u64 = 8;
const CHANGES: u64 = 2_000;

async fn changes_of_many_writers_arrive_each_and_in_order(source: Source) {
    // A second server, so that not one process puts the writers in order.
    let servers = [source.database.serve(&[]), source.database.serve(&[])];
    let before = source.position().await;
    let last = before.revision + CHANGES;
    let write = async |server: &server::Catalog, writer: u64| {
        for n in 0..CHANGES / WRITERS {
            let path = format!("/api/v1/services/w{writer}-{}", n % 7);
            let body =
                json!({ "name": "svc", "namespace": "ns", "timeout": format!("{}ms", n + 1) });
            let method = if n % 10 == 9 {
                Method::DELETE
            } else {
                Method::PUT
            };
            let (status, answer) = server.call(method, &path, &body).await;
            assert!(status.is_success(), "{status} {answer}");
        }
    };
    let writers = (0..WRITERS).map(|writer| {
        let server = &servers[usize::try_from(writer % 2).unwrap()];
        write(server, writer)
    });
    // Each stream is left after a while, to be resumed in the thick of it.
    let follow = async {
        let (mut seen, mut kinds) = (Vec::new(), BTreeSet::new());
        let mut position = before.clone();
        loop {
            let mut stream = follow(&source, Some(&position)).await;
            for _ in 0..300 {
                let event = change(&mut stream).await;
                position = event.position;
                seen.push(position.revision);
                kinds.insert(
                    format!("{:?}", event.kind)
                        .split('(')
                        .next()
                        .unwrap()
                        .to_owned(),
                );
                if position.revision >= last {
                    return (seen, kinds);
                }
            }
        }
    };
    let (_, (seen, kinds)) = tokio::join!(futures::future::join_all(writers), follow);
    let expected: Vec<_> = (before.revision + 1..=last).collect();
    assert!(seen == expected, "revisions were lost or out of order");
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}

async fn a_stream_that_was_cut_is_resumed_without_loss(source: Source) {
    let before = source.position().await;
    let mut position = before.clone();
    let mut seen = 0;
    for round in 0..3 {
        let mut stream = follow(&source, Some(&position)).await;
        source.put(&format!("a{round}"), json!({})).await;
        let event = change(&mut stream).await;
        position = event.position;
        seen += 1;
        assert_eq!(position.revision, before.revision + seen);
        source.cut().await;
        // What is written while it is cut must not be lost.
        source.put(&format!("b{round}"), json!({})).await;
        loop {
            match next(&mut stream).await {
                Some(Ok(event)) if event.kind == EventKind::Bookmark => {}
                Some(Ok(event)) => {
                    position = event.position;
                    seen += 1;
                    assert_eq!(position.revision, before.revision + seen);
                }
                Some(Err(error)) => {
                    let lost = matches!(error, CatalogError::Unavailable { .. });
                    assert!(lost, "{error}");
                }
                None => break,
            }
        }
    }
    let mut stream = follow(&source, Some(&position)).await;
    let now = source.position().await;
    while seen < now.revision - before.revision {
        let event = change(&mut stream).await;
        seen += 1;
        assert_eq!(event.position.revision, before.revision + seen);
    }
    assert_eq!(seen, 6);
}
