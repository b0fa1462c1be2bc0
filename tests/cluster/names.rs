//! Do the longest names go through the whole path?

use anyhow::{Result, ensure};
use kube::api::PostParams;
use serde_json::json;

use crate::scene::{DR, Scene, VS};
use crate::support::rig::Rig;
use crate::support::{stack, workload};

crate::tests![the_longest_names_go_through_the_whole_path];

async fn the_longest_names_go_through_the_whole_path(rig: &Rig) -> Result<()> {
    let mut scene = Scene::shared(rig, "short").await?;
    scene.namespace = format!("{}-{}", "n".repeat(31), "s".repeat(31));
    workload::make_namespace(&rig.client, &scene.namespace).await?;
    let service = format!("{}-0", "w".repeat(61));
    let name = "b".repeat(253);
    let id = format!("i{}", "~".repeat(252));
    scene.service(&service).await?;
    let mut record = scene.record(&service);
    record["id"] = json!(id);
    scene.put(&record).await?;
    let mut binding = stack::binding(&scene.namespace, &name, &id);
    binding["spec"]["serviceName"] = json!(service);
    let binding = serde_json::from_value(binding)?;
    scene
        .bindings()
        .create(&PostParams::default(), &binding)
        .await?;
    scene.synced(&name).await?;

    let host = scene.host(&service);
    let vs = scene.rule(VS, &service).await?;
    let dr = scene.rule(DR, &service).await?;
    ensure!(vs.data["spec"]["hosts"] == json!([host]), "{vs:?}");
    ensure!(dr.data["spec"]["host"] == json!(host), "{dr:?}");
    crate::support::wait::until("its Event", stack::PATIENCE, async || {
        let events = scene.events(&name).await?;
        ensure!(events == ["Normal Synced"], "{events:?}");
        Ok(())
    })
    .await?;
    rig.istiod.expect_no_nack().await?;
    scene.delete_binding(&name).await?;
    scene.gone(&name).await?;
    scene.nothing_of(&service).await
}
