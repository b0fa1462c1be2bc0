//! How does a client of the mesh call a Service? Through a plain Envoy whose
//! clusters, endpoints and routes come from istiod; only its listener is fixed
//! (istiod's own listeners would want Istio's build of Envoy).

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use http::HeaderMap;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::istiod;
use super::process::{Process, Spec};
use super::tools::Tool;
use super::wait;
use super::workload::{REGION, SERVICE_PORT};

const ADMIN_PORT: u16 = 15000;
/// Added to a Service's port for the listener: no right to low ports needed.
const LISTENER_OFFSET: u16 = 10_000;
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
const HTTP_FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// Which client it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The client's namespace: rules may be visible in some only.
    pub namespace: String,
    /// Where it stands; without a zone nothing about locality shows.
    pub zone: Option<String>,
    /// The Service ports that can be called through it.
    pub ports: Vec<u16>,
    /// A Service port that it hands raw bytes to, with its cluster.
    pub tcp: Option<(u16, String)>,
    /// Whether it writes down every request.
    pub logged: bool,
}

impl Options {
    pub fn in_namespace(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            zone: None,
            ports: vec![SERVICE_PORT],
            tcp: None,
            logged: false,
        }
    }

    /// One that writes down every request, for [`Envoy::requests`].
    pub fn logged(mut self) -> Self {
        self.logged = true;
        self
    }

    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports = ports.to_vec();
        self
    }

    /// Raw bytes for a port of a Service in the client's own namespace.
    pub fn tcp(mut self, service: &str, port: u16) -> Self {
        let host = format!("{service}.{}.svc.cluster.local", self.namespace);
        self.tcp = Some((port, format!("outbound|{port}||{host}")));
        self
    }
}

/// An answer that came through Envoy.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    /// Of a test backend: its address.
    pub body: String,
}

/// An endpoint as Envoy knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// With its port.
    pub address: String,
    /// `healthy`, or why it gets no requests.
    pub health: String,
}

/// A request in Envoy's access log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Logged {
    /// When it came, by the clock on the wall.
    #[serde(deserialize_with = "seconds")]
    pub began: SystemTime,
    /// What the client called: `host` and `path`.
    pub host: String,
    pub path: String,
    pub status: u16,
    /// Why Envoy itself answered, `-` where it did not.
    pub flags: String,
    /// The endpoints that it tried, with ports, if there was any. One that it
    /// could not connect to is not among them.
    pub tried: Option<String>,
    /// The endpoint that it chose at last, whether it could connect or not.
    pub chosen: Option<String>,
}

/// A time as Envoy writes it down: `1764170000.123`.
fn seconds<'a, D: Deserializer<'a>>(from: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(from)?;
    let since = text.parse().map_err(serde::de::Error::custom)?;
    let since = Duration::try_from_secs_f64(since).map_err(serde::de::Error::custom)?;
    Ok(SystemTime::UNIX_EPOCH + since)
}

/// A running client proxy.
pub struct Envoy {
    pub process: Process,
    address: Ipv4Addr,
    http: reqwest::Client,
    access_log: PathBuf,
}

impl Envoy {
    /// Starts it on an address of its own and waits until it serves.
    pub async fn start(run: &Path, address: Ipv4Addr, options: &Options) -> Result<Self> {
        let name = format!("envoy-{}-{address}", options.namespace);
        let config = run.join(format!("{name}.json"));
        let access_log = run.join(format!("{name}.access.log"));
        let log = options.logged.then_some(access_log.as_path());
        fs::write(&config, format!("{:#}", bootstrap(address, options, log)))?;
        let process = Spec::new(name, Tool::Envoy.path()?, run)
            .args(["--config-path".into(), config])
            // Several of them share this machine's shared memory.
            .arg("--disable-hot-restart")
            .args(["--concurrency", "1", "--log-level", "info"])
            .args(["--file-flush-interval-msec", "100"])
            .spawn()?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(REQUEST_LIMIT)
            .build()?;
        let envoy = Self {
            process,
            address,
            http,
            access_log,
        };
        envoy
            .process
            .ready(async || {
                envoy.admin("ready").await?;
                Ok(())
            })
            .await?;
        Ok(envoy)
    }

    /// Where requests to a Service's port are sent; their `Host` says to which.
    pub fn url(&self, port: u16) -> String {
        let listener = port.saturating_add(LISTENER_OFFSET);
        format!("http://{}:{listener}", self.address)
    }

    /// One of its admin pages as text, an error unless it answers 200.
    pub async fn admin(&self, page: &str) -> Result<String> {
        let url = format!("http://{}:{ADMIN_PORT}/{page}", self.address);
        Ok(self
            .http
            .get(url)
            .send()
            .await?
            .error_for_status()?
            .text()
            .await?)
    }

    /// Every request that has ended, oldest first, of an Envoy that is asked to
    /// write them down. The last ones may take a moment to get there.
    pub fn requests(&self) -> Result<Vec<Logged>> {
        let text = fs::read_to_string(&self.access_log)?;
        // A last line without its end is still being written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = |line| serde_json::from_str(line).with_context(|| format!("no request: {line}"));
        whole.lines().map(read).collect()
    }

    /// All of its configuration, endpoints included.
    pub async fn config_dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.admin("config_dump?include_eds").await?,
        )?)
    }

    /// A Service port's cluster as it has it, endpoints aside; none if it does
    /// not know it.
    pub async fn cluster(&self, host: &str, port: u16) -> Result<Option<Value>> {
        // The bars of the name would have to be escaped twice.
        let page = format!(
            "config_dump?resource=dynamic_active_clusters&name_regex=outbound.{port}..{host}"
        );
        let mut dump: Value = serde_json::from_str(&self.admin(&page).await?)?;
        Ok(dump.pointer_mut("/configs/0/cluster").map(Value::take))
    }

    /// The routes that it has for requests to a host on a port; none if it does
    /// not know the host.
    pub async fn routes(&self, host: &str, port: u16) -> Result<Option<Vec<Value>>> {
        let page = format!("config_dump?resource=dynamic_route_configs&name_regex={port}");
        let dump: Value = serde_json::from_str(&self.admin(&page).await?)?;
        let hosts = dump["configs"][0]["route_config"]["virtual_hosts"].as_array();
        let claims = |candidate: &&Value| {
            let domains = candidate["domains"].as_array();
            domains.is_some_and(|domains| domains.iter().any(|domain| domain == host))
        };
        let found = hosts.and_then(|hosts| hosts.iter().find(claims));
        Ok(found.and_then(|host| host["routes"].as_array().cloned()))
    }

    /// Fails if it has refused anything that istiod sent, since its start.
    pub async fn expect_all_accepted(&self) -> Result<()> {
        let stats = self.admin("stats?filter=update_rejected").await?;
        let refused: Vec<&str> = stats
            .lines()
            .filter(|line| !line.ends_with(": 0"))
            .collect();
        if !refused.is_empty() {
            bail!("Envoy refused updates: {}", refused.join(", "));
        }
        Ok(())
    }

    /// The endpoints of a Service's port, sorted; none if it does not know it.
    pub async fn endpoints(&self, host: &str, port: u16) -> Result<Vec<Endpoint>> {
        let prefix = format!("outbound|{port}||{host}::");
        let page = self.admin("clusters").await?;
        let mut endpoints: Vec<Endpoint> = page
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(&prefix)?;
                let (address, health) = rest.split_once("::health_flags::")?;
                Some(Endpoint {
                    address: address.to_owned(),
                    health: health.to_owned(),
                })
            })
            .collect();
        endpoints.sort_by(|a, b| a.address.cmp(&b.address));
        Ok(endpoints)
    }

    /// Waits until it has just this many healthy endpoints for the host.
    pub async fn wait_for_endpoints(&self, host: &str, healthy: usize) -> Result<()> {
        let what = format!("{healthy} healthy endpoints of {host} in Envoy");
        wait::until(&what, Duration::from_secs(30), async || {
            let endpoints = self.endpoints(host, SERVICE_PORT).await?;
            let found = endpoints
                .iter()
                .filter(|endpoint| endpoint.health == "healthy")
                .count();
            if found == healthy {
                Ok(())
            } else {
                bail!("it has {endpoints:?}")
            }
        })
        .await
    }

    /// A request to a Service, to be completed and sent.
    pub fn request(
        &self,
        method: http::Method,
        host: &str,
        port: u16,
        path: &str,
    ) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url(port)))
            .header(http::header::HOST, host)
    }

    /// A client that calls from this address, one of the rig's.
    pub fn client_at(source: Ipv4Addr) -> Result<reqwest::Client> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .local_address(std::net::IpAddr::V4(source))
            .timeout(REQUEST_LIMIT);
        Ok(client.build()?)
    }

    /// A connection to the port that it hands raw bytes to.
    pub async fn connect(&self, port: u16) -> Result<TcpStream> {
        let listener = port.saturating_add(LISTENER_OFFSET);
        Ok(TcpStream::connect((self.address, listener)).await?)
    }

    /// GETs a path of a Service's usual port.
    pub async fn get(&self, host: &str, path: &str) -> Result<Answer> {
        read(self.request(http::Method::GET, host, SERVICE_PORT, path)).await
    }

    /// GETs a path many times, one after the other, and counts who answered:
    /// `200 10.240.0.12`, say.
    pub async fn tally(
        &self,
        host: &str,
        path: &str,
        requests: usize,
    ) -> Result<BTreeMap<String, usize>> {
        let mut tally = BTreeMap::new();
        for _ in 0..requests {
            let answer = self.get(host, path).await?;
            *tally
                .entry(format!("{} {}", answer.status, answer.body))
                .or_default() += 1;
        }
        Ok(tally)
    }
}

/// Sends a request and reads the whole answer.
pub async fn read(request: reqwest::RequestBuilder) -> Result<Answer> {
    let answer = request.send().await?;
    Ok(Answer {
        status: answer.status().as_u16(),
        headers: answer.headers().clone(),
        body: answer.text().await?,
    })
}

fn bootstrap(address: Ipv4Addr, options: &Options, log: Option<&Path>) -> Value {
    let namespace = &options.namespace;
    let mut node = json!({
        "id": format!("sidecar~{address}~client.{namespace}~{namespace}.svc.cluster.local"),
        "cluster": format!("client.{namespace}"),
        "metadata": {
            "NAMESPACE": namespace,
            "CLUSTER_ID": istiod::CLUSTER_ID,
            "ISTIO_VERSION": "1.31.0",
            // It serves nobody, so istiod need not send it inbound clusters.
            "INTERCEPTION_MODE": "NONE",
        },
    });
    if let Some(zone) = &options.zone {
        node["locality"] = json!({ "region": REGION, "zone": zone });
    }
    let xds = json!({
        "name": "istiod",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": { "http2_protocol_options": {} },
            },
        },
        "load_assignment": {
            "cluster_name": "istiod",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
                "socket_address": { "address": "127.0.0.1", "port_value": istiod::XDS_PORT },
            }}}]}],
        },
    });
    let http = options
        .ports
        .iter()
        .map(|&port| listener(address, port, http_manager(port, log)));
    let tcp = options
        .tcp
        .iter()
        .map(|(port, cluster)| listener(address, *port, tcp_proxy(cluster)));
    let listeners: Vec<Value> = http.chain(tcp).collect();
    json!({
        "node": node,
        "admin": { "address": socket(address, ADMIN_PORT) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{ "envoy_grpc": { "cluster_name": "istiod" } }],
            },
            "cds_config": { "ads": {}, "resource_api_version": "V3" },
        },
        "static_resources": { "clusters": [xds], "listeners": listeners },
    })
}

fn http_manager(port: u16, log: Option<&Path>) -> Value {
    let access_log: Vec<Value> = log.into_iter().map(access_log).collect();
    let filter = |name: &str, kind: &str| {
        json!({
            "name": format!("envoy.filters.http.{name}"),
            "typed_config": { "@type": format!("{HTTP_FILTERS}.{kind}") },
        })
    };
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": format!("port_{port}"),
        "access_log": access_log,
        "rds": {
            // So istiod names the routes that all Services of a port share.
            "route_config_name": port.to_string(),
            "config_source": {
                "ads": {},
                "resource_api_version": "V3",
                "initial_fetch_timeout": "0s",
            },
        },
        "http_filters": [
            filter("fault", "fault.v3.HTTPFault"),
            filter("cors", "cors.v3.Cors"),
            filter("router", "router.v3.Router"),
        ],
    })
}

/// One line for each request, as [`Logged`] reads it.
fn access_log(path: &Path) -> Value {
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": { "json_format": {
                "began": "%START_TIME(%s.%3f)%",
                "host": "%REQ(:AUTHORITY)%",
                "path": "%REQ(:PATH)%",
                "status": "%RESPONSE_CODE%",
                "flags": "%RESPONSE_FLAGS%",
                "tried": "%UPSTREAM_HOSTS_ATTEMPTED%",
                "chosen": "%UPSTREAM_HOST%",
            }},
        },
    })
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "tcp",
        "cluster": cluster,
    })
}

/// Takes connections for one port and hands them to this filter.
fn listener(address: Ipv4Addr, port: u16, filter: Value) -> Value {
    json!({
        "name": format!("port_{port}"),
        "address": socket(address, port.saturating_add(LISTENER_OFFSET)),
        "filter_chains": [{ "filters": [{ "name": "only", "typed_config": filter }] }],
    })
}

fn socket(address: Ipv4Addr, port: u16) -> Value {
    json!({ "socket_address": { "address": address.to_string(), "port_value": port } })
}
