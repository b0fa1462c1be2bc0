//! How many bindings may lose their objects because the catalog says that
//! their service is gone. A catalog that forgot everything by mistake must not
//! take the mesh's policies with it.
//!
//! 1. Nothing is removed before the catalog has shown one record of any
//!    binding: until then it may have forgotten them all.
//! 2. In any ten minutes at most a share of the bindings is removed, but
//!    always one.
//! 3. The same binding counts once, however often its removal is tried.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The time that the share is counted over.
pub const WINDOW: Duration = Duration::from_secs(600);

/// What has been removed lately.
#[derive(Debug, Default)]
pub struct Brake {
    /// Uid of a binding → when its objects were removed.
    removed: HashMap<String, Instant>,
    shown: bool,
}

/// Why a removal has to wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Held {
    /// The catalog has shown no record yet.
    NothingShown,
    /// The share is used up.
    ShareUsedUp {
        /// How many were removed in the window.
        removed: usize,
        /// How many may be.
        allowed: usize,
    },
}

impl Brake {
    /// The catalog showed the record of a binding.
    pub fn record_shown(&mut self) {
        self.shown = true;
    }

    /// Lets the objects of this binding be removed, or says why not. `scope`
    /// counts all bindings, `percent` is the share of them.
    pub fn admit(
        &mut self,
        uid: &str,
        scope: usize,
        percent: u8,
        now: Instant,
    ) -> Result<(), Held> {
        if !self.shown {
            return Err(Held::NothingShown);
        }
        self.removed
            .retain(|_, at| now.saturating_duration_since(*at) < WINDOW);
        if self.removed.contains_key(uid) {
            return Ok(());
        }
        let allowed = (scope * usize::from(percent) / 100).max(1);
        let removed = self.removed.len();
        if removed >= allowed {
            return Err(Held::ShareUsedUp { removed, allowed });
        }
        self.removed.insert(uid.to_owned(), now);
        Ok(())
    }
}

impl Held {
    /// What a condition says.
    pub fn message(self) -> String {
        let what = match self {
            Self::NothingShown => {
                "it has not shown the record of any binding since the operator started, so it may \
                                   have lost them all"
                    .to_owned()
            }
            Self::ShareUsedUp { allowed, .. } => {
                format!(
                    "more than {allowed} services went away within 10 minutes, so it may have lost them by mistake"
                )
            }
        };
        format!(
            "the catalog says that this service is gone, but the VirtualService and DestinationRule are kept: {what}; \
             if the service is really gone, delete this binding"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Brake {
        let mut brake = Brake::default();
        brake.record_shown();
        brake
    }

    #[test]
    fn nothing_is_removed_before_the_catalog_has_shown_a_record() {
        let now = Instant::now();
        let mut brake = Brake::default();
        assert_eq!(brake.admit("a", 100, 20, now), Err(Held::NothingShown));
        brake.record_shown();
        assert_eq!(brake.admit("a", 100, 20, now), Ok(()));
    }

    #[test]
    fn a_share_of_all_is_removed_in_ten_minutes_and_no_more() {
        let start = Instant::now();
        let mut brake = ready();
        let admitted = (0..100)
            .filter(|n| brake.admit(&n.to_string(), 100, 20, start).is_ok())
            .count();
        assert_eq!(admitted, 20);
        let later = start + WINDOW - Duration::from_millis(1);
        assert_eq!(
            brake.admit("x", 100, 20, later),
            Err(Held::ShareUsedUp {
                removed: 20,
                allowed: 20
            })
        );
        assert_eq!(brake.admit("x", 100, 20, start + WINDOW), Ok(()));
    }

    #[test]
    fn one_is_always_allowed_and_the_same_one_again() {
        let now = Instant::now();
        let mut brake = ready();
        assert_eq!(brake.admit("only", 1, 20, now), Ok(()));
        assert_eq!(brake.admit("only", 1, 20, now), Ok(()));
        assert!(brake.admit("another", 1, 20, now).is_err());
    }

    #[test]
    fn a_share_of_nothing_still_allows_one() {
        assert_eq!(ready().admit("a", 1000, 0, Instant::now()), Ok(()));
    }
}
