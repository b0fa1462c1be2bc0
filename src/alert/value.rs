//! What is an alert, and which two are the same one? Plain values.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;

use crate::domain::health::judge::Failure;
use crate::domain::names::{BindingKey, CatalogServiceId, ClusterId, ServiceKey};

/// A bound service, as the labels of its alerts name it. One that differs in
/// anything has other alerts.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Service {
    /// The cluster that it runs in, where that is known.
    pub cluster: Option<ClusterId>,
    /// Which Service it is.
    pub service: ServiceKey,
    /// Which entry of the catalog.
    pub catalog_service_id: CatalogServiceId,
    /// Which binding brings the two together.
    pub binding: BindingKey,
}

/// Something that is to be known outside of the cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alert {
    /// Whom it is about.
    pub service: Arc<Service>,
    /// Since when it is so.
    pub since: Timestamp,
    /// What is so.
    pub what: What,
}

/// What an alert says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum What {
    /// The service as a whole is unhealthy.
    Service {
        /// How many of its endpoints answer.
        healthy: u32,
        /// Of how many that were judged.
        judged: u32,
    },
    /// An endpoint of it is unhealthy.
    Endpoint {
        /// Name of its Pod, in the namespace of the Service.
        pod: String,
        /// Where it is.
        address: SocketAddr,
        /// How its check failed.
        failure: Failure,
        /// Whether its Pod was taken out of the mesh.
        out: bool,
    },
}

/// By what an Alertmanager knows one alert from another. Whatever else an
/// alert says may change while it fires.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Subject {
    service: Arc<Service>,
    endpoint: Option<(SocketAddr, String)>,
}

/// Those that fire.
pub(super) type Firing = BTreeMap<Subject, Arc<Alert>>;

impl Alert {
    pub(super) fn subject(&self) -> Subject {
        Subject {
            service: Arc::clone(&self.service),
            endpoint: match &self.what {
                What::Service { .. } => None,
                What::Endpoint { pod, address, .. } => Some((*address, pod.clone())),
            },
        }
    }
}

impl Subject {
    /// Whether it is an endpoint, and not a service as a whole.
    pub(super) fn is_endpoint(&self) -> bool {
        self.endpoint.is_some()
    }
}
