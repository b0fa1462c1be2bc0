//! The brake between a removal and the API server: every removal is counted,
//! and noted for the leaders to come, before it happens.

use std::sync::{Mutex, PoisonError};

use super::leadership::{Leadership, NotLeader};
use crate::domain::brake::window::Window;
use crate::domain::brake::{self, CatalogView, Held, Limits, Removal};
use crate::domain::labels::NOTE_REMOVALS;

/// What was removed lately, by this leader and those before.
#[derive(Debug, Default)]
pub struct Brake {
    state: Mutex<State>,
    /// How many of the admitted are noted. Held while a note is written, so
    /// that those who wait meanwhile share the next one.
    noted: tokio::sync::Mutex<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// The term whose notes were read.
    term: Option<u64>,
    window: Window,
    /// How many were ever admitted.
    admitted: u64,
}

/// Why a removal does not happen now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Refused {
    /// The brake holds it.
    Held(Held),
    /// It could not be noted: this process does not lead.
    NotLeader,
}

impl From<NotLeader> for Refused {
    fn from(_: NotLeader) -> Self {
        Self::NotLeader
    }
}

impl Brake {
    /// Lets a removal go, once it is noted, or says why not. `now` is the time
    /// in seconds since 1970.
    ///
    /// Writes the Lease; when cancelled, the removal is counted and may be
    /// asked for again.
    pub(crate) async fn admit(
        &self,
        leadership: &Leadership,
        removal: &Removal<'_>,
        catalog: &CatalogView,
        limits: Limits,
        now: u64,
    ) -> Result<(), Refused> {
        let mine = self.count(leadership, removal, catalog, limits, now)?;
        let mut noted = self.noted.lock().await;
        if *noted >= mine {
            return Ok(());
        }
        let (admitted, note) = self.state(|state| (state.admitted, state.window.note()));
        leadership.note(NOTE_REMOVALS, note).await?;
        *noted = admitted;
        Ok(())
    }

    /// The record of this binding was seen: should its service go, that is
    /// another removal.
    pub(crate) fn shown(&self, uid: &str) {
        self.state(|state| state.window.shown(uid));
    }

    /// Counts the removal; returns how many have to be noted before it.
    fn count(
        &self,
        leadership: &Leadership,
        removal: &Removal<'_>,
        catalog: &CatalogView,
        limits: Limits,
        now: u64,
    ) -> Result<u64, Refused> {
        let term = leadership.epoch().ok_or(NotLeader)?;
        self.state(|state| {
            if state.term != Some(term) {
                let note = leadership.noted(NOTE_REMOVALS).unwrap_or_default();
                state.window.take_over(&note, now);
                state.term = Some(term);
            }
            let again = state.window.counts(removal.uid, now);
            brake::admit(removal, catalog, limits, &mut state.window, now)
                .map_err(Refused::Held)?;
            if !again {
                state.admitted += 1;
            }
            Ok(state.admitted)
        })
    }

    /// Nothing in the state is left half-done by a panic, so a poisoned lock
    /// is used on.
    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::brake::{Doubt, SyncPolicy};
    use crate::domain::record::CatalogPosition;

    const NOW: u64 = 1_800_000_000;

    async fn ask(brake: &Brake, leadership: &Leadership, uid: &str) -> Result<(), Refused> {
        let removal = Removal {
            uid,
            seen: CatalogPosition::parse("a.5"),
            approved: None,
            bindings: 10,
        };
        let catalog = CatalogView {
            present: CatalogPosition::parse("a.9"),
            absent: true,
            nothing_at: None,
        };
        let limits = Limits {
            policy: SyncPolicy::Sync,
            percent: 20,
        };
        brake
            .admit(leadership, &removal, &catalog, limits, NOW)
            .await
    }

    #[tokio::test]
    async fn a_removal_is_noted_before_it_goes_and_the_next_leader_counts_on() {
        let leadership = Leadership::granted(1);
        let first = Brake::default();
        assert_eq!(ask(&first, &leadership, "a").await, Ok(()));
        assert_eq!(
            leadership.noted(NOTE_REMOVALS).as_deref(),
            Some("1800000000:1")
        );
        let second = Brake::default();
        assert_eq!(ask(&second, &leadership, "b").await, Ok(()));
        let held = ask(&second, &leadership, "c").await;
        assert!(
            matches!(
                &held,
                Err(Refused::Held(Held::Doubtful {
                    doubt: Doubt::ShareUsedUp { percent: 20 },
                    ..
                }))
            ),
            "{held:?}"
        );
        assert_eq!(
            leadership.noted(NOTE_REMOVALS).as_deref(),
            Some("1800000000:2")
        );
        // What is tried again costs nothing.
        assert_eq!(ask(&second, &leadership, "b").await, Ok(()));
        assert_eq!(
            leadership.noted(NOTE_REMOVALS).as_deref(),
            Some("1800000000:2")
        );
    }
}
