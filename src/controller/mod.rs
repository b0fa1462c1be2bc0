//! The edge to Kubernetes: watches in, server-side applies out, and between
//! them the queue and kube's `Controller`, which runs what the queue releases.

mod apart;
pub mod apply;
mod audit;
pub mod brake;
pub mod changes;
pub mod clients;
pub mod clock;
pub mod cluster_id;
mod collisions;
pub mod context;
pub mod denials;
pub mod ejection;
pub mod election;
pub mod error;
pub mod events;
pub mod explain;
#[cfg(test)]
mod fixtures;
pub mod gauges;
mod guard;
pub mod leadership;
pub mod looks;
pub mod mesh_api;
pub mod mirror;
pub mod mirrors;
pub mod monitor;
mod named;
mod namespaces;
pub mod observe;
pub mod outcome;
pub mod owed;
mod permit;
mod pods;
pub mod queue;
pub(crate) mod readable;
pub mod reconcile;
mod refusals;
pub mod registrar;
mod remove;
pub mod report;
pub mod settled;
mod slices;
pub mod sources;
pub mod watch;
pub mod watches;
mod window;
pub mod withdraw;
pub mod world;
pub mod write_back;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use kube::core::PartialObjectMeta;
use kube_runtime::Controller;
use kube_runtime::controller::{Action, Config};
use tokio::time::{Instant, timeout};

use crate::api::service_binding::ServiceBinding;
use crate::domain::liveness;
use crate::domain::names::BindingKey;
use crate::metrics::reconcile::ReconcileResult;
use context::Context;
use named::Names;
use outcome::Outcome;
use queue::state::Next;

/// A binding by name alone: what kube's `Controller` keeps. Everything else
/// is in the world.
type BindingRef = PartialObjectMeta<ServiceBinding>;

/// Longest that one look may take. Each request in it has its own, shorter
/// deadline; this one is for what nobody foresaw.
const LOOK_DEADLINE: Duration = Duration::from_secs(90);

const _: () = assert!(LOOK_DEADLINE.as_secs() < liveness::LOOK.as_secs());

/// Runs what the queue releases until `stop`, then lets running looks end.
///
/// Call it when the world is complete: what is missing there counts as gone.
pub async fn run(ctx: Arc<Context>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    run_by(&Names::new(), ctx, stop).await;
}

async fn run_by(
    names: &Names,
    ctx: Arc<Context>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let source = (Arc::clone(&ctx), names.clone());
    let released = futures::stream::unfold(source, |(ctx, names)| async move {
        let key = settled::next(&ctx).await;
        Some((names.put(&key), (ctx, names)))
    });
    let begun = names.clone();
    let queue = Arc::clone(&ctx);
    let run = move |binding: Arc<BindingRef>, ctx| {
        let key = key_of(&binding);
        begun.take(&key);
        run_one(key, ctx)
    };
    // The queue limits what runs. The Controller gets twice the room, since a
    // key's slot in it is free only a moment after its look has ended.
    let config = Config::default().concurrency(ctx.options.concurrency.saturating_mul(2));
    Controller::for_stream(futures::stream::pending(), names.store())
        .with_config(config)
        .reconcile_on(released)
        .graceful_shutdown_on(stop)
        .run(run, |_, _, _| Action::await_change(), ctx)
        .for_each(|result| {
            // Not to be: the Controller looks a name up as its run begins. Else the key
            // would run for ever.
            if let Err(kube_runtime::controller::Error::ObjectNotFound(name)) = result {
                let key = BindingKey::new(name.namespace.unwrap_or_default(), name.name);
                tracing::warn!(binding = %key, "not run by the Controller; please report this");
                queue.queue.done(&key, Next::Stale, &[]);
            }
            std::future::ready(())
        })
        .await;
}

fn key_of(binding: &BindingRef) -> BindingKey {
    BindingKey::new(
        binding.metadata.namespace.clone().unwrap_or_default(),
        binding.metadata.name.clone().unwrap_or_default(),
    )
}

/// Runs one look, whatever it does: a panic or a hang of one binding is that
/// binding's failure.
async fn run_one(key: BindingKey, ctx: Arc<Context>) -> Result<Action, std::convert::Infallible> {
    let started = Instant::now();
    let sight = settled::sight(&ctx, &key);
    let look = AssertUnwindSafe(reconcile::reconcile(&ctx, &key)).catch_unwind();
    let failed = |error: String| Outcome {
        next: Next::Failed,
        worked: Vec::new(),
        error: Some(error),
    };
    let outcome = match timeout(LOOK_DEADLINE, look).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => {
            ctx.metrics.reconciles.panicked();
            failed("the reconciliation panicked; please report this".to_owned())
        }
        Err(_) => {
            ctx.metrics.reconciles.cut_off();
            failed(format!(
                "the reconciliation took longer than {} s",
                LOOK_DEADLINE.as_secs()
            ))
        }
    };
    if let Some(error) = &outcome.error {
        tracing::warn!(binding = %key, error, "will be tried again");
    }
    let result = match (&outcome.error, outcome.next) {
        (Some(_), _) => ReconcileResult::Error,
        (None, Next::After(_) | Next::Settled(_)) => ReconcileResult::RequeueAfter,
        (None, Next::Stale | Next::Report) => ReconcileResult::Requeue,
        (None, _) => ReconcileResult::Success,
    };
    ctx.metrics
        .reconciles
        .ended(result, started.elapsed().as_secs_f64());
    for room in &outcome.worked {
        ctx.memory.came_back(*room);
    }
    let settled = matches!(outcome.next, Next::Settled(_));
    ctx.settled.note(&key, sight.filter(|_| settled));
    ctx.queue.done(&key, outcome.next, &outcome.worked);
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests;
