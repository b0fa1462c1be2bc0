//! Who is labelled, and whom does Envoy have? One who looks for all, so that
//! looking does not cost what is measured.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::case::Case;
use crate::support::envoy::Envoy;

pub(super) const DRAINING: &str = "istio.io/draining";

/// How often is looked.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// How long is waited for anything of one endpoint.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// What the last look saw.
#[derive(Default)]
pub(super) struct Seen {
    /// Pods with the label.
    labelled: HashSet<String>,
    /// Addresses of the endpoints that Envoy has, also of those that it leaves
    /// out itself.
    in_envoy: HashSet<String>,
}

impl Seen {
    /// Whether the endpoint that fails is labelled.
    pub(super) fn labelled(&self, case: &Case) -> bool {
        self.labelled.contains(&case.bad_pod())
    }

    /// Whether Envoy has it.
    pub(super) fn in_envoy(&self, case: &Case) -> bool {
        self.in_envoy.contains(&case.bad())
    }
}

/// Whoever looks.
pub(super) struct Sight<'a> {
    envoy: &'a Envoy,
    pods: Api<Pod>,
    seen: watch::Sender<Arc<Seen>>,
}

impl<'a> Sight<'a> {
    pub(super) fn of(envoy: &'a Envoy, pods: Api<Pod>) -> Self {
        Self {
            envoy,
            pods,
            seen: watch::Sender::default(),
        }
    }

    /// Looks again and again; ends only where that fails.
    pub(super) async fn keep(&self) -> Result<()> {
        let mut pace = interval(LOOK);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            self.seen.send_replace(Arc::new(self.look().await?));
        }
    }

    async fn look(&self) -> Result<Seen> {
        let labelled = ListParams::default().labels(DRAINING);
        let labelled = async { anyhow::Ok(self.pods.list_metadata(&labelled).await?) };
        let (labelled, page) = tokio::try_join!(labelled, self.envoy.admin("clusters"))?;
        let endpoint = |line: &str| {
            let (rest, _) = line.split_once("::health_flags::")?;
            let (_, address) = rest.strip_prefix("outbound|")?.rsplit_once("::")?;
            Some(address.split_once(':')?.0.to_owned())
        };
        Ok(Seen {
            labelled: labelled.iter().map(|pod| pod.name_any()).collect(),
            in_envoy: page.lines().filter_map(endpoint).collect(),
        })
    }

    /// Waits until it is seen to be so.
    pub(super) async fn until(&self, is_so: impl Fn(&Seen) -> bool) -> Result<()> {
        let mut seen = self.seen.subscribe();
        // What was seen before this call is not news.
        seen.borrow_and_update();
        let waited = timeout(PATIENCE, async {
            loop {
                seen.changed().await?;
                if is_so(&seen.borrow_and_update()) {
                    return anyhow::Ok(());
                }
            }
        });
        waited.await.context("waited in vain")?
    }
}
