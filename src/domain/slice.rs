//! Who serves behind a Service, as one of its EndpointSlices says. Kept for
//! every slice of the cluster, so it is packed. No IO.

use std::net::IpAddr;
use std::sync::Arc;

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
    /// Zone of its node; shared by the endpoints of a slice.
    pub zone: Option<Arc<str>>,
    /// The Pod behind it, where it is one.
    pub pod: Option<Box<str>>,
}
