//! Do the pages for people say of a binding what was computed for it, from which
//! source, why it is not applied, and how its last checks ended?

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::checked::{Checked, quicker};
use crate::scene::{Scene, VS};
use crate::support::endpoint::Trouble;
use crate::support::rig::Rig;
use crate::support::stack::{DEBUG, OPERATOR, PATIENCE};
use crate::support::wait;

crate::tests![
    the_page_of_a_binding_says_what_was_computed_from_which_source_and_how_checks_ended,
    the_page_of_a_binding_says_why_it_is_not_applied,
    the_pages_for_people_are_served_on_loopback_alone
];

/// A page, whatever its code.
async fn get(url: &str) -> Result<(StatusCode, String)> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let answer = http.get(url).send().await?;
    Ok((answer.status(), answer.text().await?))
}

/// The page of the binding once it is as wanted.
async fn page(scene: &Scene<'_>, name: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let url = format!("http://{DEBUG}/debug/bindings/{}/{name}", scene.namespace);
    wait::until(&format!("the page of {name}"), PATIENCE, async || {
        let (code, text) = get(&url).await?;
        ensure!(code == StatusCode::OK, "{code}: {text}");
        let page = serde_json::from_str(&text)?;
        ensure!(wanted(&page), "{page:#}");
        Ok(page)
    })
    .await
}

async fn the_page_of_a_binding_says_what_was_computed_from_which_source_and_how_checks_ended(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::shared(rig, "explained").await?;
    let web = Checked::unbound(&scene, "web", 2).await?;
    let record = json!({"timeout": "5s", "healthCheck": quicker()});
    let spec = json!({"trafficPolicy": {"timeout": "9s", "connectionPool": {"tcp": {"maxConnections": 7}}}});
    web.bind(record, spec).await?;
    web.is_healthy().await?;

    let good = page(&scene, "web", |page| page["whyNotApplied"].is_null()).await?;
    let entry = |field: &str| {
        let all = good["policy"].as_array()?.iter();
        let mut found = all.filter(|entry| entry["field"] == field);
        let entry = found.next()?;
        Some((entry["value"].clone(), entry["source"].clone()))
    };
    for (field, value, source) in [
        ("trafficPolicy.timeout", "5s", "Catalog"),
        (
            "trafficPolicy.connectionPool.tcp.maxConnections",
            "7",
            "Binding",
        ),
        (
            "trafficPolicy.circuitBreaker.baseEjectionTime",
            "30s",
            "Default",
        ),
    ] {
        let found = entry(field).with_context(|| format!("no {field} in {good:#}"))?;
        ensure!(found == (json!(value), json!(source)), "{field}: {found:?}");
    }
    let objects = good["objects"].as_array().context("no objects")?;
    ensure!(
        objects.iter().all(|object| object["state"] == "in force"),
        "{good:#}"
    );
    let kinds: Vec<_> = objects
        .iter()
        .map(|object| &object["manifest"]["kind"])
        .collect();
    ensure!(kinds == ["DestinationRule", "VirtualService"], "{kinds:?}");
    ensure!(
        objects[1]["manifest"]["spec"]["http"][0]["timeout"] == "5s",
        "{good:#}"
    );
    ensure!(good["host"] == scene.host("web"), "{good:#}");
    ensure!(good["replica"]["leads"] == true, "{good:#}");
    let says = good["catalog"]["says"].as_str().unwrap_or_default();
    ensure!(says.starts_with("a record of"), "{good:#}");
    ensure!(good["lastLook"]["found"]["reason"] == "Synced", "{good:#}");
    ensure!(good["nextLook"]["waits"].is_string(), "{good:#}");

    web.endpoints[1].fail(Trouble::Status(500)).await?;
    let bad = page(&scene, "web", |page| page["health"]["ejected"] == 1).await?;
    let endpoints = bad["health"]["checks"]["endpoints"]
        .as_array()
        .context("no checks")?;
    let results: Vec<_> = endpoints
        .iter()
        .map(|one| &one["lastCheck"]["result"])
        .collect();
    ensure!(
        results.contains(&&json!("answered as it should")),
        "{results:?}"
    );
    ensure!(
        results.contains(&&json!("the answer is a 5xx")),
        "{results:?}"
    );
    ensure!(
        endpoints
            .iter()
            .all(|one| one["lastCheck"]["at"].is_string()),
        "{bad:#}"
    );
    scene.unbind().await
}

async fn the_page_of_a_binding_says_why_it_is_not_applied(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "unexplained").await?;
    scene.service("taken").await?;
    let foreign =
        json!({"hosts": ["taken"], "http": [{"route": [{"destination": {"host": "taken"}}]}]});
    scene.foreign(VS, "taken", foreign).await?;
    scene.put(&scene.record("taken")).await?;
    scene.create(&scene.binding("taken")).await?;
    let why = |reason: &'static str| move |page: &Value| page["whyNotApplied"]["reason"] == reason;
    let page_of_taken = page(&scene, "taken", why("NotOurs")).await?;
    let message = page_of_taken["whyNotApplied"]["message"].as_str();
    ensure!(
        message.is_some_and(|text| text.contains("taken")),
        "{page_of_taken:#}"
    );
    ensure!(page_of_taken["objects"].is_null(), "{page_of_taken:#}");

    // Nobody has the record, nor the Service.
    scene.create(&scene.binding("nowhere")).await?;
    let nowhere = page(&scene, "nowhere", |page| page["lastLook"].is_object()).await?;
    ensure!(
        nowhere["catalog"]["says"] == "no such service",
        "{nowhere:#}"
    );
    ensure!(
        nowhere["whyNotApplied"]["reason"] == "NotFound",
        "{nowhere:#}"
    );

    scene
        .change("taken", json!({"spec": {"suspend": true}}))
        .await?;
    page(&scene, "taken", why("SuspendedByBinding")).await?;

    let (_, all) = get(&format!("http://{DEBUG}/debug/bindings")).await?;
    let all: Value = serde_json::from_str(&all)?;
    let named = |name: &str| {
        let name = format!("{}/{name}", scene.namespace);
        let mut bindings = all["bindings"].as_array().into_iter().flatten();
        bindings.any(|binding| binding["binding"] == name.as_str())
    };
    ensure!(named("taken") && named("nowhere"), "{all:#}");
    let url = format!("http://{DEBUG}/debug/bindings/{}/no-such", scene.namespace);
    ensure!(get(&url).await?.0 == StatusCode::NOT_FOUND);
    Ok(())
}

async fn the_pages_for_people_are_served_on_loopback_alone(rig: &Rig) -> Result<()> {
    Scene::shared(rig, "private").await?;
    for path in ["/debug/health", "/debug/bindings"] {
        ensure!(
            get(&format!("http://{DEBUG}{path}")).await?.0 == StatusCode::OK,
            "{path}"
        );
        // Not where everybody may scrape.
        let (code, _) = get(&format!("http://{OPERATOR}{path}")).await?;
        ensure!(code == StatusCode::NOT_FOUND, "{path}: {code}");
        // Nor under a name that leads to loopback by somebody else's will.
        let http = reqwest::Client::builder().no_proxy().build()?;
        let asked = http.get(format!("http://{DEBUG}{path}"));
        let answer = asked.header("Host", "evil.example:8081").send().await?;
        ensure!(
            answer.status() == StatusCode::FORBIDDEN,
            "{path}: {}",
            answer.status()
        );
    }
    // The machine's other addresses are not listened on.
    let port = DEBUG.rsplit(':').next().context("no port")?;
    let address = rig.addresses.next()?;
    let outside = tokio::net::TcpStream::connect(format!("{address}:{port}")).await;
    ensure!(outside.is_err(), "{address}:{port} is listened on");
    Ok(())
}
