//! Does `diff` say what a sync then does, with the right to read alone?

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::scene::{DR, PROGRAM, Scene, VS, begin_anew, message};
use crate::support::operator::{LEASE, NAMESPACE};
use crate::support::rig::Rig;
use crate::support::rights::may_list_bindings;
use crate::support::stack::{OPERATOR, Stack};
use crate::support::tools::repository;

crate::tests![
    ; alone:
    what_it_says_is_what_the_operator_does(25),
    it_only_reads_with_the_rights_that_are_documented
];

/// What a run of it gave.
pub(crate) struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// The answer as JSON, with this exit code.
    pub(crate) fn json(&self, code: i32) -> Result<Value> {
        ensure!(
            self.code == Some(code) && self.stderr.is_empty(),
            "{:?}: {}{}",
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(serde_json::from_str(&self.stdout)?)
    }
}

/// Runs it as somebody who may do what this kubeconfig may.
pub(crate) async fn diff(scene: &Scene<'_>, kubeconfig: &PathBuf, more: &[&str]) -> Result<Ran> {
    let output = Command::new(PROGRAM)
        .args(["diff", "-n", &scene.namespace, "-o", "json"])
        .args(["--catalog-url", &scene.stack.catalog.url])
        .args(more)
        .env("KUBECONFIG", kubeconfig)
        .kill_on_drop(true)
        .output()
        .await?;
    Ok(Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A kubeconfig of an account with the rights that docs/flags.md names, and the
/// account's name.
pub(crate) async fn viewer(scene: &Scene<'_>) -> Result<(PathBuf, String)> {
    let docs = std::fs::read_to_string(repository().join("docs/flags.md"))?;
    let (_, rest) = docs
        .split_once("<!-- rights of diff")
        .context("docs/flags.md names no rights")?;
    let role = rest
        .split("```yaml\n")
        .nth(1)
        .and_then(|r| r.split("```").next());
    let file = scene.rig.folder().join("viewer.yaml");
    std::fs::write(&file, role.context("the rights are no YAML")?)?;
    scene.rig.api.apply_manifests(&file).await?;
    let account = format!("{}:viewer", scene.namespace);
    let kubeconfig = scene
        .rig
        .api
        .service_account_kubeconfig(&scene.namespace, "viewer")
        .await?;
    let name = format!("viewer-of-{}", scene.namespace);
    let account_flag = format!("--serviceaccount={account}");
    let role = "--clusterrole=catalog-mesh-viewer";
    scene
        .rig
        .kubectl(&["create", "clusterrolebinding", &name, role, &account_flag])
        .await?;
    let user = format!("system:serviceaccount:{account}");
    may_list_bindings(&scene.rig.client, &user).await?;
    Ok((kubeconfig, user))
}

/// A namespace of its own, whose operator does not run.
async fn without_an_operator<'a>(rig: &'a Rig, name: &str) -> Result<Scene<'a>> {
    let scene = Scene::alone(rig, name).await?;
    stop(&scene).await?;
    Ok(scene)
}

/// The same, whose operator makes bindings when it runs.
async fn without_a_registering_operator<'a>(rig: &'a Rig, name: &str) -> Result<Scene<'a>> {
    let stack = Stack::start_with(rig, Path::new(PROGRAM), &["--register=on"]).await?;
    let scene = Scene::beside(rig, Arc::new(stack), name).await?;
    // How much may go depends on how many there are, and on what went before.
    begin_anew(rig, &scene.stack.catalog).await?;
    stop(&scene).await?;
    let leases = Api::<Lease>::namespaced(rig.client.clone(), NAMESPACE);
    leases.delete(LEASE, &DeleteParams::default()).await?;
    Ok(scene)
}

async fn stop(scene: &Scene<'_>) -> Result<()> {
    let limit = Duration::from_secs(60);
    let well = scene.stack.operator.process.terminate(limit).await?;
    ensure!(well, "{:?}", scene.stack.operator.process.log());
    Ok(())
}

/// Lets the operator do what it wants to do, and stops it again.
async fn sync(scene: &Scene<'_>, done: impl AsyncFn() -> Result<()>) -> Result<()> {
    scene.stack.operator.process.start().await?;
    let ready = format!("http://{OPERATOR}/readyz");
    scene.stack.operator.ready(&ready).await?;
    done().await?;
    stop(scene).await
}

/// Action and reason of the only binding.
fn verdict(answer: &Value) -> Result<(&str, &str)> {
    let bindings = answer["bindings"].as_array().context("no bindings")?;
    ensure!(bindings.len() == 1, "{answer:#}");
    let text = |field: &str| bindings[0][field].as_str().unwrap_or_default();
    Ok((text("action"), text("reason")))
}

/// All changes as `kind path before after source`.
fn changes(answer: &Value) -> BTreeSet<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = BTreeSet::new();
    for object in list(&answer["bindings"][0]["objects"]) {
        for change in list(&object["changes"]) {
            let text = |field: &str| {
                change
                    .get(field)
                    .map_or("-".to_owned(), ToString::to_string)
            };
            let fields = ["path", "before", "after", "source", "setBy"].map(text);
            let line = format!("{} {}", object["kind"], fields.join(" "));
            found.insert(line.replace('"', ""));
        }
    }
    found
}

/// Whether the object now holds what was predicted.
fn came_true(answer: &Value, kind: &str, now: &DynamicObject) -> Result<()> {
    let now = json!({"metadata": now.metadata, "spec": now.data["spec"]});
    let objects = answer["bindings"][0]["objects"]
        .as_array()
        .context("none")?;
    for object in objects.iter().filter(|object| object["kind"] == kind) {
        for change in object["changes"].as_array().context("no changes")? {
            let path = change["path"].as_str().context("no path")?;
            ensure!(
                now.pointer(path) == change.get("after"),
                "{change}, but it is {now:#}"
            );
        }
    }
    Ok(())
}

async fn what_it_says_is_what_the_operator_does(rig: &Rig) -> Result<()> {
    let scene = without_a_registering_operator(rig, "diff").await?;
    let (kubeconfig, _) = viewer(&scene).await?;
    let run = async || diff(&scene, &kubeconfig, &[]).await;
    // A catalog that has nothing left would be doubted.
    scene.put(&scene.record("beside")).await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    scene.create(&scene.binding("web")).await?;

    let fresh = run().await?.json(1)?;
    ensure!(verdict(&fresh)? == ("create", ""), "{fresh:#}");
    scene.nothing_of("web").await?;
    sync(&scene, async || {
        scene.synced("web").await?;
        Ok(())
    })
    .await?;
    for kind in [DR, VS] {
        came_true(&fresh, kind, &scene.rule(kind, "web").await?)?;
    }
    let answer = run().await?.json(0)?;
    ensure!(verdict(&answer)? == ("nothing", ""), "{answer:#}");

    let mut record = scene.record("web");
    record["timeout"] = json!("7s");
    scene.put(&record).await?;
    let answer = run().await?.json(1)?;
    let expected = "VirtualService /spec/http/0/timeout 5s 7s Catalog -";
    ensure!(
        changes(&answer) == [expected.to_owned()].into(),
        "{answer:#}"
    );

    // Others add fields, and edit one of ours; the catalog takes values back.
    // (Not ISTIO_MUTUAL: an Envoy of another test would wait for certificates.)
    let theirs = json!({"metadata": {"labels": {"theirs": "x"}},
        "spec": {"trafficPolicy": {"tls": {"mode": "DISABLE"}}}});
    scene.edit(DR, "web", theirs).await?;
    let mut http = scene.rule(VS, "web").await?.data["spec"]["http"].clone();
    http[0]["timeout"] = json!("99s");
    scene
        .edit(VS, "web", json!({"spec": {"http": http}}))
        .await?;
    record["connectionPool"] = json!({"tcp": {"maxConnections": 9}});
    let fields = record.as_object_mut().context("a record is an object")?;
    fields.remove("circuitBreaker");
    scene.put(&record).await?;
    let answer = run().await?.json(1)?;
    let policy = "DestinationRule /spec/trafficPolicy";
    let expected = [
        format!("{policy}/connectionPool/tcp/maxConnections - 9 Catalog -"),
        format!("{policy}/loadBalancer/localityLbSetting/enabled false - - -"),
        format!("{policy}/outlierDetection/baseEjectionTime 30s - - -"),
        format!("{policy}/outlierDetection/consecutive5xxErrors 5 - - -"),
        format!("{policy}/outlierDetection/interval 30s - - -"),
        format!("{policy}/outlierDetection/maxEjectionPercent 50 - - -"),
        "VirtualService /spec/http/0/timeout 99s 7s Catalog kubectl-edit".to_owned(),
    ];
    ensure!(changes(&answer) == expected.into(), "{answer:#}");
    let before = scene.rule(DR, "web").await?.metadata.generation;
    sync(&scene, async || {
        let pool = |now: &DynamicObject| now.metadata.generation != before;
        scene.until(DR, "web", "the new policy", pool).await?;
        let ours = |now: &DynamicObject| now.data["spec"]["http"][0]["timeout"] == "7s";
        scene.until(VS, "web", "our timeout", ours).await?;
        scene.synced("web").await?;
        Ok(())
    })
    .await?;
    for kind in [DR, VS] {
        came_true(&answer, kind, &scene.rule(kind, "web").await?)?;
    }
    let rule = scene.rule(DR, "web").await?;
    let theirs = &rule.data["spec"]["trafficPolicy"]["tls"]["mode"];
    ensure!(theirs == "DISABLE", "{rule:?}");
    let answer = run().await?.json(0)?;
    ensure!(verdict(&answer)? == ("nothing", ""), "{answer:#}");

    // A service that the catalog no longer has.
    scene.stack.catalog.delete(&scene.id("web")).await?;
    let answer = run().await?.json(1)?;
    ensure!(verdict(&answer)? == ("remove", "Removed"), "{answer:#}");
    let never = diff(&scene, &kubeconfig, &["--policy=upsert-only"]).await?;
    let never = never.json(1)?;
    ensure!(verdict(&never)? == ("blocked", "Removed"), "{never:#}");

    // One that nobody has bound.
    scene.service("api").await?;
    scene.put(&scene.record("api")).await?;
    let off = diff(
        &scene,
        &kubeconfig,
        &["--register=off", "--policy=upsert-only"],
    )
    .await?;
    ensure!(off.json(1)? == never, "{}", off.stdout);
    let made = diff(&scene, &kubeconfig, &["api"]).await?.json(1)?;
    ensure!(verdict(&made)? == ("create", ""), "{made:#}");
    sync(&scene, async || {
        scene.says("web", "Ready", "False Removed").await?;
        scene.nothing_of("web").await?;
        scene.synced("api").await?;
        Ok(())
    })
    .await?;
    let api = scene.bindings().get("api").await?;
    let uid = api.metadata.uid.clone().context("it has no uid")?;
    let to_be = format!("(to be given to ServiceBinding {}/api)", scene.namespace);
    let made: Value = serde_json::from_str(&made.to_string().replace(&to_be, &uid))?;
    let api: DynamicObject = serde_json::from_value(serde_json::to_value(api)?)?;
    came_true(&made, "ServiceBinding", &api)?;
    for kind in [DR, VS] {
        came_true(&made, kind, &scene.rule(kind, "api").await?)?;
    }
    let answer = diff(&scene, &kubeconfig, &["api"]).await?.json(0)?;
    ensure!(verdict(&answer)? == ("nothing", ""), "{answer:#}");

    // A second one goes within ten minutes: the Lease tells of the first.
    scene.stack.catalog.delete(&scene.id("api")).await?;
    let answer = diff(&scene, &kubeconfig, &["api"]).await?.json(1)?;
    ensure!(
        verdict(&answer)? == ("blocked", "DeletionHeld"),
        "{answer:#}"
    );
    let all = diff(&scene, &kubeconfig, &["api", "--max-delete-percent=100"]).await?;
    let all = all.json(1)?;
    ensure!(verdict(&all)? == ("remove", "Removed"), "{all:#}");
    sync(&scene, async || {
        let held = scene.says("api", "Ready", "False DeletionHeld").await?;
        let said = message(&held, "Ready");
        ensure!(answer["bindings"][0]["message"] == said.as_str(), "{said}");
        Ok(())
    })
    .await?;
    scene.rule(VS, "api").await?;
    scene.put(&scene.record("api")).await?;
    scene.put(&record).await
}

async fn it_only_reads_with_the_rights_that_are_documented(rig: &Rig) -> Result<()> {
    let scene = without_an_operator(rig, "diff-reads").await?;
    let (kubeconfig, user) = viewer(&scene).await?;
    let mark = rig.audit_mark().await?;

    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    let foreign = json!({"hosts": [scene.host("web")], "http": [{"route": [{"destination": {"host": "x"}}]}]});
    scene.foreign(VS, "web", foreign).await?;
    scene.create(&scene.binding("web")).await?;
    let answer = diff(&scene, &kubeconfig, &[]).await?.json(1)?;
    ensure!(verdict(&answer)? == ("blocked", "NotOurs"), "{answer:#}");
    // Handed over it is one that would be read and taken.
    let adopt = json!({"metadata": {"annotations": {crate::scene::ADOPT: "true"}}});
    scene.edit(VS, "web", adopt).await?;
    let answer = diff(&scene, &kubeconfig, &[]).await?.json(1)?;
    ensure!(verdict(&answer)? == ("update", ""), "{answer:#}");

    let entries = rig.api.audit.since(mark, &rig.client).await?;
    let by_viewer = entries.iter().filter(|entry| entry.user.username == user);
    let (mut verbs, mut read) = (BTreeSet::new(), false);
    for entry in by_viewer {
        ensure!(entry.response_status.code < 400, "{entry:?}");
        verbs.insert(entry.verb.as_str());
        let object = entry.object_ref.as_ref();
        read |= object.is_some_and(|object| object.name == "web");
    }
    ensure!(verbs == ["get", "list"].into(), "{verbs:?}");
    ensure!(read, "it has read no single object");

    let refused = rig
        .api
        .service_account_kubeconfig(&scene.namespace, "nobody")
        .await?;
    let ran = diff(&scene, &refused, &[]).await?;
    ensure!(
        ran.code == Some(2) && ran.stdout.is_empty(),
        "{}",
        ran.stdout
    );
    ensure!(ran.stderr.contains("docs/flags.md"), "{}", ran.stderr);

    scene.stack.catalog.process.kill().await?;
    let ran = diff(&scene, &kubeconfig, &[]).await?;
    ensure!(
        ran.code == Some(2) && ran.stdout.is_empty(),
        "{}",
        ran.stdout
    );
    ensure!(ran.stderr.contains("--catalog-url"), "{}", ran.stderr);
    scene.stack.catalog.process.start().await?;
    scene.stack.catalog.ready().await
}
