//! What kube's `Controller` keeps: every binding, by name alone. No IO.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use kube::core::ObjectMeta;
use kube_runtime::reflector::store::Writer;
use kube_runtime::watcher::Event;

use super::BindingRef;
use crate::api::service_binding::ServiceBinding;
use crate::domain::names::BindingKey;

/// The Controller's own list of bindings, by name alone. Whatever the watches
/// are of, it is one list, and ready before the first of them is.
#[derive(Clone)]
pub(super) struct Names(Arc<Mutex<Writer<BindingRef>>>);

impl Names {
    pub(super) fn new(mut writer: Writer<BindingRef>) -> Self {
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self(Arc::new(Mutex::new(writer)))
    }

    pub(super) fn add(&self, event: &Event<ServiceBinding>) {
        if let Event::InitApply(binding) | Event::Apply(binding) = event {
            let (namespace, name) = (&binding.metadata.namespace, &binding.metadata.name);
            self.take(&Event::Apply(named(namespace.as_ref(), name.as_ref())));
        }
    }

    pub(super) fn remove(&self, gone: &BTreeSet<BindingKey>) {
        for key in gone {
            self.take(&Event::Delete(named(Some(&key.namespace), Some(&key.name))));
        }
    }

    /// The list is whole after each event, so a poisoned lock is used on.
    fn take(&self, event: &Event<BindingRef>) {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writer.apply_watcher_event(event);
    }
}

fn named(namespace: Option<&String>, name: Option<&String>) -> BindingRef {
    let metadata = ObjectMeta {
        name: name.cloned(),
        namespace: namespace.cloned(),
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
    use kube_runtime::reflector;

    use super::*;

    #[tokio::test]
    async fn it_is_ready_at_once_and_a_list_of_one_namespace_takes_no_other_out() {
        let (store, writer) = reflector::store();
        let names = Names::new(writer);
        store.wait_until_ready().await.unwrap();
        let binding = |namespace: &str| ServiceBinding {
            metadata: ObjectMeta {
                namespace: Some(namespace.to_owned()),
                name: Some("web".to_owned()),
                ..ObjectMeta::default()
            },
            ..ServiceBinding::default()
        };
        names.add(&Event::Apply(binding("shop")));
        for event in [
            Event::Init,
            Event::InitApply(binding("billing")),
            Event::InitDone,
        ] {
            names.add(&event);
        }
        assert_eq!(store.len(), 2);
        let gone = BindingKey::new("shop", "web");
        names.remove(&BTreeSet::from([gone]));
        let left: Vec<_> = store.state();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].metadata.namespace.as_deref(), Some("billing"));
    }
}
