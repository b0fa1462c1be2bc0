//! A small service catalog that serves docs/catalog-api.yaml: the reference
//! for those who write one, and the catalog of the tests and the demo.

mod api;
mod args;
mod duration;
mod news;
mod problem;
mod seed;
mod shape;
mod store;

use std::ffi::OsString;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::serve::ListenerExt as _;
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tracing_subscriber::EnvFilter;

use api::App;
use api::guard::{Access, ApiKey};
use api::token::{Rule, Tokens};
use args::{Args, Command, LogFormat, Serve};
use store::Store;
use store::history::Retention;

/// How long open requests may take once the server is to stop.
const DRAIN: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    log_to_stderr(args.log_format);
    let store = Store::open(&args.database_url)
        .await
        .context("cannot open the database of --database-url")?;
    match args.command {
        Some(Command::RestoreEpoch) => {
            let state = store.new_epoch().await?;
            tracing::info!(
                epoch = state.epoch,
                revision = state.revision,
                "a new epoch has begun"
            );
            Ok(())
        }
        None => serve(args.serve, args.database_url, store).await,
    }
}

async fn serve(args: Serve, database_url: String, store: Store) -> anyhow::Result<()> {
    let access = Access {
        key: api_key(args.api_key_file.as_deref(), args.api_key)?,
        tokens: match args.token_audience {
            Some(audience) => {
                let rule = Rule {
                    audience,
                    users: args.token_account.into_iter().collect(),
                    trusted_for: args.token_trusted_for,
                };
                Some(Arc::new(Tokens::new(rule, api_server().await?)))
            }
            None => None,
        },
    };
    if access.key.is_none() && access.tokens.is_none() {
        tracing::warn!(
            "neither a key nor tokens are asked for: whoever reaches the server may write"
        );
    }
    if let Some(file) = &args.seed {
        seed::load(&store, file).await?;
    }
    let store = Arc::new(store);
    let (news_sender, news) = watch::channel(store.state().await?);
    let (stop, stopping) = watch::channel(false);
    let retention = Retention {
        revisions: args.retention_revisions,
        age: args.retention_age,
    };
    let watcher = tokio::spawn(news::watch(
        store.clone(),
        database_url,
        retention,
        news_sender,
    ));
    let app = App {
        store,
        access,
        requests: Semaphore::new(args.max_requests),
        streams: Arc::new(Semaphore::new(args.max_streams)),
        stream_age: args.stream_age,
        news,
        stopping: stopping.clone(),
    };
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    // An event that follows another one closely is not to wait until the client
    // has acknowledged that one, which takes up to 40 ms.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "events may be late");
        }
    });
    let serving = axum::serve(listener, api::router(Arc::new(app)))
        .with_graceful_shutdown(stopped(stopping.clone()));
    tracing::info!(%address, "listening");
    let told = told_to_stop()?;
    tokio::spawn(async move {
        told.await;
        tracing::info!("stopping");
        stop.send_replace(true);
    });
    let drained = async {
        stopped(stopping).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = async { serving.await } => served.context("serving failed")?,
        () = drained => tracing::warn!("stopped with requests still open"),
        ended = watcher => ended.context("the watch for changes ended")?,
    }
    Ok(())
}

async fn stopped(mut stopping: watch::Receiver<bool>) {
    // An error means that nobody can say it any more, which is the same.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn told_to_stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn api_key(file: Option<&Path>, given: Option<OsString>) -> anyhow::Result<Option<ApiKey>> {
    let key = match file {
        Some(file) => Some(
            std::fs::read_to_string(file)
                .with_context(|| format!("cannot read the API key from {}", file.display()))?,
        ),
        // Taken for none it would open the catalog to everybody.
        None => given
            .map(|key| key.into_string())
            .transpose()
            .map_err(|_| anyhow::anyhow!("CATALOG_API_KEY is not UTF-8; give another key"))?,
    };
    let Some(key) = key else { return Ok(None) };
    let key = key.trim();
    anyhow::ensure!(
        !key.is_empty(),
        "the API key is empty; give one, or none at all"
    );
    Ok(Some(ApiKey::new(key)))
}

/// A client of the API server that reviews tokens.
async fn api_server() -> anyhow::Result<kube::Client> {
    // Fails where a provider is there already, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let found = kube::Config::infer().await;
    let mut config = found.context("--token-audience needs a Kubernetes API server")?;
    config.connect_timeout = Some(Duration::from_secs(3));
    // A review has a deadline of its own.
    config.default_retry = false;
    kube::Client::try_from(config).context("cannot set up the client of the API server")
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // The library logs whole answers that it cannot decode; those to a review
    // hold the token.
    let filter = match "kube_client::client=error".parse() {
        Ok(silenced) => filter.add_directive(silenced),
        Err(_) => filter,
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Plain => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_key_that_is_no_text_is_not_taken_for_none() {
        let key = OsString::from_vec(vec![0xff]);
        let refused = api_key(None, Some(key)).err().map(|why| why.to_string());
        assert!(refused.is_some_and(|why| why.contains("CATALOG_API_KEY")));
        assert!(api_key(None, None).is_ok_and(|key| key.is_none()));
    }
}
