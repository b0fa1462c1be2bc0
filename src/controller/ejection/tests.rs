//! The ejector beside an API server in memory, in paused time.

use crate::domain::labels::FINALIZER;
use futures::FutureExt;
use http::{Method, Request, Response};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use kube::client::{Body, ClientBuilder};
use kube_runtime::watcher::Event;
use serde_json::{Value, json};
use tower::BoxError;

use super::*;
use crate::alert;
use crate::api::pod::{DRAINING, EJECTED, Pod};
use crate::api::policy::EjectionMode;
use crate::catalog::fake::FakeCatalog;
use crate::catalog::known;
use crate::controller::clients::Clients;
use crate::controller::cluster_id::Identity;
use crate::controller::context::{Memory, Options};
use crate::controller::leadership::Leadership;
use crate::controller::looks::Looks;
use crate::controller::mesh_api::MeshApi;
use crate::controller::monitor::{self, Monitor};
use crate::controller::owed::Owed;
use crate::controller::permit::Permit;
use crate::controller::queue::Queue;
use crate::controller::queue::state::Next;
use crate::controller::registrar::Registrar;
use crate::controller::settled::Settled;
use crate::controller::world::World;
use crate::controller::write_back::WriteBack;
use crate::controller::{events, pods, sources, withdraw};
use crate::domain::brake::{self, SyncPolicy};
use crate::domain::fixtures::{self, settings};
use crate::domain::health::ejection::{Member, PodId, Service};
use crate::domain::health::judge::{Failure, Verdict};
use crate::domain::health::mark::{Note, OURS};
use crate::domain::health::round::Checked;
use crate::domain::names::ClusterDomain;
use crate::domain::registration::Scope;
use crate::health;
use crate::health::prober::Limits;
use crate::metrics::Metrics;

const BAD: Verdict = Verdict::Unhealthy(Failure::Refused);

/// The Pods that the API server has, and what it was asked.
#[derive(Default)]
struct Server {
    pods: BTreeMap<String, Value>,
    version: u64,
    /// Method, name and status of each request that changes something.
    writes: Vec<String>,
    /// The status that it answers with instead of doing anything.
    fails: Option<u16>,
    /// How long a request takes.
    takes: Duration,
}

impl Server {
    fn patch(&mut self, name: &str, patch: &Value) -> (u16, Value) {
        if let Some(code) = self.fails {
            return (code, Value::Null);
        }
        let Some(pod) = self.pods.get_mut(name) else {
            return (404, Value::Null);
        };
        let asked = &patch["metadata"];
        for field in ["uid", "resourceVersion"] {
            if asked[field] != pod["metadata"][field] {
                return (409, Value::Null);
            }
        }
        json_patch::merge(pod, patch);
        self.version += 1;
        pod["metadata"]["resourceVersion"] = json!(self.version.to_string());
        (200, pod.clone())
    }
}

/// A cluster with an ejector in it.
struct Bed {
    server: Arc<Mutex<Server>>,
    ctx: Arc<Context>,
}

impl Bed {
    fn new(leadership: Leadership, read_only: bool) -> Self {
        let server = Arc::new(Mutex::new(Server::default()));
        let client = client(Arc::clone(&server), &leadership);
        let ctx = Arc::new(context(client, leadership, read_only));
        for event in [Event::Init, Event::InitDone] {
            ctx.world.pods(event);
        }
        list_all_else(&ctx.world);
        Self { server, ctx }
    }

    fn server<T>(&self, use_it: impl FnOnce(&mut Server) -> T) -> T {
        use_it(&mut self.server.lock().unwrap())
    }

    /// A Pod that was not there, and that the watch tells of.
    fn pod(&self, name: &str, labels: Value, annotations: Value) {
        self.stored(name, labels, annotations);
        self.watch(name);
    }

    /// A Pod as the server has it from now on; the watch has yet to tell.
    fn stored(&self, name: &str, labels: Value, annotations: Value) {
        self.server(|server| {
            server.version += 1;
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "namespace": "shop", "name": name, "uid": format!("uid-of-{name}"),
                    "resourceVersion": server.version.to_string(),
                    "labels": labels, "annotations": annotations,
                },
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            });
            server.pods.insert(name.to_owned(), pod);
        });
    }

    /// The watch tells of the Pod as it is.
    fn watch(&self, name: &str) {
        let pod = self.server(|server| server.pods[name].clone());
        let pod: Pod = serde_json::from_value(pod).unwrap();
        if self.ctx.world.pods(Event::Apply(pods::pod(&pod))).marks {
            self.ctx.ejector.look();
        }
    }

    fn start(&self) {
        tokio::spawn(run(Arc::clone(&self.ctx)));
    }

    /// What is found of `shop/web`, from now on.
    fn tell(&self, members: &[(&str, Verdict)]) {
        let services = vec![Arc::new(checked(members))];
        self.ctx.ejector.tell(Known {
            services,
            unsettled: BTreeSet::new(),
        });
    }

    fn writes(&self) -> Vec<String> {
        self.server(|server| std::mem::take(&mut server.writes))
    }

    /// Label and annotation of the Pod.
    fn marks(&self, name: &str) -> (Value, Value) {
        self.server(|server| {
            let metadata = &server.pods[name]["metadata"];
            (
                metadata["labels"][DRAINING].clone(),
                metadata["annotations"][EJECTED].clone(),
            )
        })
    }

    fn says(&self, series: &str) -> bool {
        let text = self.ctx.metrics.exposition().unwrap();
        text.lines().any(|line| line == series)
    }
}

fn client(server: Arc<Mutex<Server>>, leadership: &Leadership) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
            assert_eq!(request.method(), Method::PATCH, "{}", request.uri());
            let body = request.into_body().collect_bytes().await?;
            let patch: Value = serde_json::from_slice(&body)?;
            let takes = server.lock().unwrap().takes;
            sleep(takes).await;
            let mut server = server.lock().unwrap();
            let (code, stored) = server.patch(&name, &patch);
            server.writes.push(format!("{name} {code}"));
            let words = if server.fails == Some(403) {
                "pods is forbidden: User \"us\" cannot patch resource \"pods\""
            } else {
                "x"
            };
            let body = match code {
                200 => stored,
                _ => json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "code": code, "reason": "x", "message": words, "details": {"name": name}}),
            };
            let response = Response::builder().status(code);
            Ok::<_, BoxError>(response.body(Body::from(body.to_string().into_bytes()))?)
        }
        .boxed()
    });
    ClientBuilder::new(service, "default")
        .with_layer(&Permit(leadership.clone()))
        .build()
}

fn context(client: Client, leadership: Leadership, read_only: bool) -> Context {
    let metrics = Metrics::new().unwrap();
    let (events, _) = events::channel(client.clone(), "x".to_owned(), metrics.clone());
    let domain = ClusterDomain::parse("cluster.local").unwrap();
    let config = alert::Config::new(Vec::new());
    let (alerts, _) = alert::start(config, || false, metrics.alerts.clone()).unwrap();
    let (prober, view, _) = health::start(Limits::default(), None, metrics.health.clone()).unwrap();
    Context {
        options: Options {
            settings: settings(),
            period: Duration::from_secs(30),
            concurrency: 1,
            limits: brake::Limits {
                policy: SyncPolicy::Sync,
                percent: 20,
            },
            read_only,
            ejection: EjectionMode::Draining,
            trust_domain: "cluster.local".to_owned(),
        },
        clients: Clients {
            requests: client.clone(),
            watches: client,
        },
        cluster: Identity::new(None),
        mesh_api: MeshApi::default(),
        world: World::new(domain, "operators".to_owned()),
        catalog: Arc::new(FakeCatalog::new()),
        known: Arc::<known::Known>::default(),
        leadership,
        write_back: Arc::new(WriteBack::new(100)),
        ejector: Ejector::default(),
        monitor: Monitor::new(prober, view, alerts),
        queue: Queue::new(1, metrics.workqueue.clone()),
        registrar: Registrar::new(Scope::default()),
        events,
        metrics,
        memory: Memory::default(),
        looks: Looks::default(),
        owed: Owed::default(),
        settled: Settled::default(),
    }
}

/// There is nothing of all other kinds.
fn list_all_else(world: &World) {
    use crate::domain::desired::MeshKind::{DestinationRule, VirtualService};
    for event in [Event::Init, Event::InitDone] {
        world.bindings(event);
    }
    for event in [Event::Init, Event::InitDone] {
        world.services(event);
    }
    for event in [Event::Init, Event::InitDone] {
        world.namespaces(event);
    }
    for event in [Event::Init, Event::InitDone] {
        world.slices(event);
    }
    for kind in [VirtualService, DestinationRule] {
        for event in [Event::Init, Event::InitDone] {
            world.rules(kind, event);
        }
    }
}

fn web() -> BindingKey {
    BindingKey::new("shop", "web")
}

fn checked(members: &[(&str, Verdict)]) -> Checked {
    let key = |name: &str| ("shop".into(), name.into());
    let member = |(name, verdict): &(&str, Verdict)| Member {
        pod: PodId::shared(key(name), format!("uid-of-{name}")),
        ready: true,
        verdict: *verdict,
        since: Timestamp::UNIX_EPOCH.into(),
    };
    Checked {
        mode: EjectionMode::Draining,
        service: Service {
            binding: web(),
            ejects: true,
            proven: true,
            held: false,
            percent: 50,
            members: members.iter().map(member).collect(),
        },
    }
}

fn note(name: &str) -> String {
    let binding = BindingKey::new(web().namespace.clone(), name);
    let note = Note {
        bindings: BTreeSet::from([binding]),
        since: Timestamp::UNIX_EPOCH,
        why: "x".to_owned(),
    };
    note.text()
}

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

/// `a` and `b`, which nobody has marked.
fn two() -> Bed {
    let bed = Bed::new(Leadership::granted(1), false);
    for name in ["a", "b"] {
        bed.pod(name, json!({"app": "web"}), json!({"note": "x"}));
    }
    bed
}

/// `p0` to `p39`, which nobody has marked, and their names.
fn forty() -> (Bed, Vec<String>) {
    let bed = Bed::new(Leadership::granted(1), false);
    let names: Vec<_> = (0..40).map(|n| format!("p{n}")).collect();
    for name in &names {
        bed.pod(name, json!({}), json!({}));
    }
    (bed, names)
}

/// All of them, of which these are unhealthy.
fn unhealthy(names: &[String], bad: std::ops::Range<usize>) -> Vec<(&str, Verdict)> {
    let verdict = |n: usize| {
        if bad.contains(&n) {
            BAD
        } else {
            Verdict::Healthy
        }
    };
    let members = names.iter().enumerate();
    members
        .map(|(n, name)| (name.as_str(), verdict(n)))
        .collect()
}

/// How many of them are out.
fn out(bed: &Bed, names: &[String]) -> usize {
    names
        .iter()
        .filter(|name| bed.marks(name).0 == OURS)
        .count()
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_pod_leaves_and_comes_back_with_one_write_each() {
    let bed = two();
    bed.start();
    bed.tell(&[("a", BAD), ("b", Verdict::Healthy)]);
    seconds(2).await;
    assert_eq!(bed.writes(), ["a 200"]);
    let (label, annotation) = bed.marks("a");
    assert_eq!(label, OURS);
    let written = Note::parse(annotation.as_str().unwrap()).unwrap();
    assert_eq!(written.bindings, BTreeSet::from([web()]));
    assert_eq!(written.why, "the connection was refused");
    assert!(bed.says("catalog_mesh_ejected_pods 1"));
    bed.watch("a");
    bed.tell(&[("a", BAD), ("b", Verdict::Healthy)]);
    seconds(60).await;
    assert_eq!(bed.writes(), Vec::<String>::new());
    bed.tell(&[("a", Verdict::Healthy), ("b", Verdict::Healthy)]);
    seconds(2).await;
    assert_eq!(bed.writes(), ["a 200"]);
    let metadata = bed.server(|server| server.pods["a"]["metadata"].clone());
    assert_eq!(metadata["labels"], json!({"app": "web"}));
    assert_eq!(metadata["annotations"], json!({"note": "x"}));
    for action in ["ejected", "released"] {
        let series = format!("catalog_mesh_ejections_total{{action=\"{action}\"}} 1");
        assert!(bed.says(&series), "{series}");
    }
    assert!(bed.says("catalog_mesh_ejected_pods 0"));
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_flap_cost_one_write_a_second() {
    let bed = two();
    bed.start();
    for turn in 0..600 {
        let (a, b) = if turn % 2 == 0 {
            (BAD, Verdict::Healthy)
        } else {
            (Verdict::Healthy, BAD)
        };
        bed.tell(&[("a", a), ("b", b)]);
        sleep(Duration::from_millis(100)).await;
    }
    let writes = bed.writes().len();
    // Each of the two goes once at once.
    assert!((30..=62).contains(&writes), "{writes}");
    // The last word counts.
    bed.tell(&[("a", Verdict::Healthy), ("b", Verdict::Healthy)]);
    seconds(5).await;
    assert_eq!(bed.marks("a").0, Value::Null);
    assert_eq!(bed.marks("b").0, Value::Null);
}

#[tokio::test(start_paused = true)]
async fn what_was_out_before_is_taken_over_and_what_nobody_wants_comes_back() {
    let bed = two();
    let label = || json!({ DRAINING: OURS });
    bed.pod("a", label(), json!({ EJECTED: note("web") }));
    bed.pod("c", label(), json!({ EJECTED: note("gone") }));
    bed.pod("d", json!({ DRAINING: "true" }), json!({}));
    bed.start();
    seconds(60).await;
    assert_eq!(bed.writes(), Vec::<String>::new(), "nothing was told yet");
    bed.tell(&[("a", Verdict::Pending), ("b", Verdict::Healthy)]);
    seconds(2).await;
    assert_eq!(bed.writes(), ["c 200"]);
    assert_eq!(bed.marks("a").0, OURS);
    assert_eq!(bed.marks("c"), (Value::Null, Value::Null));
    assert_eq!(bed.marks("d").0, "true");
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_binding_at_all_what_is_out_for_one_that_is_gone_comes_back() {
    let bed = two();
    let label = json!({ DRAINING: OURS });
    bed.pod("c", label, json!({ EJECTED: note("gone") }));
    bed.start();
    tokio::spawn(monitor::run::run(Arc::clone(&bed.ctx)));
    seconds(2).await;
    assert_eq!(bed.writes(), ["c 200"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_is_no_error() {
    let bed = two();
    bed.server(|server| server.pods.remove("a"));
    bed.start();
    bed.tell(&[("a", BAD), ("b", Verdict::Healthy)]);
    seconds(60).await;
    assert_eq!(bed.writes(), ["a 404"]);
    assert!(bed.says("catalog_mesh_writes_total{kind=\"Pod\",outcome=\"success\"} 1"));
    assert!(bed.says("catalog_mesh_ejections_total{action=\"ejected\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn a_label_that_somebody_sets_meanwhile_is_not_overwritten() {
    let bed = two();
    bed.stored("a", json!({ DRAINING: "mine" }), json!({}));
    bed.start();
    bed.tell(&[("a", BAD), ("b", Verdict::Healthy)]);
    seconds(1).await;
    let writes = bed.writes();
    assert!(!writes.is_empty() && writes.iter().all(|write| write == "a 409"));
    bed.watch("a");
    seconds(60).await;
    assert_eq!(bed.writes(), Vec::<String>::new());
    assert_eq!(bed.marks("a"), (json!("mine"), Value::Null));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_is_asked_again_and_not_in_a_loop() {
    let bed = two();
    bed.server(|server| server.fails = Some(403));
    bed.start();
    bed.tell(&[("a", BAD), ("b", Verdict::Healthy)]);
    seconds(60).await;
    let tries = bed.writes().len();
    assert!((10..=31).contains(&tries), "{tries}");
    bed.server(|server| server.fails = None);
    seconds(4).await;
    assert_eq!(bed.marks("a").0, OURS);
}

#[tokio::test(start_paused = true)]
async fn where_no_pod_can_be_written_one_finds_out_for_all_and_all_go_soon_after() {
    let (bed, names) = forty();
    bed.server(|server| server.fails = Some(403));
    bed.start();
    bed.tell(&unhealthy(&names, 0..20));
    seconds(1).await;
    bed.writes();
    seconds(60).await;
    let tries = bed.writes().len();
    assert!((20..=35).contains(&tries), "{tries} in a minute");
    bed.server(|server| server.fails = None);
    seconds(15).await;
    assert_eq!(out(&bed, &names), 20);
}

#[tokio::test(start_paused = true)]
async fn where_writes_are_slow_what_was_told_meanwhile_counts_for_all_that_did_not_begin() {
    let (bed, names) = forty();
    bed.server(|server| server.takes = Duration::from_secs(10));
    bed.start();
    bed.tell(&unhealthy(&names, 0..20));
    seconds(1).await;
    bed.tell(&unhealthy(&names, 0..0));
    seconds(60).await;
    let written: BTreeSet<_> = bed.writes().into_iter().collect();
    assert!(written.len() <= AT_ONCE, "{} left", written.len());
    assert_eq!(out(&bed, &names), 0);
}

#[tokio::test(start_paused = true)]
async fn where_something_is_told_all_the_time_pods_leave_all_the_same() {
    let (bed, names) = forty();
    bed.server(|server| server.takes = Duration::from_millis(100));
    bed.start();
    for _ in 0..100 {
        bed.tell(&unhealthy(&names, 0..20));
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(out(&bed, &names), 20);
}

#[tokio::test(start_paused = true)]
async fn where_writes_are_slow_who_comes_back_and_who_leaves_take_turns() {
    let (bed, names) = forty();
    bed.start();
    bed.tell(&unhealthy(&names, 0..10));
    seconds(1).await;
    assert_eq!(out(&bed, &names[..10]), 10);
    bed.server(|server| server.takes = Duration::from_secs(5));
    bed.tell(&unhealthy(&names, 10..20));
    seconds(6).await;
    let both = (out(&bed, &names[..10]), out(&bed, &names[10..]));
    assert_eq!(both, (6, 4));
    seconds(15).await;
    let both = (out(&bed, &names[..10]), out(&bed, &names[10..]));
    assert_eq!(both, (0, 10));
}

#[tokio::test(start_paused = true)]
async fn pods_that_changed_under_way_leave_as_soon_as_the_watch_has_told_of_it() {
    let (bed, names) = forty();
    let (bad, _) = names.split_at(20);
    let change = || {
        bad.iter()
            .for_each(|name| bed.stored(name, json!({}), json!({})))
    };
    change();
    bed.start();
    bed.tell(&unhealthy(&names, 0..20));
    seconds(1).await;
    bad.iter().for_each(|name| bed.watch(name));
    // By then they are others again.
    change();
    seconds(1).await;
    bad.iter().for_each(|name| bed.watch(name));
    seconds(1).await;
    assert_eq!(out(&bed, &names), 20);
    let writes = bed.writes();
    let refused = writes.iter().filter(|write| write.ends_with("409"));
    assert_eq!(refused.count(), 40, "as often as there was news of each");
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_which_the_watch_says_nothing_new_is_asked_for_again_and_not_in_a_loop() {
    let bed = two();
    bed.stored("a", json!({}), json!({}));
    bed.start();
    bed.tell(&[("a", BAD), ("b", Verdict::Healthy)]);
    seconds(60).await;
    let tries = bed.writes().len();
    assert!((5..=7).contains(&tries), "{tries} in a minute");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_or_only_reads_writes_nothing() {
    for (leadership, read_only) in [
        (Leadership::withheld(), false),
        (Leadership::withheld(), true),
        (Leadership::granted(1), true),
    ] {
        let bed = Bed::new(leadership, read_only);
        bed.pod("a", json!({}), json!({}));
        bed.pod(
            "b",
            json!({ DRAINING: OURS }),
            json!({ EJECTED: note("gone") }),
        );
        bed.pod("c", json!({}), json!({}));
        bed.start();
        bed.tell(&[("a", BAD), ("c", Verdict::Healthy)]);
        seconds(60).await;
        assert_eq!(bed.writes(), Vec::<String>::new(), "{read_only}");
    }
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_have_to_stay_are_counted_once() {
    let bed = two();
    bed.pod("c", json!({}), json!({}));
    bed.start();
    for _ in 0..3 {
        bed.tell(&[("a", BAD), ("b", BAD), ("c", Verdict::Healthy)]);
        seconds(2).await;
    }
    assert_eq!(bed.writes(), ["a 200"]);
    assert!(bed.says("catalog_mesh_ejection_floor_hits_total 1"));
    assert!(bed.says("catalog_mesh_ejection_floored 1"));
    // None answers any more.
    bed.tell(&[("a", BAD), ("b", BAD), ("c", BAD)]);
    seconds(3).await;
    assert_eq!(bed.marks("a").0, Value::Null);
    assert!(bed.says("catalog_mesh_ejection_opened 1"));
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_in_the_place_of_somebody_who_is_not_back_yet() {
    let bed = two();
    bed.start();
    bed.tell(&[("a", BAD), ("b", Verdict::Healthy)]);
    seconds(1).await;
    assert_eq!(bed.marks("a").0, OURS);
    bed.watch("a");
    // A moment later it is the other way round, and `a` was just written to.
    bed.tell(&[("a", Verdict::Healthy), ("b", BAD)]);
    for _ in 0..500 {
        sleep(Duration::from_millis(10)).await;
        let out = |name| bed.marks(name).0 == OURS;
        assert!(!(out("a") && out("b")), "nobody is in the mesh");
    }
    assert_eq!(bed.marks("a").0, Value::Null);
    assert_eq!(bed.marks("b").0, OURS);
    assert_eq!(bed.writes(), ["a 200", "a 200", "b 200"]);
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_knows_who_is_out_and_what_is_tightened() {
    let bed = Bed::new(Leadership::withheld(), false);
    let label = json!({ DRAINING: OURS });
    bed.pod("a", label, json!({ EJECTED: note("web") }));
    for name in ["b", "c"] {
        bed.pod(name, json!({}), json!({}));
    }
    bed.start();
    bed.tell(&[("a", BAD), ("b", BAD), ("c", Verdict::Healthy)]);
    seconds(2).await;
    let stays = bed.ctx.ejector.stays(&web());
    assert_eq!((stays.ejected, stays.floored), (1, 1));
    assert!(bed.ctx.ejector.tightened(&web()).is_some());
    assert_eq!(bed.writes(), Vec::<String>::new());
    assert!(
        bed.says("catalog_mesh_ejection_floored 0"),
        "that is the leader's"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_tightened_before_goes_on_until_it_is_known_to_be_over() {
    const MOST: Tightened = Tightened::Most;
    let bed = two();
    let is = || bed.ctx.ejector.tightened(&web());
    // It stood by, and knows of less.
    bed.start();
    bed.pod("c", json!({}), json!({}));
    bed.tell(&[("a", BAD), ("b", BAD), ("c", Verdict::Healthy)]);
    seconds(1).await;
    assert_eq!(is(), Some(Tightened::Half));
    bed.ctx.ejector.resume(&web(), || Some(MOST));
    assert_eq!(is(), Some(MOST));
    // One is out, and the other is in the mesh and not judged yet.
    let pending = ("b", Verdict::Pending);
    bed.tell(&[("a", BAD), pending, ("c", Verdict::Healthy)]);
    seconds(60).await;
    assert_eq!(is(), Some(MOST));
    bed.tell(&[("a", Verdict::Healthy), ("b", Verdict::Healthy)]);
    seconds(9).await;
    assert_eq!(is(), Some(MOST));
    seconds(2).await;
    assert_eq!(is(), None);
    // What is written still says so at the next look.
    bed.ctx.ejector.resume(&web(), || Some(MOST));
    assert_eq!(is(), None);
    // Another binding of that name.
    bed.ctx.ejector.forget(&web());
    bed.ctx.ejector.resume(&web(), || Some(MOST));
    assert_eq!(is(), Some(MOST));
}

#[tokio::test(start_paused = true)]
async fn a_binding_whose_pods_cannot_come_back_says_so_before_it_goes() {
    let bed = two();
    let label = json!({ DRAINING: OURS });
    bed.pod("c", label, json!({ EJECTED: note("web") }));
    bed.server(|server| server.fails = Some(403));
    let mut binding = fixtures::binding();
    binding.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    binding.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    let seen = sources::binding(binding);
    let binding = Arc::clone(&seen.value);
    bed.ctx.world.bindings(Event::Apply(seen));
    bed.start();
    bed.ctx.ejector.tell(Known::default());
    let look = || withdraw::delete(&bed.ctx, &binding, Instant::now());
    assert_eq!(look().await.next, Next::Stale, "it was not tried yet");
    seconds(1).await;
    let tried = bed.writes();
    assert!(
        !tried.is_empty() && tried.iter().all(|write| write == "c 403"),
        "{tried:?}"
    );
    look().await;
    assert!(
        bed.writes().contains(&"status 403".to_owned()),
        "it says so"
    );
    bed.server(|server| server.fails = None);
    seconds(4).await;
    assert_eq!(bed.marks("c"), (Value::Null, Value::Null));
    assert!(!bed.ctx.world.keeps_out(&web()));
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_wants_no_checks_after_all_or_that_ends_gets_its_pods_back() {
    for ends in [false, true] {
        let bed = two();
        let label = json!({ DRAINING: OURS });
        bed.pod("c", label, json!({ EJECTED: note("web") }));
        let mut binding = fixtures::binding();
        binding.metadata.resource_version = Some("5".to_owned());
        let seen = sources::binding(binding.clone());
        bed.ctx.world.bindings(Event::Apply(seen));
        bed.start();
        tokio::spawn(monitor::run::run(Arc::clone(&bed.ctx)));
        seconds(2).await;
        assert_eq!(
            bed.writes(),
            Vec::<String>::new(),
            "what it wants is not known"
        );
        if ends {
            binding.metadata.resource_version = Some("6".to_owned());
            binding.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
            let seen = sources::binding(binding);
            let concerned = bed.ctx.world.bindings(Event::Apply(seen));
            bed.ctx.monitor.concerned(&concerned);
        } else {
            let record = Arc::new(fixtures::record());
            bed.ctx.monitor.recorded(&web(), &record);
        }
        seconds(2).await;
        assert_eq!(bed.writes(), ["c 200"], "ends: {ends}");
    }
}
