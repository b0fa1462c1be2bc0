//! Where do credentials go? Into requests, and nowhere else: neither the old nor
//! the new one of a rotation is in any log, Event, metric, page or object, and
//! neither is the token that the API server knows the operator by.

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
use crate::support::operator::{ACCOUNT, NAMESPACE, Operator};
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, DEBUG, OPERATOR};
use crate::support::tools::repository;

crate::tests![
    ; alone:
    a_rotated_credential_is_used_at_once_and_shown_nowhere
];

/// Two as keys, one as a password, and one as a token.
const CANARIES: [&str; 4] = ["canary-7f3a", "canary-91bd", "canary-c0de", "canary-70ce"];
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
    credentials(secret.path(), 0, &catalog.url, CANARIES[0])?;
    let operator = operator(rig, secret.path(), &keys[3]).await?;

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
    credentials(secret.path(), 1, &catalog.url, CANARIES[1])?;
    says("True Synced").await?;

    // And over the database, with it there and away.
    let with_password = database.replace("postgres@", &format!("postgres:{}@", CANARIES[2]));
    ensure!(with_password.contains(CANARIES[2]), "{database}");
    credentials(secret.path(), 2, &with_password, CANARIES[1])?;
    catalog.process.kill().await?;
    postgres.process.kill().await?;
    says("False CatalogUnavailable").await?;
    postgres.start_again().await?;
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
    let page = reqwest::Client::builder().no_proxy().build()?;
    let page = page.get(format!("http://{DEBUG}/debug/health"));
    let page = page.send().await?.text().await?;
    let mut places = vec![("log", log), ("metrics", metrics), ("page", page)];
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
    let own = own_token(rig)?;
    for (place, text) in &places {
        for canary in CANARIES.into_iter().chain([own.as_str()]) {
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
async fn operator(rig: &Rig, secret: &Path, token: &Path) -> Result<Operator> {
    let args = [
        "run",
        "--catalog-credentials",
        secret.to_str().context("a path of the rig")?,
        "--catalog-token-file",
        token.to_str().context("a path of the rig")?,
        "--listen",
        OPERATOR,
        "--debug-listen",
        DEBUG,
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

fn credentials(folder: &Path, version: u8, url: &str, key: &str) -> Result<()> {
    mount(folder, version, &[("api-url", url), ("api-key", key)])
}

/// Replaces mounted files as the kubelet does: by another folder behind
/// `..data`.
pub(crate) fn mount(folder: &Path, version: u8, files: &[(&str, &str)]) -> Result<()> {
    let name = format!("..v{version}");
    std::fs::create_dir(folder.join(&name))?;
    for (file, content) in files {
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

/// The signature of the token that the operator shows to the API server.
fn own_token(rig: &Rig) -> Result<String> {
    let file = rig
        .folder()
        .join(format!("{NAMESPACE}.{ACCOUNT}.kubeconfig"));
    let kubeconfig: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let token = kubeconfig["users"][0]["user"]["token"].as_str();
    let signature = token.and_then(|token| token.rsplit('.').next());
    let signature = signature.filter(|signature| signature.len() > 40);
    Ok(signature.context("it has no token")?.to_owned())
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
