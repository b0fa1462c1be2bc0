//! Does a user learn of a transition by an Event?

use std::path::Path;

use anyhow::{Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;

use crate::support::rig::Rig;
use crate::support::stack::{self, PATIENCE, Stack};
use crate::support::wait;

crate::tests![
    ; alone:
    a_binding_that_becomes_ready_is_told_of_by_an_event
];

async fn a_binding_that_becomes_ready_is_told_of_by_an_event(rig: &Rig) -> Result<()> {
    let operator = Path::new(env!("CARGO_BIN_EXE_catalog-mesh-controller"));
    let stack = Stack::start(rig, operator).await?;
    let namespace = rig.namespace("transitions").await?;
    rig.workload(&namespace, "web", &["zone-a"]).await?;
    let record = stack::record("transitions:web", &namespace, "web");
    stack.catalog.put(&record).await?;
    stack::create(rig, &stack::binding(&namespace, "web", "transitions:web")).await?;
    stack::wait_for(rig, &namespace, "web", "Ready", "True Synced").await?;

    let events = Api::<Event>::namespaced(rig.client.clone(), &namespace);
    wait::until("the Event", PATIENCE, async || {
        let events = events.list(&ListParams::default()).await?;
        let told = events.iter().any(|event| {
            let about = event.regarding.as_ref().and_then(|r| r.name.as_deref());
            about == Some("web") && event.reason.as_deref() == Some("Synced")
        });
        ensure!(told, "there are only {:?}", events.items);
        Ok(())
    })
    .await
}
