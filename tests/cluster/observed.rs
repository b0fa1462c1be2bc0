//! Does a real Prometheus get from the running operator what the page of
//! metrics, the rules and the dashboard speak of?

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::checked::{Checked, quicker};
use crate::scene::Scene;
use crate::support::endpoint::Trouble;
use crate::support::prometheus::Prometheus;
use crate::support::rig::Rig;
use crate::support::stack::{OPERATOR, PATIENCE};
use crate::support::tools::repository;
use crate::support::wait;

crate::tests![
    every_query_of_the_dashboard_has_data_and_every_rule_is_evaluated,
    the_page_of_metrics_is_what_is_served
];

async fn every_query_of_the_dashboard_has_data_and_every_rule_is_evaluated(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::shared(rig, "graphed").await?;
    let web = Checked::start(&scene, "web", 3, quicker()).await?;
    // Some checks have to fail, too.
    web.endpoints[2].fail(Trouble::Status(500)).await?;
    let folder = rig.folder().join("prometheus");
    std::fs::create_dir_all(&folder)?;
    let address: SocketAddr = "127.0.0.1:9195".parse()?;
    let rules = rules()?;
    let prometheus = Prometheus::start(&folder, address, OPERATOR, &rules).await?;

    let queries = queries()?;
    ensure!(queries.len() > 50, "only {} queries", queries.len());
    wait::until("data for every query", PATIENCE, async || {
        let mut empty = Vec::new();
        for query in &queries {
            let samples = prometheus.query(query).await?;
            if !samples.iter().any(|(_, value)| value.is_finite()) {
                empty.push(query);
            }
        }
        ensure!(empty.is_empty(), "no data for {empty:#?}");
        Ok(())
    })
    .await?;

    let alerts = rules["groups"].as_array().context("no groups")?.iter();
    let alerts = alerts.filter_map(|group| group["rules"].as_array());
    let count = alerts.flatten().count();
    wait::until("an evaluation of every rule", PATIENCE, async || {
        let rules = prometheus.rules().await?;
        ensure!(rules.len() == count, "{} of {count} rules", rules.len());
        for rule in &rules {
            ensure!(rule["health"] == "ok", "{rule}");
        }
        Ok(())
    })
    .await?;
    // What is so of this very operator is seen so.
    for (query, least) in [
        ("catalog_mesh_unhealthy_endpoints", 1.0),
        ("sum(leader_election_master_status)", 1.0),
        ("catalog_mesh_servicebindings_ready{status=\"True\"}", 1.0),
    ] {
        let samples = prometheus.query(query).await?;
        let value = samples.first().with_context(|| format!("no {query}"))?.1;
        ensure!(value >= least, "{query} is {value}");
    }
    scene.unbind().await
}

/// What a family is: its type, and the names of its labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

async fn the_page_of_metrics_is_what_is_served(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "scraped").await?;
    // One that is checked: without any there is no series of checks.
    Checked::start(&scene, "web", 1, quicker()).await?;
    let page = documented()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    wait::until("what the page says", PATIENCE, async || {
        let answer = http
            .get(format!("http://{OPERATOR}/metrics"))
            .send()
            .await?;
        let kind = answer.headers().get("content-type");
        ensure!(
            kind.is_some_and(|kind| kind == "text/plain; version=0.0.4"),
            "{kind:?}"
        );
        let served = served(&answer.text().await?)?;
        for (name, family) in &served {
            ensure!(
                page.get(name) == Some(family),
                "{name} is {family:?}, on the page {:?}",
                page.get(name)
            );
        }
        let missing: Vec<_> = page
            .keys()
            .filter(|name| !served.contains_key(*name))
            .collect();
        ensure!(
            missing.is_empty(),
            "on the page and not served: {missing:?}"
        );
        Ok(())
    })
    .await?;
    scene.unbind().await
}

/// The table of docs/metrics.md.
fn documented() -> Result<Families> {
    let page = std::fs::read_to_string(repository().join("docs/metrics.md"))?;
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let family = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells.as_slice() else {
            anyhow::bail!("no row: {line}");
        };
        // Each with its values behind it.
        let labels = labels.split("; ").filter(|label| !label.is_empty());
        let labels = labels
            .filter_map(|label| label.split(':').next())
            .map(|label| label.trim_matches('`').to_owned())
            .collect();
        Ok((
            name.trim_matches('`').to_owned(),
            ((*kind).to_owned(), labels),
        ))
    };
    rows.map(family).collect()
}

/// The families of a scrape.
fn served(text: &str) -> Result<Families> {
    let mut families = Families::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').context("a type without a name")?;
        families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, rest)) = line.split_once('{') else {
            continue;
        };
        let (labels, _) = rest.rsplit_once('}').context("labels without an end")?;
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|part| series.strip_suffix(part));
        let family = family
            .filter(|name| families.contains_key(*name))
            .unwrap_or(series);
        let (_, known) = families
            .get_mut(family)
            .with_context(|| format!("no type of {series}"))?;
        let names = labels
            .split("\",")
            .filter_map(|label| label.split_once("=\""));
        known.extend(
            names
                .map(|(name, _)| name.to_owned())
                .filter(|name| name != "le"),
        );
    }
    Ok(families)
}

fn rules() -> Result<Value> {
    let file = repository().join("deploy/monitoring/prometheusrule.yaml");
    let mut object: Value = serde_saphyr::from_str(&std::fs::read_to_string(file)?)?;
    Ok(object["spec"].take())
}

/// The queries of the dashboard as Grafana would send them.
fn queries() -> Result<Vec<String>> {
    let file = repository().join("deploy/monitoring/grafana-dashboard.json");
    let board: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let panels = board["panels"].as_array().context("no panels")?.iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let filled = |target: &Value| {
        let query = target["expr"].as_str().context("no query")?;
        let query = query.replace("$namespace", "aikernel-infrastructure");
        // At least four times what Prometheus scrapes at; more, for a busy machine.
        let query = query.replace("$__rate_interval", "30s");
        ensure!(
            !query.contains('$'),
            "a variable that is not filled in: {query}"
        );
        Ok(query)
    };
    targets.map(filled).collect()
}
