//! Whatever becomes of the catalog and of the operator, what is removed is
//! what was seen and taken out, and never more than the share.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const BINDINGS: usize = 10;
const PERCENT: u8 = 30;
const ALLOWED: usize = 3;

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    Register(usize),
    Deregister(usize),
    /// The catalog is restored from a backup that lacks some; its owners say
    /// so by a new epoch.
    Restore(Vec<usize>),
    /// The same, and nobody says so: the revision goes back in the same epoch.
    Rewind(Vec<usize>),
    /// Another database stands behind the address.
    Forget,
    /// It loses everything without a word.
    Empty,
    /// The operator hears of what happened, by events.
    Follow,
    /// It lists everything.
    List,
    /// Another leader takes over, with what is noted and nothing else.
    Restart,
    Approve(usize),
    Wait(u64),
    /// Every binding is looked at.
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let one = 0..BINDINGS;
    prop_oneof![
        4 => one.clone().prop_map(Step::Register),
        6 => one.clone().prop_map(Step::Deregister),
        1 => prop::collection::vec(one.clone(), 0..BINDINGS).prop_map(Step::Restore),
        1 => prop::collection::vec(one.clone(), 0..BINDINGS).prop_map(Step::Rewind),
        1 => Just(Step::Forget),
        1 => Just(Step::Empty),
        6 => Just(Step::Follow),
        2 => Just(Step::List),
        2 => Just(Step::Restart),
        1 => one.prop_map(Step::Approve),
        2 => (1..400_u64).prop_map(Step::Wait),
        8 => Just(Step::Look),
    ]
}

/// The catalog, the operator and the bindings.
#[derive(Default)]
struct World {
    now: u64,
    // The catalog.
    epoch: u64,
    revision: u64,
    records: BTreeMap<usize, u64>,
    // The operator.
    known: Option<(CatalogPosition, BTreeMap<usize, u64>)>,
    /// Whether the events are followed.
    live: bool,
    nothing_at: Option<CatalogPosition>,
    window: Window,
    note: String,
    // The bindings: what their status says, and whether they have objects.
    seen: BTreeMap<usize, CatalogPosition>,
    approved: BTreeMap<usize, CatalogPosition>,
    objects: BTreeSet<usize>,
    // What is true.
    truly_seen: BTreeMap<usize, u64>,
    /// Whose removal a look found doubtful, whatever came later, until the
    /// record is seen again.
    doubted: BTreeSet<usize>,
    removed: Vec<(u64, bool)>,
}

impl World {
    fn present(&self) -> CatalogPosition {
        place(&format!("e{}.{}", self.epoch, self.revision))
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Register(n) => {
                self.revision += 1;
                self.records.insert(*n, self.revision);
            }
            Step::Deregister(n) => {
                if self.records.remove(n).is_some() {
                    self.revision += 1;
                }
            }
            Step::Restore(lost) => {
                self.epoch += 1;
                self.live = false;
                self.go_back(lost);
            }
            Step::Rewind(lost) => {
                self.live = false;
                self.go_back(lost);
            }
            Step::Forget => {
                self.epoch += 1;
                self.live = false;
                self.revision = 0;
                self.records.clear();
            }
            Step::Empty => {
                self.live = false;
                self.records.clear();
            }
            Step::Follow => {
                // Events go on in one epoch only; else a list is made.
                match &self.known {
                    Some((at, _)) if self.live && at.epoch == self.present().epoch => {
                        self.known = Some((self.present(), self.records.clone()));
                    }
                    Some(_) => self.list(),
                    None => {}
                }
            }
            Step::List => self.list(),
            Step::Restart => {
                self.known = None;
                self.nothing_at = None;
                self.window = Window::default();
                self.window.take_over(&self.note, self.now);
            }
            Step::Approve(n) => {
                if let Err(Held::Doubtful { approve, .. }) =
                    self.ask(*n, None, &mut self.window.clone())
                {
                    self.approved.insert(*n, approve);
                }
            }
            Step::Wait(seconds) => self.now += seconds,
            Step::Look => (0..BINDINGS).for_each(|n| self.look(n)),
        }
    }

    fn go_back(&mut self, lost: &[usize]) {
        self.revision -= self.revision.min(lost.len() as u64);
        self.records.retain(|n, _| !lost.contains(n));
        let latest = self.revision;
        self.records
            .values_mut()
            .for_each(|r| *r = (*r).min(latest));
    }

    fn list(&mut self) {
        self.live = true;
        self.known = Some((self.present(), self.records.clone()));
        self.nothing_at = self.records.is_empty().then(|| self.present());
    }

    fn ask(
        &self,
        n: usize,
        approved: Option<CatalogPosition>,
        window: &mut Window,
    ) -> Result<(), Held> {
        let known = self.known.as_ref();
        let view = CatalogView {
            present: known.filter(|_| self.live).map(|(at, _)| at.clone()),
            absent: known.is_some_and(|(_, records)| !records.contains_key(&n)),
            nothing_at: self.nothing_at.clone(),
        };
        let removal = Removal {
            uid: &n.to_string(),
            seen: self.seen.get(&n).cloned(),
            approved,
            bindings: BINDINGS,
        };
        let limits = Limits {
            policy: SyncPolicy::Sync,
            percent: PERCENT,
        };
        admit(&removal, &view, limits, window, self.now)
    }

    /// A look at one binding, as the operator does it.
    fn look(&mut self, n: usize) {
        if self.records.contains_key(&n) {
            self.found(n);
        } else if self.objects.contains(&n) {
            self.lacking(n);
        }
    }

    fn found(&mut self, n: usize) {
        self.window.shown(&n.to_string());
        let first = self.objects.insert(n);
        let Some((at, _)) = &self.known else {
            return;
        };
        self.truly_seen.insert(n, self.epoch);
        self.doubted.remove(&n);
        let seen = place(&format!("{}.{}", at.epoch, self.records[&n]));
        let moved =
            |last: &CatalogPosition| last.epoch != seen.epoch || last.revision > seen.revision;
        if first || self.seen.get(&n).is_none_or(moved) {
            self.seen.insert(n, seen);
        }
    }

    fn lacking(&mut self, n: usize) {
        let approved = self.approved.get(&n).cloned();
        let by_itself = match self.ask(n, None, &mut self.window.clone()) {
            Ok(()) => true,
            Err(held) => {
                if let Held::Doubtful { doubt, .. } = &held
                    && !matches!(doubt, Doubt::ShareUsedUp { .. })
                {
                    self.doubted.insert(n);
                }
                if held.is_lasting() {
                    self.seen.remove(&n);
                }
                false
            }
        };
        let mut window = self.window.clone();
        if self.ask(n, approved, &mut window).is_err() {
            return;
        }
        if by_itself {
            assert_eq!(
                self.truly_seen.get(&n),
                Some(&self.epoch),
                "never seen in this epoch"
            );
            assert!(!self.doubted.contains(&n), "it was in doubt");
            assert!(self.known.is_some());
        }
        self.window = window;
        self.note = self.window.note();
        self.objects.remove(&n);
        self.removed.push((self.now, by_itself));
    }

    /// Most that were removed in ten minutes; those that somebody approved
    /// beyond the share do not count.
    fn most(&self) -> usize {
        let within = |from: u64| {
            let all = self.removed.iter();
            all.filter(|(at, by_itself)| *by_itself && *at >= from && *at < from + 600)
                .count()
        };
        self.removed
            .iter()
            .map(|(at, _)| within(*at))
            .max()
            .unwrap_or(0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn never_more_than_the_share_and_nothing_in_doubt_without_approval(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World { now: NOW, ..World::default() };
        for n in 0..BINDINGS {
            world.take(&Step::Register(n));
        }
        world.take(&Step::List);
        world.take(&Step::Look);
        for step in &steps {
            world.take(step);
            prop_assert!(world.most() <= ALLOWED, "{:?}", world.removed);
        }
    }
}
