//! What must the cluster hold, and what may be taken from it? Follows from what
//! was done to the catalog alone: nothing that the operator says is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

/// How long after a service was registered again what was asked for before may
/// still be removed: a removal that is under way is not called back.
const UNDER_WAY: Duration = Duration::from_secs(30);

/// The uids of a service's binding and of its objects, by their kind.
pub(super) type Made = BTreeMap<&'static str, String>;

/// How the catalog comes not to have a service.
#[derive(Debug)]
enum Absence {
    /// Its owner took it out, in the history of this number, or it never was.
    Left { history: usize },
    /// The backup that was restored lacked it. Nobody asked for that: what was
    /// made for it stays, where all of it stood as the record said.
    Lost { made: Option<Made> },
}

/// What the catalog went through.
#[derive(Debug)]
pub(super) struct Model {
    names: BTreeSet<String>,
    /// Grows with every backup that is restored.
    history: usize,
    absent: BTreeMap<String, Absence>,
    /// When the catalog last lacked a service that it has.
    lacked: BTreeMap<String, Instant>,
    /// What the backup holds.
    backup: BTreeSet<String>,
    /// Services that a backup lacked while all of theirs was made, ever.
    losses: usize,
}

impl Model {
    /// A catalog that has none of these services yet.
    pub(super) fn new(names: BTreeSet<String>) -> Self {
        let never = |name: &String| (name.clone(), Absence::Left { history: 0 });
        Self {
            absent: names.iter().map(never).collect(),
            names,
            history: 0,
            lacked: BTreeMap::new(),
            backup: BTreeSet::new(),
            losses: 0,
        }
    }

    pub(super) fn losses(&self) -> usize {
        self.losses
    }

    /// Its owner is about to take it out, and may have: nothing is known until
    /// he has his answer.
    pub(super) fn leaves(&mut self, name: &str) {
        let history = self.history;
        self.absent
            .entry(name.to_owned())
            .or_insert(Absence::Left { history });
    }

    /// Its owner was told that it is registered.
    pub(super) fn entered(&mut self, name: &str) {
        if self.absent.remove(name).is_some() {
            self.lacked.insert(name.to_owned(), Instant::now());
        }
    }

    /// The backup holds these services.
    pub(super) fn backed_up(&mut self, names: BTreeSet<String>) {
        self.backup = names;
    }

    /// The backup is about to be restored, while the catalog has these services
    /// and so much is made for them as their records say.
    pub(super) fn restores(&mut self, before: &BTreeSet<String>, mut made: BTreeMap<String, Made>) {
        for name in &self.names {
            if self.backup.contains(name) {
                if self.absent.remove(name).is_some() {
                    self.lacked.insert(name.clone(), Instant::now());
                }
            } else if before.contains(name) {
                let made = made.remove(name);
                self.losses += usize::from(made.is_some());
                self.absent.insert(name.clone(), Absence::Lost { made });
            } else {
                let history = self.history;
                self.absent
                    .entry(name.clone())
                    .or_insert(Absence::Left { history });
            }
        }
        self.history += 1;
    }

    /// Whether the removal of such an object, which is happening, is a mistake;
    /// says why.
    pub(super) fn mistaken(&self, kind: &str, name: &str, uid: &str) -> Option<String> {
        match self.absent.get(name) {
            Some(Absence::Left { .. } | Absence::Lost { made: None }) => None,
            Some(Absence::Lost { made: Some(made) }) => made
                .values()
                .any(|of| of == uid)
                .then(|| format!("{kind} {name} goes, though nobody took its service out")),
            None => {
                let lacked = self.lacked.get(name).map(Instant::elapsed);
                lacked.is_none_or(|since| since > UNDER_WAY).then(|| {
                    format!("{kind} {name} goes, though the catalog has it, and had {lacked:?} ago")
                })
            }
        }
    }

    /// The model and the catalog agree on what there is.
    pub(super) fn expect_present(&self, present: &BTreeSet<String>) -> Result<()> {
        let absent: BTreeSet<_> = self.absent.keys().cloned().collect();
        let here: BTreeSet<_> = self.names.difference(&absent).cloned().collect();
        ensure!(
            here == *present,
            "the catalog has {present:?}, and was given {here:?}"
        );
        Ok(())
    }

    /// What was made for the service, where it must be held.
    pub(super) fn must_be_held(&self, name: &str) -> Option<&Made> {
        match self.absent.get(name) {
            Some(Absence::Lost { made }) => made.as_ref(),
            _ => None,
        }
    }

    /// The service's removal is held; was its record seen in the catalog's
    /// present history before?
    pub(super) fn expect_in_doubt(&self, name: &str, seen: bool) -> Result<()> {
        let beyond_doubt = match self.absent.get(name) {
            None => true,
            Some(Absence::Left { history }) => *history == self.history && seen,
            Some(Absence::Lost { .. }) => false,
        };
        ensure!(
            !beyond_doubt,
            "{name} is held without need: {:?}",
            self.absent.get(name)
        );
        Ok(())
    }
}
