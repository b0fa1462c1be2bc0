//! Durations as people write them: Go's text to whole milliseconds and back.
//!
//! Istio takes whole milliseconds only, so finer ones are refused here, where
//! the message can name the field. No IO.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::names::shown;

/// A duration in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Millis(pub u64);

/// Go, in which Istio and Kubernetes read durations, counts nanoseconds in 63
/// bits: about 292 years.
const LONGEST: u64 = i64::MAX as u64 / 1_000_000;

/// No duration that anybody means is longer than this as text.
const LONGEST_TEXT: usize = 32;

/// Why a text is not a duration that we can use.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DurationError {
    /// Not Go's syntax.
    #[error("{0} is not a duration; write it like 30s, 1m30s or 500ms")]
    Syntax(String),
    /// Below zero.
    #[error("{0} is negative; a duration counts from 0s upwards")]
    Negative(String),
    /// Not a whole number of milliseconds.
    #[error("{0} is finer than a millisecond; the mesh takes whole milliseconds only")]
    TooFine(String),
    /// More than Go can count.
    #[error("{0} is longer than the 292 years that the mesh can count")]
    TooLong(String),
}

impl Millis {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }

    /// The same for the standard library.
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// Reads `30s`, `1m30s`, `1.5s`, `500ms`; `0s` is a duration too.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        if text.starts_with('-') {
            return Err(DurationError::Negative(shown(text)));
        }
        if text.is_empty() || text.len() > LONGEST_TEXT {
            return Err(DurationError::Syntax(shown(text)));
        }
        let mut total = 0_u64;
        let mut rest = text;
        while !rest.is_empty() {
            let is_number = |c: char| c.is_ascii_digit() || c == '.';
            let (number, tail) = rest.split_at(rest.find(|c| !is_number(c)).unwrap_or(rest.len()));
            let (unit, tail) = tail.split_at(tail.find(is_number).unwrap_or(tail.len()));
            rest = tail;
            total = part(number, unit)
                .map_err(|kind| kind(shown(text)))?
                .checked_add(total)
                .filter(|total| *total <= LONGEST)
                .ok_or_else(|| DurationError::TooLong(shown(text)))?;
        }
        Ok(Self(total))
    }
}

/// One number with its unit, as in `1.5h`, in milliseconds.
fn part(number: &str, unit: &str) -> Result<u64, fn(String) -> DurationError> {
    let scale: u64 = match unit {
        "h" => 3_600_000,
        "m" => 60_000,
        "s" => 1_000,
        "ms" => 1,
        "us" | "µs" | "μs" | "ns" => return Err(DurationError::TooFine),
        _ => return Err(DurationError::Syntax),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(DurationError::Syntax);
    }
    let whole: u64 = whole
        .parse()
        .map_err(|_| DurationError::TooLong as fn(String) -> _)?;
    let whole = whole
        .checked_mul(scale)
        .ok_or(DurationError::TooLong as fn(String) -> _)?;
    let fraction = fraction_of(fraction.trim_end_matches('0'), scale);
    let fraction = fraction.ok_or(DurationError::TooFine as fn(String) -> _)?;
    whole.checked_add(fraction).ok_or(DurationError::TooLong)
}

/// The digits behind the point as a part of `scale`, where that is whole. The
/// digits have no trailing zero, so more of them than a unit has places cannot
/// come out whole.
fn fraction_of(digits: &str, scale: u64) -> Option<u64> {
    if digits.is_empty() {
        return Some(0);
    }
    let base = 10_u64.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let scaled = digits.parse::<u64>().ok()?.checked_mul(scale)?;
    scaled.is_multiple_of(base).then_some(scaled / base)
}

impl fmt::Display for Millis {
    /// `<n>s` where it is whole seconds, else `<n>ms`: both are read by Istio
    /// and by Kubernetes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            write!(f, "{}s", self.0 / 1_000)
        } else {
            write!(f, "{}ms", self.0)
        }
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_in_whole_milliseconds_are_read() {
        for (text, millis) in [
            ("0s", 0),
            ("1ms", 1),
            ("500ms", 500),
            ("1.5s", 1_500),
            ("0.001s", 1),
            ("1.50000s", 1_500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("0.5h", 1_800_000),
            ("1h0.25m2s3ms", 3_617_003),
            ("0.0001m", 6),
            ("2562047h", 2_562_047 * 3_600_000),
        ] {
            assert_eq!(Millis::parse(text), Ok(Millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_as_what_it_is() {
        for text in [
            "", "30", "s", "30 s", " 30s", "30s ", "1.s", ".5s", "1..5s", "5d", "1e3s", "+1s",
            "30S", "३s", "∞",
        ] {
            assert!(
                matches!(Millis::parse(text), Err(DurationError::Syntax(_))),
                "{text:?}"
            );
        }
        for text in ["0.5ms", "1us", "1µs", "1000ns", "1.0001s", "0.00001m"] {
            assert!(
                matches!(Millis::parse(text), Err(DurationError::TooFine(_))),
                "{text:?}"
            );
        }
        for text in [
            "2562048h",
            "99999999999999999999s",
            "18446744073709551615h",
            "9223372036854ms1ms",
        ] {
            assert!(
                matches!(Millis::parse(text), Err(DurationError::TooLong(_))),
                "{text:?}"
            );
        }
        assert!(matches!(
            Millis::parse("-1s"),
            Err(DurationError::Negative(_))
        ));
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        for millis in [0, 1, 999, 1_000, 1_500, 60_000, 3_600_001, LONGEST] {
            assert_eq!(
                Millis::parse(&Millis(millis).to_string()),
                Ok(Millis(millis))
            );
        }
        assert_eq!(Millis(1_500).to_string(), "1500ms");
        assert_eq!(Millis(90_000).to_string(), "90s");
    }

    #[test]
    fn an_endless_text_stays_out_of_the_message() {
        let message = Millis::parse(&"9".repeat(1_000_000))
            .unwrap_err()
            .to_string();
        assert!(message.len() < 300, "{message}");
    }
}
