//! A service's record as the catalog gives it.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::label_set::LabelSet;
use super::names::CatalogServiceId;
use crate::api::policy::{CircuitBreaker, ConnectionPool, HealthCheck, LoadBalancing};

/// What the catalog's owners wrote about a service.
///
/// The shape of the Catalog API; unknown fields are tolerated. Durations and
/// numbers are as they came: `policy` parses and bounds them, so that a bad
/// value names its field.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRecord {
    /// ID of the service in the catalog.
    pub id: String,
    /// Name of the service; the Kubernetes Service of that name is its own.
    pub name: String,
    /// Namespace of the service.
    pub namespace: String,
    /// Labels that the owners set.
    #[serde(default)]
    pub labels: LabelSet,
    /// Revision of the catalog at which the owners last changed the record;
    /// reports of health and endpoints do not move it.
    pub revision: u64,
    /// How long a request may take.
    #[serde(default)]
    pub timeout: Option<String>,
    /// How often a failed request is tried again.
    #[serde(default)]
    pub retries: Option<RecordRetries>,
    /// When Envoy takes a failing endpoint out by itself.
    #[serde(default)]
    pub circuit_breaker: Option<Box<CircuitBreaker>>,
    /// How requests are spread over the endpoints.
    #[serde(default)]
    pub load_balancing: Option<Box<LoadBalancing>>,
    /// Limits on connections and requests.
    #[serde(default)]
    pub connection_pool: Option<Box<ConnectionPool>>,
    /// How endpoints are checked.
    #[serde(default)]
    pub health_check: Option<Box<HealthCheck>>,
}

/// Retries as the catalog gives them: a number, or a policy.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(
    untagged,
    expecting = "expected a number of attempts, or {attempts, perTryTimeout, retryOn}"
)]
pub enum RecordRetries {
    /// Attempts after the first.
    Attempts(i32),
    /// Attempts and when they are made.
    Policy(Box<RetryPolicy>),
}

/// Attempts and when they are made.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// Attempts after the first.
    #[serde(default)]
    pub attempts: Option<i32>,
    /// How long one attempt may take.
    #[serde(default)]
    pub per_try_timeout: Option<String>,
    /// Envoy's conditions to retry on, separated by commas.
    #[serde(default)]
    pub retry_on: Option<String>,
}

/// Epoch and revision: a place in the catalog's history, written
/// `<epoch>.<revision>`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CatalogPosition {
    /// Changes when the catalog is restored from a backup.
    pub epoch: String,
    /// Grows with every change of the catalog, in commit order.
    pub revision: u64,
}

impl CatalogPosition {
    /// Reads `<epoch>.<revision>`. The epoch may hold dots itself.
    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, revision) = text.rsplit_once('.')?;
        let digits = !revision.is_empty() && revision.bytes().all(|byte| byte.is_ascii_digit());
        if epoch.is_empty() || !digits {
            return None;
        }
        Some(Self {
            epoch: epoch.to_owned(),
            revision: revision.parse().ok()?,
        })
    }
}

impl fmt::Display for CatalogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.revision)
    }
}

/// Which services a list is asked for; every part narrows it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServiceFilter {
    /// Only services of this namespace.
    pub namespace: Option<String>,
    /// Only services that carry all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only these services.
    pub ids: Vec<CatalogServiceId>,
}

impl ServiceFilter {
    /// Whether the filter leaves this record.
    pub fn admits(&self, record: &ServiceRecord) -> bool {
        self.admits_id(&record.id)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == record.namespace)
            && self
                .labels
                .iter()
                .all(|(name, value)| record.labels.get(name) == Some(value.as_str()))
    }

    /// Whether the filter leaves a record of this ID, as far as the ID says.
    pub fn admits_id(&self, id: &str) -> bool {
        self.ids.is_empty() || self.ids.iter().any(|wanted| wanted.as_str() == id)
    }
}

/// A complete list, all pages of one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceList {
    /// The position that every page was pinned to.
    pub position: CatalogPosition,
    /// The services, ordered by ID. One that could not be read is its ID and
    /// the reason, so that a bad record never hides the others.
    pub services: Vec<Result<ServiceRecord, BadRecord>>,
}

/// A record that could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct BadRecord {
    /// ID of the record, as far as it is known.
    pub id: Option<String>,
    /// Its revision, as far as it is known.
    pub revision: Option<u64>,
    /// Path of the offending field, as in `circuitBreaker.interval`.
    pub field: String,
    /// What is wrong with it, and what is expected.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_few_records_have_stands_apart_from_what_all_have() {
        let size = size_of::<ServiceRecord>();
        assert!(size <= 168, "{size}");
    }

    #[test]
    fn a_position_reads_as_it_is_written_and_only_so() {
        for text in ["0badcafe.12", "a.b.0", "e.18446744073709551615"] {
            let position = CatalogPosition::parse(text).unwrap();
            assert_eq!(position.to_string(), text);
        }
        for text in [
            "",
            "12",
            "a.",
            ".1",
            "a.-1",
            "a.+1",
            "a. 1",
            "a.99999999999999999999",
        ] {
            assert_eq!(CatalogPosition::parse(text), None, "{text:?}");
        }
    }
}
