//! What stands before a workload in a mesh that demands mutual TLS? An Envoy on
//! the Pod's address that takes nothing but TLS with a certificate of the mesh,
//! as istiod has it do under STRICT, and hands the rest on.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::backend::{self, Backend};
use super::process::{Process, Spec};
use super::tools::Tool;

const ADMIN_PORT: u16 = 15000;

/// A running sidecar, and the workload behind it.
pub struct Sidecar {
    pub process: Process,
    /// What is behind it, at an address of its own.
    pub backend: Backend,
    log: PathBuf,
}

/// A request that a sidecar let in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admitted {
    /// The SPIFFE ID of who asked.
    pub id: String,
    /// The serial number of his certificate.
    pub serial: String,
    /// The protocol inside of TLS that was agreed on.
    pub protocol: String,
}

impl Sidecar {
    /// Starts one on a Pod's address with the certificate of a folder, where it
    /// is as Istio writes it.
    pub async fn start(
        run: &Path,
        address: Ipv4Addr,
        certificates: &Path,
        backend: Ipv4Addr,
    ) -> Result<Self> {
        let name = format!("sidecar-{address}");
        let (config, log) = (
            run.join(format!("{name}.json")),
            run.join(format!("{name}-requests.log")),
        );
        let bootstrap = bootstrap(address, certificates, backend, &log);
        fs::write(&config, format!("{bootstrap:#}"))?;
        let backend = Backend::start(backend).await?;
        let process = Spec::new(name, Tool::Envoy.path()?, run)
            .args(["--config-path".into(), config])
            .arg("--disable-hot-restart")
            .args(["--concurrency", "1", "--file-flush-interval-msec", "50"])
            .spawn()?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let ready = format!("http://{address}:{ADMIN_PORT}/ready");
        process
            .ready(async || {
                http.get(&ready).send().await?.error_for_status()?;
                Ok(())
            })
            .await?;
        Ok(Self {
            process,
            backend,
            log,
        })
    }

    /// The requests that it has let in so far.
    pub fn admitted(&self) -> Result<Vec<Admitted>> {
        let log = fs::read_to_string(&self.log)?;
        let lines = log.lines().filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some(Admitted {
                id: words.next()?,
                serial: words.next()?,
                protocol: words.next()?,
            })
        });
        Ok(lines.collect())
    }
}

fn bootstrap(address: Ipv4Addr, certificates: &Path, backend: Ipv4Addr, log: &Path) -> Value {
    let file = |name: &str| json!({ "filename": certificates.join(name) });
    let tls = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificates": [{
                    "certificate_chain": file("cert-chain.pem"),
                    "private_key": file("key.pem"),
                }],
                "validation_context": { "trusted_ca": file("root-cert.pem") },
                // As istiod gives it to sidecars for HTTP.
                "alpn_protocols": ["istio-http/1.1", "h2", "http/1.1"],
            },
        },
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inbound",
        "access_log": [{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": log,
                "log_format": { "text_format_source": { "inline_string":
                    "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SERIAL% %PROTOCOL%\n" } },
            },
        }],
        "route_config": { "virtual_hosts": [{
            "name": "inbound", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "workload" } }],
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    let listener = json!({
        "name": "inbound",
        "address": socket(address, backend::PORT),
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" },
        }],
        // Whoever does not speak TLS finds no chain, and is cut off.
        "filter_chains": [{
            "filter_chain_match": { "transport_protocol": "tls" },
            "transport_socket": tls,
            "filters": [{ "name": "http", "typed_config": manager }],
        }],
    });
    let workload = json!({
        "name": "workload",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "workload",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": {
                "address": socket(backend, backend::PORT),
            }}]}],
        },
    });
    json!({
        "admin": { "address": socket(address, ADMIN_PORT) },
        "static_resources": { "listeners": [listener], "clusters": [workload] },
    })
}

fn socket(address: Ipv4Addr, port: u16) -> Value {
    json!({ "socket_address": { "address": address.to_string(), "port_value": port } })
}
