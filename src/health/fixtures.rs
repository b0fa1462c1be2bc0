//! Values that the unit tests of the prober start from.

use std::time::Duration;

use super::target::{Ask, Check, Scheme};
use crate::domain::health::judge::Thresholds;
use crate::domain::names::{Namespace, ServiceKey, ServiceName};

/// As bindings have it by default: every 10 s, 3 s time, 3 failures.
pub(super) fn check() -> Check {
    Check {
        ask: Ask {
            scheme: Scheme::Http,
            path: "/health".to_owned(),
            host: "web.shop.svc.cluster.local".to_owned(),
            timeout: Duration::from_secs(3),
        },
        thresholds: Thresholds {
            failures: 3,
            successes: 2,
            interval: Duration::from_secs(10),
            confirm: Duration::from_secs(1),
        },
    }
}

/// `shop/<name>`.
pub(super) fn service(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: Namespace::parse("shop").unwrap(),
        name: ServiceName::parse(name).unwrap(),
    }
}
