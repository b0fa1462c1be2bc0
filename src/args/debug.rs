//! Where the pages for people are.

use std::net::SocketAddr;
use std::str::FromStr;

/// Where the pages below /debug/ are, if anywhere: on loopback.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DebugListen(pub Option<SocketAddr>);

impl FromStr for DebugListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| "expected an address such as 127.0.0.1:8081, or `off`".to_owned())?;
        if !address.ip().is_loopback() {
            return Err("must be an address of loopback, such as 127.0.0.1:8081: these pages are for whoever may forward a port, and for nobody else".to_owned());
        }
        Ok(Self(Some(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_or_nothing_is_listened_on() {
        assert_eq!("off".parse(), Ok(DebugListen(None)));
        for good in ["127.0.0.1:8081", "[::1]:0"] {
            assert!(good.parse::<DebugListen>().is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:8081", "[::]:8081", "10.0.0.1:80", "8081", "on", ""] {
            assert!(bad.parse::<DebugListen>().is_err(), "{bad}");
        }
    }
}
