//! Is a Pod that dies properly none of the checks' business? It leaves by the
//! EndpointSlice, and no verdict is spent on it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::DeleteParams;

use crate::checked::{Checked, quick};
use crate::scene::Scene;
use crate::support::endpoint::Trouble;
use crate::support::envoy::Options;
use crate::support::rig::Rig;
use crate::support::stack::PATIENCE;
use crate::support::wait;
use crate::write_back::lists;

crate::tests![a_pod_that_is_deleted_ends_or_becomes_unready_leaves_without_a_verdict,];

/// Long enough for as many failures as make a verdict.
const A_WHILE: Duration = Duration::from_secs(5);

async fn a_pod_that_is_deleted_ends_or_becomes_unready_leaves_without_a_verdict(
    rig: &Rig,
) -> Result<()> {
    let scene = Scene::shared(rig, "properly").await?;
    let envoy = rig.envoy(&Options::in_namespace(&scene.namespace)).await?;
    let web = Checked::start(&scene, "web", 4, quick()).await?;
    web.envoy_has(&envoy, &[0, 1, 2, 3]).await?;
    let line = |place: usize, ready| format!("{} {ready}", web.address(place));
    lists(
        &scene,
        "web",
        &(0..4).map(|place| line(place, true)).collect(),
    )
    .await?;
    let mark = rig.audit_mark().await?;

    // One that is gone, one that is about to, one that is not ready; each stops
    // to answer only then.
    let at_once = DeleteParams::default().grace_period(0);
    web.pods().delete(&web.pod(0), &at_once).await?;
    web.pods()
        .delete(&web.pod(1), &DeleteParams::default())
        .await?;
    web.set_ready(2, false).await?;
    web.lists_ready(1).await?;
    for place in 0..3 {
        web.endpoints[place].fail(Trouble::Refused).await?;
    }
    web.counts(1, 1, 0).await?;
    web.says("True Healthy").await?;
    web.catalog_hears("Healthy", 1, 1).await?;
    // The catalog lists those that are there, ready or not.
    let listed = BTreeSet::from([line(1, false), line(2, false), line(3, true)]);
    lists(&scene, "web", &listed).await?;

    tokio::time::sleep(A_WHILE).await;
    let writes = web.pod_writes(mark).await?;
    ensure!(writes.is_empty(), "{writes:?}");
    ensure!(web.marks().await?.is_empty(), "{:?}", web.marks().await?);
    let events = scene.events("web").await?;
    let told = events.iter().any(|event| event.contains("Endpoint"));
    ensure!(!told, "{events:?}");
    // Envoy has heard of it when it sends nobody elsewhere any more.
    wait::until("requests that all go there", PATIENCE, async || {
        for _ in 0..10 {
            let answer = envoy.get(&web.host(), "/").await?;
            let good = answer.status == 200 && answer.body == web.address(3);
            ensure!(good, "{answer:?}");
        }
        Ok(())
    })
    .await?;
    for _ in 0..20 {
        let answer = envoy.get(&web.host(), "/").await?;
        ensure!(
            answer.status == 200 && answer.body == web.address(3),
            "{answer:?}"
        );
    }

    // One that is ready again is judged anew, and well.
    web.endpoints[2].recover().await?;
    web.set_ready(2, true).await?;
    web.counts(2, 2, 0).await?;
    ensure!(web.told("Warning EndpointUnhealthy").await? == 0);
    scene.unbind().await
}
