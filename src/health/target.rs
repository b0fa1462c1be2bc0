//! What is checked, and how. Plain values.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::health::by_address::Addresses;
use crate::domain::health::judge::Thresholds;
use crate::domain::names::ServiceKey;

/// All that is checked.
pub type Targets = BTreeMap<ServiceKey, ServiceTargets>;

/// The endpoints of one service, and how they are checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServiceTargets {
    /// How. Shared by whoever asks.
    pub check: Arc<Check>,
    /// Where. Nothing but these addresses is ever connected to.
    pub endpoints: Addresses,
}

/// How an endpoint is checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// What is asked.
    pub ask: Ask,
    /// When it is asked again, and how many answers make a verdict.
    pub thresholds: Thresholds,
}

/// What an endpoint is asked. Where this changes, all begins anew: that an
/// earlier check has worked says nothing about this one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ask {
    /// Over what.
    pub scheme: Scheme,
    /// The path of the request, with a query perhaps.
    pub path: String,
    /// What the `Host` header says.
    pub host: String,
    /// Time for all of it: connection, TLS and the head of the answer.
    pub timeout: Duration,
}

/// What the request goes over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// A bare connection.
    Http,
    /// TLS. Whoever answers is not checked: an address in the cluster has no
    /// certificate that could be.
    Https,
    /// The mesh's mutual TLS, with a peer that proves to be this one.
    Mtls(Peer),
}

/// Who has to answer: a workload of this namespace in this trust domain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Trust domain of the mesh, such as `cluster.local`.
    pub trust_domain: String,
    /// Namespace of the workload.
    pub namespace: String,
}

impl Peer {
    /// Whether a SPIFFE ID is one of that namespace, as in
    /// `spiffe://cluster.local/ns/shop/sa/web`.
    pub(super) fn is(&self, id: &str) -> bool {
        let rest = id
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.strip_prefix(self.trust_domain.as_str()))
            .and_then(|rest| rest.strip_prefix("/ns/"))
            .and_then(|rest| rest.strip_prefix(self.namespace.as_str()))
            .and_then(|rest| rest.strip_prefix("/sa/"));
        rest.is_some_and(|account| !account.is_empty() && !account.contains('/'))
    }
}

/// From this interval on a connection is closed after each check. A kept one
/// would cost less here (`make bench SCENARIO=probe`); but the endpoint has to
/// hold it as well, and servers that close what was idle for 5 s, as many do,
/// would close it just when the next check comes.
const CLOSED_FROM: Duration = Duration::from_secs(5);

impl Check {
    /// Whether connections are kept between two checks.
    pub(super) fn keeps(&self) -> bool {
        self.thresholds.interval < CLOSED_FROM
    }

    /// The request, byte for byte. What could end a line or a word is escaped.
    pub(super) fn request(&self) -> Vec<u8> {
        let slash = if self.ask.path.starts_with('/') {
            ""
        } else {
            "/"
        };
        format!(
            "GET {slash}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: catalog-mesh-controller/{}\r\nAccept: */*\r\nConnection: {}\r\n\r\n",
            escaped(&self.ask.path),
            escaped(&self.ask.host),
            env!("CARGO_PKG_VERSION"),
            if self.keeps() { "keep-alive" } else { "close" },
        )
        .into_bytes()
    }
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'#' {
            safe.push(char::from(byte));
        } else {
            // Writing to a string never fails.
            let _ = write!(safe, "%{byte:02X}");
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::check;
    use super::*;

    #[test]
    fn a_request_asks_for_the_path_and_says_who_asks() {
        let request = String::from_utf8(check().request()).unwrap();
        let lines: Vec<_> = request.split("\r\n").collect();
        assert_eq!(lines[0], "GET /health HTTP/1.1");
        assert_eq!(lines[1], "Host: web.shop.svc.cluster.local");
        assert!(lines[2].starts_with("User-Agent: catalog-mesh-controller/"));
        assert_eq!(lines[4], "Connection: close");
        assert_eq!(lines[5..], ["", ""]);
    }

    #[test]
    fn no_path_and_no_host_can_add_a_line_to_the_request() {
        let mut hostile = check();
        hostile.ask.path = "health HTTP/1.1\r\nX: y\u{e9}#z".to_owned();
        hostile.ask.host = "a\r\nHost: b".to_owned();
        let request = String::from_utf8(hostile.request()).unwrap();
        assert_eq!(request.split("\r\n").count(), 7, "{request}");
        assert!(request.starts_with("GET /health%20HTTP/1.1%0D%0AX:%20y%C3%A9%23z HTTP/1.1\r\n"));
    }

    #[test]
    fn connections_are_kept_where_the_next_check_is_near() {
        let mut often = check();
        assert!(!often.keeps());
        often.thresholds.interval = Duration::from_millis(4999);
        assert!(often.keeps());
        let request = String::from_utf8(often.request()).unwrap();
        assert!(request.contains("\r\nConnection: keep-alive\r\n"));
    }

    #[test]
    fn a_peer_is_known_by_trust_domain_and_namespace() {
        let peer = Peer {
            trust_domain: "cluster.local".to_owned(),
            namespace: "shop".to_owned(),
        };
        assert!(peer.is("spiffe://cluster.local/ns/shop/sa/web"));
        for other in [
            "spiffe://cluster.local/ns/shop2/sa/web",
            "spiffe://cluster.local/ns/sho/sa/web",
            "spiffe://cluster.local.evil/ns/shop/sa/web",
            "spiffe://evil/cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns/shop/sa/a/b",
            "spiffe://cluster.local/ns/shop",
            "https://cluster.local/ns/shop/sa/web",
            "",
        ] {
            assert!(!peer.is(other), "{other}");
        }
    }
}
