//! Where is an endpoint checked? An address and a port, without the parts of a socket's
//! address that no endpoint has: of each endpoint there are several.

use std::fmt;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::str::FromStr;

/// Where an endpoint is checked. Ordered as socket addresses are.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    /// Address of the Pod.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Where to connect to.
    pub fn socket(self) -> SocketAddr {
        (self.ip, self.port).into()
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for Address {
    fn from((ip, port): (I, u16)) -> Self {
        let ip = ip.into();
        Self { ip, port }
    }
}

impl From<SocketAddr> for Address {
    fn from(of: SocketAddr) -> Self {
        (of.ip(), of.port()).into()
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse().map(|of: SocketAddr| of.into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket().fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_and_ordered_as_that_of_a_socket_and_is_smaller() {
        let texts = ["10.0.0.9:80", "10.0.0.10:8", "10.0.0.10:80", "[fd00::1]:1"];
        let all = texts.map(|text| text.parse::<Address>().unwrap());
        assert_eq!(all.map(|address| address.to_string()), texts);
        assert!(all.is_sorted() && all.map(Address::socket).is_sorted());
        assert_eq!(Address::from(all[3].socket()), all[3]);
        assert!(size_of::<Address>() <= 20);
    }
}
