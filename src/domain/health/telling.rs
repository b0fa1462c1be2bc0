//! When is it said that the health of a service is another one? At once if
//! nothing was said for a while, and then not more often than every few seconds:
//! a service that flaps is not to keep the API server busy.

use std::time::Duration;

/// How long a change waits for what follows from it, so that both are said
/// together: an endpoint that is unhealthy is out of the mesh a moment later.
pub const SETTLES: Duration = Duration::from_millis(300);

/// Time between two of what is said.
pub const GAP: Duration = Duration::from_secs(6);

/// What was said of a service, and what is to be said. Times count from any
/// fixed moment.
#[derive(Clone, Debug)]
pub struct Telling<T> {
    said: Option<(T, Duration)>,
    next: Option<(T, Duration)>,
}

impl<T> Default for Telling<T> {
    fn default() -> Self {
        Self {
            said: None,
            next: None,
        }
    }
}

impl<T: PartialEq> Telling<T> {
    /// It is this now.
    pub fn is(&mut self, value: T, now: Duration) {
        if self.said.as_ref().is_some_and(|(said, _)| *said == value) {
            self.next = None;
            return;
        }
        let since = self.next.take().map_or(now, |(_, since)| since);
        self.next = Some((value, since));
    }

    /// When it is to be said.
    pub fn due(&self) -> Option<Duration> {
        let (_, since) = self.next.as_ref()?;
        let settled = *since + SETTLES;
        let free = self.said.as_ref().map(|(_, at)| *at + GAP);
        Some(free.map_or(settled, |free| free.max(settled)))
    }

    /// Says it, if it is due: what was said before, which is nothing the first
    /// time, and what is said now.
    pub fn say(&mut self, now: Duration) -> Option<(Option<T>, &T)> {
        self.due().filter(|due| *due <= now)?;
        let (value, _) = self.next.take()?;
        let before = self.said.take().map(|(before, _)| before);
        let (value, _) = self.said.insert((value, now));
        Some((before, value))
    }

    /// What was said last.
    pub fn said(&self) -> Option<&T> {
        self.said.as_ref().map(|(said, _)| said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_change_is_said_as_soon_as_it_has_settled() {
        let mut telling = Telling::default();
        telling.is(1, ms(0));
        telling.is(2, ms(200));
        assert_eq!(telling.say(ms(299)), None);
        assert_eq!(telling.say(ms(300)), Some((None, &2)));
        assert_eq!(telling.said(), Some(&2));
        telling.is(3, ms(60_000));
        assert_eq!(telling.due(), Some(ms(60_300)));
        assert_eq!(telling.say(ms(60_300)), Some((Some(2), &3)));
    }

    #[test]
    fn what_is_as_it_was_said_is_not_said_again() {
        let mut telling = Telling::default();
        telling.is(1, ms(0));
        assert!(telling.say(ms(300)).is_some());
        telling.is(2, ms(20_000));
        telling.is(1, ms(20_100));
        assert_eq!(telling.due(), None);
    }

    #[test]
    fn what_flaps_is_said_every_few_seconds_and_its_last_state_is_said() {
        let mut telling = Telling::default();
        let mut said = Vec::new();
        for tenth in 0..600 {
            let now = ms(tenth * 100);
            let value = if tenth < 550 { tenth / 5 % 2 } else { 7 };
            telling.is(value, now);
            if let Some((_, value)) = telling.say(now) {
                said.push((now, *value));
            }
        }
        assert!(said.len() <= 11, "{said:?}");
        let gaps = said.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.clone().all(|gap| gap >= GAP), "{said:?}");
        assert_eq!(telling.said(), Some(&7));
    }
}
