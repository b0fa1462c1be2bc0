//! Whose status is still to be written, because what the mesh needs went first? A
//! status that only tells of the last write to the mesh gives way while others wait
//! for theirs, for half a minute at the most; and one may fail to be stored. Until then
//! what it is to say of the objects is kept here: by that they are known to be as they
//! should be. No IO.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::service_binding::{ChildStatus, ServiceBinding};
use crate::domain::names::BindingKey;

/// How long a status may give way.
const LONGEST: Duration = Duration::from_secs(30);

/// Bindings whose status gave way.
#[derive(Debug, Default)]
pub struct Owed(Mutex<HashMap<BindingKey, Status>>);

/// A status that gave way.
#[derive(Debug)]
struct Status {
    since: Instant,
    /// The objects as they were stored, which it is to say.
    children: Vec<ChildStatus>,
}

impl Owed {
    /// The binding's status, which was to say this of its objects, gives way; it has
    /// done so since then.
    pub fn give_way(&self, key: &BindingKey, children: Vec<ChildStatus>, since: Instant) {
        self.lock().insert(key.clone(), Status { since, children });
    }

    /// Since when the binding's status gave way, if it did; it does not any more.
    pub fn take(&self, key: &BindingKey) -> Option<Instant> {
        self.lock().remove(key).map(|status| status.since)
    }

    /// Whether one may that has done so since then.
    pub fn may(since: Option<Instant>) -> bool {
        since.is_none_or(|since| since.elapsed() < LONGEST)
    }

    /// The binding as its status would have it, had it not given way.
    pub fn known(&self, key: &BindingKey, binding: Arc<ServiceBinding>) -> Arc<ServiceBinding> {
        let children = self.lock().get(key).map(|status| status.children.clone());
        let Some(children) = children else {
            return binding;
        };
        let mut known = ServiceBinding::clone(&binding);
        // There may be none yet: the first one can fail to be stored, too.
        known.status.get_or_insert_default().children = children;
        Arc::new(known)
    }

    /// The map is whole after each change, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, HashMap<BindingKey, Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
