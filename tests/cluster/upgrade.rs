//! Does an upgrade go by unnoticed? Many bindings, requests to each of them through
//! Envoy, and a new operator in the place of the old one.
//!
//! `make upgrade` names an older version to begin with (`UPGRADE_FROM`, a folder
//! with its program and manifests), and more bindings. Without, this version takes
//! over from itself, which must cost no write at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::domain::labels::MANAGER;
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::scene::{DR, PROGRAM, VS};
use crate::support::catalog::Catalog;
use crate::support::envoy::{Envoy, Options};
use crate::support::operator::{ACCOUNT, Operator};
use crate::support::rig::Rig;
use crate::support::stack::{self, CATALOG, OPERATOR, PATIENCE};
use crate::support::tools::repository;
use crate::support::traffic::Traffic;
use crate::support::wait;
use crate::support::workload::{SERVICE_PORT, Workload};

crate::tests![
    ; alone:
    an_upgrade_under_traffic_fails_no_request_and_writes_only_what_is_announced(35)
];

/// Where the new operator's own port is, while the old one has the usual one.
const NEW_OPERATOR: &str = "127.0.0.1:9181";

/// Two of the operator's periods, and a little.
const TWO_PERIODS: Duration = Duration::from_millis(4_500);

/// Requests a second, to all services together.
const RATE: u32 = 100;

/// Every so many-th service is checked.
const CHECKED: usize = 10;

/// What is upgraded.
struct Old {
    program: PathBuf,
    /// With `crds/` and `rbac/`.
    manifests: PathBuf,
    is_older: bool,
    bindings: usize,
}

impl Old {
    fn asked_for() -> Result<Self> {
        let bindings = match std::env::var("UPGRADE_BINDINGS") {
            Ok(number) => number.parse().context("UPGRADE_BINDINGS is no number")?,
            Err(_) => 20,
        };
        Ok(match std::env::var_os("UPGRADE_FROM").map(PathBuf::from) {
            Some(folder) => Self {
                program: folder.join("catalog-mesh-controller"),
                manifests: folder.join("source"),
                is_older: true,
                bindings,
            },
            None => Self {
                program: PROGRAM.into(),
                manifests: repository().to_owned(),
                is_older: false,
                bindings,
            },
        })
    }

    /// How often a status may be written by the upgrade, as the changelog says.
    fn announced(&self, binding: usize) -> usize {
        match (self.is_older, is_checked(binding)) {
            (false, _) => 0,
            // Where the record was seen.
            (true, false) => 1,
            // The same, then what the checks find: Probing, and a verdict.
            (true, true) => 3,
        }
    }
}

/// How often a binding's status was written by each of the two, where they are of
/// different versions; otherwise all are the new one's.
#[derive(Clone, Copy, Debug, Default)]
struct Writes {
    old: usize,
    new: usize,
}

struct World<'a> {
    rig: &'a Rig,
    namespace: String,
    size: usize,
    /// Serves behind every Service.
    _workload: Workload,
}

async fn an_upgrade_under_traffic_fails_no_request_and_writes_only_what_is_announced(
    rig: &Rig,
) -> Result<()> {
    let old = Old::asked_for()?;
    install(rig, &old.manifests).await?;
    let catalog = Catalog::start(rig.folder(), "upgrade", CATALOG).await?;
    let world = World::make(rig, old.bindings).await?;
    let first = start(rig, "old", &old.program, &catalog.url, OPERATOR).await?;
    world.bind(&catalog).await?;
    if !old.is_older {
        for n in (0..world.size).filter(|n| is_checked(*n)) {
            let (namespace, name) = (&world.namespace, name(n));
            stack::wait_for(rig, namespace, &name, "Healthy", "True Healthy").await?;
        }
    }
    let envoy = world.envoy().await?;
    sleep(TWO_PERIODS).await;

    let mark = rig.audit_mark().await?;
    let before = world.rules().await?;
    let traffic = world.traffic(&envoy)?;
    install(rig, repository()).await?;
    let second = start(rig, "new", Path::new(PROGRAM), &catalog.url, NEW_OPERATOR).await?;
    // As a Deployment does it: both run for a while.
    sleep(TWO_PERIODS).await;
    ensure!(first.process.terminate(PATIENCE).await?, "a bad end");
    second
        .leads(&format!("http://{NEW_OPERATOR}/metrics"))
        .await?;
    world.has_looked_at_all(&second).await?;
    sleep(TWO_PERIODS).await;

    let mut sent = 0;
    for traffic in traffic {
        let requests = traffic.stop().await?;
        let failed: Vec<_> = requests.iter().filter(|sent| !sent.is_good()).collect();
        ensure!(failed.is_empty(), "{failed:?}");
        sent += requests.len();
    }
    ensure!(sent >= 3 * world.size, "only {sent} requests");
    ensure!(before == world.rules().await?, "an object was touched");
    let writes = world.writes(mark).await?;
    let of = |by: fn(&Writes) -> usize| writes.values().map(by).sum::<usize>();
    eprintln!(
        "upgrade of {} bindings: {sent} requests, none failed; {} statuses written, and {} by the old one meanwhile",
        world.size,
        of(|writes| writes.new),
        of(|writes| writes.old)
    );
    for n in 0..world.size {
        let writes = writes.get(&name(n)).copied().unwrap_or_default();
        let takes_turns = old.is_older && is_checked(n);
        ensure!(
            writes.new <= old.announced(n) + writes.old && (takes_turns || writes.old == 0),
            "{writes:?} of {}",
            name(n)
        );
    }
    world.wait_until_ready().await?;
    second.process.kill().await
}

/// What `kubectl apply -f crds/ -f rbac/` does; the rig's own apply of the CRDs
/// was a server-side one.
async fn install(rig: &Rig, manifests: &Path) -> Result<()> {
    let folder = |name: &str| manifests.join(name).display().to_string();
    let (crds, rbac) = (folder("crds"), folder("rbac"));
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", &crds];
    rig.kubectl(&apply).await?;
    rig.kubectl(&["apply", "-f", &rbac]).await?;
    Ok(())
}

/// An operator of either version, with the flags that both know.
async fn start(
    rig: &Rig,
    name: &str,
    program: &Path,
    catalog: &str,
    listen: &str,
) -> Result<Operator> {
    let args = [
        "run",
        "--catalog-url",
        catalog,
        "--listen",
        listen,
        "--period",
        "2s",
    ];
    let name = format!("operator-{name}");
    let operator = Operator::join(rig.folder(), &rig.api, ACCOUNT, &name, program, args).await?;
    operator.ready(&format!("http://{listen}/readyz")).await?;
    Ok(operator)
}

impl<'a> World<'a> {
    /// Services of one HTTP port each, all with the same three Pods.
    async fn make(rig: &'a Rig, size: usize) -> Result<Self> {
        let namespace = rig.namespace("upgrade").await?;
        let zones = ["zone-a", "zone-b", "zone-a"];
        let workload = rig.workload(&namespace, "app", &zones).await?;
        let services = Api::<Service>::namespaced(rig.client.clone(), &namespace);
        for n in 0..size {
            let service = serde_json::from_value(json!({
                "metadata": {"name": name(n)},
                "spec": {
                    "selector": {"app": "app"},
                    "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": 8080}],
                },
            }))?;
            services.create(&PostParams::default(), &service).await?;
        }
        Ok(Self {
            rig,
            namespace,
            size,
            _workload: workload,
        })
    }

    fn host(&self, n: usize) -> String {
        format!("{}.{}.svc.cluster.local", name(n), self.namespace)
    }

    /// A record and a binding for each Service, programmed.
    async fn bind(&self, catalog: &Catalog) -> Result<()> {
        for n in 0..self.size {
            let name = name(n);
            let mut record = stack::record(&name, &self.namespace, &name);
            record["timeout"] = json!("5s");
            // A failed request is not to be hidden by another attempt.
            record["retries"] = json!(0);
            record["circuitBreaker"] = json!({"consecutiveErrors": 5});
            if is_checked(n) {
                record["healthCheck"] = json!({"interval": "2s", "timeout": "1s"});
            }
            // First the binding: for a record without one the operator makes it.
            stack::create(self.rig, &stack::binding(&self.namespace, &name, &name)).await?;
            catalog.put(&record).await?;
        }
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&self) -> Result<()> {
        for n in 0..self.size {
            let (namespace, name) = (&self.namespace, name(n));
            stack::wait_for(self.rig, namespace, &name, "Ready", "True Synced").await?;
        }
        Ok(())
    }

    /// A client of the mesh that knows every Service and its policy.
    async fn envoy(&self) -> Result<Envoy> {
        let envoy = self
            .rig
            .envoy(&Options::in_namespace(&self.namespace))
            .await?;
        for n in 0..self.size {
            let host = self.host(n);
            envoy.wait_for_endpoints(&host, 3).await?;
            wait::until("the route's timeout", PATIENCE, async || {
                let routes = envoy.routes(&host, SERVICE_PORT).await?;
                let routes = serde_json::to_string(&routes)?;
                ensure!(routes.contains(r#""timeout":"5s""#), "{routes}");
                Ok(())
            })
            .await?;
        }
        Ok(envoy)
    }

    /// Requests to each Service.
    fn traffic(&self, envoy: &Envoy) -> Result<Vec<Traffic>> {
        let every = Duration::from_secs(1) * u32::try_from(self.size)? / RATE;
        let all = (0..self.size).map(|n| Traffic::start(envoy, &self.host(n), every));
        all.collect()
    }

    /// Uid, version and managers of each object in the mesh, and whose they are.
    async fn rules(&self) -> Result<BTreeMap<String, Value>> {
        let mut rules = BTreeMap::new();
        for kind in [VS, DR] {
            let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", kind);
            let resource = ApiResource::from_gvk(&gvk);
            let api = Api::<DynamicObject>::namespaced_with(
                self.rig.client.clone(),
                &self.namespace,
                &resource,
            );
            for rule in api.list(&ListParams::default()).await? {
                let metadata = rule.metadata;
                let managers: Vec<_> = metadata
                    .managed_fields
                    .iter()
                    .flatten()
                    .map(|entry| (entry.manager.as_deref(), entry.operation.as_deref()))
                    .collect();
                ensure!(managers == [(Some(MANAGER), Some("Apply"))], "{managers:?}");
                let name = metadata.name.unwrap_or_default();
                let known = json!([metadata.uid, metadata.resource_version]);
                rules.insert(format!("{kind} {name}"), known);
            }
        }
        ensure!(rules.len() == 2 * self.size, "{} objects", rules.len());
        Ok(rules)
    }

    /// Waits until the operator has had time for each binding.
    async fn has_looked_at_all(&self, operator: &Operator) -> Result<()> {
        let page = format!("http://{NEW_OPERATOR}/metrics");
        wait::until("a look at every binding", PATIENCE, async || {
            let samples = operator.metrics(&page).await?;
            let looks = samples.sum("controller_runtime_reconcile_total", &[]);
            let looks = looks.unwrap_or_default();
            ensure!(looks >= self.size as f64, "{looks} looks");
            Ok(())
        })
        .await
    }

    /// How often each binding's status was written since a mark. An error where
    /// anything else was written.
    async fn writes(&self, since: crate::support::audit::Mark) -> Result<BTreeMap<String, Writes>> {
        let mut statuses = BTreeMap::<_, Writes>::new();
        let new = concat!("catalog-mesh-controller/", env!("CARGO_PKG_VERSION"));
        for entry in self.rig.operator_writes(since).await? {
            let object = entry.object_ref.clone().context("about nothing")?;
            let is_status = object.resource == "servicebindings" && object.subresource == "status";
            ensure!(is_status, "nobody announced {entry:?}");
            let writes = statuses.entry(object.name).or_default();
            if entry.user_agent == new {
                writes.new += 1;
            } else {
                writes.old += 1;
            }
        }
        Ok(statuses)
    }
}

fn name(n: usize) -> String {
    format!("s{n}")
}

fn is_checked(n: usize) -> bool {
    n.is_multiple_of(CHECKED)
}
