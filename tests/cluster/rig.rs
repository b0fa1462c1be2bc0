//! Is the rig what it claims to be? Each of its parts is used once here.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

use crate::support::audit::AuditLog;
use crate::support::envoy::Options;
use crate::support::rig::Rig;
use crate::support::wait;
use crate::support::workload::ZONES;

crate::tests![
    the_cluster_speaks_the_pinned_version,
    a_service_with_three_pods_is_reached_through_envoy,
    a_pod_that_is_not_ready_gets_no_requests,
    an_apply_that_creates_is_logged_as_a_patch_with_201,
    a_record_that_is_being_written_is_read_after_the_mark,
    istiods_webhook_refuses_a_bad_virtual_service,
    what_a_deleted_owner_owned_is_collected,
    an_account_without_rights_is_refused,
    postgres_serves_an_empty_database
    ; alone:
    without_istiod_no_virtual_service_is_stored
];

async fn the_cluster_speaks_the_pinned_version(rig: &Rig) -> Result<()> {
    let version = rig.client.apiserver_version().await?;
    ensure!(
        version.git_version == "v1.36.4",
        "it is {}",
        version.git_version
    );
    Ok(())
}

async fn a_service_with_three_pods_is_reached_through_envoy(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("reached").await?;
    let web = rig
        .workload(&namespace, "web", &["zone-a", "zone-a", "zone-b"])
        .await?;
    let envoy = rig
        .envoy(&Options::in_namespace(&namespace).zone(ZONES[0]))
        .await?;
    envoy.wait_for_endpoints(&web.host(), 3).await?;

    let tally = envoy.tally(&web.host(), "/", 30).await?;

    for pod in &web.pods {
        let answered = format!("200 {}", pod.address());
        ensure!(tally.contains_key(&answered), "no {answered} in {tally:?}");
        ensure!(pod.backend.total() > 0, "{} was not asked", pod.name);
    }
    ensure!(
        tally.len() == 3,
        "somebody else answered as well: {tally:?}"
    );
    rig.istiod.expect_no_nack().await
}

async fn a_pod_that_is_not_ready_gets_no_requests(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("unready").await?;
    let web = rig
        .workload(&namespace, "web", &["zone-a", "zone-a"])
        .await?;
    let envoy = rig.envoy(&Options::in_namespace(&namespace)).await?;
    envoy.wait_for_endpoints(&web.host(), 2).await?;

    web.set_ready(0, false).await?;
    envoy.wait_for_endpoints(&web.host(), 1).await?;
    let tally = envoy.tally(&web.host(), "/", 10).await?;

    let expected = format!("200 {}", web.pods[1].address());
    ensure!(tally.get(&expected) == Some(&10), "{tally:?}");
    Ok(())
}

async fn an_apply_that_creates_is_logged_as_a_patch_with_201(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("audited").await?;
    let mark = rig.audit_mark().await?;
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "applied" },
        "data": { "key": "value" },
    });
    Api::<ConfigMap>::namespaced(rig.client.clone(), &namespace)
        .patch("applied", &PatchParams::apply("rig"), &Patch::Apply(map))
        .await?;

    let writes = rig.api.audit.writes_by("admin", mark, &rig.client).await?;

    let own: Vec<_> = writes
        .iter()
        .filter(|entry| {
            entry
                .object_ref
                .as_ref()
                .is_some_and(|object| object.namespace == namespace)
                && entry.user_agent != "kube-controller-manager"
                && entry.request_uri.contains("fieldManager=rig")
        })
        .collect();
    ensure!(own.len() == 1, "{writes:?}");
    ensure!(
        own[0].verb == "patch" && own[0].response_status.code == 201,
        "{own:?}"
    );
    Ok(())
}

async fn a_record_that_is_being_written_is_read_after_the_mark(rig: &Rig) -> Result<()> {
    let path = rig.folder().join("half-written.jsonl");
    let record = |uri: &str| json!({ "stage": "ResponseComplete", "requestURI": uri });
    // Longer than what is read at once.
    let late = record(&format!("/late?{}", "x".repeat(10_000))).to_string();
    let (half, rest) = late.split_at(6_000);
    std::fs::write(&path, format!("{}\n{half}", record("/early")))?;
    let log = AuditLog::new(path.clone());

    let mark = log.end()?;
    let before = log.read(mark)?.len();
    let whole = format!("{}\n{half}{rest}\n", record("/early"));
    std::fs::write(&path, whole)?;
    let after = log.read(mark)?;

    ensure!(before == 0, "half a record is none");
    ensure!(after.len() == 1 && after[0].request_uri.starts_with("/late"));
    Ok(())
}

async fn istiods_webhook_refuses_a_bad_virtual_service(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("refused").await?;
    let rules = virtual_services(rig, &namespace);
    let bad = rule("bad", json!({ "attempts": 2, "retryOn": "no-such-token" }));

    let answer = rules
        .create(&PostParams::default(), &serde_json::from_value(bad)?)
        .await;

    let Err(kube::Error::Api(status)) = answer else {
        bail!("it was not refused: {answer:?}")
    };
    ensure!(
        status.code == 400 && status.message.contains("no-such-token"),
        "{status:?}"
    );
    let good = rule("good", json!({ "attempts": 2, "retryOn": "503" }));
    rules
        .create(&PostParams::default(), &serde_json::from_value(good)?)
        .await?;
    Ok(())
}

async fn without_istiod_no_virtual_service_is_stored(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("alone").await?;
    let rules = virtual_services(rig, &namespace);
    let object: DynamicObject = serde_json::from_value(rule("late", json!({ "attempts": 1 })))?;

    rig.istiod.stop().await?;
    let without = rules.create(&PostParams::default(), &object).await;
    rig.istiod.start_again().await?;

    let Err(kube::Error::Api(status)) = without else {
        bail!("it was stored: {without:?}")
    };
    ensure!(
        status.code == 500 && status.message.contains("webhook"),
        "{status:?}"
    );
    rules.create(&PostParams::default(), &object).await?;
    Ok(())
}

async fn what_a_deleted_owner_owned_is_collected(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("collected").await?;
    let maps = Api::<ConfigMap>::namespaced(rig.client.clone(), &namespace);
    let owner: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "owner" } }))?;
    let owner = maps.create(&PostParams::default(), &owner).await?;
    let mut owned = rule("owned", json!({ "attempts": 1 }));
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "name": "owner",
        "uid": owner.metadata.uid.context("the owner has no uid")?,
    }]);
    let rules = virtual_services(rig, &namespace);
    rules
        .create(&PostParams::default(), &serde_json::from_value(owned)?)
        .await?;

    maps.delete("owner", &Default::default()).await?;

    wait::until(
        "the owned rule's end",
        Duration::from_secs(60),
        async || match rules.get_opt("owned").await? {
            None => Ok(()),
            Some(_) => bail!("it is still there"),
        },
    )
    .await
}

async fn an_account_without_rights_is_refused(rig: &Rig) -> Result<()> {
    let namespace = rig.namespace("powerless").await?;
    let kubeconfig = rig
        .api
        .service_account_kubeconfig(&namespace, "nobody")
        .await?;
    let client = crate::support::apiserver::client(&kubeconfig).await?;

    let answer = Api::<ConfigMap>::namespaced(client, &namespace)
        .list(&Default::default())
        .await;

    let Err(kube::Error::Api(status)) = answer else {
        bail!("it was let in: {answer:?}")
    };
    let user = format!("system:serviceaccount:{namespace}:nobody");
    ensure!(
        status.code == 403 && status.message.contains(&user),
        "{status:?}"
    );
    Ok(())
}

async fn postgres_serves_an_empty_database(rig: &Rig) -> Result<()> {
    let postgres = rig.postgres().await?;
    let url = postgres.create_database("catalog").await?;
    let pool = sqlx::PgPool::connect(&url).await?;
    let tables: i64 = sqlx::query_scalar(
        "select count(*) from information_schema.tables where table_schema = 'public'",
    )
    .fetch_one(&pool)
    .await?;
    ensure!(tables == 0, "it has {tables} tables");
    Ok(())
}

fn virtual_services(rig: &Rig, namespace: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("networking.istio.io", "v1", "VirtualService");
    Api::namespaced_with(rig.client.clone(), namespace, &ApiResource::from_gvk(&kind))
}

fn rule(name: &str, retries: Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": name },
        "spec": {
            "hosts": ["web"],
            "http": [{ "retries": retries, "route": [{ "destination": { "host": "web" } }] }],
        },
    })
}
