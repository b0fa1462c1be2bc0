//! Validated names. A value of these types has been checked; nothing here
//! repairs, shortens or escapes a name, so two inputs never meet in one. A clone
//! shares the text: much is kept by name.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use internment::ArcIntern;

/// Why a name was refused. The message names the rule, never more of the
/// input than a bounded, escaped prefix.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what} {shown} {rule}")]
pub struct NameError {
    what: &'static str,
    shown: String,
    rule: &'static str,
}

impl NameError {
    fn new(what: &'static str, input: &str, rule: &'static str) -> Self {
        Self {
            what,
            shown: shown(input),
            rule,
        }
    }
}

/// The input as it may stand in a message: quoted, escaped, at most 80
/// characters of it.
pub fn shown(input: &str) -> String {
    let mut chars = input.chars();
    let head: String = chars.by_ref().take(80).collect();
    let more = if chars.next().is_some() { "…" } else { "" };
    format!("{head:?}{more}")
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is, or says which rule it breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if $check(text) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(NameError::new($what, text, $rule))
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// ID of a service in the catalog. The characters are those that survive
    /// unescaped in a path segment, so that an ID never changes a URL.
    CatalogServiceId,
    "catalog service id",
    is_catalog_id,
    "must be 1 to 253 characters of A-Z a-z 0-9 . _ : ~ - and start with a letter or digit"
);
name!(
    /// Name of a Kubernetes Service.
    ServiceName,
    "service name",
    is_dns_label,
    "must be a DNS label: 1 to 63 characters of a-z 0-9 -, first and last a letter or digit"
);
name!(
    /// Name of a Kubernetes Namespace.
    Namespace,
    "namespace",
    is_dns_label,
    "must be a DNS label: 1 to 63 characters of a-z 0-9 -, first and last a letter or digit"
);

name!(
    /// Domain of the cluster's services. Service, namespace and this make a
    /// host together, which DNS bounds at 253 characters.
    ClusterDomain,
    "cluster domain",
    is_cluster_domain,
    "must be a DNS name of at most 120 characters, as in cluster.local: labels of a-z 0-9 -, the last not a number"
);

name!(
    /// Identity of the cluster towards the catalog.
    ClusterId,
    "cluster id",
    is_cluster_id,
    "must be 1 to 63 characters of A-Z a-z 0-9 . _ -, first and last a letter or digit"
);

fn is_cluster_id(text: &str) -> bool {
    let outer = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.starts_with(outer)
        && text.ends_with(outer)
        && text.chars().all(|c| outer(c) || "._-".contains(c))
}

fn is_cluster_domain(text: &str) -> bool {
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 120
        && text.split('.').all(is_dns_label)
        && !text.rsplit('.').next().is_some_and(number)
}

fn is_catalog_id(text: &str) -> bool {
    text.len() <= 253
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._:~-".contains(c))
}

fn is_dns_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63
        && text.starts_with(inner)
        && text.ends_with(inner)
        && text.chars().all(|c| inner(c) || c == '-')
}

/// A namespace, and a name in it. These are keys of a dozen maps and more, so each pair is
/// in memory once, however often it is held.
#[derive(Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(ArcIntern<ObjectName>);

        impl $name {
            /// The one of that name in that namespace.
            pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
                Self(ArcIntern::new(ObjectName {
                    namespace: namespace.into(),
                    name: name.into(),
                }))
            }
        }

        impl Deref for $name {
            type Target = ObjectName;

            fn deref(&self) -> &ObjectName {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }
    };
}

key!(
    /// Namespace and name of a ServiceBinding. Cheap to clone, and as large as a pointer.
    BindingKey
);
key!(
    /// Namespace and name of any object, whether these can be its or not. Cheap to clone,
    /// and as large as a pointer.
    ObjectKey
);

/// Namespace and name of the Kubernetes Service that a binding is for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceKey {
    /// Namespace of the Service.
    pub namespace: Namespace,
    /// Name of the Service.
    pub name: ServiceName,
}

impl ServiceKey {
    /// The fully qualified host, the only form that Istio never expands.
    pub fn host(&self, cluster_domain: &ClusterDomain) -> String {
        format!("{}.{}.svc.{cluster_domain}", self.name, self.namespace)
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_id_that_would_change_a_url_is_refused() {
        for id in [
            "", ".", "..", "../x", "a/b", "a?b", "a#b", "a%2fb", "é", "a b", "a\nb", "-a",
        ] {
            assert!(CatalogServiceId::parse(id).is_err(), "{id:?}");
        }
        assert!(CatalogServiceId::parse(&"a".repeat(254)).is_err());
        for id in ["a", "worker-service-001", "ns:svc.v1_2~x", &"a".repeat(253)] {
            assert_eq!(
                CatalogServiceId::parse(id).map(|i| i.to_string()),
                Ok(id.to_owned())
            );
        }
    }

    #[test]
    fn a_dns_label_of_63_characters_is_the_longest() {
        assert!(ServiceName::parse(&"a".repeat(63)).is_ok());
        assert!(ServiceName::parse(&"a".repeat(64)).is_err());
        for name in ["", "-a", "a-", "A", "a.b", "ä", "a_b", "a\n"] {
            assert!(Namespace::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_uid_of_a_namespace_is_a_cluster_id_and_what_would_not_fit_a_label_is_none() {
        for id in [
            "0c7a1e1e-8f1c-4c0e-9d0b-3f6d0b9c2a11",
            "prod-eu.1",
            "A_1",
            "x",
        ] {
            assert!(ClusterId::parse(id).is_ok(), "{id}");
        }
        let long = "a".repeat(64);
        for id in ["", "-a", "a-", "a b", "a/b", "a:b", "é", long.as_str()] {
            assert!(ClusterId::parse(id).is_err(), "{id}");
        }
    }

    #[test]
    fn the_longest_host_fits_into_dns() {
        let domain = |text: &str| ClusterDomain::parse(text);
        for text in [
            "",
            ".",
            "cluster.local.",
            ".local",
            "Cluster.local",
            "a..b",
            "10.0.0.1",
        ] {
            assert!(domain(text).is_err(), "{text:?}");
        }
        let longest = format!("{}.{}", "a".repeat(63), "b".repeat(56));
        let label = "c".repeat(63);
        let (Ok(namespace), Ok(name)) = (Namespace::parse(&label), ServiceName::parse(&label))
        else {
            panic!("63 characters are allowed");
        };
        let host = ServiceKey { namespace, name }.host(&domain(&longest).unwrap());
        assert_eq!(host.len(), 252);
        assert!(domain(&format!("{longest}b")).is_err());
        assert!(domain("cluster.local").is_ok());
    }

    #[test]
    fn a_refusal_shows_a_bounded_escaped_prefix_of_the_input() {
        let message = CatalogServiceId::parse(&"\n".repeat(10_000))
            .unwrap_err()
            .to_string();
        assert!(message.len() < 400 && !message.contains('\n'), "{message}");
    }

    #[test]
    fn keys_are_in_the_order_of_namespaces_and_names_and_equal_where_both_are() {
        let mut keys = ["b/a", "a/b", "a/a", "b/a"].map(|key| {
            let (namespace, name) = key.split_once('/').unwrap();
            BindingKey::new(namespace, name)
        });
        assert_eq!(keys[0], keys[3]);
        keys.sort();
        assert_eq!(
            keys.map(|key| key.to_string()),
            ["a/a", "a/b", "b/a", "b/a"]
        );
        assert_eq!(size_of::<BindingKey>(), size_of::<usize>());
    }
}
