//! Does a catalog entry become a VirtualService and a DestinationRule, and
//! does a change of it arrive?
//!
//! `OPERATOR` names another program than the one that cargo built, as
//! `make image-check` does.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

use crate::scene::PROGRAM;
use crate::support::rig::Rig;
use crate::support::stack::{self, PATIENCE, Stack};
use crate::support::wait;

crate::tests![
    ; alone:
    an_entry_becomes_two_objects_and_a_change_of_it_arrives
];

fn rules(rig: &Rig, kind: &str, namespace: &str) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", kind);
    Api::namespaced_with(rig.client.clone(), namespace, &ApiResource::from_gvk(&gvk))
}

async fn an_entry_becomes_two_objects_and_a_change_of_it_arrives(rig: &Rig) -> Result<()> {
    let program = std::env::var_os("OPERATOR").map_or_else(|| PROGRAM.into(), PathBuf::from);
    let stack = Stack::start(rig, &program).await?;
    let namespace = rig.namespace("loop").await?;
    rig.workload(&namespace, "web", &["zone-a"]).await?;
    let mut record = stack::record("web-1", &namespace, "web");
    record["timeout"] = json!("5s");
    record["circuitBreaker"] = json!({"consecutiveErrors": 5});
    stack.catalog.put(&record).await?;
    stack::create(rig, &stack::binding(&namespace, "web", "web-1")).await?;

    stack::wait_for(rig, &namespace, "web", "Ready", "True Synced").await?;
    let vs = rules(rig, "VirtualService", &namespace).get("web").await?;
    let dr = rules(rig, "DestinationRule", &namespace).get("web").await?;
    ensure!(vs.data["spec"]["http"][0]["timeout"] == "5s", "{vs:?}");
    ensure!(
        dr.data["spec"]["trafficPolicy"]["outlierDetection"]["consecutive5xxErrors"] == 5,
        "{dr:?}"
    );

    record["timeout"] = json!("7s");
    stack.catalog.put(&record).await?;
    wait::until("the new timeout", PATIENCE, async || {
        let vs = rules(rig, "VirtualService", &namespace).get("web").await?;
        ensure!(vs.data["spec"]["http"][0]["timeout"] == "7s", "{vs:?}");
        Ok(())
    })
    .await
}
