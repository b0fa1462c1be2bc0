//! Which alerts fire where there are more than are sent?

use std::sync::Arc;

use super::value::{Alert, Firing, Subject};

/// Most alerts of services, and most of endpoints, that fire at once. Whoever
/// has more unhealthy endpoints than that is not helped by the rest.
pub(super) const MOST: usize = 10_000;

/// Those of `wanted` that fire, and how many are left out. Who fires already
/// goes before who is new: an alert that ends although nothing is better would
/// be a lie.
pub(super) fn admit(before: &Firing, wanted: impl IntoIterator<Item = Alert>) -> (Firing, usize) {
    let wanted = wanted.into_iter();
    let mut firing: Firing = wanted
        .map(|alert| (alert.subject(), Arc::new(alert)))
        .collect();
    let mut left_out = 0;
    for of_endpoints in [false, true] {
        let alike = |subject: &&Subject| subject.is_endpoint() == of_endpoints;
        let surplus = firing.keys().filter(alike).count().saturating_sub(MOST);
        let is_new = |subject: &&Subject| !before.contains_key(*subject);
        let new = firing.keys().rev().filter(alike).filter(is_new);
        for subject in new.take(surplus).cloned().collect::<Vec<_>>() {
            firing.remove(&subject);
            left_out += 1;
        }
    }
    (firing, left_out)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{endpoint, service};
    use super::*;

    fn endpoints(range: std::ops::Range<u32>) -> Vec<Alert> {
        range.map(endpoint).collect()
    }

    #[test]
    fn what_there_is_room_for_fires() {
        let (firing, left_out) = admit(&Firing::new(), [endpoint(1), endpoint(2), service()]);
        assert_eq!((firing.len(), left_out), (3, 0));
    }

    #[test]
    fn who_fires_already_goes_before_who_is_new() {
        let most = u32::try_from(MOST).unwrap();
        let (before, left_out) = admit(&Firing::new(), endpoints(5..most + 5));
        assert_eq!((before.len(), left_out), (MOST, 0));
        let (firing, left_out) = admit(&before, endpoints(0..most + 5));
        assert_eq!((firing.len(), left_out), (MOST, 5));
        assert!(before.keys().eq(firing.keys()));
    }

    #[test]
    fn endpoints_take_no_room_from_services() {
        let most = u32::try_from(MOST).unwrap();
        let (before, _) = admit(&Firing::new(), endpoints(0..most));
        let mut wanted = endpoints(0..most);
        wanted.push(service());
        let (firing, left_out) = admit(&before, wanted);
        assert_eq!((firing.len(), left_out), (MOST + 1, 0));
    }
}
