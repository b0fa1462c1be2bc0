//! Which values a policy may hold at all. No IO.
//!
//! [`TABLE`] is the whole of it; an operator can narrow it by a flag, as in
//! `timeout=1ms..10s,retries=0..5`, and never widen it.

use std::fmt;
use std::str::FromStr;

use crate::domain::duration::{DurationError, Millis};
use crate::domain::names::shown;

/// What a bound is for. The order is that of [`TABLE`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// A whole request.
    Timeout,
    /// One attempt.
    PerTryTimeout,
    /// Attempts after the first.
    Retries,
    /// Time between two checks or sweeps.
    Interval,
    /// One health check.
    CheckTimeout,
    /// The repetition of a failed check.
    ConfirmInterval,
    /// Consecutive good or bad answers.
    Threshold,
    /// Time out of the mesh.
    EjectionTime,
    /// Shares of a whole.
    Percent,
    /// Connections, requests, retries.
    PoolSize,
    /// Opening a connection.
    ConnectTimeout,
    /// Idle connections.
    IdleTimeout,
    /// Entries in a hash ring.
    RingSize,
    /// Lifetime of a cookie.
    CookieTtl,
    /// Slow start.
    Warmup,
    /// Exponent of the slow start.
    Aggression,
    /// TCP ports.
    Port,
}

/// How the numbers of a row are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// A plain number.
    Count,
    /// A duration; the row counts milliseconds.
    Time,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Row {
    /// What it is for.
    pub limit: Limit,
    /// Its name in the flag and in the documentation.
    pub name: &'static str,
    /// How its numbers are written.
    pub unit: Unit,
    /// Smallest value.
    pub low: u64,
    /// Largest value.
    pub high: u64,
    /// The fields that it holds for.
    pub fields: &'static str,
}

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// Largest number of a pool; Istio counts in 31 bits.
const MOST: u64 = i32::MAX as u64;

/// Envoy refuses a larger ring, and with it the whole cluster.
const LARGEST_RING: u64 = 8 * 1_024 * 1_024;

#[rustfmt::skip]
const fn row(limit: Limit, name: &'static str, unit: Unit, low: u64, high: u64, fields: &'static str) -> Row {
    Row { limit, name, unit, low, high, fields }
}

/// The bounds. A binding's percentages begin at 1 besides.
#[rustfmt::skip]
pub const TABLE: [Row; 17] = [
    row(Limit::Timeout,         "timeout",         Unit::Time,  1,   HOUR,         "timeout"),
    row(Limit::PerTryTimeout,   "perTryTimeout",   Unit::Time,  1,   HOUR,         "retries.perTryTimeout"),
    row(Limit::Retries,         "retries",         Unit::Count, 0,   100,          "retries, retries.attempts"),
    row(Limit::Interval,        "interval",        Unit::Time,  100, HOUR,         "circuitBreaker.interval, healthCheck.interval"),
    row(Limit::CheckTimeout,    "checkTimeout",    Unit::Time,  1,   HOUR,         "healthCheck.timeout"),
    row(Limit::ConfirmInterval, "confirmInterval", Unit::Time,  10,  HOUR,         "healthCheck.confirmInterval"),
    row(Limit::Threshold,       "threshold",       Unit::Count, 1,   100,          "circuitBreaker.consecutiveErrors, healthCheck.failureThreshold, healthCheck.successThreshold"),
    row(Limit::EjectionTime,    "ejectionTime",    Unit::Time,  1,   DAY,          "circuitBreaker.baseEjectionTime"),
    row(Limit::Percent,         "percent",         Unit::Count, 0,   100,          "circuitBreaker.maxEjectionPercent, loadBalancing.warmup.minimumPercent"),
    row(Limit::PoolSize,        "poolSize",        Unit::Count, 1,   MOST,         "connectionPool.tcp.maxConnections, connectionPool.http.{http1MaxPendingRequests,http2MaxRequests,maxRequestsPerConnection,maxRetries}"),
    row(Limit::ConnectTimeout,  "connectTimeout",  Unit::Time,  1,   HOUR,         "connectionPool.tcp.connectTimeout"),
    row(Limit::IdleTimeout,     "idleTimeout",     Unit::Time,  0,   30 * DAY,     "connectionPool.tcp.idleTimeout (0s is for ever), connectionPool.http.idleTimeout (from 1ms)"),
    row(Limit::RingSize,        "ringSize",        Unit::Count, 1,   LARGEST_RING, "loadBalancing.consistentHash.minimumRingSize"),
    row(Limit::CookieTtl,       "cookieTtl",       Unit::Time,  0,   365 * DAY,    "loadBalancing.consistentHash.httpCookie.ttl (0s is a session cookie)"),
    row(Limit::Warmup,          "warmup",          Unit::Time,  1,   DAY,          "loadBalancing.warmup.duration"),
    row(Limit::Aggression,      "aggression",      Unit::Count, 1,   100,          "loadBalancing.warmup.aggression"),
    row(Limit::Port,            "port",            Unit::Count, 1,   65_535,       "healthCheck.port"),
];

/// A smallest and a largest value, both allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Range {
    /// Smallest.
    pub low: u64,
    /// Largest.
    pub high: u64,
    /// How they are written.
    pub unit: Unit,
}

impl Range {
    /// Whether the value is allowed.
    pub fn holds(&self, value: u64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// The value, or the nearest that is allowed. Defaults follow a narrowed
    /// table this way.
    pub fn nearest(&self, value: u64) -> u64 {
        value.clamp(self.low, self.high)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Count => write!(f, "{}..{}", self.low, self.high),
            Unit::Time => write!(f, "{}..{}", Millis(self.low), Millis(self.high)),
        }
    }
}

/// [`TABLE`] as the operator narrowed it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bounds {
    ranges: [Range; TABLE.len()],
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            ranges: TABLE.map(|row| Range {
                low: row.low,
                high: row.high,
                unit: row.unit,
            }),
        }
    }
}

impl Bounds {
    /// What is allowed for this.
    pub fn range(&self, limit: Limit) -> Range {
        self.ranges[limit as usize]
    }
}

/// Why a text does not narrow the bounds.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BoundsError {
    /// Not `name=low..high`.
    #[error("{0} is not a bound; write it like timeout=1ms..10s or retries=0..5")]
    Syntax(String),
    /// No such row.
    #[error("there is no bound {0}; there are {names}", names = names())]
    Name(String),
    /// The same row twice.
    #[error("the bound {0} is given twice")]
    Twice(&'static str),
    /// A limit that is no duration.
    #[error("bound {name}: {error}")]
    Time {
        /// The row.
        name: &'static str,
        /// What is wrong.
        error: DurationError,
    },
    /// A limit that is no number.
    #[error("bound {name}: {shown} is not a whole number")]
    Number {
        /// The row.
        name: &'static str,
        /// The text.
        shown: String,
    },
    /// Wider than the table, or nothing between low and high.
    #[error(
        "bound {name}: {low}..{high} is empty or not within {built_in}, which can only be narrowed"
    )]
    Range {
        /// The row.
        name: &'static str,
        /// Its lower end as given.
        low: String,
        /// Its upper end as given.
        high: String,
        /// The table's range.
        built_in: String,
    },
}

fn names() -> String {
    TABLE.map(|row| row.name).join(", ")
}

impl FromStr for Bounds {
    type Err = BoundsError;

    /// Reads `timeout=1ms..10s,retries=0..5`; an empty text narrows nothing.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bounds = Self::default();
        let mut seen = [false; TABLE.len()];
        if text.trim().is_empty() {
            return Ok(bounds);
        }
        for item in text.split(',') {
            let (name, low, high) =
                parts(item.trim()).ok_or_else(|| BoundsError::Syntax(shown(item)))?;
            let (at, row) = TABLE
                .iter()
                .enumerate()
                .find(|(_, row)| row.name == name)
                .ok_or_else(|| BoundsError::Name(shown(name)))?;
            if std::mem::replace(&mut seen[at], true) {
                return Err(BoundsError::Twice(row.name));
            }
            let built_in = bounds.ranges[at];
            let narrowed = Range {
                low: number(row, low)?,
                high: number(row, high)?,
                unit: row.unit,
            };
            if narrowed.low > narrowed.high
                || !built_in.holds(narrowed.low)
                || !built_in.holds(narrowed.high)
            {
                return Err(BoundsError::Range {
                    name: row.name,
                    low: low.to_owned(),
                    high: high.to_owned(),
                    built_in: built_in.to_string(),
                });
            }
            bounds.ranges[at] = narrowed;
        }
        Ok(bounds)
    }
}

fn parts(item: &str) -> Option<(&str, &str, &str)> {
    let (name, range) = item.split_once('=')?;
    let (low, high) = range.split_once("..")?;
    Some((name, low, high))
}

fn number(row: &Row, text: &str) -> Result<u64, BoundsError> {
    match row.unit {
        Unit::Time => {
            Millis::parse(text)
                .map(|millis| millis.0)
                .map_err(|error| BoundsError::Time {
                    name: row.name,
                    error,
                })
        }
        Unit::Count => text.parse().map_err(|_| BoundsError::Number {
            name: row.name,
            shown: shown(text),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_has_no_empty_row() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.limit as usize, at, "{}", row.name);
            assert!(row.low < row.high, "{}", row.name);
        }
    }

    #[test]
    fn a_flag_narrows_the_rows_that_it_names() {
        let bounds: Bounds = "timeout=10ms..10s, retries=0..5".parse().unwrap();
        assert_eq!(
            bounds.range(Limit::Timeout),
            Range {
                low: 10,
                high: 10_000,
                unit: Unit::Time
            }
        );
        assert_eq!(
            bounds.range(Limit::Retries),
            Range {
                low: 0,
                high: 5,
                unit: Unit::Count
            }
        );
        assert_eq!(
            bounds.range(Limit::Port),
            Bounds::default().range(Limit::Port)
        );
        assert_eq!("".parse(), Ok(Bounds::default()));
    }

    #[test]
    fn every_row_can_be_given_as_it_is_shown() {
        let text = TABLE.map(|row| format!("{}={}", row.name, Bounds::default().range(row.limit)));
        assert_eq!(text.join(",").parse(), Ok(Bounds::default()));
    }

    #[test]
    fn a_flag_that_does_not_narrow_says_why() {
        for (text, part) in [
            ("timeout", "write it like"),
            ("timeout=1s", "write it like"),
            ("timeout=1s..2s,,", "write it like"),
            ("speed=1..2", "there are timeout, perTryTimeout"),
            ("retries=0..5,retries=0..4", "twice"),
            ("timeout=1..2s", "not a duration"),
            ("retries=0..x", "whole number"),
            ("retries=0..-1", "whole number"),
            ("retries=5..4", "empty"),
            ("retries=0..101", "only be narrowed"),
            ("timeout=0s..1s", "only be narrowed"),
        ] {
            let message = text.parse::<Bounds>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }
}
