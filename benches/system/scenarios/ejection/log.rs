//! What did clients get, and from whom? What Envoy wrote down of the requests
//! to each Service.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use super::case::Case;
use crate::support::envoy::{Envoy, Logged};

/// All requests so far, by host.
pub(super) struct Log(BTreeMap<String, Vec<Logged>>);

/// Those to one Service.
pub(super) struct Requests<'a> {
    all: &'a [Logged],
    case: &'a Case,
    /// The address of the endpoint that fails, up to its port.
    bad: String,
}

impl Log {
    pub(super) fn read(envoy: &Envoy) -> Result<Self> {
        let mut by_host: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for request in envoy.requests()? {
            by_host
                .entry(request.host.clone())
                .or_default()
                .push(request);
        }
        Ok(Self(by_host))
    }

    pub(super) fn of<'a>(&'a self, case: &'a Case) -> Result<Requests<'a>> {
        let all = self.0.get(&case.host());
        Ok(Requests {
            all: all.with_context(|| format!("{} was not called", case.host()))?,
            case,
            bad: format!("{}:", case.bad()),
        })
    }
}

impl Requests<'_> {
    fn began(&self, within: &Range<SystemTime>) -> impl Iterator<Item = &Logged> {
        self.all
            .iter()
            .filter(|request| within.contains(&request.began))
    }

    fn tried(&self, within: &Range<SystemTime>) -> impl Iterator<Item = &Logged> {
        // Nothing is tried twice, so that the one that was chosen is the only one.
        let at_the_bad = |request: &&Logged| {
            let chosen = request.chosen.as_deref().unwrap_or_default();
            chosen.starts_with(&self.bad)
        };
        self.began(within).filter(at_the_bad)
    }

    /// When the last one came that was sent to the endpoint that fails.
    pub(super) fn last_at_the_bad(&self, within: &Range<SystemTime>) -> Result<SystemTime> {
        let last = self.tried(within).map(|request| request.began).max();
        let (kind, setting) = (self.case.kind.name, self.case.setting.name);
        last.with_context(|| format!("one that {kind} ({setting}) had no request that tells"))
    }

    /// When the first one came that it served well again.
    pub(super) fn first_served_after(&self, healed: SystemTime) -> Result<SystemTime> {
        let since = healed..SystemTime::now();
        let served = self.tried(&since).filter(|request| request.status == 200);
        let first = served.map(|request| request.began).min();
        first.with_context(|| format!("one that {} did not serve again", self.case.kind.name))
    }

    /// How many were sent to the endpoint that fails.
    pub(super) fn at_the_bad(&self, within: &Range<SystemTime>) -> usize {
        self.tried(within).count()
    }

    pub(super) fn sent(&self, since: SystemTime) -> usize {
        self.began(&(since..SystemTime::now())).count()
    }

    pub(super) fn failed(&self, within: &Range<SystemTime>) -> usize {
        self.began(within)
            .filter(|request| request.status != 200)
            .count()
    }
}
