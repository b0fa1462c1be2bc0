//! What is said of ejections besides the writes themselves: once, when it
//! begins to be so.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::health::ejection::{Plan, PodKey};
use crate::domain::health::mark::{self, Change, Step, Whose};
use crate::domain::names::BindingKey;
use crate::domain::pod::KnownPod;
use crate::metrics::Metrics;

/// What was said already.
#[derive(Debug, Default)]
pub(super) struct Reports {
    floored: BTreeMap<BindingKey, u32>,
    opened: BTreeSet<BindingKey>,
    withheld: BTreeSet<(PodKey, &'static str)>,
}

/// In one word.
pub(super) fn verb(change: &Change) -> &'static str {
    match change {
        Change::Eject(_) => "eject",
        Change::Note(_) => "note",
        Change::Release => "release",
        Change::Forget => "forget",
    }
}

/// Names of bindings as they stand in a log line.
pub(super) fn names(bindings: &BTreeSet<BindingKey>) -> String {
    let names: Vec<_> = bindings.iter().map(ToString::to_string).collect();
    names.join(",")
}

impl Reports {
    /// Says whose unhealthy endpoints stay in the mesh.
    pub(super) fn stayed(&mut self, metrics: &Metrics, plan: &Plan) {
        for (binding, stay) in &plan.floored {
            let before = self.floored.get(binding).copied().unwrap_or(0);
            metrics
                .ejections
                .floor_hit(u64::from(stay.saturating_sub(before)));
            if *stay > before {
                tracing::warn!(
                    %binding,
                    endpoints = stay,
                    "unhealthy endpoints stay in the mesh, since too many are out already"
                );
            }
        }
        for binding in plan.opened.difference(&self.opened) {
            tracing::warn!(%binding, "no endpoint answers, so all stay in the mesh");
        }
        self.floored.clone_from(&plan.floored);
        self.opened.clone_from(&plan.opened);
    }

    /// Says what would be done for bindings that only observe.
    pub(super) fn observed(
        &self,
        before: &BTreeMap<PodKey, BTreeSet<BindingKey>>,
        now: &BTreeMap<PodKey, BTreeSet<BindingKey>>,
    ) {
        let say = |pods: &BTreeMap<PodKey, BTreeSet<BindingKey>>, but: &BTreeMap<_, _>, what| {
            for (pod, bindings) in pods.iter().filter(|(pod, _)| !but.contains_key(*pod)) {
                let bindings = names(bindings);
                tracing::info!(
                    namespace = &*pod.0,
                    pod = &*pod.1,
                    bindings,
                    "observing: this Pod would {what} the mesh"
                );
            }
        };
        say(now, before, "leave");
        say(before, now, "come back into");
    }

    /// Says what would be written, were that allowed.
    pub(super) fn withheld(&mut self, steps: &[Step]) {
        let now: BTreeSet<_> = steps
            .iter()
            .map(|step| (step.pod.clone(), verb(&step.change)))
            .collect();
        for (pod, action) in now.difference(&self.withheld) {
            tracing::info!(
                namespace = &*pod.0,
                pod = &*pod.1,
                action,
                "read-only: this Pod is not written to"
            );
        }
        self.withheld = now;
    }

    /// Counts who is out.
    pub(super) fn now_out(&self, metrics: &Metrics, marked: &BTreeMap<PodKey, KnownPod>) {
        let ours = marked.values();
        let ours = ours.filter(|pod| mark::whose(&pod.view) == Whose::Ours);
        metrics
            .ejections
            .now(ours.count(), self.floored.len(), self.opened.len());
    }
}
