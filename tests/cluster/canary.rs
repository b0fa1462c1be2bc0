//! Where do credentials of the catalog go? Into requests, and nowhere else:
//! neither the old nor the new one of a rotation is in any log, Event, metric
//! or object.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Service};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::scene::{DR, PROGRAM, VS};
use crate::support::catalog::Catalog;
use crate::support::operator::Operator;
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR};
use crate::support::tools::repository;

crate::tests![
    ; alone:
    a_rotated_credential_is_used_at_once_and_shown_nowhere
];

/// As keys, and the last as a password.
const CANARIES: [&str; 3] = ["canary-7f3a", "canary-91bd", "canary-c0de"];
const NAME: &str = "web";

async fn a_rotated_credential_is_used_at_once_and_shown_nowhere(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let secret = tempfile::tempdir_in(rig.folder())?;
    let keys = CANARIES.map(|canary| rig.folder().join(format!("{canary}.key")));
    for (file, canary) in keys.iter().zip(CANARIES) {
        std::fs::write(file, canary)?;
    }
    let postgres = rig.postgres().await?;
    let database = postgres.create_database("canary").await?;
    let serve = async |key: &Path| {
        Catalog::guarded(rig.folder(), "canary-catalog", CATALOG, &database, key).await
    };
    let catalog = serve(&keys[0]).await?;
    mount(secret.path(), 0, &catalog.url, CANARIES[0])?;
    let operator = operator(rig, secret.path()).await?;

    let namespace = rig.namespace("canary").await?;
    let id = format!("{namespace}.{NAME}");
    let service = json!({
        "metadata": {"name": NAME},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    Api::<Service>::namespaced(rig.client.clone(), &namespace)
        .create(&PostParams::default(), &serde_json::from_value(service)?)
        .await?;
    let mut record = stack::record(&id, &namespace, NAME);
    record["timeout"] = "5s".into();
    catalog.put(&record).await?;
    stack::create(rig, &stack::binding(&namespace, NAME, &id)).await?;
    let says = async |condition: &str| {
        stack::wait_for(rig, &namespace, NAME, "CatalogSynced", condition).await
    };
    says("True Synced").await?;

    // The owners change the key: the old one is refused, the new one is taken
    // from the same mount by the same process.
    catalog.process.kill().await?;
    let catalog = serve(&keys[1]).await?;
    says("False CatalogUnauthorized").await?;
    mount(secret.path(), 1, &catalog.url, CANARIES[1])?;
    says("True Synced").await?;

    // And over the database, with it there and away.
    let with_password = database.replace("postgres@", &format!("postgres:{}@", CANARIES[2]));
    ensure!(with_password.contains(CANARIES[2]), "{database}");
    mount(secret.path(), 2, &with_password, CANARIES[1])?;
    catalog.process.kill().await?;
    postgres.process.kill().await?;
    says("False CatalogUnavailable").await?;
    postgres.process.start().await?;
    says("True Synced").await?;

    let log = std::fs::read_to_string(operator.process.log())?;
    for proof in [
        "\"level\":\"trace\"",
        "CatalogUnauthorized",
        "travels in clear",
    ] {
        ensure!(log.contains(proof), "the log has no {proof}");
    }
    let metrics = reqwest::Client::builder().no_proxy().build()?;
    let metrics = metrics
        .get(format!("http://{OPERATOR}/metrics"))
        .send()
        .await?;
    let metrics = metrics.text().await?;
    ensure!(metrics.contains("catalog_mesh_"), "{metrics}");
    let mut places = vec![("log", log), ("metrics", metrics)];
    places.push(("events", everything::<Event>(rig).await?));
    places.push(("core events", everything::<CoreEvent>(rig).await?));
    places.push(("leases", everything::<Lease>(rig).await?));
    let bindings = Api::<catalog_mesh_controller::api::service_binding::ServiceBinding>::all(
        rig.client.clone(),
    );
    let bindings = serde_json::to_string(&bindings.list(&ListParams::default()).await?)?;
    ensure!(bindings.contains(&id), "{bindings}");
    places.push(("bindings", bindings));
    for kind in [VS, DR] {
        let rules = crate::scene::rules(rig, kind, &namespace);
        let rules = serde_json::to_string(&rules.list(&ListParams::default()).await?)?;
        places.push(("rules", rules));
    }
    for (place, text) in &places {
        for canary in CANARIES {
            let at = text.find(canary);
            ensure!(
                at.is_none(),
                "{canary} is in the {place}: {}",
                around(text, at)
            );
        }
    }
    operator.process.kill().await?;
    Ok(())
}

/// What the operator is started with: the mounted Secret, and every log line.
async fn operator(rig: &Rig, secret: &Path) -> Result<Operator> {
    let secret = secret.to_str().context("a path of the rig")?;
    let args = [
        "run",
        "--catalog-credentials",
        secret,
        "--listen",
        OPERATOR,
        "--period",
        "1s",
        "--log",
        "trace",
    ];
    let operator = rig
        .operator("operator-canary", Path::new(PROGRAM), args)
        .await?;
    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
    Ok(operator)
}

/// Replaces the Secret as the kubelet does: by another folder behind `..data`.
fn mount(folder: &Path, version: u8, url: &str, key: &str) -> Result<()> {
    let name = format!("..v{version}");
    std::fs::create_dir(folder.join(&name))?;
    for (file, content) in [("api-url", url), ("api-key", key)] {
        std::fs::write(folder.join(&name).join(file), content)?;
        let link = folder.join(file);
        if !link.is_symlink() {
            std::os::unix::fs::symlink(Path::new("..data").join(file), link)?;
        }
    }
    std::os::unix::fs::symlink(&name, folder.join("..data_tmp"))?;
    std::fs::rename(folder.join("..data_tmp"), folder.join("..data"))?;
    Ok(())
}

/// All objects of a kind, as text.
pub(crate) async fn everything<K>(rig: &Rig) -> Result<String>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let all = Api::<K>::all(rig.client.clone());
    Ok(serde_json::to_string(
        &all.list(&ListParams::default()).await?,
    )?)
}

fn around(text: &str, at: Option<usize>) -> String {
    let skipped = at.unwrap_or_default().saturating_sub(200);
    text.chars().skip(skipped).take(500).collect()
}
