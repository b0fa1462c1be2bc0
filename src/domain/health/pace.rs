//! When may a Pod be written to? However much endpoints flap, the API server
//! and istiod are not to be the ones who suffer.
//!
//! 1. A Pod that left and came back, and is to be written to again before it was
//!    at rest for a while, flaps: however many do, and so however long each waits
//!    for its turn. Of the Pods of a service that flap one is written to every two
//!    seconds: statuses and Events are written besides, and all together are to be
//!    one a second.
//! 2. Any other one goes at once, so that a zone that dies is out of the mesh, and
//!    back in it, without delay; a service has a stock of such writes, which fills
//!    up again slowly enough for what is written besides.
//! 3. Whoever was written to longest ago is asked for first, so that none that
//!    flaps keeps the others waiting.
//! 4. A Pod behind several services goes when all of them let it.
//! 5. What the server refused since the Pod was another one by then does not make
//!    it flap: nothing was stored.
//!
//! Times count from any fixed moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::ejection::PodKey;
use crate::domain::names::BindingKey;

/// Time between two writes to Pods of a service that flap.
pub const GAP: Duration = Duration::from_secs(2);

/// Time in which a service's stock of other writes grows by one.
pub const REFILL: Duration = Duration::from_millis(1_500);

/// Writes to a Pod after which it flaps, if it wants another one: out, and back.
pub const FREE: u32 = 2;

/// How long nobody has asked to write to a Pod when it is at rest.
pub const RESTS: Duration = Duration::from_secs(30);

/// Writes at once to Pods of a service that do not flap.
pub const STOCK: u32 = 100;

/// Who was written to, and when.
#[derive(Debug, Default)]
pub struct Pace {
    pods: BTreeMap<PodKey, OfPod>,
    services: BTreeMap<BindingKey, OfService>,
}

/// A Pod that is not at rest.
#[derive(Clone, Copy, Debug)]
struct OfPod {
    /// The last write to it, and how many there were.
    last: Duration,
    writes: u32,
    /// When it was asked for last, whatever was said.
    asked: Duration,
}

impl OfPod {
    fn rests(&self, now: Duration) -> bool {
        self.asked + RESTS <= now
    }
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
        self.pods.get(pod).map(|pod| pod.last)
    }

    /// Takes a write to the Pod for these bindings, or says when it may be
    /// asked for again.
    pub fn take(
        &mut self,
        pod: &PodKey,
        bindings: &BTreeSet<BindingKey>,
        now: Duration,
    ) -> Result<(), Duration> {
        let known = self.pods.get_mut(pod).filter(|pod| !pod.rests(now));
        let writes = known.map_or(0, |pod| {
            pod.asked = now;
            pod.writes
        });
        let flaps = writes >= FREE;
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
        self.pods.retain(|_, pod| !pod.rests(now));
        self.services
            .retain(|_, service| service.full > now || service.last + GAP > now);
        for key in bindings {
            let service = self.services.entry(key.clone()).or_default();
            service.last = now;
            if !flaps {
                service.full = service.full.max(now) + REFILL;
            }
        }
        let written = OfPod {
            last: now,
            writes: writes.saturating_add(1),
            asked: now,
        };
        self.pods.insert(pod.clone(), written);
        Ok(())
    }

    /// Gives a write back that was taken and stored nothing. One that flaps had
    /// its turn all the same.
    pub fn give_back(&mut self, pod: &PodKey, bindings: &BTreeSet<BindingKey>) {
        let Some(of_pod) = self.pods.get_mut(pod) else {
            return;
        };
        of_pod.writes = of_pod.writes.saturating_sub(1);
        if of_pod.writes >= FREE {
            return;
        }
        for key in bindings {
            if let Some(service) = self.services.get_mut(key) {
                service.full = service.full.saturating_sub(REFILL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(n: u32) -> PodKey {
        ("shop".into(), format!("web-{n}").into())
    }

    fn bindings(names: &[&str]) -> BTreeSet<BindingKey> {
        let key = |name: &&str| BindingKey::new("shop", (*name).to_owned());
        names.iter().map(key).collect()
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// How many writes go through in each ten seconds of two minutes, where so many
    /// Pods change every 100 ms.
    fn by_ten_seconds(pods: u32) -> Vec<usize> {
        let mut pace = Pace::default();
        let web = bindings(&["web"]);
        let mut taken = vec![0; 12];
        for tick in 0..1_200 {
            let mut all: Vec<_> = (0..pods).map(pod).collect();
            all.sort_by_key(|pod| pace.written(pod));
            for pod in all {
                let took = pace.take(&pod, &web, ms(tick * 100)).is_ok();
                taken[usize::try_from(tick / 100).unwrap()] += usize::from(took);
            }
        }
        taken
    }

    #[test]
    fn a_service_whose_endpoints_flap_costs_a_write_every_two_seconds() {
        // Each goes and comes back once at once, and then they take turns, also
        // where those take longer than a Pod needs to be at rest.
        for pods in [1, 3, 20, 40] {
            let taken = by_ten_seconds(pods);
            let at_once = usize::try_from(pods * FREE).unwrap();
            assert!(taken[0] <= at_once + 5, "{pods}: {taken:?}");
            assert!(taken[1..].iter().all(|of| *of <= 5), "{pods}: {taken:?}");
            assert!(taken.iter().all(|of| *of >= 4), "{pods}: {taken:?}");
        }
        let taken = by_ten_seconds(1_000);
        assert!(taken[1..].iter().all(|of| *of <= 7), "{taken:?}");
    }

    #[test]
    fn one_that_was_at_rest_leaves_and_comes_back_at_once() {
        let mut pace = Pace::default();
        let web = bindings(&["web"]);
        for start in [0, 33_000, 64_000] {
            assert_eq!(pace.take(&pod(0), &web, ms(start)), Ok(()));
            assert_eq!(pace.take(&pod(0), &web, ms(start + 500)), Ok(()));
            let next = Err(ms(start + 2_500));
            assert_eq!(pace.take(&pod(0), &web, ms(start + 1_000)), next);
        }
    }

    #[test]
    fn all_that_were_left_alone_go_at_once() {
        let mut pace = Pace::default();
        let web = bindings(&["web"]);
        for n in 0..STOCK {
            assert_eq!(pace.take(&pod(n), &web, ms(5_000)), Ok(()), "{n}");
        }
        assert_eq!(pace.take(&pod(STOCK), &web, ms(5_000)), Err(ms(6_500)));
        assert_eq!(pace.take(&pod(STOCK), &web, ms(6_500)), Ok(()));
    }

    #[test]
    fn one_service_does_not_slow_down_another_unless_a_pod_is_behind_both() {
        let mut pace = Pace::default();
        let (web, api) = (bindings(&["web"]), bindings(&["api"]));
        let both = bindings(&["web", "api"]);
        for n in [0, 0, 1, 1] {
            assert_eq!(pace.take(&pod(n), &bindings(&["other"]), ms(0)), Ok(()));
        }
        assert_eq!(pace.take(&pod(0), &web, ms(0)), Ok(()));
        assert_eq!(pace.take(&pod(0), &web, ms(500)), Err(ms(2_000)));
        assert_eq!(pace.take(&pod(1), &api, ms(500)), Ok(()));
        assert_eq!(pace.take(&pod(1), &both, ms(1_200)), Err(ms(2_500)));
        assert_eq!(pace.take(&pod(1), &both, ms(2_500)), Ok(()));
        assert_eq!(pace.take(&pod(0), &web, ms(3_000)), Err(ms(4_500)));
    }

    #[test]
    fn a_write_that_changed_nothing_does_not_count() {
        let mut pace = Pace::default();
        let web = bindings(&["web"]);
        // Neither of the Pod, nor of the service's stock.
        for _ in 0..2 * STOCK {
            assert_eq!(pace.take(&pod(0), &web, ms(0)), Ok(()));
            pace.give_back(&pod(0), &web);
        }
        for n in 1..=STOCK {
            assert_eq!(pace.take(&pod(n), &web, ms(0)), Ok(()), "{n}");
        }
        assert_eq!(pace.take(&pod(0), &web, ms(0)), Err(ms(1_500)));
        // One that flaps had its turn.
        let mut pace = Pace::default();
        for _ in 0..FREE {
            assert_eq!(pace.take(&pod(0), &web, ms(0)), Ok(()));
        }
        assert_eq!(pace.take(&pod(0), &web, ms(2_000)), Ok(()));
        pace.give_back(&pod(0), &web);
        assert_eq!(pace.take(&pod(0), &web, ms(2_000)), Err(ms(4_000)));
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
