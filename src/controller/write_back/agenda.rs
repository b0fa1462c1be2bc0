//! Which service's report is next? Plain values with time as an argument.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

use crate::domain::names::CatalogServiceId;

/// How soon a report is wanted.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Lane {
    /// Something changed.
    News,
    /// Told because the catalog may have forgotten it, at a bounded rate.
    Again,
}

/// Time, and a number that keeps those of the same time apart.
type Place = (Instant, u64);

/// The services that are to be reported, each once.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    lanes: [BTreeMap<Place, CatalogServiceId>; 2],
    places: HashMap<CatalogServiceId, (Lane, Place)>,
    tickets: u64,
}

impl Agenda {
    /// Reports the service from then on; the sooner of two requests counts.
    pub(super) fn put(&mut self, id: &CatalogServiceId, lane: Lane, at: Instant) {
        let (mut lane, mut at) = (lane, at);
        if let Some((known, (time, _))) = self.take(id) {
            lane = lane.min(known);
            at = at.min(time);
        }
        self.tickets += 1;
        let place = (at, self.tickets);
        self.lanes[lane as usize].insert(place, id.clone());
        self.places.insert(id.clone(), (lane, place));
    }

    /// Takes the service off.
    pub(super) fn take(&mut self, id: &CatalogServiceId) -> Option<(Lane, Place)> {
        let (lane, place) = self.places.remove(id)?;
        self.lanes[lane as usize].remove(&place);
        Some((lane, place))
    }

    /// The first of the lane, and since when it is due.
    pub(super) fn first(&self, lane: Lane) -> Option<(Instant, &CatalogServiceId)> {
        let (place, id) = self.lanes[lane as usize].first_key_value()?;
        Some((place.0, id))
    }

    /// Those of the lane, and since when each is due.
    pub(super) fn iter(&self, lane: Lane) -> impl Iterator<Item = (Instant, &CatalogServiceId)> {
        let places = self.lanes[lane as usize].iter();
        places.map(|(place, id)| (place.0, id))
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Takes all off.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(text: &str) -> CatalogServiceId {
        CatalogServiceId::parse(text).unwrap()
    }

    #[test]
    fn a_service_stands_in_it_once_for_the_sooner_of_two_requests() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        agenda.put(&id("a"), Lane::Again, now);
        agenda.put(&id("a"), Lane::News, later);
        assert_eq!(agenda.len(), 1);
        assert_eq!(agenda.first(Lane::News), Some((now, &id("a"))));
        assert_eq!(agenda.first(Lane::Again), None);
    }

    #[test]
    fn of_two_that_are_due_the_one_that_waits_longer_is_first() {
        let (mut agenda, now) = (Agenda::default(), Instant::now());
        for name in ["b", "a", "c"] {
            agenda.put(&id(name), Lane::News, now);
        }
        assert_eq!(agenda.first(Lane::News), Some((now, &id("b"))));
        agenda.take(&id("b"));
        assert_eq!(agenda.first(Lane::News), Some((now, &id("a"))));
    }
}
