//! What would a look at one binding do? The controller's own decisions, in its
//! order, without its writes. No IO.

use std::sync::Arc;

use serde_json::{Value, json};

use super::brake::Brake;
use super::finding::{Action, Altered, Because, Finding, Said};
use super::lines::{self, Line, Sign};
use super::owners::Owners;
use super::{predict, source, tightened};
use crate::api::service_binding::{DeletionPolicy, PolicyEntry, ServiceBinding};
use crate::controller::world::World;
use crate::domain::build::ValidBinding;
use crate::domain::desired::{DesiredObject, MeshKind};
use crate::domain::health::outlier;
use crate::domain::inputs::{CatalogAnswer, Inputs, Settings};
use crate::domain::names::shown;
use crate::domain::plan::{Guard, Removal, Write};
use crate::domain::situation::{InForce, Situation};
use crate::domain::target::Target;
use crate::domain::{build, labels, ownership, plan, reasons, validate};

/// What is said of a tightened outlier detection.
const TIGHTENED: &str =
    "outlierDetection is tightened while an unhealthy endpoint has to stay in the mesh";

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
    /// What that is built from.
    valid: Option<ValidBinding>,
    /// The policy that was synced last.
    synced: Vec<PolicyEntry>,
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
        Some(Situation::Blocked { .. }) if ownership::is_relieved(&inputs, &target.service) => {
            Begun::Settled(relieved(finding))
        }
        Some(situation) => Begun::Settled(stuck(finding, &situation)),
        None => Begun::Ask(Box::new(Asked { target, inputs })),
    }
}

/// Goes on with the catalog's answer.
pub(super) fn decide(
    asked: Asked,
    answer: CatalogAnswer,
    settings: &Settings,
    brake: &mut Brake,
) -> Decided {
    let Asked { target, mut inputs } = asked;
    inputs.catalog = answer;
    let mut finding = Finding::of(validate::key(&inputs.binding));
    let mut built = None;
    let writes = match validate::validate(&inputs, &target, settings) {
        Ok(valid) => {
            finding.notes = valid.mismatch.into_iter().chain(valid.notes).collect();
            finding.policy = valid.provenance;
            let desired = build::build(&valid.binding);
            built = Some(valid.binding);
            plan::plan(&inputs, &target.service, desired).writes
        }
        Err(Situation::Removed { .. }) => {
            finding = withdrawal(finding, &inputs, &target, brake);
            Vec::new()
        }
        Err(situation) => {
            finding = stuck(finding, &situation);
            Vec::new()
        }
    };
    let status = inputs.binding.status.as_ref();
    Decided {
        finding,
        writes,
        valid: built,
        synced: status.map_or_else(Vec::new, |status| status.policy.clone()),
    }
}

impl Decided {
    /// Adds what each write would change to the finding, up to one that the
    /// controller would not go beyond. `live` are the objects that they are to.
    pub(super) fn compared(mut self, live: &[Option<Live>]) -> Finding {
        for (write, live) in self.writes.iter().zip(live) {
            let tightened = live.as_ref().and_then(|live| self.tightened(write, live));
            let object = tightened.as_ref().unwrap_or(&write.object);
            if tightened.is_some() {
                self.finding.notes.push(TIGHTENED.to_owned());
            }
            if !compare(&mut self.finding, write, object, live.as_ref()) {
                break;
            }
        }
        self.finding
    }

    /// The object as the controller wants it while an unhealthy endpoint has to
    /// stay, where it does.
    fn tightened(&self, write: &Write, live: &Live) -> Option<DesiredObject> {
        let mut valid = self.valid.clone()?;
        let policy = valid.policy.outlier_detection.as_mut();
        let policy = policy.filter(|_| write.object.kind() == MeshKind::DestinationRule)?;
        let tightened = tightened::of(live, &self.synced)?;
        *policy = outlier::in_force(policy, Some(tightened));
        Some(build::build(&valid).destination_rule)
    }
}

/// Adds what the write would change to the finding. Says whether the
/// controller would go on to the next write.
fn compare(
    finding: &mut Finding,
    write: &Write,
    object: &DesiredObject,
    live: Option<&Live>,
) -> bool {
    let wanted = wanted(object);
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
            kind: kind.as_str(),
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
                kind: kind.as_str(),
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

/// One that was made for the catalog, and whose objects a user's has.
fn relieved(mut finding: Finding) -> Finding {
    finding.leaves = true;
    finding.because = Some(Because {
        reason: reasons::ANOTHER_BINDING.to_owned(),
        message: "another ServiceBinding, a user's, is for this service now; this one, made for the catalog, goes".to_owned(),
        blocks: false,
    });
    finding
}

fn withdrawal(
    mut finding: Finding,
    inputs: &Inputs,
    target: &Target,
    brake: &mut Brake,
) -> Finding {
    let id = &target.catalog_id;
    let retained = inputs.binding.spec.deletion_policy == Some(DeletionPolicy::Retain);
    let steps = plan::withdrawal(inputs, &target.service);
    let made = ownership::made_for_catalog(&inputs.binding);
    let nothing_to_remove = steps.is_empty() && !made;
    let kept = retained || nothing_to_remove;
    let message = if retained {
        format!("the catalog has no service {id}; its objects stay, since deletionPolicy is Retain")
    } else if nothing_to_remove {
        format!("the catalog has no service {id}; register it, or correct spec.catalogServiceId")
    } else if made {
        format!("the catalog no longer has service {id}, which this binding was made for: it goes")
    } else {
        format!("the catalog no longer has service {id}; its objects go")
    };
    if !kept {
        if let Err(held) = brake.admit(inputs) {
            let key = finding.binding.clone();
            return stuck(finding, &Situation::held(&held, &key));
        }
        finding.notes.extend(brake.blind.clone());
        finding.leaves = made;
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
