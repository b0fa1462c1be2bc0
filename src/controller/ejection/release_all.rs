//! Takes back everything that the operator put on Pods and on bindings, without
//! the operator: for uninstalling it.

use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::sleep;

use super::write;
use crate::api::pod::{DRAINING, EJECTED};
use crate::api::service_binding::ServiceBinding;
use crate::controller::apply::in_time;
use crate::controller::clients;
use crate::controller::error::WriteError;
use crate::controller::pods;
use crate::controller::sources;
use crate::domain::health::mark::{self, Change, Step, Whose};
use crate::domain::labels::FINALIZER;
use crate::domain::pod::PodView;
use crate::domain::served::Served;

/// Objects per page of a list.
const PAGE: u32 = 500;

/// How often an object that changed under way is looked at again.
const PASSES: u32 = 5;

/// Between two passes.
const PAUSE: Duration = Duration::from_millis(300);

/// What was done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Released {
    /// A line for each object, for standard output.
    pub done: String,
    /// A line for each object that could not be written, with the reason.
    pub failed: Vec<String>,
    pods: usize,
    bindings: usize,
    left: usize,
}

impl Released {
    /// The sum of it, in a line.
    pub fn sum(&self, dry_run: bool) -> String {
        let verb = if dry_run { "would release" } else { "released" };
        format!(
            "{verb} {} of Pods, {} of ServiceBindings; left {} of Pods whose label is somebody else's; failed {}",
            self.pods,
            self.bindings,
            self.left,
            self.failed.len()
        )
    }

    fn say(&mut self, line: &str) {
        let _ = writeln!(self.done, "{line}");
    }
}

/// Releases everything that is served, or only says what it would. An error means that the
/// cluster could not be looked at.
///
/// Writes; when cancelled, what was done stays done, and the next run goes on.
pub async fn release_all(
    client: &Client,
    served: &Served,
    dry_run: bool,
) -> Result<Released, WriteError> {
    let mut released = Released::default();
    for part in &served.parts() {
        release_pods(client, part, dry_run, &mut released).await?;
    }
    for part in &served.parts() {
        release_bindings(client, part, dry_run, &mut released).await?;
    }
    Ok(released)
}

async fn release_pods(
    client: &Client,
    part: &str,
    dry_run: bool,
    released: &mut Released,
) -> Result<(), WriteError> {
    for pass in 1..=PASSES {
        let (mut stale, mut left, mut failed) = (false, 0, Vec::new());
        let mut list = Pages::of(clients::of::<Pod>(client, part));
        while let Some(page) = list.next().await? {
            for pod in page {
                let Some((step, words)) = step(&pod.metadata) else {
                    left += usize::from(is_foreign(&pod.metadata));
                    continue;
                };
                let name = format!("Pod {}/{}", step.pod.0, step.pod.1);
                let answer = if dry_run {
                    Ok(None)
                } else {
                    write::patch(client, &step).await
                };
                match answer {
                    Ok(_) => {
                        released.pods += 1;
                        released.say(&format!("{name}: {words}"));
                    }
                    Err(WriteError::Stale) if pass < PASSES => stale = true,
                    Err(error) => failed.push(format!("{name}: {error}")),
                }
            }
        }
        if !stale {
            released.left += left;
            released.failed.append(&mut failed);
            break;
        }
        // Whoever was refused is tried again beside those that changed.
        sleep(PAUSE).await;
    }
    Ok(())
}

/// What is to be taken off the Pod, and in words; nothing where nothing is ours.
fn step(metadata: &ObjectMeta) -> Option<(Step, String)> {
    let view = view(metadata);
    let (change, words) = match mark::whose(&view) {
        Whose::Nobodys | Whose::Others => return None,
        Whose::Ours => {
            let note = mark::ours(&view).map(|note| note.words());
            let note = note.unwrap_or_else(|| "its annotation cannot be read".to_owned());
            (Change::Release, format!("back in the mesh; it was {note}"))
        }
        Whose::LeftOver(true) => (
            Change::Forget,
            format!("our annotation is off; the label {DRAINING} is somebody else's and stays"),
        ),
        Whose::LeftOver(false) => (Change::Forget, "our annotation is off".to_owned()),
    };
    let seen = sources::seen(metadata, ());
    let step = Step {
        pod: (seen.id.0.into(), seen.id.1.into()),
        uid: seen.uid,
        version: seen.version,
        bindings: mark::ours(&view)
            .map(|note| note.bindings)
            .unwrap_or_default(),
        marks: view.marks,
        change,
    };
    Some((step, words))
}

fn is_foreign(metadata: &ObjectMeta) -> bool {
    mark::whose(&view(metadata)) == Whose::Others
}

/// The Pod's marks, which is all that metadata tell of it.
fn view(metadata: &ObjectMeta) -> PodView {
    let label = metadata.labels.as_ref().and_then(|l| l.get(DRAINING));
    let note = metadata.annotations.as_ref().and_then(|a| a.get(EJECTED));
    PodView {
        marks: pods::marks(label, note),
        ..PodView::default()
    }
}

async fn release_bindings(
    client: &Client,
    part: &str,
    dry_run: bool,
    released: &mut Released,
) -> Result<(), WriteError> {
    for pass in 1..=PASSES {
        let (mut stale, mut failed) = (false, Vec::new());
        let mut list = Pages::of(clients::of::<ServiceBinding>(client, part));
        loop {
            let page = match list.next().await {
                Ok(Some(page)) => page,
                Ok(None) => break,
                // The kind is gone, and with it everything on objects of it.
                Err(error) if is_not_served(&error) => return Ok(()),
                Err(error) => return Err(error),
            };
            for binding in page {
                let Some(at) = finalizer(&binding.metadata) else {
                    continue;
                };
                let name = shown_name(&binding.metadata);
                let answer = if dry_run {
                    Ok(())
                } else {
                    take_off(client, &binding.metadata, at).await
                };
                match answer {
                    Ok(()) => {
                        released.bindings += 1;
                        released.say(&format!("{name}: the finalizer is off"));
                    }
                    Err(WriteError::Stale) if pass < PASSES => stale = true,
                    Err(error) => failed.push(format!("{name}: {error}")),
                }
            }
        }
        if !stale {
            released.failed.append(&mut failed);
            break;
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

fn is_not_served(error: &WriteError) -> bool {
    matches!(error, WriteError::Away(words) if words.contains("does not serve this kind"))
}

fn finalizer(metadata: &ObjectMeta) -> Option<usize> {
    let mut finalizers = metadata.finalizers.iter().flatten();
    finalizers.position(|name| name == FINALIZER)
}

fn shown_name(metadata: &ObjectMeta) -> String {
    let id = sources::seen(metadata, ()).id;
    format!("ServiceBinding {}/{}", id.0, id.1)
}

async fn take_off(client: &Client, metadata: &ObjectMeta, at: usize) -> Result<(), WriteError> {
    let version = &metadata.resource_version;
    let patch = serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "remove", "path": format!("/metadata/finalizers/{at}")},
    ]));
    let patch: json_patch::Patch = patch.map_err(|e| WriteError::Refused(e.to_string()))?;
    let seen = sources::seen(metadata, ());
    let api = Api::<ServiceBinding>::namespaced(client.clone(), &seen.id.0);
    let (params, patch) = (PatchParams::default(), Patch::<()>::Json(patch));
    match in_time(api.patch_metadata(&seen.id.1, &params, &patch)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(WriteError::from_kube(&error)),
    }
}

/// A list of metadata, page by page.
struct Pages<K> {
    api: Api<K>,
    params: Option<ListParams>,
}

impl<K> Pages<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    fn of(api: Api<K>) -> Self {
        Self {
            api,
            params: Some(ListParams::default().limit(PAGE)),
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<PartialObjectMeta<K>>>, WriteError> {
        let Some(params) = self.params.take() else {
            return Ok(None);
        };
        let page = in_time(self.api.list_metadata(&params)).await;
        let page = page.map_err(|error| WriteError::from_kube(&error))?;
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        self.params = next.map(|token| params.continue_token(&token));
        Ok(Some(page.items))
    }
}
