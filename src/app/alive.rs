//! How old are the signs of life of this process? They are read here, and
//! judged by [`crate::domain::liveness`].

use std::sync::Arc;

use crate::controller::context::Context;
use crate::domain::election::Timing;
use crate::domain::liveness::{self, Ages, Lasting};

/// What is wrong with this process, whenever it is asked for.
pub(super) fn liveness(
    ctx: &Arc<Context>,
    timing: Timing,
) -> impl Fn() -> Vec<String> + Send + Sync + use<> {
    let ctx = Arc::clone(ctx);
    let lasting = Lasting {
        request: timing.attempt(),
        term: timing.certain(),
    };
    move || liveness::overdue(&ages(&ctx), lasting)
}

fn ages(ctx: &Context) -> Ages {
    Ages {
        control_loop: ctx.queue.asked_ago(),
        look: ctx.queue.longest_run(),
        election: ctx.leadership.went_round_ago(),
        lease: ctx.leadership.renewed_ago(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use axum::body::Body;
    use clap::Parser as _;
    use http::{Method, Request, Response};
    use kube::{Client, Config};
    use serde_json::{Value, json};
    use tokio::task::JoinHandle;
    use tokio::time::{advance, resume, sleep};

    use super::super::{context, reach, timing};
    use super::*;
    use crate::admin::{self, Readiness};
    use crate::alert;
    use crate::args::{Cli, RunArgs};
    use crate::controller::clock::MachineClock;
    use crate::controller::election::Elector;
    use crate::controller::leadership::Leadership;
    use crate::controller::monitor::Monitor;
    use crate::controller::queue::state::Lane;
    use crate::domain::names::BindingKey;
    use crate::metrics::Metrics;

    const S: Duration = Duration::from_secs(1);

    /// What the shipped flags say, with nobody to talk to.
    fn args() -> RunArgs {
        let nobody = "http://127.0.0.1:1";
        let words = ["x", "--catalog-url", nobody];
        Cli::try_parse_from(words).unwrap().run
    }

    /// All that the process consists of, under this leadership.
    fn parts(leadership: Leadership, metrics: &Metrics) -> Arc<Context> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let args = args();
        let (prober, view, _checks) = reach::prober(&args.health, metrics).unwrap();
        let (alerts, _telling) =
            alert::start(reach::alerts(&args.alert), || true, metrics.alerts.clone()).unwrap();
        let monitor = Monitor::new(prober, view, alerts);
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let served = args.served().unwrap();
        let built = context(&args, served, config, leadership, metrics.clone(), monitor);
        built.unwrap().0
    }

    fn found(ctx: &Arc<Context>) -> Vec<String> {
        liveness(ctx, timing(&args()).unwrap())()
    }

    /// A look at this binding begins.
    async fn begins(ctx: &Context, name: &str) {
        let key = BindingKey::new("shop", name.to_owned());
        ctx.queue.add(&key, Lane::Normal);
        ctx.queue.next().await;
    }

    /// Somebody who stands for the Lease at a server that takes a second for
    /// each write; who holds it before.
    fn elector(metrics: &Metrics, holder: Option<&'static str>) -> (Leadership, Elector) {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| async move {
            let method = request.method().clone();
            let watch = request.uri().query().is_some_and(|q| q.contains("watch="));
            let sent = request.into_body().collect_bytes().await.unwrap();
            let (code, said) = match method {
                Method::GET if watch => std::future::pending().await,
                Method::GET => lease(holder),
                _ => {
                    sleep(S).await;
                    let mut lease: Value = serde_json::from_slice(&sent).unwrap();
                    lease["metadata"]["uid"] = json!("u");
                    lease["metadata"]["resourceVersion"] = json!("1");
                    (200, lease)
                }
            };
            let answer = Response::builder().status(code);
            Ok::<_, Infallible>(answer.body(Body::from(said.to_string())).unwrap())
        });
        Elector::new(
            Client::new(service, "here"),
            "here",
            "pod",
            timing(&args()).unwrap(),
            Arc::new(MachineClock),
            metrics.clone(),
        )
    }

    fn lease(holder: Option<&str>) -> (u16, Value) {
        let Some(holder) = holder else {
            let none = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                "code": 404, "reason": "NotFound", "message": "no"});
            return (404, none);
        };
        let lease = json!({
            "metadata": {"name": "x", "namespace": "here", "uid": "u", "resourceVersion": "1"},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 600},
        });
        (200, lease)
    }

    /// Stops in the middle of what it does, as one that hangs.
    async fn hang<T>(task: JoinHandle<T>) {
        task.abort();
        let _ = task.await;
    }

    // trap 15
    #[tokio::test(start_paused = true)]
    async fn a_loop_that_takes_no_more_keys_and_a_look_that_does_not_end_are_told_apart() {
        let ctx = parts(Leadership::granted(1), &Metrics::new().unwrap());
        advance(1000 * S).await;
        assert!(found(&ctx).is_empty(), "who never began owes no sign");
        begins(&ctx, "first").await;
        advance(10 * S).await;
        begins(&ctx, "second").await;
        advance(60 * S).await;
        assert!(found(&ctx).is_empty());
        advance(S).await;
        assert_eq!(found(&ctx), ["the control loop went round 61 s ago"]);
        advance(79 * S).await;
        begins(&ctx, "third").await;
        assert!(found(&ctx).is_empty());
        advance(S).await;
        assert_eq!(found(&ctx), ["a look began that has not ended 151 s ago"]);
    }

    // trap 15
    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_renewed_and_an_election_that_stands_still_are_told_apart() {
        let metrics = Metrics::new().unwrap();
        let (leadership, elector) = elector(&metrics, None);
        let ctx = parts(leadership.clone(), &metrics);
        let election = tokio::spawn(elector.run(std::future::pending()));
        leadership.acquired().await;
        sleep(600 * S).await;
        assert!(found(&ctx).is_empty(), "it renews");
        // Every 3 s, of which the answer takes the last: half a second after it.
        sleep(S / 2).await;
        hang(election).await;
        let renewed = ctx.leadership.renewed_ago().unwrap();
        let round = ctx.leadership.went_round_ago().unwrap();
        assert_eq!(renewed, round + S, "else a mix-up would pass unnoticed");
        advance(40 * S - renewed).await;
        assert!(found(&ctx).is_empty());
        advance(S).await;
        assert_eq!(found(&ctx), ["the Lease was renewed 41 s ago"]);
        advance(25 * S).await;
        assert_eq!(found(&ctx), ["the Lease was renewed 66 s ago"]);
        advance(S).await;
        let both = [
            "the election went round 66 s ago",
            "the Lease was renewed 67 s ago",
        ];
        assert_eq!(found(&ctx), both);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_by_owes_a_round_of_the_election_and_nothing_else() {
        let metrics = Metrics::new().unwrap();
        let (leadership, elector) = elector(&metrics, Some("another"));
        let ctx = parts(leadership, &metrics);
        let election = tokio::spawn(elector.run(std::future::pending()));
        sleep(300 * S).await;
        assert!(found(&ctx).is_empty());
        hang(election).await;
        advance(66 * S - ctx.leadership.went_round_ago().unwrap()).await;
        assert_eq!(found(&ctx), ["the election went round 66 s ago"]);
    }

    // trap 15
    #[tokio::test(start_paused = true)]
    async fn the_port_says_503_with_the_sign_that_is_missing() {
        let metrics = Metrics::new().unwrap();
        let ctx = parts(Leadership::granted(1), &metrics);
        begins(&ctx, "web").await;
        advance(61 * S).await;
        // From here on by the real clock, for there is a real connection.
        resume();
        let listener = admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}/livez", listener.local_addr().unwrap());
        let alive = Arc::new(liveness(&ctx, timing(&args()).unwrap()));
        let (counting, readiness) = (Arc::new(|| ()), Readiness::default());
        tokio::spawn(admin::serve(listener, metrics, counting, alive, readiness));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let ask = async || {
            let answer = http.get(&url).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        };
        let (status, said) = ask().await;
        assert_eq!(status, 503);
        assert!(said.starts_with("the control loop went round 6"), "{said}");
        begins(&ctx, "api").await;
        assert_eq!(ask().await, (200, "ok\n".to_owned()));
    }
}
