//! The operator's follower on the real server: whatever happens to its
//! connection, in the end it knows what the catalog holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use catalog_mesh_controller::catalog::Catalog as _;
use catalog_mesh_controller::catalog::client::HttpCatalogConfig;
use catalog_mesh_controller::catalog::credentials::{AccessConfig, ApiUrl};
use catalog_mesh_controller::catalog::follow::Follower;
use catalog_mesh_controller::catalog::http::HttpCatalog;
use catalog_mesh_controller::catalog::known::Known;
use catalog_mesh_controller::domain::record::{ServiceFilter, ServiceRecord};
use catalog_mesh_controller::metrics::Metrics;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Catalog, Database, LIMIT};

const WRITERS: u64 = 8;
const CHANGES: u64 = 2_000;

/// A way to the server that is cut every now and then: every connection at
/// once, wherever it is.
async fn cut_way(server: &str, cuts: tokio::sync::watch::Receiver<u64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = server.trim_start_matches("http://").to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, mut cuts) = (server.clone(), cuts.clone());
            tokio::spawn(async move {
                cuts.mark_unchanged();
                let mut server = TcpStream::connect(server).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {}
                    _ = cuts.changed() => {}
                }
            });
        }
    });
    url
}

async fn write(server: &Catalog, writer: u64) {
    for n in 0..CHANGES / WRITERS {
        let path = format!("/api/v1/services/w{writer}-{}", n % 7);
        if n % 10 == 9 {
            server.call(Method::DELETE, &path, &Value::Null).await;
            continue;
        }
        let body = json!({ "name": "svc", "namespace": "ns", "timeout": format!("{}ms", n + 1) });
        let (status, record) = server.call(Method::PUT, &path, &body).await;
        assert!(status.is_success(), "{status} {record}");
    }
}

fn by_id(
    records: impl IntoIterator<Item = Arc<ServiceRecord>>,
) -> BTreeMap<String, Arc<ServiceRecord>> {
    let records = records.into_iter();
    records.map(|record| (record.id.clone(), record)).collect()
}

/// Follows a server over a way that is cut, while eight write.
/// Ends with the lists that it took since the stream could not be resumed, and
/// with the times at which one was opened.
async fn ends_in_what_the_catalog_holds(args: &[&str]) -> (u64, u64) {
    let database = Database::sqlite();
    let server = database.serve(args);
    let (cut, cuts) = tokio::sync::watch::channel(0);
    let config = |url: &str| {
        HttpCatalogConfig::new(AccessConfig {
            api_url: ApiUrl::Given(url.to_owned()),
            report_url_file: None,
            api_key_file: None,
            token_file: None,
        })
    };
    let direct = HttpCatalog::new(config(&server.url)).unwrap();
    let way = HttpCatalog::new(config(&cut_way(&server.url, cuts).await)).unwrap();
    let known = Arc::<Known>::default();
    let metrics = Metrics::new().unwrap();
    let follower = Follower::new(
        Arc::new(way),
        Arc::clone(&known),
        || None,
        metrics.catalog().clone(),
    );
    let follower = tokio::spawn(follower.run());

    let cutting = async {
        let mut millis = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(50 + millis % 400)).await;
            millis += 137;
            cut.send_modify(|n| *n += 1);
        }
    };
    let writing = join_all((0..WRITERS).map(|writer| write(&server, writer)));
    tokio::select! {
        _ = writing => {}
        () = cutting => {}
    }
    let list = direct
        .list_services(&ServiceFilter::default())
        .await
        .unwrap();
    let wanted = by_id(list.services.into_iter().map(|s| Arc::new(s.unwrap())));
    let quiet = std::time::Instant::now();
    let agrees = async {
        while !(known.is_live()
            && known.position().as_ref() == Some(&list.position)
            && by_id(known.records()) == wanted)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let agreed = tokio::time::timeout(LIMIT, agrees).await;
    follower.abort();
    let served = metrics.exposition().unwrap();
    let lines = served
        .lines()
        .filter(|line| line.contains("catalog_stream") || line.contains("_lists"));
    let said: Vec<_> = lines.filter(|line| !line.starts_with('#')).collect();
    assert!(
        agreed.is_ok(),
        "known at {:?}, live {}, wanted {}; {said:#?}",
        known.position(),
        known.is_live(),
        list.position
    );
    eprintln!(
        "agreed {:?} after the last change; {said:#?}",
        quiet.elapsed()
    );
    let count = |of: &str| {
        let line = said.iter().find(|line| line.starts_with(of));
        let count = line.and_then(|line| line.rsplit(' ').next());
        count.map_or(0, |count| count.parse().unwrap())
    };
    (
        count("catalog_mesh_catalog_lists_total{reason=\"reset\"}"),
        count("catalog_mesh_catalog_stream_connections_total"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_connection_is_cut_knows_in_the_end_what_the_catalog_holds() {
    let (resets, streams) = ends_in_what_the_catalog_holds(&[]).await;
    assert!(resets == 0 && streams > 1, "{resets} of {streams}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_does_one_that_is_behind_what_can_be_replayed_again_and_again() {
    let (resets, streams) = ends_in_what_the_catalog_holds(&["--retention-revisions", "20"]).await;
    assert!(resets > 0 && streams > 1, "{resets} of {streams}");
}
