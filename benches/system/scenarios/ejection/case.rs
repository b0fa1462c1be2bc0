//! Who dies, how, and how long may that take? A Service of three endpoints, of
//! which one fails in its own way.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::seen::DRAINING;
use crate::support::endpoint::{Endpoint, HEALTH, TLS_PORT, Trouble};
use crate::support::rig::Rig;
use crate::support::workload::{Workload, ZONES, make_pod, set_pod_ready};

/// How long a request may take.
pub(super) const LIMIT: Duration = Duration::from_secs(2);

/// Which of the three endpoints fails.
const BAD: usize = 1;

/// How an endpoint is checked, and how long it may serve on when it has failed.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) interval: Duration,
    timeout: Duration,
    most_after_a_hang: Duration,
    most_otherwise: Duration,
}

/// As the example has it, and a quick one.
pub(super) static SETTINGS: [Setting; 2] = [
    Setting {
        name: "10 s, 3 s",
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(3),
        most_after_a_hang: Duration::from_secs(22),
        most_otherwise: Duration::from_secs(13),
    },
    Setting {
        name: "1 s, 300 ms",
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(300),
        most_after_a_hang: Duration::from_secs(4),
        most_otherwise: Duration::from_secs(4),
    },
];

impl Setting {
    /// The longest from the failure to the last request that it served.
    pub(super) fn most_served(&self, kind: &Kind) -> Duration {
        if kind.hangs {
            self.most_after_a_hang
        } else {
            self.most_otherwise
        }
    }

    /// The longest until one that has healed serves again.
    pub(super) fn most_back(&self) -> Duration {
        2 * self.interval + Duration::from_secs(1)
    }
}

/// A way to fail.
pub(super) struct Kind {
    pub(super) name: &'static str,
    trouble: Trouble,
    /// Whether nothing comes back, so that each check lasts until its timeout.
    hangs: bool,
}

const fn at_once(name: &'static str, trouble: Trouble) -> Kind {
    Kind {
        name,
        trouble,
        hangs: false,
    }
}

const fn hang(name: &'static str, trouble: Trouble) -> Kind {
    Kind {
        name,
        trouble,
        hangs: true,
    }
}

pub(super) static KINDS: [Kind; 10] = [
    at_once("refuses", Trouble::Refused),
    at_once("resets", Trouble::Reset),
    at_once("answers 500", Trouble::Status(500)),
    at_once("answers 404", Trouble::Status(404)),
    at_once("answers no HTTP", Trouble::NoHttp),
    at_once("breaks TLS", Trouble::BrokenTls),
    hang("hangs", Trouble::Hang),
    hang("sends a slow head", Trouble::SlowHead),
    hang("is half open", Trouble::HalfOpen),
    hang("is stopped", Trouble::Stopped),
];

/// A Service, of which one endpoint dies.
pub(super) struct Case {
    pub(super) setting: &'static Setting,
    pub(super) kind: &'static Kind,
    service: Workload,
    endpoints: Vec<Endpoint>,
}

impl Case {
    /// Service, Pods and endpoints, all ready.
    pub(super) async fn make(
        rig: &Rig,
        namespace: &str,
        number: usize,
        setting: &'static Setting,
        kind: &'static Kind,
    ) -> Result<Self> {
        let endpoints = (0..3).map(|place| endpoint(rig, place, kind.trouble));
        let case = Self {
            setting,
            kind,
            service: rig
                .workload(namespace, &format!("web-{number}"), &[])
                .await?,
            endpoints: try_join_all(endpoints).await?,
        };
        let pods = case.pods();
        for (place, endpoint) in case.endpoints.iter().enumerate() {
            let (app, name) = (case.name(), case.pod(place));
            make_pod(&pods, &app, &name, ZONES[place % ZONES.len()]).await?;
            set_pod_ready(&pods, &name, endpoint.address(), true).await?;
        }
        case.service.wait_for_endpoints(3).await?;
        Ok(case)
    }

    pub(super) fn name(&self) -> String {
        self.service.name.clone()
    }

    pub(super) fn host(&self) -> String {
        self.service.host()
    }

    pub(super) fn pods(&self) -> Api<Pod> {
        self.service.pods_api()
    }

    fn pod(&self, place: usize) -> String {
        format!("{}-{place}", self.service.name)
    }

    /// The Pod of the endpoint that fails.
    pub(super) fn bad_pod(&self) -> String {
        self.pod(BAD)
    }

    /// Its address.
    pub(super) fn bad(&self) -> String {
        self.endpoints[BAD].address().to_string()
    }

    pub(super) async fn fail(&self) -> Result<()> {
        self.endpoints[BAD].fail(self.kind.trouble).await
    }

    pub(super) async fn recover(&self) -> Result<()> {
        self.endpoints[BAD].recover().await
    }

    /// Labels its Pod as somebody else would, or takes the label away.
    pub(super) async fn label(&self, value: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"labels": {DRAINING: value}}}));
        let params = PatchParams::default();
        self.pods().patch(&self.bad_pod(), &params, &patch).await?;
        Ok(())
    }

    /// The Service's entry in the catalog. Envoy tries nothing again, so that
    /// each failure shows.
    pub(super) fn record(&self) -> Value {
        let mut check = json!({
            "endpoint": HEALTH,
            "interval": format!("{}ms", self.setting.interval.as_millis()),
            "timeout": format!("{}ms", self.setting.timeout.as_millis()),
        });
        if self.kind.trouble == Trouble::BrokenTls {
            check["scheme"] = json!("HTTPS");
            check["port"] = json!(TLS_PORT);
        }
        json!({
            "id": self.service.name,
            "name": self.service.name,
            "namespace": self.service.namespace,
            "healthCheck": check,
            "timeout": format!("{}s", LIMIT.as_secs()),
            "retries": 0,
            "loadBalancing": {"simple": "ROUND_ROBIN"},
        })
    }
}

/// One that can be in that trouble.
async fn endpoint(rig: &Rig, place: usize, trouble: Trouble) -> Result<Endpoint> {
    let address = rig.addresses.next()?;
    match trouble {
        Trouble::Stopped if place == BAD => Endpoint::process(rig.folder(), address).await,
        Trouble::BrokenTls => Endpoint::start(address).await?.with_tls(&rig.pki).await,
        _ => Endpoint::start(address).await,
    }
}
