//! Which kinds are watched, and where their events go.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use kube::Api;
use kube_runtime::watcher::{Error, Event};
use tokio::time::sleep;

use super::context::Context;
use super::events::About;
use super::mirror::Seen;
use super::mirrors::Told;
use super::queue::state::Lane;
use super::readable::{Readable, Unreadable};
use super::refusals::Refusals;
use super::world::Concerned;
use super::world::missing::Missing;
use super::{clients, error, namespaces, pods, slices, sources, watch};
use crate::api::endpoint_slice::EndpointSlice;
use crate::api::mesh_rule::MeshRule;
use crate::api::pod::Pod;
use crate::api::service::Service;
use crate::api::service_binding::ServiceBinding;
use crate::domain::desired::MeshKind;
use crate::domain::served::{Part, WHOLE};
use crate::domain::status::Transition;
use crate::metrics::Metrics;

/// How soon it is looked again whether a namespace, or its lists, are there.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// All watches as tasks that never end, with the name of each.
pub fn all(ctx: &Arc<Context>) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    type Task = (&'static str, BoxFuture<'static, ()>);
    let served = &ctx.options.settings.served;
    let mut tasks: Vec<Task> = Vec::new();
    if served.is_all() {
        let watch = namespaces::watch(Arc::clone(ctx));
        tasks.push(("watch of Namespaces", Box::pin(watch)));
    } else {
        let mut read = served.parts();
        read.insert(ctx.world.own_namespace().to_owned());
        for name in read {
            let reads = namespaces::read(Arc::clone(ctx), name);
            tasks.push(("reads of a Namespace", Box::pin(reads)));
        }
    }
    for part in served.parts() {
        let us = || (Arc::clone(ctx), part.clone());
        let rules = |kind| Box::pin(follow_rules(us(), kind));
        let of_part: [Task; 6] = [
            ("watch of ServiceBindings", Box::pin(follow_bindings(us()))),
            ("watch of Services", Box::pin(follow_services(us()))),
            ("watch of EndpointSlices", Box::pin(follow_slices(us()))),
            ("watch of Pods", Box::pin(follow_pods(us()))),
            ("watch of VirtualServices", rules(MeshKind::VirtualService)),
            (
                "watch of DestinationRules",
                rules(MeshKind::DestinationRule),
            ),
        ];
        tasks.extend(of_part);
    }
    tasks
}

/// Who watches, and what.
type Us = (Arc<Context>, Part);

/// Waits until the part may be watched: who may read a Namespace has a Role in
/// it.
async fn may_watch(ctx: &Context, part: &str) {
    while part != WHOLE && !ctx.world.knows_namespace(part) {
        sleep(LOOK_AGAIN).await;
    }
}

/// Waits until all is known of a namespace but its bindings: where it was made,
/// or its Role granted, long after the start, none of them is looked at before.
async fn surroundings(ctx: &Context, part: &str) {
    while part != WHOLE && !ctx.world.ready_for_bindings_of(part) {
        sleep(LOOK_AGAIN).await;
    }
}

/// The objects of a kind that one watch is of.
fn of<K>(ctx: &Context, part: &str) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    clients::of(&ctx.clients.watches, part)
}

async fn follow_bindings((ctx, part): Us) {
    surroundings(&ctx, &part).await;
    let api = || ready_with(of::<Readable>(&ctx, &part));
    let sink = |event: Event<Readable>| {
        let Some(event) = decoded(&ctx, &part, event) else {
            return;
        };
        let event = map(event, sources::binding);
        ask(&ctx, ctx.world.bindings(Told::of(&part, event)));
    };
    watch::follow(api, sink, failure(&ctx.metrics, "ServiceBinding")).await;
}

async fn follow_services((ctx, part): Us) {
    may_watch(&ctx, &part).await;
    let api = || ready_with(of::<Service>(&ctx, &part));
    let sink = |event: Event<Service>| {
        let event = map(event, sources::service);
        ask(&ctx, ctx.world.services(Told::of(&part, event)));
    };
    watch::follow(api, sink, failure(&ctx.metrics, "Service")).await;
}

async fn follow_slices((ctx, part): Us) {
    may_watch(&ctx, &part).await;
    let api = || ready_with(of::<EndpointSlice>(&ctx, &part));
    let sink = |event: Event<EndpointSlice>| {
        let event = map(event, |slice| slices::slice(&slice));
        let services = ctx.world.slices(Told::of(&part, event));
        ctx.write_back.touched(&services);
        ctx.monitor.served(&services);
    };
    watch::follow(api, sink, failure(&ctx.metrics, "EndpointSlice")).await;
}

async fn follow_pods((ctx, part): Us) {
    may_watch(&ctx, &part).await;
    let api = || ready_with(of::<Pod>(&ctx, &part));
    let sink = |event: Event<Pod>| {
        let event = map(event, |pod| pods::pod(&pod));
        let changed = ctx.world.pods(Told::of(&part, event));
        if changed.marks {
            ctx.ejector.look();
        }
        ctx.monitor.served(&changed.services);
    };
    let failed = failure(&ctx.metrics, "Pod");
    watch::follow_some(api, pods::UNFINISHED, sink, failed).await;
}

async fn follow_rules((ctx, part): Us, kind: MeshKind) {
    may_watch(&ctx, &part).await;
    let refusals = Refusals::default();
    let api = || {
        let (ctx, part, refusals) = (Arc::clone(&ctx), part.clone(), refusals.clone());
        // Which version is served may have changed with Istio itself.
        async move {
            refusals.before_a_try(&ctx.clients.requests).await;
            ctx.mesh_api.discover(&ctx.clients.requests).await;
            ctx.mesh_api
                .of::<MeshRule>(&ctx.clients.watches, kind, &part)
        }
        .boxed()
    };
    let sink = |event: Event<MeshRule>| {
        if matches!(event, Event::InitDone) {
            refusals.are_over();
        }
        let event = map(event, |rule| sources::rule(kind, &rule));
        ask(&ctx, ctx.world.rules(kind, Told::of(&part, event)));
    };
    let mut counted = failure(&ctx.metrics, kind.as_str());
    let failed = |error: &Error, failures: u32| {
        counted(error, failures);
        if !watch::is_list_refused(error) {
            // Whatever else fails, the kind was there and is known as it was.
            return refusals.are_over();
        }
        if !refusals.one_more() {
            return;
        }
        let why = Missing::of(error, kind);
        ask(&ctx, ctx.world.rules_missing(kind, &part, why));
    };
    watch::follow(api, sink, failed).await;
}

/// An API that needs no asking.
fn ready_with<K: Send + 'static>(api: Api<K>) -> BoxFuture<'static, Api<K>> {
    std::future::ready(api).boxed()
}

/// Counts and logs a watch's failures.
pub(super) fn failure(metrics: &Metrics, kind: &'static str) -> impl FnMut(&Error, u32) + use<> {
    let metrics = metrics.clone();
    move |error, failures| {
        metrics.watch_failed(kind);
        tracing::warn!(
            kind,
            failures,
            error = error::brief(&error.to_string()),
            "watch failed; it goes on by itself"
        );
    }
}

/// Hands what a change concerns to the queue.
pub(super) fn ask(ctx: &Context, concerned: Concerned) {
    for (keys, lane) in [
        (&concerned.urgent, Lane::Urgent),
        (&concerned.now, Lane::Normal),
        (&concerned.listed, Lane::Bulk),
    ] {
        for key in keys {
            if concerned.edited.contains(key) {
                ctx.queue.edited(key, lane);
            } else {
                ctx.queue.add(key, lane);
            }
        }
    }
    for key in &concerned.gone {
        ctx.queue.forget(key);
        ctx.looks.forget(key);
        ctx.owed.take(key);
        ctx.settled.note(key, None);
        ctx.memory.found(key);
        ctx.ejector.forget(key);
        ctx.write_back.release(key);
    }
    ctx.registrar.concerned(&concerned);
    ctx.monitor.concerned(&concerned);
}

/// The event, if its object could be decoded. One that could not is told of,
/// and counts as what it last was, deleted or not: it must not stop the
/// others, nor its own end.
fn decoded(ctx: &Context, part: &str, event: Event<Readable>) -> Option<Event<ServiceBinding>> {
    if let Some(event) = unreadable(&event) {
        ctx.world.unreadable(Told::of(part, event));
    }
    let deleted = matches!(event, Event::Delete(_));
    let (object, event): (_, fn(ServiceBinding) -> Event<ServiceBinding>) = match event {
        Event::Init => return Some(Event::Init),
        Event::InitDone => return Some(Event::InitDone),
        Event::InitApply(object) => (object, Event::InitApply),
        Event::Apply(object) => (object, Event::Apply),
        Event::Delete(object) => (object, Event::Delete),
    };
    match object.0 {
        Ok(binding) => Some(event(binding)),
        Err(invalid) => {
            if !deleted {
                undecodable(ctx, &invalid);
            }
            ctx.world.last_readable(&invalid.metadata).map(event)
        }
    }
}

/// What the event says about which bindings cannot be decoded.
fn unreadable(event: &Event<Readable>) -> Option<Event<Seen<String>>> {
    let seen = |object: &Readable| match &object.0 {
        Ok(binding) => sources::seen(&binding.metadata, String::new()),
        Err(invalid) => sources::seen(&invalid.metadata, note(invalid)),
    };
    match event {
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
        Event::InitApply(object) => object.0.is_err().then(|| Event::InitApply(seen(object))),
        Event::Apply(object) if object.0.is_err() => Some(Event::Apply(seen(object))),
        Event::Apply(object) | Event::Delete(object) => Some(Event::Delete(seen(object))),
    }
}

/// The binding cannot be read: tells the operator's owner, and the binding's
/// own where this process leads.
fn undecodable(ctx: &Context, invalid: &Unreadable) {
    let seen = sources::seen(&invalid.metadata, note(invalid));
    tracing::warn!(
        binding = format!("{}/{}", seen.id.0, seen.id.1),
        note = seen.value,
        "undecodable binding"
    );
    ctx.metrics.undecodable();
    if ctx.leadership.epoch().is_some() {
        tell_undecodable(ctx, seen);
    }
}

/// Tells the owners of all bindings that cannot be read: what came before this
/// process led was told by nobody.
pub fn tell_all_undecodable(ctx: &Context) {
    for seen in ctx.world.all_unreadable() {
        tell_undecodable(ctx, seen);
    }
}

fn tell_undecodable(ctx: &Context, seen: Seen<String>) {
    let (namespace, name) = seen.id;
    let about = About {
        namespace,
        name,
        uid: seen.uid.to_string(),
    };
    let transition = Transition {
        reason: "Undecodable".to_owned(),
        note: seen.value,
        warning: true,
    };
    ctx.events.tell(about, transition);
}

fn note(invalid: &Unreadable) -> String {
    format!(
        "this ServiceBinding cannot be read: {}; what it last said stays in force until the field is corrected",
        error::brief(&invalid.error)
    )
}

/// The event about something else that is made of its object.
pub(super) fn map<K, V>(event: Event<K>, value: impl Fn(K) -> V) -> Event<V> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(value(object)),
        Event::Apply(object) => Event::Apply(value(object)),
        Event::Delete(object) => Event::Delete(value(object)),
    }
}
