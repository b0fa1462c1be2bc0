//! Does the operator's log have a line for each of its writes in the API
//! server's audit log, and for no other; and a line for each event that was
//! synchronised?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::checked::{Checked, quicker};
use crate::rights;
use crate::scene::{PROGRAM, Scene, VS};
use crate::support::audit::Entry;
use crate::support::endpoint::Trouble;
use crate::support::operator::{LEASE, NAMESPACE, USER};
use crate::support::rig::Rig;
use crate::support::stack::{PATIENCE, Stack};

crate::tests![
    ; alone:
    every_write_of_the_audit_log_has_its_line_and_every_line_its_write(25)
];

/// Kinds as the log names them, and resources as the API server does.
const RESOURCES: [(&str, &str); 7] = [
    ("DestinationRule", "destinationrules"),
    ("Event", "events"),
    ("Lease", "leases"),
    ("Pod", "pods"),
    ("ServiceBinding", "servicebindings"),
    ("ServiceBinding/status", "servicebindings/status"),
    ("VirtualService", "virtualservices"),
];

/// How often each write was made, in words.
type Writes = BTreeMap<String, usize>;

async fn every_write_of_the_audit_log_has_its_line_and_every_line_its_write(
    rig: &Rig,
) -> Result<()> {
    let log = rig.folder().join("operator.log");
    // Others have written to it before.
    let before = std::fs::metadata(&log).map_or(0, |known| known.len());
    // The first operator of a cluster makes the Lease.
    let there = [
        "delete",
        "lease",
        LEASE,
        "-n",
        NAMESPACE,
        "--ignore-not-found",
    ];
    rig.kubectl(&there).await?;
    let mark = rig.audit_mark().await?;
    let flags = ["--register=on", "--log=info,catalog_mesh_controller=debug"];
    let stack = Stack::start_with(rig, Path::new(PROGRAM), &flags).await?;
    let scene = Scene::beside(rig, Arc::new(stack), "audited").await?;

    rights::walk(&scene).await?;
    conflict(&scene).await?;
    eject(&scene).await?;
    // What is on its way is cut off by the end, and need not have reached the server.
    scene.mark().await?;
    let ended = scene.stack.operator.process.terminate(PATIENCE).await?;
    ensure!(ended, "it did not end well");

    let entries = rig.api.audit.writes_by(USER, mark, &rig.client).await?;
    let by_server: Writes = counted(entries.iter().map(of_server));
    let text = std::fs::read_to_string(&log)?;
    let from = usize::try_from(before)?;
    let lines: Vec<Value> = text[from..]
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let lines: Vec<&Value> = lines.iter().filter(|line| line["audit"] == true).collect();
    let writes: Vec<&Value> = lines
        .iter()
        .copied()
        .filter(|line| line["verb"].is_string())
        .collect();
    let by_log = counted(
        writes
            .iter()
            .map(|line| of_log(line))
            .collect::<Result<Vec<_>>>()?,
    );
    let but = |these: &Writes, those: &Writes| -> Writes {
        let other = these
            .iter()
            .filter(|(write, count)| those.get(*write) != Some(*count));
        other
            .map(|(write, count)| (write.clone(), *count))
            .collect()
    };
    ensure!(
        by_server == by_log,
        "by the server and not by the log: {:#?}; by the log and not by the server: {:#?}",
        but(&by_server, &by_log),
        but(&by_log, &by_server)
    );

    // It was a good look around.
    let seen: BTreeSet<&str> = by_log
        .keys()
        .filter_map(|write| write.split(' ').nth(1))
        .collect();
    ensure!(
        seen == RESOURCES.map(|(_, resource)| resource).into(),
        "{seen:?}"
    );
    ensure!(
        by_log.keys().any(|write| write.ends_with("failure")),
        "nothing was refused"
    );
    for line in &writes {
        said(line)?;
    }
    events(&lines)
}

/// Somebody else applies a field of ours: the API server refuses ours.
async fn conflict(scene: &Scene<'_>) -> Result<()> {
    // The binding first: none is made for the record then.
    scene.service("fought").await?;
    scene.create(&scene.binding("fought")).await?;
    scene.put(&scene.record("fought")).await?;
    scene.synced("fought").await?;
    let rule = scene.rule(VS, "fought").await?;
    let mut spec = rule.data["spec"].clone();
    spec["http"][0]["timeout"] = json!("99s");
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": VS,
        "metadata": {"name": "fought"}, "spec": spec,
    });
    let params = PatchParams::apply("somebody").force();
    scene
        .rules(VS)
        .patch("fought", &params, &Patch::Apply(object))
        .await?;
    scene.conflict("fought", "FieldFight", &["somebody"]).await
}

/// A Pod leaves the mesh and comes back.
async fn eject(scene: &Scene<'_>) -> Result<()> {
    let checked = Checked::unbound(scene, "checked", 2).await?;
    scene.create(&scene.binding("checked")).await?;
    checked.put(json!({"healthCheck": quicker()})).await?;
    checked.is_healthy().await?;
    checked.endpoints[1].fail(Trouble::Status(500)).await?;
    checked.counts(2, 1, 1).await?;
    checked.endpoints[1].recover().await?;
    checked.counts(2, 2, 0).await
}

fn counted(writes: impl IntoIterator<Item = String>) -> Writes {
    let mut counts = Writes::new();
    for write in writes {
        *counts.entry(write).or_default() += 1;
    }
    counts
}

fn of_server(entry: &Entry) -> String {
    let object = entry.object_ref.clone().unwrap_or_default();
    let resource = match object.subresource.as_str() {
        "" => object.resource,
        sub => format!("{}/{sub}", object.resource),
    };
    let outcome = if entry.response_status.code < 300 {
        "success"
    } else {
        "failure"
    };
    words(
        &entry.verb,
        &resource,
        &object.namespace,
        &object.name,
        outcome,
    )
}

fn of_log(line: &Value) -> Result<String> {
    let text = |key: &str| {
        line[key]
            .as_str()
            .with_context(|| format!("no {key} in {line}"))
    };
    let kind = text("kind")?;
    let resource = RESOURCES.iter().find(|(known, _)| *known == kind);
    let resource = resource
        .with_context(|| format!("an unknown kind: {line}"))?
        .1;
    Ok(words(
        text("verb")?,
        resource,
        text("namespace")?,
        text("name")?,
        text("outcome")?,
    ))
}

fn words(verb: &str, resource: &str, namespace: &str, name: &str, outcome: &str) -> String {
    // The server gives an Event its name, and does not log it.
    let name = if resource == "events" { "" } else { name };
    format!("{verb} {resource} {namespace}/{name} {outcome}")
}

/// A line says why it was written, and of a refusal what the server said.
fn said(line: &Value) -> Result<()> {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    ensure!(!text("reason").is_empty(), "no reason in {line}");
    let failed = text("outcome") != "success";
    ensure!(failed != text("error").is_empty(), "{line}");
    // Only what is written every few seconds and says nothing new is left out
    // where nobody asks for it.
    let is_renewal = text("kind") == "Lease" && text("reason") == "renewed";
    ensure!((text("level") == "debug") == is_renewal, "{line}");
    Ok(())
}

/// Every kind of event was told, with the keys of the first design.
fn events(lines: &[&Value]) -> Result<()> {
    let of = |name: &'static str| lines.iter().filter(move |line| line["event"] == name);
    for name in ["LeadershipAcquired", "LeadershipReleased"] {
        ensure!(of(name).count() == 1, "{} times {name}", of(name).count());
    }
    for name in [
        "ServiceRegistered",
        "Synced",
        "SyncFailed",
        "ServiceDeregistered",
    ] {
        ensure!(of(name).count() > 0, "no {name}");
        for line in of(name) {
            for key in [
                "level",
                "msg",
                "catalogServiceId",
                "serviceName",
                "namespace",
            ] {
                ensure!(line[key].is_string(), "no {key} in {line}");
            }
        }
    }
    for line in of("Synced") {
        ensure!(
            line["msg"] == "Synced service" && line["level"] == "info",
            "{line}"
        );
        let duration = line["syncDuration"]
            .as_str()
            .and_then(|text| text.strip_suffix("ms"));
        ensure!(
            duration.is_some_and(|ms| ms.parse::<u32>().is_ok()),
            "{line}"
        );
    }
    let checked = of("Synced").filter(|line| line["serviceName"] == "checked");
    let told: BTreeSet<_> = checked
        .filter_map(|line| line["healthStatus"].as_str())
        .collect();
    ensure!(told.contains("Healthy"), "of health was told {told:?}");
    Ok(())
}
