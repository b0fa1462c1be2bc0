//! The clients of the API server: one for requests, one for lists and watches, one for
//! the Lease, so that none waits for another's connections, and each with the
//! limits that the library leaves out.

use std::time::Duration;

use http::HeaderValue;
use k8s_openapi::NamespaceResourceScope;
use kube::client::ClientBuilder;
use kube::{Api, Client, Config};

use super::apart::Apart;
use super::guard::Guard;
use super::leadership::Leadership;
use super::permit::Permit;
use super::watch::WATCH_TIMEOUT;
use super::window::Window;
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
    /// only while this process leads, and no more at once than the server bears.
    pub requests: Client,
    /// For watches, and the lists that these begin with.
    pub watches: Client,
}

impl Clients {
    /// Builds both from the same configuration.
    pub fn new(config: Config, leadership: &Leadership) -> Result<Self, kube::Error> {
        let mut config = common(config);
        config.connect_timeout = Some(Duration::from_secs(5));
        config.read_timeout = Some(SILENCE);
        let plain = || Ok::<_, kube::Error>(ClientBuilder::try_from(config.clone())?.build());
        let apart = Apart {
            watches: plain()?,
            lists: plain()?,
        };
        let watches = ClientBuilder::new(apart, config.default_namespace.clone())
            .with_layer(&Guard::default())
            .build();
        config.read_timeout = Some(REQUEST_DEADLINE);
        let requests = ClientBuilder::try_from(config)?
            .with_layer(&Window::default())
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::StreamExt as _;
    use k8s_openapi::api::core::v1::Service;
    use kube::Api;
    use kube::api::{ListParams, Patch, PatchParams, WatchParams};
    use reqwest::Url;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::alert;
    use crate::metrics::Metrics;

    /// Generous: what it is compared with would take minutes.
    const SOON: Duration = Duration::from_secs(5);

    /// A server that answers every request with 503, and what it was asked.
    async fn overloaded() -> (Config, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heads = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let heads = Arc::clone(&heads);
                tokio::spawn(async move {
                    let mut head = vec![0; 16 * 1024];
                    let length = socket.read(&mut head).await.unwrap();
                    let head = String::from_utf8_lossy(&head[..length]).to_lowercase();
                    heads.lock().unwrap().push(head);
                    let answer = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                    let _ = socket.write_all(answer.as_bytes()).await;
                });
            }
        });
        (Config::new(url.parse().unwrap()), asked)
    }

    // traps 5, 22
    #[tokio::test]
    async fn no_client_tries_again_by_itself_or_asks_for_compressed_answers() {
        let (config, asked) = overloaded().await;
        let clients = Clients::new(config.clone(), &Leadership::granted(1)).unwrap();
        let lease = for_the_lease(config).unwrap();
        let begun = Instant::now();
        let of = |client: &Client| Api::<Service>::namespaced(client.clone(), "shop");
        for client in [&clients.requests, &clients.watches, &lease] {
            let listed = timeout(SOON, of(client).list(&ListParams::default())).await;
            assert!(matches!(listed.unwrap(), Err(kube::Error::Api(status)) if status.code == 503));
        }
        let patch = Patch::Merge(json!({}));
        let (services, params) = (of(&clients.requests), PatchParams::default());
        let patched = timeout(SOON, services.patch("web", &params, &patch)).await;
        assert!(patched.unwrap().is_err());
        assert!(begun.elapsed() < SOON);
        let asked = asked.lock().unwrap();
        assert_eq!(asked.len(), 4, "{asked:?}");
        for head in asked.iter() {
            assert!(!head.contains("gzip"), "{head}");
            assert!(
                head.contains("user-agent: catalog-mesh-controller/"),
                "{head}"
            );
        }
    }

    /// A server of no objects, and for each request the number of its connection.
    async fn empty() -> (Config, Arc<Mutex<Vec<usize>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<usize>>>::default();
        let numbers = Arc::clone(&asked);
        tokio::spawn(async move {
            for number in 0.. {
                let (mut socket, _) = listener.accept().await.unwrap();
                let numbers = Arc::clone(&numbers);
                tokio::spawn(async move {
                    let mut head = vec![0; 16 * 1024];
                    while socket.read(&mut head).await.unwrap() > 0 {
                        numbers.lock().unwrap().push(number);
                        let none = r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"1"},"items":[]}"#;
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{none}",
                            none.len()
                        );
                        socket.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (Config::new(url.parse().unwrap()), asked)
    }

    #[tokio::test]
    async fn no_watch_comes_by_a_connection_that_a_list_came_by() {
        let (config, asked) = empty().await;
        let client = Clients::new(config, &Leadership::granted(1))
            .unwrap()
            .watches;
        let services = Api::<Service>::namespaced(client, "shop");
        for _ in 0..2 {
            services.list(&ListParams::default()).await.unwrap();
            let watch = services.watch(&WatchParams::default(), "1").await.unwrap();
            watch.collect::<Vec<_>>().await;
        }
        assert_eq!(*asked.lock().unwrap(), [0, 1, 0, 1]);
    }

    // trap 4
    #[tokio::test]
    async fn an_answer_that_does_not_come_is_an_error_of_the_client_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut config = common(Config::new(url.parse().unwrap()));
        // As both clients have it, with a deadline that a test can wait for.
        config.read_timeout = Some(Duration::from_millis(200));
        let client = ClientBuilder::try_from(config).unwrap().build();
        let services = Api::<Service>::namespaced(client, "shop");
        let answer = timeout(SOON, services.list(&ListParams::default())).await;
        assert!(answer.unwrap().is_err());
    }

    // trap 21
    #[tokio::test]
    async fn all_clients_of_one_process_use_one_provider_of_tls() {
        // Two of them in one graph panic when the first client is made.
        let config = Config::new("https://127.0.0.1:1".parse().unwrap());
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let clients = Clients::new(config.clone(), &Leadership::granted(1)).unwrap();
        for_the_lease(config).unwrap();
        let alertmanager = Url::parse("https://127.0.0.1:1").unwrap();
        let config = alert::Config::new(vec![alertmanager]);
        let metrics = Metrics::new().unwrap();
        drop(alert::start(config, || true, metrics.alerts).unwrap());
        let services = Api::<Service>::namespaced(clients.requests, "shop");
        let answer = timeout(SOON, services.get("web")).await.unwrap();
        assert!(answer.is_err());
    }
}
