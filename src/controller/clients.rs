//! The clients of the API server: one for requests, one for watches, one for
//! the Lease, so that none waits for another's connections, and each with the
//! limits that the library leaves out.

use std::time::Duration;

use http::HeaderValue;
use k8s_openapi::NamespaceResourceScope;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};

use super::guard::Guard;
use super::leadership::Leadership;
use super::permit::Permit;
use super::watch::WATCH_TIMEOUT;
use crate::domain::served::WHOLE;

/// How long one request may take, its answer's body included.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(15);

/// How long nothing at all may come of a watch, or of a list that stops in
/// the middle: a little more than the server lets a watch live.
const SILENCE: Duration = Duration::from_secs(WATCH_TIMEOUT as u64 + 30);

/// The clients of all but the election.
#[derive(Clone)]
pub struct Clients {
    /// For requests that end by themselves. Those that change something pass
    /// only while this process leads.
    pub requests: Client,
    /// For watches.
    pub watches: Client,
}

impl Clients {
    /// Builds both from the same configuration.
    pub fn new(config: Config, leadership: &Leadership) -> Result<Self, kube::Error> {
        let mut config = common(config);
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(SILENCE);
        let watches = ClientBuilder::try_from(config.clone())?
            .with_layer(&Guard::default())
            .build();
        config.read_timeout = Some(REQUEST_DEADLINE);
        let requests = ClientBuilder::try_from(config)?
            .with_layer(&Permit(leadership.clone()))
            .build();
        Ok(Self { requests, watches })
    }
}

/// The client of the election: its requests have deadlines of their own, much
/// shorter ones, and it is what says whether the others' may pass.
pub fn for_the_lease(config: Config) -> Result<Client, kube::Error> {
    let mut config = common(config);
    config.connect_timeout = Some(Duration::from_secs(3));
    Ok(ClientBuilder::try_from(config)?.build())
}

/// The objects of a kind in one part of the cluster.
pub(super) fn of<K>(client: &Client, part: &str) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    if part == WHOLE {
        Api::all(client.clone())
    } else {
        Api::namespaced(client.clone(), part)
    }
}

fn common(mut config: Config) -> Config {
    // One retry layer: the queue. The library's own would hide an outage for
    // minutes.
    config.default_retry = false;
    config.write_timeout = Some(REQUEST_DEADLINE);
    config.reset_reader_on_write = true;
    let agent = concat!("catalog-mesh-controller/", env!("CARGO_PKG_VERSION"));
    config
        .headers
        .push((http::header::USER_AGENT, HeaderValue::from_static(agent)));
    config
}
