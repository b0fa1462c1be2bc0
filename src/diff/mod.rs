//! What would a sync change in the cluster now, and why? Lists and reads;
//! watches nothing, writes nothing, and needs no running operator.
//!
//! The path is the controller's own: the world, the catalog, `validate`,
//! `build`, `plan`. Where the plan has a write, the live object is read, and
//! what the API server would make of the apply is worked out here.

#[cfg(test)]
mod fixtures;

mod finding;
mod json;
mod lines;
mod look;
mod owners;
mod predict;
pub mod question;
mod records;
mod seen;
mod source;
mod text;
pub mod unable;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;

use self::finding::{Action, Because, Finding};
use self::look::{Asked, Begun, Decided};
use self::question::{Entries, Question, Scope};
use self::records::Answers;
use self::seen::{Cluster, Wrong};
use self::unable::Unable;
use crate::args::Output;
use crate::catalog::Catalog;
use crate::controller::error::brief;
use crate::controller::mesh_api::MeshApi;
use crate::controller::world::World;
use crate::domain::inputs::CatalogAnswer;
use crate::domain::names::{BindingKey, shown};
use crate::domain::plan::Guard;

/// Objects that are read at once.
const AT_ONCE: usize = 16;

/// What is asked.
pub struct Reach {
    /// The API server.
    pub client: Client,
    /// The catalog; not asked where the question brings its own entries.
    pub catalog: Arc<dyn Catalog>,
}

/// The answer, as it is printed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Printed {
    /// For standard output.
    pub output: String,
    /// Whether a sync would change something, or a binding is blocked.
    pub differs: bool,
}

/// Says what a sync would change in the cluster now.
pub async fn answer(question: &Question, reach: &Reach) -> Result<Printed, Unable> {
    let mesh_api = MeshApi::default();
    mesh_api.discover(&reach.client).await;
    let settings = &question.settings;
    let world = World::new(
        settings.cluster_domain.clone(),
        question.own_namespace.clone(),
    );
    let cluster = seen::list(&reach.client, &mesh_api, world, &question.given).await?;
    let keys = in_scope(question, &cluster)?;

    let (mut findings, mut asked, mut passed_over) = (Vec::new(), Vec::new(), 0);
    for key in keys {
        match begin(question, &cluster, &key)? {
            Some(Begun::Settled(finding)) => findings.push(finding),
            Some(Begun::Ask(ask)) => asked.push(*ask),
            None => passed_over += 1,
        }
    }
    let answers = answers(question, reach, &asked).await?;
    let compared: Vec<Finding> = stream::iter(asked)
        .map(|asked| {
            let answer = answers.get(&asked.target.catalog_id).cloned();
            let answer = answer.unwrap_or(CatalogAnswer::NotAsked);
            let decided = look::decide(asked, answer, settings);
            compare(&reach.client, &mesh_api, decided)
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    findings.extend(compared);
    findings.sort_by(|a, b| a.binding.cmp(&b.binding));

    let output = match question.output {
        Output::Text => text::print(&findings, passed_over, question.explain),
        Output::Json => json::print(&findings, passed_over, question.explain)
            .map_err(|error| Unable(format!("cannot write JSON: {error}")))?,
    };
    let differs = findings
        .iter()
        .any(|finding| finding.action() != Action::Nothing);
    Ok(Printed { output, differs })
}

/// The bindings that the question is about, all of which are there.
fn in_scope(question: &Question, cluster: &Cluster) -> Result<BTreeSet<BindingKey>, Unable> {
    let mut all: BTreeSet<_> = cluster.world.keys().into_iter().collect();
    all.extend(cluster.wrong.keys().cloned());
    match &question.scope {
        Scope::All => {}
        Scope::Namespace(namespace) => all.retain(|key| key.namespace == *namespace),
        Scope::These(keys) => {
            if let Some(key) = keys.iter().find(|key| !all.contains(key)) {
                return Err(Unable(format!(
                    "there is no ServiceBinding {key}; see kubectl get csb -n {}, or give its file by -f",
                    key.namespace
                )));
            }
            return Ok(keys.clone());
        }
    }
    Ok(all)
}

/// Begins a look; none where the question brings other entries than the
/// binding's.
fn begin(
    question: &Question,
    cluster: &Cluster,
    key: &BindingKey,
) -> Result<Option<Begun>, Unable> {
    let named = matches!(question.scope, Scope::These(_));
    let finding = || Finding::of(key.clone());
    match cluster.wrong.get(key) {
        Some(Wrong::Refused(situation)) => {
            return Ok(Some(Begun::Settled(look::stuck(finding(), situation))));
        }
        Some(Wrong::Undecodable(_)) if question.entries.is_some() && !named => return Ok(None),
        Some(Wrong::Undecodable(error)) => {
            let because = Because {
                reason: "Undecodable".to_owned(),
                message: format!("this ServiceBinding cannot be read: {}", brief(error)),
                blocks: true,
            };
            return Ok(Some(Begun::Settled(Finding {
                because: Some(because),
                ..finding()
            })));
        }
        None => {}
    }
    let Some(binding) = cluster.world.binding(key) else {
        return Ok(None);
    };
    let id = &binding.spec.catalog_service_id;
    let lacking = |entries: &Entries| !entries.contains_key(id);
    if question.entries.as_ref().is_some_and(lacking) {
        if !named {
            return Ok(None);
        }
        return Err(Unable(format!(
            "ServiceBinding {key}: no entry of the --catalog files has the id {}",
            shown(id)
        )));
    }
    Ok(Some(look::begin(
        &cluster.world,
        binding,
        &question.settings,
    )))
}

/// What the catalog, or the question, says of the services.
async fn answers(question: &Question, reach: &Reach, asked: &[Asked]) -> Result<Answers, Unable> {
    let ids: BTreeSet<_> = asked.iter().map(|asked| &asked.target.catalog_id).collect();
    match &question.entries {
        None => {
            let ids = ids.into_iter().cloned().collect();
            records::ask(reach.catalog.as_ref(), ids).await
        }
        Some(entries) => Ok(ids
            .into_iter()
            .filter_map(|id| {
                let record = Arc::clone(entries.get(id.as_str())?);
                Some((id.clone(), CatalogAnswer::Record(record)))
            })
            .collect()),
    }
}

async fn compare(client: &Client, mesh_api: &MeshApi, decided: Decided) -> Result<Finding, Unable> {
    let Decided {
        mut finding,
        writes,
    } = decided;
    for write in &writes {
        let live = match write.guard {
            Guard::Absent => None,
            Guard::Present { .. } | Guard::HandedOver { .. } => {
                seen::read(client, mesh_api, &write.object).await?
            }
        };
        if !look::compare(&mut finding, write, live.as_ref()) {
            break;
        }
    }
    Ok(finding)
}

#[cfg(test)]
mod tests;
