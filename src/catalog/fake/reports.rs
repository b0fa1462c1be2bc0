//! What was reported to the catalog in memory, judged by position as the
//! contract says. No IO.

use std::collections::{BTreeMap, HashMap};

use super::super::report::{EndpointReport, HealthReport, ItemOutcome, WriterPosition};
use super::FakeCatalog;

/// Epoch and sequence.
type Position = (u64, u64);

/// The two kinds of report, whose positions are counted apart.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
enum Kind {
    Health,
    Endpoints,
}

/// The reports that arrived, and the highest positions.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) health: Vec<(WriterPosition, HealthReport)>,
    pub(super) endpoints: Vec<(WriterPosition, EndpointReport)>,
    /// Cluster → its highest position.
    clusters: HashMap<String, Position>,
    services: HashMap<(String, String, Kind), Position>,
    /// Services of which every report is refused, and why.
    pub(super) invalid: HashMap<String, String>,
    /// Health reports fail.
    pub(super) no_health: bool,
    /// Cluster and service → how many endpoints it has.
    taken: BTreeMap<(String, String), usize>,
}

impl FakeCatalog {
    /// Lets every health report fail, or none any more.
    pub fn fail_health(&self, fail: bool) {
        self.state().reports.no_health = fail;
    }

    /// How many endpoints it has of each service of this cluster.
    pub fn taken_endpoints(&self, cluster: &str) -> BTreeMap<String, usize> {
        self.state().reports.taken(cluster)
    }

    /// The health reports that arrived, in order.
    pub fn health_reports(&self) -> Vec<(WriterPosition, HealthReport)> {
        self.state().reports.health.clone()
    }

    /// The endpoint reports that arrived, in order.
    pub fn endpoint_reports(&self) -> Vec<(WriterPosition, EndpointReport)> {
        self.state().reports.endpoints.clone()
    }

    /// Somebody else writes as this cluster, at this position.
    pub fn overtake(&self, cluster: &str, epoch: u64, sequence: u64) {
        self.state().reports.overtake(cluster, epoch, sequence);
    }

    /// Refuses every report about this service.
    pub fn refuse_reports(&self, id: &str, why: &str) {
        let (id, why) = (id.to_owned(), why.to_owned());
        self.state().reports.invalid.insert(id, why);
    }
}

impl Reports {
    /// What becomes of a health report about a service that is there or not.
    pub(super) fn health(
        &mut self,
        writer: &WriterPosition,
        report: &HealthReport,
        there: bool,
    ) -> ItemOutcome {
        self.health.push((writer.clone(), report.clone()));
        self.judge(writer, &report.service_id, Kind::Health, there)
    }

    /// What becomes of a list of endpoints.
    pub(super) fn endpoints(
        &mut self,
        writer: &WriterPosition,
        report: &EndpointReport,
        there: bool,
    ) -> ItemOutcome {
        self.endpoints.push((writer.clone(), report.clone()));
        let outcome = self.judge(writer, &report.service_id, Kind::Endpoints, there);
        if outcome == ItemOutcome::Accepted {
            let of = (writer.cluster.clone(), report.service_id.clone());
            self.taken.insert(of, report.endpoints.len());
        }
        outcome
    }

    /// How many endpoints it has of each service of this cluster.
    pub(super) fn taken(&self, cluster: &str) -> BTreeMap<String, usize> {
        let of = self.taken.iter().filter(|((of, _), _)| of == cluster);
        of.map(|((_, id), count)| (id.clone(), *count)).collect()
    }

    /// Somebody writes as this cluster.
    pub(super) fn overtake(&mut self, cluster: &str, epoch: u64, sequence: u64) {
        self.clusters.insert(cluster.to_owned(), (epoch, sequence));
        for ((of, ..), position) in &mut self.services {
            if of == cluster {
                *position = (epoch, sequence).max(*position);
            }
        }
    }

    fn judge(&mut self, writer: &WriterPosition, id: &str, kind: Kind, there: bool) -> ItemOutcome {
        let position = (writer.epoch, writer.sequence);
        let cluster = self.clusters.entry(writer.cluster.clone()).or_default();
        *cluster = (*cluster).max(position);
        let outdated = |(epoch, sequence)| ItemOutcome::Outdated { epoch, sequence };
        if !there {
            return ItemOutcome::NotFound;
        }
        if let Some(why) = self.invalid.get(id) {
            return ItemOutcome::Invalid(why.clone());
        }
        if position.0 < cluster.0 {
            return outdated(*cluster);
        }
        let of = (writer.cluster.clone(), id.to_owned(), kind);
        let known = self.services.entry(of).or_default();
        if position < *known {
            return outdated(*known);
        }
        *known = position;
        ItemOutcome::Accepted
    }
}
