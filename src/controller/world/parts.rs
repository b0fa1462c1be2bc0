//! How much of the world is known: what was listed, in which part of it.

use super::index::Inner;
use super::watched::Watched;
use super::{Concerned, World};
use crate::controller::mirrors::Mirrors;
use crate::domain::desired::MeshKind;
use crate::domain::inputs::NamespaceView;
use crate::domain::served::{Part, Served, WHOLE};

impl Inner {
    /// An empty world of what is served.
    pub(super) fn of(served: &Served) -> Self {
        let mut inner = Self {
            bindings: Mirrors::of(served),
            unreadable: Mirrors::of(served),
            services: Mirrors::of(served),
            virtual_services: Mirrors::of(served),
            destination_rules: Mirrors::of(served),
            served: served.clone(),
            ..Self::default()
        };
        inner.slices.mirror = Mirrors::of(served);
        inner.pods.mirror = Mirrors::of(served);
        inner
    }

    /// Whether everything was listed that a look at a binding to a Service of
    /// this namespace reads, but for bindings.
    fn surroundings_listed(&self, namespace: &str) -> bool {
        self.services.complete_in(namespace)
            && self.rules_listed(MeshKind::VirtualService, namespace)
            && self.rules_listed(MeshKind::DestinationRule, namespace)
    }

    /// Whether rules of this kind were listed, or are known to be missing.
    fn rules_listed(&self, kind: MeshKind, namespace: &str) -> bool {
        self.rules(kind).complete_in(namespace)
            || self.missing[kind as usize].contains_key(self.part_of(namespace))
    }

    /// Whether all is known that can be. A namespace that is not there, or whose
    /// owner has granted no right, keeps nobody waiting but itself, unless there
    /// is no other.
    pub(super) fn is_complete(&self, own_namespace: &str) -> bool {
        self.namespaces_known(own_namespace)
            && self.everywhere(|part| {
                self.surroundings_listed(part) && self.bindings.complete_in(part)
            })
    }

    /// Whether the kind was listed as far as it can be, or is known to be
    /// missing.
    pub(super) fn is_listed(&self, kind: Watched, own_namespace: &str) -> bool {
        match kind {
            Watched::Bindings => self.everywhere(|part| self.bindings.complete_in(part)),
            Watched::Services => self.everywhere(|part| self.services.complete_in(part)),
            Watched::Namespaces => self.namespaces_known(own_namespace),
            Watched::VirtualServices => {
                self.everywhere(|part| self.rules_listed(MeshKind::VirtualService, part))
            }
            Watched::DestinationRules => {
                self.everywhere(|part| self.rules_listed(MeshKind::DestinationRule, part))
            }
            Watched::EndpointSlices => self.slices_listed(),
            Watched::Pods => self.pods_listed(),
        }
    }

    /// Whether that is so in every part that can be read.
    fn everywhere(&self, is_so: impl Fn(&Part) -> bool) -> bool {
        let parts = self.served.parts();
        parts
            .iter()
            .all(|part| self.away.contains(part) || is_so(part))
    }

    /// Whether each Namespace is known, or cannot be read, and not all of them.
    fn namespaces_known(&self, own_namespace: &str) -> bool {
        if self.served.is_all() {
            return self.namespaces.complete();
        }
        let known = |name: &str| self.namespace(name).is_some();
        (known(own_namespace) || self.away.contains(own_namespace))
            && self
                .served
                .parts()
                .iter()
                .any(|part| !self.away.contains(part))
            && self.everywhere(|part| known(part))
    }

    /// Whether it is known who binds Services of this namespace, from wherever
    /// that may be done. Where all is watched at once, nobody asks before.
    pub(super) fn binders_listed(&self, namespace: &str) -> bool {
        let parts = self.served.parts();
        let mut from = parts.iter().filter(|from| self.may_bind(from, namespace));
        self.served.is_all() || from.all(|from| self.bindings.complete_in(from))
    }

    /// Bindings of this part were listed for the first time: what waited for that
    /// are Services that they may name, and bindings to these.
    pub(super) fn concerned_by_first_list(&self, part: &str, concerned: &mut Concerned) {
        if self.served.is_all() {
            return;
        }
        let into = |namespace: &str| self.may_bind(part, namespace);
        let namespaces = self.served.parts().into_iter();
        concerned.namespaces.extend(namespaces.filter(|n| into(n)));
        let bindings = self.bindings.values();
        let bindings = bindings.filter(|binding| into(&binding.service.namespace));
        let keys = bindings.map(|binding| binding.rival.key.clone());
        concerned.listed.extend(keys);
    }

    /// Whether bindings of the one namespace may name Services of the other.
    fn may_bind(&self, from: &str, namespace: &str) -> bool {
        let allows = |view: &NamespaceView| view.allow_from.contains(from);
        from == namespace || self.namespace(namespace).is_some_and(allows)
    }

    /// Whether the Pods were listed, as far as they can be.
    pub(super) fn pods_listed(&self) -> bool {
        self.everywhere(|part| self.pods.mirror.complete_in(part))
    }

    /// Whether the EndpointSlices were listed, as far as they can be.
    pub(super) fn slices_listed(&self) -> bool {
        self.everywhere(|part| self.slices.mirror.complete_in(part))
    }

    pub(super) fn part_of<'a>(&self, namespace: &'a str) -> &'a str {
        if self.served.is_all() {
            WHOLE
        } else {
            namespace
        }
    }
}

impl World {
    /// The Namespace cannot be read. Where that is so from the start, nobody
    /// waits for it; what was known before stays.
    pub(crate) fn namespace_away(&self, name: &str) {
        let mut inner = self.write();
        if inner.namespace(name).is_none() {
            inner.away.insert(name.to_owned());
        }
        self.note_complete(&inner);
        self.note_pods(&inner);
        self.note_slices(&inner);
    }

    /// Whether the Namespace was ever read.
    pub(crate) fn knows_namespace(&self, name: &str) -> bool {
        self.read().namespace(name).is_some()
    }

    /// Whether everything in the namespace was listed but its bindings.
    pub(crate) fn ready_for_bindings_of(&self, namespace: &str) -> bool {
        self.read().surroundings_listed(namespace)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use kube_runtime::watcher::Event;

    use super::*;
    use crate::controller::mirror::Seen;
    use crate::controller::mirrors::Told;
    use crate::domain::names::{ClusterDomain, Namespace};

    fn world() -> World {
        let names = ["shop", "billing"].map(|name| Namespace::parse(name).unwrap());
        let domain = ClusterDomain::parse("cluster.local").unwrap();
        World::serving(domain, "operators".to_owned(), &Served::only(&names))
    }

    fn there(world: &World, name: &str) {
        world.namespaces(Event::Apply(Seen {
            id: (String::new(), name.to_owned()),
            uid: name.into(),
            version: 1,
            value: NamespaceView::default(),
        }));
    }

    fn surroundings(world: &World, part: &str) {
        for event in [Event::Init, Event::InitDone] {
            world.services(Told::of(part, event));
        }
        for event in [Event::Init, Event::InitDone] {
            world.slices(Told::of(part, event));
        }
        for kind in [MeshKind::VirtualService, MeshKind::DestinationRule] {
            for event in [Event::Init, Event::InitDone] {
                world.rules(kind, Told::of(part, event));
            }
        }
        for event in [Event::Init, Event::InitDone] {
            world.pods(Told::of(part, event));
        }
    }

    fn bindings(world: &World, part: &str) {
        for event in [Event::Init, Event::InitDone] {
            world.bindings(Told::of(part, event));
        }
    }

    fn complete(world: &World) -> bool {
        world.complete().now_or_never().is_some()
    }

    #[test]
    fn it_is_complete_when_every_namespace_is() {
        let world = world();
        there(&world, "operators");
        for part in ["shop", "billing"] {
            assert!(!complete(&world));
            there(&world, part);
            assert!(!world.ready_for_bindings_of(part));
            surroundings(&world, part);
            assert!(world.ready_for_bindings_of(part));
            assert!(!complete(&world));
            bindings(&world, part);
        }
        assert!(complete(&world));
        assert!(world.pods_listed().now_or_never().is_some());
    }

    #[test]
    fn a_namespace_that_cannot_be_read_keeps_nobody_waiting_unless_there_is_no_other() {
        let world = world();
        there(&world, "operators");
        world.namespace_away("shop");
        world.namespace_away("billing");
        assert!(!complete(&world), "nothing at all can be served");
        there(&world, "shop");
        surroundings(&world, "shop");
        bindings(&world, "shop");
        assert!(complete(&world));
        assert!(world.pods_listed().now_or_never().is_some());
    }

    #[test]
    fn whether_everything_is_paused_has_to_be_known_first() {
        let world = world();
        for part in ["shop", "billing"] {
            there(&world, part);
            surroundings(&world, part);
            bindings(&world, part);
        }
        assert!(!complete(&world));
        world.namespace_away("operators");
        assert!(complete(&world));
    }
}
