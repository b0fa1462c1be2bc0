//! What is counted of the alerts that Alertmanagers are told of.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::registered;

/// What became of an alert that was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was taken.
    Success,
    /// It was in a request of which some were refused.
    Refused,
    /// It was not taken.
    Failure,
}

/// Metrics of alerts. Cloning shares them.
#[derive(Clone)]
pub struct AlertMetrics {
    firing: IntGaugeVec,
    left_out: IntGauge,
    sent: IntCounterVec,
    failing: IntGauge,
}

impl AlertMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let metrics = Self {
            firing: registered(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "catalog_mesh_alerts_firing",
                        "Alerts that fire as this replica sees it, by what they are about. Only the leader sends them.",
                    ),
                    &["about"],
                )?,
            )?,
            left_out: gauge(
                "catalog_mesh_alerts_left_out",
                "Alerts that would fire besides, and are not sent, since there are too many.",
            )?,
            sent: registered(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "catalog_mesh_alerts_sent_total",
                        "Alerts in requests to an Alertmanager, repetitions and ends among them, by how the request ended.",
                    ),
                    &["status"],
                )?,
            )?,
            failing: gauge(
                "catalog_mesh_alertmanagers_failing",
                "Alertmanagers that take no alerts.",
            )?,
        };
        for outcome in [Outcome::Success, Outcome::Refused, Outcome::Failure] {
            metrics.sent.with_label_values(&[label(outcome)]);
        }
        metrics.firing(0, 0, 0);
        Ok(metrics)
    }

    /// So many fire, of services and of endpoints, and so many more would.
    pub fn firing(&self, services: usize, endpoints: usize, left_out: usize) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        for (about, n) in [("service", services), ("endpoint", endpoints)] {
            self.firing.with_label_values(&[about]).set(number(n));
        }
        self.left_out.set(number(left_out));
    }

    /// A request with so many alerts ended.
    pub fn sent(&self, outcome: Outcome, alerts: usize) {
        self.sent
            .with_label_values(&[label(outcome)])
            .inc_by(alerts as u64);
    }

    /// An Alertmanager takes no alerts, or takes them again.
    pub fn failing(&self, failing: bool) {
        self.failing.add(if failing { 1 } else { -1 });
    }
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "success",
        Outcome::Refused => "refused",
        Outcome::Failure => "failure",
    }
}
