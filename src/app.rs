//! The composition root: builds everything, runs it, and decides what happens
//! when a part of it ends.

mod alive;
mod debug;
pub mod diff;
mod life;
mod outside;
mod reach;
pub mod release_all;

use std::future::pending;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use futures::FutureExt;
use kube::Config;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::admin::{self, Readiness};
use crate::alert;
use crate::args::RunArgs;
use crate::catalog::Catalog;
use crate::catalog::follow::Follower;
use crate::catalog::known::Known;
use crate::catalog::remembered::Remembering;
use crate::controller::clients::{self, Clients};
use crate::controller::clock::MachineClock;
use crate::controller::cluster_id::Identity;
use crate::controller::context::{Context, Memory, Options};
use crate::controller::ejection::{self, Ejector};
use crate::controller::election::Elector;
use crate::controller::leadership::Leadership;
use crate::controller::looks::Looks;
use crate::controller::mesh_api::MeshApi;
use crate::controller::monitor::{self, Monitor};
use crate::controller::owed::Owed;
use crate::controller::queue::Queue;
use crate::controller::registrar::{self, Registrar};
use crate::controller::settled::Settled;
use crate::controller::world::World;
use crate::controller::world::watched::WATCHED;
use crate::controller::write_back::WriteBack;
use crate::controller::write_back::sender::{Sender, Surroundings};
use crate::controller::{self, events, gauges, watches};
use crate::domain::election::{Lost, Timing};
use crate::domain::served::Served;
use crate::metrics::Metrics;
use life::{RELEASE, Tasks, stop_signal, stopped, until_stopped};

/// Runs the operator until it is told to stop, or a part of it fails.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    // Every TLS client takes the process' provider; one that finds none panics.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut stop = stop_signal()?;
    let metrics = Metrics::new().context("cannot register the metrics")?;
    let listener = admin::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another --listen", args.listen))?;
    let for_people = debug::bind(args.debug_listen).await?;

    let timing = timing(&args)?;
    let served = args.served().map_err(anyhow::Error::msg)?;
    let config = reach::kube_config(args.cluster.kubeconfig.as_deref()).await?;
    let (leadership, elector) = if args.read_only {
        // It takes no Lease, so that it stands in nobody's way.
        (Leadership::withheld(), None)
    } else {
        let client = clients::for_the_lease(config.clone())
            .context("cannot set up the client for the Lease")?;
        let (leadership, elector) = Elector::new(
            client,
            args.cluster.own_namespace.as_str(),
            &args.pod_name,
            timing,
            Arc::new(MachineClock),
            metrics.clone(),
        );
        (leadership, Some(elector))
    };
    let (prober, view, checks) = reach::prober(&args.health, &metrics)?;
    let checked = view.clone();
    let term = leadership.clone();
    let (alerts, telling) = alert::start(
        reach::alerts(&args.alert),
        move || term.epoch().is_some(),
        metrics.alerts.clone(),
    )
    .context("cannot set up alerts")?;
    let monitor = Monitor::new(prober, view, alerts);
    let (ctx, source, sender) =
        context(&args, served, config, leadership, metrics.clone(), monitor)?;
    outside::listen(&checked, &ctx);
    let mut tasks = Tasks::default();
    let us = Arc::clone(&ctx);
    let follower = Follower::new(
        source,
        Arc::clone(&ctx.known),
        move || us.cluster.known().map(|cluster| cluster.to_string()),
        metrics.catalog().clone(),
    );
    tasks.add("follower of the catalog", follower.run());
    tasks.add(
        "changes of the catalog",
        controller::changes::follow(Arc::clone(&ctx)),
    );
    tasks.add(
        "return of the catalog",
        controller::changes::release(Arc::clone(&ctx)),
    );
    let liveness = Arc::new(alive::liveness(&ctx, timing));
    let readiness = readiness(&ctx, &stop);
    let us = Arc::clone(&ctx);
    let counting = Arc::new(move || gauges::bring_up_to_date(&us));
    let serving = admin::serve(listener, metrics, counting, liveness, readiness);
    tasks.add("admin port", serving.map(|_| ()));
    if let Some(listener) = for_people {
        let pages = debug::pages(Arc::clone(&ctx), checked);
        let serving = admin::debug::serve(listener, pages);
        tasks.add("debug pages", serving.map(|_| ()));
    }
    tasks.add("event sender", sender.run());
    tasks.add("maker of bindings", registrar::run(Arc::clone(&ctx)));
    tasks.add("write-back", write_back(Arc::clone(&ctx)));
    tasks.add("prober", checks);
    tasks.add("alerts", telling);
    tasks.add("health monitor", monitor::run::run(Arc::clone(&ctx)));
    tasks.add("ejector", ejection::run(Arc::clone(&ctx)));
    for (name, watch) in watches::all(&ctx) {
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
        ended = tasks.ended() => return Err(anyhow!(ended)),
    }
    tracing::info!("all that bindings depend on was listed");

    let work = work(Arc::clone(&ctx), stop.clone());
    let Some(elector) = elector else {
        return until_stopped(work, &mut tasks, &mut stop).await;
    };
    // Whoever leads without knowing the cluster would only stand in the way.
    let (resign, resigned) = oneshot::channel::<()>();
    let mut election = tokio::spawn(elector.run(resigned.map(|_| ())));
    let ended = tokio::select! {
        ended = until_stopped(work, &mut tasks, &mut stop) => ended,
        lost = &mut election => return Err(no_longer_leading(lost)),
    };
    // Nothing is looked at any more, so others may, once they can know what is
    // left to do.
    let let_go = async {
        ctx.write_back.bequeath(&ctx.leadership).await;
        drop(resign);
        election.await
    };
    match timeout(RELEASE, let_go).await {
        Ok(Ok(Ok(()))) => ended,
        Ok(lost) => ended.and(Err(no_longer_leading(lost))),
        Err(_) => {
            tracing::warn!("the Lease was not let go of in time and is left to expire");
            ended
        }
    }
}

/// What the leader does, and only the leader.
async fn work(ctx: Arc<Context>, mut stop: watch::Receiver<bool>) {
    if !ctx.options.read_only {
        let mut told = stop.clone();
        tokio::select! {
            _ = ctx.leadership.acquired() => {}
            () = stopped(&mut told) => return,
        }
        watches::tell_all_undecodable(&ctx);
    }
    controller::run(ctx, async move { stopped(&mut stop).await }).await;
}

/// What has to be so before this replica calls itself ready.
fn readiness(ctx: &Arc<Context>, stop: &watch::Receiver<bool>) -> Readiness {
    let readiness = Readiness::default();
    for kind in WATCHED {
        let ctx = Arc::clone(ctx);
        readiness.gate(kind.gate(), move || ctx.world.listed(kind));
    }
    let stop = stop.clone();
    readiness.gate("its own end, as it was told", move || !*stop.borrow());
    readiness
}

/// Why the process ends with its election.
fn no_longer_leading(ended: Result<Result<(), Lost>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Err(lost)) => anyhow!(lost)
            .context("this replica no longer leads, and ends so that nothing is written twice"),
        Ok(Ok(())) => anyhow!("the election ended by itself"),
        Err(panic) => anyhow!("the election panicked ({panic})"),
    }
}

fn timing(args: &RunArgs) -> anyhow::Result<Timing> {
    let (lease, renew) = (args.lease_duration, args.lease_renew_deadline);
    Timing::new(lease, renew, args.lease_retry_period).map_err(Into::into)
}

fn context(
    args: &RunArgs,
    served: Served,
    config: Config,
    leadership: Leadership,
    metrics: Metrics,
    monitor: Monitor,
) -> anyhow::Result<(Arc<Context>, Arc<dyn Catalog>, events::Sender)> {
    let clients =
        Clients::new(config, &leadership).context("cannot set up the client of the API server")?;
    let (events, sender) = events::channel(
        clients.requests.clone(),
        args.pod_name.clone(),
        metrics.clone(),
    );
    let options = Options {
        settings: reach::settings(&args.mapping, served.clone()),
        period: args.period,
        concurrency: args.concurrency,
        limits: args.brake.limits(),
        read_only: args.read_only,
        ejection: reach::ejection(args.health.ejection),
        trust_domain: args.health.mesh_trust_domain.to_string(),
    };
    let (source, known) = (
        reach::catalog(&args.catalog, &metrics)?,
        Arc::<Known>::default(),
    );
    let ctx = Context {
        options,
        clients,
        cluster: Identity::new(args.cluster_id.clone()),
        mesh_api: MeshApi::default(),
        world: World::serving(
            args.mapping.cluster_domain.clone(),
            args.cluster.own_namespace.to_string(),
            &served,
        ),
        catalog: Arc::new(Remembering::new(Arc::clone(&source), Arc::clone(&known))),
        known,
        leadership,
        write_back: Arc::new(WriteBack::new(args.catalog.catalog_qps)),
        ejector: Ejector::default(),
        monitor,
        queue: Queue::new(usize::from(args.concurrency), metrics.workqueue.clone()),
        registrar: Registrar::new(args.register.scope(&served)),
        events,
        metrics,
        memory: Memory::default(),
        looks: Looks::default(),
        owed: Owed::default(),
        settled: Settled::default(),
    };
    Ok((Arc::new(ctx), source, sender))
}

/// Tells the catalog what the cluster knows, once the cluster has a name.
async fn write_back(ctx: Arc<Context>) {
    if ctx.options.read_only {
        return pending().await;
    }
    let cluster = ctx.cluster.settle(&ctx.clients.requests).await;
    // What is not known yet must not be told as nothing.
    ctx.world.slices_listed().await;
    let sender = Sender {
        write_back: Arc::clone(&ctx.write_back),
        catalog: Arc::clone(&ctx.catalog),
        cluster,
        leadership: ctx.leadership.clone(),
        metrics: ctx.metrics.clone(),
        surroundings: ctx as Arc<dyn Surroundings>,
    };
    sender.run().await;
}
