//! Performs a plan: writes VirtualServices and DestinationRules by
//! server-side apply, each under a precondition.

use std::time::Duration;

use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::{PartialObjectMeta, Status};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::audit;
use super::clients::REQUEST_DEADLINE;
use super::context::{Context, Fight};
use super::denials::Subject;
use super::error::WriteError;
use super::sources;
use crate::api::service_binding::ChildStatus;
use crate::domain::desired::{DesiredObject, MeshKind};
use crate::domain::labels::MANAGER;
use crate::domain::names::{BindingKey, shown};
use crate::domain::plan::{Guard, Plan, Write};

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
    let subject = Subject {
        kind: object.kind().as_str(),
        creates: write.guard == Guard::Absent,
        namespace: object.namespace.clone(),
    };
    ctx.memory.denials.of(&subject, &object.name)?;
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
    let applied = put(
        ctx,
        &api,
        binding,
        object,
        &body,
        force,
        reason(&write.guard),
    )
    .await;
    let answer = match applied {
        Err(kube::Error::Api(status)) if status.code == 409 && !force => {
            resolve(ctx, &api, binding, write, &mut body, &status).await
        }
        answer => answer.map_err(|e| WriteError::from_kube(&e)),
    };
    ctx.memory.denials.answered(&subject, &object.name, &answer);
    let stored = answer?;
    let rule = sources::rule_from(object.kind(), &stored.metadata, [host.into()].into(), true);
    let child = ChildStatus {
        kind: object.kind().as_str().to_owned(),
        namespace: object.namespace.clone(),
        name: object.name.clone(),
        uid: rule.uid.to_string(),
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
    binding: &BindingKey,
    write: &Write,
    body: &mut Value,
    status: &Status,
) -> Result<PartialObjectMeta<DynamicObject>, WriteError> {
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
        return Err(error);
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
    let reason = "somebody's edit took fields of ours, which are taken back once";
    let answer = put(ctx, api, binding, object, body, true, reason).await;
    if !was_refused(&answer) {
        ctx.memory.take_back(uid, &holders.fields, FIGHT_WINDOW);
    }
    answer.map_err(|e| WriteError::from_kube(&e))
}

/// Whether nothing was stored for certain. Where that is not known the write counts as
/// one: whoever takes the field again would be fought.
fn was_refused<T>(answer: &Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code < 500 || status.code == 503)
}

/// What a write is about: the object as it is known, and what it should be.
fn about(ctx: &Context, object: &DesiredObject) -> (String, String) {
    let known = ctx
        .world
        .rule(object.kind(), &object.namespace, &object.name);
    let version = known.map(|rule| rule.resource_version.to_string());
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

/// The API of that kind in that namespace.
pub(super) fn api(ctx: &Context, kind: MeshKind, namespace: &str) -> Api<DynamicObject> {
    let resource: ApiResource = ctx.mesh_api.resource(kind);
    Api::namespaced_with(ctx.clients.requests.clone(), namespace, &resource)
}

/// Sets a precondition and hands back whether to force.
fn require(body: &mut Value, field: &str, value: &str, force: bool) -> bool {
    body["metadata"][field] = Value::String(value.to_owned());
    force
}

/// One apply, counted and with its word in the log.
async fn put(
    ctx: &Context,
    api: &Api<DynamicObject>,
    binding: &BindingKey,
    object: &DesiredObject,
    body: &Value,
    force: bool,
    reason: &str,
) -> Result<PartialObjectMeta<DynamicObject>, kube::Error> {
    let params = PatchParams {
        force,
        ..PatchParams::apply(MANAGER)
    };
    let answer = in_time(api.patch_metadata(&object.name, &params, &Patch::Apply(body))).await;
    audit::Write {
        verb: "patch",
        kind: object.kind().as_str(),
        namespace: &object.namespace,
        name: &object.name,
        binding: Some(&binding.to_string()),
        reason,
    }
    .ended(&answer);
    ctx.metrics.wrote(object.kind().as_str(), answer.is_ok());
    answer
}

/// Why an object is written, as the audit record says it.
fn reason(guard: &Guard) -> &'static str {
    match guard {
        Guard::Absent => "there is none yet",
        Guard::Present { .. } => "it is not what catalog and binding say",
        Guard::HandedOver { .. } => "its owner hands it over",
    }
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
