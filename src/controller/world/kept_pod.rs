//! How is a Pod kept? There are far more of them than of anything else, so of nearly all
//! of them as much as two pointers: whose only address is one of IPv4, and which bear no
//! mark.

use std::net::{IpAddr, Ipv4Addr};

use crate::domain::pod::{Marks, PodView};

/// A Pod as it is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct KeptPod {
    /// Its first address, where that is of IPv4.
    first: Option<Ipv4Addr>,
    host_network: bool,
    terminating: bool,
    ready: bool,
    rare: Option<Box<Rare>>,
}

/// What few Pods have.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Rare {
    /// All other addresses.
    more: Box<[IpAddr]>,
    marks: Option<Box<Marks>>,
}

impl KeptPod {
    pub(super) fn of(pod: PodView) -> Self {
        let (first, more) = match &*pod.addresses {
            [IpAddr::V4(first), more @ ..] => (Some(*first), more),
            all => (None, all),
        };
        let is_rare = !more.is_empty() || pod.marks.is_some();
        Self {
            first,
            host_network: pod.host_network,
            terminating: pod.terminating,
            ready: pod.ready,
            rare: is_rare.then(|| {
                Box::new(Rare {
                    more: more.into(),
                    marks: pod.marks,
                })
            }),
        }
    }

    /// As it was when it was put away.
    pub(super) fn view(&self) -> PodView {
        let first = self.first.map(IpAddr::V4).into_iter();
        PodView {
            addresses: first.chain(self.more().iter().copied()).collect(),
            host_network: self.host_network,
            terminating: self.terminating,
            ready: self.ready,
            marks: self.marks().cloned().map(Box::new),
        }
    }

    fn more(&self) -> &[IpAddr] {
        self.rare.as_ref().map_or(&[], |rare| &rare.more)
    }

    /// What says that it is out of the mesh.
    pub(super) fn marks(&self) -> Option<&Marks> {
        self.rare.as_ref()?.marks.as_deref()
    }

    /// Whether it is the same to whoever checks it.
    pub(super) fn is_checked_as(&self, other: &Self) -> bool {
        self.first == other.first
            && self.more() == other.more()
            && self.host_network == other.host_network
            && self.terminating == other.terminating
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(addresses: &[&str]) -> PodView {
        PodView {
            addresses: addresses.iter().map(|of| of.parse().unwrap()).collect(),
            ..PodView::default()
        }
    }

    #[test]
    fn whatever_it_is_it_comes_out_as_it_was_put_away() {
        let marks = Some(Box::new(Marks {
            draining: Some("x".into()),
            ejected: None,
        }));
        for addresses in [
            &[][..],
            &["10.0.0.1"],
            &["fd00::1"],
            &["10.0.0.1", "fd00::1"],
            &["fd00::1", "10.0.0.1"],
            &["10.0.0.1", "10.0.0.2", "10.0.0.1"],
        ] {
            for n in 0..16 {
                let pod = PodView {
                    host_network: n & 1 > 0,
                    terminating: n & 2 > 0,
                    ready: n & 4 > 0,
                    marks: marks.clone().filter(|_| n & 8 > 0),
                    ..with(addresses)
                };
                let kept = KeptPod::of(pod.clone());
                assert_eq!(kept.marks(), pod.marks.as_deref());
                assert_eq!(kept.view(), pod);
            }
        }
    }

    #[test]
    fn it_is_checked_as_before_unless_its_addresses_or_its_end_say_otherwise() {
        let pod = with(&["10.0.0.1", "fd00::1"]);
        let same = PodView {
            ready: true,
            marks: Some(Box::default()),
            ..pod.clone()
        };
        let kept = |pod: &PodView| KeptPod::of(pod.clone());
        assert!(kept(&pod).is_checked_as(&kept(&same)));
        let host_network = PodView {
            host_network: true,
            ..pod.clone()
        };
        let terminating = PodView {
            terminating: true,
            ..pod.clone()
        };
        let others = [
            host_network,
            terminating,
            with(&["10.0.0.1"]),
            with(&["10.0.0.1", "fd00::2"]),
            with(&["10.0.0.2", "fd00::1"]),
            with(&["fd00::1", "10.0.0.1"]),
            with(&[]),
        ];
        for other in others {
            assert!(!kept(&pod).is_checked_as(&kept(&other)), "{other:?}");
        }
    }

    // trap 20
    #[test]
    fn of_most_pods_two_pointers_are_kept() {
        assert_eq!(size_of::<KeptPod>(), 2 * size_of::<usize>());
        assert!(KeptPod::of(with(&["10.0.0.1"])).rare.is_none());
    }
}
