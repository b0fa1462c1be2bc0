//! Where the Namespaces come from: one watch of them all, or, where only some
//! are served, a read of each now and then. A right to watch Namespaces is one
//! to watch all; a Role lets its own be read.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::core::PartialObjectMeta;
use kube_runtime::watcher::Event;
use tokio::time::sleep;

use super::apply::in_time;
use super::context::Context;
use super::error::brief;
use super::refusals::Refusals;
use super::{sources, watch, watches};
use crate::domain::retry;

/// Time between two reads of a Namespace.
const EVERY: Duration = Duration::from_secs(5);

/// Follows all Namespaces for ever.
pub(super) async fn watch(ctx: Arc<Context>) {
    let client = ctx.clients.watches.clone();
    let api =
        || std::future::ready(Api::<PartialObjectMeta<Namespace>>::all(client.clone())).boxed();
    let sink = |event: Event<PartialObjectMeta<Namespace>>| {
        let concerned = ctx
            .world
            .namespaces(watches::map(event, sources::namespace));
        watches::ask(&ctx, concerned);
    };
    watch::follow(api, sink, watches::failure(&ctx.metrics, "Namespace")).await;
}

/// Reads this Namespace again and again.
pub(super) async fn read(ctx: Arc<Context>, name: String) {
    let api = Api::<Namespace>::all(ctx.clients.requests.clone());
    let refusals = Refusals::default();
    let mut failures = 0;
    loop {
        refusals.before_a_try(&ctx.clients.requests).await;
        let pause = match in_time(api.get_metadata(&name)).await {
            Ok(namespace) => {
                failures = 0;
                refusals.are_over();
                let event = Event::Apply(sources::namespace(namespace));
                watches::ask(&ctx, ctx.world.namespaces(event));
                EVERY
            }
            Err(error) => {
                failures += 1;
                if !matches!(&error, kube::Error::Api(status) if matches!(status.code, 403 | 404)) {
                    // A look that fails on the way says nothing of the Namespace.
                    refusals.are_over();
                } else if refusals.one_more() {
                    ctx.world.namespace_away(&name);
                }
                ctx.metrics.watch_failed("Namespace");
                tracing::warn!(
                    namespace = name,
                    failures,
                    error = brief(&error.to_string()),
                    "cannot read this Namespace, which --watch-namespaces names or the operator is in; it is tried again: make it, or grant the operator's account its Role there"
                );
                retry::WATCH.delay(failures, fastrand::f64())
            }
        };
        sleep(pause).await;
    }
}
