//! A server on loopback that answers each request as a test says, well or ill.
#![allow(dead_code, reason = "each test uses its part of it")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What the server does with a request.
pub(crate) enum Reply {
    /// These bytes, and the end of the connection.
    Bytes(Vec<u8>),
    /// One byte every 50 ms: twenty times the speed of the slowest attack,
    /// against a deadline that is shorter in proportion.
    Drip(Vec<u8>),
    /// This head, and then a GiB.
    Flood(String),
    /// These bytes, and then nothing for an hour.
    Hold(Vec<u8>),
}

pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Bytes(
        // Said, for a client that wanted to go on with the connection would meet
        // its end.
        format!(
            "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into(),
    )
}

pub(crate) fn json(body: &str) -> Reply {
    answer("200 OK", "Content-Type: application/json\r\n", body)
}

pub(crate) fn problem(status: &str, headers: &str, detail: &str) -> Reply {
    let code: u16 = status[..3].parse().unwrap();
    let body = format!(
        r#"{{"type":"about:blank","title":"A title","status":{code},"detail":"{detail}"}}"#
    );
    answer(
        status,
        &format!("{headers}Content-Type: application/problem+json\r\n"),
        &body,
    )
}

pub(crate) struct Site {
    pub(crate) address: SocketAddr,
    /// Head and body of each request.
    requests: Arc<Mutex<Vec<String>>>,
    /// Bytes of a flood that the kernel took.
    pub(crate) flooded: Arc<AtomicU64>,
}

impl Site {
    /// Serves on a free port; `reply` is given the number of the request and
    /// the request.
    pub(crate) async fn serve(
        reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::serve_on(listener, reply)
    }

    pub(crate) fn serve_on(
        listener: TcpListener,
        reply: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let site = Site {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            flooded: Arc::default(),
        };
        let (requests, flooded) = (site.requests.clone(), site.flooded.clone());
        let reply = Arc::new(reply);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (requests, flooded, reply) = (requests.clone(), flooded.clone(), reply.clone());
                tokio::spawn(async move {
                    let Some(request) = read_request(&mut stream).await else {
                        return;
                    };
                    let number = {
                        let mut requests = requests.lock().unwrap();
                        requests.push(request.clone());
                        requests.len() - 1
                    };
                    // The client may hang up at any point.
                    let _ = write_reply(&mut stream, reply(number, &request), &flooded).await;
                });
            }
        });
        site
    }

    pub(crate) async fn always(
        status: &'static str,
        headers: &'static str,
        body: &'static str,
    ) -> Self {
        Self::serve(move |_, _| answer(status, headers, body)).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

pub(crate) async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = header(head, "content-length").map_or(0, |l| l.parse().unwrap());
            if body.len() >= length {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

pub(crate) async fn write_reply(
    stream: &mut TcpStream,
    reply: Reply,
    flooded: &AtomicU64,
) -> std::io::Result<()> {
    match reply {
        Reply::Bytes(bytes) => stream.write_all(&bytes).await,
        Reply::Hold(bytes) => {
            stream.write_all(&bytes).await?;
            tokio::time::sleep(Duration::from_secs(3600)).await;
            Ok(())
        }
        Reply::Drip(bytes) => {
            for byte in bytes {
                stream.write_all(&[byte]).await?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        }
        Reply::Flood(head) => {
            stream.write_all(head.as_bytes()).await?;
            let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
            for _ in 0..0x1_0000 {
                stream.write_all(chunk.as_bytes()).await?;
                flooded.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            Ok(())
        }
    }
}

pub(crate) fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let named = |line: &&str| {
        line.split_once(':')
            .is_some_and(|(n, _)| n.eq_ignore_ascii_case(name))
    };
    request
        .lines()
        .take_while(|l| !l.is_empty())
        .find(named)?
        .split_once(':')
        .map(|p| p.1.trim())
}
