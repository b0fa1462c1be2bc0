//! Kubernetes Events: told on transitions only, bounded, and never waited for.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::apply::in_time;
use super::audit;
use super::error::WriteError;
use crate::domain::labels::{BINDING_API_VERSION, BINDING_KIND, MANAGER};
use crate::domain::status::Transition;
use crate::metrics::Metrics;

/// Events that wait to be sent; more are dropped and counted.
const WAITING: usize = 1024;

/// Events of one binding at once, and the time in which one more is allowed.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(10);

/// Bindings whose Events are counted without a look for those to forget.
const LEAST_KEPT: usize = 1024;

/// Most bytes of a note. The API server takes 1024, and counts no characters.
const NOTE_LIMIT: usize = 1000;

/// Who an Event is about.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct About {
    /// Namespace of the binding.
    pub namespace: String,
    /// Name of the binding.
    pub name: String,
    /// Uid of the binding.
    pub uid: String,
}

/// Where Events are handed in.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<(About, Transition)>,
    metrics: Metrics,
}

/// The other end, which sends them.
pub struct Sender {
    receiver: mpsc::Receiver<(About, Transition)>,
    metrics: Metrics,
    client: Client,
    pod: String,
    allowance: HashMap<String, (u32, Instant)>,
    /// How many bindings are kept before those that were quiet are dropped.
    clear_at: usize,
}

/// Both ends.
pub fn channel(client: Client, pod: String, metrics: Metrics) -> (Events, Sender) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let events = Events {
        sender,
        metrics: metrics.clone(),
    };
    (
        events,
        Sender {
            receiver,
            metrics,
            client,
            pod,
            allowance: HashMap::new(),
            clear_at: LEAST_KEPT,
        },
    )
}

impl Events {
    /// Hands in an Event. Never blocks; drops it where too many wait.
    pub fn tell(&self, about: About, transition: Transition) {
        if self.sender.try_send((about, transition)).is_err() {
            self.metrics.event_dropped();
        }
    }
}

impl Sender {
    /// Sends what is handed in until nobody can hand in any more.
    pub async fn run(mut self) {
        while let Some((about, transition)) = self.receiver.recv().await {
            if !self.allowed(&about.uid) {
                self.metrics.event_dropped();
                continue;
            }
            let api = Api::<Event>::namespaced(self.client.clone(), &about.namespace);
            let event = event(&about, &transition, &self.pod, Timestamp::now());
            let params = PostParams::default();
            let sent = in_time(api.create(&params, &event)).await;
            let stored = sent.as_ref().ok();
            let name = stored.and_then(|stored| stored.metadata.name.as_deref());
            audit::Write {
                verb: "create",
                kind: "Event",
                namespace: &about.namespace,
                name: name.unwrap_or_default(),
                binding: Some(&format!("{}/{}", about.namespace, about.name)),
                reason: &transition.reason,
            }
            .ended(&sent);
            self.metrics.wrote("Event", sent.is_ok());
            if let Err(error) = sent {
                self.metrics.event_dropped();
                let error = WriteError::from_kube(&error);
                if error == WriteError::NotLeader {
                    continue;
                }
                let error = error.to_string();
                tracing::warn!(
                    namespace = about.namespace,
                    name = about.name,
                    error,
                    "an Event was not stored"
                );
            }
        }
    }

    /// A token bucket per binding.
    fn allowed(&mut self, uid: &str) -> bool {
        // Full ones are dropped now and then only: looking at all of them for
        // each Event would cost the square of the bindings that become Ready.
        if self.allowance.len() >= self.clear_at {
            self.allowance
                .retain(|_, (_, since)| since.elapsed() < REFILL * BURST);
            self.clear_at = LEAST_KEPT.max(self.allowance.len() * 2);
        }
        let (used, since) = self
            .allowance
            .entry(uid.to_owned())
            .or_insert((0, Instant::now()));
        let refilled =
            u32::try_from(since.elapsed().as_secs() / REFILL.as_secs()).unwrap_or(u32::MAX);
        if refilled > 0 {
            *used = used.saturating_sub(refilled);
            *since = Instant::now();
        }
        // What is dropped costs nothing: who never rests is heard now and then.
        let allowed = *used < BURST;
        *used += u32::from(allowed);
        allowed
    }
}

/// What the API server makes the Event's name of. It checks the prefix like a
/// name of its own, in which no label ends in a hyphen.
fn name_prefix(binding: &str) -> String {
    let start: String = binding.chars().take(200).collect();
    format!("{}-", start.trim_end_matches(['.', '-']))
}

/// As much of the note as an Event holds.
fn cut(note: &str) -> &str {
    &note[..note.floor_char_boundary(NOTE_LIMIT)]
}

fn event(about: &About, transition: &Transition, pod: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            generate_name: Some(name_prefix(&about.name)),
            namespace: Some(about.namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some("Synchronise".to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(cut(&transition.note).to_owned()),
        reason: Some(transition.reason.clone()),
        regarding: Some(ObjectReference {
            api_version: Some(BINDING_API_VERSION.to_owned()),
            kind: Some(BINDING_KIND.to_owned()),
            name: Some(about.name.clone()),
            namespace: Some(about.namespace.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(MANAGER.to_owned()),
        reporting_instance: Some(pod.to_owned()),
        type_: Some(
            if transition.warning {
                "Warning"
            } else {
                "Normal"
            }
            .to_owned(),
        ),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::FutureExt;
    use http::{Request, Response};
    use kube::client::{Body, ClientBuilder};
    use serde_json::Value;
    use tower::BoxError;

    use super::*;

    fn made(name: &str, note: &str) -> Event {
        let about = About {
            name: name.to_owned(),
            ..About::default()
        };
        let transition = Transition {
            reason: "Synced".to_owned(),
            note: note.to_owned(),
            warning: false,
        };
        event(&about, &transition, "pod", Timestamp::UNIX_EPOCH)
    }

    fn prefix(name: &str) -> String {
        made(name, "").metadata.generate_name.unwrap()
    }

    /// An API server that stores Events, after that time each.
    fn stored(takes: Duration) -> (Events, Sender, Arc<Mutex<Vec<Value>>>) {
        let notes = Arc::<Mutex<Vec<Value>>>::default();
        let kept = Arc::clone(&notes);
        let service = tower::service_fn(move |request: Request<Body>| {
            let kept = Arc::clone(&kept);
            async move {
                assert_eq!(request.method(), http::Method::POST);
                let body = request.into_body().collect_bytes().await?;
                tokio::time::sleep(takes).await;
                let event: Value = serde_json::from_slice(&body)?;
                kept.lock().unwrap().push(event);
                Ok::<_, BoxError>(Response::new(Body::from(body.to_vec())))
            }
            .boxed()
        });
        let client = ClientBuilder::new(service, "default").build();
        let metrics = Metrics::new().unwrap();
        let (events, sender) = channel(client, "pod".to_owned(), metrics);
        (events, sender, notes)
    }

    fn tell(events: &Events, uid: &str, note: String) {
        let about = About {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: uid.to_owned(),
        };
        let transition = Transition {
            reason: "Synced".to_owned(),
            note,
            warning: false,
        };
        events.tell(about, transition);
    }

    fn dropped(events: &Events) -> usize {
        let text = events.metrics.exposition().unwrap();
        let mut lines = text.lines();
        let name = "catalog_mesh_events_dropped_total ";
        let count = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        count.parse().unwrap()
    }

    // trap 25
    #[tokio::test(start_paused = true)]
    async fn each_note_is_an_event_of_its_own_and_never_an_older_one_again() {
        let (events, sender, stored) = stored(Duration::ZERO);
        tokio::spawn(sender.run());
        for note in ["first", "second", "first"] {
            tell(&events, "a", note.to_owned());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let stored = stored.lock().unwrap();
        let notes: Vec<_> = stored.iter().map(|event| event["note"].clone()).collect();
        assert_eq!(notes, ["first", "second", "first"]);
    }

    // trap 25
    #[tokio::test(start_paused = true)]
    async fn a_binding_without_rest_costs_a_bounded_number_and_no_other_binding_any() {
        let (events, sender, stored) = stored(Duration::ZERO);
        tokio::spawn(sender.run());
        for second in 0..600 {
            tell(&events, "restless", second.to_string());
            if second % 200 == 0 {
                tell(&events, "calm", second.to_string());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let of = |uid: &str| {
            let stored = stored.lock().unwrap();
            let of = stored
                .iter()
                .filter(|event| event["regarding"]["uid"] == uid);
            of.count()
        };
        assert_eq!(of("calm"), 3);
        // Ten at once, and one in ten seconds.
        assert!((50..=75).contains(&of("restless")), "{}", of("restless"));
        assert_eq!(dropped(&events), 600 - of("restless"));
    }

    // trap 25
    #[tokio::test(start_paused = true)]
    async fn who_tells_never_waits_and_what_is_too_much_is_dropped_and_counted() {
        let (events, sender, stored) = stored(Duration::from_secs(5));
        for n in 0..WAITING + 100 {
            tell(&events, &n.to_string(), String::new());
        }
        assert_eq!(dropped(&events), 100);
        tokio::spawn(sender.run());
        tokio::time::sleep(Duration::from_secs(3600 * 2)).await;
        assert_eq!(stored.lock().unwrap().len(), WAITING);
    }

    #[test]
    fn the_prefix_of_the_name_is_one_that_the_api_server_takes() {
        // It refuses a prefix that ends in a dot, or has one before the hyphen.
        assert_eq!(prefix("worker"), "worker-");
        let cut_at_a_dot = format!("{}.b", "a".repeat(199));
        assert_eq!(prefix(&cut_at_a_dot), format!("{}-", "a".repeat(199)));
    }

    #[test]
    fn a_note_has_no_more_bytes_than_the_api_server_takes_in_whichever_language() {
        let note = |text: &str| made("web", text).note.unwrap();
        for letter in ["a", "я", "字", "🛒"] {
            let long = letter.repeat(1024);
            let cut = note(&long);
            assert!((990..=1024).contains(&cut.len()), "{letter}: {}", cut.len());
            assert!(long.starts_with(&cut), "{cut}");
        }
        assert_eq!(note("отказано"), "отказано");
    }
}
