//! What most tests of the operator need: a namespace, catalog and operator
//! beside it, and short words for what users, owners and strangers do there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use catalog_mesh_controller::api::service_binding::ServiceBinding;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::events::v1::Event;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::support::audit::{Entry, Mark};
use crate::support::catalog::Catalog;
use crate::support::rig::Rig;
use crate::support::stack::{self, PATIENCE, Stack, condition};
use crate::support::wait;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_catalog-mesh-controller");
pub(crate) const UID: &str = "catalog-mesh.aikernel.io/binding-uid";
pub(crate) const ADOPT: &str = "catalog-mesh.aikernel.io/adopt";
pub(crate) const IGNORE: &str = "catalog-mesh.aikernel.io/ignore";
pub(crate) const PAUSED: &str = "catalog-mesh.aikernel.io/paused";
pub(crate) const GRANT: &str = "catalog-mesh.aikernel.io/allow-bindings-from";
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
pub(crate) const FINALIZER: &str = "catalog-mesh.aikernel.io/cleanup";

/// The two kinds that the operator writes.
pub(crate) const VS: &str = "VirtualService";
pub(crate) const DR: &str = "DestinationRule";

/// One test's own corner of the cluster.
pub(crate) struct Scene<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) stack: Arc<Stack>,
    pub(crate) namespace: String,
}

impl<'a> Scene<'a> {
    /// Beside the catalog and operator that all share.
    pub(crate) async fn shared(rig: &'a Rig, name: &str) -> Result<Self> {
        let stack = stack::shared(rig, Path::new(PROGRAM)).await?;
        Self::beside(rig, stack, name).await
    }

    /// Beside a catalog and an operator of its own, for a test that runs alone.
    pub(crate) async fn alone(rig: &'a Rig, name: &str) -> Result<Self> {
        let stack = Arc::new(Stack::start(rig, Path::new(PROGRAM)).await?);
        Self::beside(rig, stack, name).await
    }

    /// In a namespace of its own beside these.
    pub(crate) async fn beside(rig: &'a Rig, stack: Arc<Stack>, name: &str) -> Result<Self> {
        let namespace = rig.namespace(name).await?;
        Ok(Self {
            rig,
            stack,
            namespace,
        })
    }

    /// Another namespace with the same catalog and operator.
    pub(crate) async fn neighbour(&self, name: &str) -> Result<Self> {
        Self::beside(self.rig, Arc::clone(&self.stack), name).await
    }

    /// The name that clients call the Service by.
    pub(crate) fn host(&self, name: &str) -> String {
        format!("{name}.{}.svc.cluster.local", self.namespace)
    }

    // --- the cluster's users -------------------------------------------------

    /// A Service with one HTTP port and nothing behind it.
    pub(crate) async fn service(&self, name: &str) -> Result<()> {
        self.service_with(name, json!({"ports": [{"name": "http", "port": 80}]}))
            .await
    }

    pub(crate) async fn service_with(&self, name: &str, spec: Value) -> Result<()> {
        let service = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        self.services()
            .create(&PostParams::default(), &service)
            .await?;
        Ok(())
    }

    pub(crate) fn services(&self) -> Api<Service> {
        Api::namespaced(self.rig.client.clone(), &self.namespace)
    }

    /// A binding that nobody has stored yet.
    pub(crate) fn binding(&self, name: &str) -> Value {
        stack::binding(&self.namespace, name, &self.id(name))
    }

    pub(crate) async fn create(&self, binding: &Value) -> Result<ServiceBinding> {
        stack::create(self.rig, binding).await
    }

    /// Service, record and binding, synchronised.
    pub(crate) async fn bound(&self, name: &str) -> Result<ServiceBinding> {
        self.service(name).await?;
        self.put(&self.record(name)).await?;
        self.create(&self.binding(name)).await?;
        self.synced(name).await
    }

    pub(crate) fn bindings(&self) -> Api<ServiceBinding> {
        Api::namespaced(self.rig.client.clone(), &self.namespace)
    }

    /// Changes the binding as its user would.
    pub(crate) async fn change(&self, name: &str, patch: Value) -> Result<ServiceBinding> {
        let params = PatchParams::default();
        Ok(self
            .bindings()
            .patch(name, &params, &Patch::Merge(patch))
            .await?)
    }

    pub(crate) async fn delete_binding(&self, name: &str) -> Result<()> {
        self.bindings()
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Waits until the binding is no longer there.
    pub(crate) async fn gone(&self, name: &str) -> Result<()> {
        wait::until(
            &format!("the end of binding {name}"),
            PATIENCE,
            async || {
                let left = self.bindings().get_opt(name).await?;
                ensure!(left.is_none(), "it is still there: {left:?}");
                Ok(())
            },
        )
        .await
    }

    /// Deletes all bindings of this scene, and waits until they are gone: what a
    /// test has checked is not to be checked while others run.
    pub(crate) async fn unbind(&self) -> Result<()> {
        for binding in self.bindings().list(&ListParams::default()).await? {
            let name = binding.name_any();
            self.delete_binding(&name).await?;
            self.gone(&name).await?;
        }
        Ok(())
    }

    /// Annotates this scene's Namespace; without a value the annotation goes.
    pub(crate) async fn annotate_namespace(&self, key: &str, value: Option<&str>) -> Result<()> {
        annotate_namespace(self.rig, &self.namespace, key, value).await
    }

    // --- the catalog's owners ------------------------------------------------

    pub(crate) fn id(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// A record that fills something of both objects.
    pub(crate) fn record(&self, name: &str) -> Value {
        let mut record = stack::record(&self.id(name), &self.namespace, name);
        record["timeout"] = json!("5s");
        record["circuitBreaker"] = json!({"consecutiveErrors": 5});
        record
    }

    pub(crate) async fn put(&self, record: &Value) -> Result<()> {
        self.stack.catalog.put(record).await
    }

    // --- what the operator says ----------------------------------------------

    pub(crate) async fn synced(&self, name: &str) -> Result<ServiceBinding> {
        stack::wait_for(self.rig, &self.namespace, name, "Ready", "True Synced").await
    }

    /// Waits until the condition reads so, whichever generation it is about.
    pub(crate) async fn says(
        &self,
        name: &str,
        type_: &str,
        expected: &str,
    ) -> Result<ServiceBinding> {
        let what = format!("{}/{name} {type_}={expected}", self.namespace);
        wait::until(&what, PATIENCE, async || {
            let binding = self.bindings().get(name).await?;
            let said = condition(&binding, type_);
            ensure!(
                said.as_deref() == Some(expected),
                "it is {said:?}, status {:?}",
                binding.status
            );
            Ok(binding)
        })
        .await
    }

    /// Waits for this Conflict, and that its message holds all of these.
    pub(crate) async fn conflict(&self, name: &str, reason: &str, naming: &[&str]) -> Result<()> {
        let binding = self
            .says(name, "Conflict", &format!("True {reason}"))
            .await?;
        let message = message(&binding, "Conflict");
        for part in naming {
            ensure!(
                message.contains(part),
                "the message does not name {part}: {message}"
            );
        }
        ensure!(
            condition(&binding, "Ready") == Some(format!("False {reason}"))
                && condition(&binding, "MeshProgrammed") == Some(format!("False {reason}")),
            "{:?}",
            binding.status
        );
        Ok(())
    }

    /// Reasons of the Events about the binding, oldest first.
    pub(crate) async fn events(&self, name: &str) -> Result<Vec<String>> {
        let events = Api::<Event>::namespaced(self.rig.client.clone(), &self.namespace);
        let mut events = events.list(&Default::default()).await?.items;
        events.retain(|event| {
            event.regarding.as_ref().is_some_and(|who| {
                who.kind.as_deref() == Some("ServiceBinding") && who.name.as_deref() == Some(name)
            })
        });
        events.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        Ok(events
            .iter()
            .filter_map(|event| {
                Some(format!(
                    "{} {}",
                    event.type_.as_ref()?,
                    event.reason.as_ref()?
                ))
            })
            .collect())
    }

    // --- the mesh --------------------------------------------------------------

    pub(crate) fn rules(&self, kind: &str) -> Api<DynamicObject> {
        rules(self.rig, kind, &self.namespace)
    }

    pub(crate) async fn rule(&self, kind: &str, name: &str) -> Result<DynamicObject> {
        Ok(self.rules(kind).get(name).await?)
    }

    /// Creates a rule as a stranger would.
    pub(crate) async fn foreign(
        &self,
        kind: &str,
        name: &str,
        spec: Value,
    ) -> Result<DynamicObject> {
        let object = json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        });
        let object = serde_json::from_value(object)?;
        let params = PostParams::default();
        Ok(self.rules(kind).create(&params, &object).await?)
    }

    /// Changes a rule by hand, under the name of another field manager.
    pub(crate) async fn edit(&self, kind: &str, name: &str, patch: Value) -> Result<DynamicObject> {
        let params = PatchParams {
            field_manager: Some("kubectl-edit".to_owned()),
            ..PatchParams::default()
        };
        Ok(self
            .rules(kind)
            .patch(name, &params, &Patch::Merge(patch))
            .await?)
    }

    pub(crate) async fn delete_rule(&self, kind: &str, name: &str) -> Result<()> {
        self.rules(kind)
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// Waits until `look` is true of the rule.
    pub(crate) async fn until(
        &self,
        kind: &str,
        name: &str,
        what: &str,
        look: impl Fn(&DynamicObject) -> bool,
    ) -> Result<DynamicObject> {
        wait::until(what, PATIENCE, async || {
            let rule = self.rule(kind, name).await?;
            ensure!(look(&rule), "{rule:?}");
            Ok(rule)
        })
        .await
    }

    /// Neither of the two objects of that name is there.
    pub(crate) async fn nothing_of(&self, name: &str) -> Result<()> {
        for kind in [VS, DR] {
            let found = self.rules(kind).get_opt(name).await?;
            ensure!(found.is_none(), "{found:?}");
        }
        Ok(())
    }

    // --- what was written --------------------------------------------------------

    /// A mark after which nothing is written on account of what was before: an
    /// answer is seen by a watch before it is logged, and Events take their
    /// time.
    pub(crate) async fn mark(&self) -> Result<Mark> {
        wait::until("an end of the writes", PATIENCE, async || {
            let mark = self.rig.audit_mark().await?;
            tokio::time::sleep(Duration::from_millis(700)).await;
            let writes = self.writes_and_events(mark).await?;
            ensure!(writes.is_empty(), "{writes:?}");
            Ok(mark)
        })
        .await
    }

    /// What the operator asked to change in this namespace since the mark, as
    /// `patch virtualservices web 200`; Events aside.
    pub(crate) async fn writes(&self, since: Mark) -> Result<Vec<String>> {
        let mut writes = self.writes_and_events(since).await?;
        writes.retain(|line| !line.starts_with("create events"));
        Ok(writes)
    }

    /// The same once there are that many: an answer is seen before it is logged.
    pub(crate) async fn wrote(&self, since: Mark, count: usize) -> Result<Vec<String>> {
        wait::until("the writes", PATIENCE, async || {
            let writes = self.writes(since).await?;
            ensure!(writes.len() >= count, "{writes:?}");
            Ok(writes)
        })
        .await
    }

    /// Fails where anything was changed in this namespace since.
    pub(crate) async fn rests(&self, since: Mark) -> Result<()> {
        let writes = self.writes(since).await?;
        ensure!(writes.is_empty(), "it does not rest: {writes:?}");
        Ok(())
    }

    /// Everything that the operator asked to change in this namespace.
    pub(crate) async fn writes_and_events(&self, since: Mark) -> Result<Vec<String>> {
        let writes = self.rig.operator_writes(since).await?;
        let here = |entry: &&Entry| {
            let object = entry.object_ref.as_ref();
            object.is_some_and(|o| o.namespace == self.namespace)
        };
        Ok(writes.iter().filter(here).map(line).collect())
    }
}

pub(crate) fn rules(rig: &Rig, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", kind);
    Api::namespaced_with(rig.client.clone(), namespace, &ApiResource::from_gvk(&gvk))
}

/// One request as `patch servicebindings/status web 200`.
pub(crate) fn line(entry: &Entry) -> String {
    let object = entry.object_ref.clone().unwrap_or_default();
    let slash = if object.subresource.is_empty() {
        ""
    } else {
        "/"
    };
    format!(
        "{} {}{slash}{} {} {}",
        entry.verb, object.resource, object.subresource, object.name, entry.response_status.code
    )
}

pub(crate) async fn annotate_namespace(
    rig: &Rig,
    name: &str,
    key: &str,
    value: Option<&str>,
) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {key: value}}});
    Api::<Namespace>::all(rig.client.clone())
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    Ok(())
}

/// What a cluster calls itself towards the catalog: the uid of kube-system.
pub(crate) async fn cluster_id(rig: &Rig) -> Result<String> {
    let namespaces = Api::<Namespace>::all(rig.client.clone());
    let uid = namespaces.get("kube-system").await?.metadata.uid;
    uid.context("no uid")
}

pub(crate) fn message(binding: &ServiceBinding, type_: &str) -> String {
    let conditions = binding.status.iter().flat_map(|status| &status.conditions);
    conditions
        .filter(|c| c.type_ == type_)
        .map(|c| c.message.clone())
        .collect()
}

pub(crate) fn version(rule: &DynamicObject) -> Result<String> {
    let version = rule.metadata.resource_version.clone();
    version.context("no resource version")
}

pub(crate) fn uid(rule: &DynamicObject) -> Result<String> {
    rule.metadata.uid.clone().context("no uid")
}

/// A VirtualService of a stranger for this host.
pub(crate) fn foreign_route(host: &str) -> Value {
    json!({
        "hosts": [host],
        "http": [{"route": [{"destination": {"host": host}}]}],
    })
}

/// Takes away what earlier tests entered into this catalog, and their bindings:
/// what depends on all that there is does not see them.
pub(crate) async fn begin_anew(rig: &Rig, catalog: &Catalog) -> Result<()> {
    for record in catalog.list().await? {
        let id = record["id"].as_str().context("a record without id")?;
        catalog.delete(id).await?;
    }
    clear_all_bindings(rig).await
}

/// Takes all bindings away, whosever they are: for a test that counts the
/// share of them, beside a running operator.
pub(crate) async fn clear_all_bindings(rig: &Rig) -> Result<()> {
    let all = Api::<ServiceBinding>::all(rig.client.clone());
    wait::until(
        "an end of the bindings of other tests",
        PATIENCE,
        async || {
            let left = all.list(&ListParams::default()).await?.items;
            for binding in &left {
                let namespace = binding.namespace().unwrap_or_default();
                let own = Api::<ServiceBinding>::namespaced(rig.client.clone(), &namespace);
                let _ = own
                    .delete(&binding.name_any(), &DeleteParams::default())
                    .await;
            }
            ensure!(left.is_empty(), "{} are left", left.len());
            Ok(())
        },
    )
    .await
}

/// Does what the message of a removal that is held says.
pub(crate) async fn approve_deletion(rig: &Rig, binding: &ServiceBinding) -> Result<()> {
    let said = message(binding, "Ready");
    let (_, command) = said.split_once("run: kubectl ").context("no command")?;
    let words: Vec<_> = command.split_whitespace().collect();
    rig.kubectl(&words).await?;
    Ok(())
}
