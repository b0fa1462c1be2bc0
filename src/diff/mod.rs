//! What would a sync change in the cluster now, and why? Lists and reads;
//! watches nothing, writes nothing, and needs no running operator.
//!
//! The path is the controller's own: the world, the catalog, `validate`,
//! `build`, `plan`. Where the plan has a write, the live object is read, and
//! what the API server would make of the apply is worked out here.

#[cfg(test)]
mod fixtures;

mod brake;
mod finding;
mod json;
mod lines;
mod look;
mod owners;
mod predict;
pub mod question;
mod records;
mod register;
mod seen;
mod source;
mod text;
mod tightened;
pub mod unable;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::Client;

use self::brake::Brake;
use self::finding::{Action, Altered, Because, Finding};
use self::look::{Begun, Decided};
use self::question::{Entries, Question, Scope};
use self::records::Records;
use self::register::Within;
use self::seen::{Cluster, Removals, Wrong};
use self::unable::Unable;
use crate::args::diff::Output;
use crate::catalog::Catalog;
use crate::controller::error::brief;
use crate::controller::mesh_api::MeshApi;
use crate::controller::world::World;
use crate::domain::brake::SyncPolicy;
use crate::domain::brake::window::Window;
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
    let bindings = cluster.world.bindings_known();
    let (mut records, made) = registered(question, reach, &cluster).await?;
    let keys = in_scope(question, &cluster)?;

    let (mut findings, mut asked, mut passed_over) = (Vec::new(), Vec::new(), 0);
    for key in keys {
        match begin(question, &cluster, &key)? {
            Some(Begun::Settled(finding)) => findings.push(finding),
            Some(Begun::Ask(ask)) => asked.push(*ask),
            None => passed_over += 1,
        }
    }
    if question.entries.is_none() {
        let ids = asked.iter().map(|asked| asked.target.catalog_id.clone());
        records.ask(reach.catalog.as_ref(), ids.collect()).await?;
    }
    let mut brake = brake(question, reach, bindings, &records).await?;
    let decided: Vec<_> = asked
        .into_iter()
        .map(|asked| {
            let answer = records.answer(&asked.target.catalog_id);
            look::decide(asked, answer, settings, &mut brake)
        })
        .collect();
    let compared: Vec<Finding> = stream::iter(decided)
        .map(|decided| compare(&reach.client, &mesh_api, decided))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    findings.extend(compared);
    for finding in &mut findings {
        if let Some(creation) = made.get(&finding.binding) {
            finding.objects.insert(0, creation.clone());
        }
    }
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

/// What is known of the catalog at first, and the bindings that would be made
/// because of it, which are in the cluster from now on.
async fn registered(
    question: &Question,
    reach: &Reach,
    cluster: &Cluster,
) -> Result<(Records, BTreeMap<BindingKey, Altered>), Unable> {
    let given = question.entries.as_ref().map(Records::given);
    let Some(within) = Within::of(question, cluster) else {
        return Ok((given.unwrap_or_default(), BTreeMap::new()));
    };
    let records = match given {
        Some(given) => given,
        None => {
            let mut records = Records::default();
            let catalog = reach.catalog.as_ref();
            records.list(catalog, within.namespace()).await?;
            records
        }
    };
    let made = register::make(&question.register, &within, &records, cluster);
    Ok((records, made))
}

/// The brake as it is now; its notes are read where something may be removed.
async fn brake(
    question: &Question,
    reach: &Reach,
    bindings: usize,
    records: &Records,
) -> Result<Brake, Unable> {
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let mut brake = Brake {
        limits: question.limits,
        bindings,
        window: Window::default(),
        blind: None,
        catalog: records.view(),
        now,
    };
    if records.lack_any() && question.limits.policy == SyncPolicy::Sync {
        match seen::removals(&reach.client, &question.own_namespace).await? {
            Removals::Noted(note) => brake.window.take_over(&note, now),
            Removals::Forbidden(why) => brake.blind = Some(why),
        }
    }
    Ok(brake)
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
        Some(Wrong::Undecodable { .. }) if question.entries.is_some() && !named => return Ok(None),
        Some(Wrong::Undecodable { error, .. }) => {
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

async fn compare(client: &Client, mesh_api: &MeshApi, decided: Decided) -> Result<Finding, Unable> {
    let mut live = Vec::new();
    for write in &decided.writes {
        live.push(match write.guard {
            Guard::Absent => None,
            Guard::Present { .. } | Guard::HandedOver { .. } => {
                seen::read(client, mesh_api, &write.object).await?
            }
        });
    }
    Ok(decided.compared(&live))
}

#[cfg(test)]
mod tests;
