//! Whatever an endpoint answers, it is put in its class, and nothing more comes
//! of it.

use std::time::Duration;

use catalog_mesh_controller::domain::health::judge::Failure;
use catalog_mesh_controller::domain::health::judge::Failure::Refused;
use catalog_mesh_controller::health::target::Scheme;
use tokio::net::{TcpListener, TcpSocket};

use crate::answers::{OK, TOKEN, bad, cases};
use crate::bed::{Bed, check, key};
use crate::peer::Peer;

/// Runs the table by an interval, over and under that by which connections are
/// kept.
async fn run_the_table(interval_ms: u64) {
    let canary = Peer::answering(OK).await;
    let cases = cases(&canary.address.to_string());
    assert!(cases.len() >= 100, "{}", cases.len());
    let mut peers = Vec::new();
    for (_, steps, _) in &cases {
        peers.push(Peer::new(steps.clone()).await);
    }
    let bed = Bed::new(None);
    bed.check(
        check(Scheme::Http, interval_ms),
        peers.iter().map(|peer| peer.address),
    );
    for ((name, _, expected), peer) in cases.iter().zip(&peers) {
        assert_eq!(bed.judged(peer.address).await, *expected, "{name}");
    }
    // Once more round: what a first answer left behind decides nothing.
    tokio::time::sleep(Duration::from_millis(interval_ms + 1500)).await;
    for ((name, _, expected), peer) in cases.iter().zip(&peers) {
        assert_eq!(bed.verdict(peer.address), *expected, "again: {name}");
        assert!(peer.connections() > 0, "{name}");
    }
    assert_eq!(canary.connections(), 0);
    let shown = format!("{:?}", bed.view.service(&key()));
    assert!(!shown.contains(TOKEN) && !bed.metrics.exposition().unwrap().contains(TOKEN));
    assert_eq!(bed.view.held(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_put_in_its_class_where_connections_are_kept() {
    run_the_table(1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_put_in_its_class_where_connections_are_closed() {
    run_the_table(5000).await;
}

#[tokio::test]
async fn whoever_does_not_listen_refuses_and_whoever_does_not_accept_lets_time_out() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    // A queue of one that is full: a connection comes about in nobody's time.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let full_address = full.local_addr().unwrap();
    let connect = || tokio::net::TcpStream::connect(full_address);
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), connect()).await {
        waiting.push(stream.unwrap());
    }
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 1000), [closed, full_address]);
    bed.is(closed, bad(Refused)).await;
    bed.is(full_address, bad(Failure::ConnectTimedOut)).await;
}
