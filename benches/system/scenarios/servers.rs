//! Who answers? Servers on every address of loopback, in a thread of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::timeout;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(15);

/// As many as Linux allows without being asked for more.
const QUEUE: u32 = 4096;

/// Which server was asked when.
#[derive(Clone, Default)]
pub(super) struct Arrivals(Arc<Mutex<Vec<(u32, Instant)>>>);

impl Arrivals {
    fn note(&self, who: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((who, Instant::now()));
    }

    /// Those since the last time that somebody asked.
    pub(super) fn take(&self) -> Vec<(u32, Instant)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// They answer until this is dropped.
pub(super) struct Servers {
    /// One of them; all have the same port.
    pub(super) address: SocketAddr,
    /// The one that answers nothing, as a number; none where that is zero.
    dead: Arc<AtomicU32>,
    _stop: oneshot::Sender<()>,
}

impl Servers {
    pub(super) fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// They note each request, which costs a little.
    pub(super) fn noting(arrivals: &Arrivals) -> Result<Self> {
        Self::start_with(Some(arrivals.clone()))
    }

    fn start_with(arrivals: Option<Arrivals>) -> Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::UNSPECIFIED, 0).into())?;
        // All endpoints have one queue: they are to be well, however many
        // connections are made anew at once.
        let listener = socket.listen(QUEUE)?.into_std()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
        let dead = Arc::new(AtomicU32::new(0));
        let of_thread = Arc::clone(&dead);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("answering".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let serve = async {
                        let listener = TcpListener::from_std(listener)?;
                        loop {
                            let (stream, _) = listener.accept().await?;
                            tokio::spawn(answer(stream, Arc::clone(&of_thread), arrivals.clone()));
                        }
                    };
                    tokio::select! {
                        ended = serve => {
                            let ended: std::io::Result<()> = ended;
                            eprintln!("the servers ended: {ended:?}");
                        }
                        _ = stopped => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            dead,
            _stop: stop,
        })
    }

    /// This one no longer answers, and whoever did not before does again.
    pub(super) fn die(&self, who: Option<Ipv4Addr>) {
        let number = who.map_or(0, u32::from);
        self.dead.store(number, Ordering::Relaxed);
    }
}

/// Answers each request; closes where the request asks for it.
async fn answer(
    mut stream: TcpStream,
    dead: Arc<AtomicU32>,
    arrivals: Option<Arrivals>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let own = match stream.local_addr()? {
        SocketAddr::V4(own) => u32::from(*own.ip()),
        SocketAddr::V6(_) => 0,
    };
    let mut request = [0; 1024];
    loop {
        // Of whoever was cut off nothing is heard any more, not even that he went.
        let read = timeout(IDLE, stream.read(&mut request)).await??;
        if read == 0 || dead.load(Ordering::Relaxed) == own {
            return Ok(());
        }
        if let Some(arrivals) = &arrivals {
            arrivals.note(own);
        }
        stream.write_all(ANSWER).await?;
        let closes = b"Connection: close";
        if request[..read]
            .windows(closes.len())
            .any(|word| word == closes)
        {
            return Ok(());
        }
    }
}
