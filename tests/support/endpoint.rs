//! How does an endpoint fail? A small HTTP server on a Pod's address, which
//! answers with that address until it is made to fail as processes, networks
//! and programs do, also on the connections that are open by then.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::backend::PORT;
use super::pki::Pki;
use super::process::{Process, Spec};

/// The port on which an endpoint speaks TLS, where it is asked to.
pub const TLS_PORT: u16 = 8443;

/// The path of checks.
pub const HEALTH: &str = "/health";

/// Set for a process of this program that is to be nothing but an endpoint, to
/// its address.
const SERVE: &str = "CATALOG_MESH_RIG_ENDPOINT";

/// How long a connection is tried before it counts as dropped.
const DROPPED: Duration = Duration::from_millis(500);

/// Far more than fit into the shortest queue.
const MOST_CROWD: usize = 16;

/// Between two bytes of a slow answer.
const SLOW: Duration = Duration::from_secs(1);

/// How an endpoint fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// The process is gone: nobody listens, and open connections are closed.
    Refused,
    /// Connections are taken and broken off.
    Reset,
    /// Requests are read and never answered.
    Hang,
    /// The head of an answer comes one byte a second.
    SlowHead,
    /// Every request is answered so.
    Status(u16),
    /// What is answered is no HTTP.
    NoHttp,
    /// TLS does not come about any more; the plain port is well.
    BrokenTls,
    /// No connection comes about, and open ones are silent.
    HalfOpen,
    /// The process is stopped; the kernel goes on taking connections.
    Stopped,
    /// Checks are answered so, and all other requests as they should be.
    Checks(u16),
}

struct Shared {
    address: Ipv4Addr,
    trouble: watch::Sender<Option<Trouble>>,
    tls: Mutex<Option<TlsAcceptor>>,
    asked: Mutex<Vec<String>>,
}

/// A running endpoint. One in this process goes on when it is dropped, until
/// the run ends: many that vanish at once, as when a test ends, would look to
/// the operator as if it were cut off itself.
pub struct Endpoint {
    shared: Arc<Shared>,
    listeners: AsyncMutex<Vec<JoinHandle<()>>>,
    /// What fills the queue of a listener that takes nothing.
    crowd: AsyncMutex<Vec<TcpStream>>,
    /// The process that serves in place of this one.
    process: Option<Process>,
}

impl Endpoint {
    /// One in this process.
    pub async fn start(address: Ipv4Addr) -> Result<Self> {
        let endpoint = Self::new(address, None);
        endpoint.listen().await?;
        Ok(endpoint)
    }

    /// One that is a process of its own, and so can be [`Trouble::Stopped`]; it
    /// has no other trouble.
    pub async fn process(run: &Path, address: Ipv4Addr) -> Result<Self> {
        let me = std::env::current_exe()?;
        let process = Spec::new(format!("endpoint-{address}"), me, run)
            .env(SERVE, address.to_string())
            .spawn()?;
        process
            .ready(async || {
                TcpStream::connect((address, PORT)).await?;
                Ok(())
            })
            .await?;
        Ok(Self::new(address, Some(process)))
    }

    fn new(address: Ipv4Addr, process: Option<Process>) -> Self {
        Self {
            shared: Arc::new(Shared {
                address,
                trouble: watch::Sender::new(None),
                tls: Mutex::default(),
                asked: Mutex::default(),
            }),
            listeners: AsyncMutex::default(),
            crowd: AsyncMutex::default(),
            process,
        }
    }

    /// Speaks TLS on [`TLS_PORT`] besides.
    pub async fn with_tls(self, pki: &Pki) -> Result<Self> {
        let identity = pki.server(&["endpoint"])?;
        let chain = vec![CertificateDer::from_pem_slice(
            identity.certificate.as_bytes(),
        )?];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        *lock(&self.shared.tls) = Some(TlsAcceptor::from(Arc::new(config)));
        let listener = TcpListener::bind((self.address(), TLS_PORT)).await?;
        let listening = tokio::spawn(accept(listener, Arc::clone(&self.shared), true));
        self.listeners.lock().await.push(listening);
        Ok(self)
    }

    pub fn address(&self) -> Ipv4Addr {
        self.shared.address
    }

    /// Fails so from now on.
    pub async fn fail(&self, trouble: Trouble) -> Result<()> {
        match (&self.process, trouble) {
            (Some(process), Trouble::Stopped) => return process.signal(Signal::SIGSTOP).await,
            (Some(_), _) | (None, Trouble::Stopped) => bail!("it cannot be in {trouble:?}"),
            (None, Trouble::Refused | Trouble::HalfOpen) => self.close().await,
            (None, _) => {}
        }
        self.shared.trouble.send_replace(Some(trouble));
        if trouble == Trouble::HalfOpen {
            self.crowd_out().await?;
        }
        Ok(())
    }

    /// Serves as it should again. What hung is closed.
    pub async fn recover(&self) -> Result<()> {
        if let Some(process) = &self.process {
            return process.signal(Signal::SIGCONT).await;
        }
        let before = self.shared.trouble.send_replace(None);
        if matches!(before, Some(Trouble::Refused | Trouble::HalfOpen)) {
            self.close().await;
            self.crowd.lock().await.clear();
            self.listen().await?;
        }
        Ok(())
    }

    /// The paths that were asked for, in this order, of an endpoint in this
    /// process.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }

    async fn listen(&self) -> Result<()> {
        let address = (self.address(), PORT);
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot bind {address:?}"))?;
        let listening = tokio::spawn(accept(listener, Arc::clone(&self.shared), false));
        self.listeners.lock().await.push(listening);
        Ok(())
    }

    /// Listens no more, and returns when that is so.
    async fn close(&self) {
        for listening in self.listeners.lock().await.drain(..) {
            listening.abort();
            // It was cancelled, which is what was asked for.
            let _ = listening.await;
        }
    }

    /// Listens without taking any connection, and with a queue that is full.
    async fn crowd_out(&self) -> Result<()> {
        let address = SocketAddr::from((self.address(), PORT));
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(0)?;
        let listening = tokio::spawn(async move {
            let _listener = listener;
            std::future::pending().await
        });
        self.listeners.lock().await.push(listening);
        let mut crowd = self.crowd.lock().await;
        // The kernel lets in one more than it was told to, or a few.
        for _ in 0..MOST_CROWD {
            match tokio::time::timeout(DROPPED, TcpStream::connect(address)).await {
                Ok(taken) => crowd.push(taken?),
                Err(_) => return Ok(()),
            }
        }
        bail!("it still takes connections")
    }
}

/// Where this process is to be an endpoint and nothing else: serves until it is
/// killed.
pub fn serve_if_asked() -> Option<ExitCode> {
    let address = std::env::var(SERVE).ok()?;
    let serve = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let _endpoint = Endpoint::start(address.parse()?).await?;
            std::future::pending().await
        })
    };
    let served = serve();
    eprintln!("{served:?}");
    Some(ExitCode::FAILURE)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tls: bool) {
    loop {
        // An error is that of a connection that is gone already.
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, Arc::clone(&shared), tls));
        }
    }
}

async fn connection(mut stream: TcpStream, shared: Arc<Shared>, tls: bool) {
    let trouble = shared.trouble.subscribe();
    let first = *trouble.borrow();
    if first != Some(Trouble::Reset) {
        let acceptor = lock(&shared.tls).clone();
        match acceptor.filter(|_| tls) {
            None => serve(&mut stream, &shared, trouble, false).await,
            Some(_) if first == Some(Trouble::BrokenTls) => {
                let mut hello = [0; 1024];
                let _ = stream.read(&mut hello).await;
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            }
            Some(acceptor) => {
                if let Ok(mut stream) = acceptor.accept(&mut stream).await {
                    serve(&mut stream, &shared, trouble, true).await;
                }
            }
        }
    }
    if *shared.trouble.borrow() == Some(Trouble::Reset) {
        // Whether it is reset or closed, it is over.
        let _ = stream.set_zero_linger();
    }
}

/// Answers one request after the other until the connection is over.
async fn serve<S>(
    stream: &mut S,
    shared: &Shared,
    mut trouble: watch::Receiver<Option<Trouble>>,
    tls: bool,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let ends = |now: &Option<Trouble>| match now {
        Some(Trouble::Refused | Trouble::Reset) => true,
        Some(Trouble::BrokenTls) => tls,
        _ => false,
    };
    loop {
        let mut state = trouble.clone();
        let over = async {
            // An error is that the endpoint is gone.
            let _ = state.wait_for(ends).await;
        };
        let path = tokio::select! {
            path = read_path(stream) => path,
            () = over => return,
        };
        let Some(path) = path else { return };
        let now = *trouble.borrow_and_update();
        // Silence does not even say that it has read.
        if now != Some(Trouble::HalfOpen) {
            lock(&shared.asked).push(path.clone());
        }
        let answered = match now {
            Some(Trouble::Status(status)) => respond(stream, shared, status).await,
            Some(Trouble::Checks(status)) if path == HEALTH => {
                respond(stream, shared, status).await
            }
            Some(Trouble::NoHttp) => {
                let _ = stream.write_all(b"\x00\x01\x02 this is no HTTP\r\n").await;
                return;
            }
            Some(Trouble::SlowHead) => {
                tokio::select! {
                    () = drip(stream) => {}
                    _ = trouble.changed() => {}
                }
                return;
            }
            Some(Trouble::Hang | Trouble::HalfOpen | Trouble::Refused | Trouble::Reset) => {
                // An error is that the endpoint is gone.
                let _ = trouble.changed().await;
                return;
            }
            None | Some(Trouble::Checks(_) | Trouble::BrokenTls | Trouble::Stopped) => {
                respond(stream, shared, 200).await
            }
        };
        if answered.is_err() {
            return;
        }
    }
}

/// The path of the next request; none when the client is gone.
async fn read_path<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        // A request without a body is all that comes, and one at a time.
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    head.split(' ').nth(1).map(str::to_owned)
}

async fn respond<S: AsyncWrite + Unpin>(
    stream: &mut S,
    shared: &Shared,
    status: u16,
) -> std::io::Result<()> {
    let body = shared.address.to_string();
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} Answer\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await
}

async fn drip<S: AsyncWrite + Unpin>(stream: &mut S) {
    for byte in b"HTTP/1.1 200 OK\r\nserver: one that takes its time over everything\r\n" {
        if stream.write_u8(*byte).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        tokio::time::sleep(SLOW).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
