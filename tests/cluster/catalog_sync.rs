//! What does the catalog make in the cluster, and what does it take away?

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::scene::{
    DR, IGNORE, MANAGED_BY, PROGRAM, Scene, UID, VS, approve_deletion, clear_all_bindings, message,
};
use crate::support::catalog::Catalog;
use crate::support::envoy::Options;
use crate::support::rig::Rig;
use crate::support::shell;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE, Stack, condition};
use crate::support::wait;

crate::tests![
    ; alone:
    a_service_of_the_catalog_comes_into_the_mesh_and_goes_by_itself,
    a_users_binding_goes_before_the_catalogs_and_what_he_adopts_is_his(15),
    a_service_gets_a_binding_as_soon_as_it_may(20),
    only_what_has_the_labels_of_both_sides_gets_a_binding_where_it_is_to,
    what_a_catalog_forgot_is_kept_until_somebody_approves_each(25),
    of_many_services_that_go_at_once_a_share_goes(20),
    where_nothing_is_ever_removed_updates_arrive_all_the_same
];

const SOURCE: &str = "catalog-mesh.aikernel.io/source";

/// Beside an operator that makes bindings.
async fn registering<'a>(rig: &'a Rig, name: &str) -> Result<Scene<'a>> {
    registering_with(rig, name, &[]).await
}

/// The same with these flags besides.
async fn registering_with<'a>(rig: &'a Rig, name: &str, more: &[&str]) -> Result<Scene<'a>> {
    let flags = [&["--register=on"][..], more].concat();
    let stack = Stack::start_with(rig, Path::new(PROGRAM), &flags).await?;
    Scene::beside(rig, Arc::new(stack), name).await
}

/// Waits for the binding that is made for the catalog.
async fn made(scene: &Scene<'_>, name: &str) -> Result<ServiceBinding> {
    let what = format!("a binding for {name}");
    wait::until(&what, PATIENCE, async || {
        let binding = scene.bindings().get_opt(name).await?;
        binding.context("there is none")
    })
    .await?;
    let binding = scene.synced(name).await?;
    ensure!(
        binding.labels().get(SOURCE).is_some_and(|v| v == "catalog"),
        "{binding:?}"
    );
    ensure!(binding.labels().contains_key(MANAGED_BY), "{binding:?}");
    ensure!(
        binding.spec.catalog_service_id == scene.id(name),
        "{binding:?}"
    );
    Ok(binding)
}

async fn names(scene: &Scene<'_>) -> Result<Vec<String>> {
    let list = scene.bindings().list(&ListParams::default()).await?;
    Ok(list.iter().map(ResourceExt::name_any).collect())
}

async fn a_service_of_the_catalog_comes_into_the_mesh_and_goes_by_itself(rig: &Rig) -> Result<()> {
    comes_and_goes(registering(rig, "registered").await?).await
}

/// A service of the catalog does, while requests go through Envoy.
pub(crate) async fn comes_and_goes(scene: Scene<'_>) -> Result<()> {
    let rig = scene.rig;
    let web = rig
        .workload(&scene.namespace, "web", &["zone-a", "zone-b"])
        .await?;
    let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
    envoy.wait_for_endpoints(&web.host(), 2).await?;
    let life = async {
        let mut record = scene.record("web");
        scene.put(&record).await?;
        made(&scene, "web").await?;
        let vs = scene.rule(VS, "web").await?;
        ensure!(vs.data["spec"]["http"][0]["timeout"] == "5s", "{vs:?}");
        scene.rule(DR, "web").await?;

        record["timeout"] = json!("7s");
        scene.put(&record).await?;
        let seven = |vs: &kube::api::DynamicObject| vs.data["spec"]["http"][0]["timeout"] == "7s";
        scene.until(VS, "web", "the update", seven).await?;

        let mark = scene.mark().await?;
        let start = Instant::now();
        scene.stack.catalog.delete(&scene.id("web")).await?;
        scene.gone("web").await?;
        let took = start.elapsed();
        scene.nothing_of("web").await?;
        let writes = scene.wrote(mark, 4).await?;
        let removal = [
            "delete servicebindings web 200",
            "delete virtualservices web 200",
            "delete destinationrules web 200",
            "patch servicebindings web 200",
        ];
        ensure!(writes == removal, "{writes:?}");
        eprintln!("deregistered: everything was gone after {took:.2?}");
        // A second on an idle machine.
        ensure!(took < Duration::from_secs(10), "it took {took:?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
        ensure!(names(&scene).await?.is_empty(), "it was made anew");
        anyhow::Ok(())
    };
    let requests = async {
        loop {
            let tally = envoy.tally(&web.host(), "/", 20).await?;
            if !tally.keys().all(|answer| answer.starts_with("200 ")) {
                anyhow::bail!("{tally:?}");
            }
        }
    };
    tokio::select! {
        lived = life => lived,
        failed = requests => failed,
    }
}

async fn a_users_binding_goes_before_the_catalogs_and_what_he_adopts_is_his(
    rig: &Rig,
) -> Result<()> {
    let scene = registering(rig, "adopted").await?;
    for name in ["web", "api"] {
        scene.service(name).await?;
        scene.put(&scene.record(name)).await?;
        made(&scene, name).await?;
    }
    // One writes a binding of his own beside it.
    let before = scene.rule(VS, "web").await?;
    let mut mine = scene.binding("web");
    mine["metadata"]["name"] = json!("mine");
    let mine = scene.create(&mine).await?;
    scene.synced("mine").await?;
    scene.gone("web").await?;
    let after = scene.rule(VS, "web").await?;
    ensure!(before.metadata.uid == after.metadata.uid, "made anew");
    ensure!(
        after.annotations().get(UID) == mine.metadata.uid.as_ref(),
        "{after:?}"
    );
    scene.rule(DR, "web").await?;

    // The other makes the catalog's his own.
    scene
        .change("api", json!({"metadata": {"labels": {SOURCE: null}}}))
        .await?;
    scene.stack.catalog.delete(&scene.id("api")).await?;
    scene.says("api", "Ready", "False Removed").await?;
    scene.nothing_of("api").await?;
    scene.put(&scene.record("api")).await?;
    scene.synced("api").await?;
    ensure!(
        names(&scene).await? == ["api", "mine"],
        "{:?}",
        names(&scene).await?
    );
    Ok(())
}

async fn a_service_gets_a_binding_as_soon_as_it_may(rig: &Rig) -> Result<()> {
    let scene = registering(rig, "scoped").await?;
    for name in ["late", "ignored", "plain"] {
        scene.put(&scene.record(name)).await?;
    }
    let mut odd = scene.record("odd");
    odd["name"] = json!("late");
    scene.put(&odd).await?;
    let ignored = json!({
        "metadata": {"name": "ignored", "annotations": {IGNORE: "true"}},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    let ignored = serde_json::from_value(ignored)?;
    scene
        .services()
        .create(&PostParams::default(), &ignored)
        .await?;
    scene.service("plain").await?;
    made(&scene, "plain").await?;
    scene.service("late").await?;
    let late = made(&scene, "late").await?;
    ensure!(
        late.spec.catalog_service_id == scene.id("late"),
        "not the lowest ID"
    );
    // Whoever looks at the binding sees that another record is for it, too; and
    // that is said once.
    let late = scene
        .says("late", "CatalogSynced", "True AnotherRecord")
        .await?;
    let said = message(&late, "CatalogSynced");
    ensure!(said.contains(&scene.id("odd")), "{said}");
    ensure!(
        condition(&late, "Ready").as_deref() == Some("True Synced"),
        "{late:?}"
    );
    wait::until("the Event AnotherRecord", PATIENCE, async || {
        let events = scene.events("late").await?;
        let told = events.iter().filter(|of| *of == "Warning AnotherRecord");
        ensure!(told.count() == 1, "{events:?}");
        Ok(())
    })
    .await?;
    // Deleted by hand, it comes back while the record is there.
    let first = scene.bindings().get("plain").await?.metadata.uid;
    scene.delete_binding("plain").await?;
    wait::until("another binding", PATIENCE, async || {
        let now = scene.bindings().get("plain").await?.metadata.uid;
        ensure!(now != first, "it is the first one");
        Ok(())
    })
    .await?;
    made(&scene, "plain").await?;
    ensure!(
        names(&scene).await? == ["late", "plain"],
        "{:?}",
        names(&scene).await?
    );
    let patch = json!({"metadata": {"annotations": {IGNORE: null}}});
    let services = scene.services();
    services
        .patch("ignored", &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    made(&scene, "ignored").await?;

    // Nothing more is said of it by a new process; and when the other record is
    // gone, nothing at all.
    let mark = scene.mark().await?;
    scene.stack.operator.process.kill().await?;
    scene.stack.operator.start_again().await?;
    let ready = format!("http://{OPERATOR}/readyz");
    scene.stack.operator.ready(&ready).await?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    scene
        .says("late", "CatalogSynced", "True AnotherRecord")
        .await?;
    scene.stack.catalog.delete(&scene.id("odd")).await?;
    scene.says("late", "CatalogSynced", "True Synced").await?;

    // Who has the name of a binding that would be made is told so.
    let mut holder = scene.binding("plain");
    holder["metadata"]["name"] = json!("wanted");
    scene.create(&holder).await?;
    scene.service("wanted").await?;
    scene.put(&scene.record("wanted")).await?;
    wait::until("the Event NameTaken", PATIENCE, async || {
        let events = scene.events("wanted").await?;
        ensure!(
            events.iter().any(|of| of == "Warning NameTaken"),
            "{events:?}"
        );
        Ok(())
    })
    .await
}

async fn only_what_has_the_labels_of_both_sides_gets_a_binding_where_it_is_to(
    rig: &Rig,
) -> Result<()> {
    let namespace = rig.namespace("labelled").await?;
    let flags = [
        "--register-catalog-labels=mesh=yes",
        "--register-service-labels=public,!internal",
        "--register-namespaces",
        &namespace,
    ];
    let stack = Stack::start_with(rig, Path::new(PROGRAM), &flags).await?;
    let scene = Scene {
        rig,
        stack: Arc::new(stack),
        namespace,
    };
    let outside = scene.neighbour("outside").await?;
    let (mesh, none) = (json!({"mesh": "yes"}), json!({}));
    let public = json!({"public": ""});
    outside.service("both").await?;
    label_service(&outside, "both", &public).await?;
    label_record(&outside, "both", &mesh).await?;
    for (name, of_record, of_service) in [
        ("plain", &none, &none),
        ("by-record", &mesh, &none),
        ("by-service", &none, &public),
        ("another-value", &json!({"mesh": "no"}), &public),
        ("internal", &mesh, &json!({"public": "", "internal": ""})),
        // The last, so that there was time for the others.
        ("both", &mesh, &public),
    ] {
        scene.service(name).await?;
        label_service(&scene, name, of_service).await?;
        label_record(&scene, name, of_record).await?;
    }
    made(&scene, "both").await?;
    scene.mark().await?;
    ensure!(
        names(&scene).await? == ["both"],
        "{:?}",
        names(&scene).await?
    );

    // As soon as the side that did not have them has them, too; one is not
    // enough.
    label_record(&scene, "plain", &mesh).await?;
    label_service(&scene, "by-record", &public).await?;
    made(&scene, "by-record").await?;
    label_record(&scene, "by-service", &mesh).await?;
    made(&scene, "by-service").await?;
    label_service(&scene, "internal", &json!({"internal": null})).await?;
    made(&scene, "internal").await?;
    scene.mark().await?;
    let expected = ["both", "by-record", "by-service", "internal"];
    ensure!(
        names(&scene).await? == expected,
        "{:?}",
        names(&scene).await?
    );
    label_service(&scene, "plain", &public).await?;
    made(&scene, "plain").await?;
    let elsewhere = names(&outside).await?;
    ensure!(elsewhere.is_empty(), "{elsewhere:?}");
    Ok(())
}

/// The record with these labels and no others.
async fn label_record(scene: &Scene<'_>, name: &str, labels: &Value) -> Result<()> {
    let mut record = scene.record(name);
    record["labels"] = labels.clone();
    scene.put(&record).await
}

/// The Service with these labels besides; without a value, a label goes.
async fn label_service(scene: &Scene<'_>, name: &str, labels: &Value) -> Result<()> {
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    let services = scene.services();
    services
        .patch(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn what_a_catalog_forgot_is_kept_until_somebody_approves_each(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "forgot").await?;
    for name in ["a", "b", "c", "restored"] {
        scene.bound(name).await?;
    }
    a_backup_that_lacks_it_is_restored(&scene, "restored").await?;
    let empty = async || Catalog::start(rig.folder(), "empty", CATALOG).await;
    is_kept_when_forgotten(scene, empty).await
}

/// What is bound, which is `a`, `b` and `c`, when another catalog takes the place
/// of the scene's own.
pub(crate) async fn is_kept_when_forgotten(
    scene: Scene<'_>,
    empty: impl AsyncFnOnce() -> Result<Catalog>,
) -> Result<()> {
    scene.stack.catalog.process.kill().await?;
    let empty = empty().await?;
    held(&scene, &["a", "b", "c"]).await?;

    approve(&scene, "a").await?;
    scene.says("a", "Ready", "False Removed").await?;
    scene.nothing_of("a").await?;
    held(&scene, &["b", "c"]).await?;

    // Another service is registered; that is no word about these, and a new
    // process knows as much.
    empty.put(&scene.record("other")).await?;
    scene.stack.operator.process.kill().await?;
    started_again(&scene).await?;
    // The catalog lists something again, so that another rule holds these: that is
    // said once.
    for name in ["b", "c"] {
        let what = format!("why {name} is held");
        wait::until(&what, PATIENCE, async || {
            let said = message(&scene.bindings().get(name).await?, "Ready");
            ensure!(said.contains("restored or replaced"), "{said}");
            Ok(())
        })
        .await?;
    }
    let mark = scene.mark().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.rests(mark).await?;
    held(&scene, &["b", "c"]).await?;
    approve(&scene, "b").await?;
    scene.says("b", "Ready", "False Removed").await?;
    held(&scene, &["c"]).await?;

    // What the new catalog shows is as it was.
    empty.put(&scene.record("c")).await?;
    scene.synced("c").await?;
    held(&scene, &[]).await
}

/// While no operator runs, a backup of the catalog is restored that holds the
/// other services, and not this one.
async fn a_backup_that_lacks_it_is_restored(scene: &Scene<'_>, name: &str) -> Result<()> {
    let (operator, catalog) = (&scene.stack.operator, &scene.stack.catalog);
    operator.process.kill().await?;
    catalog.delete(&scene.id(name)).await?;
    catalog.process.kill().await?;
    let run = scene.rig.folder();
    let database = format!("sqlite://{}", run.join("catalog.db").display());
    Catalog::restore_epoch(run, &database).await?;
    catalog.process.start().await?;
    catalog.ready().await?;

    let mark = scene.rig.audit_mark().await?;
    started_again(scene).await?;
    held(scene, &[name]).await?;
    // The others are seen in the new history, and so beyond doubt again.
    scene.mark().await?;
    for other in ["a", "b", "c"] {
        scene.synced(other).await?;
    }
    let deletions = async || -> Result<Vec<String>> {
        let mut writes = scene.writes(mark).await?;
        writes.retain(|line| line.starts_with("delete"));
        Ok(writes)
    };
    ensure!(deletions().await?.is_empty(), "{:?}", deletions().await?);

    approve(scene, name).await?;
    scene.says(name, "Ready", "False Removed").await?;
    scene.nothing_of(name).await?;
    let expected = ["virtualservices", "destinationrules"]
        .map(|resource| format!("delete {resource} {name} 200"));
    ensure!(deletions().await? == expected, "{:?}", deletions().await?);
    Ok(())
}

async fn started_again(scene: &Scene<'_>) -> Result<()> {
    let operator = &scene.stack.operator;
    operator.start_again().await?;
    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
    stack::leads(operator).await
}

/// Exactly these are held, and have their objects.
async fn held(scene: &Scene<'_>, names: &[&str]) -> Result<()> {
    for name in names {
        let binding = scene.says(name, "Ready", "False DeletionHeld").await?;
        ensure!(
            condition(&binding, "CatalogSynced").as_deref() == Some("False Removed"),
            "{binding:?}"
        );
        scene.rule(VS, name).await?;
        scene.rule(DR, name).await?;
    }
    wait::until("the gauge", PATIENCE, async || {
        let samples = scene
            .stack
            .operator
            .metrics(&format!("http://{OPERATOR}/metrics"))
            .await?;
        let held = samples.sum("catalog_mesh_deletions_held", &[]);
        let is_held =
            |b: &&ServiceBinding| condition(b, "Ready").as_deref() == Some("False DeletionHeld");
        let all = Api::<ServiceBinding>::all(scene.rig.client.clone());
        let all = all.list(&ListParams::default()).await?.items;
        let here = all
            .iter()
            .filter(|b| b.namespace().as_ref() == Some(&scene.namespace));
        let here: Vec<_> = here.filter(is_held).map(ResourceExt::name_any).collect();
        ensure!(here == names, "{here:?}");
        ensure!(
            held == Some(all.iter().filter(is_held).count() as f64),
            "{held:?}"
        );
        Ok(())
    })
    .await
}

async fn approve(scene: &Scene<'_>, name: &str) -> Result<()> {
    approve_deletion(scene.rig, &scene.bindings().get(name).await?).await
}

async fn of_many_services_that_go_at_once_a_share_goes(rig: &Rig) -> Result<()> {
    a_share_goes(Scene::alone(rig, "share").await?).await
}

/// Of many services that go at once.
pub(crate) async fn a_share_goes(scene: Scene<'_>) -> Result<()> {
    // The share is of all bindings: none of another test may count.
    clear_all_bindings(scene.rig).await?;
    let all: Vec<_> = (0..10).map(|n| format!("s{n}")).collect();
    for name in &all {
        scene.bound(name).await?;
    }
    for name in &all[..5] {
        scene.stack.catalog.delete(&scene.id(name)).await?;
    }
    let verdicts = async || -> Result<Vec<String>> {
        let list = scene.bindings().list(&ListParams::default()).await?;
        let mut said: Vec<_> = list.iter().filter_map(|b| condition(b, "Ready")).collect();
        said.sort();
        Ok(said)
    };
    let expected = [
        vec!["False DeletionHeld"; 3],
        vec!["False Removed"; 2],
        vec!["True Synced"; 5],
    ]
    .concat();
    wait::until("the verdicts", PATIENCE, async || {
        let said = verdicts().await?;
        ensure!(said == expected, "{said:?}");
        Ok(())
    })
    .await?;
    let blocks = shell::blocks("docs/catalog-sync.md", "### When it holds")?;
    let shown = shell::ok(scene.rig, &blocks[0]).await?;
    ensure!(shown.lines().count() == 3, "{shown}");
    // They are tried again, and stay.
    let mark = scene.mark().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.rests(mark).await?;
    ensure!(verdicts().await? == expected, "{:?}", verdicts().await?);
    let objects = scene.rules(VS).list(&ListParams::default()).await?;
    ensure!(objects.items.len() == 8, "{}", objects.items.len());
    // Each that is held was told of once, and no other.
    for name in &all {
        let binding = scene.bindings().get(name).await?;
        let is_held = condition(&binding, "Ready").as_deref() == Some("False DeletionHeld");
        let events = scene.events(name).await?;
        let told = events.iter().filter(|e| e.ends_with(" DeletionHeld"));
        let told: Vec<_> = told.map(String::as_str).collect();
        let expected: &[_] = if is_held {
            &["Warning DeletionHeld"]
        } else {
            &[]
        };
        ensure!(told == expected, "{name}: {events:?}");
    }
    Ok(())
}

async fn where_nothing_is_ever_removed_updates_arrive_all_the_same(rig: &Rig) -> Result<()> {
    let scene = registering_with(rig, "upsert-only", &["--policy=upsert-only"]).await?;
    for name in ["made", "there"] {
        scene.service(name).await?;
        scene.put(&scene.record(name)).await?;
        made(&scene, name).await?;
    }
    scene.service("mine").await?;
    scene.create(&scene.binding("mine")).await?;
    scene.put(&scene.record("mine")).await?;
    scene.synced("mine").await?;
    let mark = scene.mark().await?;
    let mut before = Vec::new();
    for name in ["made", "mine"] {
        before.push((scene.rule(VS, name).await?, scene.rule(DR, name).await?));
        scene.stack.catalog.delete(&scene.id(name)).await?;
    }
    // Nor do they go while they are looked at again, or by a new leader.
    for is_new in [false, true] {
        if is_new {
            scene.stack.operator.process.kill().await?;
            scene.stack.operator.start_again().await?;
            let url = format!("http://{OPERATOR}/metrics");
            scene.stack.operator.leads(&url).await?;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        for (name, (vs, dr)) in ["made", "mine"].into_iter().zip(&before) {
            says_that_it_is_kept(&scene, name).await?;
            ensure!(scene.rule(VS, name).await? == *vs, "another route");
            ensure!(scene.rule(DR, name).await? == *dr, "another policy");
        }
    }
    let mut writes = scene.writes(mark).await?;
    writes.retain(|line| !line.starts_with("patch servicebindings/status"));
    ensure!(writes.is_empty(), "{writes:?}");

    // What the catalog has or has again arrives, in the objects that are there.
    for name in ["there", "mine", "made"] {
        let mut record = scene.record(name);
        record["timeout"] = json!("7s");
        scene.put(&record).await?;
        let seven = |vs: &kube::api::DynamicObject| vs.data["spec"]["http"][0]["timeout"] == "7s";
        scene.until(VS, name, "the update", seven).await?;
        scene.synced(name).await?;
    }
    for (name, (vs, _)) in ["made", "mine"].into_iter().zip(&before) {
        let after = scene.rule(VS, name).await?;
        ensure!(after.metadata.uid == vs.metadata.uid, "made anew");
    }
    // And what a user takes away goes.
    for name in ["made", "mine"] {
        scene.stack.catalog.delete(&scene.id(name)).await?;
        says_that_it_is_kept(&scene, name).await?;
        scene.delete_binding(name).await?;
        scene.gone(name).await?;
        scene.nothing_of(name).await?;
    }
    Ok(())
}

/// The binding says that its service is gone, that its objects are in force all
/// the same, why, and what to do.
async fn says_that_it_is_kept(scene: &Scene<'_>, name: &str) -> Result<()> {
    let binding = scene.says(name, "Ready", "False Removed").await?;
    for (type_, expected) in [
        ("CatalogSynced", "False Removed"),
        ("MeshProgrammed", "True Programmed"),
    ] {
        let said = condition(&binding, type_);
        ensure!(said.as_deref() == Some(expected), "{:?}", binding.status);
    }
    for type_ in ["Ready", "CatalogSynced"] {
        let why = message(&binding, type_);
        for part in ["is kept", "--policy=upsert-only", "delete the binding"] {
            ensure!(why.contains(part), "no {part} in {why}");
        }
    }
    Ok(())
}
