//! How does the way to some addresses go, and come back, while all else goes
//! on? By routes of the rig's own network namespace that are more specific than
//! those by which every address of it is local. Inside only.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope, RouteType};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::JoinHandle;

/// What becomes of packets to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// Whoever sends one is told that there is no way there; on a connection
    /// that exists they are lost.
    Blocked,
    /// They are lost.
    Swallowed,
}

/// Routes to nowhere. They stay when this is dropped.
pub struct Cut {
    routes: Vec<RouteMessage>,
}

/// The routing table in which local addresses are.
const LOCAL_TABLE: u32 = 255;

/// A pair of devices that nobody listens on.
const NOWHERE: [&str; 2] = ["nowhere-a", "nowhere-b"];

impl Cut {
    /// From now on nobody in the namespace reaches these networks, each an
    /// address and the length of its prefix.
    pub async fn make(way: Way, networks: &[(Ipv4Addr, u8)]) -> Result<Self> {
        let (netlink, connection) = connect()?;
        let to_nowhere = match way {
            Way::Blocked => None,
            Way::Swallowed => Some(nowhere(&netlink).await?),
        };
        let mut routes = Vec::new();
        for (address, length) in networks {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(*address, *length)
                .table_id(LOCAL_TABLE);
            let route = match to_nowhere {
                None => route.kind(RouteType::Unreachable),
                Some(device) => route.scope(RouteScope::Link).output_interface(device),
            };
            let route = route.build();
            let added = netlink.route().add(route.clone()).execute().await;
            added.with_context(|| format!("cannot cut {address}/{length} off"))?;
            routes.push(route);
        }
        connection.abort();
        Ok(Self { routes })
    }

    /// The way is there again.
    pub async fn mend(self) -> Result<()> {
        let (netlink, connection) = connect()?;
        for route in self.routes {
            let gone = netlink.route().del(route).execute().await;
            gone.context("cannot take a route to nowhere away")?;
        }
        connection.abort();
        Ok(())
    }
}

fn connect() -> Result<(Handle, JoinHandle<()>)> {
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    Ok((netlink, tokio::spawn(connection)))
}

/// A device into which packets go and do not come out.
async fn nowhere(netlink: &Handle) -> Result<u32> {
    let [near, far] = NOWHERE;
    let find = async |name: &str| {
        let mut found = netlink.link().get().match_name(name.to_owned()).execute();
        found.try_next().await.ok().flatten()
    };
    if find(near).await.is_none() {
        let pair = LinkVeth::new(near, far).build();
        let made = netlink.link().add(pair).execute().await;
        made.context("cannot make a pair of devices")?;
    }
    let mut index = 0;
    for name in [far, near] {
        let device = find(name).await.context("the device is not there")?;
        index = device.header.index;
        let up = LinkUnspec::new_with_index(index).up().build();
        netlink.link().set(up).execute().await?;
    }
    Ok(index)
}
