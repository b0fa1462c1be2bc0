//! What does the fake catalog hold, and what does it answer from that? Plain
//! values, no time and no IO.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::Calls;
use super::reports::Reports;
use crate::catalog::error::CatalogError;
use crate::catalog::event::{CatalogEvent, EventKind};
use crate::domain::record::{
    BadRecord, CatalogPosition, ServiceFilter, ServiceList, ServiceRecord,
};

pub(super) type Services = BTreeMap<String, Result<Arc<ServiceRecord>, BadRecord>>;

#[derive(Default)]
pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) revision: u64,
    pub(super) services: Services,
    /// What reads of single services see instead, as of a replica that lags.
    pub(super) lagging: Option<Services>,
    pub(super) failures: VecDeque<CatalogError>,
    /// All calls fail so.
    pub(super) away: Option<CatalogError>,
    /// Reads of this service alone fail so.
    pub(super) broken: BTreeMap<String, CatalogError>,
    /// No stream is opened, with this error.
    pub(super) no_streams: Option<CatalogError>,
    pub(super) delay: Duration,
    /// Answers to reads of single services are on their way for so long.
    pub(super) late: Duration,
    pub(super) under_way: usize,
    pub(super) calls: Calls,
    pub(super) reports: Reports,
    pub(super) log: Vec<CatalogEvent>,
    /// Events from before this revision cannot be replayed.
    pub(super) floor: u64,
    /// What every open stream says next, whatever it stands at.
    pub(super) said: Vec<CatalogEvent>,
    /// How often all streams were cut.
    pub(super) cuts: u64,
    /// Streams say nothing at all, not even bookmarks.
    pub(super) silent: bool,
}

impl State {
    pub(super) fn position(&self) -> CatalogPosition {
        CatalogPosition {
            epoch: self.epoch.to_string(),
            revision: self.revision,
        }
    }

    /// What a stream that stands there has to say next.
    pub(super) fn after(&self, stands: &CatalogPosition) -> Option<CatalogEvent> {
        if self.silent {
            return None;
        }
        let now = self.position();
        let reason = if stands.epoch != now.epoch {
            Some("the token is of another epoch")
        } else if stands.revision > now.revision {
            Some("the token is ahead of the catalog")
        } else if stands.revision < self.floor {
            Some("the token is below the retention floor")
        } else {
            None
        };
        if let Some(reason) = reason {
            let reason = reason.to_owned();
            return Some(CatalogEvent {
                position: now,
                kind: EventKind::Reset { reason },
            });
        }
        let later = |event: &&CatalogEvent| {
            event.position.epoch == stands.epoch && event.position.revision > stands.revision
        };
        self.log.iter().find(later).cloned()
    }

    pub(super) fn service(&self, id: &str) -> Result<Arc<ServiceRecord>, CatalogError> {
        if let Some(error) = self.broken.get(id) {
            return Err(error.clone());
        }
        match self.lagging.as_ref().unwrap_or(&self.services).get(id) {
            Some(Ok(record)) => Ok(record.clone()),
            Some(Err(bad)) => Err(CatalogError::BadRecord(bad.clone())),
            None => Err(CatalogError::NotFound),
        }
    }

    pub(super) fn list(&self, filter: &ServiceFilter) -> ServiceList {
        let services = self
            .services
            .iter()
            .filter_map(|(id, service)| match service {
                Ok(record) => filter.admits(record).then(|| Ok((**record).clone())),
                Err(bad) => filter.admits_id(id).then(|| Err(bad.clone())),
            });
        ServiceList {
            position: self.position(),
            services: services.collect(),
        }
    }
}
