//! What the debug pages show: of the health checks, every service or the
//! endpoints of one with what became of them; and of the bindings, in
//! [`binding`].

mod binding;

use std::sync::Arc;

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::admin;
use crate::admin::debug::Pages;
use crate::args::debug::DebugListen;
use crate::controller::context::Context;
use crate::domain::health::judge::{Answer, Failure, Unknown, Verdict};
use crate::domain::names::{Namespace, ServiceKey, ServiceName};
use crate::health::view::{EndpointReport, HealthView};
use crate::metrics::health::SetAside;

/// Opens their port, if there is to be one.
pub(super) async fn bind(listen: DebugListen) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = listen.0 else {
        return Ok(None);
    };
    let listener = admin::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; choose another --debug-listen, or `off`")
    })?;
    Ok(Some(listener))
}

/// The pages.
pub(super) fn pages(ctx: Arc<Context>, view: HealthView) -> Pages {
    let (all, one, checks) = (Arc::clone(&ctx), ctx, view.clone());
    Pages {
        health: Arc::new(move |service: Option<&str>| health(&checks, service)),
        bindings: Arc::new(move || binding::all(&all)),
        binding: Arc::new(move |namespace, name| binding::one(&one, &view, namespace, name)),
    }
}

/// Every service that is checked, or the one that is asked for, as
/// `<namespace>/<name>`; nothing where that one is not checked.
fn health(view: &HealthView, service: Option<&str>) -> Option<Value> {
    let Some(service) = service else {
        let all = view.services().into_iter().map(|(key, counts, proven)| {
            json!({
                "service": key.to_string(),
                "endpoints": counts.total,
                "healthy": counts.healthy,
                "unhealthy": counts.unhealthy,
                "proven": proven,
            })
        });
        let held = view.held().map(|doubt| format!("{doubt:?}"));
        return Some(json!({"held": held, "services": all.collect::<Vec<_>>()}));
    };
    let (namespace, name) = service.split_once('/')?;
    let key = ServiceKey {
        namespace: Namespace::parse(namespace).ok()?,
        name: ServiceName::parse(name).ok()?,
    };
    checks(view, &key)
}

/// The endpoints of a service, where it is checked.
fn checks(view: &HealthView, key: &ServiceKey) -> Option<Value> {
    let report = view.service(key)?;
    let endpoints: Vec<_> = report.endpoints.iter().map(endpoint).collect();
    Some(json!({"service": key.to_string(), "proven": report.proven, "endpoints": endpoints}))
}

fn endpoint(report: &EndpointReport) -> Value {
    let history = report.history.iter().map(|transition| {
        json!({
            "at": transition.at.timestamp().to_string(),
            "from": words(transition.from),
            "to": words(transition.to),
        })
    });
    let failed = |(at, failure): (Timestamp, Failure)| json!({"at": at.to_string(), "why": failure.to_string()});
    let check = |(at, told)| json!({"at": Timestamp::to_string(&at), "result": result(told)});
    json!({
        "address": report.address.to_string(),
        "verdict": words(report.verdict),
        "since": report.since.to_string(),
        "lastCheck": report.last.map(check),
        "lastFailure": report.last_failure.map(failed),
        "history": history.collect::<Vec<_>>(),
    })
}

fn result(told: Result<Answer, SetAside>) -> String {
    match told {
        Ok(Answer::Good) => "answered as it should".to_owned(),
        Ok(Answer::Failed(failure)) => failure.to_string(),
        Ok(Answer::Unknown(why)) => why.to_string(),
        Err(why) => format!("not judged: {why:?}"),
    }
}

fn words(verdict: Verdict) -> String {
    let unknown = |why: Unknown| format!("unknown: {why}");
    match verdict {
        Verdict::Pending => "not judged yet".to_owned(),
        Verdict::Unknown(why) => unknown(why),
        Verdict::Healthy => "healthy".to_owned(),
        Verdict::Unhealthy(failure) => format!("unhealthy: {failure}"),
    }
}
