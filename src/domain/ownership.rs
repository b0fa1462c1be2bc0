//! Whether we may write the two objects of a binding: one function per way in
//! which somebody else may be in the way.

use super::desired::MeshKind;
use super::inputs::{Inputs, Settings};
use super::names::{ClusterDomain, ServiceKey};
use super::reasons;
use super::rule::Rule;

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
    namespace_does_not_allow(inputs, service)
        .or_else(|| another_binding_is_older(inputs, service))
        .or_else(|| object_of_our_name_is_not_ours(inputs, service))
        .or_else(|| another_rule_claims_the_host(inputs, service, settings))
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
    if from == target || inputs.target.allow_from.contains(from) {
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

/// Of two bindings for one Service the older one counts.
fn another_binding_is_older(inputs: &Inputs, service: &ServiceKey) -> Option<Obstacle> {
    let me = age(inputs);
    let older = inputs
        .rivals
        .iter()
        .filter(|rival| (rival.created, &rival.uid) < (me.0, &me.1))
        .min_by_key(|rival| (rival.created, &rival.uid))?;
    Obstacle::new(
        reasons::ANOTHER_BINDING,
        format!(
            "ServiceBinding {} is older and binds Service {service} already; delete one of the two",
            older.key
        ),
    )
}

fn age(inputs: &Inputs) -> (i64, String) {
    let metadata = &inputs.binding.metadata;
    let created = metadata
        .creation_timestamp
        .as_ref()
        .map_or(i64::MAX, |t| t.0.as_second());
    (created, metadata.uid.clone().unwrap_or_default())
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
                format!("{} was made for another ServiceBinding that still exists", rule.title()),
            ),
            Whose::Ours | Whose::Orphan | Whose::HandedOver => None,
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
                    let counts = rule.namespace == service.namespace.as_str()
                        || rule.namespace == settings.root_namespace;
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
        .any(|h| super::rule::expand(h, &rule.namespace, domain) == host);
    !exact || rule.namespace != service.namespace.as_str()
}

/// Whether the rule bears the name that the binding's own object has.
fn is_child(rule: &Rule, service: &ServiceKey) -> bool {
    rule.namespace == service.namespace.as_str() && rule.name == service.name.as_str()
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
    let me = inputs.binding.metadata.uid.as_deref().unwrap_or_default();
    let recorded = inputs
        .binding
        .status
        .iter()
        .flat_map(|status| &status.children)
        .any(|c| c.uid == rule.uid && c.kind == rule.kind.as_str());
    match rule.binding_uid.as_deref() {
        Some(uid) if uid == me && (rule.managed || recorded) => Whose::Ours,
        None if rule.managed && recorded => Whose::Ours,
        Some(uid) if rule.managed && uid != me => {
            if inputs.living.contains(uid) {
                Whose::AnotherBindings
            } else {
                Whose::Orphan
            }
        }
        _ if rule.adopt => Whose::HandedOver,
        _ => Whose::Foreign,
    }
}
