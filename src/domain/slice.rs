//! Who serves behind a Service, as one of its EndpointSlices says. Kept for
//! every slice of the cluster, so it is packed. No IO.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use internment::ArcIntern;

/// An EndpointSlice as far as it is remembered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SliceView {
    /// Name of its Service, in its own namespace; empty where it has none.
    pub service: Box<str>,
    /// Its TCP ports.
    pub ports: Box<[SlicePort]>,
    /// Who serves; one entry for each address.
    pub endpoints: Box<[SliceEndpoint]>,
}

/// A port that all endpoints of the slice serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlicePort {
    /// Name of the Service's port; empty where that has none.
    pub name: Box<str>,
    /// The number.
    pub port: u16,
}

/// One address that serves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SliceEndpoint {
    /// The address.
    pub address: IpAddr,
    /// Whether it takes traffic.
    pub ready: bool,
    /// Whether it is about to end.
    pub terminating: bool,
    /// Zone of its node.
    pub zone: Option<Zone>,
    /// The Pod behind it, where it is one; shared with who is checked.
    pub pod: Option<Arc<str>>,
}

/// A zone. There are a handful in a cluster, so each is in memory once. Cheap to clone,
/// and as large as a pointer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Zone(ArcIntern<Box<str>>);

impl From<&str> for Zone {
    fn from(name: &str) -> Self {
        Self(ArcIntern::from_ref(name))
    }
}

impl Deref for Zone {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_small_and_its_zone_is_in_memory_once() {
        let size = size_of::<SliceEndpoint>();
        assert!(size <= 48, "{size}");
        let [one, same, other] = ["a", "a", "b"].map(Zone::from);
        assert_eq!((&*one, &*same, &*other), ("a", "a", "b"));
        assert_eq!(one.as_ptr(), same.as_ptr());
        assert_eq!(one, same);
        assert_ne!(one, other);
    }
}
