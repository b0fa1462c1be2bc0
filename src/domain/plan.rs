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

fn guard(inputs: &Inputs, present: Option<&Rule>) -> Guard {
    match present {
        None => Guard::Absent,
        Some(rule) if whose(inputs, rule) == Whose::HandedOver => Guard::HandedOver {
            uid: rule.uid.clone(),
            resource_version: rule.resource_version.clone(),
        },
        Some(rule) => Guard::Present {
            uid: rule.uid.clone(),
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
    let marked = rule.managed && rule.binding_uid == inputs.binding.metadata.uid;
    let owned = object
        .owner_references
        .iter()
        .all(|owner| rule.owners.contains(&owner.uid));
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
            let (kind, namespace, name) = (rule.kind, rule.namespace.clone(), rule.name.clone());
            if retain {
                let index = rule.owners.iter().position(|owner| *owner == me)?;
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
                    uid: rule.uid.clone(),
                })
            }
        })
        .collect()
}
