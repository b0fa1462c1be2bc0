//! Who starts the operator that was installed? No node does in the rig, so this
//! plays the kubelet for the Pods of its Deployment: each becomes a process with
//! the arguments, the environment and the volumes of its Pod, the files of its
//! service account where every Pod has them, no kubeconfig, and a readiness that
//! its own probe says.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, Secret, ServiceAccount};
use kube::api::{Api, ListParams, PostParams};
use tokio::time::sleep;

use super::process::{Process, Spec};
use super::rig::Rig;
use super::workload::set_pod_ready;

/// Between two looks at the Pods.
const TICK: Duration = Duration::from_millis(100);
/// How long a process has to end.
const GRACE: Duration = Duration::from_secs(30);
/// Where the program expects its credentials unless it is told otherwise.
const CREDENTIALS: &str = "/etc/catalog-credentials";
/// Runs a program where the first argument's folder is that of its service account:
/// in a mount namespace of its own, whose /var/run has nothing else.
const AS_IN_A_POD: &str = "\
mount -t tmpfs tmpfs /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
mount --bind \"$1\" /var/run/secrets/kubernetes.io/serviceaccount
unset KUBECONFIG
shift
exec \"$@\"
";

/// Plays the kubelet for Pods with these labels in a namespace.
pub struct Kubelet<'a> {
    rig: &'a Rig,
    namespace: String,
    selector: String,
    program: PathBuf,
    http: reqwest::Client,
    running: BTreeMap<String, Running>,
}

struct Running {
    name: String,
    spec: PodSpec,
    folder: PathBuf,
    address: Ipv4Addr,
    process: Process,
    ready: bool,
}

impl<'a> Kubelet<'a> {
    pub fn new(rig: &'a Rig, namespace: &str, selector: &str, program: &Path) -> Result<Self> {
        Ok(Self {
            rig,
            namespace: namespace.to_owned(),
            selector: selector.to_owned(),
            program: program.to_owned(),
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(1))
                .build()?,
            running: BTreeMap::new(),
        })
    }

    /// Does so for ever, or until something fails. Dropping it kills what runs.
    pub async fn run(mut self) -> Result<()> {
        let ours = ListParams::default().labels(&self.selector);
        loop {
            let listed = self.pods().list(&ours).await?.items;
            let named = |pod: Pod| Some((pod.metadata.uid.clone()?, pod));
            let mut there: BTreeMap<_, _> = listed.into_iter().filter_map(named).collect();
            for uid in self.running.keys().cloned().collect::<Vec<_>>() {
                if there.remove(&uid).is_some() {
                    continue;
                }
                if let Some(gone) = self.running.remove(&uid) {
                    // It may have lost its account with its Namespace already.
                    let _well = gone.process.terminate(GRACE).await?;
                }
            }
            for (uid, pod) in there {
                if !self.has_account(&pod).await? {
                    continue;
                }
                let started = self.start(pod).await?;
                self.running.insert(uid, started);
            }
            for running in self.running.values_mut() {
                fill_volumes(self.rig, &self.namespace, &running.spec, &running.folder).await?;
            }
            self.probe().await?;
            sleep(TICK).await;
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.rig.client.clone(), &self.namespace)
    }

    /// Without it no Pod starts; it may be applied later.
    async fn has_account(&self, pod: &Pod) -> Result<bool> {
        let accounts = Api::<ServiceAccount>::namespaced(self.rig.client.clone(), &self.namespace);
        let there = accounts.get_opt(account(pod.spec.as_ref())).await?;
        Ok(there.is_some())
    }

    async fn start(&mut self, pod: Pod) -> Result<Running> {
        let name = pod.metadata.name.context("a pod without a name")?;
        let spec = pod.spec.context("a pod without a spec")?;
        let container = spec.containers.first().context("no container")?.clone();
        let address = self.rig.addresses.next()?;
        let folder = self.rig.folder().join(&name);
        fill_volumes(self.rig, &self.namespace, &spec, &folder).await?;
        let own = folder.join("serviceaccount");
        let api = &self.rig.api;
        let found = api
            .service_account_files(&self.namespace, account(Some(&spec)), &own)
            .await?;
        let fields = BTreeMap::from([
            ("metadata.name", name.clone()),
            ("metadata.namespace", self.namespace.clone()),
            ("status.podIP", address.to_string()),
        ]);
        let env = environment(&container, &fields)?;
        let place = |text: &str| placed(text, &container, &env, &folder);
        let args = container.args.iter().flatten().map(|arg| place(arg));
        let mut process = Spec::new(name.clone(), "unshare", self.rig.folder())
            .args(["--mount", "--", "sh", "-euc", AS_IN_A_POD, "sh"])
            .arg(own)
            .arg(&self.program)
            .args(args)
            // Every Pod has an address of its own, which no process here has.
            .env(
                "CATALOG_MESH_LISTEN",
                format!("{address}:{}", port(&container)?),
            )
            .env("CATALOG_MESH_DEBUG_LISTEN", "127.0.0.1:0")
            .env("CATALOG_MESH_CATALOG_CREDENTIALS", place(CREDENTIALS));
        for (key, value) in &env {
            process = process.env(key, place(value));
        }
        for (key, value) in found {
            process = process.env(key, value);
        }
        Ok(Running {
            process: process.spawn()?,
            ready: false,
            name,
            spec,
            folder,
            address,
        })
    }

    /// Says of each Pod whether its probe succeeds, where that is news.
    async fn probe(&mut self) -> Result<()> {
        let pods = self.pods();
        let namespaces = Api::<Namespace>::all(self.rig.client.clone());
        for running in self.running.values_mut() {
            if let Some(how) = running.process.has_ended().await {
                let namespace = namespaces.get_opt(&self.namespace).await?;
                if namespace.is_none_or(|n| n.metadata.deletion_timestamp.is_some()) {
                    // Its rights and its Lease may go before its Pod does.
                    continue;
                }
                bail!("{} ended by itself, {how}", running.name);
            }
            let container = running.spec.containers.first().context("no container")?;
            let probe = container.readiness_probe.as_ref();
            let path = probe.and_then(|probe| probe.http_get.as_ref()?.path.clone());
            let url = format!(
                "http://{}:{}{}",
                running.address,
                port(container)?,
                path.context("no readiness probe")?
            );
            let answer = self.http.get(url).send().await;
            let ready = answer.is_ok_and(|answer| answer.status().is_success());
            if ready != running.ready {
                match set_pod_ready(&pods, &running.name, running.address, ready).await {
                    // It may be gone since it was listed.
                    Err(error) if format!("{error:#}").contains("not found") => {}
                    told => {
                        told?;
                        running.ready = ready;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whose token the Pod has.
fn account(spec: Option<&PodSpec>) -> &str {
    let named = spec.and_then(|spec| spec.service_account_name.as_deref());
    named.unwrap_or("default")
}

fn port(container: &Container) -> Result<i32> {
    let port = container.ports.iter().flatten().next();
    Ok(port.context("no port")?.container_port)
}

fn environment(
    container: &Container,
    fields: &BTreeMap<&str, String>,
) -> Result<BTreeMap<String, String>> {
    let mut env = BTreeMap::new();
    for var in container.env.iter().flatten() {
        let field = var
            .value_from
            .as_ref()
            .and_then(|from| from.field_ref.as_ref());
        let value = match field {
            Some(field) => {
                let path = field.field_path.as_str();
                fields.get(path).with_context(|| path.to_owned())?.clone()
            }
            None => var.value.clone().unwrap_or_default(),
        };
        env.insert(var.name.clone(), value);
    }
    Ok(env)
}

/// The text with variables expanded and paths of volumes as they are here.
fn placed(
    text: &str,
    container: &Container,
    env: &BTreeMap<String, String>,
    folder: &Path,
) -> String {
    let mut text = text.to_owned();
    for (name, value) in env {
        text = text.replace(&format!("$({name})"), value);
    }
    for mount in container.volume_mounts.iter().flatten() {
        let here = folder.join(&mount.name).to_string_lossy().into_owned();
        text = text.replace(&mount.mount_path, &here);
    }
    text
}

/// Brings the Pod's volumes into step with what they are made of.
async fn fill_volumes(rig: &Rig, namespace: &str, spec: &PodSpec, folder: &Path) -> Result<()> {
    for volume in spec.volumes.iter().flatten() {
        let folder = folder.join(&volume.name);
        fs::create_dir_all(&folder)?;
        if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().context("a nameless Secret")?;
            let secrets = Api::<Secret>::namespaced(rig.client.clone(), namespace);
            let secret = secrets.get_opt(name).await?;
            for (key, value) in secret.and_then(|secret| secret.data).into_iter().flatten() {
                let file = folder.join(key);
                if fs::read(&file).ok().as_ref() != Some(&value.0) {
                    fs::write(file, value.0)?;
                }
            }
        }
        let sources = volume
            .projected
            .iter()
            .flat_map(|p| p.sources.iter().flatten());
        for token in sources.filter_map(|source| source.service_account_token.as_ref()) {
            let file = folder.join(&token.path);
            if file.exists() {
                continue;
            }
            let request = TokenRequest {
                spec: Some(TokenRequestSpec {
                    audiences: token.audience.clone().map(|audience| vec![audience]),
                    expiration_seconds: token.expiration_seconds,
                    ..TokenRequestSpec::default()
                }),
                ..TokenRequest::default()
            };
            let accounts = Api::<ServiceAccount>::namespaced(rig.client.clone(), namespace);
            let answer = accounts
                .create_token_request(account(Some(spec)), &PostParams::default(), &request)
                .await?;
            let token = answer.status.and_then(|status| status.token);
            fs::write(file, token.context("no token")?)?;
        }
    }
    Ok(())
}
