//! Whose status is still to be written, because what the mesh needs went first? A
//! status that only tells of the last write to the mesh gives way while others wait
//! for theirs: once, so that it comes with the next look, which is a turn in the bulk
//! lane away. Until then what it is to say of the objects is kept here: by that they
//! are known to be as they should be. No IO.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::service_binding::{ChildStatus, ServiceBinding};
use crate::domain::names::BindingKey;

/// Bindings whose status gave way, with their objects as they were stored.
#[derive(Debug, Default)]
pub struct Owed(Mutex<HashMap<BindingKey, Vec<ChildStatus>>>);

impl Owed {
    /// The binding's status, which was to say this of its objects, gives way.
    pub fn give_way(&self, key: &BindingKey, children: Vec<ChildStatus>) {
        self.lock().insert(key.clone(), children);
    }

    /// Whether the binding's status gave way; it does not any more.
    pub fn take(&self, key: &BindingKey) -> bool {
        self.lock().remove(key).is_some()
    }

    /// The binding as its status would have it, had it not given way.
    pub fn known(&self, key: &BindingKey, binding: Arc<ServiceBinding>) -> Arc<ServiceBinding> {
        let children = self.lock().get(key).cloned();
        let Some(children) = children else {
            return binding;
        };
        let mut known = ServiceBinding::clone(&binding);
        if let Some(status) = &mut known.status {
            status.children = children;
        }
        Arc::new(known)
    }

    /// The map is whole after each change, so a poisoned lock is used on.
    fn lock(&self) -> MutexGuard<'_, HashMap<BindingKey, Vec<ChildStatus>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
