//! What the last look at each binding came to, kept for whoever asks why
//! something is not as he expects. Nothing is decided by it. No IO.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::dense::Dense;
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::BindingKey;
use crate::domain::record::ServiceRecord;
use crate::domain::situation::Situation;

/// What the last looks came to.
#[derive(Debug, Default)]
pub struct Looks(Mutex<Dense<BindingKey, Kept>>);

/// What a look came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// When it ended.
    pub at: Timestamp,
    /// How long it took.
    pub took: Duration,
    /// What the catalog answered; [`CatalogAnswer::NotAsked`] where something
    /// else ended the look first.
    pub catalog: CatalogAnswer,
    /// What it found.
    pub situation: Situation,
    /// Whether an object was written.
    pub wrote: bool,
    /// Why it is tried again, if it is.
    pub again: Option<String>,
}

/// The same as it is kept: of nearly all bindings there is nothing to say.
#[derive(Debug)]
struct Kept {
    /// Nanoseconds since 1970.
    at: i64,
    /// In microseconds.
    took: u32,
    wrote: bool,
    found: Found,
}

#[derive(Debug)]
enum Found {
    /// The record, and all is in force.
    InForce(Arc<ServiceRecord>),
    Other(Box<Other>),
}

#[derive(Debug)]
struct Other {
    catalog: CatalogAnswer,
    situation: Situation,
    again: Option<String>,
}

/// All is in force, and there is nothing more to say.
fn in_force() -> Situation {
    Situation::Programmed {
        mismatch: None,
        rival: None,
        beside: None,
        notes: Vec::new(),
    }
}

impl From<Look> for Kept {
    fn from(look: Look) -> Self {
        Self {
            at: i64::try_from(look.at.as_nanosecond()).unwrap_or_default(),
            took: u32::try_from(look.took.as_micros()).unwrap_or(u32::MAX),
            wrote: look.wrote,
            found: match look.catalog {
                CatalogAnswer::Record(record)
                    if look.again.is_none() && look.situation == in_force() =>
                {
                    Found::InForce(record)
                }
                catalog => Found::Other(Box::new(Other {
                    catalog,
                    situation: look.situation,
                    again: look.again,
                })),
            },
        }
    }
}

impl From<&Kept> for Look {
    fn from(kept: &Kept) -> Self {
        let (catalog, situation, again) = match &kept.found {
            Found::InForce(record) => {
                let record = CatalogAnswer::Record(Arc::clone(record));
                (record, in_force(), None)
            }
            Found::Other(other) => (
                other.catalog.clone(),
                other.situation.clone(),
                other.again.clone(),
            ),
        };
        Self {
            at: Timestamp::from_nanosecond(kept.at.into()).unwrap_or_default(),
            took: Duration::from_micros(kept.took.into()),
            catalog,
            situation,
            wrote: kept.wrote,
            again,
        }
    }
}

impl Looks {
    /// A look at the binding ended.
    pub fn ended(&self, key: &BindingKey, look: Look) {
        self.lock().insert(key.clone(), look.into());
    }

    /// The last look at the binding, if this process has looked.
    pub fn last(&self, key: &BindingKey) -> Option<Look> {
        self.lock().get(key).map(Look::from)
    }

    /// The binding is gone.
    pub fn forget(&self, key: &BindingKey) {
        self.lock().remove(key);
    }

    /// The map is whole after each change, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, Dense<BindingKey, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Look {
        Look {
            at: "2026-03-01T10:00:00.123456789Z".parse().unwrap(),
            took: Duration::from_micros(1_234_567),
            catalog: CatalogAnswer::Record(Arc::default()),
            situation: in_force(),
            wrote: true,
            again: None,
        }
    }

    #[test]
    fn whatever_it_came_to_is_told_as_it_was() {
        let looks = Looks::default();
        let key = BindingKey::new("shop", "web");
        assert_eq!(looks.last(&key), None);
        let noted = Situation::Programmed {
            mismatch: None,
            rival: None,
            beside: None,
            notes: vec!["a note".to_owned()],
        };
        for look in [
            look(),
            Look {
                situation: noted,
                ..look()
            },
            Look {
                again: Some("it changed under way".to_owned()),
                ..look()
            },
            Look {
                catalog: CatalogAnswer::NotFound { confirmed: true },
                situation: Situation::NotFound,
                wrote: false,
                ..look()
            },
        ] {
            looks.ended(&key, look.clone());
            assert_eq!(looks.last(&key), Some(look));
        }
        looks.forget(&key);
        assert_eq!(looks.last(&key), None);
    }

    #[test]
    fn a_look_that_found_all_in_force_is_kept_in_four_pointers() {
        assert!(size_of::<Kept>() <= 32, "{}", size_of::<Kept>());
        assert!(matches!(Kept::from(look()).found, Found::InForce(_)));
    }
}
