//! Whose turn is it to be written to?

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::LOOK_AGAIN;
use crate::domain::health::ejection::PodKey;
use crate::domain::health::mark::{Change, Step};
use crate::domain::health::pace::Pace;

/// How soon a Pod that changed under way is tried again all the same, where the
/// watch tells of nothing: each try costs the server something.
const NO_NEWS: Duration = Duration::from_secs(10);

/// What is kept of the writes so far.
pub(super) struct Turns {
    started: Instant,
    pace: Pace,
    /// Versions of Pods that the server did not have any more, and until when
    /// they are not tried again.
    outdated: BTreeMap<PodKey, (u64, Instant)>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            pace: Pace::default(),
            outdated: BTreeMap::new(),
        }
    }

    /// In which order it is tried: who comes back and who leaves take turns, so
    /// that where writes are slow neither waits for all of the other, and of each
    /// whoever was written to longest ago is first.
    pub(super) fn in_order(&self, mut steps: Vec<Step>) -> impl Iterator<Item = Step> + use<> {
        steps.sort_by_key(|step| self.pace.written(&step.pod));
        let leaves = |step: &Step| matches!(step.change, Change::Eject(_));
        let (leave, stay): (Vec<_>, Vec<_>) = steps.into_iter().partition(leaves);
        let (leave, stay) = (leave.into_iter().enumerate(), stay.into_iter().enumerate());
        let mut turns: Vec<_> = stay.chain(leave).collect();
        turns.sort_by_key(|(turn, _)| *turn);
        turns.into_iter().map(|(_, step)| step)
    }

    /// Takes the write, or says when it may be asked for again.
    pub(super) fn take(&mut self, step: &Step) -> Result<(), Instant> {
        let now = Instant::now();
        self.outdated.retain(|_, (_, until)| *until > now);
        let outdated = self.outdated.get(&step.pod);
        if let Some((_, until)) = outdated.filter(|(version, _)| *version == step.version) {
            // The watch may tell of another, and wakes nobody for that.
            return Err((now + LOOK_AGAIN).min(*until));
        }
        let since = now - self.started;
        let taken = self.pace.take(&step.pod, &step.bindings, since);
        taken.map_err(|at| self.started + at)
    }

    /// The server has another version of the Pod, so that nothing was stored.
    pub(super) fn was_stale(&mut self, step: Step) {
        self.pace.give_back(&step.pod, &step.bindings);
        let until = Instant::now() + NO_NEWS;
        self.outdated.insert(step.pod, (step.version, until));
    }
}
