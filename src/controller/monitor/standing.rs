//! What is asked of all bindings' checks in every round, kept instead of counted: of
//! thousands of bindings one that changes is not to cost a walk through all.

use std::collections::BTreeSet;
use std::time::Duration;

use super::entry::Entry;
use crate::domain::names::BindingKey;

/// Of all bindings together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Standing {
    healthy: u32,
    unhealthy: u32,
    failing: BTreeSet<BindingKey>,
    due: BTreeSet<(Duration, BindingKey)>,
}

/// What one binding adds to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Share {
    healthy: u32,
    unhealthy: u32,
    due: Option<Duration>,
}

impl Share {
    /// As the binding stands now.
    pub(super) fn of(entry: &Entry) -> Self {
        let counts = &entry.verdicts().counts;
        Self {
            healthy: counts.healthy,
            unhealthy: counts.unhealthy,
            due: entry.telling.due(),
        }
    }
}

impl Standing {
    /// The binding added the one, and adds the other now.
    pub(super) fn moved(&mut self, key: &BindingKey, before: Share, after: Share) {
        self.healthy = self.healthy - before.healthy + after.healthy;
        self.unhealthy = self.unhealthy - before.unhealthy + after.unhealthy;
        match (before.unhealthy > 0, after.unhealthy > 0) {
            (false, true) => {
                self.failing.insert(key.clone());
            }
            (true, false) => {
                self.failing.remove(key);
            }
            _ => {}
        }
        if before.due != after.due {
            if let Some(due) = before.due {
                self.due.remove(&(due, key.clone()));
            }
            if let Some(due) = after.due {
                self.due.insert((due, key.clone()));
            }
        }
    }

    /// How many endpoints are healthy, and how many are not.
    pub(super) fn endpoints(&self) -> (u32, u32) {
        (self.healthy, self.unhealthy)
    }

    /// The bindings with endpoints that are not.
    pub(super) fn failing(&self) -> impl Iterator<Item = &BindingKey> {
        self.failing.iter()
    }

    /// When something is to be said next.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The bindings of which something is to be said by then.
    pub(super) fn due_by(&self, now: Duration) -> Vec<BindingKey> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now);
        due.map(|(_, key)| key.clone()).collect()
    }
}
