//! Performs a plan: writes VirtualServices and DestinationRules by
//! server-side apply, each under a precondition, and deletes them by uid.

use std::time::Duration;

use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{PartialObjectMeta, Status};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::clients::REQUEST_DEADLINE;
use super::context::{Context, Fight};
use super::error::WriteError;
use super::sources;
use crate::api::service_binding::ChildStatus;
use crate::domain::desired::{DesiredObject, MeshKind};
use crate::domain::labels::MANAGER;
use crate::domain::names::{BindingKey, shown};
use crate::domain::plan::{Guard, Plan, Removal, Write};

/// A field that is taken back twice within this time is fought for; and how
/// long we then leave the object as it is, unless it changes.
const FIGHT_WINDOW: Duration = Duration::from_secs(600);

/// What came of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Applied {
    /// The objects that are as they should be, written now or before.
    pub children: Vec<ChildStatus>,
    /// How many were written.
    pub written: usize,
    /// Why the rest was not.
    pub failed: Option<WriteError>,
}

/// Performs the plan, one write after the other, and stops at the first that
/// fails: a VirtualService never goes ahead of its DestinationRule.
///
/// Writes; when cancelled, the write under way may or may not have happened,
/// and the next look finds out.
pub(crate) async fn perform(
    ctx: &Context,
    binding: &BindingKey,
    host: &str,
    plan: Plan,
) -> Applied {
    ctx.metrics.skipped(plan.kept.len());
    let mut applied = Applied {
        children: plan.kept,
        written: 0,
        failed: None,
    };
    for write in &plan.writes {
        match store(ctx, binding, host, write).await {
            Ok(child) => {
                applied.written += 1;
                applied.children.push(child);
            }
            Err(error) => {
                applied.failed = Some(error);
                break;
            }
        }
    }
    applied.children.sort_by(|a, b| a.kind.cmp(&b.kind));
    applied
}

async fn store(
    ctx: &Context,
    binding: &BindingKey,
    host: &str,
    write: &Write,
) -> Result<ChildStatus, WriteError> {
    let object = &write.object;
    if let Guard::Present { uid } = &write.guard
        && let Some(error) = ctx.memory.given_up(uid, &about(ctx, object), FIGHT_WINDOW)
    {
        return Err(error);
    }
    let api = api(ctx, object.kind(), &object.namespace);
    let mut body = object.manifest(&ctx.mesh_api.api_version());
    let force = match &write.guard {
        // No object has ever had this resource version, so that the server
        // refuses the apply where one of that name exists.
        Guard::Absent => require(&mut body, "resourceVersion", "1", false),
        Guard::Present { uid } => require(&mut body, "uid", uid, false),
        Guard::HandedOver {
            uid,
            resource_version,
        } => {
            require(&mut body, "uid", uid, false);
            require(&mut body, "resourceVersion", resource_version, true)
        }
    };
    let answer = match patch(&api, object, &body, force).await {
        Err(kube::Error::Api(status)) if status.code == 409 && !force => {
            resolve(ctx, &api, write, &mut body, &status).await?
        }
        answer => answer.map_err(|e| WriteError::from_kube(&e)),
    };
    audit(
        "apply",
        object.kind(),
        binding,
        &object.namespace,
        &object.name,
        answer.as_ref().err(),
    );
    ctx.metrics.wrote(object.kind().as_str(), answer.is_ok());
    let stored = answer?;
    let rule = sources::rule_from(object.kind(), &stored.metadata, vec![host.to_owned()], true);
    let child = ChildStatus {
        kind: object.kind().as_str().to_owned(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: rule.uid.clone(),
        generation: rule.value.generation,
        hash: object.hash(),
    };
    ctx.world.wrote_rule(object.kind(), rule);
    Ok(child)
}

/// A 409: either a precondition failed, or somebody else holds fields of
/// ours. What a hand edit took is taken back once; who takes it again, or
/// applies it himself, is not fought.
async fn resolve(
    ctx: &Context,
    api: &Api<DynamicObject>,
    write: &Write,
    body: &mut Value,
    status: &Status,
) -> Result<Result<PartialObjectMeta<DynamicObject>, WriteError>, WriteError> {
    let Guard::Present { uid } = &write.guard else {
        return Err(WriteError::Stale);
    };
    let Some(holders) = Holders::read(status) else {
        return Err(WriteError::Stale);
    };
    let object = &write.object;
    let again = ctx.memory.taken_back(uid, &holders.fields, FIGHT_WINDOW);
    if holders.applier || again {
        let error = WriteError::Fight {
            fields: holders.shown_fields(),
            manager: holders.manager,
        };
        let fight = Fight {
            since: Instant::now(),
            about: about(ctx, object),
            error: error.clone(),
        };
        ctx.memory.give_up(uid, fight, FIGHT_WINDOW);
        return Ok(Err(error));
    }
    let live = timeout(REQUEST_DEADLINE, api.get_metadata(&object.name))
        .await
        .map_err(|_| WriteError::Away("the API server did not answer in time".to_owned()))?
        .map_err(|e| WriteError::from_kube(&e))?;
    if live.metadata.uid.as_ref() != Some(uid) {
        return Err(WriteError::Stale);
    }
    require(
        body,
        "resourceVersion",
        live.metadata
            .resource_version
            .as_deref()
            .unwrap_or_default(),
        true,
    );
    ctx.memory.take_back(uid, &holders.fields, FIGHT_WINDOW);
    Ok(patch(api, object, body, true)
        .await
        .map_err(|e| WriteError::from_kube(&e)))
}

/// What a write is about: the object as it is known, and what it should be.
fn about(ctx: &Context, object: &DesiredObject) -> (String, String) {
    let known = ctx
        .world
        .rule(object.kind(), &object.namespace, &object.name);
    let version = known.map(|rule| rule.resource_version.clone());
    (version.unwrap_or_default(), object.hash())
}

/// Who holds fields of ours, by the causes of a 409.
struct Holders {
    manager: String,
    fields: Vec<String>,
    /// Whether one of them applies, rather than edits.
    applier: bool,
}

impl Holders {
    fn read(status: &Status) -> Option<Self> {
        let causes = &status.details.as_ref()?.causes;
        let conflicts: Vec<_> = causes
            .iter()
            .filter(|c| c.reason == "FieldManagerConflict")
            .collect();
        // An editor's entry names the API version that it used.
        let applier = conflicts.iter().find(|c| !c.message.contains(" using "));
        let worst = applier.or(conflicts.first())?;
        let mut fields: Vec<_> = conflicts.iter().map(|c| c.field.clone()).collect();
        fields.sort_unstable();
        fields.dedup();
        Some(Self {
            manager: shown(worst.message.split('"').nth(1).unwrap_or(&worst.message)),
            fields,
            applier: applier.is_some(),
        })
    }

    fn shown_fields(&self) -> String {
        self.fields.join(", ").chars().take(300).collect()
    }
}

/// Performs one step of a removal. An object that is already gone is gone.
///
/// Writes; when cancelled, the next look finds out.
pub(crate) async fn remove(
    ctx: &Context,
    binding: &BindingKey,
    step: &Removal,
) -> Result<(), WriteError> {
    let (verb, kind, namespace, name) = match step {
        Removal::Delete {
            kind,
            namespace,
            name,
            ..
        } => ("delete", *kind, namespace, name),
        Removal::Release {
            kind,
            namespace,
            name,
            ..
        } => ("patch", *kind, namespace, name),
    };
    let api = api(ctx, kind, namespace);
    let answer = match step {
        Removal::Delete { uid, .. } => {
            let guard = Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            };
            let params = DeleteParams {
                preconditions: Some(guard),
                ..DeleteParams::default()
            };
            in_time(api.delete(name, &params)).await.map(|_| ())
        }
        Removal::Release { owner, index, .. } => {
            let place = format!("/metadata/ownerReferences/{index}");
            let patch: json_patch::Patch = json_patch_of(json!([
                {"op": "test", "path": format!("{place}/uid"), "value": owner},
                {"op": "remove", "path": place},
            ]))?;
            in_time(api.patch_metadata(name, &PatchParams::default(), &Patch::<()>::Json(patch)))
                .await
                .map(|_| ())
        }
    };
    let answer = match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // Another uid: not the object that we meant.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        answer => answer.map_err(|e| WriteError::from_kube(&e)),
    };
    audit(verb, kind, binding, namespace, name, answer.as_ref().err());
    ctx.metrics.wrote(kind.as_str(), answer.is_ok());
    answer
}

fn json_patch_of(value: Value) -> Result<json_patch::Patch, WriteError> {
    serde_json::from_value(value).map_err(|e| WriteError::Refused(e.to_string()))
}

fn api(ctx: &Context, kind: MeshKind, namespace: &str) -> Api<DynamicObject> {
    let resource: ApiResource = ctx.mesh_api.resource(kind);
    Api::namespaced_with(ctx.clients.requests.clone(), namespace, &resource)
}

/// Sets a precondition and hands back whether to force.
fn require(body: &mut Value, field: &str, value: &str, force: bool) -> bool {
    body["metadata"][field] = Value::String(value.to_owned());
    force
}

async fn patch(
    api: &Api<DynamicObject>,
    object: &DesiredObject,
    body: &Value,
    force: bool,
) -> Result<PartialObjectMeta<DynamicObject>, kube::Error> {
    let params = PatchParams {
        force,
        ..PatchParams::apply(MANAGER)
    };
    in_time(api.patch_metadata(&object.name, &params, &Patch::Apply(body))).await
}

/// The request's own deadline, so that a silent server is an error.
pub(crate) async fn in_time<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    match timeout(REQUEST_DEADLINE, request).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(kube::Error::Service(Box::new(elapsed))),
    }
}

/// One line for every write, whatever came of it.
pub(crate) fn audit(
    verb: &str,
    kind: MeshKind,
    binding: &BindingKey,
    namespace: &str,
    name: &str,
    error: Option<&WriteError>,
) {
    record(verb, kind.as_str(), binding, namespace, name, error);
}

/// The same for kinds that are not the mesh's.
pub(crate) fn record(
    verb: &str,
    kind: &str,
    binding: &BindingKey,
    namespace: &str,
    name: &str,
    error: Option<&WriteError>,
) {
    let outcome = if error.is_none() {
        "success"
    } else {
        "failure"
    };
    let reason = error.map(ToString::to_string).unwrap_or_default();
    tracing::info!(audit = true, verb, kind, namespace, name, %binding, outcome, reason, "wrote");
}
