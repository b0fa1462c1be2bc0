//! A VirtualService or DestinationRule as the cluster holds it, reduced to
//! what ownership and conflict need, and which hosts it claims.

use smallvec::SmallVec;

use super::desired::MeshKind;
use super::names::{ClusterDomain, ObjectKey};
use super::resource_version::ResourceVersion;
use super::uid::Uid;

/// A VirtualService or DestinationRule as the cluster holds it. Kept for every one of the
/// cluster, so it has room for what nearly all have one of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Which of the two.
    pub kind: MeshKind,
    /// Namespace and name of the object.
    pub id: ObjectKey,
    /// Uid of the object.
    pub uid: Uid,
    /// Generation; moves with the spec alone.
    pub generation: i64,
    /// Resource version.
    pub resource_version: ResourceVersion,
    /// Whether it carries our label.
    pub managed: bool,
    /// The binding that it was made for, by our annotation.
    pub binding_uid: Option<Uid>,
    /// Whether its owner handed it over.
    pub adopt: bool,
    /// Uids of its owners.
    pub owners: SmallVec<[Uid; 1]>,
    /// Hosts as they are written in it.
    pub hosts: SmallVec<[Box<str>; 1]>,
    /// Whether sidecars see it: always for a DestinationRule; for a
    /// VirtualService where `mesh` is among its gateways, or none is named.
    pub mesh: bool,
}

impl Rule {
    /// Kind, namespace and name, as a person would write them.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind.as_str(), self.id)
    }

    /// Whether nothing differs that a decision reads; a resource version alone
    /// moves with every touch.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let blind = |rule: &Self| Self {
            resource_version: ResourceVersion::default(),
            ..rule.clone()
        };
        blind(self) == blind(other)
    }

    /// Whether this object claims the host, exactly or by a wildcard.
    pub fn claims(&self, host: &str, cluster_domain: &ClusterDomain) -> bool {
        self.mesh
            && self
                .hosts
                .iter()
                .any(|h| covers(&expand(h, &self.id.namespace, cluster_domain), host))
    }
}

/// A host as Istio reads it: a name without a dot belongs to the rule's own
/// namespace, any other is taken literally.
pub fn expand(host: &str, namespace: &str, cluster_domain: &ClusterDomain) -> String {
    if host.contains('.') || host.contains('*') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.{cluster_domain}")
    }
}

/// Whether the pattern, an exact name or one that begins with `*`, matches.
pub fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => pattern == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixtures::ours;

    #[test]
    fn what_is_kept_of_a_rule_is_small_and_takes_no_memory_besides_but_for_its_host() {
        assert!(size_of::<Rule>() <= 144, "{}", size_of::<Rule>());
        let rule = ours(MeshKind::VirtualService);
        assert!(!rule.owners.spilled() && !rule.hosts.spilled());
    }

    #[test]
    fn a_name_without_a_dot_belongs_to_the_rules_namespace_and_any_other_is_literal() {
        let domain = ClusterDomain::parse("cluster.local").unwrap();
        assert_eq!(expand("web", "shop", &domain), "web.shop.svc.cluster.local");
        assert_eq!(expand("web.shop", "x", &domain), "web.shop");
        assert_eq!(expand("*", "x", &domain), "*");
    }

    #[test]
    fn a_wildcard_covers_longer_names_only() {
        for (pattern, matches) in [
            ("web.shop.svc.cluster.local", true),
            ("*.shop.svc.cluster.local", true),
            ("*.local", true),
            ("*", true),
            ("*.other.svc.cluster.local", false),
            ("web.shop", false),
            ("*web.shop.svc.cluster.local", false),
        ] {
            assert_eq!(
                covers(pattern, "web.shop.svc.cluster.local"),
                matches,
                "{pattern}"
            );
        }
    }
}
