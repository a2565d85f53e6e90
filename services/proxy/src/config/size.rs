//! [`ByteSize`] and [`MinFree`]: amounts of bytes.

use std::fmt;

use serde::{Serialize, Serializer};

use super::value::Value;

/// A number of bytes; written `1MiB`, `20GiB`, `5MB` or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// What must stay free on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinFree {
    /// Hundredths of a per cent of its size, 0 to 10 000.
    BasisPoints(u16),
    /// Bytes.
    Bytes(ByteSize),
}

/// Binary units first: writing uses the largest that divides, and only these.
const UNITS: [(&str, u64); 10] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
    ("", 1),
];

// === impl ByteSize ===

impl ByteSize {
    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Parses a whole number and a unit: B, KiB, MiB, GiB, TiB (powers of 1024), KB, MB, GB, TB (powers
    /// of 1000), or none for bytes. Returns `None` for all else and above [`u64::MAX`].
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, factor) = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
        Some(Self(number.parse::<u64>().ok()?.checked_mul(*factor)?))
    }

    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let number = || value.number(0, i64::MAX.cast_unsigned()).ok().map(Self);
        let size = value.text().map_or_else(number, Self::parse);
        size.ok_or_else(|| value.expected("a size such as 64KiB, 1MiB or 20GiB"))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS[..4].iter().find(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

// === impl MinFree ===

impl MinFree {
    /// Returns the bytes that must stay free on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            // At most `total`, so it fits.
            Self::BasisPoints(points) => (u128::from(total) * u128::from(points.min(10_000)) / 10_000) as u64,
            Self::Bytes(size) => size.bytes(),
        }
    }

    /// Parses `10%`, `2.5%`, or a size.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(percent) = text.strip_suffix('%') else { return ByteSize::parse(text).map(Self::Bytes) };
        let (whole, fraction) = percent.trim().split_once('.').unwrap_or((percent.trim(), "0"));
        let valid = |digits: &str, most: usize| {
            (1..=most).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
        };
        if !valid(whole, 3) || !valid(fraction, 2) {
            return None;
        }
        let hundredths = fraction.parse::<u16>().ok()? * if fraction.len() == 1 { 10 } else { 1 };
        let points = u32::from(whole.parse::<u16>().ok()?) * 100 + u32::from(hundredths);
        u16::try_from(points).ok().filter(|points| *points <= 10_000).map(Self::BasisPoints)
    }

    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let expected = || value.expected("a part such as 10% or a size such as 5GiB");
        value.text().map_or_else(|| ByteSize::read(value).ok().map(Self::Bytes), Self::parse).ok_or_else(expected)
    }
}

impl fmt::Display for MinFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(size) => size.fmt(f),
            Self::BasisPoints(points) if points % 100 == 0 => write!(f, "{}%", points / 100),
            Self::BasisPoints(points) => write!(f, "{}.{:02}%", points / 100, points % 100),
        }
    }
}

impl Serialize for MinFree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
