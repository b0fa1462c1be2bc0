//! Which endpoints of a Service may be checked? What stands in EndpointSlices
//! can be made by hand, so none is believed alone:
//!
//! 1. An address is checked only where a Pod of the Service's own namespace has
//!    it among its addresses, the slice names that Pod, and the Pod is not on
//!    its node's network. So no check ever goes to a node, to the API server,
//!    to another namespace, or out of the cluster, whatever a slice says.
//! 2. Addresses that mean something else to whoever connects (loopback,
//!    link-local, multicast, an IPv4 address inside of an IPv6 one) never are.
//! 3. Only what is ready and not about to end is checked; of several slices
//!    that list an endpoint, as while it moves, one that says so is enough.
//! 4. A Pod is checked by one address: of those that are listed, the first in
//!    the Pod's own order.
//! 5. The port is that of the check, else the target of the Service's first
//!    HTTP port, as the slice has it.
//! 6. At most [`MOST`] endpoints of a Service are checked.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::address::Address;
use super::ejection::PodId;
use crate::domain::inputs::ServiceView;
use crate::domain::pod::KnownPod;
use crate::domain::policy::HealthCheck;
use crate::domain::ports::is_http;
use crate::domain::slice::{SliceEndpoint, SliceView};

/// Most endpoints of one Service that are checked; as many as the catalog is
/// told of.
pub const MOST: usize = 1_000;

/// Most exclusions that are listed; the rest is counted.
pub const MOST_EXCLUDED: usize = 1_000;

/// A Service with all that is known of who serves behind it.
#[derive(Clone, Debug, Default)]
pub struct Behind {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The Service, if it is there.
    pub service: Option<ServiceView>,
    /// Its slices.
    pub slices: Vec<Arc<SliceView>>,
    /// Pods of the namespace by name; at least those that the slices name.
    pub pods: BTreeMap<String, KnownPod>,
}

/// An endpoint that is checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The Pod.
    pub pod: Arc<PodId>,
    /// Where it is checked.
    pub address: Address,
}

/// Why an address is not checked, in the order in which it is looked at.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Excluded {
    /// It means something else to whoever connects.
    Special,
    /// The slice names no Pod with it.
    NoPod,
    /// There is no such Pod in the namespace.
    UnknownPod,
    /// The Pod has its node's addresses.
    HostNetwork,
    /// The Pod does not have this address.
    NotItsAddress,
    /// There is no port to check.
    NoPort,
    /// The Pod is about to end.
    Terminating,
    /// The slice says that it is not ready.
    NotReady,
    /// The Pod is checked by another of its addresses.
    AnotherAddress,
    /// There are more than are checked.
    TooMany,
}

/// An address that is not checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exclusion {
    /// The address.
    pub address: IpAddr,
    /// The Pod, where it really has this address.
    pub pod: Option<Arc<PodId>>,
    /// Why.
    pub why: Excluded,
}

/// Who is checked and who is not, each in the order of the addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Targets {
    /// Who is, each Pod once.
    pub targets: Vec<Target>,
    /// Who is not, and why.
    pub excluded: Vec<Exclusion>,
    /// How many more are not.
    pub unlisted: usize,
}

impl Targets {
    /// The Pods behind the Service that are not ready, so that they are not
    /// checked, but may be out of the mesh and are to stay so.
    pub fn unready(&self) -> impl Iterator<Item = &Arc<PodId>> {
        let waits = |e: &&Exclusion| e.why == Excluded::NotReady;
        self.excluded.iter().filter(waits).filter_map(|exclusion| {
            let pod = exclusion.pod.as_ref()?;
            let checked = self.targets.iter().any(|target| target.pod == *pod);
            (!checked).then_some(pod)
        })
    }
}

/// Who behind the Service is checked this way.
pub fn targets(behind: &Behind, check: &HealthCheck) -> Targets {
    let Some(service) = &behind.service else {
        return Targets::default();
    };
    let http = service.ports.iter().find(|port| is_http(port));
    let http = http.map(|port| port.name.as_deref().unwrap_or_default());
    let mut judged: BTreeMap<IpAddr, Result<Target, Exclusion>> = BTreeMap::new();
    for slice in &behind.slices {
        let of_slice = slice.ports.iter().find(|port| Some(&*port.name) == http);
        let port = check.port.or(of_slice.map(|port| port.port));
        for endpoint in &slice.endpoints {
            let new = judge(behind, endpoint, port);
            match judged.get_mut(&endpoint.address) {
                None => {
                    judged.insert(endpoint.address, new);
                }
                Some(known) if rank(&new) > rank(known) => *known = new,
                Some(_) => {}
            }
        }
    }
    one_each(behind, judged)
}

/// Which of two judgements on an address counts.
fn rank(judged: &Result<Target, Exclusion>) -> (bool, Option<Excluded>, Option<u16>) {
    match judged {
        Ok(target) => (true, None, Some(target.address.port)),
        Err(exclusion) => (false, Some(exclusion.why), None),
    }
}

fn judge(
    behind: &Behind,
    endpoint: &SliceEndpoint,
    port: Option<u16>,
) -> Result<Target, Exclusion> {
    let exclusion = |why| Exclusion {
        address: endpoint.address,
        pod: None,
        why,
    };
    if is_special(endpoint.address) {
        return Err(exclusion(Excluded::Special));
    }
    let name = endpoint.pod.as_ref().filter(|name| !name.is_empty());
    let name = name.ok_or(exclusion(Excluded::NoPod))?;
    let pod = behind.pods.get(&**name);
    let pod = pod.ok_or(exclusion(Excluded::UnknownPod))?;
    if pod.view.host_network {
        return Err(exclusion(Excluded::HostNetwork));
    }
    if !pod.view.addresses.contains(&endpoint.address) {
        return Err(exclusion(Excluded::NotItsAddress));
    }
    let key = (Arc::clone(&behind.namespace), Arc::clone(name));
    let this = PodId::shared(key, pod.uid.clone());
    let of_the_pod = |why| Exclusion {
        pod: Some(Arc::clone(&this)),
        ..exclusion(why)
    };
    let port = port.ok_or_else(|| of_the_pod(Excluded::NoPort))?;
    if endpoint.terminating || pod.view.terminating {
        return Err(of_the_pod(Excluded::Terminating));
    }
    if !endpoint.ready {
        return Err(of_the_pod(Excluded::NotReady));
    }
    Ok(Target {
        pod: this,
        address: (endpoint.address, port).into(),
    })
}

/// Each Pod by one address, and not more than are checked.
fn one_each(behind: &Behind, judged: BTreeMap<IpAddr, Result<Target, Exclusion>>) -> Targets {
    let place = |target: &Target| {
        let pod = behind.pods.get(&*target.pod.1);
        pod.and_then(|pod| {
            let mut addresses = pod.view.addresses.iter();
            addresses.position(|address| *address == target.address.ip)
        })
    };
    let mut first: BTreeMap<Arc<PodId>, (Option<usize>, IpAddr)> = BTreeMap::new();
    for target in judged.values().filter_map(|judged| judged.as_ref().ok()) {
        let this = (place(target), target.address.ip);
        let known = first.entry(Arc::clone(&target.pod)).or_insert(this);
        *known = this.min(*known);
    }
    let mut found = Targets::default();
    for (address, judged) in judged {
        let exclusion = match judged {
            Ok(target) => {
                let is_first = first.get(&target.pod).is_some_and(|(_, of)| *of == address);
                if is_first && found.targets.len() < MOST {
                    found.targets.push(target);
                    continue;
                }
                Exclusion {
                    address,
                    pod: Some(target.pod),
                    why: if is_first {
                        Excluded::TooMany
                    } else {
                        Excluded::AnotherAddress
                    },
                }
            }
            Err(exclusion) => exclusion,
        };
        if found.excluded.len() < MOST_EXCLUDED {
            found.excluded.push(exclusion);
        } else {
            found.unlisted += 1;
        }
    }
    // They are kept for as long as nothing changes.
    found.targets.shrink_to_fit();
    found.excluded.shrink_to_fit();
    found
}

/// Whether the address does not stand for one Pod of a cluster.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => is_special_four(four),
        IpAddr::V6(six) => is_special_six(six),
    }
}

fn is_special_four(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
}

/// The last ones are where an IPv4 address hides: mapped or "compatible",
/// translated, NAT64's own prefixes, 6to4 and Teredo.
fn is_special_six(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
        || (parts[..5] == [0; 5] && matches!(parts[5], 0 | 0xffff))
        || parts[..6] == [0, 0, 0, 0, 0xffff, 0]
        || (parts[0] == 0x64 && parts[1] == 0xff9b)
        || parts[0] == 0x2002
        || (parts[0] == 0x2001 && parts[1] == 0)
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Special => "the address does not stand for one Pod",
            Self::NoPod => "the EndpointSlice names no Pod",
            Self::UnknownPod => "there is no such Pod in the Service's namespace",
            Self::HostNetwork => "the Pod is on its node's network",
            Self::NotItsAddress => "the Pod does not have this address",
            Self::NoPort => "neither healthCheck.port nor an HTTP port of the Service says where",
            Self::Terminating => "the Pod is about to end",
            Self::NotReady => "the endpoint is not ready",
            Self::AnotherAddress => "the Pod is checked by another of its addresses",
            Self::TooMany => "the Service has more endpoints than are checked",
        })
    }
}

#[cfg(test)]
mod tests;
