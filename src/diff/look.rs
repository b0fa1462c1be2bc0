//! What would a look at one binding do? The controller's own decisions, in its
//! order, without its writes. No IO.

use std::sync::Arc;

use serde_json::{Value, json};

use super::finding::{Action, Altered, Because, Finding, Said};
use super::lines::{self, Line, Sign};
use super::owners::Owners;
use super::predict;
use super::source;
use crate::api::service_binding::{DeletionPolicy, ServiceBinding};
use crate::controller::world::World;
use crate::domain::desired::DesiredObject;
use crate::domain::inputs::{CatalogAnswer, Inputs, Settings};
use crate::domain::names::shown;
use crate::domain::plan::{Guard, Removal, Write};
use crate::domain::situation::{InForce, Situation};
use crate::domain::target::Target;
use crate::domain::{build, labels, plan, reasons, validate};

/// What a look comes to before the catalog is asked.
pub(super) enum Begun {
    /// All that can be said.
    Settled(Finding),
    /// The catalog has to be asked.
    Ask(Box<Asked>),
}

/// A binding for which the catalog has to be asked.
pub(super) struct Asked {
    /// The services that the binding names.
    pub(super) target: Target,
    inputs: Inputs,
}

/// What a look comes to once the catalog has answered.
pub(super) struct Decided {
    /// What can be said so far.
    pub(super) finding: Finding,
    /// What would be written, in order.
    pub(super) writes: Vec<Write>,
}

/// An object as the cluster holds it.
#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    /// Labels, annotations, owners and spec.
    pub(super) object: Value,
    /// Who holds which field.
    pub(super) owners: Owners,
}

/// Looks as far as it goes without the catalog.
pub(super) fn begin(world: &World, binding: Arc<ServiceBinding>, settings: &Settings) -> Begun {
    let finding = Finding::of(validate::key(&binding));
    let deleted = binding.metadata.deletion_timestamp.is_some();
    let target = match validate::target(&binding) {
        Ok(target) => target,
        Err(_) if deleted => return Begun::Settled(finding),
        Err(situation) => return Begun::Settled(stuck(finding, &situation)),
    };
    let inputs = world.inputs(binding, &target);
    if deleted {
        return Begun::Settled(deletion(finding, &inputs, &target));
    }
    match validate::before_the_catalog(&inputs, &target, settings) {
        Some(situation) => Begun::Settled(stuck(finding, &situation)),
        None => Begun::Ask(Box::new(Asked { target, inputs })),
    }
}

/// Goes on with the catalog's answer.
pub(super) fn decide(asked: Asked, answer: CatalogAnswer, settings: &Settings) -> Decided {
    let Asked { target, mut inputs } = asked;
    inputs.catalog = answer;
    let mut finding = Finding::of(validate::key(&inputs.binding));
    let writes = match validate::validate(&inputs, &target, settings) {
        Ok(valid) => {
            finding.notes = valid.mismatch.into_iter().chain(valid.notes).collect();
            finding.policy = valid.provenance;
            plan::plan(&inputs, &target.service, build::build(&valid.binding)).writes
        }
        Err(Situation::Removed { .. }) => {
            finding = withdrawal(finding, &inputs, &target);
            Vec::new()
        }
        Err(situation) => {
            finding = stuck(finding, &situation);
            Vec::new()
        }
    };
    Decided { finding, writes }
}

/// Adds what the write would change to the finding. Says whether the
/// controller would go on to the next write.
pub(super) fn compare(finding: &mut Finding, write: &Write, live: Option<&Live>) -> bool {
    let wanted = wanted(&write.object);
    let Some(live) = live else {
        let lines = lines::between(None, Some(&wanted));
        finding.alter(&write.object, Action::Create, lines, &Owners::default());
        return true;
    };
    // What was handed over is taken as it is.
    let may_fight = matches!(write.guard, Guard::Present { .. });
    if may_fight && let Some(fight) = predict::fight(&live.object, &wanted, &live.owners) {
        finding.because = Some(Because {
            reason: reasons::FIELD_FIGHT.to_owned(),
            message: format!(
                "{} applies {} of {} {}/{} against us; take these fields out of its configuration, or delete the binding",
                shown(&fight.manager),
                fight.fields.join(", "),
                write.object.kind().as_str(),
                write.object.namespace,
                write.object.name
            ),
            blocks: true,
        });
        return false;
    }
    let after = predict::applied(&live.object, &wanted, &live.owners);
    let lines = lines::between(Some(&live.object), Some(&after));
    if !lines.is_empty() {
        finding.alter(&write.object, Action::Update, lines, &live.owners);
    }
    true
}

impl Finding {
    fn alter(&mut self, object: &DesiredObject, action: Action, lines: Vec<Line>, owners: &Owners) {
        let kind = object.kind();
        let said = |line: Line| {
            let value = line.value.is_some();
            let source = (value && line.sign == Sign::Added)
                .then(|| source::of(kind, &line.path, &self.policy));
            let set_by = (value && line.sign == Sign::Removed)
                .then(|| owners.other(&line.path).map(|other| other.manager.clone()))
                .flatten();
            Said {
                line,
                source,
                set_by,
            }
        };
        let lines = lines.into_iter().map(said).collect();
        self.objects.push(Altered {
            kind,
            namespace: object.namespace.clone(),
            name: object.name.clone(),
            action,
            lines,
        });
    }

    fn take_away(&mut self, steps: Vec<Removal>) {
        for step in steps {
            let (action, kind, namespace, name) = match step {
                Removal::Delete {
                    kind,
                    namespace,
                    name,
                    ..
                } => (Action::Remove, kind, namespace, name),
                Removal::Release {
                    kind,
                    namespace,
                    name,
                    ..
                } => (Action::Release, kind, namespace, name),
            };
            self.objects.push(Altered {
                kind,
                namespace,
                name,
                action,
                lines: Vec::new(),
            });
        }
    }
}

/// What of an object we care for; its name stands elsewhere.
fn wanted(object: &DesiredObject) -> Value {
    let manifest = object.manifest("");
    let mut metadata = manifest["metadata"].clone();
    if let Some(fields) = metadata.as_object_mut() {
        fields.remove("namespace");
        fields.remove("name");
    }
    json!({ "metadata": metadata, "spec": manifest["spec"] })
}

/// Why there is nothing to plan, in the words of the binding's conditions.
pub(super) fn stuck(finding: Finding, situation: &Situation) -> Finding {
    let row = situation.row(InForce::Nothing);
    let because = row.ready.or(row.suspended).map(|fact| Because {
        reason: fact.reason.to_owned(),
        message: fact.message,
        blocks: !matches!(situation, Situation::Suspended { .. }),
    });
    Finding { because, ..finding }
}

fn withdrawal(mut finding: Finding, inputs: &Inputs, target: &Target) -> Finding {
    let id = &target.catalog_id;
    let retained = inputs.binding.spec.deletion_policy == Some(DeletionPolicy::Retain);
    let steps = plan::withdrawal(inputs, &target.service);
    let kept = retained || steps.is_empty();
    let message = if retained && !steps.is_empty() {
        format!("the catalog has no service {id}; its objects stay, since deletionPolicy is Retain")
    } else if kept {
        format!("the catalog has no service {id}; register it, or correct spec.catalogServiceId")
    } else {
        format!(
            "the catalog no longer has service {id}; the operator removes the objects of a few bindings at a time, and none before the brake lets it"
        )
    };
    if !kept {
        finding.take_away(steps);
    }
    finding.because = Some(Because {
        reason: reasons::REMOVED.to_owned(),
        message,
        blocks: kept,
    });
    finding
}

fn deletion(mut finding: Finding, inputs: &Inputs, target: &Target) -> Finding {
    let finalizers = inputs.binding.metadata.finalizers.iter().flatten();
    if !finalizers.into_iter().any(|name| name == labels::FINALIZER) {
        return finding;
    }
    let frozen = validate::frozen(inputs).is_some();
    finding.take_away(plan::removal(inputs, &target.service, frozen));
    finding.because = Some(Because {
        reason: "Deleting".to_owned(),
        message: "the binding is being deleted".to_owned(),
        blocks: false,
    });
    finding
}
