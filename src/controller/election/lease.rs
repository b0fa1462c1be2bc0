//! The Lease as the API server keeps it: what it says, and the requests that
//! read and change it, each with a deadline and none of them repeated.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::core::ObjectMeta;
use kube::{Api, Client};

use crate::controller::audit;
use crate::controller::clock::Clock;
use crate::controller::error::{brief, chain};
use crate::domain::election::{Record, Said};
use crate::domain::labels::{ANNOTATION_EPOCH, LABEL_MANAGED_BY, MANAGER, PREFIX};

/// Seconds that one watch lives.
const WATCH_TIMEOUT: u32 = 200;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The Lease is no longer as we saw it, or no longer there.
    #[error("somebody else changed it")]
    Conflict,
    /// The server will not have what we wanted to store.
    #[error("{0}")]
    Invalid(String),
    /// Anything else. It may have been carried out.
    #[error("{0}")]
    Unknown(String),
}

/// Why the Lease is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Why {
    /// It is free.
    Claimed,
    /// The term goes on.
    Renewed,
    /// Something is noted for the next leader, or the term gets a number.
    Noted,
    /// It is let go of.
    Released,
}

impl Why {
    fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Renewed => "renewed",
            Self::Noted => "noted",
            Self::Released => "released",
        }
    }
}

/// Where the Lease is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The requests.
pub(super) struct Requests {
    api: Api<Lease>,
    place: Place,
    attempt: Duration,
    clock: Arc<dyn Clock>,
}

impl Requests {
    pub(super) fn new(
        client: Client,
        place: Place,
        attempt: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, &place.namespace),
            place,
            attempt,
            clock,
        }
    }

    /// The Lease, if there is one.
    pub(super) async fn read(&self) -> Result<Option<Lease>, Failure> {
        self.in_time(self.api.get_opt(&self.place.name)).await
    }

    /// Stores the Lease: over the one that it was read as, if it was, and
    /// where there is none otherwise.
    pub(super) async fn store(&self, lease: &Lease, why: Why) -> Result<Lease, Failure> {
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let (verb, answer) = if lease.metadata.uid.is_none() {
            let created = self.api.create(&params, lease);
            ("create", self.answer(created).await)
        } else {
            // The server creates a Lease that is not there, whatever the
            // version; the uid in it is what keeps it from that.
            let put = self.api.replace(&self.place.name, &params, lease);
            ("update", self.answer(put).await)
        };
        let write = audit::Write {
            verb,
            kind: "Lease",
            namespace: &self.place.namespace,
            name: &self.place.name,
            binding: None,
            reason: why.as_str(),
        };
        match why {
            Why::Renewed => write.ended_as_ever(&answer),
            Why::Claimed | Why::Noted | Why::Released => write.ended(&answer),
        }
        answer.map_err(|error| self.failure(&error))
    }

    /// What becomes of the Lease after that version; `None` is its deletion.
    pub(super) async fn watch(
        &self,
        version: &str,
    ) -> Result<BoxStream<'static, Result<Option<Lease>, Failure>>, Failure> {
        let params = WatchParams {
            bookmarks: false,
            ..WatchParams::default()
                .fields(&format!("metadata.name={}", self.place.name))
                .timeout(WATCH_TIMEOUT)
        };
        let events = self.in_time(self.api.watch(&params, version)).await?;
        let seen = |event| match event {
            WatchEvent::Added(lease) | WatchEvent::Modified(lease) => Ok(Some(lease)),
            WatchEvent::Deleted(_) => Ok(None),
            WatchEvent::Bookmark(_) => Err(Failure::Unknown("an unexpected bookmark".to_owned())),
            WatchEvent::Error(status) => Err(Failure::Unknown(brief(&status.message))),
        };
        let failed = |error: kube::Error| Failure::Unknown(chain(&error));
        Ok(events
            .map_err(failed)
            .and_then(move |event| std::future::ready(seen(event)))
            .boxed())
    }

    async fn in_time<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        let answer = self.answer(request).await;
        answer.map_err(|error| self.failure(&error))
    }

    /// The answer, or that there was none in time.
    async fn answer<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        tokio::select! {
            biased;
            answer = request => answer,
            () = self.clock.wait(self.attempt) => {
                let message = format!("the API server did not answer within {:?}", self.attempt);
                Err(kube::Error::Service(message.into()))
            }
        }
    }

    fn failure(&self, error: &kube::Error) -> Failure {
        let kube::Error::Api(status) = error else {
            return Failure::Unknown(chain(error));
        };
        let message = brief(&status.message);
        match status.code {
            // 404: a server that does not create by PUT says so.
            404 | 409 => Failure::Conflict,
            400 | 413 | 422 => Failure::Invalid(message),
            403 => Failure::Unknown(format!(
                "{message}; apply rbac/, and see that --own-namespace ({}) is the namespace of its Role",
                self.place.namespace
            )),
            _ => Failure::Unknown(message),
        }
    }

    /// A Lease that nobody has stored yet.
    pub(super) fn blank(&self) -> Lease {
        let labels = [("app", MANAGER), (LABEL_MANAGED_BY, MANAGER)];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Lease {
            metadata: ObjectMeta {
                namespace: Some(self.place.namespace.clone()),
                name: Some(self.place.name.clone()),
                labels: Some(BTreeMap::from(labels)),
                ..ObjectMeta::default()
            },
            spec: None,
        }
    }
}

/// What the Lease says.
pub(super) fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.map(u64::try_from);
    let epoch = lease.metadata.annotations.as_ref();
    let epoch = epoch.and_then(|all| all.get(ANNOTATION_EPOCH));
    Record {
        uid: lease.metadata.uid.clone().unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        said: Said {
            holder: spec.holder_identity.unwrap_or_default(),
            duration: seconds.and_then(Result::ok).map(Duration::from_secs),
            acquired: spec.acquire_time.map(|time| time.0),
            renewed: spec.renew_time.map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or_default(),
            epoch: epoch.and_then(|text| text.parse().ok()).unwrap_or_default(),
        },
    }
}

/// Makes the Lease say this, and leaves what else it holds as it is.
pub(super) fn write(lease: &mut Lease, said: Said) {
    let seconds = said.duration.map(|duration| duration.as_secs());
    let spec = lease.spec.take().unwrap_or_default();
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(said.holder),
        lease_duration_seconds: seconds.and_then(|seconds| i32::try_from(seconds).ok()),
        acquire_time: said.acquired.map(MicroTime),
        renew_time: said.renewed.map(MicroTime),
        lease_transitions: Some(said.transitions),
        ..spec
    });
    annotate(lease, ANNOTATION_EPOCH, said.epoch.to_string());
}

/// Notes that under this name.
pub(super) fn note(lease: &mut Lease, name: &str, value: String) {
    annotate(lease, &format!("{PREFIX}{name}"), value);
}

fn annotate(lease: &mut Lease, key: &str, value: String) {
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(key.to_owned(), value);
}

/// All that leaders have noted.
pub(super) fn notes(lease: &Lease) -> BTreeMap<String, String> {
    let annotations = lease.metadata.annotations.iter().flatten();
    let ours = annotations.filter(|(key, _)| *key != ANNOTATION_EPOCH);
    ours.filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value.clone())))
        .collect()
}
