//! Of which versions is everything that a look at a binding reads in the cluster?

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::World;
use super::index::Inner;
use super::touched::Stamp;
use crate::controller::mirror::{self, Id, object};
use crate::domain::desired::MeshKind;
use crate::domain::names::{BindingKey, ObjectKey};

/// What a look at a binding would read, by its versions.
#[derive(Clone, Debug, PartialEq)]
pub struct Versions {
    /// All of them as one number.
    pub number: u64,
    /// As long as this holds they are the same.
    pub stamp: Stamp,
    /// The ID of the binding's record.
    pub catalog_id: String,
}

impl World {
    /// Whether nothing has changed since around the binding.
    pub fn is_untouched_since(&self, stamp: Stamp) -> bool {
        self.read().touched.is_still(stamp)
    }

    /// The versions of the binding and of everything around it. Nothing where versions do not say it all: an object has
    /// none that is a number, a rule belongs to another binding, or the mesh's kinds
    /// are missing.
    pub fn versions(&self, key: &BindingKey) -> Option<Versions> {
        let inner = self.read();
        let id = (key.namespace.clone(), key.name.clone());
        let binding = inner.bindings.get(&id)?;
        let own = inner.bindings.version(&id)?;
        let service = mirror::id(&binding.service);
        if inner.unreadable.get(&id).is_some() || inner.missing_in(&service.0).is_some() {
            return None;
        }
        let uid = Some(&binding.rival.uid);
        let mut all = DefaultHasher::new();
        (uid, own).hash(&mut all);
        inner.services.version(&service).hash(&mut all);
        for namespace in [&id.0, &service.0, &self.own_namespace] {
            let id = (String::new(), namespace.clone());
            inner.namespaces.version(&id).hash(&mut all);
        }
        for rival in inner.by_service.of(&object(&service)) {
            let id = (rival.namespace.clone(), rival.name.clone());
            inner.bindings.version(&id).hash(&mut all);
        }
        let host = format!("{}.{}.svc.{}", service.1, service.0, self.cluster_domain);
        let named = [MeshKind::DestinationRule, MeshKind::VirtualService];
        for kind in named {
            inner.rule_version(kind, &service).hash(&mut all);
        }
        for (kind, id) in inner.by_host.of(host.as_str()) {
            let of = inner.rule_at(*kind, id).map(|rule| &rule.binding_uid);
            if of.is_some_and(|of| of.is_some() && of.as_ref() != uid) {
                return None;
            }
            (&**id, inner.rule_version_at(*kind, id)).hash(&mut all);
        }
        for (kind, id) in &inner.wildcards {
            (&**id, inner.rule_version_at(*kind, id)).hash(&mut all);
        }
        Some(Versions {
            number: all.finish(),
            stamp: inner.touched.stamp(&service),
            catalog_id: binding.catalog_id.to_string(),
        })
    }
}

impl Inner {
    fn rule_version_at(&self, kind: MeshKind, of: &ObjectKey) -> Option<u64> {
        self.rule_version(kind, &mirror::id(of))
    }

    fn rule_version(&self, kind: MeshKind, id: &Id) -> Option<u64> {
        match kind {
            MeshKind::VirtualService => self.virtual_services.version(id),
            MeshKind::DestinationRule => self.destination_rules.version(id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Scene, key};
    use super::*;

    #[test]
    fn whatever_a_look_reads_makes_other_versions_and_nothing_else_does() {
        let scene = Scene::new();
        let mut last = scene.versions();
        assert!(last.is_some());
        let reads: [(&str, &dyn Fn()); 8] = [
            ("the binding", &|| scene.binding("web", "web", 2)),
            ("its Service", &|| scene.service("web", 3)),
            ("its Namespace", &|| scene.namespace("shop", 4)),
            ("the operator's", &|| scene.namespace("operator", 5)),
            ("its rule", &|| scene.rule("web", "web", 6)),
            ("a rival", &|| scene.binding("rival", "web", 7)),
            ("a rule for its host", &|| {
                scene.rule("foreign", "web.shop.svc.cluster.local", 8);
            }),
            ("a wildcard", &|| scene.rule("wild", "*.local", 9)),
        ];
        for (what, changes) in reads {
            changes();
            let now = scene.versions();
            assert_ne!(now, last, "{what} changed");
            assert!(now.is_some(), "{what}");
            last = now;
        }
        scene.binding("other", "other", 10);
        scene.service("other", 11);
        scene.namespace("elsewhere", 12);
        scene.rule("other", "other", 13);
        assert_eq!(scene.versions(), last);
    }
    #[test]
    fn as_long_as_a_stamp_holds_the_versions_are_the_same() {
        let mut random = fastrand::Rng::with_seed(7);
        let scene = Scene::new();
        let (mut held, mut changed) = (0, 0);
        let mut last = None::<Versions>;
        for version in 20..5_000 {
            scene.anything(&mut random, version);
            let now = scene.0.versions(&key());
            if let Some(last) = last {
                if scene.0.is_untouched_since(last.stamp) {
                    assert_eq!(now.as_ref(), Some(&last), "after {version}");
                    held += 1;
                } else if now.as_ref().is_none_or(|now| now.number != last.number) {
                    changed += 1;
                }
            }
            last = now;
        }
        assert!(
            held > 100 && changed > 100,
            "{held} held, {changed} changed"
        );
    }
}
