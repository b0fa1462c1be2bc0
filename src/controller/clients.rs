//! The clients of the API server: one for requests, one for watches, so that
//! neither waits for the other's connections, and each with the limits that
//! the library leaves out.

use std::time::Duration;

use http::HeaderValue;
use kube::client::ClientBuilder;
use kube::{Client, Config};

use super::guard::Guard;
use super::watch::WATCH_TIMEOUT;

/// How long one request may take, its answer's body included.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// How long nothing at all may come of a watch, or of a list that stops in
/// the middle: a little more than the server lets a watch live.
const SILENCE: Duration = Duration::from_secs(WATCH_TIMEOUT as u64 + 30);

/// Both clients.
#[derive(Clone)]
pub struct Clients {
    /// For requests that end by themselves.
    pub requests: Client,
    /// For watches.
    pub watches: Client,
}

impl Clients {
    /// Builds both from the same configuration.
    pub fn new(mut config: Config) -> Result<Self, kube::Error> {
        // One retry layer: the queue. The library's own would hide an outage
        // for minutes.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(5));
        config.write_timeout = Some(REQUEST_DEADLINE);
        config.reset_reader_on_write = true;
        let agent = concat!("catalog-mesh-controller/", env!("CARGO_PKG_VERSION"));
        config
            .headers
            .push((http::header::USER_AGENT, HeaderValue::from_static(agent)));

        config.read_timeout = Some(SILENCE);
        let watches = ClientBuilder::try_from(config.clone())?
            .with_layer(&Guard::default())
            .build();
        config.read_timeout = Some(REQUEST_DEADLINE);
        let requests = ClientBuilder::try_from(config)?.build();
        Ok(Self { requests, watches })
    }
}
