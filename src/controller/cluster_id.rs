//! Who is this cluster, towards the catalog? What a flag says, or the uid of
//! kube-system, which lives as long as the cluster does.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;

use super::apply::in_time;
use super::error::brief;
use crate::domain::names::ClusterId;
use crate::domain::retry;

/// The namespace whose uid is the cluster's.
const KUBE_SYSTEM: &str = "kube-system";

/// The cluster's identity, once it is known.
#[derive(Debug)]
pub struct Identity(watch::Sender<Option<ClusterId>>);

impl Identity {
    /// What was given, or nothing as yet.
    pub fn new(given: Option<ClusterId>) -> Self {
        Self(watch::Sender::new(given))
    }

    /// The identity, if it is known. Nothing was reported as long as it is not.
    pub fn known(&self) -> Option<ClusterId> {
        self.0.borrow().clone()
    }

    /// Reads it from the cluster where it was not given; tries until it is
    /// there.
    pub async fn settle(&self, client: &Client) -> ClusterId {
        if let Some(known) = self.known() {
            return known;
        }
        let namespaces = Api::<Namespace>::all(client.clone());
        let mut failures = 0;
        loop {
            let why = match in_time(namespaces.get(KUBE_SYSTEM)).await {
                Ok(namespace) => {
                    let uid = namespace.metadata.uid.unwrap_or_default();
                    match ClusterId::parse(&uid) {
                        Ok(id) => {
                            self.0.send_replace(Some(id.clone()));
                            return id;
                        }
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            failures += 1;
            tracing::warn!(
                error = brief(&why),
                "cannot read namespace {KUBE_SYSTEM}, whose uid names this cluster towards the catalog: nothing is reported until then; grant the operator its rights, or give --cluster-id"
            );
            sleep(retry::WATCH.delay(failures, fastrand::f64())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::{Body, ClientBuilder};
    use serde_json::json;
    use tower::BoxError;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_the_uid_of_kube_system_however_long_that_takes_to_read() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/kube-system");
            let first = count.fetch_add(1, Ordering::Relaxed) < 3;
            let answer = if first {
                Response::builder().status(403).body(Body::from(
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403})
                        .to_string()
                        .into_bytes(),
                ))
            } else {
                Response::builder().body(Body::from(
                    json!({"metadata": {"name": "kube-system", "uid": "0c7a-1"}})
                        .to_string()
                        .into_bytes(),
                ))
            };
            async move { Ok::<_, BoxError>(answer.unwrap()) }
        });
        let client = ClientBuilder::new(service, "default").build();
        let identity = Identity::new(None);
        assert_eq!(identity.known(), None);
        assert_eq!(identity.settle(&client).await.as_str(), "0c7a-1");
        assert_eq!(identity.known().unwrap().as_str(), "0c7a-1");
        assert_eq!(asked.load(Ordering::Relaxed), 4);
        identity.settle(&client).await;
        assert_eq!(asked.load(Ordering::Relaxed), 4, "it is read once");
    }

    #[tokio::test]
    async fn one_that_was_given_is_not_read() {
        let never = tower::service_fn(|_: Request<Body>| async {
            Err::<Response<Body>, BoxError>("asked".into())
        });
        let client = ClientBuilder::new(never, "default").build();
        let given = ClusterId::parse("east").unwrap();
        let identity = Identity::new(Some(given.clone()));
        assert_eq!(identity.settle(&client).await, given);
    }
}
