//! How is the HTTP client set up? Reads the CA file and the platform's
//! authorities; connects to nothing.
//!
//! Redirects are never followed, since they would carry the key to whoever is
//! named; no encoding is asked for, since a small answer could unpack into a
//! large one. Nothing is tried again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder};

use super::credentials::AccessConfig;

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// How the catalog is reached.
#[derive(Clone, Debug)]
pub struct HttpCatalogConfig {
    /// Where the catalog is, and which files hold the credentials.
    pub access: AccessConfig,
    /// PEM bundle of the authorities that are trusted instead of the
    /// platform's; read once.
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

pub(super) fn client(config: &HttpCatalogConfig) -> Result<Client, HttpCatalogError> {
    if let Some(path) = &config.ca_file {
        let authorities = authorities(path)?;
        return builder(config)
            .tls_certs_only(authorities)
            .build()
            .map_err(|error| {
                let message = format!("holds a certificate that cannot be used: {error}");
                HttpCatalogError::CaFile {
                    path: path.clone(),
                    message,
                }
            });
    }
    builder(config).build().or_else(|error| {
        // An image without certificates can still speak plain http, so this is
        // no reason to stop; without authorities https is refused.
        let client = builder(config).tls_certs_only([]).build();
        if client.is_ok() {
            tracing::warn!(
                %error,
                "no certificate authorities on this machine: https to the catalog needs a CA file"
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

fn authorities(path: &Path) -> Result<Vec<Certificate>, HttpCatalogError> {
    let refused = |message: String| HttpCatalogError::CaFile {
        path: path.to_owned(),
        message,
    };
    let pem = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
    let authorities = Certificate::from_pem_bundle(&pem)
        .map_err(|error| refused(format!("is not a PEM bundle: {error}")))?;
    if authorities.is_empty() {
        return Err(refused("holds no certificate in PEM form".to_owned()));
    }
    Ok(authorities)
}
