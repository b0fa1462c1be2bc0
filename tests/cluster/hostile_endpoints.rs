//! Endpoints that answer whatever they like: does the operator stay as small as
//! it was, does it go on asking others in time, and does any byte of an answer
//! show anywhere?

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use futures::future::try_join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::canary::everything;
use crate::patients::{bind, rest};
use crate::scene::{DR, PROGRAM, Scene, VS, rules};
use crate::support::answers::{Case, OK, TOKEN, cases};
use crate::support::peer::{Peer, Step};
use crate::support::rig::Rig;
use crate::support::stack::{DEBUG, OPERATOR, PATIENCE, Stack};
use crate::support::wait;
use crate::support::workload::{Workload, ZONES};

crate::tests![
    ; alone:
    no_byte_of_an_answer_shows_anywhere(20),
    a_hundred_hostile_endpoints_cost_no_memory_and_keep_nobody_waiting(30)
];

/// What an Alertmanager is shown, and nobody else.
const ALERT_TOKEN: &str = "canary-a1e7";

/// Most that the operator may grow by, in KiB.
const GROWTH: u64 = 10 * 1024;

async fn a_hundred_hostile_endpoints_cost_no_memory_and_keep_nobody_waiting(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::alone(rig, "hostile").await?;
    let check = json!({"endpoint": "/health", "interval": "1s", "timeout": "500ms"});
    let good = rig.workload(&scene.namespace, "good", &ZONES).await?;
    bind(&scene, "good", &check).await?;
    let canary = Peer::on(&format!("{}:8080", rig.addresses.next()?), Vec::new()).await;
    let cases = cases(&canary.address.to_string());
    ensure!(cases.len() >= 100, "{}", cases.len());
    // All are well at first, so that what follows is the answers' doing.
    let answers = vec![vec![Step::Read, Step::Send(OK.into())]; cases.len()];
    let (hostile, peers) = endpoints(&scene, "hostile", answers).await?;
    bind(&scene, "hostile", &check).await?;
    scene.says("hostile", "Healthy", "True Healthy").await?;
    // So far each closes the connection after its answer.
    let closing = Opened::now(&scene, &peers).await?;
    rest(3).await;
    closing.few_since(&scene, &peers, |_| "closes").await?;
    let pid = scene.stack.operator.process.pid().await.context("no pid")?;
    let before = resident(pid)?;

    for (peer, (_, steps, _)) in peers.iter().zip(&cases) {
        peer.behave(steps.clone());
    }
    let opened = Opened::now(&scene, &peers).await?;
    let (of_good, mut most) = (good_checks(&good), before);
    for _ in 0..20 {
        rest(1).await;
        most = most.max(resident(pid)?);
    }
    eprintln!("hostile: {before} KiB, at most {most} KiB");
    ensure!(most <= before + GROWTH, "{before} KiB, then {most} KiB");
    let samples = scene
        .stack
        .operator
        .metrics(&format!("http://{OPERATOR}/metrics"))
        .await?;
    let unhealthy = samples.sum("catalog_mesh_unhealthy_endpoints", &[]);
    ensure!(unhealthy > Some(40.0), "{unhealthy:?} are unhealthy");
    opened.few_since(&scene, &peers, |at| cases[at].0).await?;
    for ((peer, asked), case) in peers.iter().zip(&opened.connections).zip(&cases) {
        ensure!(peer.connections() >= asked + 5, "{} is not asked", case.0);
    }
    // Twenty intervals: whoever waits for those that hang is asked half as often.
    for (now, before) in good_checks(&good).iter().zip(&of_good) {
        ensure!(now - before >= 15, "{} checks in 20 s", now - before);
    }
    ensure!(canary.connections() == 0, "a redirect is followed");
    scene.says("good", "Healthy", "True Healthy").await?;
    drop(hostile);
    scene.stack.stop().await
}

/// What the operator opened to the hostile endpoints until a moment, and for how
/// many checks.
struct Opened {
    at: Instant,
    connections: Vec<usize>,
    checks: f64,
}

impl Opened {
    async fn now(scene: &Scene<'_>, peers: &[Peer]) -> Result<Self> {
        // Not in between: what is opened from here on is for a later check.
        let connections = peers.iter().map(Peer::connections).collect();
        let url = format!("http://{OPERATOR}/metrics");
        let samples = scene.stack.operator.metrics(&url).await?;
        let service = format!("service=\"{}/hostile\"", scene.namespace);
        let made = samples.sum("catalog_mesh_health_check_total", &[&service]);
        let aside = samples.sum("catalog_mesh_health_answers_set_aside_total", &[]);
        Ok(Self {
            at: Instant::now(),
            connections,
            checks: made.context("no checks")? + aside.unwrap_or_default(),
        })
    }

    /// Whether no endpoint has made the operator open more than three connections
    /// for a check since then: one that is closed is made anew once, and once
    /// more it is found out whether TLS is spoken.
    async fn few_since<'n>(
        &self,
        scene: &Scene<'_>,
        peers: &[Peer],
        name: impl Fn(usize) -> &'n str,
    ) -> Result<()> {
        const EACH: usize = 3;
        let now = Self::now(scene, peers).await?;
        let opened = now.connections.iter().zip(&self.connections);
        let opened: Vec<_> = opened.map(|(now, before)| now - before).collect();
        let (all, checks) = (opened.iter().sum::<usize>(), now.checks - self.checks);
        eprintln!("hostile: {all} connections for {checks} checks");
        // Of each endpoint a check may be under way.
        let most = EACH as f64 * (checks + peers.len() as f64);
        ensure!(all as f64 <= most, "{all} connections for {checks} checks");
        // One a second, and after a first failure two sooner.
        let seconds = usize::try_from((now.at - self.at).as_secs())?;
        for (at, opened) in opened.into_iter().enumerate() {
            let most = EACH * (seconds + 4);
            ensure!(opened <= most, "{} makes it open {opened}", name(at));
        }
        Ok(())
    }
}

fn good_checks(good: &Workload) -> Vec<usize> {
    let pods = good.pods.iter();
    pods.map(|pod| pod.backend.count("/health")).collect()
}

/// Memory of a process, in KiB.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib.context("no VmRSS")?.parse()?)
}

async fn no_byte_of_an_answer_shows_anywhere(rig: &Rig) -> Result<()> {
    // An Alertmanager gets a token, and gives it back with all that it refuses.
    let alertmanager = Peer::answering(&format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Length: {}\r\n\r\n\"no {ALERT_TOKEN}\"",
        ALERT_TOKEN.len() + 5
    ))
    .await;
    let token = rig.folder().join("alertmanager.token");
    std::fs::write(&token, ALERT_TOKEN)?;
    let token = format!("--alertmanager-token-file={}", token.display());
    let url = format!("--alertmanager-url=http://{}", alertmanager.address);
    let flags = ["--log", "trace", token.as_str(), url.as_str()];
    let stack = Arc::new(Stack::start_with(rig, Path::new(PROGRAM), &flags).await?);
    let scene = Scene::beside(rig, stack, "loud").await?;
    let check = json!({"endpoint": "/health", "interval": "500ms", "timeout": "400ms"});
    // Each says the word in another place, and all are well at first, so that
    // they leave the mesh for it.
    let well = vec![Step::Read, Step::Send(OK.into())];
    let loud: Vec<Case> = cases("127.0.0.1:1")
        .into_iter()
        .filter(|(_, steps, _)| steps.iter().any(says_the_word))
        .collect();
    let mut answers: Vec<_> = loud.into_iter().map(|(_, steps, _)| steps).collect();
    for said in [
        format!("HTTP/1.1 500 {TOKEN}\r\n\r\n"),
        format!("{TOKEN} and no HTTP\r\n\r\n"),
        format!("HTTP/1.1 503 Unavailable\r\n{TOKEN}: {TOKEN}\r\n\r\n"),
        format!("HTTP/1.1 {TOKEN} Odd\r\n\r\n"),
        format!("HTTP/1.1 500 No\r\n{TOKEN}"),
    ] {
        answers.push(vec![Step::Read, Step::Send(said.into_bytes())]);
    }
    ensure!(answers.len() >= 10, "{} say the word", answers.len());
    let count = answers.len();
    let (_loud, peers) = endpoints(&scene, "loud", vec![well; count]).await?;
    bind(&scene, "loud", &check).await?;
    scene.says("loud", "Healthy", "True Healthy").await?;
    for (peer, steps) in peers.iter().zip(answers) {
        peer.behave(steps);
    }
    // And in certificates, to whoever speaks TLS and to whoever does not.
    for (name, scheme) in [("loud-tls", "HTTPS"), ("loud-bare", "HTTP")] {
        let workload = rig.workload(&scene.namespace, name, &ZONES[..1]).await?;
        workload.pods[0].backend.stop();
        speak_tls(workload.pods[0].address()).await?;
        let mut check = check.clone();
        check["scheme"] = json!(scheme);
        bind(&scene, name, &check).await?;
    }
    scene
        .says("loud-tls", "Healthy", "Unknown CheckNeverSucceeded")
        .await?;
    scene
        .says("loud-bare", "Healthy", "Unknown MTLSRequired")
        .await?;
    scene.says("loud", "Healthy", "False Unhealthy").await?;
    wait::until("Pods that are out", PATIENCE, async || {
        let pods = everything::<Pod>(rig).await?;
        ensure!(
            pods.contains(r#""istio.io/draining":"catalog-mesh""#),
            "none"
        );
        Ok(())
    })
    .await?;
    rest(2).await;
    ensure!(alertmanager.requests() > 0, "no alert was sent");

    let log = std::fs::read_to_string(scene.stack.operator.process.log())?;
    ensure!(log.contains(r#""level":"trace""#), "it says too little");
    ensure!(
        log.contains("Endpoint is unhealthy"),
        "it says nothing of them"
    );
    let page = async |port: &str, page: &str| -> Result<String> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let answer = http.get(format!("http://{port}{page}")).send().await?;
        Ok(answer.text().await?)
    };
    let record = scene.stack.catalog.get(&scene.id("loud")).await?;
    let places = [
        ("log", log),
        ("metrics", page(OPERATOR, "/metrics").await?),
        ("page", page(DEBUG, "/debug/health").await?),
        (
            "page of a service",
            page(
                DEBUG,
                &format!("/debug/health?service={}/loud", scene.namespace),
            )
            .await?,
        ),
        ("events", everything::<Event>(rig).await?),
        ("core events", everything::<CoreEvent>(rig).await?),
        ("bindings", everything::<ServiceBinding>(rig).await?),
        ("Pods", everything::<Pod>(rig).await?),
        ("leases", everything::<Lease>(rig).await?),
        ("VirtualServices", all_rules(&scene, VS).await?),
        ("DestinationRules", all_rules(&scene, DR).await?),
        ("catalog", record.to_string()),
    ];
    for (place, text) in &places {
        ensure!(
            text.contains("loud") || *place == "leases",
            "nothing of it in the {place}"
        );
        for secret in [TOKEN, ALERT_TOKEN] {
            ensure!(!text.contains(secret), "{secret} is in the {place}");
        }
    }
    scene.stack.stop().await
}

fn says_the_word(step: &Step) -> bool {
    let Step::Send(bytes) = step else {
        return false;
    };
    bytes
        .windows(TOKEN.len())
        .any(|part| part == TOKEN.as_bytes())
}

async fn all_rules(scene: &Scene<'_>, kind: &str) -> Result<String> {
    let all = rules(scene.rig, kind, &scene.namespace);
    let all = all.list(&ListParams::default()).await?;
    Ok(serde_json::to_string(&all)?)
}

/// A Service with an endpoint for each of these.
async fn endpoints(
    scene: &Scene<'_>,
    name: &str,
    all: Vec<Vec<Step>>,
) -> Result<(Workload, Vec<Peer>)> {
    let zones = vec![ZONES[0]; all.len()];
    let workload = scene.rig.workload(&scene.namespace, name, &zones).await?;
    let peers = workload.pods.iter().zip(all).map(async |(pod, steps)| {
        pod.backend.stop();
        let address = format!("{}:8080", pod.address());
        // The port is free once its server has been dropped.
        wait::until("a free port", Duration::from_secs(5), async || {
            drop(TcpListener::bind(&address).await?);
            Ok(())
        })
        .await?;
        anyhow::Ok(Peer::on(&address, steps).await)
    });
    let peers = try_join_all(peers).await?;
    Ok((workload, peers))
}

/// Speaks TLS with a certificate that says the word, and breaks off.
async fn speak_tls(address: Ipv4Addr) -> Result<()> {
    let mut params = rcgen::CertificateParams::new(vec![format!("{TOKEN}.example")])?;
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, TOKEN);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let chain = vec![CertificateDer::from_pem_slice(
        certificate.pem().as_bytes(),
    )?];
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = wait::until("a free port", Duration::from_secs(5), async || {
        Ok(TcpListener::bind((address, 8080)).await?)
    })
    .await?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever goes on is told nothing more.
            let _ = acceptor.accept(stream).await;
        }
    });
    Ok(())
}
