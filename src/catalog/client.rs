//! How is the HTTP client set up? Reads the CA file, again when it changes,
//! and the platform's authorities; connects to nothing.
//!
//! Redirects are never followed, since they would carry the key to whoever is
//! named; no encoding is asked for, since a small answer could unpack into a
//! large one. Nothing is tried again.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, ClientBuilder};

use super::authorities::{CaFile, Pem, authorities};
use super::credentials::AccessConfig;
use super::error::{CatalogError, one_line};

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// How the catalog is reached.
#[derive(Clone, Debug)]
pub struct HttpCatalogConfig {
    /// Where the catalog is, and which files hold the credentials.
    pub access: AccessConfig,
    /// PEM bundle of the authorities that are trusted instead of the
    /// platform's (over PostgreSQL: besides them); read again when it changes.
    pub ca_file: Option<PathBuf>,
    /// How long a connection may take to open, TLS included.
    pub connect_timeout: Duration,
    /// How long a request may take, from connecting to the answer's last byte.
    pub request_deadline: Duration,
    /// How long a list of many pages may take.
    pub list_deadline: Duration,
    /// How long the head of an event stream may take, connecting included.
    pub head_deadline: Duration,
    /// Whether `HTTP_PROXY` and its kind are obeyed. Off by default: a proxy
    /// that was set for other traffic would get to see the credential.
    pub proxy_from_environment: bool,
}

impl HttpCatalogConfig {
    /// The default limits.
    pub fn new(access: AccessConfig) -> Self {
        Self {
            access,
            ca_file: None,
            connect_timeout: Duration::from_secs(3),
            request_deadline: Duration::from_secs(10),
            list_deadline: Duration::from_secs(60),
            // Shorter than others: whoever waits for one that will never come
            // misses the catalog's return.
            head_deadline: Duration::from_secs(4),
            proxy_from_environment: false,
        }
    }
}

/// Why the client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HttpCatalogError {
    /// The URL that was given is none.
    #[error("the catalog's URL {0}")]
    Url(String),
    /// The CA file cannot be used.
    #[error("CA file {path}: {message}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The HTTP client refuses its settings.
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

/// The client, and a new one when the CA file has changed. Connections that
/// the old one opened end with the requests on them.
pub(crate) struct Clients {
    config: HttpCatalogConfig,
    ca: CaFile,
    last: Mutex<(Pem, Client)>,
}

impl Clients {
    pub(crate) fn new(config: HttpCatalogConfig) -> Result<Self, HttpCatalogError> {
        let (ca, pem) = CaFile::new(config.ca_file.clone())?;
        let client = client(&config, pem.as_ref().map(|pem| pem.as_slice()))?;
        let last = Mutex::new((pem, client));
        Ok(Self { config, ca, last })
    }

    /// The client for the next request.
    pub(crate) async fn current(&self) -> Result<Client, CatalogError> {
        let pem = self.ca.current().await?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != pem {
            let client = client(&self.config, pem.as_ref().map(|pem| pem.as_slice()));
            *last = (
                pem,
                client.map_err(|error| CatalogError::unavailable(one_line(&error.to_string())))?,
            );
        }
        Ok(last.1.clone())
    }
}

fn client(config: &HttpCatalogConfig, pem: Option<&[u8]>) -> Result<Client, HttpCatalogError> {
    if let (Some(path), Some(pem)) = (&config.ca_file, pem) {
        let refused = |message: String| HttpCatalogError::CaFile {
            path: path.clone(),
            message,
        };
        let authorities = authorities(pem).map_err(refused)?;
        return builder(config)
            .tls_certs_only(authorities)
            .build()
            .map_err(|error| refused(format!("holds a certificate that cannot be used: {error}")));
    }
    builder(config).build().or_else(|error| {
        // An image without certificates can still speak plain http, so this is
        // no reason to stop; without authorities https is refused.
        let client = builder(config).tls_certs_only([]).build();
        if client.is_ok() {
            tracing::warn!(
                %error,
                "no certificate authorities on this machine: https needs a CA file"
            );
        }
        client.map_err(HttpCatalogError::Client)
    })
}

fn builder(config: &HttpCatalogConfig) -> ClientBuilder {
    let builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(config.connect_timeout)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .no_zstd()
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(16);
    if config.proxy_from_environment {
        builder
    } else {
        builder.no_proxy()
    }
}
