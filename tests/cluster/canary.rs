//! Where do credentials go? Into requests, and nowhere else: neither the old nor
//! the new one of a rotation is in any log, Event, metric, page or object, and
//! neither are passwords in URLs, the key of the mesh's certificate, and the
//! token that the API server knows the operator by. Nor are they there in
//! another form.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::process::Command;

use crate::scene::{DR, PROGRAM, VS};
use crate::support::catalog::Catalog;
use crate::support::operator::{ACCOUNT, NAMESPACE, Operator};
use crate::support::rig::Rig;
use crate::support::sidecar::Sidecar;
use crate::support::stack::{self, CATALOG, DEBUG, OPERATOR, PATIENCE};
use crate::support::tools::repository;
use crate::support::wait;
use crate::support::workload::{Workload, ZONES};

crate::tests![
    ; alone:
    a_rotated_credential_is_used_at_once_and_shown_nowhere(20)
];

const KEY: &str = "canary-7f3a";
const NEXT_KEY: &str = "canary-91bd";
const TOKEN: &str = "canary-70ce";
/// Passwords in the URLs of a database, and in one that may have none.
const READER: &str = "canary-c0de";
const REPORTER: &str = "canary-4e81";
const USERINFO: &str = "canary-5b2d";
const CANARIES: [&str; 6] = [KEY, NEXT_KEY, TOKEN, READER, REPORTER, USERINFO];

const NAME: &str = "web";

/// What is said of a URL with a password.
const REFUSAL: &str = "must not carry a user or password";

async fn a_rotated_credential_is_used_at_once_and_shown_nowhere(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let files = tempfile::tempdir_in(rig.folder())?;
    let file = |name: &str| files.path().join(name);
    for (name, canary) in [("key", KEY), ("next-key", NEXT_KEY), ("token", TOKEN)] {
        std::fs::write(file(name), canary)?;
    }
    let secret = file("secret");
    std::fs::create_dir(&secret)?;
    let postgres = rig.postgres().await?;
    let database = postgres.create_database("canary").await?;
    let with_password = |canary: &str| {
        let url = database.replace("postgres@", &format!("postgres:{canary}@"));
        ensure!(url.contains(canary), "{database}");
        Ok(url)
    };
    let serve = async |key: &str| {
        let trace = [("RUST_LOG", OsStr::new("trace"))];
        let (name, database) = ("canary-catalog", with_password(READER)?);
        Catalog::guarded_with(
            rig.folder(),
            name,
            CATALOG,
            &database,
            &file(key),
            &[],
            &trace,
        )
        .await
    };
    let catalog = serve("key").await?;
    credentials(&secret, 0, &catalog.url, KEY)?;
    let certificates = file("certificates");
    let identity = |account: &str| {
        let id = format!("spiffe://cluster.local/ns/{NAMESPACE}/sa/{account}");
        rig.pki.workload(&id, Duration::from_secs(86_400))
    };
    let (own, alien) = (identity(ACCOUNT)?, identity("somebody-else")?);
    rig.pki.workload_files(&certificates, &own)?;
    let operator = operator(rig, &secret, &file("token"), &certificates).await?;

    let namespace = rig.namespace("canary").await?;
    let id = format!("{namespace}.{NAME}");
    let workload = rig.workload(&namespace, NAME, &[ZONES[0]]).await?;
    let _sidecar = strict(rig, &namespace, &workload).await?;
    let mut record = stack::record(&id, &namespace, NAME);
    record["timeout"] = "5s".into();
    record["healthCheck"] = json!({"endpoint": "/", "interval": "1s", "scheme": "MTLS"});
    catalog.put(&record).await?;
    stack::create(rig, &stack::binding(&namespace, NAME, &id)).await?;
    let says = async |condition: &str| {
        stack::wait_for(rig, &namespace, NAME, "CatalogSynced", condition).await
    };
    says("True Synced").await?;
    // With the certificate's key it was let in, and another's does not fit.
    stack::wait_for(rig, &namespace, NAME, "Healthy", "True Healthy").await?;
    std::fs::write(certificates.join("key.pem"), &alien.key)?;

    // The owners change the key: the old one is refused, the new one is taken
    // from the same mount by the same process.
    catalog.process.kill().await?;
    let catalog = serve("next-key").await?;
    says("False CatalogUnauthorized").await?;
    let mut places = Vec::new();
    let diff = async || diff(rig, &namespace, &secret, &file("token")).await;
    places.extend(diff().await?);
    credentials(&secret, 1, &catalog.url, NEXT_KEY)?;
    says("True Synced").await?;

    // A URL that has a password is refused.
    let userinfo = catalog
        .url
        .replace("http://", &format!("http://me:{USERINFO}@"));
    credentials(&secret, 2, &userinfo, NEXT_KEY)?;
    catalog.process.kill().await?;
    wait::until("a refusal of the URL", PATIENCE, async || {
        let log = std::fs::read_to_string(operator.process.log())?;
        ensure!(log.contains(REFUSAL), "it was not refused");
        Ok(())
    })
    .await?;
    says("False CatalogUnavailable").await?;
    places.extend(diff().await?);

    // And over the database, with it there and away.
    let urls = [with_password(READER)?, with_password(REPORTER)?];
    let both = [
        ("api-url", urls[0].as_str()),
        ("report-url", &urls[1]),
        ("api-key", NEXT_KEY),
    ];
    mount(&secret, 3, &both)?;
    says("True Synced").await?;
    postgres.process.kill().await?;
    says("False CatalogUnavailable").await?;
    postgres.start_again().await?;
    says("True Synced").await?;
    places.extend(diff().await?);

    let log = std::fs::read_to_string(operator.process.log())?;
    for proof in [
        "\"level\":\"trace\"",
        "CatalogUnauthorized",
        "travels in clear",
        REFUSAL,
        "the mesh certificate cannot be used",
    ] {
        ensure!(log.contains(proof), "the log has no {proof}");
    }
    places.push(("log", log));
    let log = std::fs::read_to_string(catalog.process.log())?;
    for proof in ["DEBUG", "status=401"] {
        ensure!(log.contains(proof), "the catalog's log has no {proof}");
    }
    places.push(("catalog's log", log));
    let audit = std::fs::read_to_string(rig.api.audit.path())?;
    ensure!(audit.contains(&namespace), "not the audit log");
    places.push(("audit log", audit));
    places.extend(pages(&namespace).await?);
    places.extend(objects(rig, &namespace).await?);

    let mut never = own_token(rig)?;
    never.extend(CANARIES.iter().flat_map(|canary| forms(canary)));
    for identity in [&own, &alien] {
        never.extend(forms_of_key(&identity.key)?);
    }
    for (place, text) in &places {
        for canary in &never {
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

/// A text, and what it is for.
type Place = (&'static str, String);

/// What the operator is started with: the mounted Secret, and every log line.
async fn operator(rig: &Rig, secret: &Path, token: &Path, mesh: &Path) -> Result<Operator> {
    let path = |path: &'static str, of: &Path| -> Result<[String; 2]> {
        let of = of.to_str().context("a path of the rig")?;
        Ok([path.to_owned(), of.to_owned()])
    };
    let mut args = ["run", "--listen", OPERATOR, "--debug-listen", DEBUG]
        .map(str::to_owned)
        .to_vec();
    args.extend(["--period", "1s", "--log", "trace"].map(str::to_owned));
    args.extend(path("--catalog-credentials", secret)?);
    args.extend(path("--catalog-token-file", token)?);
    args.extend(path("--mesh-cert-dir", mesh)?);
    let operator = rig
        .operator("operator-canary", Path::new(PROGRAM), args)
        .await?;
    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
    Ok(operator)
}

/// What stands before the workload asks for a certificate of the mesh.
async fn strict(rig: &Rig, namespace: &str, workload: &Workload) -> Result<Sidecar> {
    let pod = &workload.pods[0];
    pod.backend.stop();
    let folder = rig.folder().join("certificates-of-canary");
    let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{NAME}");
    let identity = rig.pki.workload(&id, Duration::from_secs(86_400))?;
    rig.pki.workload_files(&folder, &identity)?;
    let behind = rig.addresses.next()?;
    Sidecar::start(rig.folder(), pod.address(), &folder, behind).await
}

/// What `diff` prints with the operator's own credentials, and every log line
/// if it should have any.
async fn diff(rig: &Rig, namespace: &str, secret: &Path, token: &Path) -> Result<[Place; 2]> {
    let output = Command::new(PROGRAM)
        .args(["diff", "-n", namespace, "--explain"])
        .args(["--catalog-credentials".as_ref(), secret])
        .args(["--catalog-token-file".as_ref(), token])
        .envs([("CATALOG_MESH_LOG", "trace"), ("RUST_LOG", "trace")])
        .env("KUBECONFIG", kubeconfig(rig))
        .kill_on_drop(true)
        .output()
        .await?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    let said = format!("{stdout}{stderr}");
    ensure!(
        !said.trim().is_empty(),
        "it says nothing: {:?}",
        output.status
    );
    Ok([("output of diff", stdout), ("errors of diff", stderr)])
}

/// What the operator serves.
async fn pages(namespace: &str) -> Result<Vec<Place>> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let binding = format!("http://{DEBUG}/debug/bindings/{namespace}/{NAME}");
    let mut pages = Vec::new();
    for (place, url, proof) in [
        (
            "metrics",
            format!("http://{OPERATOR}/metrics"),
            "catalog_mesh_",
        ),
        (
            "page of health",
            format!("http://{DEBUG}/debug/health"),
            namespace,
        ),
        (
            "page of bindings",
            format!("http://{DEBUG}/debug/bindings"),
            namespace,
        ),
        ("page of the binding", binding, "VirtualService"),
    ] {
        let page = http.get(url).send().await?.error_for_status()?;
        let page = page.text().await?;
        ensure!(page.contains(proof), "{place}: {page}");
        pages.push((place, page));
    }
    Ok(pages)
}

/// What the operator writes.
async fn objects(rig: &Rig, namespace: &str) -> Result<Vec<Place>> {
    let bindings = everything::<ServiceBinding>(rig).await?;
    ensure!(bindings.contains(namespace), "{bindings}");
    let mut objects = vec![
        ("bindings", bindings),
        ("events", everything::<Event>(rig).await?),
        ("core events", everything::<CoreEvent>(rig).await?),
        ("leases", everything::<Lease>(rig).await?),
        ("pods", everything::<Pod>(rig).await?),
    ];
    for kind in [VS, DR] {
        let rules = crate::scene::rules(rig, kind, namespace);
        let rules = serde_json::to_string(&rules.list(&ListParams::default()).await?)?;
        ensure!(rules.contains(NAME), "{rules}");
        objects.push(("rules", rules));
    }
    Ok(objects)
}

/// A text as it is, and what it gives in Base64 wherever it begins in what is
/// encoded.
fn forms(text: &str) -> Vec<String> {
    let mut forms = vec![text.to_owned()];
    for before in 0..3 {
        let encoded = STANDARD_NO_PAD.encode([&vec![b' '; before], text.as_bytes()].concat());
        // The characters at either end depend on the neighbours, too.
        let (first, last) = ((before * 8).div_ceil(6), (before + text.len()) * 8 / 6);
        forms.push(encoded[first..last].to_owned());
    }
    forms
}

/// A private key as its PEM has it, and as programs print bytes. Not from its
/// beginning: all keys of a kind have that.
fn forms_of_key(pem: &str) -> Result<Vec<String>> {
    let base64: String = pem.lines().filter(|line| !line.contains("-----")).collect();
    let bytes = base64::engine::general_purpose::STANDARD.decode(&base64)?;
    let (text, bytes) = (base64.get(60..84), bytes.get(45..57));
    let (text, bytes) = (text.context("a short key")?, bytes.context("a short key")?);
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{bytes:?}");
    let list = list.trim_matches(['[', ']']).to_owned();
    Ok(vec![text.to_owned(), hex.to_uppercase(), hex, list])
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

/// Of the operator's account.
fn kubeconfig(rig: &Rig) -> PathBuf {
    let name = format!("{NAMESPACE}.{ACCOUNT}.kubeconfig");
    rig.folder().join(name)
}

/// The signature of the token that the operator shows to the API server.
fn own_token(rig: &Rig) -> Result<Vec<String>> {
    let kubeconfig: serde_json::Value = serde_json::from_slice(&std::fs::read(kubeconfig(rig))?)?;
    let token = kubeconfig["users"][0]["user"]["token"].as_str();
    let signature = token.and_then(|token| token.rsplit('.').next());
    let signature = signature.filter(|signature| signature.len() > 40);
    Ok(forms(signature.context("it has no token")?))
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
