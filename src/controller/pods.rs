//! From a Pod to what the world keeps of it. No IO.

use std::net::IpAddr;

use super::mirror::Seen;
use super::sources::seen;
use crate::api::pod::{DRAINING, EJECTED, Pod};
use crate::domain::pod::{Marks, PodView};

/// Finished Pods serve nobody and never will.
pub(crate) const UNFINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Longest annotation that is read as one of ours.
const LONGEST_NOTE: usize = 16 * 1024;

/// What is remembered of a Pod.
pub(crate) fn pod(pod: &Pod) -> Seen<PodView> {
    let addresses = pod.status.pod_ips.iter().flatten();
    let addresses = addresses.filter_map(|address| address.ip.parse::<IpAddr>().ok());
    let mut conditions = pod.status.conditions.iter().flatten();
    let label = pod.metadata.labels.as_ref().and_then(|l| l.get(DRAINING));
    let note = pod.metadata.annotations.as_ref();
    let view = PodView {
        addresses: addresses.collect(),
        host_network: pod.spec.host_network.unwrap_or(false),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        ready: conditions.any(|known| known.type_ == "Ready" && known.status == "True"),
        marks: marks(label, note.and_then(|a| a.get(EJECTED))),
    };
    seen(&pod.metadata, view)
}

/// The marks, where there is one.
pub(crate) fn marks(label: Option<&String>, note: Option<&String>) -> Option<Box<Marks>> {
    let ours = |note: &String| {
        let short = note.len() <= LONGEST_NOTE;
        if short { note.as_str() } else { "" }.into()
    };
    (label.is_some() || note.is_some()).then(|| {
        Box::new(Marks {
            draining: label.map(|value| value.as_str().into()),
            ejected: note.map(ours),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn view(status: Value, metadata: Value) -> PodView {
        let stored = json!({"metadata": metadata, "status": status});
        pod(&serde_json::from_value(stored).unwrap()).value
    }

    #[test]
    fn a_pod_is_ready_if_its_condition_says_so() {
        for (conditions, ready) in [
            (json!(null), false),
            (json!([{"type": "Ready", "status": "True"}]), true),
            (json!([{"type": "Ready", "status": "False"}]), false),
            (
                json!([{"type": "ContainersReady", "status": "True"}]),
                false,
            ),
        ] {
            let view = view(json!({"conditions": conditions}), json!({}));
            assert_eq!(view.ready, ready, "{conditions}");
        }
    }

    #[test]
    fn addresses_keep_their_order_and_what_is_none_is_passed_over() {
        let ips = json!([{"ip": "10.0.0.1"}, {"ip": ""}, {"ip": "fd00::1"}, {}]);
        let view = view(json!({"podIPs": ips}), json!({}));
        let told: Vec<_> = view.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["10.0.0.1", "fd00::1"]);
    }

    #[test]
    fn marks_are_kept_and_one_that_is_too_long_takes_no_memory() {
        assert_eq!(
            view(json!({}), json!({"labels": {"app": "web"}})).marks,
            None
        );
        let long = "x".repeat(LONGEST_NOTE + 1);
        let both = json!({"labels": {DRAINING: "y"}, "annotations": {EJECTED: long}});
        let marks = view(json!({}), both).marks.unwrap();
        assert_eq!(marks.draining.as_deref(), Some("y"));
        assert_eq!(marks.ejected.as_deref(), Some(""));
    }
}
