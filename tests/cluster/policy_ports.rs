//! Which ports of a Service does our policy act on?

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::backend::Behaviour;
use crate::support::envoy::read;
use crate::support::policy::{Given, Mesh};
use crate::support::rig::Rig;
use crate::support::workload::{Port, Workload};

crate::tests![
    each_http_port_leads_to_its_own_and_has_the_policy,
    a_port_that_does_not_speak_http_is_left_alone,
];

const PORTS: [Port; 4] = [
    Port {
        name: "http",
        number: 80,
        target: 8080,
    },
    Port {
        name: "http-admin",
        number: 8081,
        target: 9001,
    },
    Port {
        name: "grpc-orders",
        number: 9090,
        target: 9002,
    },
    Port {
        name: "tcp-db",
        number: 5432,
        target: 9003,
    },
];

/// A Service with all of them, and a pod that listens on all.
async fn service(mesh: &Mesh<'_>) -> Result<Workload> {
    let rig = mesh.rig;
    let service = Workload::with_ports(
        &rig.client,
        &rig.addresses,
        &mesh.namespace,
        "web",
        &["zone-a"],
        &PORTS,
    )
    .await?;
    for port in &PORTS[1..] {
        service.pods[0].backend.listen_on(port.target).await?;
    }
    let given = Given::catalog(json!({ "timeout": "3s", "retries": 0 }));
    mesh.program(&service, &given).await?;
    Ok(service)
}

async fn each_http_port_leads_to_its_own_and_has_the_policy(rig: &Rig) -> Result<()> {
    let mesh = Mesh::with_client(rig, "ports", |client| client.ports(&[80, 8081, 9090])).await?;
    let web = service(&mesh).await?;
    let backend = &web.pods[0].backend;
    backend.behave_on("/hang", Behaviour::Hang);
    // gRPC is HTTP to the mesh, but HTTP/2 of a kind that this backend does
    // not speak: of that port the route alone is looked at.
    for port in &PORTS[..2] {
        let ask = |path| {
            read(
                mesh.envoy
                    .request(Method::GET, &web.host(), port.number, path),
            )
        };
        backend.forget_hits();
        let (good, hung) = (ask("/").await?, ask("/hang").await?);
        ensure!(
            (good.status, hung.status) == (200, 504),
            "{port:?}: {good:?} {hung:?}"
        );
        let hits = backend.hits();
        ensure!(
            hits.len() == 2 && hits.iter().all(|hit| hit.port == port.target),
            "{port:?}: {hits:?}"
        );
    }
    for port in &PORTS[..3] {
        let routes = mesh.envoy.routes(&web.host(), port.number).await?;
        let routes = routes.with_context(|| format!("no route for {port:?}"))?;
        let said: Vec<(&Value, &Value)> = routes
            .iter()
            .map(|route| (&route["route"]["timeout"], &route["route"]["cluster"]))
            .collect();
        let cluster = json!(format!("outbound|{}||{}", port.number, web.host()));
        ensure!(said == [(&json!("3s"), &cluster)], "{port:?}: {routes:?}");
    }
    mesh.expect_accepted().await
}

async fn a_port_that_does_not_speak_http_is_left_alone(rig: &Rig) -> Result<()> {
    let mesh = Mesh::with_client(rig, "raw", |client| client.tcp("web", 5432)).await?;
    let web = service(&mesh).await?;
    let backend = &web.pods[0].backend;
    // Longer than the timeout, which is HTTP's.
    backend.behave(Behaviour::Delay(Duration::from_millis(3_500)));

    let mut stream = mesh.envoy.connect(5432).await?;
    stream.write_all(b"GET /raw HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;

    let hits = backend.hits();
    ensure!(
        answer.starts_with("HTTP/1.0 200") && answer.ends_with(&web.pods[0].address().to_string()),
        "{answer:?}"
    );
    ensure!(
        hits.len() == 1 && hits[0].port == 9003 && hits[0].headers.is_empty(),
        "{hits:?}"
    );
    mesh.expect_accepted().await
}
