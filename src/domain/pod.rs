//! A Pod as far as it is remembered. No IO.

use std::net::IpAddr;

use super::uid::Uid;

/// What is remembered of a Pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PodView {
    /// Its addresses, the primary one first.
    pub addresses: Box<[IpAddr]>,
    /// Whether it has its node's addresses.
    pub host_network: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// What says that it is out of the mesh; of nearly all Pods nothing does.
    pub marks: Option<Box<Marks>>,
}

/// What says that a Pod is out of the mesh, and who took it out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Marks {
    /// Value of Istio's label.
    pub draining: Option<Box<str>>,
    /// Value of our annotation; empty where it is too long to be ours.
    pub ejected: Option<Box<str>>,
}

/// A Pod with its identity.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KnownPod {
    /// Its uid: another Pod of the same name has another one.
    pub uid: Uid,
    /// Its resource version; 0 where that is no number.
    pub version: u64,
    /// What is remembered of it.
    pub view: PodView,
}
