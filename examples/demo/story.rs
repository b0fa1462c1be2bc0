//! What does the demo show? Each chapter does something as a user would, shows
//! what came of it, and fails unless it is what the chapter says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use kube::Api;
use serde_json::{Value, json};

use crate::health::{self, Fault};
use crate::parts::{BINDING, CATALOG_ID, NAMESPACE, Parts, SEED, SERVICE};
use crate::screen::Screen;
use crate::support::backend::Behaviour;
use crate::support::stack::{PATIENCE, condition};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::workload::SERVICE_PORT;
use crate::view;

/// Requests of a sample.
const SAMPLE: usize = 60;
/// As the catalog's entry says.
const RETRIES: usize = 3;
const ERRORS_TO_EJECT: usize = 5;
/// Timeouts before and after the change.
const FIRST_TIMEOUT: &str = "30s";
const NEXT_TIMEOUT: &str = "2s";

/// All chapters, or those that the last one needs.
pub(crate) async fn tell(
    screen: &Screen,
    parts: &Parts,
    faults: &[Fault],
    last: bool,
) -> Result<()> {
    an_entry_and_a_binding(screen, parts).await?;
    if !last {
        what_appeared(screen, parts).await?;
        requests(screen, parts).await?;
        the_circuit_breaker(screen, parts).await?;
    }
    // A request that hangs is over soon from then on.
    a_change_in_the_catalog(screen, parts).await?;
    if !last {
        the_timeout(screen, parts).await?;
        the_retries(screen, parts).await?;
    }
    health::show(screen, parts, faults).await?;
    parts.istiod.expect_no_nack().await
}

async fn an_entry_and_a_binding(screen: &Screen, parts: &Parts) -> Result<()> {
    screen.heading("1. The catalog knows a service, and a ServiceBinding binds it to the mesh");
    let record = parts.catalog.get(CATALOG_ID).await?;
    screen.command(&format!("curl $CATALOG/api/v1/services/{CATALOG_ID}"));
    for part in [
        "timeout",
        "retries",
        "circuitBreaker",
        "loadBalancing",
        "healthCheck",
    ] {
        screen.block(&format!("{:<17} {}", format!("{part}:"), record[part]));
    }
    kubectl(
        screen,
        parts,
        &["apply", "-f", "examples/bindings/worker-service.yaml"],
    )
    .await?;
    screen
        .step("the binding is Ready", async {
            wait::until("the binding's Ready", PATIENCE, async || {
                let ready = condition(&binding(parts).await?, "Ready");
                ensure!(
                    ready.as_deref() == Some("True Synced"),
                    "Ready is {ready:?}"
                );
                Ok(())
            })
            .await
        })
        .await
}

async fn what_appeared(screen: &Screen, parts: &Parts) -> Result<()> {
    screen.heading("2. What appeared");
    let listed = kubectl(screen, parts, &["get", "csb", "-A"]).await?;
    ensure!(listed.contains(BINDING), "it is not in the list");
    let rule = shown_rule(screen, parts, "virtualservice").await?;
    let route = &rule["spec"]["http"][0];
    ensure!(
        route["timeout"] == FIRST_TIMEOUT,
        "the timeout is {}",
        route["timeout"]
    );
    ensure!(
        route["retries"]["attempts"] == RETRIES,
        "the retries are {}",
        route["retries"]
    );
    let rule = shown_rule(screen, parts, "destinationrule").await?;
    let breaker = &rule["spec"]["trafficPolicy"]["outlierDetection"];
    ensure!(
        breaker["consecutive5xxErrors"] == ERRORS_TO_EJECT,
        "it is {breaker}"
    );

    wait::until("the Event about it", PATIENCE, async || {
        let events = parts
            .api
            .kubectl
            .ok(&["get", "events", "-n", NAMESPACE])
            .await?;
        ensure!(events.contains("Synced"), "there are these:\n{events}");
        Ok(())
    })
    .await?;
    kubectl(screen, parts, &["get", "events", "-n", NAMESPACE]).await?;

    let binding = binding(parts).await?;
    screen.command(&format!(
        "kubectl describe csb -n {NAMESPACE} {BINDING}   (its status)"
    ));
    screen.block(&view::conditions(&binding));
    screen.gap();
    let policy = view::policy(&binding);
    ensure!(
        policy.contains("trafficPolicy.timeout"),
        "it names no timeout:\n{policy}"
    );
    screen.block(&policy);
    screen.gap();
    screen.say(
        "For each value the catalog comes first, then the binding, then the default. Healthy is \
         Unknown until every replica was asked more than once.",
    );
    Ok(())
}

async fn requests(screen: &Screen, parts: &Parts) -> Result<()> {
    screen.heading(&format!("3. {SAMPLE} requests through Envoy"));
    let tally = sample(parts, "/").await?;
    screen.block(&view::tally(&tally));
    ensure!(
        tally.len() == 3 && tally.keys().all(|who| who.ends_with("200")),
        "not three replicas answered 200: {tally:?}"
    );
    screen.holds("all three replicas answer, spread by LEAST_REQUEST");
    Ok(())
}

async fn the_circuit_breaker(screen: &Screen, parts: &Parts) -> Result<()> {
    screen.heading("4. One replica answers 500: the circuit breaker takes it out");
    let (host, bad) = (parts.workload.host(), &parts.workload.pods[0]);
    bad.backend.forget_hits();
    bad.backend.behave(Behaviour::Status(500));
    let taken_out = async || {
        let endpoints = parts.envoy.endpoints(&host, SERVICE_PORT).await?;
        let address = bad.address().to_string();
        let found = endpoints
            .iter()
            .find(|e| e.address.starts_with(&format!("{address}:")));
        Ok::<_, anyhow::Error>(found.is_some_and(|e| e.health.contains("failed_outlier_check")))
    };
    let mut sent = 0;
    while !taken_out().await? {
        ensure!(sent < 200, "it still gets requests after {sent}");
        parts.envoy.get(&host, "/").await?;
        sent += 1;
    }
    // Its health check is asked for on another path.
    let failed = bad.backend.count("/");
    ensure!(
        failed == ERRORS_TO_EJECT,
        "it was taken out after {failed} errors"
    );
    screen.holds(&format!(
        "{} answered 500 to {failed} of {sent} requests, then Envoy took it out",
        bad.name
    ));
    let tally = sample(parts, "/").await?;
    screen.block(&view::tally(&tally));
    ensure!(
        tally.len() == 2 && tally.keys().all(|who| who.ends_with("200")),
        "not the two others alone answered: {tally:?}"
    );
    screen.holds("the two others answer everything; it gets its next chance after 30 s");
    bad.backend.recover();
    Ok(())
}

async fn a_change_in_the_catalog(screen: &Screen, parts: &Parts) -> Result<()> {
    screen.heading("5. The service's owner changes the policy in the catalog");
    let seed = std::fs::read_to_string(repository().join(SEED))?;
    let seed: Value = serde_json::from_str(&seed)?;
    let mut record = seed[0].clone();
    record["timeout"] = json!(NEXT_TIMEOUT);
    // Left to itself, Envoy retries what did not reach a replica, and no 503.
    record["retries"] = json!({"attempts": RETRIES, "retryOn": "503"});
    screen.command(&format!(
        "curl -X PUT $CATALOG/api/v1/services/{CATALOG_ID} \\\n      -d '{{…, \"timeout\": {}, \"retries\": {}}}'",
        record["timeout"], record["retries"]
    ));
    parts.catalog.put(&record).await?;
    let changed = Instant::now();
    let host = parts.workload.host();
    wait::until(
        "the new timeout in the VirtualService",
        PATIENCE,
        async || {
            let timeout = &rule(parts, "virtualservice").await?["spec"]["http"][0]["timeout"];
            ensure!(timeout == NEXT_TIMEOUT, "it is {timeout}");
            Ok(())
        },
    )
    .await?;
    let stored = changed.elapsed();
    wait::until("the new timeout in Envoy", PATIENCE, async || {
        let timeout = view::envoy_timeout(&parts.envoy.config_dump().await?, &host);
        ensure!(
            timeout.as_deref() == Some(NEXT_TIMEOUT),
            "it is {timeout:?}"
        );
        Ok(())
    })
    .await?;
    let arrived = changed.elapsed();
    screen.holds(&format!(
        "VirtualService {NAMESPACE}/{SERVICE} says {NEXT_TIMEOUT} after {:.1} s",
        stored.as_secs_f64()
    ));
    screen.holds(&format!(
        "Envoy says {NEXT_TIMEOUT} after {:.1} s",
        arrived.as_secs_f64()
    ));
    screen.say("The operator follows the catalog's events; no change waits for its next look.");
    Ok(())
}

async fn the_timeout(screen: &Screen, parts: &Parts) -> Result<()> {
    screen.heading("6. Every replica hangs: the request ends at the new timeout");
    for pod in &parts.workload.pods {
        pod.backend.behave_on("/hang", Behaviour::Hang);
    }
    let sent = Instant::now();
    let answer = parts.envoy.get(&parts.workload.host(), "/hang").await?;
    let took = sent.elapsed();
    ensure!(answer.status == 504, "the answer was {}", answer.status);
    let old = Duration::from_secs(30);
    ensure!(
        took < old,
        "it took {took:?}, as if the old timeout counted"
    );
    screen.holds(&format!("504 after {:.1} s", took.as_secs_f64()));
    for pod in &parts.workload.pods {
        pod.backend.recover();
    }
    Ok(())
}

async fn the_retries(screen: &Screen, parts: &Parts) -> Result<()> {
    screen.heading("7. Every replica answers 503: the request is tried again");
    for pod in &parts.workload.pods {
        pod.backend.behave_on("/busy", Behaviour::Status(503));
    }
    let answer = parts.envoy.get(&parts.workload.host(), "/busy").await?;
    let pods = &parts.workload.pods;
    let attempts: usize = pods.iter().map(|pod| pod.backend.count("/busy")).sum();
    ensure!(answer.status == 503, "the answer was {}", answer.status);
    ensure!(attempts == 1 + RETRIES, "{attempts} attempts arrived");
    screen.holds(&format!(
        "the client sent 1 request and got 503; {attempts} attempts arrived: 1 and {RETRIES} retries"
    ));
    Ok(())
}

/// Who answered what, to a number of requests: `worker-service-0 (10.240.0.10) 200`.
async fn sample(parts: &Parts, path: &str) -> Result<BTreeMap<String, usize>> {
    let tally = parts
        .envoy
        .tally(&parts.workload.host(), path, SAMPLE)
        .await?;
    let named = tally.into_iter().map(|(answer, count)| {
        let (status, address) = answer.split_once(' ').unwrap_or((&answer, ""));
        let pods = parts.workload.pods.iter();
        let pod = pods
            .clone()
            .find(|pod| pod.address().to_string() == address);
        let name = pod.map_or("nobody", |pod| pod.name.as_str());
        (format!("{name} ({address}) {status}"), count)
    });
    Ok(named.collect())
}

pub(crate) async fn binding(parts: &Parts) -> Result<ServiceBinding> {
    let api = Api::<ServiceBinding>::namespaced(parts.api.client.clone(), NAMESPACE);
    Ok(api.get(BINDING).await?)
}

async fn rule(parts: &Parts, kind: &str) -> Result<Value> {
    let args = ["get", kind, "-n", NAMESPACE, SERVICE, "-o", "json"];
    Ok(serde_json::from_str(&parts.api.kubectl.ok(&args).await?)?)
}

async fn shown_rule(screen: &Screen, parts: &Parts, kind: &str) -> Result<Value> {
    let rule = rule(parts, kind).await?;
    screen.command(&format!(
        "kubectl get {kind} -n {NAMESPACE} {SERVICE} -o yaml   (its spec)"
    ));
    screen.block(&view::spec(&rule)?);
    Ok(rule)
}

/// Shows a command and what it prints, as typed in the repository.
pub(crate) async fn kubectl(screen: &Screen, parts: &Parts, args: &[&str]) -> Result<String> {
    let output = parts
        .api
        .kubectl
        .ok(args)
        .await
        .context("the command failed")?;
    screen.command(&format!("kubectl {}", args.join(" ")));
    screen.block(&output);
    Ok(output)
}
