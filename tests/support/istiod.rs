//! How does istiod run beside a bare API server? Without a CA and without
//! anything that only Istio's own build of Envoy understands, with plain xDS
//! on loopback and its validating webhook registered by URL.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, DeleteParams, ObjectMeta, PostParams};
use serde_json::{Value, json};

use super::apiserver::{ApiServer, base64};
use super::metrics::{self, Samples};
use super::pki::Pki;
use super::process::{Process, Spec};
use super::tools::Tool;

/// Where it serves plain xDS.
pub const XDS_PORT: u16 = 15010;
/// What istiod calls the cluster, and an Envoy must call it too.
pub const CLUSTER_ID: &str = "Kubernetes";
const ROOT_NAMESPACE: &str = "istio-system";
const HTTP: &str = "http://127.0.0.1:8080";
const MONITORING: &str = "http://127.0.0.1:15014";
const WEBHOOK: &str = "https://127.0.0.1:15017/validate";
const WEBHOOK_NAME: &str = "rig-istio-validator";

/// The control plane of the mesh.
pub struct Istiod {
    pub process: Process,
    http: reqwest::Client,
    client: kube::Client,
    authority: String,
}

impl Istiod {
    /// Starts it, waits until it is ready and registers its webhook.
    pub async fn start(run: &Path, pki: &Pki, api: &ApiServer) -> Result<Self> {
        make_root_namespace(&api.client).await?;
        let istiod = Self {
            process: spec(run, pki, &api.kubeconfig)?.spawn()?,
            http: reqwest::Client::builder().no_proxy().build()?,
            client: api.client.clone(),
            authority: pki.authority(),
        };
        istiod.wait_until_ready().await?;
        istiod.register_webhook().await?;
        Ok(istiod)
    }

    /// Kills it. Its webhook stays registered, and so refuses every write to
    /// Istio's objects until it is back.
    pub async fn stop(&self) -> Result<()> {
        self.process.kill().await
    }

    /// Starts it again after [`Self::stop`].
    pub async fn start_again(&self) -> Result<()> {
        self.process.start().await?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        self.process
            .ready(async || {
                self.http
                    .get(format!("{HTTP}/ready"))
                    .send()
                    .await?
                    .error_for_status()?;
                Ok(())
            })
            .await
    }

    /// Has the API server ask istiod before it stores any of Istio's objects,
    /// and refuse them where istiod does not answer.
    pub async fn register_webhook(&self) -> Result<()> {
        let webhook = json!({
            "name": "validation.istio.io",
            "clientConfig": { "url": WEBHOOK, "caBundle": base64(&self.authority) },
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "rules": [{
                "operations": ["CREATE", "UPDATE"],
                "apiGroups": [
                    "security.istio.io",
                    "networking.istio.io",
                    "telemetry.istio.io",
                    "extensions.istio.io",
                ],
                "apiVersions": ["*"],
                "resources": ["*"],
            }],
        });
        let configuration = ValidatingWebhookConfiguration {
            metadata: ObjectMeta {
                name: Some(WEBHOOK_NAME.to_owned()),
                ..ObjectMeta::default()
            },
            webhooks: Some(vec![serde_json::from_value(webhook)?]),
        };
        self.webhooks()
            .create(&PostParams::default(), &configuration)
            .await?;
        Ok(())
    }

    pub async fn unregister_webhook(&self) -> Result<()> {
        self.webhooks()
            .delete(WEBHOOK_NAME, &DeleteParams::default())
            .await?;
        Ok(())
    }

    fn webhooks(&self) -> Api<ValidatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    /// One of its debug pages, `syncz` for example.
    pub async fn debug(&self, page: &str) -> Result<Value> {
        let answer = self.http.get(format!("{HTTP}/debug/{page}")).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    pub async fn metrics(&self) -> Result<Samples> {
        metrics::scrape(&self.http, &format!("{MONITORING}/metrics")).await
    }

    /// Fails if any Envoy has refused what istiod sent it, since its start.
    pub async fn expect_no_nack(&self) -> Result<()> {
        let metrics = self.metrics().await?;
        let refused: Vec<String> = metrics
            .starting_with("pilot_")
            .filter(|(series, value)| {
                *value > 0.0
                    && [
                        "_cds_reject",
                        "_eds_reject",
                        "_rds_reject",
                        "_lds_reject",
                        "_xds_rejects",
                    ]
                    .iter()
                    .any(|ending| {
                        series
                            .split('{')
                            .next()
                            .unwrap_or_default()
                            .ends_with(ending)
                    })
            })
            .map(|(series, value)| format!("{series} {value}"))
            .collect();
        if !refused.is_empty() {
            bail!(
                "Envoy refused some of istiod's configuration: {}",
                refused.join(", ")
            );
        }
        Ok(())
    }
}

async fn make_root_namespace(client: &kube::Client) -> Result<()> {
    let namespace = Namespace {
        metadata: ObjectMeta {
            name: Some(ROOT_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    };
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces
        .create(&PostParams::default(), &namespace)
        .await
        .context("istiod's namespace")?;
    Ok(())
}

fn spec(run: &Path, pki: &Pki, kubeconfig: &Path) -> Result<Spec> {
    let mesh = run.join("mesh.json");
    fs::write(
        &mesh,
        json!({
            "enableAutoMtls": false,
            "enableTracing": false,
            "ingressControllerMode": "OFF",
            "rootNamespace": ROOT_NAMESPACE,
        })
        .to_string(),
    )?;
    let files = pki.server_files(run, "istiod", &[])?;
    let mut spec = Spec::new("istiod", Tool::PilotDiscovery.path()?, run)
        .spares_no_memory()
        .arg("discovery")
        .args(["--kubeconfig".into(), kubeconfig.to_owned()])
        .args(["--meshConfig".into(), mesh])
        .args(["--tlsCertFile".into(), files.certificate])
        .args(["--tlsKeyFile".into(), files.key])
        .args(["--caCertFile".into(), files.authority])
        .args(["--domain", "cluster.local", "--secureGRPCAddr", ""])
        .args(["--grpcAddr".to_owned(), format!("127.0.0.1:{XDS_PORT}")])
        .args([
            "--httpAddr",
            "127.0.0.1:8080",
            "--monitoringAddr",
            "127.0.0.1:15014",
        ])
        .args(["--httpsAddr", "127.0.0.1:15017"])
        .args(["--ctrlz_port", "9876", "--ctrlz_address", "127.0.0.1"])
        .args(["--log_output_level", "default:info"]);
    for (name, value) in [
        ("POD_NAMESPACE", ROOT_NAMESPACE),
        ("POD_NAME", "istiod-0"),
        ("CLUSTER_ID", CLUSTER_ID),
        ("ENABLE_CA_SERVER", "false"),
        ("PILOT_CERT_PROVIDER", "none"),
        ("ENABLE_LEADER_ELECTION", "false"),
        ("INJECT_ENABLED", "false"),
        ("VALIDATION_WEBHOOK_CONFIG_NAME", ""),
        ("INJECTION_WEBHOOK_CONFIG_NAME", ""),
        ("PILOT_ENABLE_GATEWAY_API", "false"),
        ("PILOT_ENABLE_AMBIENT", "false"),
        ("PILOT_ENABLE_IP_AUTOALLOCATE", "false"),
        // Filters that are not in the plain build of Envoy.
        ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
        ("PILOT_ENABLE_ALPN_FILTER", "false"),
    ] {
        spec = spec.env(name, value);
    }
    Ok(spec)
}
