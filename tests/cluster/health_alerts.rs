//! Is an Alertmanager told of an endpoint that is unhealthy, and that it is
//! healthy again, by the running operator?

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::scene::{PROGRAM, Scene};
use crate::stopping::IN_TIME;
use crate::support::alertmanager::Alertmanager;
use crate::support::backend::Behaviour;
use crate::support::rig::Rig;
use crate::support::shell;
use crate::support::stack::{DEBUG, OPERATOR, PATIENCE, Stack};
use crate::support::wait;
use crate::support::workload::ZONES;

crate::tests![
    ; alone:
    an_alertmanager_is_told_of_an_unhealthy_endpoint_and_of_its_return
];

/// Where the page on alerts has its Alertmanager.
const DOCUMENTED: &str = "http://alertmanager.monitoring:9093";

async fn an_alertmanager_is_told_of_an_unhealthy_endpoint_and_of_its_return(
    rig: &Rig,
) -> Result<()> {
    let folder = rig.folder().join("alerting");
    std::fs::create_dir_all(&folder)?;
    let address: SocketAddr = "127.0.0.1:9193".parse()?;
    // Nobody has to be told by it.
    let alertmanager =
        Alertmanager::start(&folder, address, "/am", "http://127.0.0.1:9194/").await?;
    let url = alertmanager.url();
    let documented = shell::blocks("docs/alerts.md", "# Alerts")?;
    let flags = shell::arguments(&documented[0], "catalog-mesh-controller")?;
    let flags = flags.iter().map(|flag| flag.replace(DOCUMENTED, &url));
    let flags: Vec<_> = flags.collect();
    ensure!(flags.iter().any(|flag| flag.contains(&url)), "{flags:?}");
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let stack = Stack::start_with(rig, Path::new(PROGRAM), &flags).await?;
    let scene = Scene::beside(rig, Arc::new(stack), "alerts").await?;
    let zones = [ZONES[0], ZONES[1], ZONES[0]];
    let web = rig.workload(&scene.namespace, "web", &zones).await?;
    let mut record = scene.record("web");
    record["healthCheck"] = json!({"endpoint": "/health", "interval": "500ms", "timeout": "300ms"});
    scene.put(&record).await?;
    scene.create(&scene.binding("web")).await?;
    scene.says("web", "Healthy", "True Healthy").await?;
    ensure!(alertmanager.active().await?.is_empty(), "something fires");

    let bad = &web.pods[2];
    bad.backend.behave(Behaviour::Status(500));
    let alert = wait::until("the alert", PATIENCE, async || {
        let alerts = alertmanager.active().await?;
        ensure!(alerts.len() == 1, "these fire: {alerts:?}");
        let alert = alerts.into_iter().next().context("none")?;
        let text = alert["annotations"]["description"].as_str();
        let text = text.context("it has no description")?;
        ensure!(text.contains("taken out"), "it says {text}");
        Ok(alert)
    })
    .await?;
    let label = |name: &str| alert["labels"][name].clone();
    let endpoint = format!("{}:8080", bad.address());
    for (name, expected) in [
        ("alertname", "CatalogMeshEndpointUnhealthy"),
        ("namespace", scene.namespace.as_str()),
        ("service", "web"),
        ("pod", bad.name.as_str()),
        ("endpoint", endpoint.as_str()),
        ("binding", &format!("{}/web", scene.namespace)),
    ] {
        ensure!(label(name) == expected, "{name} is {}", label(name));
    }
    let cluster = label("cluster");
    ensure!(cluster.is_string(), "it names no cluster: {alert}");

    shown_to_people(&scene.namespace, &endpoint).await?;

    // The service as a whole is another alert; nobody is left to be taken out.
    web.pods[1].backend.behave(Behaviour::Hang);
    until_fire(&alertmanager, 3, "CatalogMeshServiceUnhealthy").await?;

    for pod in &web.pods {
        pod.backend.recover();
    }
    wait::until("the end of the alerts", PATIENCE, async || {
        let alerts = alertmanager.active().await?;
        ensure!(alerts.is_empty(), "these fire: {alerts:?}");
        Ok(())
    })
    .await?;

    // It takes connections, and never says a word.
    alertmanager.process.signal(Signal::SIGSTOP).await?;
    bad.backend.behave(Behaviour::Status(500));
    let operator = &scene.stack.operator;
    let metrics = format!("http://{OPERATOR}/metrics");
    wait::until("an alert that is not taken", PATIENCE, async || {
        let samples = operator.metrics(&metrics).await?;
        let firing = samples.sum("catalog_mesh_alerts_firing", &[]);
        ensure!(firing == Some(1.0), "{firing:?} fire");
        Ok(())
    })
    .await?;
    let told = Instant::now();
    let clean = operator.process.terminate(IN_TIME).await?;
    eprintln!(
        "SIGTERM while the Alertmanager hangs: {:.1} s",
        told.elapsed().as_secs_f64()
    );
    ensure!(clean, "it ended with a failure");
    Ok(())
}

/// The page for people shows what is held of each endpoint.
async fn shown_to_people(namespace: &str, bad: &str) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let page = format!("http://{DEBUG}/debug/health");
    let all: Value = client.get(&page).send().await?.json().await?;
    let name = format!("{namespace}/web");
    let services = all["services"].as_array().context("no services")?;
    let service = services.iter().find(|service| service["service"] == name);
    let service = service.with_context(|| format!("{name} is not in {all}"))?;
    ensure!(service["unhealthy"] == 1, "{service}");
    let one = client.get(format!("{page}?service={name}")).send().await?;
    let one: Value = one.json().await?;
    let endpoints = one["endpoints"].as_array().context("no endpoints")?;
    let endpoint = endpoints.iter().find(|endpoint| endpoint["address"] == bad);
    let endpoint = endpoint.with_context(|| format!("{bad} is not in {one}"))?;
    ensure!(
        endpoint["verdict"] == "unhealthy: the answer is a 5xx",
        "{endpoint}"
    );
    let history = endpoint["history"].as_array().context("no history")?;
    ensure!(history.len() == 2, "{endpoint}");
    let none = client.get(format!("{page}?service=no/such")).send().await?;
    ensure!(none.status() == 404, "{}", none.status());
    Ok(())
}

/// Waits until so many fire, one of that name among them.
async fn until_fire(alertmanager: &Alertmanager, count: usize, name: &str) -> Result<()> {
    wait::until(name, PATIENCE, async || {
        let alerts: Vec<Value> = alertmanager.active().await?;
        let named = alerts.iter().any(|a| a["labels"]["alertname"] == name);
        ensure!(alerts.len() == count && named, "these fire: {alerts:?}");
        Ok(())
    })
    .await
}
