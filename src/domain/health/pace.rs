//! When may a Pod be written to? However much endpoints flap, the API server
//! and istiod are not to be the ones who suffer.
//!
//! 1. A Pod that was written to a short while ago flaps. Of the Pods of a
//!    service that flap one is written to every two seconds: statuses and
//!    Events are written besides, and all together are to be one a second.
//! 2. One that was left alone goes at once, so that a zone that dies is out of
//!    the mesh without delay; a service has a stock of such writes, which fills
//!    up again by one in a second.
//! 3. Whoever was written to longest ago is asked for first, so that none that
//!    flaps keeps the others waiting.
//! 4. A Pod behind several services goes when all of them let it.
//!
//! Times count from any fixed moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ejection::PodKey;
use crate::domain::names::BindingKey;

/// Time between two writes to Pods of a service that flap.
pub const GAP: Duration = Duration::from_secs(2);

/// Time in which a service's stock of other writes grows by one.
pub const REFILL: Duration = Duration::from_secs(1);

/// How long after a write to it a Pod counts as flapping.
pub const FLAPS: Duration = Duration::from_secs(10);

/// Writes at once to Pods of a service that were left alone.
pub const STOCK: u32 = 100;

/// Who was written to, and when.
#[derive(Debug, Default)]
pub struct Pace {
    pods: BTreeMap<PodKey, Duration>,
    services: BTreeMap<BindingKey, OfService>,
}

#[derive(Clone, Copy, Debug, Default)]
struct OfService {
    /// The last write to a Pod that flaps, or to any other.
    last: Duration,
    /// When the stock will be full again.
    full: Duration,
}

impl Pace {
    /// When the Pod was written to last, if that is not long ago: who comes
    /// first by this is asked for first.
    pub fn written(&self, pod: &PodKey) -> Option<Duration> {
        self.pods.get(pod).copied()
    }

    /// Takes a write to the Pod for these bindings, or says when it may be
    /// asked for again.
    pub fn take(
        &mut self,
        pod: &PodKey,
        bindings: &BTreeSet<BindingKey>,
        now: Duration,
    ) -> Result<(), Duration> {
        let flaps = self.pods.get(pod).is_some_and(|at| *at + FLAPS > now);
        let room = REFILL * STOCK;
        let known = bindings.iter().filter_map(|key| self.services.get(key));
        let free = known.map(|service| {
            if flaps {
                service.last + GAP
            } else {
                (service.full + REFILL).saturating_sub(room)
            }
        });
        if let Some(at) = free.max().filter(|at| *at > now) {
            return Err(at);
        }
        self.pods.retain(|_, at| *at + FLAPS > now);
        self.services
            .retain(|_, service| service.full > now || service.last + GAP > now);
        for key in bindings {
            let service = self.services.entry(key.clone()).or_default();
            service.last = now;
            if !flaps {
                service.full = service.full.max(now) + REFILL;
            }
        }
        self.pods.insert(pod.clone(), now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(n: u32) -> PodKey {
        ("shop".to_owned(), format!("web-{n}"))
    }

    fn bindings(names: &[&str]) -> BTreeSet<BindingKey> {
        let key = |name: &&str| BindingKey {
            namespace: "shop".to_owned(),
            name: (*name).to_owned(),
        };
        names.iter().map(key).collect()
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// How many writes go through in a minute, where so many Pods change every
    /// 100 ms.
    fn in_a_minute(pods: u32) -> usize {
        let mut pace = Pace::default();
        let web = bindings(&["web"]);
        let mut taken = 0;
        for tick in 0..600 {
            let mut all: Vec<_> = (0..pods).map(pod).collect();
            all.sort_by_key(|pod| pace.written(pod));
            for pod in all {
                taken += usize::from(pace.take(&pod, &web, ms(tick * 100)).is_ok());
            }
        }
        taken
    }

    #[test]
    fn a_service_whose_endpoints_flap_costs_a_write_every_two_seconds() {
        assert_eq!(in_a_minute(1), 30);
        // Each goes once at once, and then they take turns.
        let three = in_a_minute(3);
        assert!((30..=33).contains(&three), "{three}");
        let many = in_a_minute(1_000);
        assert!(many <= 100 + 60 + 30, "{many}");
    }

    #[test]
    fn all_that_were_left_alone_go_at_once() {
        let mut pace = Pace::default();
        let web = bindings(&["web"]);
        for n in 0..STOCK {
            assert_eq!(pace.take(&pod(n), &web, ms(5_000)), Ok(()), "{n}");
        }
        assert_eq!(pace.take(&pod(STOCK), &web, ms(5_000)), Err(ms(6_000)));
        assert_eq!(pace.take(&pod(STOCK), &web, ms(6_000)), Ok(()));
    }

    #[test]
    fn one_service_does_not_slow_down_another_unless_a_pod_is_behind_both() {
        let mut pace = Pace::default();
        let (web, api) = (bindings(&["web"]), bindings(&["api"]));
        let both = bindings(&["web", "api"]);
        assert_eq!(pace.take(&pod(0), &web, ms(0)), Ok(()));
        assert_eq!(pace.take(&pod(0), &web, ms(500)), Err(ms(2_000)));
        assert_eq!(pace.take(&pod(1), &api, ms(500)), Ok(()));
        assert_eq!(pace.take(&pod(1), &both, ms(1_200)), Err(ms(2_500)));
        assert_eq!(pace.take(&pod(1), &both, ms(2_500)), Ok(()));
        assert_eq!(pace.take(&pod(0), &web, ms(3_000)), Err(ms(4_500)));
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut pace = Pace::default();
        for n in 0..50 {
            let _ = pace.take(&pod(n), &bindings(&["web"]), ms(u64::from(n)));
        }
        assert_eq!(pace.take(&pod(0), &bindings(&["api"]), ms(200_000)), Ok(()));
        assert_eq!((pace.pods.len(), pace.services.len()), (1, 1));
    }
}
