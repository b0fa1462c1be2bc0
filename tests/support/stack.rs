//! The whole product on the rig: the catalog, and the operator with the rights
//! of rbac/ and nothing else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::audit::{Entry, Mark};
use super::catalog::Catalog;
use super::operator::Operator;
use super::rig::Rig;
use super::tools::repository;
use super::wait;

/// Where the operator's own port is.
pub const OPERATOR: &str = "127.0.0.1:9180";

/// Where its pages for people are.
pub const DEBUG: &str = "127.0.0.1:9182";

/// Where the catalog is.
pub const CATALOG: &str = "127.0.0.1:9080";

/// How long anything may take before a test fails. Nobody asserts on speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Catalog and operator, both running. Dropping it kills them.
pub struct Stack {
    pub catalog: Catalog,
    pub operator: Operator,
}

impl Stack {
    /// Starts both; the operator looks again every two seconds.
    pub async fn start(rig: &Rig, program: &Path) -> Result<Self> {
        Self::start_with(rig, program, &[]).await
    }

    /// The same with these flags of the operator.
    pub async fn start_with(rig: &Rig, program: &Path, more: &[&str]) -> Result<Self> {
        rig.api.apply_manifests(&repository().join("rbac")).await?;
        let catalog = Catalog::start(rig.folder(), "catalog", CATALOG).await?;
        let operator = operator(rig, "operator", program, &catalog.url, more).await?;
        Ok(Self { catalog, operator })
    }

    /// Kills both and waits until they are gone, so that others can start.
    pub async fn stop(&self) -> Result<()> {
        self.operator.process.kill().await?;
        self.catalog.process.kill().await
    }

    /// The changes that the operator asked for since a mark.
    pub async fn writes(&self, rig: &Rig, since: Mark) -> Result<Vec<Entry>> {
        rig.operator_writes(since).await
    }
}

/// An operator sees all namespaces: only one may run at a time.
static SHARED: Mutex<Option<Arc<Stack>>> = Mutex::const_new(None);

/// The one that tests share which do not run alone. It runs until the next
/// test that does.
pub async fn shared(rig: &Rig, program: &Path) -> Result<Arc<Stack>> {
    let mut shared = SHARED.lock().await;
    if let Some(stack) = &*shared {
        return Ok(Arc::clone(stack));
    }
    let stack = Arc::new(Stack::start(rig, program).await?);
    *shared = Some(Arc::clone(&stack));
    Ok(stack)
}

/// Stops the shared one, if it runs.
pub async fn stop_shared() -> Result<()> {
    match SHARED.lock().await.take() {
        Some(stack) => stack.stop().await,
        None => Ok(()),
    }
}

/// An operator that follows this catalog, ready and, unless it only reads,
/// leading. It does not give up its Lease while a test stops the API server,
/// unless flags of the test say how long it keeps it.
pub async fn operator(
    rig: &Rig,
    name: &str,
    program: &Path,
    catalog: &str,
    more: &[&str],
) -> Result<Operator> {
    operator_by(rig, name, program, ["--catalog-url", catalog], more).await
}

/// The same with this flag and value saying where the catalog is.
pub async fn operator_by(
    rig: &Rig,
    name: &str,
    program: &Path,
    [where_is, catalog]: [&str; 2],
    more: &[&str],
) -> Result<Operator> {
    let args = [
        "run",
        where_is,
        catalog,
        "--listen",
        OPERATOR,
        "--debug-listen",
        DEBUG,
        "--period",
        "2s",
    ];
    let said = more.iter().any(|arg| arg.starts_with("--lease-"));
    let lease = if said {
        &[][..]
    } else {
        &["--lease-duration=2m", "--lease-renew-deadline=100s"][..]
    };
    // Most tests write their bindings themselves.
    let said = more.iter().any(|arg| arg.starts_with("--register"));
    let register = if said {
        &[][..]
    } else {
        &["--register=off"][..]
    };
    let args = args.iter().chain(lease).chain(register).chain(more);
    let operator = rig.operator(name, program, args).await?;
    operator.ready(&format!("http://{OPERATOR}/readyz")).await?;
    if !more.contains(&"--read-only") {
        leads(&operator).await?;
    }
    Ok(operator)
}

/// Waits until the operator leads.
pub async fn leads(operator: &Operator) -> Result<()> {
    operator.leads(&format!("http://{OPERATOR}/metrics")).await
}

/// Removes every binding, of whichever test. No operator may be running.
pub async fn forget_bindings(rig: &Rig) -> Result<()> {
    let all = Api::<ServiceBinding>::all(rig.client.clone());
    let left = all.list_metadata(&ListParams::default()).await?;
    for metadata in left.items.into_iter().map(|binding| binding.metadata) {
        let namespace = metadata.namespace.unwrap_or_default();
        let name = metadata.name.unwrap_or_default();
        let bindings = Api::<ServiceBinding>::namespaced(rig.client.clone(), &namespace);
        let freed = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        let params = PatchParams::default();
        removed(bindings.patch_metadata(&name, &params, &freed).await)?;
        removed(bindings.delete(&name, &DeleteParams::default()).await)?;
    }
    Ok(())
}

/// One that is gone, or that is so wrong that it cannot be changed, is let be.
fn removed<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 422) => Ok(()),
        answer => Ok(answer.map(|_| ())?),
    }
}

/// A record of the catalog with nothing but what is required.
pub fn record(id: &str, namespace: &str, name: &str) -> Value {
    json!({"id": id, "namespace": namespace, "name": name})
}

/// A binding with nothing but what is required.
pub fn binding(namespace: &str, name: &str, id: &str) -> Value {
    json!({
        "apiVersion": "aikernel.io/v1alpha1",
        "kind": "ServiceBinding",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"catalogServiceId": id, "serviceName": name},
    })
}

/// Stores a binding as a user would.
pub async fn create(rig: &Rig, binding: &Value) -> Result<ServiceBinding> {
    let namespace = binding["metadata"]["namespace"]
        .as_str()
        .unwrap_or_default();
    let api = Api::<ServiceBinding>::namespaced(rig.client.clone(), namespace);
    let binding = serde_json::from_value(binding.clone())?;
    Ok(api
        .create(&kube::api::PostParams::default(), &binding)
        .await?)
}

/// The binding's condition as `status reason`, or nothing.
pub fn condition(binding: &ServiceBinding, type_: &str) -> Option<String> {
    let conditions = &binding.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.type_ == type_)?;
    Some(format!("{} {}", found.status, found.reason))
}

/// Waits until the binding's condition reads so, for its present generation.
pub async fn wait_for(
    rig: &Rig,
    namespace: &str,
    name: &str,
    type_: &str,
    expected: &str,
) -> Result<ServiceBinding> {
    let api = Api::<ServiceBinding>::namespaced(rig.client.clone(), namespace);
    let what = format!("{namespace}/{name} {type_}={expected}");
    wait::until(&what, PATIENCE, async || {
        let binding = api.get(name).await?;
        let said = condition(&binding, type_);
        let observed = binding.status.as_ref().and_then(|s| s.observed_generation);
        anyhow::ensure!(
            said.as_deref() == Some(expected) && observed == binding.metadata.generation,
            "it is {said:?}, status {:?}",
            binding.status
        );
        Ok(binding)
    })
    .await
}
