//! What kube's `Controller` keeps: the bindings that it is to look at next, by name
//! alone. No IO.
//!
//! It runs nothing that is not in its store, and an entry there is larger than all
//! that the world keeps of a binding. So a name goes in when the queue releases it and
//! comes out when its run begins. That is never later than the next time that it goes
//! in, since the queue releases no key again before its run has ended.

use std::sync::{Arc, Mutex, PoisonError};

use kube::core::ObjectMeta;
use kube_runtime::reflector::store::Writer;
use kube_runtime::reflector::{self, ObjectRef, Store};
use kube_runtime::watcher::Event;

use super::BindingRef;
use crate::domain::names::BindingKey;

/// The Controller's own list of bindings, by name alone.
#[derive(Clone)]
pub(super) struct Names {
    store: Store<BindingRef>,
    writer: Arc<Mutex<Writer<BindingRef>>>,
}

impl Names {
    /// An empty list, ready from the start: what it would wait for is in the world.
    pub(super) fn new() -> Self {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        let writer = Arc::new(Mutex::new(writer));
        Self { store, writer }
    }

    /// Where the Controller looks names up.
    pub(super) fn store(&self) -> Store<BindingRef> {
        self.store.clone()
    }

    /// The key is about to be run; says what the Controller knows it by.
    pub(super) fn put(&self, key: &BindingKey) -> ObjectRef<BindingRef> {
        self.apply(&Event::Apply(named(key)));
        ObjectRef::new(&key.name).within(&key.namespace)
    }

    /// Its run has begun, however that will end.
    pub(super) fn take(&self, key: &BindingKey) {
        self.apply(&Event::Delete(named(key)));
    }

    /// The list is whole after each event, so a poisoned lock is used on.
    fn apply(&self, event: &Event<BindingRef>) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.apply_watcher_event(event);
    }
}

fn named(key: &BindingKey) -> BindingRef {
    let metadata = ObjectMeta {
        name: Some(key.name.clone()),
        namespace: Some(key.namespace.clone()),
        ..ObjectMeta::default()
    };
    BindingRef {
        types: None,
        metadata,
        _phantom: std::marker::PhantomData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_ready_at_once_and_holds_a_name_from_its_release_until_its_run_begins() {
        let names = Names::new();
        let store = names.store();
        store.wait_until_ready().await.unwrap();
        let (shop, billing) = (
            BindingKey::new("shop", "web"),
            BindingKey::new("billing", "web"),
        );
        let of_shop = names.put(&shop);
        let of_billing = names.put(&billing);
        assert!(store.get(&of_shop).is_some());
        names.take(&shop);
        assert!(store.get(&of_shop).is_none());
        assert!(store.get(&of_billing).is_some(), "another of that name");
        // Released again.
        assert_eq!(names.put(&shop), of_shop);
        assert!(store.get(&of_shop).is_some());
        names.take(&shop);
        names.take(&billing);
        assert!(store.is_empty());
    }
}
