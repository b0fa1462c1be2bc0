//! Which Services can carry a policy, and is a change of one followed?

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::scene::{DR, Scene, VS, message};
use crate::support::rig::Rig;

crate::tests![
    a_service_that_is_not_there_is_waited_for,
    a_headless_service_is_refused_until_it_has_an_address,
    an_external_name_is_refused,
    a_port_is_never_guessed_to_be_http,
    ports_are_followed,
    a_service_that_goes_and_comes_back_leaves_the_mesh_as_it_was,
];

async fn with_service<'a>(rig: &'a Rig, name: &str, spec: Option<Value>) -> Result<Scene<'a>> {
    let scene = Scene::shared(rig, name).await?;
    if let Some(spec) = spec {
        scene.service_with("web", spec).await?;
    }
    scene.put(&scene.record("web")).await?;
    scene.create(&scene.binding("web")).await?;
    Ok(scene)
}

async fn refused(scene: &Scene<'_>, reason: &str, naming: &str) -> Result<()> {
    let binding = scene
        .says("web", "Ready", &format!("False {reason}"))
        .await?;
    scene
        .says("web", "MeshProgrammed", &format!("False {reason}"))
        .await?;
    scene.says("web", "CatalogSynced", "True Synced").await?;
    let message = message(&binding, "Ready");
    ensure!(
        message.contains(naming) && message.contains(&format!("{}/web", scene.namespace)),
        "{message}"
    );
    Ok(())
}

async fn set_ports(scene: &Scene<'_>, ports: Value) -> Result<()> {
    let patch = json!([{"op": "replace", "path": "/spec/ports", "value": ports}]);
    let patch = Patch::<()>::Json(serde_json::from_value(patch)?);
    scene
        .services()
        .patch("web", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

async fn a_service_that_is_not_there_is_waited_for(rig: &Rig) -> Result<()> {
    let scene = with_service(rig, "absent", None).await?;
    refused(&scene, "ServiceNotFound", "waited for").await?;
    scene.nothing_of("web").await?;
    scene.service("web").await?;
    scene.synced("web").await?;
    Ok(())
}

async fn a_headless_service_is_refused_until_it_has_an_address(rig: &Rig) -> Result<()> {
    let ports = json!([{"name": "http", "port": 80}]);
    let headless = json!({"clusterIP": "None", "ports": ports});
    let scene = with_service(rig, "headless", Some(headless)).await?;
    refused(&scene, "Headless", "headless").await?;
    scene.nothing_of("web").await?;
    scene
        .services()
        .delete("web", &DeleteParams::default())
        .await?;
    scene.service("web").await?;
    scene.synced("web").await?;
    Ok(())
}

async fn an_external_name_is_refused(rig: &Rig) -> Result<()> {
    let spec = json!({"type": "ExternalName", "externalName": "example.com"});
    let scene = with_service(rig, "external", Some(spec)).await?;
    refused(&scene, "Headless", "example.com").await?;
    scene.nothing_of("web").await
}

async fn a_port_is_never_guessed_to_be_http(rig: &Rig) -> Result<()> {
    let spec = json!({"ports": [{"port": 80}]});
    let scene = with_service(rig, "unnamed", Some(spec)).await?;
    refused(&scene, "NoHttpPort", "appProtocol").await?;
    scene.nothing_of("web").await?;
    set_ports(&scene, json!([{"port": 80, "appProtocol": "http"}])).await?;
    scene.synced("web").await?;
    Ok(())
}

async fn ports_are_followed(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "ports").await?;
    scene.bound("web").await?;
    let ports = |ports: Vec<u16>| {
        move |vs: &kube::api::DynamicObject| {
            let routes = vs.data["spec"]["http"].as_array().cloned();
            let found: Vec<_> = routes
                .iter()
                .flatten()
                .map(|route| {
                    let destination = &route["route"][0]["destination"]["port"]["number"];
                    (route["match"][0]["port"].clone(), destination.clone())
                })
                .collect();
            let wanted: Vec<_> = ports.iter().map(|p| (json!(p), json!(p))).collect();
            found == wanted
        }
    };
    let uid = scene.rule(VS, "web").await?.metadata.uid;
    set_ports(
        &scene,
        json!([{"name": "http", "port": 80}, {"name": "grpc-api", "port": 90}]),
    )
    .await?;
    scene
        .until(VS, "web", "a route for each", ports(vec![80, 90]))
        .await?;
    set_ports(
        &scene,
        json!([{"name": "tcp-raw", "port": 80}, {"name": "http2", "port": 91}]),
    )
    .await?;
    let vs = scene
        .until(VS, "web", "the route's new port", ports(vec![91]))
        .await?;
    ensure!(vs.metadata.uid == uid, "made anew");
    set_ports(&scene, json!([{"name": "tcp-raw", "port": 80}])).await?;
    refused(&scene, "NoHttpPort", "http").await?;
    set_ports(&scene, json!([{"name": "http", "port": 80}])).await?;
    scene.synced("web").await?;
    Ok(())
}

async fn a_service_that_goes_and_comes_back_leaves_the_mesh_as_it_was(rig: &Rig) -> Result<()> {
    let scene = Scene::shared(rig, "comes-back").await?;
    scene.bound("web").await?;
    let before = (scene.rule(VS, "web").await?, scene.rule(DR, "web").await?);
    scene
        .services()
        .delete("web", &DeleteParams::default())
        .await?;
    refused(&scene, "ServiceNotFound", "waited for").await?;
    scene.service("web").await?;
    scene.synced("web").await?;
    let after = (scene.rule(VS, "web").await?, scene.rule(DR, "web").await?);
    ensure!(before == after, "{before:?} {after:?}");
    Ok(())
}
