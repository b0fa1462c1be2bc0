//! Has anything changed around a binding since? Counted for many Services together,
//! so that where nothing has, that is known without a look at any object.
//!
//! Whatever a look at a binding reads counts for the Service that it names: the
//! Service itself, every binding to it, every rule of its name or for its host.
//! What is read for many Services, as Namespaces and rules with a wildcard are,
//! counts for all. That the one is counted for the other costs a comparison of
//! versions, and no more.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::controller::mirror::Id;

/// So many counts there are: with some ten changes a second around ten thousand
/// Services that are looked at every thirty, three of four looks are spared.
const COUNTS: u64 = 1024;

/// How often anything changed.
#[derive(Debug)]
pub(super) struct Touched {
    all: u32,
    counts: Box<[u32]>,
}

/// How often that was around one Service, when somebody asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    all: u32,
    count: u32,
    place: u16,
}

impl Default for Touched {
    fn default() -> Self {
        Self {
            all: 0,
            counts: (0..COUNTS).map(|_| 0).collect(),
        }
    }
}

impl Touched {
    /// Something changed that is read for many Services.
    pub(super) fn everything(&mut self) {
        self.all = self.all.wrapping_add(1);
    }

    /// Something changed that is read for this Service.
    pub(super) fn service(&mut self, service: &Id) {
        if let Some(count) = self.counts.get_mut(usize::from(place(service))) {
            *count = count.wrapping_add(1);
        }
    }

    /// As it is now.
    pub(super) fn stamp(&self, service: &Id) -> Stamp {
        self.at(place(service))
    }

    /// Whether nothing has changed since.
    pub(super) fn is_still(&self, stamp: Stamp) -> bool {
        self.at(stamp.place) == stamp
    }

    fn at(&self, place: u16) -> Stamp {
        Stamp {
            all: self.all,
            count: self.counts.get(usize::from(place)).copied().unwrap_or(0),
            place,
        }
    }
}

fn place(service: &Id) -> u16 {
    let mut hash = DefaultHasher::new();
    service.hash(&mut hash);
    u16::try_from(hash.finish() % COUNTS).unwrap_or_default()
}
