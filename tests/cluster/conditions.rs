//! Is every row of the table of conditions reached, and can users and their
//! tools rely on what it says?

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::{ServiceBinding, SyncStatus};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::scene::{PROGRAM, Scene, VS, message, version};
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, PATIENCE, condition};
use crate::support::wait;

crate::tests![
    a_binding_is_synced,
    a_record_of_another_service_is_named,
    a_value_that_is_wrong_together_with_the_record_is_the_bindings_fault,
    a_service_that_leaves_the_catalog_is_removed_and_comes_back,
    ready_never_speaks_of_what_the_mesh_does_not_hold_yet,
    kubectl_waits_and_shows_columns,
    events_tell_of_transitions_only
    ; alone:
    a_catalog_that_is_away_is_said_by_old_and_new_bindings(20),
    a_record_out_of_bounds_leaves_the_last_good_policy,
    what_the_catalog_answers_is_told_apart,
    without_istios_kinds_bindings_say_so(15)
];

/// What all conditions and the summary say.
fn row(binding: &ServiceBinding) -> Vec<String> {
    let types = [
        "CatalogSynced",
        "MeshProgrammed",
        "Ready",
        "Conflict",
        "Suspended",
    ];
    let mut row: Vec<_> = types
        .iter()
        .map(|type_| condition(binding, type_).unwrap_or_default())
        .collect();
    let sync = binding.status.as_ref().and_then(|s| s.sync_status);
    row.push(format!("{sync:?}"));
    row
}

/// Waits for the whole row.
async fn expect(scene: &Scene<'_>, name: &str, expected: [&str; 6]) -> Result<ServiceBinding> {
    wait::until(&format!("{name}: {expected:?}"), PATIENCE, async || {
        let binding = scene.bindings().get(name).await?;
        let said = row(&binding);
        ensure!(said == expected, "{said:?}");
        Ok(binding)
    })
    .await
}

const NONE: &str = "False NoConflict";
const ACTIVE: &str = "False Active";
const SYNCED: [&str; 6] = [
    "True Synced",
    "True Programmed",
    "True Synced",
    NONE,
    ACTIVE,
    "Some(Synced)",
];

async fn a_binding_is_synced(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "synced").await?;
    scene.bound("web").await?;
    let binding = expect(&scene, "web", SYNCED).await?;
    let status = binding.status.clone().context("status")?;
    ensure!(status.sync_status == Some(SyncStatus::Synced), "{status:?}");
    ensure!(status.observed_generation == Some(1), "{status:?}");
    ensure!(status.last_sync.is_some(), "{status:?}");
    ensure!(
        status
            .conditions
            .iter()
            .all(|c| c.observed_generation == Some(1)),
        "{status:?}"
    );
    ensure!(
        condition(&binding, "Healthy").as_deref() == Some("Unknown NotConfigured"),
        "{status:?}"
    );
    let mut record = scene.record("web");
    record["healthCheck"] = json!({"endpoint": "/health"});
    scene.put(&record).await?;
    // Nobody serves behind it.
    scene.says("web", "Healthy", "False NoEndpoints").await?;
    expect(&scene, "web", SYNCED).await?;
    Ok(())
}

async fn a_record_of_another_service_is_named(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "mismatch").await?;
    scene.service("web").await?;
    let mut record = scene.record("web");
    record["name"] = json!("another");
    scene.put(&record).await?;
    scene.create(&scene.binding("web")).await?;
    let mut row = SYNCED;
    row[0] = "True RecordMismatch";
    let binding = expect(&scene, "web", row).await?;
    let said = message(&binding, "CatalogSynced");
    ensure!(
        said.contains("another") && said.contains(&scene.namespace),
        "{said}"
    );
    Ok(())
}

async fn a_value_that_is_wrong_together_with_the_record_is_the_bindings_fault(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::shared(rig, "together").await?;
    scene.service("web").await?;
    let mut record = scene.record("web");
    record["healthCheck"] = json!({"interval": "1s"});
    scene.put(&record).await?;
    let mut binding = scene.binding("web");
    binding["spec"]["healthCheck"] = json!({"timeout": "5s"});
    scene.create(&binding).await?;
    let reason = "False InvalidBinding";
    let row = ["True Synced", reason, reason, NONE, ACTIVE, "Some(Error)"];
    let binding = expect(&scene, "web", row).await?;
    let said = message(&binding, "Ready");
    ensure!(said.contains("healthCheck.timeout"), "{said}");
    scene.nothing_of("web").await?;
    scene
        .change(
            "web",
            json!({"spec": {"healthCheck": {"timeout": "500ms"}}}),
        )
        .await?;
    expect(&scene, "web", SYNCED).await?;
    Ok(())
}

async fn a_service_that_leaves_the_catalog_is_removed_and_comes_back(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "leaves").await?;
    scene.bound("web").await?;
    scene.stack.catalog.delete(&scene.id("web")).await?;
    scene.says("web", "CatalogSynced", "False Removed").await?;
    let binding = scene.says("web", "Ready", "False Removed").await?;
    let sync = binding.status.and_then(|s| s.sync_status);
    ensure!(sync == Some(SyncStatus::Error), "{sync:?}");
    scene.put(&scene.record("web")).await?;
    expect(&scene, "web", SYNCED).await?;
    wait::until("all Events", PATIENCE, async || {
        let events = scene.events("web").await?;
        // The first denial is not worth a word.
        let expected = ["Normal Synced", "Warning Removed", "Normal Synced"];
        ensure!(events == expected, "{events:?}");
        Ok(())
    })
    .await
}

async fn ready_never_speaks_of_what_the_mesh_does_not_hold_yet(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "kstatus").await?;
    scene.service("web").await?;
    scene
        .put(&stack::record(&scene.id("web"), &scene.namespace, "web"))
        .await?;
    let with =
        |seconds: u64| json!({"spec": {"trafficPolicy": {"timeout": format!("{seconds}s")}}});
    let mut binding = scene.binding("web");
    binding["spec"]["trafficPolicy"] = json!({"timeout": "1s"});
    scene.create(&binding).await?;
    let changes = async {
        for seconds in 2..15 {
            scene.change("web", with(seconds)).await?;
            tokio::time::sleep(Duration::from_millis(37 * seconds)).await;
        }
        scene.synced("web").await?;
        anyhow::Ok(())
    };
    let looks = async {
        let mut told = 0;
        loop {
            let binding = scene.bindings().get("web").await?;
            let observed = binding.status.as_ref().and_then(|s| s.observed_generation);
            let ready = condition(&binding, "Ready").is_some_and(|c| c.starts_with("True"));
            if !ready || observed != binding.metadata.generation {
                continue;
            }
            told += 1;
            let seconds = |text: &str| text.trim_end_matches('s').parse::<u64>();
            let said = binding.spec.traffic_policy.and_then(|p| p.timeout);
            let vs = scene.rule(VS, "web").await?;
            let held = vs.data["spec"]["http"][0]["timeout"]
                .as_str()
                .unwrap_or("0");
            // It may be newer by now, but never older.
            let said = said.context("a timeout")?;
            if seconds(held)? < seconds(&said)? {
                anyhow::bail!("Ready for {said}, but the mesh holds {held} ({told} looks)");
            }
        }
    };
    tokio::select! {
        changed = changes => changed,
        lied = looks => lied,
    }
}

async fn kubectl_waits_and_shows_columns(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "columns").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    scene.create(&scene.binding("web")).await?;
    let namespace = scene.namespace.as_str();
    rig.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "csb/web",
        "-n",
        namespace,
        "--timeout=60s",
    ])
    .await?;
    let table = rig
        .kubectl(&["get", "csb", "-n", namespace, "-o", "wide"])
        .await?;
    let lines: Vec<Vec<_>> = table
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .collect()
        })
        .collect();
    let columns = [
        "NAME",
        "READY",
        "SERVICE",
        "SYNC",
        "HEALTH",
        "ENDPOINTS",
        "AGE",
        "CATALOG ID",
        "REASON",
        "LAST SYNC",
    ];
    ensure!(lines[0] == columns, "{table}");
    let id = scene.id("web");
    for cell in ["web", "True", "Synced", id.as_str()] {
        ensure!(lines[1].contains(&cell), "no {cell} in {table}");
    }
    Ok(())
}

async fn events_tell_of_transitions_only(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "told").await?;
    scene.service("web").await?;
    scene.put(&scene.record("web")).await?;
    scene.create(&scene.binding("web")).await?;
    scene.synced("web").await?;
    let mut record = scene.record("web");
    // A change that is no transition.
    record["timeout"] = json!("9s");
    scene.put(&record).await?;
    scene
        .until(VS, "web", "the new timeout", |vs| {
            vs.data["spec"]["http"][0]["timeout"] == "9s"
        })
        .await?;
    scene
        .change("web", json!({"spec": {"suspend": true}}))
        .await?;
    scene
        .says("web", "Suspended", "True SuspendedByBinding")
        .await?;
    scene
        .change("web", json!({"spec": {"suspend": false}}))
        .await?;
    scene.synced("web").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let events = scene.events("web").await?;
    let expected = [
        "Normal Synced",
        "Normal SuspendedByBinding",
        "Normal Active",
    ];
    ensure!(events == expected, "{events:?}");
    Ok(())
}

async fn a_catalog_that_is_away_is_said_by_old_and_new_bindings(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "catalog-away").await?;
    let away = "False CatalogUnavailable";
    scene.bound("old").await?;
    scene.service("new").await?;
    scene.put(&scene.record("new")).await?;
    let before = version(&scene.rule(VS, "old").await?)?;
    scene.stack.catalog.process.kill().await?;
    scene.create(&scene.binding("new")).await?;

    let row = [away, away, away, NONE, ACTIVE, "Some(Error)"];
    let new = expect(&scene, "new", row).await?;
    ensure!(!message(&new, "Ready").is_empty(), "it does not say why");
    scene.nothing_of("new").await?;
    let row = [
        away,
        "True Programmed",
        "True Synced",
        NONE,
        ACTIVE,
        "Some(Error)",
    ];
    expect(&scene, "old", row).await?;
    // A new generation is not in force.
    scene
        .change("old", json!({"spec": {"trafficPolicy": {"retries": 2}}}))
        .await?;
    let row = [away, "True Programmed", away, NONE, ACTIVE, "Some(Error)"];
    let old = expect(&scene, "old", row).await?;
    let status = old.status.context("status")?;
    ensure!(status.observed_generation == Some(2), "{status:?}");
    let programmed = status
        .conditions
        .iter()
        .find(|c| c.type_ == "MeshProgrammed");
    ensure!(
        programmed.is_some_and(|c| c.observed_generation == Some(1)),
        "{status:?}"
    );
    // It does not go on writing while nothing changes.
    let mark = scene.mark().await?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let writes = scene.writes_and_events(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    ensure!(version(&scene.rule(VS, "old").await?)? == before, "touched");

    scene.stack.catalog.process.start().await?;
    expect(&scene, "old", SYNCED).await?;
    expect(&scene, "new", SYNCED).await?;
    Ok(())
}

async fn a_record_out_of_bounds_leaves_the_last_good_policy(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "bounds").await?;
    scene.bound("web").await?;
    let before = version(&scene.rule(VS, "web").await?)?;
    scene.stack.operator.process.kill().await?;
    let url = &scene.stack.catalog.url;
    let bounds = ["--bounds", "timeout=1ms..4s"];
    let narrow = stack::operator(rig, "narrow", Path::new(PROGRAM), url, &bounds).await?;
    let reason = "False InvalidRecord";
    let row = [
        reason,
        "True Programmed",
        reason,
        NONE,
        ACTIVE,
        "Some(Error)",
    ];
    let binding = expect(&scene, "web", row).await?;
    let said = message(&binding, "Ready");
    ensure!(said.contains("timeout") && said.contains("4s"), "{said}");
    ensure!(version(&scene.rule(VS, "web").await?)? == before, "touched");
    narrow.process.kill().await
}

/// A catalog that gives every request the same answer, until the second part
/// is dropped.
async fn canned() -> Result<(Arc<Mutex<String>>, JoinSet<()>)> {
    let answer = Arc::new(Mutex::new(String::new()));
    let served = Arc::clone(&answer);
    let listener = TcpListener::bind(CATALOG).await?;
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = connection.read(&mut request).await;
                let answer = served.lock().map(|a| a.clone()).unwrap_or_default();
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok((answer, serving))
}

fn http(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\ncontent-type: application/json\r\n\
         connection: close\r\n{headers}\r\n{body}"
    )
}

async fn what_the_catalog_answers_is_told_apart(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "answers").await?;
    scene.service("web").await?;
    scene.stack.catalog.process.kill().await?;
    let (answer, _serving) = canned().await?;
    let set = |text: String| {
        if let Ok(mut answer) = answer.lock() {
            *answer = text;
        }
    };
    set(http("401 Unauthorized", "", "{}"));
    scene.create(&scene.binding("web")).await?;
    let id = scene.id("web");
    let namespace = &scene.namespace;
    let cases = [
        (
            http("401 Unauthorized", "", "{}"),
            "False CatalogUnauthorized",
            "401",
        ),
        (
            http("429 Too Many Requests", "retry-after: 1\r\n", "{}"),
            "False CatalogRateLimited",
            "left alone",
        ),
        (
            http("500 Internal Server Error", "", "{}"),
            "False CatalogUnavailable",
            "500",
        ),
        (
            http(
                "200 OK",
                "",
                &json!({"id": id, "name": "web", "namespace": namespace, "revision": 1, "timeout": "soon"})
                    .to_string(),
            ),
            "False InvalidRecord",
            "timeout",
        ),
        (
            http(
                "200 OK",
                "",
                &json!({"id": id, "name": "../../\u{1b}[31mweb", "namespace": "n\n", "revision": 1})
                    .to_string(),
            ),
            "True RecordMismatch",
            "../../\\u{1b}[31mweb",
        ),
    ];
    for (text, expected, naming) in cases {
        set(text);
        // During an outage a few bindings ask for all; an edit makes this one
        // say what they found.
        let binding = wait::until(expected, PATIENCE, async || {
            let binding = scene.bindings().get("web").await?;
            let said = condition(&binding, "CatalogSynced");
            if said.as_deref() != Some(expected) {
                let retries = binding.metadata.generation.unwrap_or(0) % 9;
                let edit = json!({"spec": {"trafficPolicy": {"retries": retries}}});
                scene.change("web", edit).await?;
                tokio::time::sleep(Duration::from_millis(500)).await;
                anyhow::bail!("it is {said:?}");
            }
            Ok(binding)
        })
        .await?;
        let said = message(&binding, "CatalogSynced");
        ensure!(said.contains(naming), "{expected}: {said}");
        ensure!(!said.chars().any(char::is_control), "{said:?}");
    }
    Ok(())
}

async fn without_istios_kinds_bindings_say_so(rig: &Rig) -> Result<()> {
    let scene = Scene::alone(rig, "istioless").await?;
    scene.bound("old").await?;
    scene.stack.operator.process.kill().await?;
    // The kinds cannot be taken away from under the other tests; the right to
    // list them can, and looks the same.
    let role = "clusterrole/catalog-mesh-controller";
    let granted: Value = serde_json::from_str(&rig.kubectl(&["get", role, "-o", "json"]).await?)?;
    let rules = granted["rules"].as_array().context("no rules")?;
    let of_rules = |rule: &Value| rule["resources"][0] == "virtualservices";
    let at = rules.iter().position(of_rules).context("no such rule")?;
    let take = |verbs: &str| {
        format!(r#"[{{"op": "replace", "path": "/rules/{at}/verbs", "value": {verbs}}}]"#)
    };
    rig.kubectl(&["patch", role, "--type=json", "-p", &take(r#"["get"]"#)])
        .await?;
    scene.service("new").await?;
    scene.put(&scene.record("new")).await?;
    scene.create(&scene.binding("new")).await?;
    let ended = async {
        scene.stack.operator.start_again().await?;
        let missing = "False MeshApiMissing";
        for name in ["old", "new"] {
            let row = ["True Synced", missing, missing, NONE, ACTIVE, "Some(Error)"];
            expect(&scene, name, row).await?;
        }
        let mark = scene.mark().await?;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let writes = scene.writes_and_events(mark).await?;
        ensure!(writes.is_empty(), "{writes:?}");
        Ok(())
    }
    .await;
    let all = r#"["get", "list", "watch", "create", "patch", "delete"]"#;
    rig.kubectl(&["patch", role, "--type=json", "-p", &take(all)])
        .await?;
    ended?;
    for name in ["old", "new"] {
        expect(&scene, name, SYNCED).await?;
    }
    Ok(())
}
