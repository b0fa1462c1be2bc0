//! Whether we may write the two objects of a binding: one function per way in
//! which somebody else may be in the way.

use super::desired::MeshKind;
use super::inputs::{Inputs, Rival, Settings};
use super::labels::{LABEL_SOURCE, SOURCE_CATALOG};
use super::names::{ClusterDomain, ServiceKey};
use super::reasons;
use super::rule::Rule;
use super::uid::Uid;
use crate::api::service_binding::ServiceBinding;

/// Obstacles by which a binding has nothing to do with the Service at all.
pub const SHUT_OUT: [&str; 3] = [
    reasons::ANOTHER_BINDING,
    reasons::NAMESPACE_NOT_ALLOWED,
    reasons::NAMESPACE_NOT_SERVED,
];

/// Somebody else is in the way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Obstacle {
    /// Condition reason.
    pub reason: &'static str,
    /// Who it is, and what to do about it.
    pub message: String,
}

impl Obstacle {
    fn new(reason: &'static str, message: String) -> Option<Self> {
        Some(Self { reason, message })
    }
}

/// Whose an object of our name is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    /// This binding's.
    Ours,
    /// Made for a binding that no longer exists.
    Orphan,
    /// Made for a binding that has to stand back behind this one.
    Superseded,
    /// Handed over by its owner.
    HandedOver,
    /// Another living binding's.
    AnotherBindings,
    /// Somebody else's.
    Foreign,
}

/// The first obstacle there is, in the order in which a person would mend
/// them.
pub fn obstacle(inputs: &Inputs, service: &ServiceKey, settings: &Settings) -> Option<Obstacle> {
    namespace_is_not_served(service, settings)
        .or_else(|| namespace_does_not_allow(inputs, service))
        .or_else(|| another_binding_counts(inputs, service))
        .or_else(|| object_of_our_name_is_not_ours(inputs, service))
        .or_else(|| another_rule_claims_the_host(inputs, service, settings))
}

/// Nothing is known of a namespace that is not served, and nothing may be written.
fn namespace_is_not_served(service: &ServiceKey, settings: &Settings) -> Option<Obstacle> {
    let target = &service.namespace;
    if settings.served.has(target.as_str()) {
        return None;
    }
    Obstacle::new(
        reasons::NAMESPACE_NOT_SERVED,
        format!(
            "this operator serves some namespaces only (--watch-namespaces), and {target} is none of them: make the binding where it is served, or have the namespace added"
        ),
    )
}

/// A binding may only name its own namespace, unless the other one allows it.
fn namespace_does_not_allow(inputs: &Inputs, service: &ServiceKey) -> Option<Obstacle> {
    let from = inputs
        .binding
        .metadata
        .namespace
        .as_deref()
        .unwrap_or_default();
    let target = service.namespace.as_str();
    if may_bind(inputs, from, target) {
        return None;
    }
    Obstacle::new(
        reasons::NAMESPACE_NOT_ALLOWED,
        format!(
            "namespace {target} does not allow bindings from {from}; its owner can annotate it with {}={from}",
            super::labels::ANNOTATION_ALLOW_FROM
        ),
    )
}

/// Whether bindings of the one namespace may name Services of the other, which
/// is the Service's.
fn may_bind(inputs: &Inputs, from: &str, target: &str) -> bool {
    from == target || inputs.target.allow_from.contains(from)
}

/// Of two bindings for one Service a user's counts before one that was made for
/// the catalog, and otherwise the older one; one that may not name the Service
/// counts for nothing, or anybody could keep its owner out.
fn another_binding_counts(inputs: &Inputs, service: &ServiceKey) -> Option<Obstacle> {
    let first = inputs
        .rivals
        .iter()
        .filter(|rival| counts_before_us(inputs, rival, service.namespace.as_str()))
        .min_by_key(|rival| rank(rival))?;
    let why = if made_for_catalog(&inputs.binding) && !first.made_for_catalog {
        "is a user's, and this one was made for the catalog; it goes when the objects are taken over"
    } else {
        "is older; delete one of the two"
    };
    Obstacle::new(
        reasons::ANOTHER_BINDING,
        format!(
            "ServiceBinding {} binds Service {service} already and {why}",
            first.key
        ),
    )
}

fn counts_before_us(inputs: &Inputs, rival: &Rival, target: &str) -> bool {
    may_bind(inputs, &rival.key.namespace, target) && rank(rival) < rank(&as_rival(&inputs.binding))
}

/// The lowest rank counts.
fn rank(rival: &Rival) -> (bool, i64, &Uid) {
    (rival.made_for_catalog, rival.created, &rival.uid)
}

/// The binding as the others for the same Service see it.
pub fn as_rival(binding: &ServiceBinding) -> Rival {
    let metadata = &binding.metadata;
    let created = metadata.creation_timestamp.as_ref();
    Rival {
        key: super::validate::key(binding),
        created: created.map_or(i64::MAX, |t| t.0.as_second()),
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        made_for_catalog: made_for_catalog(binding),
    }
}

/// Whether the binding was made for an entry of the catalog, and nobody has
/// made it his own since by taking the label off.
pub fn made_for_catalog(binding: &ServiceBinding) -> bool {
    let labels = binding.metadata.labels.as_ref();
    labels.and_then(|l| l.get(LABEL_SOURCE)).map(String::as_str) == Some(SOURCE_CATALOG)
}

/// Whether the binding was made for the catalog and is no longer needed: a
/// user's counts for the Service now, and has taken over every object, so that
/// none goes with this one.
pub fn is_relieved(inputs: &Inputs, service: &ServiceKey) -> bool {
    let counts = |rival: &Rival| counts_before_us(inputs, rival, service.namespace.as_str());
    made_for_catalog(&inputs.binding)
        && inputs
            .rivals
            .iter()
            .any(|rival| !rival.made_for_catalog && counts(rival))
        && !inputs
            .rules
            .iter()
            .any(|rule| is_child(rule, service) && whose(inputs, rule) == Whose::Ours)
}

/// An object of our name that we may not write.
fn object_of_our_name_is_not_ours(inputs: &Inputs, service: &ServiceKey) -> Option<Obstacle> {
    [MeshKind::DestinationRule, MeshKind::VirtualService].into_iter().find_map(|kind| {
        let rule = child(inputs, service, kind)?;
        match whose(inputs, rule) {
            Whose::Foreign => Obstacle::new(
                reasons::NOT_OURS,
                format!(
                    "{} exists and is not ours; delete or rename it, or let its owner hand it over with the annotation {}=true",
                    rule.title(),
                    super::labels::ANNOTATION_ADOPT
                ),
            ),
            Whose::AnotherBindings => Obstacle::new(
                reasons::ANOTHER_BINDING,
                format!(
                    "{} was made for another ServiceBinding that still exists, as far as can be seen",
                    rule.title()
                ),
            ),
            Whose::Ours | Whose::Orphan | Whose::Superseded | Whose::HandedOver => None,
        }
    })
}

/// A rule of another name that would win over ours, or that ours would hide.
fn another_rule_claims_the_host(
    inputs: &Inputs,
    service: &ServiceKey,
    settings: &Settings,
) -> Option<Obstacle> {
    let domain = &settings.cluster_domain;
    let host = &service.host(domain);
    let rule = inputs.rules.iter().find(|rule| {
        !is_child(rule, service)
            && !matches!(whose(inputs, rule), Whose::Ours)
            && rule.claims(host, domain)
            && match rule.kind {
                MeshKind::VirtualService => true,
                MeshKind::DestinationRule => {
                    // Elsewhere it only counts for clients of its own namespace.
                    let counts = rule.id.namespace == service.namespace.as_str()
                        || rule.id.namespace == settings.root_namespace;
                    counts && !(hidden_by_ours(rule, service, host, domain) && rule.adopt)
                }
            }
    })?;
    let remedy =
        if rule.kind == MeshKind::DestinationRule && hidden_by_ours(rule, service, host, domain) {
            format!(
                "ours would hide it whole; if its owner agrees, annotate it with {}=true",
                super::labels::ANNOTATION_ADOPT
            )
        } else {
            "it would take precedence over ours; delete it or take the host out of it".to_owned()
        };
    Obstacle::new(
        reasons::FOREIGN_RULE,
        format!("{} claims the host {host}: {remedy}", rule.title()),
    )
}

/// A DestinationRule that loses against ours: it has a wildcard, or stands in
/// the root namespace.
fn hidden_by_ours(rule: &Rule, service: &ServiceKey, host: &str, domain: &ClusterDomain) -> bool {
    let exact = rule
        .hosts
        .iter()
        .any(|h| super::rule::expand(h, &rule.id.namespace, domain) == host);
    !exact || rule.id.namespace != service.namespace.as_str()
}

/// Whether the rule bears the name that the binding's own object has.
fn is_child(rule: &Rule, service: &ServiceKey) -> bool {
    rule.id.namespace == service.namespace.as_str() && rule.id.name == service.name.as_str()
}

/// The object of that kind that bears our name, if there is one.
pub fn child<'a>(inputs: &'a Inputs, service: &ServiceKey, kind: MeshKind) -> Option<&'a Rule> {
    inputs
        .rules
        .iter()
        .map(AsRef::as_ref)
        .find(|rule| rule.kind == kind && is_child(rule, service))
}

/// Whose the object is. One of our two marks, label and binding uid, may have
/// been removed by hand; without both it is no longer ours.
pub fn whose(inputs: &Inputs, rule: &Rule) -> Whose {
    let me: Uid = inputs
        .binding
        .metadata
        .uid
        .as_deref()
        .unwrap_or_default()
        .into();
    let recorded = inputs
        .binding
        .status
        .iter()
        .flat_map(|status| &status.children)
        .any(|c| c.uid == rule.uid && c.kind == rule.kind.as_str());
    match &rule.binding_uid {
        Some(uid) if *uid == me && (rule.managed || recorded) => Whose::Ours,
        None if rule.managed && recorded => Whose::Ours,
        Some(uid) if rule.managed && *uid != me => {
            let rival = inputs.rivals.iter().find(|rival| rival.uid == *uid);
            match rival {
                _ if !inputs.living.contains(uid) => Whose::Orphan,
                // It says so itself, and writes nothing any more.
                Some(rival) if !counts_before_us(inputs, rival, &rule.id.namespace) => {
                    Whose::Superseded
                }
                _ => Whose::AnotherBindings,
            }
        }
        _ if rule.adopt => Whose::HandedOver,
        _ => Whose::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::service_binding::{ChildStatus, ServiceBindingStatus};
    use crate::domain::fixtures::{HOST, UID, binding, foreign, inputs, ours, settings, target};
    use crate::domain::names::{BindingKey, Namespace};
    use crate::domain::served::Served;

    use MeshKind::{DestinationRule, VirtualService};

    fn with(rules: Vec<Rule>) -> Inputs {
        Inputs {
            rules: rules.into_iter().map(Arc::new).collect(),
            ..inputs(binding())
        }
    }

    fn reason(inputs: &Inputs) -> Option<&'static str> {
        obstacle(inputs, &target(inputs).service, &settings()).map(|o| o.reason)
    }

    #[test]
    fn nothing_is_in_the_way_of_a_binding_alone_or_with_its_own_objects() {
        assert_eq!(reason(&with(vec![])), None);
        assert_eq!(
            reason(&with(vec![ours(DestinationRule), ours(VirtualService)])),
            None
        );
    }

    #[test]
    fn an_object_of_our_name_that_is_somebody_elses_is_in_the_way_until_it_is_handed_over() {
        for kind in [DestinationRule, VirtualService] {
            let mut rule = foreign(kind, "shop", "web", HOST);
            assert_eq!(reason(&with(vec![rule.clone()])), Some(reasons::NOT_OURS));
            rule.adopt = true;
            assert_eq!(reason(&with(vec![rule])), None);
        }
    }

    #[test]
    fn an_object_of_a_binding_that_exists_is_in_the_way_and_an_orphan_is_not() {
        let mut rule = ours(VirtualService);
        rule.binding_uid = Some("uid-of-another".into());
        let mut seen = with(vec![rule]);
        assert_eq!(reason(&seen), None);
        seen.living.insert("uid-of-another".into());
        assert_eq!(reason(&seen), Some(reasons::ANOTHER_BINDING));
    }

    #[test]
    fn an_object_that_lost_one_of_our_two_marks_is_still_ours_and_without_both_it_is_not() {
        let recorded = |rule: &Rule| {
            let mut binding = binding();
            binding.status = Some(ServiceBindingStatus {
                children: vec![ChildStatus {
                    kind: rule.kind.as_str().to_owned(),
                    uid: rule.uid.to_string(),
                    ..ChildStatus::default()
                }],
                ..ServiceBindingStatus::default()
            });
            inputs(binding)
        };
        let rule = ours(VirtualService);
        let without_label = Rule {
            managed: false,
            ..rule.clone()
        };
        let without_uid = Rule {
            binding_uid: None,
            ..rule.clone()
        };
        let without_both = Rule {
            managed: false,
            binding_uid: None,
            ..rule.clone()
        };
        let seen = recorded(&rule);
        assert_eq!(whose(&seen, &without_label), Whose::Ours);
        assert_eq!(whose(&seen, &without_uid), Whose::Ours);
        assert_eq!(whose(&seen, &without_both), Whose::Foreign);
        // Copied marks on an object that we never wrote prove nothing.
        assert_eq!(whose(&inputs(binding()), &without_label), Whose::Foreign);
    }

    #[test]
    fn a_rule_that_would_win_for_the_host_is_in_the_way() {
        for rule in [
            foreign(DestinationRule, "shop", "other", HOST),
            foreign(DestinationRule, "shop", "other", "web"),
            foreign(VirtualService, "shop", "other", HOST),
            foreign(VirtualService, "elsewhere", "other", HOST),
            foreign(
                VirtualService,
                "elsewhere",
                "other",
                "*.shop.svc.cluster.local",
            ),
        ] {
            let seen = with(vec![rule.clone()]);
            assert_eq!(reason(&seen), Some(reasons::FOREIGN_RULE), "{rule:?}");
            let adopted = with(vec![Rule {
                adopt: true,
                ..rule
            }]);
            assert_eq!(reason(&adopted), Some(reasons::FOREIGN_RULE));
        }
    }

    #[test]
    fn a_destination_rule_that_ours_would_hide_is_in_the_way_until_its_owner_agrees() {
        for rule in [
            foreign(DestinationRule, "shop", "wild", "*.shop.svc.cluster.local"),
            foreign(DestinationRule, "istio-system", "mesh-wide", "*.local"),
            foreign(DestinationRule, "istio-system", "exact", HOST),
        ] {
            let seen = with(vec![rule.clone()]);
            assert_eq!(reason(&seen), Some(reasons::FOREIGN_RULE), "{rule:?}");
            assert_eq!(
                reason(&with(vec![Rule {
                    adopt: true,
                    ..rule
                }])),
                None
            );
        }
    }

    #[test]
    fn a_rule_that_cannot_win_nor_be_hidden_is_not_in_the_way() {
        for rule in [
            foreign(DestinationRule, "clients", "mine", HOST),
            foreign(
                DestinationRule,
                "shop",
                "other",
                "api.shop.svc.cluster.local",
            ),
            foreign(VirtualService, "clients", "short", "web.shop"),
            Rule {
                mesh: false,
                ..foreign(VirtualService, "shop", "ingress", HOST)
            },
        ] {
            assert_eq!(reason(&with(vec![rule.clone()])), None, "{rule:?}");
        }
    }

    #[test]
    fn of_two_bindings_the_older_counts_and_the_uid_decides_between_twins() {
        let rival = |created, uid: &str| Inputs {
            rivals: vec![Rival {
                key: BindingKey::new("shop", "rival"),
                created,
                uid: uid.into(),
                made_for_catalog: false,
            }],
            ..inputs(binding())
        };
        assert_eq!(reason(&rival(999, "z")), Some(reasons::ANOTHER_BINDING));
        assert_eq!(reason(&rival(1001, "a")), None);
        assert_eq!(reason(&rival(1000, "a")), Some(reasons::ANOTHER_BINDING));
        assert_eq!(reason(&rival(1000, "z")), None);
        assert!("a" < UID && UID < "z");
    }

    #[test]
    fn an_object_of_a_binding_that_stands_back_behind_ours_is_taken_over() {
        let taken = |namespace: &str, created, allowed: bool| {
            let mut rule = ours(VirtualService);
            rule.binding_uid = Some("rival".into());
            let mut seen = with(vec![rule.clone()]);
            seen.living.insert("rival".into());
            seen.rivals.push(Rival {
                key: BindingKey::new(namespace.to_owned(), "rival"),
                created,
                uid: "rival".into(),
                made_for_catalog: false,
            });
            if allowed {
                seen.target.allow_from.insert(namespace.to_owned());
            }
            (whose(&seen, &rule), reason(&seen))
        };
        let (superseded, another) = (
            (Whose::Superseded, None),
            (Whose::AnotherBindings, Some(reasons::ANOTHER_BINDING)),
        );
        assert_eq!(taken("shop", 1001, false), superseded);
        assert_eq!(taken("shop", 999, false), another);
        assert_eq!(taken("elsewhere", 999, true), another);
        assert_eq!(taken("elsewhere", 999, false), superseded);
    }

    fn made(mut binding: ServiceBinding) -> ServiceBinding {
        let label = (LABEL_SOURCE.to_owned(), SOURCE_CATALOG.to_owned());
        binding.metadata.labels = Some([label].into());
        binding
    }

    fn rival(namespace: &str, created: i64, made_for_catalog: bool) -> Rival {
        Rival {
            key: BindingKey::new(namespace.to_owned(), "rival"),
            created,
            uid: "rival".into(),
            made_for_catalog,
        }
    }

    #[test]
    fn a_users_binding_counts_before_one_that_was_made_for_the_catalog_however_old_that_is() {
        let against = |mine: ServiceBinding, rival: Rival| {
            reason(&Inputs {
                rivals: vec![rival],
                ..inputs(mine)
            })
        };
        let another = Some(reasons::ANOTHER_BINDING);
        assert_eq!(against(binding(), rival("shop", 1, true)), None);
        assert_eq!(
            against(made(binding()), rival("shop", 9999, false)),
            another
        );
        // Among their like the older one counts.
        assert_eq!(against(made(binding()), rival("shop", 1, true)), another);
        assert_eq!(against(made(binding()), rival("shop", 9999, true)), None);
        // Whoever may not name the Service relieves nobody.
        assert_eq!(against(made(binding()), rival("other", 1, false)), None);
    }

    #[test]
    fn what_was_made_for_the_catalog_is_relieved_when_the_users_has_taken_every_object() {
        let relieved = |mine: ServiceBinding, rival: Rival, rules: Vec<Rule>| {
            let mut seen = with(rules);
            seen.binding = Arc::new(mine);
            seen.living.insert("rival".into());
            seen.rivals.push(rival);
            is_relieved(&seen, &target(&seen).service)
        };
        let theirs = |kind| Rule {
            binding_uid: Some("rival".into()),
            ..ours(kind)
        };
        let users = || rival("shop", 9999, false);
        let taken = || vec![theirs(DestinationRule), theirs(VirtualService)];
        assert!(relieved(made(binding()), users(), taken()));
        assert!(relieved(made(binding()), users(), vec![]));
        let half = vec![theirs(DestinationRule), ours(VirtualService)];
        assert!(!relieved(made(binding()), users(), half));
        // A user's never goes; nor does one whose rival does not count.
        assert!(!relieved(binding(), rival("shop", 1, false), taken()));
        assert!(!relieved(made(binding()), rival("shop", 1, true), taken()));
        assert!(!relieved(
            made(binding()),
            rival("other", 1, false),
            taken()
        ));
    }

    #[test]
    fn a_namespace_that_is_not_served_is_out_of_reach_whatever_it_allows() {
        let mut binding = binding();
        binding.spec.namespace = Some("payments".to_owned());
        let mut seen = inputs(binding);
        seen.target.allow_from.insert("shop".to_owned());
        let serving = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|n| Namespace::parse(n).unwrap()).collect();
            let settings = Settings {
                served: Served::only(&names),
                ..settings()
            };
            obstacle(&seen, &target(&seen).service, &settings).map(|o| o.reason)
        };
        assert_eq!(serving(&["shop"]), Some(reasons::NAMESPACE_NOT_SERVED));
        assert_eq!(serving(&["shop", "payments"]), None);
        assert_eq!(serving(&[]), None);
    }

    #[test]
    fn another_namespace_has_to_allow_the_binding() {
        let mut binding = binding();
        binding.spec.namespace = Some("payments".to_owned());
        let mut seen = inputs(binding);
        assert_eq!(reason(&seen), Some(reasons::NAMESPACE_NOT_ALLOWED));
        seen.target.allow_from.insert("other".to_owned());
        assert_eq!(reason(&seen), Some(reasons::NAMESPACE_NOT_ALLOWED));
        seen.target.allow_from.insert("shop".to_owned());
        assert_eq!(reason(&seen), None);
    }
}
