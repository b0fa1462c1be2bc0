//! Which kinds of the mesh cannot be seen, and what may be there all the same.

use kube_runtime::watcher::Error;

use super::World;
use super::index::Inner;
use crate::controller::error::brief;
use crate::domain::desired::MeshKind;

/// Why rules of a kind cannot be seen, in words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Missing {
    /// The API server does not serve the kind, so there are none.
    Kind(String),
    /// It does not let us list them: nobody knows which there are.
    Right(String),
}

impl Missing {
    /// By a list of rules that was refused. Of kinds that are not there it is said no
    /// more than that: both most often come and go together, and each word that
    /// differs would be one more write for every binding.
    pub(crate) fn of(error: &Error, kind: MeshKind) -> Self {
        match error {
            Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403 => {
                Self::Right(format!(
                    "cannot list {} of networking.istio.io: {}; grant the operator its rights",
                    kind.as_str(),
                    brief(&status.message)
                ))
            }
            _ => Self::Kind(
                "the API server does not serve VirtualServices and DestinationRules of \
                 networking.istio.io; install Istio's CRDs"
                    .to_owned(),
            ),
        }
    }

    fn why(&self) -> &str {
        match self {
            Self::Kind(why) | Self::Right(why) => why,
        }
    }
}

impl Inner {
    /// Why rules for Services of this namespace cannot be seen.
    pub(super) fn missing_in(&self, namespace: &str) -> Option<&str> {
        let part = self.part_of(namespace);
        let mut kinds = self.missing.iter();
        kinds.find_map(|kind| kind.get(part).map(Missing::why))
    }
}

impl World {
    /// Why nobody knows which rules the namespace has: there may be some, and they
    /// were never listed. What is not served is left to others.
    pub(crate) fn never_listed(&self, namespace: &str) -> Option<String> {
        let inner = self.read();
        if !inner.served.has(namespace) {
            return None;
        }
        let part = inner.part_of(namespace);
        let kinds = [MeshKind::VirtualService, MeshKind::DestinationRule];
        let mut unseen = kinds
            .into_iter()
            .filter(|kind| !inner.rules(*kind).complete_in(namespace));
        unseen.find_map(|kind| match inner.missing[kind as usize].get(part) {
            Some(Missing::Kind(_)) => None,
            Some(Missing::Right(why)) => Some(why.clone()),
            None => Some(format!(
                "no list of {}s in namespace {namespace} has come yet; if none comes, see whether the namespace is there and the operator's account has its Role in it, or take it out of --watch-namespaces",
                kind.as_str()
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use kube_runtime::watcher::Event;

    use super::*;
    use crate::controller::mirrors::Told;
    use crate::domain::names::{ClusterDomain, Namespace};
    use crate::domain::served::Served;

    use MeshKind::{DestinationRule, VirtualService};

    fn world() -> World {
        let names = ["shop", "billing"].map(|name| Namespace::parse(name).unwrap());
        let domain = ClusterDomain::parse("cluster.local").unwrap();
        World::serving(domain, "operators".to_owned(), &Served::only(&names))
    }

    fn listed(world: &World, kind: MeshKind) {
        for event in [Event::Init, Event::InitDone] {
            world.rules(kind, Told::of("shop", event));
        }
    }

    fn refused() -> Missing {
        Missing::Right("refused".to_owned())
    }

    #[test]
    fn a_kind_that_is_missing_in_one_namespace_is_not_missing_in_another() {
        let world = world();
        world.rules_missing(VirtualService, "shop", refused());
        let inner = world.read();
        assert_eq!(inner.missing_in("shop"), Some("refused"));
        assert_eq!(inner.missing_in("billing"), None);
    }

    #[test]
    fn of_what_was_never_listed_nobody_knows_whether_it_is_there() {
        let world = world();
        world.namespace_away("shop");
        assert!(world.never_listed("shop").unwrap().contains("shop"));
        listed(&world, DestinationRule);
        world.rules_missing(VirtualService, "shop", refused());
        assert_eq!(world.never_listed("shop").as_deref(), Some("refused"));
        listed(&world, VirtualService);
        assert_eq!(world.never_listed("shop"), None);
        // What was seen once is known.
        world.rules_missing(VirtualService, "shop", refused());
        assert_eq!(world.never_listed("shop"), None);
    }

    #[test]
    fn of_kinds_that_are_not_served_there_is_nothing_and_what_is_others_is_theirs() {
        let world = world();
        for kind in [VirtualService, DestinationRule] {
            let no_such_kind = Missing::Kind("404".to_owned());
            world.rules_missing(kind, "shop", no_such_kind);
        }
        assert_eq!(world.never_listed("shop"), None);
        assert_eq!(world.never_listed("payments"), None);
        world.rules_missing(DestinationRule, "shop", refused());
        assert_eq!(world.never_listed("shop").as_deref(), Some("refused"));
    }
}
