//! How does the Kubernetes control plane of a run start? etcd, the API server
//! with RBAC, priority-and-fairness and an audit log, then the CRDs, then the
//! controller-manager: its garbage collector learns of kinds that come later
//! only after half a minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::audit::AuditLog;
use super::kubectl::{Cli, Output};
use super::pki::{Pki, ServerFiles};
use super::process::{Process, Spec};
use super::tools::{self, Tool};

/// The API server's address, inside the namespace.
pub const URL: &str = "https://127.0.0.1:6443";
/// Its port, on every address.
pub const PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";
/// Only these: nothing schedules or runs pods here.
const CONTROLLERS: &str =
    "garbagecollector,namespace,endpointslice,serviceaccount,serviceaccount-token";
/// Longer than any run.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// The control plane of one run.
pub struct ApiServer {
    pub etcd: Process,
    pub server: Process,
    pub controllers: Process,
    pub audit: AuditLog,
    /// Of a cluster administrator.
    pub kubeconfig: PathBuf,
    pub client: kube::Client,
    pub kubectl: Cli,
    run: PathBuf,
    authority: String,
    /// Whoever applies manifests: two that make the same object at once would be in
    /// each other's way.
    applying: Mutex<()>,
}

impl ApiServer {
    /// Starts everything and waits until it serves, with Istio's CRDs and the
    /// repository's own established. `more` are further flags of the server.
    pub async fn start(run: &Path, pki: &Pki, more: &[&str]) -> Result<Self> {
        let etcd = start_etcd(run).await?;
        let files = pki.server_files(run, "apiserver", &["localhost", "kubernetes.default.svc"])?;
        let audit = AuditLog::new(run.join("audit.jsonl"));
        let server = apiserver_spec(run, &files, audit.path())?
            .args(more)
            .spawn()?;

        let admin = pki.user("admin", "system:masters")?;
        let user = json!({
            "client-certificate-data": base64(&admin.certificate),
            "client-key-data": base64(&admin.key),
        });
        let kubeconfig = write_kubeconfig(run, "admin", &pki.authority(), user)?;
        let client = client(&kubeconfig).await?;
        server
            .ready(async || {
                client
                    .request_text(http::Request::get("/readyz").body(Vec::new())?)
                    .await?;
                // It is made a moment after the server calls itself ready.
                Api::<Namespace>::all(client.clone()).get("default").await?;
                Ok(())
            })
            .await?;

        let kubectl = Cli::new(Tool::Kubectl, &kubeconfig, run);
        apply_crds(&kubectl).await?;
        let controllers = start_controllers(run, &kubeconfig, "", CONTROLLERS)?;
        Ok(Self {
            etcd,
            server,
            controllers,
            audit,
            kubeconfig,
            client,
            kubectl,
            run: run.to_owned(),
            authority: pki.authority(),
            applying: Mutex::default(),
        })
    }

    /// Starts further controllers beside those that always run: of Deployments,
    /// for example.
    pub fn more_controllers(&self, name: &str, controllers: &str) -> Result<Process> {
        start_controllers(&self.run, &self.kubeconfig, name, controllers)
    }

    /// Applies the CustomResourceDefinitions and the policies of deploy/, as
    /// they were applied at the start.
    pub async fn apply_crds(&self) -> Result<()> {
        apply_crds(&self.kubectl).await
    }

    /// Starts the server again after it was killed, and with it the controllers:
    /// left to themselves they take up to half a minute until they watch again.
    pub async fn start_again(&self) -> Result<()> {
        self.server.start().await?;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        self.server
            .ready(async || {
                namespaces.get("default").await?;
                Ok(())
            })
            .await?;
        self.controllers.kill().await?;
        self.controllers.start().await
    }

    /// Applies a manifest, or the manifests of a folder but not of its
    /// sub-folders, as a user would.
    pub async fn apply_manifests(&self, path: &Path) -> Result<()> {
        let path = path.to_str().context("the path is not UTF-8")?;
        let _one_by_one = self.applying.lock().await;
        self.kubectl.ok(&["apply", "-f", path]).await?;
        Ok(())
    }

    /// Runs `kubectl apply` with these arguments while nobody else applies: two that
    /// find an object missing would both make it.
    pub async fn apply(&self, args: &[&str]) -> Result<Output> {
        let _one_by_one = self.applying.lock().await;
        self.kubectl.run(&[&["apply"], args].concat()).await
    }

    /// Has etcd forget all versions before the present one, as it does by itself
    /// every few minutes.
    pub async fn compact(&self) -> Result<()> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let ask = async |what: &str, body: Value| -> Result<Value> {
            let answer = http
                .post(format!("{ETCD}/v3/kv/{what}"))
                .body(body.to_string());
            let answer = answer.send().await?.error_for_status()?;
            Ok(serde_json::from_str(&answer.text().await?)?)
        };
        let header = &ask("range", json!({"key": base64("x")})).await?["header"];
        let revision = header["revision"].as_str().context("no revision")?;
        let all = json!({"revision": revision, "physical": true});
        ask("compaction", all).await?;
        Ok(())
    }

    /// A kubeconfig with a real token of this service account; makes the
    /// account and its namespace where they are missing.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        self.make_service_account(namespace, name).await?;
        let token = self.service_account_token(namespace, name).await?;
        let file = format!("{namespace}.{name}");
        write_kubeconfig(&self.run, &file, &self.authority, json!({ "token": token }))
    }

    /// What a Pod of this service account finds in place of a kubeconfig: fills
    /// this folder, and returns the environment that goes with it.
    pub async fn service_account_files(
        &self,
        namespace: &str,
        name: &str,
        folder: &Path,
    ) -> Result<[(&'static str, &'static str); 2]> {
        let token = self.service_account_token(namespace, name).await?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("token"), token)?;
        fs::write(folder.join("ca.crt"), &self.authority)?;
        fs::write(folder.join("namespace"), namespace)?;
        Ok([
            ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", "6443"),
        ])
    }

    async fn make_service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let metadata = |name: &str| ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        let _one_by_one = self.applying.lock().await;
        let namespaces = Api::<Namespace>::all(self.client.clone());
        if namespaces.get_opt(namespace).await?.is_none() {
            let new = Namespace {
                metadata: metadata(namespace),
                ..Namespace::default()
            };
            namespaces.create(&PostParams::default(), &new).await?;
        }
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        if accounts.get_opt(name).await?.is_none() {
            let new = ServiceAccount {
                metadata: metadata(name),
                ..ServiceAccount::default()
            };
            accounts.create(&PostParams::default(), &new).await?;
        }
        Ok(())
    }

    async fn service_account_token(&self, namespace: &str, name: &str) -> Result<String> {
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await?;
        let status = answer.status.context("the token request has no answer")?;
        status.token.context("the answer has no token")
    }
}

/// A client for the user of a kubeconfig file.
pub async fn client(kubeconfig: &Path) -> Result<kube::Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

async fn start_etcd(run: &Path) -> Result<Process> {
    let etcd = Spec::new("etcd", Tool::Etcd.path()?, run)
        .args(["--data-dir".into(), run.join("etcd")])
        .args([
            "--listen-client-urls",
            ETCD,
            "--advertise-client-urls",
            ETCD,
        ])
        .args(["--listen-peer-urls", ETCD_PEERS])
        .args(["--initial-advertise-peer-urls", ETCD_PEERS])
        .args([
            "--initial-cluster".to_owned(),
            format!("default={ETCD_PEERS}"),
        ])
        // The data dies with the run; an fsync would only slow it down.
        .arg("--unsafe-no-fsync=true")
        .spawn()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    etcd.ready(async || {
        http.get(format!("{ETCD}/health"))
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    })
    .await?;
    Ok(etcd)
}

fn apiserver_spec(run: &Path, files: &ServerFiles, audit_log: &Path) -> Result<Spec> {
    let key = rcgen::KeyPair::generate()?;
    let (signing, verifying) = (
        run.join("service-accounts.key"),
        run.join("service-accounts.pub"),
    );
    fs::write(&signing, key.serialize_pem())?;
    fs::write(&verifying, key.public_key_pem())?;

    let policy = run.join("audit-policy.json");
    fs::write(
        &policy,
        json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{ "level": "Metadata" }],
        })
        .to_string(),
    )?;

    let file = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    Ok(
        Spec::new("kube-apiserver", Tool::KubeApiserver.path()?, run)
            .spares_no_memory()
            .arg(format!("--etcd-servers={ETCD}"))
            .args([
                // On the addresses of Pods too, as a real one is on its node's.
                "--bind-address=0.0.0.0",
                "--advertise-address=127.0.0.1",
                "--secure-port=6443",
            ])
            .arg(file("cert-dir", &run.join("certs")))
            .arg(file("tls-cert-file", &files.certificate))
            .arg(file("tls-private-key-file", &files.key))
            .arg(file("client-ca-file", &files.authority))
            .arg(format!("--service-account-issuer={URL}/"))
            .arg(file("service-account-key-file", &verifying))
            .arg(file("service-account-signing-key-file", &signing))
            .arg("--authorization-mode=RBAC")
            .arg("--service-cluster-ip-range=10.0.0.0/16")
            // Pods need no account here, and so no mounted token either.
            .arg("--disable-admission-plugins=ServiceAccount")
            .arg("--allow-privileged=true")
            // There is one server, and its endpoint is a loopback address, which
            // the default reconciler would be refused every ten seconds.
            .arg("--endpoint-reconciler-type=none")
            .arg(file("audit-policy-file", &policy))
            .arg(file("audit-log-path", audit_log))
            // In MB; a rotation would lose what a test counts.
            .arg("--audit-log-maxsize=4096"),
    )
}

fn start_controllers(
    run: &Path,
    kubeconfig: &Path,
    name: &str,
    controllers: &str,
) -> Result<Process> {
    Spec::new(
        format!("kube-controller-manager{name}"),
        Tool::KubeControllerManager.path()?,
        run,
    )
    .arg(format!("--kubeconfig={}", kubeconfig.display()))
    .args(["--leader-elect=false", "--secure-port=0"])
    .arg(format!("--controllers={controllers}"))
    .arg(format!(
        "--service-account-private-key-file={}",
        run.join("service-accounts.key").display()
    ))
    .args(["--kube-api-qps=500", "--kube-api-burst=1000"])
    .spawn()
}

/// With them the policies of deploy/: whatever a test has the operator do, it
/// does under them.
async fn apply_crds(kubectl: &Cli) -> Result<()> {
    let policies = [
        "50-bindings-elsewhere.yaml",
        "60-only-own-rules.yaml",
        "70-only-own-marks.yaml",
    ];
    let repository = tools::repository();
    let mut paths = vec![tools::istio_crds()?, repository.join("crds")];
    paths.extend(policies.map(|policy| repository.join("deploy").join(policy)));
    let mut args = vec!["apply", "--server-side", "--force-conflicts"];
    for path in &paths {
        args.extend(["-f", path.to_str().context("path")?]);
    }
    kubectl.ok(&args).await?;
    let limit = format!("--timeout={}s", Duration::from_secs(60).as_secs());
    kubectl
        .ok(&[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            &limit,
        ])
        .await?;
    Ok(())
}

/// JSON, which is YAML too.
fn write_kubeconfig(run: &Path, name: &str, authority: &str, user: Value) -> Result<PathBuf> {
    let path = run.join(format!("{name}.kubeconfig"));
    let cluster = json!({ "server": URL, "certificate-authority-data": base64(authority) });
    let content = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "rig", "cluster": cluster }],
        "users": [{ "name": name, "user": user }],
        "contexts": [{ "name": "rig", "context": { "cluster": "rig", "user": name } }],
        "current-context": "rig",
    });
    fs::write(&path, format!("{content:#}"))?;
    Ok(path)
}

/// As Kubernetes writes bytes.
pub fn base64(text: &str) -> Value {
    json!(k8s_openapi::ByteString(text.as_bytes().to_vec()))
}
