//! A listener that nobody may reach.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpListener;

use crate::targets::targets;

/// Listens on every address of the machine, and counts who comes.
pub(crate) struct Canary {
    pub(crate) port: u16,
    hits: Arc<AtomicUsize>,
}

impl Canary {
    pub(crate) async fn start() -> Self {
        // Of IPv6 it takes IPv4 too; a machine may have none.
        let six = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let four = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let listener = match TcpListener::bind(six).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind(four).await.unwrap(),
        };
        let port = listener.local_addr().unwrap().port();
        let hits = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&hits);
        tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { port, hits }
    }

    /// How many came so far.
    pub(crate) fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn the_listener_is_reached_by_whoever_tries() {
    let canary = Canary::start().await;
    for address in ["127.0.0.1", "127.9.9.9"] {
        tokio::net::TcpStream::connect((address, canary.port))
            .await
            .unwrap();
    }
    while canary.hits() < 2 {
        tokio::task::yield_now().await;
    }
    // Those of the corpus that name it do so.
    let port = canary.port.to_string();
    let naming = targets(canary.port)
        .into_iter()
        .filter(|text| text.contains(&port));
    assert!(naming.count() > 100);
}
