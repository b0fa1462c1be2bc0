//! Which ports of a Service speak HTTP, by Istio's own rules. No IO.
//!
//! Istio sniffs a port that says nothing; we do not guess: such a port has no
//! route of ours, since a route for a port that turns out to be TCP would
//! never act and still look as if it did.

/// A port of a Service, as the cluster has it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServicePort {
    /// Name of the port.
    pub name: Option<String>,
    /// `appProtocol`, which counts before the name where it is there.
    pub app_protocol: Option<String>,
    /// The number.
    pub port: u16,
    /// TCP, UDP or SCTP; none is TCP.
    pub protocol: Option<String>,
}

/// The HTTP ports of a Service: at least one, each once, in order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpPorts(Vec<u16>);

impl HttpPorts {
    /// The HTTP ones among these; none where there is none.
    pub fn of(ports: &[ServicePort]) -> Option<Self> {
        Self::numbered(
            ports
                .iter()
                .filter(|port| is_http(port))
                .map(|port| port.port),
        )
    }

    /// Ports that somebody has said speak HTTP; none where there is none.
    pub fn numbered(ports: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut ports: Vec<u16> = ports.into_iter().filter(|port| *port > 0).collect();
        ports.sort_unstable();
        ports.dedup();
        (!ports.is_empty()).then_some(Self(ports))
    }

    /// The numbers, ascending.
    pub fn as_slice(&self) -> &[u16] {
        &self.0
    }
}

/// Whether Istio takes the port for HTTP without sniffing.
pub fn is_http(port: &ServicePort) -> bool {
    let tcp = port
        .protocol
        .as_deref()
        .is_none_or(|protocol| protocol == "TCP");
    let known = match (&port.app_protocol, &port.name) {
        // Kubernetes' own names are compared as they are; `kubernetes.io/wss`
        // is TLS.
        (Some(protocol), _) => {
            matches!(protocol.as_str(), "kubernetes.io/h2c" | "kubernetes.io/ws")
                || names_http(protocol)
        }
        (None, Some(name)) => names_http(name),
        (None, None) => false,
    };
    tcp && known
}

/// Istio compares what stands before the first hyphen, in any case; `grpc-web`
/// holds the hyphen that the rule would cut at, and needs no more than `grpc`.
fn names_http(name: &str) -> bool {
    let prefix = name.split('-').next().unwrap_or(name);
    ["http", "http2", "grpc"]
        .iter()
        .any(|known| prefix.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: Option<&str>, app_protocol: Option<&str>) -> ServicePort {
        ServicePort {
            name: name.map(str::to_owned),
            app_protocol: app_protocol.map(str::to_owned),
            port: 80,
            protocol: Some("TCP".to_owned()),
        }
    }

    #[test]
    fn a_port_is_http_by_the_prefix_of_its_name() {
        for name in [
            "http",
            "http-web",
            "HTTP-Web",
            "http2",
            "http2-a-b",
            "grpc",
            "grpc-web",
            "grpc-web-a",
            "GRPC",
        ] {
            assert!(is_http(&port(Some(name), None)), "{name}");
        }
        for name in [
            "",
            "https",
            "https-web",
            "web",
            "web-http",
            "httpx",
            "http3",
            "tcp-http",
            "tls",
            "mongo",
        ] {
            assert!(!is_http(&port(Some(name), None)), "{name}");
        }
        assert!(!is_http(&port(None, None)));
    }

    #[test]
    fn app_protocol_counts_before_the_name() {
        for protocol in [
            "http",
            "HTTP2",
            "grpc",
            "grpc-web",
            "kubernetes.io/h2c",
            "kubernetes.io/ws",
        ] {
            assert!(is_http(&port(Some("tcp"), Some(protocol))), "{protocol}");
        }
        for protocol in [
            "tcp",
            "https",
            "kubernetes.io/wss",
            "Kubernetes.io/H2C",
            "example.com/http",
            "",
        ] {
            assert!(!is_http(&port(Some("http"), Some(protocol))), "{protocol}");
        }
    }

    #[test]
    fn only_tcp_carries_http() {
        let udp = ServicePort {
            protocol: Some("UDP".to_owned()),
            ..port(Some("http"), None)
        };
        assert!(!is_http(&udp));
        assert!(is_http(&ServicePort {
            protocol: None,
            ..port(Some("http"), None)
        }));
    }

    #[test]
    fn http_ports_are_at_least_one_each_once_and_in_order() {
        assert_eq!(HttpPorts::numbered([]), None);
        assert_eq!(HttpPorts::numbered([0]), None);
        let ports = HttpPorts::numbered([8080, 80, 8080]);
        assert_eq!(
            ports.as_ref().map(HttpPorts::as_slice),
            Some([80, 8080].as_slice())
        );
        assert_eq!(HttpPorts::of(&[port(Some("tcp"), None)]), None);
    }
}
