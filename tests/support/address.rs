//! Which address is still free? Hands out those of the namespace's network,
//! each once. No IO.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};

use super::namespace::NETWORK;

/// The first ones are the rig's own.
const FIRST: u32 = 10;
const LAST: u32 = u16::MAX as u32 - 1;

/// Hands out addresses for pods and clients.
pub struct Addresses {
    next: AtomicU32,
}

impl Addresses {
    pub fn new() -> Self {
        Self {
            next: AtomicU32::new(FIRST),
        }
    }

    pub fn next(&self) -> Result<Ipv4Addr> {
        let offset = self.next.fetch_add(1, Ordering::Relaxed);
        if offset > LAST {
            bail!("all {LAST} addresses of the rig's network are handed out");
        }
        Ok(Ipv4Addr::from(u32::from(NETWORK) + offset))
    }
}
