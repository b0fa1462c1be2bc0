//! What the last look at each binding came to, kept for whoever asks why
//! something is not as he expects. Nothing is decided by it. No IO.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::BindingKey;
use crate::domain::situation::Situation;

/// What the last looks came to.
#[derive(Debug, Default)]
pub struct Looks(Mutex<HashMap<BindingKey, Arc<Look>>>);

/// What a look came to.
#[derive(Clone, Debug)]
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

impl Looks {
    /// A look at the binding ended.
    pub fn ended(&self, key: &BindingKey, look: Look) {
        self.lock().insert(key.clone(), Arc::new(look));
    }

    /// The last look at the binding, if this process has looked.
    pub fn last(&self, key: &BindingKey) -> Option<Arc<Look>> {
        self.lock().get(key).cloned()
    }

    /// The binding is gone.
    pub fn forget(&self, key: &BindingKey) {
        self.lock().remove(key);
    }

    /// The map is whole after each change, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, HashMap<BindingKey, Arc<Look>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
