//! Servers that do what they are told to, and count who came.
#![allow(dead_code, reason = "each test uses its part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "the helpers of tests are tests, which clippy cannot tell"
)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// What a server does on a connection, one after the other.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Reads the head of a request.
    Read,
    /// Sends this.
    Send(Vec<u8>),
    /// Sends this over and over, as fast as it is taken, without an end.
    Flood(Vec<u8>),
    /// Sends this byte by byte, with so many milliseconds in between.
    Drip(Vec<u8>, u64),
    /// Waits so many milliseconds.
    Wait(u64),
    /// Leaves the connection open and says no more.
    Hang,
    /// Sends no more, but reads on.
    HalfClose,
    /// Breaks the connection off.
    Reset,
}

/// A server.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    steps: Arc<Mutex<Arc<[Step]>>>,
}

impl Peer {
    /// One that does this on every connection and closes it then.
    pub(crate) async fn new(steps: Vec<Step>) -> Self {
        Self::on("127.0.0.1:0", steps).await
    }

    /// One that answers every request on a connection with this.
    pub(crate) async fn answering(answer: &str) -> Self {
        let one = [Step::Read, Step::Send(answer.as_bytes().to_vec())];
        Self::new(one.iter().cycle().take(2_000).cloned().collect()).await
    }

    /// One that serves on this address.
    pub(crate) async fn on(address: &str, steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let peer = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            requests: Arc::default(),
            steps: Arc::new(Mutex::new(steps.into())),
        };
        let (connections, requests) = (peer.connections.clone(), peer.requests.clone());
        let steps = peer.steps.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let steps = steps.lock().unwrap().clone();
                tokio::spawn(serve(stream, steps, Arc::clone(&requests)));
            }
        });
        peer
    }

    /// Does this on every connection from now on.
    pub(crate) fn behave(&self, steps: Vec<Step>) {
        *self.steps.lock().unwrap() = steps.into();
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, steps: Arc<[Step]>, requests: Arc<AtomicUsize>) {
    for step in &*steps {
        if matches!(step, Step::Reset) {
            stream.set_zero_linger().unwrap();
            return;
        }
        if !take(&mut stream, step, &requests).await {
            return;
        }
    }
}

/// Does one step; false where the connection is over.
pub(crate) async fn take<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    step: &Step,
    requests: &AtomicUsize,
) -> bool {
    match step {
        Step::Read => {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => return false,
                }
            }
            requests.fetch_add(1, Ordering::SeqCst);
            true
        }
        Step::Send(bytes) => stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok(),
        Step::Flood(bytes) => {
            while stream.write_all(bytes).await.is_ok() {}
            false
        }
        Step::Drip(bytes, pause) => {
            for byte in bytes {
                if stream.write_u8(*byte).await.is_err() {
                    return false;
                }
                sleep(Duration::from_millis(*pause)).await;
            }
            true
        }
        Step::Wait(pause) => {
            sleep(Duration::from_millis(*pause)).await;
            true
        }
        Step::Hang => {
            // Until the other side has had enough.
            let mut rest = [0; 64];
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            false
        }
        Step::HalfClose => stream.shutdown().await.is_ok(),
        Step::Reset => false,
    }
}
