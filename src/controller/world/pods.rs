//! The Pods of the cluster: who may be checked, and who is out of the mesh.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Inner;
use super::kept_pod::KeptPod;
use super::{World, known, until};
use crate::controller::mirror::{Id, Seen};
use crate::controller::mirrors::{Mirrors, Told};
use crate::domain::health::ejection::PodKey;
use crate::domain::health::mark;
use crate::domain::health::targets::Behind;
use crate::domain::names::BindingKey;
use crate::domain::pod::{KnownPod, Marks, PodView};
use crate::domain::uid::Uid;

/// All Pods, and which of them bear a mark.
#[derive(Debug, Default)]
pub(super) struct Pods {
    pub(super) mirror: Mirrors<KeptPod>,
    marked: BTreeSet<Id>,
}

/// What a change of Pods concerns.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct PodsChanged {
    /// Whether a mark came, went, or is another one.
    pub marks: bool,
    /// Services of which other Pods may be checked now.
    pub services: BTreeSet<Id>,
}

impl Pods {
    /// Takes an event; says whether marks changed, and which Pods did.
    fn take(
        &mut self,
        told: impl Into<Told<Seen<PodView>>>,
    ) -> (bool, BTreeMap<String, BTreeSet<String>>) {
        let mut marks = false;
        let mut changed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let Self { mirror, marked } = self;
        let told = told.into().map(|seen| seen.map(KeptPod::of));
        mirror.each(told, |change| {
            let (before, after) = (change.before.as_ref(), change.after.as_ref());
            marks |= before.and_then(KeptPod::marks) != after.and_then(KeptPod::marks);
            index(marked, &change.id, after);
            let same = matches!((before, after), (Some(b), Some(a)) if b.is_checked_as(a));
            if !same {
                let (namespace, name) = change.id;
                changed.entry(namespace).or_default().insert(name);
            }
        });
        (marks, changed)
    }

    fn known(&self, id: &Id) -> Option<KnownPod> {
        let seen = self.mirror.seen(id)?;
        Some(KnownPod {
            uid: seen.uid,
            version: seen.version,
            view: seen.value.view(),
        })
    }
}

/// The Pod as the mirror names it.
fn id((namespace, name): &PodKey) -> Id {
    (namespace.to_string(), name.to_string())
}

fn index(marked: &mut BTreeSet<Id>, id: &Id, pod: Option<&KeptPod>) {
    if pod.and_then(KeptPod::marks).is_some() {
        marked.insert(id.clone());
    } else {
        marked.remove(id);
    }
}

impl World {
    /// Takes an event about Pods; says what it concerns.
    pub fn pods(&self, told: impl Into<Told<Seen<PodView>>>) -> PodsChanged {
        let mut inner = self.write();
        let (marks, changed) = inner.pods.take(told);
        self.note_pods(&inner);
        PodsChanged {
            marks,
            services: services_of(&inner, &changed),
        }
    }

    pub(super) fn note_pods(&self, inner: &Inner) {
        if !*self.pods_listed.borrow() && inner.pods_listed() {
            known(&self.pods_listed);
        }
    }

    /// Waits until the Pods were listed once.
    pub async fn pods_listed(&self) {
        until(&self.pods_listed).await;
    }

    /// The Pod as it is known.
    pub fn pod(&self, key: &PodKey) -> Option<KnownPod> {
        self.read().pods.known(&id(key))
    }

    /// All Pods that bear a mark, ours or another's.
    pub fn marked(&self) -> BTreeMap<PodKey, KnownPod> {
        let inner = self.read();
        let pods = &inner.pods;
        let known = |id: &Id| {
            Some((
                (id.0.as_str().into(), id.1.as_str().into()),
                pods.known(id)?,
            ))
        };
        pods.marked.iter().filter_map(known).collect()
    }

    /// Whether a Pod is out of the mesh because of this binding, and will come
    /// back: one that is about to end will not.
    pub fn keeps_out(&self, binding: &BindingKey) -> bool {
        let marked = self.marked();
        let mut notes = marked.values().filter_map(|pod| mark::kept(&pod.view));
        notes.any(|note| note.bindings.contains(binding))
    }

    /// Takes the server's answer to a write of ours: these marks in this
    /// version of the Pod, which was as we knew it otherwise.
    pub fn wrote_pod(&self, key: &PodKey, uid: &Uid, version: u64, marks: Option<Box<Marks>>) {
        let id = id(key);
        let mut inner = self.write();
        let Some(known) = inner.pods.known(&id).filter(|known| known.uid == *uid) else {
            return;
        };
        inner.pods.mirror.wrote(Seen {
            id: id.clone(),
            uid: known.uid,
            version,
            value: KeptPod::of(PodView {
                marks,
                ..known.view
            }),
        });
        let Pods { mirror, marked } = &mut inner.pods;
        index(marked, &id, mirror.get(&id));
    }

    /// Who serves behind the Service, with the Pods that its slices name.
    pub fn behind(&self, service: &Id) -> Behind {
        let inner = self.read();
        let slices = inner.slices.of(service);
        let names = slices.iter().flat_map(|slice| &slice.endpoints);
        let names = names.filter_map(|endpoint| endpoint.pod.as_deref());
        let known = |name: &str| {
            let known = inner.pods.known(&(service.0.clone(), name.to_owned()))?;
            Some((name.to_owned(), known))
        };
        let pods = names.filter_map(known).collect();
        Behind {
            namespace: service.0.as_str().into(),
            service: inner.services.get(service).cloned(),
            slices,
            pods,
        }
    }
}

/// The Services whose slices name one of these Pods: one pass over the slices
/// of each namespace, however many Pods a list brings.
fn services_of(inner: &Inner, pods: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<Id> {
    let mut services = BTreeSet::new();
    for (namespace, names) in pods {
        for slice in inner.slices.within(namespace) {
            let mut named = slice.endpoints.iter().filter_map(|e| e.pod.as_deref());
            if named.any(|name| names.contains(name)) {
                services.insert((namespace.clone(), slice.service.to_string()));
            }
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kube_runtime::watcher::Event;

    use super::*;
    use crate::domain::names::ClusterDomain;
    use crate::domain::slice::{SliceEndpoint, SliceView};

    fn world() -> World {
        let domain = ClusterDomain::parse("cluster.local").unwrap();
        World::new(domain, "operators".to_owned())
    }

    fn pod(name: &str, version: u64, address: &str, draining: Option<&str>) -> Seen<PodView> {
        Seen {
            id: ("shop".to_owned(), name.to_owned()),
            uid: format!("uid-of-{name}").into(),
            version,
            value: PodView {
                addresses: Box::new([address.parse().unwrap()]),
                marks: draining.map(|value| {
                    Box::new(Marks {
                        draining: Some(value.into()),
                        ejected: None,
                    })
                }),
                ..PodView::default()
            },
        }
    }

    fn slice(name: &str, service: &str, pod: &str) -> Event<Seen<Arc<SliceView>>> {
        let endpoint = SliceEndpoint {
            address: "10.0.0.1".parse().unwrap(),
            ready: true,
            terminating: false,
            zone: None,
            pod: Some(pod.into()),
        };
        Event::Apply(Seen {
            id: ("shop".to_owned(), name.to_owned()),
            uid: name.into(),
            version: 1,
            value: Arc::new(SliceView {
                service: service.into(),
                endpoints: Box::new([endpoint]),
                ..SliceView::default()
            }),
        })
    }

    fn key(name: &str) -> PodKey {
        ("shop".into(), name.into())
    }

    fn web() -> Id {
        ("shop".to_owned(), "web".to_owned())
    }

    #[test]
    fn a_pod_concerns_the_services_whose_slices_name_it_and_its_marks_only_the_ejector() {
        let world = world();
        world.slices(slice("a", "web", "web-0"));
        world.slices(slice("b", "api", "api-0"));
        let came = world.pods(Event::Apply(pod("web-0", 2, "10.0.0.1", None)));
        assert_eq!(
            came,
            PodsChanged {
                marks: false,
                services: BTreeSet::from([web()])
            }
        );
        let marked = world.pods(Event::Apply(pod("web-0", 3, "10.0.0.1", Some("x"))));
        assert_eq!(
            marked,
            PodsChanged {
                marks: true,
                services: BTreeSet::new()
            }
        );
        let behind = world.behind(&web());
        assert_eq!(behind.pods["web-0"].version, 3);
        assert_eq!(behind.slices.len(), 1);
    }

    #[test]
    fn marked_are_those_that_bear_a_mark_now() {
        let world = world();
        world.pods(Event::Init);
        world.pods(Event::InitApply(pod("a", 1, "10.0.0.1", Some("x"))));
        world.pods(Event::InitApply(pod("b", 2, "10.0.0.2", None)));
        assert!(!*world.pods_listed.borrow());
        world.pods(Event::InitDone);
        assert!(*world.pods_listed.borrow());
        let marked = |world: &World| world.marked().into_keys().collect::<Vec<_>>();
        assert_eq!(marked(&world), [key("a")]);
        // The answer to a write of ours, before the watch tells of it.
        world.wrote_pod(&key("a"), &"uid-of-a".into(), 7, None);
        assert_eq!(marked(&world), Vec::<PodKey>::new());
        let late = pod("a", 5, "10.0.0.1", Some("x"));
        world.pods(Event::Apply(late));
        assert_eq!(marked(&world), Vec::<PodKey>::new());
        // Another Pod of that name is none of our writes.
        world.wrote_pod(&key("b"), &"uid-of-another".into(), 9, Some(Box::default()));
        assert_eq!(marked(&world), Vec::<PodKey>::new());
        world.pods(Event::Delete(pod("a", 10, "10.0.0.1", None)));
        assert_eq!(world.pod(&key("a")), None);
    }

    #[test]
    fn a_pod_that_is_about_to_end_is_no_longer_kept_out_by_anybody() {
        let world = world();
        let web = BindingKey::new("shop", "web");
        let out = |terminating| {
            let mut out = pod("a", 1 + u64::from(terminating), "10.0.0.1", None);
            let note = r#"{"bindings":["shop/web"],"since":"2026-03-01T10:00:00Z","why":""}"#;
            out.value.terminating = terminating;
            out.value.marks = Some(Box::new(Marks {
                draining: Some(mark::OURS.into()),
                ejected: Some(note.into()),
            }));
            out
        };
        world.pods(Event::Apply(out(false)));
        assert!(world.keeps_out(&web));
        world.pods(Event::Apply(out(true)));
        assert!(!world.keeps_out(&web), "nobody brings that one back");
    }
}
