//! Makes bindings for entries of the catalog. Fed by what changes in the
//! catalog and around the Services in the cluster; each change costs a look
//! at the Services that it concerns, never one at all of them.

mod away;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::apply::in_time;
use super::context::Context;
use super::error::WriteError;
use super::world::Concerned;
use super::{audit, collisions};
use away::Away;

use crate::api::service_binding::{ServiceBinding, ServiceBindingStatus};
use crate::catalog::known::{Known, Presence};
use crate::domain::labels::{BINDING_KIND, MANAGER};
use crate::domain::names::{BindingKey, CatalogServiceId, Namespace, ServiceKey, ServiceName};
use crate::domain::record::ServiceRecord;
use crate::domain::registration::index::Index;
use crate::domain::registration::{self, Decision, PROBLEMS, Problem, Scope};
use crate::domain::{retry, status};

/// Most bindings that are made at once.
const AT_ONCE: usize = 8;

/// How soon a binding that somebody deleted is made again, counted from when
/// it was made before: a quarrel is no hot loop.
const MADE_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What is to be looked at, and what was found.
#[derive(Debug)]
pub struct Registrar {
    scope: Scope,
    state: Mutex<State>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    index: Index,
    /// Service → when it is looked at.
    due: HashMap<ServiceKey, Instant>,
    /// Service → when a binding was made for it last.
    made: HashMap<ServiceKey, Instant>,
    /// Service → how often in a row no binding could be made for it.
    failed: HashMap<ServiceKey, u32>,
    away: Away,
    problems: HashMap<CatalogServiceId, Problem>,
}

impl Registrar {
    /// Makes bindings within this scope.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            state: Mutex::default(),
            moved: Notify::new(),
        }
    }

    /// How many records lead to no binding, by why.
    pub fn problems(&self) -> [(&'static str, usize); 3] {
        self.state(|state| {
            let count = |label| {
                let problems = state.problems.values();
                problems.filter(|problem| problem.label() == label).count()
            };
            PROBLEMS.map(|label| (label, count(label)))
        })
    }

    /// What a binding to this record of its own is told of others that name its
    /// Service. Before it is known whether others do, that is what its status
    /// says already: a restart is no news.
    pub(crate) fn beside(
        &self,
        service: &ServiceKey,
        record: &ServiceRecord,
        status: Option<&ServiceBindingStatus>,
    ) -> Option<String> {
        let id = self.scope.leads_to(record, service)?;
        self.state(|state| {
            if state.index.knows(&id, service) {
                registration::beside(&state.index.ids(service), &id)
            } else {
                status::another_record(status).map(str::to_owned)
            }
        })
    }

    /// These records changed.
    pub fn records_changed(&self, ids: &BTreeSet<CatalogServiceId>, known: &Known) {
        self.state(|state| {
            for id in ids {
                let record = match known.presence(id) {
                    Presence::Present(record) => Some(record),
                    // Whatever it was stays, until it can be read again.
                    Presence::Unreadable(_) | Presence::Unknown => continue,
                    Presence::Absent { .. } => None,
                };
                let (concerned, problem) = state.index.take(&self.scope, id, record.as_deref());
                say(state, id, problem);
                for service in concerned {
                    state.due.insert(service, Instant::now());
                }
            }
        });
        self.moved.notify_one();
    }

    /// Something changed around Services that records may name.
    pub(crate) fn concerned(&self, concerned: &Concerned) {
        if concerned.services.is_empty() && concerned.namespaces.is_empty() {
            return;
        }
        self.state(|state| {
            let named = concerned.services.iter().filter_map(|(namespace, name)| {
                Some(ServiceKey {
                    namespace: Namespace::parse(namespace).ok()?,
                    name: ServiceName::parse(name).ok()?,
                })
            });
            let mut due: Vec<_> = named.filter(|service| state.index.names(service)).collect();
            for namespace in &concerned.namespaces {
                due.extend(state.index.of_namespace(namespace).cloned());
            }
            if concerned.all {
                due.extend(state.index.services().cloned());
            }
            for service in due {
                state.due.insert(service, Instant::now());
            }
        });
        self.moved.notify_one();
    }

    /// Waits until Services are due, and takes them.
    async fn next(&self) -> Vec<ServiceKey> {
        loop {
            let now = Instant::now();
            let (ready, first) = self.state(|state| {
                let due = state.due.iter().filter(|(_, at)| **at <= now);
                let ready: Vec<_> = due.map(|(service, _)| service.clone()).collect();
                for service in &ready {
                    state.due.remove(service);
                }
                (ready, state.due.values().min().copied())
            });
            if !ready.is_empty() {
                return ready;
            }
            let later = async {
                match first {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.moved.notified() => {}
                () = later => {}
            }
        }
    }

    /// No binding was made: when it is tried again depends on why.
    fn not_made(&self, service: &ServiceKey, error: &WriteError) {
        match error {
            // Nor would any other.
            WriteError::Away(_) => self.is_away(service, None),
            // Nor would any other there: a right in one namespace says nothing
            // about another.
            WriteError::Denied(_) => self.is_away(service, Some(&service.namespace)),
            _ => self.failed(service),
        }
    }

    /// No binding could be made; it is tried again, later each time.
    fn failed(&self, service: &ServiceKey) {
        let count = self.state(|state| {
            let count = state.failed.entry(service.clone()).or_default();
            *count = count.saturating_add(1);
            *count
        });
        let delay = retry::BINDING.delay(count, fastrand::f64());
        self.later(service, Instant::now() + delay);
    }

    /// The API server makes no bindings at all, everywhere or in that namespace:
    /// those that come due together when it is asked again find out for all.
    fn is_away(&self, service: &ServiceKey, within: Option<&Namespace>) {
        let (chance, now) = (fastrand::f64(), Instant::now());
        let at = self.state(|state| state.away.note(within, chance, now));
        self.later(service, at);
    }

    /// When it is tried again in that namespace, where nobody is to try before.
    fn away_until(&self, namespace: &Namespace) -> Option<Instant> {
        self.state(|state| state.away.until(namespace, Instant::now()))
    }

    /// A binding was made for the Service, so that others can be.
    fn made(&self, service: &ServiceKey, at: Instant) {
        self.state(|state| {
            state.made.retain(|_, made| *made + MADE_AGAIN_AFTER > at);
            state.made.insert(service.clone(), at);
            state.failed.remove(service);
            state.away.is_over(&service.namespace);
        });
    }

    fn later(&self, service: &ServiceKey, at: Instant) {
        self.state(|state| {
            let due = state.due.entry(service.clone()).or_insert(at);
            *due = at.min(*due);
        });
    }

    /// Nothing in the state is left half-done by a panic, so a poisoned lock
    /// is used on.
    fn state<T>(&self, use_it: impl FnOnce(&mut State) -> T) -> T {
        use_it(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Remembers the record's problem, and logs and returns one that is new.
fn say(state: &mut State, id: &CatalogServiceId, problem: Option<Problem>) -> Option<Problem> {
    let Some(problem) = problem else {
        state.problems.remove(id);
        return None;
    };
    if state.problems.get(id) == Some(&problem) {
        return None;
    }
    tracing::warn!(
        catalogServiceId = %id,
        reason = problem.label(),
        "no binding is made for this record: {}",
        problem.message()
    );
    state.problems.insert(id.clone(), problem.clone());
    Some(problem)
}

/// The binding that would be made for the Service.
fn key_for(service: &ServiceKey) -> BindingKey {
    BindingKey::new(service.namespace.to_string(), service.name.to_string())
}

/// Makes bindings for as long as the process lives and leads.
pub async fn run(ctx: Arc<Context>) {
    // What is not known yet must not be taken for absent.
    ctx.world.complete().await;
    loop {
        let due = ctx.registrar.next().await;
        // One that only reads never leads, and says what it would do.
        if !ctx.options.read_only {
            ctx.leadership.acquired().await;
        }
        let ctx = &ctx;
        let each = |service| async move { register(ctx, &service).await };
        futures::stream::iter(due)
            .for_each_concurrent(AT_ONCE, each)
            .await;
    }
}

/// Looks at one Service, and makes a binding for it if there should be one.
///
/// Writes at most once; when cancelled, the next change finds out.
async fn register(ctx: &Context, service: &ServiceKey) {
    let registrar = &ctx.registrar;
    let around = ctx.world.around(service);
    let (ids, made, news) = registrar.state(|state| {
        let ids = state.index.ids(service);
        let problems = registration::problems(&ids, &around);
        let mut news = Vec::new();
        for id in &ids {
            let problem = problems.iter().find(|(of, _)| of == id);
            let problem = problem.map(|(_, problem)| problem.clone());
            news.extend(say(state, id, problem).map(|problem| (id.clone(), problem)));
        }
        (ids, state.made.get(service).copied(), news)
    });
    collisions::tell(ctx, &key_for(service), &news);
    collisions::look_again(ctx, &around, &ids);
    let Decision::Create(id) = registration::decide(&registrar.scope, service, &ids, &around)
    else {
        registrar.state(|state| state.failed.remove(service));
        return;
    };
    if ctx.options.read_only {
        tracing::info!(%service, catalogServiceId = %id, "read-only: no binding is made");
        return;
    }
    let now = Instant::now();
    if let Some(again) = made.map(|at| at + MADE_AGAIN_AFTER).filter(|at| *at > now) {
        registrar.later(service, again);
        return;
    }
    if let Some(until) = registrar.away_until(&service.namespace) {
        registrar.later(service, until);
        return;
    }
    match create(ctx, service, &id).await {
        Ok(()) => registrar.made(service, now),
        // Somebody was faster; the watch tells who.
        Err(WriteError::Stale) => {}
        Err(WriteError::NotLeader) => registrar.later(service, now),
        Err(error) => {
            tracing::warn!(%service, catalogServiceId = %id, %error, "no binding could be made; it is tried again");
            registrar.not_made(service, &error);
        }
    }
}

/// Creates the binding, where none of that name exists.
async fn create(
    ctx: &Context,
    service: &ServiceKey,
    id: &CatalogServiceId,
) -> Result<(), WriteError> {
    let key = key_for(service);
    let binding = registration::binding(service, id);
    let mut body =
        serde_json::to_value(&binding).map_err(|e| WriteError::Refused(e.to_string()))?;
    // No object has ever had this resource version, so that the server refuses
    // the apply where one of that name exists.
    body["metadata"]["resourceVersion"] = Value::String("1".to_owned());
    let api = Api::<ServiceBinding>::namespaced(ctx.clients.requests.clone(), &key.namespace);
    let (params, patch) = (PatchParams::apply(MANAGER), Patch::Apply(body));
    let answer = in_time(api.patch(&key.name, &params, &patch)).await;
    audit::Write {
        verb: "patch",
        kind: BINDING_KIND,
        namespace: &key.namespace,
        name: &key.name,
        binding: Some(&key.to_string()),
        reason: "the catalog has this service, and no binding is for it",
    }
    .ended(&answer);
    let answer = answer
        .map(|_| ())
        .map_err(|error| WriteError::from_kube(&error));
    ctx.metrics.wrote(BINDING_KIND, answer.is_ok());
    if answer.is_ok() {
        tracing::info!(
            audit = true,
            event = "ServiceRegistered",
            catalogServiceId = %id,
            serviceName = %service.name,
            namespace = %service.namespace,
            "Made a binding for a service of the catalog"
        );
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registrar(names: &[&str]) -> Registrar {
        let scope = Scope {
            on: true,
            ..Scope::default()
        };
        let registrar = Registrar::new(scope);
        registrar.state(|state| {
            for name in names {
                let record = crate::domain::record::ServiceRecord {
                    id: (*name).to_owned(),
                    name: (*name).to_owned(),
                    namespace: "shop".to_owned(),
                    ..Default::default()
                };
                let id = CatalogServiceId::parse(name).unwrap();
                state.index.take(&registrar.scope, &id, Some(&record));
            }
        });
        registrar
    }

    fn service(name: &str) -> ServiceKey {
        ServiceKey {
            namespace: Namespace::parse("shop").unwrap(),
            name: ServiceName::parse(name).unwrap(),
        }
    }

    fn services(names: &[&str]) -> Concerned {
        let ids = names
            .iter()
            .map(|name| ("shop".to_owned(), (*name).to_owned()));
        Concerned {
            services: ids.collect(),
            ..Concerned::default()
        }
    }

    const SOON: Duration = Duration::from_secs(5);

    async fn next(registrar: &Registrar) -> Vec<String> {
        let mut names: Vec<_> = registrar
            .next()
            .await
            .iter()
            .map(ToString::to_string)
            .collect();
        names.sort();
        names
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_concerns_the_services_that_records_name_and_no_others() {
        let registrar = registrar(&["web", "api"]);
        registrar.concerned(&services(&["web", "nobodys", "NoName"]));
        assert_eq!(next(&registrar).await, ["shop/web"]);
        registrar.concerned(&Concerned {
            namespaces: BTreeSet::from(["shop".to_owned(), "other".to_owned()]),
            ..Concerned::default()
        });
        assert_eq!(next(&registrar).await, ["shop/api", "shop/web"]);
        registrar.concerned(&Concerned {
            namespaces: BTreeSet::from(["operators".to_owned()]),
            all: true,
            ..Concerned::default()
        });
        assert_eq!(next(&registrar).await, ["shop/api", "shop/web"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_to_be_tried_later_comes_then_and_a_change_does_not_wait_for_it() {
        let registrar = registrar(&["web", "api"]);
        let start = Instant::now();
        registrar.later(&service("web"), start + SOON);
        registrar.concerned(&services(&["api"]));
        assert_eq!(next(&registrar).await, ["shop/api"]);
        assert_eq!(next(&registrar).await, ["shop/web"]);
        assert_eq!(start.elapsed(), SOON);
        registrar.later(&service("web"), Instant::now() + SOON);
        registrar.concerned(&services(&["web"]));
        assert_eq!(next(&registrar).await, ["shop/web"]);
        assert_eq!(start.elapsed(), SOON);
        // Nor one that came while it was tried.
        registrar.concerned(&services(&["web"]));
        registrar.later(&service("web"), Instant::now() + SOON);
        assert_eq!(next(&registrar).await, ["shop/web"]);
        assert_eq!(start.elapsed(), SOON);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_made_is_tried_again_less_and_less_often_and_never_given_up() {
        let registrar = registrar(&["web", "api"]);
        let refused = WriteError::Refused("no".to_owned());
        let hour = Instant::now() + Duration::from_secs(3600);
        let (mut tries, mut last) = (0, Instant::now());
        registrar.not_made(&service("web"), &refused);
        while Instant::now() < hour {
            assert_eq!(next(&registrar).await, ["shop/web"]);
            (tries, last) = (tries + 1, Instant::now());
            registrar.not_made(&service("web"), &refused);
        }
        assert!((60..=130).contains(&tries), "{tries}");
        // A change does not wait, and another Service has its own pace.
        registrar.concerned(&services(&["web"]));
        assert_eq!(next(&registrar).await, ["shop/web"]);
        registrar.not_made(&service("api"), &refused);
        assert_eq!(next(&registrar).await, ["shop/api"]);
        assert!(last.elapsed() <= Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_that_fail_together_do_not_come_back_together() {
        let names: Vec<_> = (0..100).map(|n| format!("s{n}")).collect();
        let registrar = registrar(&names.iter().map(String::as_str).collect::<Vec<_>>());
        for name in &names {
            registrar.failed(&service(name));
        }
        let mut at_once = Vec::new();
        while at_once.iter().sum::<usize>() < names.len() {
            at_once.push(next(&registrar).await.len());
        }
        assert!(at_once.iter().all(|count| *count <= 20), "{at_once:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_binding_can_be_made_at_all_few_find_out_and_all_are_made_soon_after() {
        let names: Vec<_> = (0..1000).map(|n| format!("s{n}")).collect();
        let registrar = registrar(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let all: Vec<_> = names.iter().map(String::as_str).collect();
        registrar.concerned(&services(&all));
        let (start, mut tries) = (Instant::now(), 0);
        let errors = [WriteError::Away, WriteError::Denied].map(|why| why("no".to_owned()));
        let mut away = true;
        let mut made = 0;
        while made < names.len() {
            for service in registrar.next().await {
                if let Some(until) = registrar.away_until(&service.namespace) {
                    registrar.later(&service, until);
                } else if away {
                    tries += 1;
                    registrar.not_made(&service, &errors[tries % 2]);
                    away = start.elapsed() < 60 * SOON;
                } else {
                    registrar.made(&service, Instant::now());
                    made += 1;
                }
            }
        }
        assert!((150..=400).contains(&tries), "{tries} in five minutes");
        assert!(start.elapsed() < 60 * SOON + Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_in_which_no_binding_can_be_made_keeps_none_of_another_waiting() {
        let all = [("a", 100), ("b", 10)]
            .into_iter()
            .flat_map(|(namespace, count)| {
                (0..count).map(move |n| ServiceKey {
                    namespace: Namespace::parse(namespace).unwrap(),
                    name: ServiceName::parse(&format!("s{n}")).unwrap(),
                })
            });
        let registrar = registrar(&[]);
        let start = Instant::now();
        all.for_each(|service| registrar.later(&service, start));
        let (mut made, mut tries) = (0, 0);
        while start.elapsed() < 30 * SOON {
            for service in registrar.next().await {
                if let Some(until) = registrar.away_until(&service.namespace) {
                    registrar.later(&service, until);
                } else if service.namespace.as_str() == "a" {
                    tries += 1;
                    registrar.not_made(&service, &WriteError::Denied("no".to_owned()));
                } else {
                    made += 1;
                    registrar.made(&service, Instant::now());
                    assert!(start.elapsed() < Duration::from_secs(60));
                }
            }
        }
        assert_eq!(made, 10);
        assert!(tries <= 300, "{tries} in the namespace that refuses");
    }

    #[test]
    fn problems_are_counted_by_why_and_go_with_their_cause() {
        let registrar = registrar(&[]);
        let id = CatalogServiceId::parse("a").unwrap();
        registrar.state(|state| say(state, &id, Some(Problem::NameTaken)));
        let expected = [("InvalidName", 0), ("NameTaken", 1), ("AnotherRecord", 0)];
        assert_eq!(registrar.problems(), expected);
        registrar.state(|state| say(state, &id, None));
        assert!(registrar.problems().iter().all(|(_, count)| *count == 0));
    }
}
