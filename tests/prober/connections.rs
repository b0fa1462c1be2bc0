//! Connections: kept, closed, made anew, and to whom.

use std::time::Duration;

use catalog_mesh_controller::domain::health::judge::{Failure, Verdict};
use catalog_mesh_controller::health::target::{Scheme, Targets};
use tokio::time::sleep;

use crate::bed::{Bed, check};
use crate::peer::Peer;
use crate::peer::Step::{Hang, Read, Send, Wait};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn a_connection_is_kept_for_the_next_check_if_that_is_near() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let lost = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n{}",
        "x".repeat(9000)
    );
    let old = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let [plain, chunked] = [Peer::answering(OK).await, Peer::answering(chunked).await];
    let [lost, old] = [Peer::answering(&lost).await, Peer::answering(old).await];
    let bed = Bed::new(None);
    let peers = [&plain, &chunked, &lost, &old];
    bed.check(check(Scheme::Http, 50), peers.map(|peer| peer.address));
    while peers.iter().any(|peer| peer.requests() < 10) {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((plain.connections(), chunked.connections()), (1, 1));
    assert!(lost.connections() >= 10 && old.connections() >= 10);
    assert!(bed.metric("catalog_mesh_health_connections_kept") <= 2.0);
    for peer in peers {
        assert_eq!(bed.verdict(peer.address), Verdict::Healthy);
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_made_anew_and_is_no_failure() {
    // Closes after each answer, though it said nothing of it.
    let closes = Peer::new(vec![Read, Send(OK.into())]).await;
    // Closes when it is asked again.
    let late = Peer::new(vec![Read, Send(OK.into()), Read]).await;
    // Says that it waited for too long, and closes.
    let timeout = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    let says = Peer::new(vec![Read, Send(OK.into()), Wait(20), Send(timeout.into())]).await;
    // The same when it is asked again.
    let asks = Peer::new(vec![Read, Send(OK.into()), Read, Send(timeout.into())]).await;
    let peers = [&closes, &late, &says, &asks];
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 100), peers.map(|peer| peer.address));
    while peers.iter().any(|peer| peer.connections() < 10) {
        sleep(Duration::from_millis(10)).await;
    }
    for peer in peers {
        let endpoint = bed
            .view
            .endpoint(&crate::bed::key(), peer.address.into())
            .unwrap();
        assert_eq!(endpoint.verdict, Verdict::Healthy);
        assert_eq!((endpoint.last_failure, endpoint.history.len()), (None, 1));
    }
}

#[tokio::test]
async fn a_kept_connection_on_which_nobody_answers_any_more_is_a_failure() {
    let dies = Peer::new(vec![Read, Send(OK.into()), Hang]).await;
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 1000), [dies.address]);
    bed.is(dies.address, Verdict::Healthy).await;
    // One silence alone decides nothing, so that new ones are silent as well.
    dies.behave(vec![Read, Hang]);
    bed.is(dies.address, Verdict::Unhealthy(Failure::TimedOut))
        .await;
}

#[tokio::test]
async fn nobody_is_connected_to_who_is_not_among_the_targets() {
    let [one, two, canary] = [
        Peer::answering(OK).await,
        Peer::answering(OK).await,
        Peer::answering(OK).await,
    ];
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 50), [one.address, two.address]);
    bed.is(one.address, Verdict::Healthy).await;
    bed.is(two.address, Verdict::Healthy).await;
    bed.check(check(Scheme::Http, 50), [one.address]);
    sleep(Duration::from_millis(300)).await;
    let before = (one.requests(), two.requests());
    sleep(Duration::from_millis(500)).await;
    assert!(one.requests() > before.0);
    assert_eq!(two.requests(), before.1);
    bed.prober.set(Targets::new());
    sleep(Duration::from_millis(300)).await;
    let before = one.requests();
    sleep(Duration::from_millis(500)).await;
    assert_eq!((one.requests(), canary.connections()), (before, 0));
    assert_eq!(bed.metric("catalog_mesh_health_connections_kept"), 0.0);
}

#[tokio::test]
async fn an_address_of_ipv6_is_checked_like_any_other() {
    let steps = vec![Read, Send(OK.into())];
    let six = Peer::on("[::1]:0", steps).await;
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 1000), [six.address]);
    bed.is(six.address, Verdict::Healthy).await;
}

#[tokio::test]
async fn no_port_lingers_after_a_check_whose_connection_is_closed() {
    let peer = Peer::answering(OK).await;
    let bed = Bed::new(None);
    bed.check(check(Scheme::Http, 5000), [peer.address]);
    bed.is(peer.address, Verdict::Healthy).await;
    sleep(Duration::from_millis(300)).await;
    let port = format!(":{:04X}", peer.address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // Local and remote address, then the state: 06 is TIME_WAIT.
    let waits = |line: &&str| line.contains(&port) && line.split_whitespace().nth(3) == Some("06");
    assert_eq!(sockets.lines().find(waits), None);
}
