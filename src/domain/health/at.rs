//! When was it? A time on the wall as it is kept of each endpoint several times.

use jiff::Timestamp;

/// A time on the wall, as nanoseconds since 1970: half the size of a [`Timestamp`]. What
/// is after the year 2262 counts as its end.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct At(i64);

impl At {
    /// The same to be written or reckoned with.
    pub fn timestamp(self) -> Timestamp {
        // All that fits is one.
        Timestamp::from_nanosecond(self.0.into()).unwrap_or(Timestamp::MAX)
    }
}

impl From<Timestamp> for At {
    fn from(time: Timestamp) -> Self {
        let nanos = time.as_nanosecond();
        let most = if nanos < 0 { i64::MIN } else { i64::MAX };
        Self(i64::try_from(nanos).unwrap_or(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_to_the_nanosecond_and_one_that_does_not_fit_as_near_as_can_be() {
        let now: Timestamp = "2026-11-28T08:15:30.123456789Z".parse().unwrap();
        for time in [
            now,
            Timestamp::UNIX_EPOCH,
            "1969-12-31T23:59:59.5Z".parse().unwrap(),
        ] {
            assert_eq!(At::from(time).timestamp(), time);
        }
        let year = |time: Timestamp| At::from(time).timestamp().to_string()[..4].to_owned();
        assert_eq!(year(Timestamp::MAX), "2262");
        assert!(
            At::from(Timestamp::MIN) < At::from(now) && At::from(now) < At::from(Timestamp::MAX)
        );
        assert_eq!(size_of::<At>(), 8);
    }
}
