//! A world in which electors stand: one API server that keeps a Lease as the
//! real one does, a network that loses, delays and repeats, processes that are
//! stopped and killed, and clocks that go wrong.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use http::{Method, Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use crate::controller::clock::Clock;
use crate::controller::leadership::Leadership;
use crate::domain::election::{Moment, Timing};
use crate::metrics::Metrics;

use super::Elector;

pub(super) const S: Duration = Duration::from_secs(1);

pub(super) fn timing() -> Timing {
    Timing::new(15 * S, 10 * S, 2 * S).unwrap()
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

// --- clocks ----------------------------------------------------------------------

/// The clocks of one machine.
#[derive(Debug)]
pub(super) struct Skewed {
    /// How fast both run.
    rate: f64,
    begun: Instant,
    steady: std::time::Instant,
    /// For how long the steady one stood still, and how far the other was set.
    off: Mutex<(Duration, SignedDuration)>,
}

impl Skewed {
    pub(super) fn new(rate: f64) -> Arc<Self> {
        let begun = Instant::now();
        Arc::new(Self {
            rate,
            begun,
            // Clocks of two machines have nothing in common.
            steady: begun.into_std() + Duration::from_secs(fastrand::u64(0..100_000)),
            off: Mutex::new((
                Duration::ZERO,
                SignedDuration::from_secs(fastrand::i64(-90..90)),
            )),
        })
    }

    /// The machine was suspended for that long.
    pub(super) fn suspended(&self, time: Duration) {
        lock(&self.off).0 += time.mul_f64(self.rate);
    }

    /// Somebody set the wall clock.
    pub(super) fn set(&self, by: SignedDuration) {
        lock(&self.off).1 += by;
    }
}

impl Clock for Skewed {
    fn now(&self) -> Moment {
        let ran = self.begun.elapsed().mul_f64(self.rate);
        let (stood, set) = *lock(&self.off);
        let wall = SignedDuration::try_from(ran).unwrap() + set;
        Moment {
            steady: self.steady + ran.saturating_sub(stood),
            wall: Timestamp::from_second(1_700_000_000).unwrap() + wall,
        }
    }

    fn wait(&self, time: Duration) -> BoxFuture<'static, ()> {
        sleep(time.div_f64(self.rate)).boxed()
    }
}

// --- the API server --------------------------------------------------------------

/// One Lease, under the rules of the real server.
#[derive(Default)]
pub(super) struct Server {
    pub(super) lease: Option<Value>,
    version: u64,
    uids: u64,
    watches: Vec<mpsc::UnboundedSender<Value>>,
}

impl Server {
    fn answer(&mut self, method: &Method, mut sent: Value) -> (u16, Value) {
        match (method, self.lease.clone()) {
            (&Method::GET, Some(lease)) => (200, lease),
            (&Method::GET, None) => refused(404),
            (&Method::POST, Some(_)) => refused(409),
            (&Method::PUT, Some(lease)) => {
                let differs = |key: &str| {
                    let want = &sent["metadata"][key];
                    !want.is_null() && *want != lease["metadata"][key]
                };
                if differs("uid") || differs("resourceVersion") {
                    return refused(409);
                }
                if sent["metadata"]["resourceVersion"].is_null() {
                    return refused(422);
                }
                sent["metadata"]["uid"] = lease["metadata"]["uid"].clone();
                (200, self.keep(sent, "MODIFIED"))
            }
            // A PUT creates, whatever the version, unless there is a uid in it.
            (&Method::PUT, None) if !sent["metadata"]["uid"].is_null() => refused(409),
            (_, None) => {
                self.uids += 1;
                sent["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
                (201, self.keep(sent, "ADDED"))
            }
            other => panic!("unexpected: {other:?}"),
        }
    }

    fn keep(&mut self, mut lease: Value, event: &str) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.lease = Some(lease.clone());
        self.tell(event, &lease);
        lease
    }

    fn tell(&mut self, event: &str, lease: &Value) {
        let event = json!({"type": event, "object": lease});
        self.watches
            .retain(|watch| watch.send(event.clone()).is_ok());
    }

    /// Somebody changes it by hand.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut Value)) {
        if let Some(mut lease) = self.lease.clone() {
            change(&mut lease);
            self.keep(lease, "MODIFIED");
        }
    }

    /// Somebody deletes it.
    pub(super) fn delete(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.version += 1;
            self.tell("DELETED", &lease);
        }
    }

    pub(super) fn uid(&self) -> Option<String> {
        let uid = &self.lease.as_ref()?["metadata"]["uid"];
        uid.as_str().map(str::to_owned)
    }

    pub(super) fn annotation(&self, name: &str) -> Option<String> {
        let key = format!("catalog-mesh.aikernel.io/{name}");
        let annotations = &self.lease.as_ref()?["metadata"]["annotations"];
        annotations[&key].as_str().map(str::to_owned)
    }
}

fn refused(code: u16) -> (u16, Value) {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Invalid",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": "no",
    });
    (code, status)
}

// --- the network -----------------------------------------------------------------

/// What one process' way to the server does to each message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// Nothing passes, and nobody says so.
    pub(super) cut: bool,
    /// Share of requests, and of answers, that are lost.
    pub(super) lost: f64,
    /// Share of requests that arrive a second time, later.
    pub(super) twice: f64,
    /// Longest that a message takes.
    pub(super) slow: Duration,
}

impl Way {
    fn loses(&self) -> bool {
        self.cut || fastrand::f64() < self.lost
    }

    fn delay(&self) -> Duration {
        Duration::from_millis(1) + self.slow.mul_f64(fastrand::f64())
    }
}

/// Longest that a write stays on its way after its sender gave it up: what is
/// left of the 5 s between the end of a term and that of the Lease, where one
/// clock is a tenth too slow and the other a tenth too fast.
const LINGERS: Duration = Duration::from_secs(2);

/// The world.
#[derive(Default)]
pub(super) struct World {
    pub(super) server: Mutex<Server>,
    pub(super) machines: Mutex<Vec<Arc<Machine>>>,
    pub(super) ledger: Mutex<Ledger>,
}

/// What was written, and what must not have been.
#[derive(Default)]
pub(super) struct Ledger {
    /// Number of the last term, and the Lease's uid.
    epoch: (u64, Option<String>),
    pub(super) terms: usize,
    /// Which of these terms the last write that the cluster received was of.
    written: usize,
    pub(super) writes: usize,
    /// The last count that a leader noted and was told is stored, and the
    /// Lease's uid.
    pub(super) noted: (u64, Option<String>),
    /// Highest (epoch, sequence) of a report, as the catalog keeps it.
    catalog: (u64, usize),
    pub(super) stale_reports: usize,
    pub(super) wrong: Vec<String>,
}

impl Ledger {
    /// A term begins; returns how many there were.
    pub(super) fn begins(&mut self, epoch: u64, of: Option<String>) -> usize {
        let (last, before) = &self.epoch;
        // With a new Lease the numbers start again.
        if epoch <= *last && *before == of {
            self.wrong.push(format!("term {epoch} after term {last}"));
        }
        self.epoch = (epoch, of);
        self.terms += 1;
        self.terms
    }
}

/// Where one process runs.
pub(super) struct Machine {
    pub(super) clock: Arc<Skewed>,
    pub(super) way: Mutex<Way>,
    pub(super) gate: Gate,
    pub(super) leadership: Mutex<Option<Leadership>>,
    /// Ends the process at once.
    pub(super) kill: Notify,
    /// Ends it well.
    pub(super) resign: Notify,
}

impl World {
    pub(super) fn machine(self: &Arc<Self>, rate: f64) -> Arc<Machine> {
        let machine = Arc::new(Machine {
            clock: Skewed::new(rate),
            way: Mutex::default(),
            gate: Gate::default(),
            leadership: Mutex::default(),
            kill: Notify::new(),
            resign: Notify::new(),
        });
        lock(&self.machines).push(Arc::clone(&machine));
        machine
    }

    /// A new process on that machine.
    pub(super) fn elector(self: &Arc<Self>, machine: &Arc<Machine>) -> (Leadership, Elector) {
        let (world, on) = (Arc::clone(self), Arc::clone(machine));
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (world, on) = (Arc::clone(&world), Arc::clone(&on));
            async move { world.lease_request(&on, request).await }
        });
        let client = Client::new(service, "here");
        let metrics = Metrics::new().unwrap();
        let clock = Arc::clone(&machine.clock) as Arc<dyn Clock>;
        let (leadership, elector) = Elector::new(client, "here", "pod", timing(), clock, metrics);
        *lock(&machine.leadership) = Some(leadership.clone());
        (leadership, elector)
    }

    async fn lease_request(
        self: &Arc<Self>,
        on: &Arc<Machine>,
        request: Request<kube::client::Body>,
    ) -> Result<Response<Body>, Infallible> {
        let method = request.method().clone();
        let watch = request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch=true"));
        let body = request.into_body().collect_bytes().await.unwrap();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        if watch {
            return Ok(self.watch(on).await);
        }
        let world = Arc::clone(self);
        let handle = move || lock(&world.server).answer(&method, sent.clone());
        // Requests about the Lease may turn up however late.
        let (code, answer) = travel(on, 60 * S, handle).await;
        let response = Response::builder().status(code);
        Ok(response.body(Body::from(answer.to_string())).unwrap())
    }

    async fn watch(self: &Arc<Self>, on: &Arc<Machine>) -> Response<Body> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let way = *lock(&on.way);
        if way.loses() {
            std::future::pending::<()>().await;
        }
        sleep(way.delay()).await;
        lock(&self.server).watches.push(sender);
        let on = Arc::clone(on);
        let events = futures::stream::unfold(receiver, move |mut receiver| {
            let on = Arc::clone(&on);
            async move {
                let event = receiver.recv().await?;
                let way = *lock(&on.way);
                // A watch that lost something is a connection that broke, and
                // that nobody was told of.
                if way.loses() {
                    std::future::pending::<()>().await;
                }
                sleep(way.delay()).await;
                Some((Ok::<_, Infallible>(format!("{event}\n")), receiver))
            }
        });
        Response::new(Body::from_stream(events.boxed()))
    }

    /// A write to the cluster by the process on that machine, which has passed
    /// its permit.
    pub(super) async fn write(
        self: &Arc<Self>,
        on: &Arc<Machine>,
        term: usize,
        position: (u64, usize),
    ) {
        self.nobody_else_leads(on);
        let world = Arc::clone(self);
        let handle = move || {
            let mut ledger = lock(&world.ledger);
            if term < ledger.written {
                let late = format!("a write of the {term}. term after the {}.", ledger.written);
                ledger.wrong.push(late);
            }
            ledger.written = term;
            ledger.writes += 1;
            (200, Value::Null)
        };
        let cluster = travel(on, LINGERS, handle);

        // The catalog fences by itself, so that reports may be late at will.
        let world = Arc::clone(self);
        let report = move || {
            let mut ledger = lock(&world.ledger);
            if position > ledger.catalog {
                ledger.catalog = position;
            } else {
                ledger.stale_reports += 1;
            }
            (200, Value::Null)
        };
        let _ = futures::future::join(cluster, travel(on, 60 * S, report)).await;
    }

    fn nobody_else_leads(&self, on: &Arc<Machine>) {
        for other in lock(&self.machines).iter() {
            let leads = lock(&other.leadership).as_ref().and_then(Leadership::epoch);
            if let Some(epoch) = leads
                && !Arc::ptr_eq(other, on)
            {
                let wrong = format!("a write while another leads, in term {epoch}");
                lock(&self.ledger).wrong.push(wrong);
            }
        }
    }

    /// How many lead at this instant.
    pub(super) fn leaders(&self) -> usize {
        let machines = lock(&self.machines);
        let leads = |machine: &&Arc<Machine>| {
            let leadership = lock(&machine.leadership);
            leadership.as_ref().is_some_and(|l| l.epoch().is_some())
        };
        machines.iter().filter(leads).count()
    }
}

/// Takes a request to the server and its answer back. What is on its way goes
/// on when its sender no longer waits, `longest` at most; what is lost is never
/// answered.
async fn travel(
    on: &Arc<Machine>,
    longest: Duration,
    handle: impl Fn() -> (u16, Value) + Send + Sync + 'static,
) -> (u16, Value) {
    let way = *lock(&on.way);
    let handle = Arc::new(handle);
    let (answered, answer) = tokio::sync::oneshot::channel();
    if fastrand::f64() < way.twice && !way.cut {
        let (again, late) = (Arc::clone(&handle), longest.mul_f64(fastrand::f64()));
        tokio::spawn(async move {
            sleep(late).await;
            again();
        });
    }
    let (lost, there, back, unheard) = (
        way.loses(),
        way.delay().min(longest),
        way.delay(),
        way.loses(),
    );
    tokio::spawn(async move {
        if lost {
            return;
        }
        sleep(there).await;
        let answer = handle();
        if unheard {
            return;
        }
        sleep(back).await;
        let _ = answered.send(answer);
    });
    match answer.await {
        Ok(answer) => answer,
        Err(_) => std::future::pending().await,
    }
}

// --- processes -------------------------------------------------------------------

/// Stops a process, as SIGSTOP does.
#[derive(Default)]
pub(super) struct Gate(Mutex<(bool, Vec<Waker>)>);

impl Gate {
    pub(super) fn stop(&self) {
        lock(&self.0).0 = true;
    }

    pub(super) fn go_on(&self) {
        let mut gate = lock(&self.0);
        gate.0 = false;
        gate.1.drain(..).for_each(Waker::wake);
    }

    /// Runs it while nobody stops it.
    pub(super) async fn run<T>(&self, process: impl Future<Output = T>) -> T {
        let mut process = pin!(process);
        poll_fn(|cx| {
            {
                let mut gate = lock(&self.0);
                if gate.0 {
                    gate.1.push(cx.waker().clone());
                    return Poll::Pending;
                }
            }
            process.as_mut().poll(cx)
        })
        .await
    }
}
