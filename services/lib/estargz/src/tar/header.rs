//! [`RawHeader`]: one 512-byte block as fields.

use super::{BLOCK, TarError};

/// A header block's fields, before pax and GNU records.
#[derive(Debug, Clone)]
pub(super) struct RawHeader {
    pub(super) name: Vec<u8>,
    pub(super) link_name: Vec<u8>,
    pub(super) user_name: Vec<u8>,
    pub(super) group_name: Vec<u8>,
    pub(super) flag: u8,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    pub(super) device: (i64, i64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Gnu,
    Ustar,
    Star,
}

impl RawHeader {
    /// Parses a block whose first byte lies at `at` in the plain tar.
    pub(super) fn parse(block: &[u8; BLOCK], at: u64) -> Result<Self, TarError> {
        if !checksum_matches(block) {
            return Err(TarError::corrupt(format!("tar header at {at} has a wrong checksum")));
        }
        let number = |what: &str, from: usize, to: usize| {
            numeric(&block[from..to])
                .ok_or_else(|| TarError::corrupt(format!("tar header at {at} has a malformed {what}")))
        };
        let format = format(block);
        let mut header = Self {
            name: text(&block[..100]).to_vec(),
            link_name: text(&block[157..257]).to_vec(),
            user_name: Vec::new(),
            group_name: Vec::new(),
            flag: block[156],
            mode: number("mode", 100, 108)?,
            uid: number("uid", 108, 116)?,
            gid: number("gid", 116, 124)?,
            size: number("size", 124, 136)?,
            mtime: number("mtime", 136, 148)?,
            device: (0, 0),
        };
        if format == Format::V7 {
            return Ok(header);
        }
        header.user_name = text(&block[265..297]).to_vec();
        header.group_name = text(&block[297..329]).to_vec();
        header.device = (number("device", 329, 337)?, number("device", 337, 345)?);
        let prefix = match format {
            Format::V7 => &[][..],
            Format::Ustar => text(&block[345..500]),
            Format::Star => text(&block[345..476]),
            Format::Gnu => gnu_prefix(block),
        };
        if !prefix.is_empty() {
            header.name = [prefix, b"/", &header.name].concat();
        }
        Ok(header)
    }
}

/// GNU headers have times where ustar has the prefix; old writers put a prefix there all the same.
fn gnu_prefix(block: &[u8; BLOCK]) -> &[u8] {
    let is_time = |field: &[u8]| field[0] == 0 || numeric(field).is_some();
    if is_time(&block[345..357]) && is_time(&block[357..369]) {
        return &[];
    }
    let prefix = text(&block[345..500]);
    if prefix.is_ascii() { prefix } else { &[] }
}

fn format(block: &[u8; BLOCK]) -> Format {
    match (&block[257..263], &block[263..265]) {
        (b"ustar\0", _) if block[508..512] == *b"tar\0" => Format::Star,
        (b"ustar\0", _) => Format::Ustar,
        (b"ustar ", b" \0") => Format::Gnu,
        _ => Format::V7,
    }
}

/// Both sums are in use: of unsigned and of signed bytes.
fn checksum_matches(block: &[u8; BLOCK]) -> bool {
    let Some(expected) = octal(&block[148..156]) else { return false };
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (i, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    expected == unsigned || expected == signed
}

/// Returns the bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// Parses an octal number, or a base-256 one if the first bit is set.
fn numeric(field: &[u8]) -> Option<i64> {
    let &first = field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let invert = if first & 0x40 != 0 { 0xff } else { 0 };
    let mut value = 0u64;
    for (i, &byte) in field.iter().enumerate() {
        let byte = (byte ^ invert) & if i == 0 { 0x7f } else { 0xff };
        if value >> 56 > 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if invert == 0 { value } else { !value })
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let from = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let to = field.iter().rposition(|b| !blank(b)).map_or(from, |i| i + 1);
    let digits = text(&field[from..to]);
    if digits.is_empty() {
        return Some(0);
    }
    digits.iter().try_fold(0i64, |value, &b| {
        let digit = (b'0'..=b'7').contains(&b).then(|| i64::from(b - b'0'))?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_parse_as_go_parses_them() {
        for (field, value) in [
            (&b"0000755\0"[..], Some(0o755)),
            (b"   12 \0\0", Some(0o12)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"00000008", None),
            (b"1\x002\0\0\0\0\0", Some(1)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0", None),
        ] {
            assert_eq!(numeric(field), value, "{field:?}");
        }
    }
}
