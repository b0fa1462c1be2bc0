//! Durations as Go writes them, in whole milliseconds. No IO.

/// Milliseconds in each unit, largest first, and the most that may stand
/// behind a larger unit.
const UNITS: [(&str, u64, u64); 4] = [
    ("h", 3_600_000, 0),
    ("m", 60_000, 59),
    ("s", 1_000, 59),
    ("ms", 1, 999),
];

/// The milliseconds of a text such as `30s`, `1m30s` or `500ms`, if it is one
/// that has no zero in front and no unit out of order.
pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0u64;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic());
        let unit = &tail[..letters.unwrap_or(tail.len())];
        rest = &tail[unit.len()..];
        let leading = units.len() == UNITS.len();
        let (_, scale, most) = units.by_ref().find(|(name, _, _)| *name == unit)?;
        if number.len() > 12
            || (number.starts_with('0') && (leading || number != "0" || unit == "ms"))
        {
            return None;
        }
        let number: u64 = number.parse().ok()?;
        if !leading && number > *most {
            return None;
        }
        total = total.checked_add(number.checked_mul(*scale)?)?;
    }
    (total > 0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::milliseconds;

    #[test]
    fn go_text_in_whole_milliseconds_is_read() {
        for (text, expected) in [
            ("1ms", 1),
            ("500ms", 500),
            ("30s", 30_000),
            ("90s", 90_000),
            ("1m0s", 60_000),
            ("1m30s", 90_000),
            ("1s500ms", 1_500),
            ("1h0m0s", 3_600_000),
        ] {
            assert_eq!(milliseconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "0s",
            "0ms",
            "30",
            "s",
            "-1s",
            "+1s",
            "1.5s",
            "1us",
            "030s",
            "1s1m",
            "1m60s",
            "1s1s",
            "1m0ms",
            "1s1000ms",
            "1 s",
            "1S",
            "٣s",
            "9999999999999h",
        ] {
            assert_eq!(milliseconds(text), None, "{text:?}");
        }
    }
}
