//! A catalog denies services that it had, each by a proper 404: what is removed
//! because of it, and what do the bindings say?

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use kube::ResourceExt;
use kube::api::ListParams;
use tokio::time::sleep;

use crate::scene::{self, DR, PROGRAM, VS, approve_deletion, clear_all_bindings, message};
use crate::support::audit::Mark;
use crate::support::catalog::Catalog;
use crate::support::fleet::Fleet;
use crate::support::front::{Fault, Front};
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE, condition};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    ; alone:
    a_catalog_that_denies_everything_lists_included_takes_nothing_away(15),
    a_list_whose_last_page_is_an_error_takes_nothing_away(15),
    an_empty_list_of_the_same_history_takes_nothing_away_but_what_is_approved(15),
    of_what_reads_deny_and_lists_lack_a_share_goes(25)
];

const FRONT: &str = "127.0.0.1:9081";

/// Bindings; by default a fifth of them may lose their objects in ten minutes.
const SIZE: usize = 10;

/// Some periods, in which whatever is tried again is.
const SPAN: Duration = Duration::from_secs(5);

/// The operator, with the front between it and its catalog.
struct Scene<'a> {
    rig: &'a Rig,
    catalog: Catalog,
    front: Front,
    operator: Operator,
    fleet: Fleet,
}

impl<'a> Scene<'a> {
    /// All bindings there are in the cluster, and all are in force.
    async fn start(rig: &'a Rig, name: &str) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let catalog = Catalog::start(rig.folder(), name, CATALOG).await?;
        let front = Front::start(FRONT, &catalog.url)?;
        let program = Path::new(PROGRAM);
        let operator =
            stack::operator(rig, &format!("operator-{name}"), program, &front.url, &[]).await?;
        // The share is of all bindings: none of another test may count.
        clear_all_bindings(rig).await?;
        let fleet = Fleet::programmed(rig, &catalog, name, SIZE).await?;
        Ok(Self {
            rig,
            catalog,
            front,
            operator,
            fleet,
        })
    }

    /// The operator dies, and the next one begins with what it is told now.
    async fn restart(&self) -> Result<()> {
        self.operator.process.kill().await?;
        self.operator.start_again().await?;
        let url = format!("http://{OPERATOR}/metrics");
        self.operator.leads(&url).await
    }

    fn ids(&self, which: std::ops::Range<usize>) -> Vec<String> {
        which.map(|i| self.fleet.id(i)).collect()
    }

    async fn bindings(&self) -> Result<Vec<ServiceBinding>> {
        let bindings = self.fleet.bindings(self.rig);
        Ok(bindings.list(&ListParams::default()).await?.items)
    }

    /// Waits until so many bindings say each of these, as Ready.
    async fn say(&self, expected: &[(&str, usize)]) -> Result<()> {
        let expected = expected.iter().map(|(said, n)| ((*said).to_owned(), *n));
        let expected: BTreeMap<_, _> = expected.collect();
        wait::until("what the bindings say", PATIENCE, async || {
            let said = self.verdicts().await?;
            ensure!(said == expected, "they say {said:?}, not {expected:?}");
            Ok(())
        })
        .await
    }

    async fn verdicts(&self) -> Result<BTreeMap<String, usize>> {
        let mut said = BTreeMap::new();
        for binding in self.bindings().await? {
            let ready = condition(&binding, "Ready").unwrap_or_default();
            *said.entry(ready).or_default() += 1;
        }
        Ok(said)
    }

    /// Waits until so many bindings say this, and all of them all of `parts`.
    async fn message(&self, ready: &str, count: usize, parts: &[&str]) -> Result<()> {
        wait::until("what the messages say", PATIENCE, async || {
            let bindings = self.bindings().await?;
            let saying = |b: &&ServiceBinding| condition(b, "Ready").as_deref() == Some(ready);
            let saying: Vec<_> = bindings.iter().filter(saying).collect();
            ensure!(saying.len() == count, "{} say {ready}", saying.len());
            for binding in saying {
                let said = message(binding, "Ready");
                let told = |part: &&&str| !said.contains(**part);
                let missing: Vec<_> = parts.iter().filter(told).collect();
                ensure!(missing.is_empty(), "no {missing:?} in {said:?}");
            }
            Ok(())
        })
        .await
    }

    /// Each object of the mesh with its version.
    async fn mesh(&self) -> Result<BTreeMap<String, Option<String>>> {
        let mut mesh = BTreeMap::new();
        for kind in [VS, DR] {
            let rules = self.fleet.rules(self.rig, kind);
            for rule in rules.list(&ListParams::default()).await? {
                let name = format!("{kind} {}", rule.name_any());
                mesh.insert(name, rule.resource_version());
            }
        }
        Ok(mesh)
    }

    /// The operator's writes since the mark but for what it says in statuses
    /// and Events.
    async fn deeds(&self, since: Mark) -> Result<Vec<String>> {
        let writes = self.fleet.writes(self.rig, since).await?.0;
        let mut lines: Vec<_> = writes.iter().map(scene::line).collect();
        let is_word = |line: &str| {
            line.starts_with("patch servicebindings/status") || line.contains(" events ")
        };
        lines.retain(|line| !is_word(line));
        Ok(lines)
    }
}

async fn a_catalog_that_denies_everything_lists_included_takes_nothing_away(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::start(rig, "denies-all").await?;
    takes_nothing_away(&scene, Fault::NotFound, SIZE).await
}

async fn a_list_whose_last_page_is_an_error_takes_nothing_away(rig: &Rig) -> Result<()> {
    let scene = Scene::start(rig, "half-an-error").await?;
    let half = scene.ids(SIZE / 2..SIZE);
    takes_nothing_away(&scene, Fault::OnlyOnFirstPage(half), SIZE / 2).await
}

/// Under this fault so many bindings are denied and nothing lists what there
/// is: they say so, also after a restart, and what was made stays.
async fn takes_nothing_away(scene: &Scene<'_>, fault: Fault, denied: usize) -> Result<()> {
    let (before, mark) = (scene.mesh().await?, scene.rig.audit_mark().await?);
    ensure!(before.len() == 2 * SIZE, "{before:?}");
    scene.front.set(fault)?;
    // An operator that knew them all along, and one that never saw any.
    sleep(SPAN).await;
    scene.restart().await?;
    let what_to_do = [
        "complete list",
        "Check the catalog",
        "catalogServiceId",
        "delete the binding",
    ];
    scene.message("False NotFound", denied, &what_to_do).await?;
    sleep(SPAN).await;
    scene.message("False NotFound", denied, &what_to_do).await?;
    let deeds = scene.deeds(mark).await?;
    ensure!(deeds.is_empty(), "{deeds:?}");
    ensure!(scene.mesh().await? == before, "the mesh is another");

    scene.front.set(Fault::None)?;
    scene.say(&[("True Synced", SIZE)]).await?;
    let deeds = scene.deeds(mark).await?;
    ensure!(deeds.is_empty(), "{deeds:?}");
    ensure!(scene.mesh().await? == before, "the mesh is another");
    Ok(())
}

async fn an_empty_list_of_the_same_history_takes_nothing_away_but_what_is_approved(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::start(rig, "lists-nothing").await?;
    let (before, mark) = (scene.mesh().await?, rig.audit_mark().await?);
    scene.front.set(Fault::Only(Vec::new()))?;
    // One that knew them all finds out by a record that is changed, and one that
    // never saw any by its first list.
    scene.catalog.put(&scene.fleet.record(0, "6s")).await?;
    sleep(SPAN).await;
    scene.restart().await?;
    let (removed, held) = ("False Removed", "False DeletionHeld");
    let what_to_do = [
        "lists no service at all",
        "kubectl annotate servicebindings.aikernel.io",
        "approve-deletion=",
    ];
    scene.message(held, SIZE, &what_to_do).await?;
    sleep(SPAN).await;
    scene.message(held, SIZE, &what_to_do).await?;
    let deeds = scene.deeds(mark).await?;
    ensure!(deeds.is_empty(), "{deeds:?}");
    ensure!(scene.mesh().await? == before, "the mesh is another");

    let bindings = scene.bindings().await?;
    approve_deletion(rig, bindings.first().context("no binding")?).await?;
    scene.say(&[(removed, 1), (held, SIZE - 1)]).await?;
    the_route_goes_first(&scene, mark, 1).await?;

    scene.front.set(Fault::None)?;
    scene.fleet.put_records(&scene.catalog, "9s").await?;
    scene.say(&[("True Synced", SIZE)]).await?;
    scene.fleet.wait_for_timeout(rig, "9s").await
}

async fn of_what_reads_deny_and_lists_lack_a_share_goes(rig: &Rig) -> Result<()> {
    let scene = Scene::start(rig, "lacks").await?;
    let mark = rig.audit_mark().await?;
    // Half of them are there no more, and no event says so. What makes the
    // operator find out is that one of the lost was changed.
    let half = scene.ids(SIZE / 2..SIZE);
    scene.front.set(Fault::Only(half))?;
    scene.catalog.put(&scene.fleet.record(0, "6s")).await?;
    let (removed, held) = ("False Removed", "False DeletionHeld");
    scene
        .say(&[("True Synced", 5), (removed, 2), (held, 3)])
        .await?;
    let what_to_do = [
        "more than 20 %",
        "when its turn comes, unless the service is registered again",
        "kubectl annotate servicebindings.aikernel.io",
        "approve-deletion=",
    ];
    scene.message(held, 3, &what_to_do).await?;
    the_route_goes_first(&scene, mark, 2).await?;

    // Neither trying again nor another leader makes it more, ...
    sleep(SPAN).await;
    scene.restart().await?;
    sleep(SPAN).await;
    scene
        .say(&[("True Synced", 5), (removed, 2), (held, 3)])
        .await?;
    // ... nor that all are denied, in a list of somebody else's service.
    let other = stack::record("other", &scene.fleet.namespace, "other");
    scene.catalog.put(&other).await?;
    scene.front.set(Fault::Only(vec!["other".to_owned()]))?;
    scene.catalog.put(&scene.fleet.record(9, "6s")).await?;
    scene.say(&[(removed, 2), (held, 8)]).await?;
    scene.message(held, 8, &what_to_do).await?;
    sleep(SPAN).await;
    scene.say(&[(removed, 2), (held, 8)]).await?;
    the_route_goes_first(&scene, mark, 2).await?;
    ensure!(scene.mesh().await?.len() == 2 * (SIZE - 2));

    // What the message says to do is done, for one.
    let bindings = scene.bindings().await?;
    let is_held = |b: &&ServiceBinding| condition(b, "Ready").as_deref() == Some(held);
    let one = bindings.iter().find(is_held).cloned();
    approve_deletion(rig, &one.unwrap_or_default()).await?;
    scene.say(&[(removed, 3), (held, 7)]).await?;
    the_route_goes_first(&scene, mark, 3).await?;

    // And the catalog finds them all again.
    scene.front.set(Fault::None)?;
    scene.fleet.put_records(&scene.catalog, "9s").await?;
    scene.say(&[("True Synced", SIZE)]).await?;
    scene.fleet.wait_for_timeout(rig, "9s").await
}

/// So many bindings lost their objects since the mark, each its VirtualService
/// before its DestinationRule.
async fn the_route_goes_first(scene: &Scene<'_>, since: Mark, bindings: usize) -> Result<()> {
    let mut gone = BTreeMap::<_, Vec<_>>::new();
    for line in scene.deeds(since).await? {
        if let ["delete", kind, name, code] = line.split(' ').collect::<Vec<_>>()[..] {
            let of = gone.entry(name.to_owned()).or_default();
            of.push(format!("{kind} {code}"));
        }
    }
    ensure!(gone.len() == bindings, "{gone:?}");
    for order in gone.values() {
        ensure!(
            order == &["virtualservices 200", "destinationrules 200"],
            "{gone:?}"
        );
    }
    Ok(())
}
