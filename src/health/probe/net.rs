//! Asks an endpoint over the network: one GET, of whose answer the head is
//! read and nothing but its class is kept.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::answer::{self, End};
use super::body::{self, Rest};
use super::head::{self, Body, Head};
use super::stream::{Stream, connect};
use super::tls::{self, Identity, MeshTls};
use super::{Outcome, Probe};
use crate::domain::health::judge::{Answer, Failure, Unknown};
use crate::health::target::{Check, Peer, Scheme};

/// How long the rest of an answer, or its end, is waited for.
const SETTLES: Duration = Duration::from_millis(100);
/// How a TLS peer begins to say that it was not spoken to in TLS.
const TLS_ALERT: &[u8] = &[0x15, 0x03];
/// The status of a server that closes an idle connection and says so.
const REQUEST_TIMEOUT: u16 = 408;

/// Asks over the network. Cloning shares it.
#[derive(Clone)]
pub(in crate::health) struct NetProbe {
    shared: Arc<Shared>,
}

struct Shared {
    encrypting: Arc<ClientConfig>,
    mesh: MeshTls,
}

/// A connection between two checks.
pub(in crate::health) struct Kept {
    stream: Stream,
    /// The number of the certificate that it was made with.
    identity: Option<u64>,
}

/// What an exchange came to.
struct Reply {
    /// The head of the answer, and the connection that it came over.
    head: Result<(Head, Stream), End>,
    /// What was read beside the head, or without one.
    read: Vec<u8>,
}

impl Reply {
    /// Whether the connection was closed before any answer.
    fn is_closed(&self) -> bool {
        let closed = matches!(self.head, Err(End::Failed(Failure::Closed)));
        closed && self.read.is_empty()
    }

    /// Whether the server had closed the connection when it was asked again.
    fn was_closed_while_idle(&self) -> bool {
        let says_so = matches!(&self.head, Ok((head, _)) if head.status == REQUEST_TIMEOUT);
        says_so || self.is_closed()
    }
}

impl NetProbe {
    /// One that shows the workload certificate of this folder in the mesh.
    pub(in crate::health) fn new(folder: Option<PathBuf>) -> Result<Self, rustls::Error> {
        let shared = Shared {
            encrypting: tls::encrypting()?,
            mesh: MeshTls::new(folder),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Connects as the scheme says.
    async fn open(
        &self,
        check: &Check,
        address: SocketAddr,
        identity: Option<&Identity>,
        deadline: Instant,
    ) -> Result<Stream, End> {
        let bare = timeout_at(deadline, connect(address)).await;
        let bare = bare.map_err(|_| Failure::ConnectTimedOut)?;
        let bare = bare.map_err(|error| answer::connecting(&error))?;
        if check.ask.scheme == Scheme::Http {
            return Ok(Stream::Bare(bare));
        }
        // Boxed: a handshake is large, and most checks need none.
        Box::pin(self.encrypt(check, address, identity, bare, deadline)).await
    }

    /// Speaks TLS over the connection, as the scheme says.
    async fn encrypt(
        &self,
        check: &Check,
        address: SocketAddr,
        identity: Option<&Identity>,
        bare: TcpStream,
        deadline: Instant,
    ) -> Result<Stream, End> {
        let (config, name, peer) = match (&check.ask.scheme, identity) {
            (Scheme::Mtls(_), None) => return Err(End::Unknown(Unknown::NoCertificate)),
            (Scheme::Mtls(peer), Some(identity)) => {
                (&identity.config, address.ip().into(), Some(peer))
            }
            _ => {
                let name = server_name(&check.ask.host, address);
                (&self.shared.encrypting, name, None)
            }
        };
        let handshake = TlsConnector::from(Arc::clone(config)).connect(name, bare);
        let stream = timeout_at(deadline, handshake)
            .await
            .map_err(|_| Failure::TimedOut)?;
        let stream = stream.map_err(|error| answer::handshaking(&error))?;
        let certificates = stream.get_ref().1.peer_certificates();
        let own = certificates.and_then(|certificates| certificates.first());
        let is = |peer: &Peer| own.is_some_and(|own| tls::is_of(own, peer));
        if peer.is_some_and(|peer| !is(peer)) {
            return Err(Failure::WrongPeer.into());
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// The answer, when it was there, and a connection that can be used again.
    async fn ask(
        &self,
        check: &Check,
        address: SocketAddr,
        kept: Option<Kept>,
        deadline: Instant,
    ) -> (Result<Answer, End>, Instant, Option<Kept>) {
        let identity = match check.ask.scheme {
            Scheme::Mtls(_) => {
                match timeout_at(deadline, Box::pin(self.shared.mesh.identity())).await {
                    Ok(Some(identity)) => Some(identity),
                    Ok(None) => {
                        return (
                            Err(End::Unknown(Unknown::NoCertificate)),
                            Instant::now(),
                            None,
                        );
                    }
                    Err(_) => return (Err(End::Own), Instant::now(), None),
                }
            }
            Scheme::Http | Scheme::Https => None,
        };
        let number = identity.as_ref().map(|identity| identity.number);
        if let Some(Kept {
            mut stream,
            identity,
        }) = kept
            && identity == number
            && stream.is_quiet()
        {
            let reply = exchange(stream, &check.request(), deadline).await;
            if !reply.was_closed_while_idle() {
                return settle(check, number, reply, deadline).await;
            }
        }
        let opened = self.open(check, address, identity.as_ref(), deadline);
        let mut reply = match opened.await {
            Ok(stream) => exchange(stream, &check.request(), deadline).await,
            Err(end) => Reply {
                head: Err(end),
                read: Vec::new(),
            },
        };
        if check.ask.scheme == Scheme::Http
            && (reply.read.starts_with(TLS_ALERT)
                || (reply.is_closed() && Box::pin(speaks_tls(address, deadline)).await))
        {
            reply.head = Err(End::Unknown(Unknown::MtlsRequired));
        }
        settle(check, number, reply, deadline).await
    }
}

impl Probe for NetProbe {
    type Kept = Kept;

    async fn probe(
        &self,
        check: Arc<Check>,
        address: SocketAddr,
        kept: Option<Kept>,
    ) -> Outcome<Kept> {
        let began = Instant::now();
        let deadline = began + check.ask.timeout;
        let (answer, at, kept) = self.ask(&check, address, kept, deadline).await;
        Outcome {
            answer: answer.map_or_else(Into::into, Ok),
            took: at - began,
            kept,
        }
    }
}

/// Sends the request and reads the head of the answer.
async fn exchange(mut stream: Stream, request: &[u8], deadline: Instant) -> Reply {
    let mut read = Vec::new();
    let head = timeout_at(deadline, head_of_answer(&mut stream, request, &mut read)).await;
    let head = head.unwrap_or_else(|_| Err(Failure::TimedOut.into()));
    Reply {
        head: head.map(|head| (head, stream)),
        read,
    }
}

async fn head_of_answer(
    stream: &mut Stream,
    request: &[u8],
    read: &mut Vec<u8>,
) -> Result<Head, End> {
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    sent.await.map_err(|error| answer::talking(&error))?;
    let mut begin = 0;
    let mut looked = 0;
    loop {
        if read.len() >= head::MOST {
            return Err(Failure::NotHttp.into());
        }
        read.reserve(1024);
        let more = (&mut *stream)
            .take((head::MOST - read.len()) as u64)
            .read_buf(read)
            .await;
        if more.map_err(|error| answer::talking(&error))? == 0 {
            return Err(Failure::Closed.into());
        }
        while let Some(head) = head::parse(&read[begin..], looked)? {
            let is_interim = (100..=199).contains(&head.status) && head.status != 101;
            begin += head.length;
            looked = 0;
            if !is_interim {
                read.drain(..begin);
                return Ok(head);
            }
        }
        looked = read.len() - begin;
    }
}

/// Says what the answer is, and sees whether the connection can be kept.
async fn settle(
    check: &Check,
    identity: Option<u64>,
    reply: Reply,
    deadline: Instant,
) -> (Result<Answer, End>, Instant, Option<Kept>) {
    let at = Instant::now();
    let (head, mut stream) = match reply.head {
        Ok(came) => came,
        Err(end) => return (Err(end), at, None),
    };
    let until = deadline.min(at + SETTLES);
    let keeps = check.keeps();
    // Where it is not kept, the server has been asked to close it: who closes
    // first is the one who remembers it for a minute.
    let body = if keeps { head.body } else { Body::Closes };
    let over = rest_of_answer(&mut stream, body, !keeps, reply.read);
    let over = timeout_at(until, over).await.unwrap_or(false);
    let kept = (keeps && over).then_some(Kept { stream, identity });
    (Ok(answer::of_status(head.status)), at, kept)
}

/// Reads on to the end of the answer, if that is near: whether it is there.
async fn rest_of_answer(
    stream: &mut Stream,
    body: Body,
    to_close: bool,
    mut read: Vec<u8>,
) -> bool {
    loop {
        match body::rest(body, &read) {
            Rest::Over => return true,
            Rest::Lost if !to_close => return false,
            Rest::Lost | Rest::More => {}
        }
        if read.len() > body::MOST {
            return false;
        }
        read.reserve(512);
        let most = (body::MOST + 1 - read.len()) as u64;
        match (&mut *stream).take(most).read_buf(&mut read).await {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
}

/// Whether whoever closed a bare connection speaks TLS: then the mesh demands
/// it, most likely.
async fn speaks_tls(address: SocketAddr, deadline: Instant) -> bool {
    let heard = Arc::new(AtomicBool::new(false));
    let Ok(config) = tls::listening(&heard) else {
        return false;
    };
    let handshake = async {
        let stream = connect(address).await?;
        TlsConnector::from(config)
            .connect(address.ip().into(), stream)
            .await
    };
    let said = match timeout_at(deadline, handshake).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => answer::is_of_tls(&error),
        Err(_) => false,
    };
    said || heard.load(Ordering::Relaxed)
}

/// What the server is told that it is called: what the request says, where
/// that can be a name.
fn server_name(host: &str, address: SocketAddr) -> ServerName<'static> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    ServerName::try_from(name.to_owned()).unwrap_or_else(|_| address.ip().into())
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures::check;
    use super::*;

    #[test]
    fn a_check_under_way_takes_little_memory() {
        let check = Arc::new(check());
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let probe = NetProbe::new(None).unwrap();
        let under_way = probe.probe(check, address, None);
        let size = size_of_val(&under_way);
        assert!(size <= 1536, "{size}");
    }
}
