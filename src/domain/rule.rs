//! A VirtualService or DestinationRule as the cluster holds it, reduced to
//! what ownership and conflict need, and which hosts it claims.

use super::desired::MeshKind;
use super::names::ClusterDomain;
use super::uid::Uid;

/// A VirtualService or DestinationRule as the cluster holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rule {
    /// Which of the two.
    pub kind: MeshKind,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Uid of the object.
    pub uid: Uid,
    /// Generation; moves with the spec alone.
    pub generation: i64,
    /// Resource version.
    pub resource_version: String,
    /// Whether it carries our label.
    pub managed: bool,
    /// The binding that it was made for, by our annotation.
    pub binding_uid: Option<Uid>,
    /// Whether its owner handed it over.
    pub adopt: bool,
    /// Uids of its owners.
    pub owners: Vec<Uid>,
    /// Hosts as they are written in it.
    pub hosts: Vec<String>,
    /// Whether sidecars see it: always for a DestinationRule; for a
    /// VirtualService where `mesh` is among its gateways, or none is named.
    pub mesh: bool,
}

impl Rule {
    /// Kind, namespace and name, as a person would write them.
    pub fn title(&self) -> String {
        format!("{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }

    /// Whether nothing differs that a decision reads; a resource version alone
    /// moves with every touch.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let blind = |rule: &Self| Self {
            resource_version: String::new(),
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
                .any(|h| covers(&expand(h, &self.namespace, cluster_domain), host))
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
