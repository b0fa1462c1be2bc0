//! What endpoints send without an end does not fill the memory of who checks
//! them. Alone in its process, whose memory is measured.
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use catalog_mesh_controller::domain::health::judge::Thresholds;
use catalog_mesh_controller::domain::names::{Namespace, ServiceKey, ServiceName};
use catalog_mesh_controller::health::prober::Limits;
use catalog_mesh_controller::health::target::{Ask, Check, Scheme, ServiceTargets, Targets};
use catalog_mesh_controller::metrics::Metrics;
use tokio::time::{sleep, timeout};

/// Endpoints that flood, each anew at every check.
const ENDPOINTS: usize = 60;
const INTERVAL: Duration = Duration::from_millis(200);
/// Most that the process may grow by.
const MOST_GROWTH: usize = 10 << 20;

/// What is sent first, and then over and over.
const FLOODS: [(&str, &str); 6] = [
    (
        "HTTP/1.1 200 OK\r\n",
        "X-Header: of some length, again and again\r\n",
    ),
    (
        "HTTP/1.1 200 OK\r\nX: ",
        "one header line that does not end ",
    ),
    (
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        "a body that does not end ",
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n",
    ),
    ("\0\u{1}\u{2}", "\0\u{1}\u{2}\u{3}"),
];

fn flooding(first: &'static str, then: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let more = then.repeat(1000);
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 256]);
            let _ = stream.write_all(first.as_bytes());
            while stream.write_all(more.as_bytes()).is_ok() {}
        }
    });
    address
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_do_not_fill_the_memory_of_who_checks() {
    let peers = FLOODS.iter().cycle().take(ENDPOINTS);
    let endpoints: BTreeSet<_> = peers.map(|(first, then)| flooding(first, then)).collect();
    let check = Check {
        ask: Ask {
            scheme: Scheme::Http,
            path: "/health".to_owned(),
            host: "web.shop".to_owned(),
            timeout: INTERVAL,
        },
        thresholds: Thresholds {
            failures: 3,
            successes: 2,
            interval: INTERVAL,
            confirm: INTERVAL,
        },
    };
    let key = ServiceKey {
        namespace: Namespace::parse("shop").unwrap(),
        name: ServiceName::parse("web").unwrap(),
    };
    let metrics = Metrics::new().unwrap();
    let started =
        catalog_mesh_controller::health::start(Limits::default(), None, metrics.health.clone());
    let (prober, view, run) = started.unwrap();
    let task = tokio::spawn(run);
    prober.set(Targets::from([(
        key.clone(),
        ServiceTargets { check, endpoints },
    )]));
    let checked = || {
        let text = metrics.exposition().unwrap();
        let series = "catalog_mesh_health_check_duration_seconds_count ";
        let value = text.lines().find_map(|line| line.strip_prefix(series));
        value.unwrap().parse::<usize>().unwrap()
    };
    let rounds = async |rounds: usize| {
        let made = async {
            while checked() < rounds * ENDPOINTS {
                sleep(INTERVAL).await;
            }
        };
        let made = timeout(Duration::from_secs(120), made).await;
        assert!(made.is_ok(), "{} checks", checked());
    };
    // All of them once, so that whatever is allocated once is.
    rounds(3).await;
    let before = resident();
    rounds(15).await;
    let grown = resident().saturating_sub(before);
    assert!(grown <= MOST_GROWTH, "{} KiB", grown / 1024);
    let counts = view.service(&key).unwrap().counts;
    assert_eq!(counts.total as usize, ENDPOINTS);
    task.abort();
}
