//! What is known of one service of the catalog: who wants it reported, and
//! what the catalog took. Plain values.

use smallvec::SmallVec;
use tokio::time::Instant;

use super::standing::Position;
use crate::domain::names::{BindingKey, ObjectKey};

/// What is done about a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mode {
    /// Its endpoints are reported.
    Reported,
    /// Every binding that wants it is frozen, or it is not known whether one
    /// does: nothing is said.
    Held,
    /// No binding wants it any more: an empty list is reported.
    Withdrawn,
}

/// What a binding has to do with its service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Claim {
    /// It wants the service reported.
    Wanted,
    /// It wanted that before it was frozen.
    Frozen,
    /// It names a service that is being withdrawn, and the catalog does not
    /// say whether that is its own.
    Undecided,
}

/// The bindings that have to do with a service: most often one, for which a map
/// would take half a kilobyte.
#[derive(Debug, Default)]
pub(super) struct Claimants(SmallVec<[(BindingKey, Claim); 1]>);

impl Claimants {
    pub(super) fn insert(&mut self, key: &BindingKey, claim: Claim) {
        match self.get_mut(key) {
            Some(known) => *known = claim,
            None => self.0.push((key.clone(), claim)),
        }
    }

    pub(super) fn get(&self, key: &BindingKey) -> Option<Claim> {
        let mut all = self.0.iter();
        all.find(|(known, _)| known == key).map(|(_, claim)| *claim)
    }

    pub(super) fn get_mut(&mut self, key: &BindingKey) -> Option<&mut Claim> {
        let mut all = self.0.iter_mut();
        all.find(|(known, _)| known == key).map(|(_, claim)| claim)
    }

    pub(super) fn remove(&mut self, key: &BindingKey) -> Option<Claim> {
        let place = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.swap_remove(place).1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn claims(&self) -> impl Iterator<Item = Claim> {
        self.0.iter().map(|(_, claim)| *claim)
    }
}

/// One service of the catalog.
#[derive(Debug)]
pub(super) struct Service {
    /// The Kubernetes Service.
    pub(super) target: Option<ObjectKey>,
    /// The bindings that have to do with it.
    pub(super) claimants: Claimants,
    /// When the catalog's service came, as far as that is known.
    pub(super) came: Option<u64>,
    /// What the catalog took last, as a digest.
    pub(super) accepted: Option<u64>,
    /// The catalog took something about it in this term.
    pub(super) written: bool,
    /// Since when the catalog lacks something.
    pub(super) since: Option<Instant>,
    /// The earliest time of the next report.
    pub(super) not_before: Instant,
    /// Failures in a row.
    pub(super) failures: u32,
    /// The report that is under way.
    pub(super) under_way: Option<Position>,
    /// Something changed since that was sent.
    pub(super) changed: bool,
    /// The catalog refused what it was told last.
    pub(super) refused: bool,
    /// The list was cut.
    pub(super) cut: bool,
}

impl Service {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            target: None,
            claimants: Claimants::default(),
            came: None,
            accepted: None,
            written: false,
            since: None,
            not_before: now,
            failures: 0,
            under_way: None,
            changed: false,
            refused: false,
            cut: false,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        if self.claimants.is_empty() {
            Mode::Withdrawn
        } else if self.claimants.claims().any(|of| of == Claim::Wanted) {
            Mode::Reported
        } else {
            Mode::Held
        }
    }

    /// Whether it is withdrawn unless a binding turns out to want it.
    pub(super) fn is_leaving(&self) -> bool {
        self.claimants.claims().all(|of| of == Claim::Undecided)
    }

    /// Whatever the catalog took of it, it may lack: also what is under way.
    pub(super) fn lost(&mut self) {
        self.accepted = None;
        self.under_way = None;
    }

    /// Another term has begun, or another history of the catalog: it may have
    /// forgotten everything.
    pub(super) fn forgotten(&mut self) {
        self.lost();
        self.written = false;
        self.failures = 0;
    }
}
