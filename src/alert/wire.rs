//! What does an alert look like in Alertmanager's API, version 2? Labels,
//! annotations and times; nothing of what an endpoint sent is in them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::ledger::Posting;
use super::value::{Alert, What};

/// An alert as it is posted.
#[derive(Debug, Serialize)]
pub(super) struct Postable {
    labels: BTreeMap<&'static str, String>,
    annotations: BTreeMap<&'static str, String>,
    #[serde(rename = "startsAt")]
    starts_at: String,
    #[serde(rename = "endsAt")]
    ends_at: String,
}

/// The body of a request.
pub(super) fn body(postings: &[Posting]) -> Vec<Postable> {
    postings.iter().map(postable).collect()
}

fn postable(posting: &Posting) -> Postable {
    // One that ends before it starts is refused; clocks are set back.
    let starts = posting.alert.since.min(posting.ends);
    Postable {
        labels: labels(&posting.alert),
        annotations: annotations(&posting.alert),
        starts_at: format!("{starts:.3}"),
        ends_at: format!("{:.3}", posting.ends),
    }
}

fn labels(alert: &Alert) -> BTreeMap<&'static str, String> {
    let service = &alert.service;
    let mut labels = BTreeMap::from([
        ("namespace", service.service.namespace.to_string()),
        ("service", service.service.name.to_string()),
        ("catalog_service_id", service.catalog_service_id.to_string()),
        ("binding", service.binding.to_string()),
    ]);
    if let Some(cluster) = &service.cluster {
        labels.insert("cluster", cluster.to_string());
    }
    let (name, severity) = match &alert.what {
        What::Service { .. } => ("CatalogMeshServiceUnhealthy", "critical"),
        What::Endpoint { pod, address, .. } => {
            labels.insert("pod", pod.clone());
            labels.insert("endpoint", address.to_string());
            ("CatalogMeshEndpointUnhealthy", "warning")
        }
    };
    labels.insert("alertname", name.to_owned());
    labels.insert("severity", severity.to_owned());
    labels
}

fn annotations(alert: &Alert) -> BTreeMap<&'static str, String> {
    let service = &alert.service.service;
    let (summary, description) = match &alert.what {
        What::Service { healthy, judged } => (
            format!("Service {service} is unhealthy"),
            format!("Healthy endpoints: {healthy} of {judged} that were judged."),
        ),
        What::Endpoint {
            pod,
            address,
            failure,
            out,
        } => {
            let place = if *out {
                format!("Pod {pod} was taken out of the mesh.")
            } else {
                format!("Pod {pod} stays in the mesh.")
            };
            (
                format!("Endpoint {address} of Service {service} is unhealthy"),
                format!("Its health check failed: {failure}. {place}"),
            )
        }
    };
    BTreeMap::from([("summary", summary), ("description", description)])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::super::fixtures::{endpoint, service, taken_out};
    use super::super::value::Service;
    use super::*;
    use crate::domain::names::ClusterId;

    fn posted(alert: Alert, ends: &str) -> Value {
        let posting = Posting {
            subject: alert.subject(),
            alert: Arc::new(alert),
            ends: ends.parse().unwrap(),
        };
        serde_json::to_value(body(&[posting])).unwrap()[0].take()
    }

    #[test]
    fn an_endpoint_is_named_by_its_labels_and_described_by_how_it_failed() {
        assert_eq!(
            posted(endpoint(1), "1970-01-01T01:00:00.123456Z"),
            json!({
                "labels": {
                    "alertname": "CatalogMeshEndpointUnhealthy",
                    "severity": "warning",
                    "namespace": "shop",
                    "service": "web",
                    "pod": "web-1",
                    "endpoint": "10.0.0.1:8080",
                    "catalog_service_id": "svc-1",
                    "binding": "teams/web-binding",
                },
                "annotations": {
                    "summary": "Endpoint 10.0.0.1:8080 of Service shop/web is unhealthy",
                    "description": "Its health check failed: the connection was refused. Pod web-1 stays in the mesh.",
                },
                "startsAt": "1970-01-01T00:16:40.000Z",
                "endsAt": "1970-01-01T01:00:00.123Z",
            })
        );
        let out = posted(taken_out(endpoint(1)), "1970-01-01T01:00:00Z");
        let description = out["annotations"]["description"].as_str().unwrap();
        assert!(
            description.ends_with("Pod web-1 was taken out of the mesh."),
            "{description}"
        );
    }

    #[test]
    fn a_service_is_critical_and_its_cluster_is_named_where_it_is_known() {
        let mut alert = service();
        alert.service = Arc::new(Service {
            cluster: Some(ClusterId::parse("east").unwrap()),
            ..Service::clone(&alert.service)
        });
        let posted = posted(alert, "1970-01-01T01:00:00Z");
        assert_eq!(
            posted["labels"],
            json!({
                "alertname": "CatalogMeshServiceUnhealthy",
                "severity": "critical",
                "namespace": "shop",
                "service": "web",
                "catalog_service_id": "svc-1",
                "binding": "teams/web-binding",
                "cluster": "east",
            })
        );
        assert_eq!(
            posted["annotations"]["description"],
            "Healthy endpoints: 1 of 4 that were judged."
        );
    }

    #[test]
    fn an_alert_never_ends_before_it_starts() {
        let posted = posted(endpoint(1), "1970-01-01T00:00:01Z");
        assert_eq!(posted["startsAt"], posted["endsAt"]);
        let starts: Timestamp = posted["startsAt"].as_str().unwrap().parse().unwrap();
        assert_eq!(starts, Timestamp::from_second(1).unwrap());
    }
}
