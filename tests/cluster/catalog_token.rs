//! Does a token of the operator's service account open the catalog, and nothing
//! else? The real API server issues the tokens and reviews them for the
//! reference catalog; the operator reads a mount that is replaced under it, as
//! the kubelet does it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::canary::mount;
use crate::scene::PROGRAM;
use crate::support::audit::Mark;
use crate::support::catalog::Catalog;
use crate::support::operator::{ACCOUNT, NAMESPACE};
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE};
use crate::support::tools::repository;
use crate::support::{token, wait};

crate::tests![
    the_documented_patch_mounts_a_token_in_a_pod_that_is_still_admitted
    ; alone:
    the_operators_token_opens_the_catalog_and_no_other_does(20)
];

const AUDIENCE: &str = "catalog";
const NAME: &str = "web";
/// How long a token that was let in is not reviewed again.
const TRUSTED: Duration = Duration::from_secs(60);
/// Who has tokens reviewed: the account of catalog-rights.yaml.
const REVIEWER: (&str, &str) = ("aikernel", "catalog-server");

async fn the_operators_token_opens_the_catalog_and_no_other_does(rig: &Rig) -> Result<()> {
    rig.api.apply_manifests(&repository().join("rbac")).await?;
    let rights = repository().join("examples/catalog-token/catalog-rights.yaml");
    rig.api.apply_manifests(&rights).await?;
    let catalog = catalog(rig).await?;
    let of = async |account: &str, audience: &str| {
        token::request(&rig.client, NAMESPACE, account, audience).await
    };
    let (first, second) = (of(ACCOUNT, AUDIENCE).await?, of(ACCOUNT, AUDIENCE).await?);
    ensure!(first != second, "it is the same");
    let wrong = [
        (of(ACCOUNT, "elsewhere").await?, "not for this catalog"),
        (of("default", AUDIENCE).await?, "not let in"),
        (token::moved(rig.folder(), &first, -3600)?, "it is over"),
    ];
    // It ended by its time, and not by how it was signed.
    let signed = token::moved(rig.folder(), &first, -1)?;
    ensure!(ask(&catalog, Some(&signed)).await?.0 == 200, "badly signed");
    for (token, why) in &wrong {
        refused(ask(&catalog, Some(token)).await?, why)?;
    }
    refused(ask(&catalog, None).await?, "send ")?;

    let mounted = tempfile::tempdir_in(rig.folder())?;
    let mut version = 0;
    let mut rotate = |token: &str| {
        version += 1;
        mount(mounted.path(), version, &[("token", token)])
    };
    rotate(&first)?;
    let begun = Instant::now();
    let operator = operator(rig, &mounted.path().join("token"), &catalog.url).await?;
    let namespace = rig.namespace("token").await?;
    let id = format!("{namespace}.{NAME}");
    let service = json!({
        "metadata": {"name": NAME},
        "spec": {"ports": [{"name": "http", "port": 80}]},
    });
    Api::<Service>::namespaced(rig.client.clone(), &namespace)
        .create(&PostParams::default(), &serde_json::from_value(service)?)
        .await?;
    catalog.put(&stack::record(&id, &namespace, NAME)).await?;
    stack::create(rig, &stack::binding(&namespace, NAME, &id)).await?;
    let says = async |expected: &str, words: &str| {
        let what = format!("{expected}: {words}");
        wait::until(&what, PATIENCE, async || {
            said(rig, &namespace, expected, words).await
        })
        .await
    };
    says("True Synced", "").await?;

    // The next token is in the next request, and is reviewed once; the first one is
    // not again, unless all this has taken longer than it is trusted for.
    let mark = rig.audit_mark().await?;
    rotate(&second)?;
    wait::until("a review of the next token", PATIENCE, async || {
        ensure!(reviews(rig, mark).await? > 0, "none");
        Ok(())
    })
    .await?;
    timeout_arrives(rig, &catalog, &namespace, "6s").await?;
    timeout_arrives(rig, &catalog, &namespace, "7s").await?;
    let reviews = reviews(rig, mark).await?;
    ensure!(reviews == 1 || begun.elapsed() >= TRUSTED, "{reviews}");

    // What is said of an outage stays the same while it lasts, so each has its
    // own.
    for (token, why) in &wrong {
        rotate(token)?;
        says("False CatalogUnauthorized", why).await?;
        rotate(&second)?;
        says("True Synced", "").await?;
    }
    std::fs::remove_file(mounted.path().join("token"))?;
    says("False CatalogUnauthorized", "cannot be read").await?;
    rotate(&first)?;
    says("True Synced", "").await?;

    // Both log all that they can.
    for (who, process) in [
        ("operator", &operator.process),
        ("catalog", &catalog.process),
    ] {
        let log = std::fs::read_to_string(process.log())?;
        ensure!(
            log.to_lowercase().contains("trace"),
            "{who} says too little"
        );
        let wrong = wrong.iter().map(|(token, _)| token);
        for token in [&first, &second].into_iter().chain(wrong) {
            let signature = token.rsplit('.').next().context("no token")?;
            ensure!(
                !log.contains(signature),
                "a token is in the log of the {who}"
            );
        }
    }
    operator.process.kill().await?;
    catalog.process.kill().await
}

/// One that knows its owners by a key and the operator by its token, and that
/// ends streams soon, so that they have to begin again.
async fn catalog(rig: &Rig) -> Result<Catalog> {
    let (namespace, name) = REVIEWER;
    let kubeconfig = rig.api.service_account_kubeconfig(namespace, name).await?;
    let key = rig.folder().join("owners.key");
    std::fs::write(&key, "the-owners")?;
    let database = format!("sqlite://{}", rig.folder().join("token.db").display());
    let account = format!("--token-account={NAMESPACE}/{ACCOUNT}");
    let audience = format!("--token-audience={AUDIENCE}");
    let trusted = format!("--token-trusted-for={}s", TRUSTED.as_secs());
    let more = [
        audience.as_str(),
        account.as_str(),
        trusted.as_str(),
        "--stream-age=1s",
    ];
    let env = [
        ("KUBECONFIG", kubeconfig.as_os_str()),
        ("RUST_LOG", "trace".as_ref()),
    ];
    Catalog::guarded_with(
        rig.folder(),
        "token-catalog",
        CATALOG,
        &database,
        &key,
        &more,
        &env,
    )
    .await
}

async fn operator(
    rig: &Rig,
    token: &Path,
    catalog: &str,
) -> Result<crate::support::operator::Operator> {
    let token = token.to_str().context("a path of the rig")?;
    let args = [
        "run",
        "--catalog-url",
        catalog,
        "--catalog-token-file",
        token,
    ];
    let more = ["--listen", OPERATOR, "--period", "1s", "--log", "trace"];
    let args = args.iter().chain(&more).chain(&["--register=off"]);
    let operator = rig
        .operator("operator-token", Path::new(PROGRAM), args)
        .await?;
    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
    Ok(operator)
}

/// Status, type and text of an answer to whoever sends this.
async fn ask(catalog: &Catalog, token: Option<&str>) -> Result<(u16, String, String)> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut request = http.get(format!("{}/api/v1/services", catalog.url));
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await?;
    let kind = answer.headers().get("content-type").context("no type")?;
    let kind = kind.to_str()?.to_owned();
    Ok((answer.status().as_u16(), kind, answer.text().await?))
}

fn refused((status, kind, text): (u16, String, String), why: &str) -> Result<()> {
    ensure!(
        status == 401 && kind == "application/problem+json",
        "{status} {kind}"
    );
    let problem: Value = serde_json::from_str(&text)?;
    let detail = problem["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(why), "{problem}, not {why}");
    Ok(())
}

/// Whether CatalogSynced reads so, with these words in its message.
async fn said(rig: &Rig, namespace: &str, expected: &str, words: &str) -> Result<()> {
    let bindings = Api::<catalog_mesh_controller::api::service_binding::ServiceBinding>::namespaced(
        rig.client.clone(),
        namespace,
    );
    let status = bindings.get(NAME).await?.status.context("no status")?;
    let synced = status
        .conditions
        .iter()
        .find(|c| c.type_ == "CatalogSynced");
    let synced = synced.context("no condition")?;
    let reads = format!("{} {}", synced.status, synced.reason);
    ensure!(
        reads == expected && synced.message.contains(words),
        "{reads}: {}",
        synced.message
    );
    Ok(())
}

/// Changes the record, and waits until the operator has read it.
async fn timeout_arrives(
    rig: &Rig,
    catalog: &Catalog,
    namespace: &str,
    timeout: &str,
) -> Result<()> {
    let mut record = stack::record(&format!("{namespace}.{NAME}"), namespace, NAME);
    record["timeout"] = timeout.into();
    catalog.put(&record).await?;
    let rules = crate::scene::rules(rig, crate::scene::VS, namespace);
    wait::until(timeout, PATIENCE, async || {
        let rule = rules.get(NAME).await?;
        let now = &rule.data["spec"]["http"][0]["timeout"];
        ensure!(now == timeout, "{now}");
        Ok(())
    })
    .await
}

/// How many reviews the catalog has asked for since.
async fn reviews(rig: &Rig, since: Mark) -> Result<usize> {
    let (namespace, name) = REVIEWER;
    let user = format!("system:serviceaccount:{namespace}:{name}");
    Ok(rig
        .api
        .audit
        .writes_by(&user, since, &rig.client)
        .await?
        .len())
}

async fn the_documented_patch_mounts_a_token_in_a_pod_that_is_still_admitted(
    rig: &Rig,
) -> Result<()> {
    for folder in ["rbac", "deploy"] {
        rig.api.apply_manifests(&repository().join(folder)).await?;
    }
    let patch = repository().join("examples/catalog-token/operator-patch.yaml");
    let patch = patch.to_str().context("a path of the repository")?;
    let args = ["patch", "deployment", ACCOUNT, "-n", NAMESPACE];
    let more = ["--patch-file", patch, "--dry-run=server", "-o", "json"];
    let patched = rig.kubectl(&[&args[..], &more].concat()).await?;
    let patched: Value = serde_json::from_str(&patched)?;
    let template = &patched["spec"]["template"];
    let mut pod = json!({"metadata": template["metadata"], "spec": template["spec"]});
    pod["metadata"]["name"] = json!("with-a-token");
    let dry_run = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod = Api::<Pod>::namespaced(rig.client.clone(), NAMESPACE)
        .create(&dry_run, &serde_json::from_value(pod)?)
        .await?;
    let pod = serde_json::to_value(pod.spec)?;

    let container = &pod["containers"][0];
    let named = |list: &Value, name: &str| {
        let list = list.as_array().cloned().unwrap_or_default();
        list.into_iter().find(|item| item["name"] == name)
    };
    let file = named(&container["env"], "CATALOG_MESH_CATALOG_TOKEN_FILE").context("no flag")?;
    let mounted = named(&container["volumeMounts"], "catalog-token").context("no mount")?;
    let volume = named(&pod["volumes"], "catalog-token").context("no volume")?;
    let source = &volume["projected"]["sources"][0]["serviceAccountToken"];
    ensure!(
        *source == json!({"path": "token", "audience": AUDIENCE, "expirationSeconds": 3600}),
        "{source}"
    );
    let path = format!(
        "{}/token",
        mounted["mountPath"].as_str().unwrap_or_default()
    );
    ensure!(file["value"] == path.as_str(), "{file}, {mounted}");
    // What was there before is there still.
    ensure!(
        named(&container["volumeMounts"], "catalog-credentials").is_some()
            && named(&container["env"], "POD_NAME").is_some(),
        "{container}"
    );
    Ok(())
}
