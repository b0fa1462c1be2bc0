//! Alerts for the tests of this module.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use jiff::Timestamp;

use super::value::{Alert, Service, What};
use crate::domain::health::judge::Failure;
use crate::domain::names::{BindingKey, CatalogServiceId, Namespace, ServiceKey, ServiceName};

pub(super) fn web() -> Arc<Service> {
    Arc::new(Service {
        cluster: None,
        service: ServiceKey {
            namespace: Namespace::parse("shop").unwrap(),
            name: ServiceName::parse("web").unwrap(),
        },
        catalog_service_id: CatalogServiceId::parse("svc-1").unwrap(),
        binding: BindingKey::new("teams", "web-binding"),
    })
}

/// The alert of an endpoint, another one for each number.
pub(super) fn endpoint(number: u32) -> Alert {
    let address = Ipv4Addr::from(0x0a00_0000 + number);
    Alert {
        service: web(),
        since: Timestamp::from_second(1_000).unwrap(),
        what: What::Endpoint {
            pod: format!("web-{number}"),
            address: SocketAddr::from((address, 8080)),
            failure: Failure::Refused,
            out: false,
        },
    }
}

/// The same one after its Pod was taken out.
pub(super) fn taken_out(mut alert: Alert) -> Alert {
    if let What::Endpoint { out, .. } = &mut alert.what {
        *out = true;
    }
    alert
}

pub(super) fn service() -> Alert {
    Alert {
        service: web(),
        since: Timestamp::from_second(1_000).unwrap(),
        what: What::Service {
            healthy: 1,
            judged: 4,
        },
    }
}
