//! Tells Alertmanagers what is unhealthy, over their API, version 2. Connects
//! to them and to nobody else; knows nothing of the cluster.
//!
//! Whoever decides gives all that fires to [`Alerts::set`]; what is no longer
//! in it has ended. Nothing queues up: each Alertmanager has a task with a
//! `ledger` of what it was told, compares the two, and is told the difference
//! (`messenger`), in one request at a time (`post`). So the last state wins,
//! and memory is bounded by what may fire.
//!
//! An Alertmanager's end of an alert is announced with the alert, some minutes
//! ahead, and moved on while it fires. Nothing has to be taken back when the
//! process ends: the next leader goes on, and without one all ends by itself.

#![warn(missing_docs)]

mod ledger;
mod messenger;
mod post;
mod room;
mod standing;
pub mod value;
mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{join_all, pending};
use jiff::Timestamp;
use reqwest::Url;
use tokio::sync::watch;

use crate::catalog::client::{Clients, HttpCatalogConfig, HttpCatalogError};
use crate::catalog::credentials::{AccessConfig, ApiUrl};
use crate::metrics::alerts::AlertMetrics;
use messenger::{Calendar, Gate, Messenger};
use post::Http;
use value::{Alert, Firing};

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

/// Where alerts go, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Every Alertmanager: those of a cluster are each told. None is fine.
    pub urls: Vec<Url>,
    /// File whose content is sent as a bearer token; read for each request.
    pub token_file: Option<PathBuf>,
    /// PEM file of the authorities that are trusted instead of the platform's;
    /// read again when it changes.
    pub ca_file: Option<PathBuf>,
    /// How long a request may take, from connecting to the answer.
    pub deadline: Duration,
    /// Time between two tellings of what fires on.
    pub repeat: Duration,
}

impl Config {
    /// With the default deadline.
    pub fn new(urls: Vec<Url>) -> Self {
        Self {
            urls,
            token_file: None,
            ca_file: None,
            deadline: Duration::from_secs(10),
            repeat: ledger::REPEAT,
        }
    }
}

/// Why alerts cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The client cannot be set up.
    #[error("cannot set up the client of an Alertmanager")]
    Client(#[from] HttpCatalogError),
    /// The URL is none of a server.
    #[error("the URL of an Alertmanager cannot carry a path")]
    Url,
}

/// What fires. Cloning shares it.
#[derive(Clone)]
pub struct Alerts {
    firing: watch::Sender<Arc<Firing>>,
    left_out: Arc<Mutex<usize>>,
    metrics: AlertMetrics,
}

impl Alerts {
    /// These fire, and no others: whichever is missing has ended. Waits for
    /// nothing, and costs nothing more where nothing is different.
    pub fn set(&self, alerts: impl IntoIterator<Item = Alert>) {
        let mut left_out = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        let (firing, more) = room::admit(&self.firing.borrow(), alerts);
        let endpoints = firing.keys().filter(|subject| subject.is_endpoint());
        let endpoints = endpoints.count();
        self.metrics
            .firing(firing.len() - endpoints, endpoints, more);
        if more > 0 && *left_out == 0 {
            tracing::warn!(
                leftOut = more,
                "more is unhealthy than alerts are sent of; the rest is only counted"
            );
        }
        *left_out = more;
        self.firing.send_if_modified(|current| {
            let changed = **current != firing;
            if changed {
                *current = Arc::new(firing);
            }
            changed
        });
    }

    fn new(metrics: AlertMetrics) -> Self {
        Self {
            firing: watch::Sender::new(Arc::default()),
            left_out: Arc::default(),
            metrics,
        }
    }
}

/// Makes the handle that says what fires, and the task that tells it while it
/// is polled and `gate` is open, as it is for a leader. The task never ends, and
/// says nothing when it is dropped.
pub fn start(
    config: Config,
    gate: impl Fn() -> bool + Send + Sync + 'static,
    metrics: AlertMetrics,
) -> Result<(Alerts, impl Future<Output = ()> + Send), StartError> {
    // Fails where a provider is there already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let alerts = Alerts::new(metrics);
    let gate: Gate = Arc::new(gate);
    let calendar: Calendar = Arc::new(Timestamp::now);
    let mut messengers = Vec::with_capacity(config.urls.len());
    for url in &config.urls {
        let name = url.origin().ascii_serialization();
        if config.token_file.is_some() && url.scheme() == "http" {
            tracing::warn!(
                alertmanager = %name,
                "the token for an Alertmanager travels in clear: its URL is plain http; use https outside a trusted network"
            );
        }
        let messenger = Messenger {
            post: http(&config, url)?,
            name,
            firing: alerts.firing.clone(),
            gate: Arc::clone(&gate),
            calendar: Arc::clone(&calendar),
            repeat: config.repeat,
            metrics: alerts.metrics.clone(),
        };
        messengers.push(messenger.run());
    }
    let run = async move {
        join_all(messengers).await;
        // There is no Alertmanager.
        pending::<()>().await;
    };
    Ok((alerts, run))
}

/// The client is the catalog's: its authorities, deadlines and caution fit.
fn http(config: &Config, url: &Url) -> Result<Http, StartError> {
    let access = AccessConfig {
        api_url: ApiUrl::Given(url.to_string()),
        report_url_file: None,
        api_key_file: None,
        token_file: None,
    };
    let client = HttpCatalogConfig {
        ca_file: config.ca_file.clone(),
        ..HttpCatalogConfig::new(access)
    };
    Ok(Http {
        url: post::endpoint(url).ok_or(StartError::Url)?,
        clients: Clients::new(client)?,
        token_file: config.token_file.clone(),
        deadline: config.deadline,
    })
}
