//! The composition root: builds everything, runs it, and decides what happens
//! when a part of it ends.

pub mod diff;
mod reach;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::FutureExt;
use kube_runtime::reflector;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use crate::admin::{self, Readiness};
use crate::args::RunArgs;
use crate::controller::clients::Clients;
use crate::controller::context::{Context, Memory, Options};
use crate::controller::leadership::Leadership;
use crate::controller::mesh_api::MeshApi;
use crate::controller::queue::Queue;
use crate::controller::world::World;
use crate::controller::{self, events, watches};
use crate::metrics::Metrics;

/// How long running work may take to end after the first signal.
const GRACE: Duration = Duration::from_secs(20);

/// Gate of readiness: every watched kind was listed.
const GATE_LISTED: &str = "first lists";

/// Runs the operator until it is told to stop, or a part of it fails.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    // Every TLS client takes the process' provider; one that finds none panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut stop = stop_signal()?;
    let metrics = Metrics::new().context("cannot register the metrics")?;
    let readiness = Readiness::default();
    readiness.set(GATE_LISTED, false);
    let listener = admin::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another --listen", args.listen))?;

    let (ctx, sender) = context(&args, metrics.clone()).await?;
    let (store, writer) = reflector::store();
    let mut tasks = Tasks::default();
    let serving = admin::serve(listener, metrics, readiness.clone());
    tasks.add("admin port", serving.map(|_| ()));
    tasks.add("event sender", sender.run());
    tasks.add("gauges", gauges(Arc::clone(&ctx)));
    for (name, watch) in watches::all(&ctx, writer) {
        tasks.add(name, watch);
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        readOnly = args.read_only,
        "started"
    );

    tokio::select! {
        () = ctx.world.complete() => {}
        () = stopped(&mut stop) => return Ok(()),
        name = tasks.ended() => return Err(anyhow!("the {name} ended by itself")),
    }
    readiness.set(GATE_LISTED, true);
    tracing::info!("every kind was listed; reconciling");

    let mut told = stop.clone();
    let work = controller::run(
        Arc::clone(&ctx),
        store,
        async move { stopped(&mut told).await },
    );
    let mut work = std::pin::pin!(work);
    let ended = tokio::select! {
        () = &mut work => "controller".to_owned(),
        name = tasks.ended() => name,
        () = stopped(&mut stop) => {
            readiness.set("not stopping", false);
            if timeout(GRACE, work).await.is_err() {
                tracing::warn!("running work did not end within {} s and is cut off", GRACE.as_secs());
            }
            return Ok(());
        }
    };
    // The signal ends the work as well, and may be noticed there first.
    if *stop.borrow() {
        return Ok(());
    }
    Err(anyhow!("the {ended} ended by itself"))
}

async fn context(
    args: &RunArgs,
    metrics: Metrics,
) -> anyhow::Result<(Arc<Context>, events::Sender)> {
    let clients = Clients::new(reach::kube_config(args.kubeconfig.as_deref()).await?)
        .context("cannot set up the client of the API server")?;
    let (events, sender) = events::channel(
        clients.requests.clone(),
        args.pod_name.clone(),
        metrics.clone(),
    );
    let options = Options {
        settings: reach::settings(&args.mapping),
        period: args.period,
        concurrency: args.concurrency,
        max_delete_percent: args.max_delete_percent,
        read_only: args.read_only,
    };
    let ctx = Context {
        options,
        clients,
        mesh_api: MeshApi::default(),
        world: World::new(
            args.mapping.cluster_domain.clone(),
            args.own_namespace.clone(),
        ),
        catalog: reach::catalog(&args.catalog)?,
        known: Arc::default(),
        leadership: Leadership::granted(0),
        queue: Queue::new(usize::from(args.concurrency)),
        events,
        metrics,
        memory: Memory::default(),
    };
    Ok((Arc::new(ctx), sender))
}

/// Keeps the gauges that nothing else moves.
async fn gauges(ctx: Arc<Context>) {
    let mut tick = interval(Duration::from_secs(2));
    loop {
        tick.tick().await;
        let counts = ctx.world.counts();
        ctx.metrics.objects(
            counts.bindings,
            counts.virtual_services,
            counts.destination_rules,
        );
        let (due, running) = ctx.queue.depth();
        ctx.metrics
            .queue(due, running, usize::from(ctx.options.concurrency));
    }
}

/// Becomes true with the first SIGTERM or SIGINT; the second ends the process.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if first {
                tracing::info!("stopping; a second signal ends at once");
                sender.send_replace(true);
            } else {
                std::process::exit(130);
            }
        }
    });
    Ok(receiver)
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // The sender went with its task: no signal will come any more.
        pending::<()>().await;
    }
}

/// Tasks that run as long as the process does. One that ends is an error.
#[derive(Default)]
struct Tasks(JoinSet<&'static str>);

impl Tasks {
    fn add(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(async move {
            task.await;
            name
        });
    }

    /// The name of the first task that ends.
    async fn ended(&mut self) -> String {
        match self.0.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(panic)) => format!("task that panicked ({panic})"),
            None => pending().await,
        }
    }
}
