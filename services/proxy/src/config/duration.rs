//! Lengths of time, written `3s`, `1h30m` or `7d`.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serializer;

use super::value::Value;

/// The units from the largest, in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses whole numbers with units, each unit at most once and the larger ones first; `0` needs no unit.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut units, mut total) = (text, &UNITS[..], 0_u64);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let (unit, next) = after.split_at(after.bytes().take_while(u8::is_ascii_lowercase).count());
        let at = units.iter().position(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(units[at].1)?)?;
        (rest, units) = (next, &units[at + 1..]);
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// Returns the shortest text that [`parse`] reads as `duration`; what is below a millisecond is dropped.
pub(super) fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, length) in UNITS {
        if left >= length {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{unit}", left / length);
            left %= length;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Reads a length of at most `most` seconds.
pub(super) fn at_most(value: &Value, most: u64) -> Result<Duration, String> {
    let expected = || value.expected("a length of time such as 500ms, 3s, 1h30m or 7d");
    let duration = value.text().and_then(parse).ok_or_else(expected)?;
    let most = Duration::from_secs(most);
    if duration <= most { Ok(duration) } else { Err(value.expected(&format!("at most {}", format(most)))) }
}

/// Writes the text form.
pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}
