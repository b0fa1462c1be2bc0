//! What has to be written: the objects that should be there against those
//! that are.
//!
//! The fence: an object whose uid, generation and applied hash are those that
//! the status recorded is not written again, also after a restart.

use super::desired::{Desired, DesiredObject, MeshKind};
use super::inputs::Inputs;
use super::names::ServiceKey;
use super::ownership::{Whose, child, whose};
use super::rule::Rule;
use super::uid::Uid;
use crate::api::service_binding::{ChildStatus, DeletionPolicy};

/// What the server must find for a write to count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Guard {
    /// Nothing of that name.
    Absent,
    /// This very object.
    Present {
        /// Its uid.
        uid: String,
    },
    /// This very object, unchanged since we looked: it is taken over, with
    /// the fields that others set.
    HandedOver {
        /// Its uid.
        uid: String,
        /// Its resource version.
        resource_version: String,
    },
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    /// What is to be stored.
    pub object: DesiredObject,
    /// Under which precondition.
    pub guard: Guard,
}

/// All writes, in their order, and what stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The DestinationRule first, so that no route names a policy that is
    /// not there yet.
    pub writes: Vec<Write>,
    /// Objects that are as they should be.
    pub kept: Vec<ChildStatus>,
}

impl Plan {
    /// Whether the object of this kind is as it should be.
    pub fn keeps(&self, kind: MeshKind) -> bool {
        self.kept.iter().any(|kept| kept.kind == kind.as_str())
    }
}

/// What has to be written for the desired objects.
pub fn plan(inputs: &Inputs, service: &ServiceKey, desired: Desired) -> Plan {
    let mut plan = Plan::default();
    for object in [desired.destination_rule, desired.virtual_service] {
        let present = child(inputs, service, object.kind());
        match present.and_then(|rule| unchanged(inputs, rule, &object)) {
            Some(kept) => plan.kept.push(kept),
            None => plan.writes.push(Write {
                guard: guard(inputs, present),
                object,
            }),
        }
    }
    plan
}

/// Whether the mesh has just this object, written by us and unchanged since.
pub fn is_stored(inputs: &Inputs, service: &ServiceKey, object: &DesiredObject) -> bool {
    let present = child(inputs, service, object.kind());
    present.is_some_and(|rule| unchanged(inputs, rule, object).is_some())
}

fn guard(inputs: &Inputs, present: Option<&Rule>) -> Guard {
    match present {
        None => Guard::Absent,
        Some(rule) if whose(inputs, rule) == Whose::HandedOver => Guard::HandedOver {
            uid: rule.uid.to_string(),
            resource_version: rule.resource_version.to_string(),
        },
        Some(rule) => Guard::Present {
            uid: rule.uid.to_string(),
        },
    }
}

/// The record of the object in the status, if it still holds and says what is
/// desired now.
fn unchanged(inputs: &Inputs, rule: &Rule, object: &DesiredObject) -> Option<ChildStatus> {
    let recorded = inputs
        .binding
        .status
        .iter()
        .flat_map(|status| &status.children);
    let marked =
        rule.managed && rule.binding_uid == inputs.binding.metadata.uid.as_deref().map(Uid::from);
    let owned = object
        .owner_references
        .iter()
        .all(|owner| rule.owners.contains(&owner.uid.as_str().into()));
    recorded
        .filter(|c| c.kind == rule.kind.as_str() && c.uid == rule.uid)
        .find(|c| marked && owned && c.generation == rule.generation && c.hash == object.hash())
        .cloned()
}

/// One step of a removal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Removal {
    /// The object is deleted.
    Delete {
        /// Which kind.
        kind: MeshKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its uid, so that another one of that name is left alone.
        uid: String,
    },
    /// Our ownerReference is taken off, so that the object outlives the
    /// binding.
    Release {
        /// Which kind.
        kind: MeshKind,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Uid of the binding that owns it.
        owner: String,
        /// Place of the binding among the owners.
        index: usize,
    },
}

/// What is removed where the catalog no longer has the service: the
/// VirtualService first.
pub fn withdrawal(inputs: &Inputs, service: &ServiceKey) -> Vec<Removal> {
    removal(inputs, service, false)
        .into_iter()
        .filter(|step| matches!(step, Removal::Delete { .. }))
        .collect()
}

/// What is done with the objects of a binding that is being deleted: the
/// VirtualService first, so that no route outlives its policy.
pub fn removal(inputs: &Inputs, service: &ServiceKey, frozen: bool) -> Vec<Removal> {
    let me = inputs.binding.metadata.uid.clone().unwrap_or_default();
    let retain = frozen || inputs.binding.spec.deletion_policy == Some(DeletionPolicy::Retain);
    [MeshKind::VirtualService, MeshKind::DestinationRule]
        .into_iter()
        .filter_map(|kind| child(inputs, service, kind))
        .filter(|rule| whose(inputs, rule) == Whose::Ours)
        .filter_map(|rule| {
            let kind = rule.kind;
            let (namespace, name) = (rule.id.namespace.clone(), rule.id.name.clone());
            if retain {
                let index = rule.owners.iter().position(|owner| me == *owner)?;
                Some(Removal::Release {
                    kind,
                    namespace,
                    name,
                    owner: me.clone(),
                    index,
                })
            } else {
                Some(Removal::Delete {
                    kind,
                    namespace,
                    name,
                    uid: rule.uid.to_string(),
                })
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
    use crate::domain::build::build;
    use crate::domain::fixtures::{UID, binding, foreign, inputs, ours, settings, target};
    use crate::domain::validate::validate;

    use MeshKind::{DestinationRule, VirtualService};

    fn desired(inputs: &Inputs) -> Desired {
        build(
            &validate(inputs, &target(inputs), &settings())
                .unwrap()
                .binding,
        )
    }

    fn planned(inputs: &Inputs) -> Plan {
        plan(inputs, &target(inputs).service, desired(inputs))
    }

    /// The binding after both objects were written, and the objects.
    fn in_force() -> (ServiceBinding, Vec<Rule>) {
        let mut binding = binding();
        let wanted = desired(&inputs(binding.clone()));
        let children =
            [&wanted.destination_rule, &wanted.virtual_service].map(|object| ChildStatus {
                kind: object.kind().as_str().to_owned(),
                namespace: object.namespace.clone(),
                name: object.name.clone(),
                uid: ours(object.kind()).uid.to_string(),
                generation: 1,
                hash: object.hash(),
            });
        binding.status = Some(ServiceBindingStatus {
            children: children.to_vec(),
            ..ServiceBindingStatus::default()
        });
        (binding, vec![ours(DestinationRule), ours(VirtualService)])
    }

    fn seen(binding: ServiceBinding, rules: Vec<Rule>) -> Inputs {
        Inputs {
            rules: rules.into_iter().map(Arc::new).collect(),
            ..inputs(binding)
        }
    }

    fn kinds(plan: &Plan) -> Vec<MeshKind> {
        plan.writes
            .iter()
            .map(|write| write.object.kind())
            .collect()
    }

    #[test]
    fn the_destination_rule_is_written_before_the_virtual_service_and_only_where_nothing_is() {
        let plan = planned(&inputs(binding()));
        assert_eq!(kinds(&plan), [DestinationRule, VirtualService]);
        assert!(plan.writes.iter().all(|write| write.guard == Guard::Absent));
    }

    #[test]
    fn what_is_in_force_is_not_written_again() {
        let (binding, rules) = in_force();
        let plan = planned(&seen(binding, rules));
        assert!(plan.writes.is_empty(), "{:?}", plan.writes);
        assert_eq!(plan.kept.len(), 2);
    }

    // trap 29
    #[test]
    fn only_the_object_that_differs_is_written_and_only_onto_itself() {
        let (binding, mut rules) = in_force();
        rules[1].generation = 2;
        let plan = planned(&seen(binding, rules.clone()));
        assert_eq!(kinds(&plan), [VirtualService]);
        assert_eq!(
            plan.writes[0].guard,
            Guard::Present {
                uid: rules[1].uid.to_string()
            }
        );
    }

    // trap 28
    #[test]
    fn an_object_that_was_made_anew_or_lost_a_mark_is_written() {
        let changes: [fn(&mut Rule); 4] = [
            |rule| rule.uid = "another".into(),
            |rule| rule.managed = false,
            |rule| rule.binding_uid = None,
            |rule| rule.owners.clear(),
        ];
        for change in changes {
            let (binding, mut rules) = in_force();
            change(&mut rules[0]);
            assert_eq!(kinds(&planned(&seen(binding, rules))), [DestinationRule]);
        }
    }

    #[test]
    fn what_was_handed_over_is_taken_as_it_was_seen() {
        let mut rule = foreign(VirtualService, "shop", "web", "web");
        rule.adopt = true;
        let plan = planned(&seen(binding(), vec![rule.clone()]));
        let expected = Guard::HandedOver {
            uid: rule.uid.to_string(),
            resource_version: "7".to_owned(),
        };
        assert_eq!(plan.writes[1].guard, expected);
    }

    #[test]
    fn a_removal_takes_the_virtual_service_first_and_by_its_uid() {
        let (binding, rules) = in_force();
        let seen = seen(binding, rules);
        let steps = removal(&seen, &target(&seen).service, false);
        let kinds: Vec<_> = steps
            .iter()
            .map(|step| match step {
                Removal::Delete { kind, uid, .. } => (*kind, uid.as_str()),
                Removal::Release { .. } => panic!("{step:?}"),
            })
            .collect();
        let uid = ours(VirtualService).uid.to_string();
        assert_eq!(
            kinds,
            [
                (VirtualService, uid.as_str()),
                (DestinationRule, uid.as_str())
            ]
        );
    }

    #[test]
    fn what_is_not_ours_is_not_removed() {
        let mut orphan = ours(VirtualService);
        orphan.binding_uid = Some("another".into());
        let stranger = foreign(DestinationRule, "shop", "web", "web");
        let seen = seen(binding(), vec![orphan, stranger]);
        assert_eq!(removal(&seen, &target(&seen).service, false), []);
    }

    #[test]
    fn frozen_or_to_be_retained_objects_only_lose_their_owner() {
        let (binding, mut rules) = in_force();
        rules[0].owners = ["somebody".into(), UID.into()].into_iter().collect();
        rules[1].owners.clear();
        let mut retained = binding.clone();
        retained.spec.deletion_policy = Some(DeletionPolicy::Retain);
        for (binding, frozen) in [(binding, true), (retained, false)] {
            let seen = seen(binding, rules.clone());
            let steps = removal(&seen, &target(&seen).service, frozen);
            assert_eq!(steps.len(), 1, "{steps:?}");
            assert!(matches!(
                &steps[0],
                Removal::Release {
                    kind: DestinationRule,
                    index: 1,
                    ..
                }
            ));
            assert_eq!(
                withdrawal(&seen, &target(&seen).service).is_empty(),
                !frozen
            );
        }
    }
}
