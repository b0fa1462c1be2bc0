//! May this process write, and in which term of leadership? Read by whoever
//! writes to the cluster or to the catalog; set by the elector.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

/// A handle on the leadership of this process; clones share it.
#[derive(Clone, Debug)]
pub struct Leadership {
    term: Arc<watch::Sender<Option<Term>>>,
}

/// A term of leadership.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Term {
    /// Its number; grows with every acquisition of the Lease.
    epoch: u64,
    /// What leaders remember for their successors: annotations of the Lease.
    notes: BTreeMap<String, String>,
}

/// This process does not lead, or no longer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this process does not lead")]
pub struct NotLeader;

impl Leadership {
    /// Leadership that nobody contests, of this epoch.
    pub fn granted(epoch: u64) -> Self {
        let notes = BTreeMap::new();
        Self {
            term: Arc::new(watch::Sender::new(Some(Term { epoch, notes }))),
        }
    }

    /// The number of the term, while it is certain that it lasts.
    pub fn epoch(&self) -> Option<u64> {
        self.term.borrow().as_ref().map(|term| term.epoch)
    }

    /// Waits until this process leads; returns the number of the term.
    pub async fn acquired(&self) -> u64 {
        let mut term = self.term.subscribe();
        // The sender lives as long as we do, so waiting cannot fail.
        let epoch = match term.wait_for(Option::is_some).await {
            Ok(term) => term.as_ref().map(|term| term.epoch),
            Err(_) => None,
        };
        match epoch {
            Some(epoch) => epoch,
            None => std::future::pending().await,
        }
    }

    /// What a leader, this one or one before, remembered under that name.
    pub fn noted(&self, name: &str) -> Option<String> {
        self.term.borrow().as_ref()?.notes.get(name).cloned()
    }

    /// Remembers that for all leaders to come. When it returns, it is stored
    /// in the Lease; an error says that it may not be.
    pub async fn note(&self, name: &str, value: String) -> Result<(), NotLeader> {
        let mut stored = false;
        self.term.send_modify(|term| {
            if let Some(term) = term {
                term.notes.insert(name.to_owned(), value);
                stored = true;
            }
        });
        stored.then_some(()).ok_or(NotLeader)
    }
}
