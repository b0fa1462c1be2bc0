//! What comes and goes while all of it happens: a removal by mistake that is
//! mended later is one all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use catalog_mesh_controller::domain::labels::ANNOTATION_BINDING_UID;
use catalog_mesh_controller::domain::record::CatalogPosition;
use futures::StreamExt as _;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use tokio::task::JoinSet;

use super::end::{BINDING, KINDS, resource};
use super::model::Model;

/// The watch. Dropping it ends it.
pub(super) struct Journal {
    state: Arc<Mutex<State>>,
    _watches: JoinSet<()>,
}

struct State {
    model: Arc<Mutex<Model>>,
    /// Kind and name → what is there.
    objects: BTreeMap<(&'static str, String), Known>,
    /// Uids of the bindings that go or are gone.
    ending: BTreeSet<String>,
    /// Uid of a binding → the epoch in which it last said that its record was
    /// seen. That it is taken back does not move it.
    seen: BTreeMap<String, String>,
    mistakes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Known {
    uid: String,
    /// Uid of the binding that it was made for.
    made_for: Option<String>,
}

impl Journal {
    pub(super) fn watch(client: &Client, namespace: &str, model: &Arc<Mutex<Model>>) -> Self {
        let state = Arc::new(Mutex::new(State {
            model: Arc::clone(model),
            objects: BTreeMap::new(),
            ending: BTreeSet::new(),
            seen: BTreeMap::new(),
            mistakes: Vec::new(),
        }));
        let mut watches = JoinSet::new();
        for kind in KINDS {
            let api =
                Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource(kind));
            // An error is a restart of the watch.
            let events = watcher(api, watcher::Config::default()).default_backoff();
            let state = Arc::clone(&state);
            let mut listed = BTreeSet::new();
            watches.spawn(events.for_each(move |event| {
                if let Ok(event) = event {
                    lock(&state).take(kind, event, &mut listed);
                }
                std::future::ready(())
            }));
        }
        Self {
            state,
            _watches: watches,
        }
    }

    /// Fails with what was removed by mistake.
    pub(super) fn expect_no_mistake(&self) -> Result<()> {
        let state = lock(&self.state);
        if !state.mistakes.is_empty() {
            bail!("removed by mistake: {:?}", state.mistakes);
        }
        Ok(())
    }

    /// The epoch in which the binding last said that its record was seen.
    pub(super) fn seen_in(&self, uid: &str) -> Option<String> {
        lock(&self.state).seen.get(uid).cloned()
    }
}

impl State {
    fn take(
        &mut self,
        kind: &'static str,
        event: Event<DynamicObject>,
        listed: &mut BTreeSet<String>,
    ) {
        match event {
            Event::Init => listed.clear(),
            Event::InitApply(object) => {
                listed.insert(object.name_any());
                self.is_there(kind, &object);
            }
            Event::InitDone => {
                let gone = self.objects.keys();
                let gone = gone.filter(|(of, name)| *of == kind && !listed.contains(name));
                for (_, name) in gone.cloned().collect::<Vec<_>>() {
                    self.goes(kind, &name);
                }
            }
            Event::Apply(object) => self.is_there(kind, &object),
            Event::Delete(object) => self.goes(kind, &object.name_any()),
        }
    }

    fn is_there(&mut self, kind: &'static str, object: &DynamicObject) {
        let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
        let key = (kind, name);
        let another = |known: &Known| known.uid != uid;
        if self.objects.get(&key).is_some_and(another) {
            self.goes(kind, &key.1);
        }
        let known = Known {
            made_for: object.annotations().get(ANNOTATION_BINDING_UID).cloned(),
            uid: uid.clone(),
        };
        self.objects.insert(key.clone(), known);
        if object.metadata.deletion_timestamp.is_some() {
            self.judge(kind, &key.1);
        }
        let seen = object.data["status"]["recordSeen"].as_str();
        if let Some(seen) = seen.and_then(CatalogPosition::parse) {
            self.seen.insert(uid, seen.epoch);
        }
    }

    fn goes(&mut self, kind: &'static str, name: &str) {
        self.judge(kind, name);
        self.objects.remove(&(kind, name.to_owned()));
    }

    /// The object goes. What goes with its binding is judged with that.
    fn judge(&mut self, kind: &'static str, name: &str) {
        let Some(Known { uid, made_for }) = self.objects.get(&(kind, name.to_owned())) else {
            return;
        };
        let is_new = if kind == BINDING {
            self.ending.insert(uid.clone())
        } else {
            !made_for.as_ref().is_some_and(|of| self.ending.contains(of))
        };
        if is_new {
            let mistaken = lock(&self.model).mistaken(kind, name, uid);
            self.mistakes.extend(mistaken);
        }
    }
}

/// Nothing in here is left half-done by a panic, so a poisoned lock is used on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
